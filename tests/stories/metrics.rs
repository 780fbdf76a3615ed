//! What the running unit says over HTTP, and that `explain` and the log say the same.

use std::time::Duration;

use crate::lab::agent::{self, Etc, HOST, POLICY, held_by, unwait, wait_for_held};
use crate::lab::deadline::wait_until_seen;
use crate::lab::net::loopback;
use crate::lab::stage::ALL;
use crate::lab::{Behaviour, Lab, Stage, http, promtool, service};

const SOON: Duration = Duration::from_secs(20);

/// As the shipped policy is called.
const NAME: &str = "close-wait-leak";

fn get(lab: &Lab, path: &str) -> http::Answer {
    http::ask(lab.network(), loopback(9817), "GET", path, None, "")
        .unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", lab.journal(agent::UNIT)))
}

#[test]
fn why_nothing_is_done_is_one_word_in_the_metrics_in_explain_and_in_the_log() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    stage.service.wait_for_leak();
    Etc::of_the_story()
        .edit(HOST, "evidence:", "http: {}\nevidence:")
        .edit(POLICY, "min_healthy: 50%", "min_healthy: 3")
        .write(&lab);
    let before = stage.service.invocation_id();
    agent::start_unit(&lab);
    wait_for_held(&lab, "too_few_healthy");

    let held = format!(r#"unwait_held{{service="{}",policy="{NAME}",reason="too_few_healthy"}} 1"#, service::UNIT);
    let metrics = wait_until_seen("the reason in the metrics", SOON, || match get(&lab, "/metrics") {
        answer if answer.body.lines().any(|line| line == held) => Ok(answer.body),
        answer => Err(format!("{answer:?}")),
    });

    promtool::check(&metrics);
    let of_service = |family: &str, value: usize| format!(r#"{family}{{service="{}"}} {value}"#, service::UNIT);
    for line in [
        of_service("unwait_close_wait", service::LEAKED),
        of_service("unwait_close_wait_outbound", service::LEAKED),
        format!(r#"unwait_breached{{service="{}",policy="{NAME}"}} 1"#, service::UNIT),
        format!(r#"unwait_breaches_total{{policy="{NAME}"}} 1"#),
        "unwait_observe_only 0".into(),
        "unwait_paused 0".into(),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    for (family, verdict) in [("paused", "allow"), ("min_healthy", "deny")] {
        let begins = format!(r#"unwait_guard_verdicts_total{{guard="{family}",verdict="{verdict}"}} "#);
        let counted = metrics.lines().find_map(|line| line.strip_prefix(&begins)).unwrap_or_default();
        assert_ne!(counted, "0", "{begins}\n{metrics}");
    }
    for path in ["/healthz", "/readyz"] {
        let answer = get(&lab, path);
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{path}");
    }

    let explained = unwait(&lab, &["explain", service::UNIT, "--json"]).json();
    let policies = explained["policies"].as_array().expect("a list of policies");
    for policy in policies {
        let (name, reason) = (&policy["policy"], policy["nothing_is_done"].as_str().unwrap_or_default());
        let line = format!(
            r#"unwait_held{{service="{}",policy="{}",reason="{reason}"}} 1"#,
            service::UNIT,
            name.as_str().unwrap_or_default()
        );
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    assert_eq!(held_by(&lab, service::UNIT, NAME)[0]["reason"], "too_few_healthy");
    let said = unwait(&lab, &["explain", service::UNIT]);
    assert!(said.out.contains("nothing is done: too_few_healthy: "), "{said:?}");
    let said = unwait(&lab, &["explain", "nobody.service", "--json"]).json();
    assert!(said["policies"].as_array().is_some_and(|policies| policies.len() < 3), "{said:#}");
    let log = lab.stdout(&["journalctl", "--unit", agent::UNIT, "--output=json", "--no-pager"]);
    assert!(log.contains(r#""F_REASON":"too_few_healthy""#), "{log}");
    stage.wait_for_passing(&ALL, SOON);
    assert_eq!(stage.service.invocation_id(), before);
}
