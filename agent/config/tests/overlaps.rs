use super::*;

const RESTART: &str = "runbook: restart\nsteps:\n  - restart\n  - verify: { soak: SOAK, expect: [close_wait < 5] }\n";

fn policy(name: &str, services: &str, mode: &str) -> (String, String) {
    let text = format!(
        "policy: {name}\nservices: {services}\nwhen: close_wait > 5\nfor: 1m\nmode: {mode}\nrunbook: restart\n\
         guards: {{ fleet_slots: none }}\n"
    );
    (format!("policies/{name}.yaml"), text)
}

fn tree(interval: &str, soak: &str, policies: &[(String, String)]) -> Config {
    let host = format!(
        "interval: {interval}\nservices: [{{ service: a.service }}]\nnotify: [{{ to: {{ slack: {{ url_file: /run/slack }} }} }}]\n"
    );
    let runbook = RESTART.replace("SOAK", soak);
    let mut files = vec![("agent.yaml", host.as_str()), ("runbooks/restart.yaml", runbook.as_str())];
    files.extend(policies.iter().map(|(name, text)| (name.as_str(), text.as_str())));
    Tree::with(&files).config()
}

#[test]
fn two_policies_that_act_by_themselves_on_one_service_are_named_with_it() {
    for (one, other, says) in [
        (("[a.service]", "auto"), ("['a.*']", "auto"), Some("both are `mode: auto` and select a.service")),
        (("['*']", "auto"), ("['*']", "auto"), Some("both are `mode: auto` and select a.service")),
        (
            ("['b-*.service']", "auto"),
            ("['b-*.service']", "auto"),
            Some("both are `mode: auto` and select `b-*.service`"),
        ),
        (("[x.service]", "auto"), ("['x*']", "auto"), Some("both are `mode: auto` and select x.service")),
        (("[a.service]", "auto"), ("[b.service]", "auto"), None),
        (("[a.service]", "auto"), ("[a.service]", "dry-run"), None),
        (("[a.service]", "approve"), ("[a.service]", "auto"), None),
    ] {
        let policies = [policy("one", one.0, one.1), policy("two", other.0, other.1)];
        let found = tree("15s", "2m", &policies).two_that_act();
        let expected: Vec<_> = says.map(|says| ("one, two".to_owned(), says.to_owned())).into_iter().collect();
        assert_eq!(found, expected, "{one:?} {other:?}");
    }
}

#[test]
fn a_soak_lasts_for_three_looks_at_least() {
    for (interval, soak, short) in
        [("15s", "45s", false), ("15s", "44s", true), ("1m", "2m", true), ("15s", "0s", true)]
    {
        let found = tree(interval, soak, &[policy("one", "[a.service]", "dry-run")]).short_soaks();
        assert_eq!(found.len(), usize::from(short), "{interval} {soak}: {found:?}");
    }
}

#[test]
fn both_shipped_leak_policies_at_once_are_named_unless_one_only_observes() {
    let with = |mode| [policy("close-wait-leak", "['*']", "dry-run"), policy("close-wait-climb", "['*']", mode)];
    assert!(tree("15s", "2m", &with("dry-run")).both_leak_policies().is_some());
    assert!(tree("15s", "2m", &with("observe")).both_leak_policies().is_none());
    assert!(tree("15s", "2m", &[policy("close-wait-leak", "['*']", "auto")]).both_leak_policies().is_none());
}
