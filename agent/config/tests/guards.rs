//! What a policy says of its guards.

use std::time::Duration;

use super::diagnostics::expect;
use super::*;
use crate::model::alerts::AlertSelector;
use crate::model::policy::VetoCommand;

#[test]
fn calm_and_veto_are_read_with_their_defaults() {
    let guards = |guards: &str| {
        let config = Tree::with(&[("policies/p.yaml", &format!("{POLICY}guards: {guards}\n"))]).config();
        config.policies[0].guards.clone()
    };
    assert_eq!((guards("{}").calm, guards("{}").veto), (None, None));
    assert_eq!(guards("{ calm: 10m }").calm, Some(Duration::from_secs(600)));
    let argv = vec!["/usr/local/bin/may-act".into(), "trade".into()];
    let veto = VetoCommand { argv, deadline: Duration::from_secs(10) };
    assert_eq!(guards("{ veto: { exec: [/usr/local/bin/may-act, trade] } }").veto, Some(veto));
}

#[test]
fn who_knows_the_alerts_is_asked_with_a_watchdog_unless_none_is_wanted() {
    let selector = |text: &str| AlertSelector::parse(text).unwrap();
    let prometheus = |more: &str| {
        let host = format!("prometheus: {{ url: \"http://127.0.0.1:9090/\"{more} }}\n");
        let policy = format!("{POLICY}guards: {{ alerts: ['team=\"web\"'] }}\n");
        let config = Tree::with(&[("agent.yaml", &host), ("policies/p.yaml", &policy)]).config();
        assert_eq!(config.policies[0].guards.alerts, [selector("team=\"web\"")]);
        config.host.prometheus.unwrap()
    };
    let told = prometheus("");
    assert_eq!(told.urls, ["http://127.0.0.1:9090"]);
    assert_eq!(told.watchdog, Some(selector("alertname=\"Watchdog\"")));
    assert_eq!(prometheus(", watchdog: none").watchdog, None);
    assert_eq!(prometheus(", watchdog: 'a=\"b\"'").watchdog, Some(selector("a=\"b\"")));
    expect(
        "agent.yaml",
        "prometheus: { token_file: /t, user: ann, password_file: /p, watchdog: DeadMan }\n",
        &[
            "1:1 `url` is missing: add `url: \"http://127.0.0.1:9090\"`",
            "1:15 expected a token, or a user with a password: remove one of them",
            "1:71 expected matchers such as severity=\"critical\", alertname!=\"CloseWaitLeak\": after `DeadMan` comes =, !=, \
             =~ or !~",
        ],
    );
}

#[test]
fn hints_are_off_unless_a_token_is_named() {
    let hints =
        |http: &str| Tree::with(&[("agent.yaml", &format!("http: {http}\n"))]).config().host.http.unwrap().hints;
    assert_eq!(hints("{}"), None);
    assert_eq!(hints("{ hints: { token_file: /etc/unwait/hints } }"), Some("/etc/unwait/hints".into()));
    expect(
        "agent.yaml",
        "http: { hints: {} }\n",
        &["1:9 `token_file` is missing: add `token_file: /etc/unwait/hints.token`"],
    );
}

#[test]
fn guards_that_cannot_be_used_are_refused_with_their_place() {
    for (guards, says) in [
        (
            "{ calm: 10s, veto: { exec: [may-act], deadline: 2m } }",
            vec![
                "6:17 `calm` must be from 1m to 1d, found 10s",
                "6:37 a command begins with the program's full path, such as /usr/bin/curl; no shell runs it",
                "6:57 `deadline` must be from 1s to 1m, found 2m",
            ],
        ),
        (
            r#"{ alerts: ['severity="critical"', severity] }"#,
            vec![
                "6:11 `alerts` needs somebody who knows them: add `prometheus:` to agent.yaml, or remove the line",
                "6:43 expected matchers such as severity=\"critical\", alertname!=\"CloseWaitLeak\": after `severity` \
                 comes =, !=, =~ or !~",
            ],
        ),
        ("{ veto: {} }", vec!["6:11 `exec` is missing: add `exec: [/usr/local/bin/may-act]`"]),
    ] {
        expect("policies/p.yaml", &format!("{POLICY}guards: {guards}\n"), &says);
    }
}
