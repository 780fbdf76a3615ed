//! `notify:` whom messages go to.

use super::*;

fn to(text: &str) -> To {
    Tree::with(&[("agent.yaml", &format!("notify: [{{ to: {{ {text} }} }}]\n"))]).config().host.notify.remove(0).to
}

#[test]
fn each_destination_names_what_it_needs() {
    for (text, expected) in [
        (
            "dingtalk: { url_file: /u, secret_file: /s }",
            To::DingTalk { url_file: "/u".into(), secret_file: Some("/s".into()) },
        ),
        ("feishu: { url_file: /u }", To::Feishu { url_file: "/u".into(), secret_file: None }),
        ("wecom: { url_file: /u }", To::WeCom { url_file: "/u".into() }),
        ("discord: { url_file: /u }", To::Discord { url_file: "/u".into() }),
        ("teams: { url_file: /u, bare_card: true }", To::Teams { url_file: "/u".into(), bare_card: true }),
        (
            "telegram: { token_file: /t, chat: -100200, topic: 7 }",
            To::Telegram {
                url: "https://api.telegram.org".into(),
                token_file: "/t".into(),
                chat: "-100200".into(),
                topic: Some(7),
            },
        ),
        (
            "pagerduty: { routing_key_file: /k }",
            To::PagerDuty { url: "https://events.pagerduty.com/v2/enqueue".into(), routing_key_file: "/k".into() },
        ),
        (
            "alertmanager: { url: \"http://a:9093/am/\", user: unwait, password_file: /p }",
            To::Alertmanager {
                url: "http://a:9093/am".into(),
                login: Some(Login { user: "unwait".into(), password_file: "/p".into() }),
            },
        ),
    ] {
        assert_eq!(to(text), expected, "{text}");
    }
}

#[test]
fn secrets_of_destinations_are_looked_at_before_the_start() {
    let text = "notify: [{ to: { feishu: { url_file: /u, secret_file: /s } } }, { to: { telegram: { token_file: /t, chat: \"@ops\" } } }]\n";
    let secrets = Tree::with(&[("agent.yaml", text)]).config().host.secrets;
    let files: Vec<_> = secrets.iter().map(|(path, _)| path.display().to_string()).collect();
    assert_eq!(files, ["/u", "/s", "/t"]);
}

#[test]
fn destinations_of_a_kind_are_numbered() {
    let text = "notify: [{ to: { wecom: { url_file: /a } } }, { to: { wecom: { url_file: /b } } }, { to: { teams: { url_file: /c } } }]\n";
    let host = Tree::with(&[("agent.yaml", text)]).config().host;
    assert_eq!(host.notify.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["wecom", "wecom-2", "teams"]);
}

#[test]
fn a_wrong_destination_says_all_of_it() {
    let wrong = |text: &str| Tree::with(&[("agent.yaml", text)]).wrong();
    for (text, says) in [
        (
            "notify:\n- to: { telegram: { chat: ops } }\n- to: { dingtalk: {} }\n- to: { alertmanager: { user: me } }\n",
            vec![
                "agent.yaml:2:9 `token_file` is missing: add `token_file: ${CREDENTIALS_DIRECTORY}/NAME`",
                "agent.yaml:2:27 expected a chat's number, such as -1001234567890, or @channel; found \"ops\"",
                "agent.yaml:3:9 `url_file` is missing: add `url_file: ${CREDENTIALS_DIRECTORY}/NAME`",
                "agent.yaml:4:9 `url` is missing: add `url: http://127.0.0.1:9093`",
                "agent.yaml:4:25 a user needs a password: add `password_file: PATH`",
            ],
        ),
        (
            "notify: [{ to: { wecom: { url: \"https://qyapi/?key=hush\" } } }]\n",
            vec!["agent.yaml:1:27 unknown key `url`: did you mean `url_file`?"],
        ),
        (
            "notify: [{ to: { pagerduty: { routing_key_file: /k, url: events.pagerduty.com } } }]\n",
            vec!["agent.yaml:1:58 expected a URL such as http://127.0.0.1:8500"],
        ),
    ] {
        assert_eq!(wrong(text), says, "{text}");
    }
}
