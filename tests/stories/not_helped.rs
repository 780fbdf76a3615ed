//! A service that leaks whatever is done to it: the next rung is taken, and after the second time of the same the policy
//! only says what it would do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use crate::lab::deadline::{holds_for, wait_until_seen};
use crate::lab::net::loopback;
use crate::lab::quick::{Quick, SOON};
use crate::lab::{Behaviour, Lab, http, service};

/// One incident, with the leak before it and after.
const ONCE: Duration = Duration::from_secs(45);
/// Longer than Redis takes to close on who is idle: the leak is there when it is looked for.
const SOAK: &str = "soak: 5s";

/// The service leaks again after every start.
fn stage(lab: &Lab) -> Quick<'_> {
    let stage = Quick::set(lab);
    stage.service.behave(Behaviour::LeakAlways);
    stage.edit("runbooks/recover.yaml", "soak: 1s", SOAK);
    stage.edit("agent.yaml", "evidence:", "http: {}\nevidence:");
    stage
}

/// Waits for the first end, and then an hour.
fn an_hour_after_the_first_end(stage: &Quick<'_>) {
    stage.wait_until_told("the first end", ONCE, |told| told["event"] == "end");
    stage.an_hour_passes();
}

/// The real incidents so far, oldest first: how each ended, and by which runbook.
fn carried_out(stage: &Quick<'_>) -> Vec<(String, String)> {
    let real = |incident: &Value| incident["dry_run"] == false && incident["ended"].is_string();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told = |incident: Value| {
        let shown = stage.ask(&["show", incident["incident"].as_str().expect("an id")]);
        (text(&shown["plan"]["runbook"]), text(&incident["reason"]))
    };
    stage.incidents().into_iter().filter(real).map(told).collect()
}

fn metrics(stage: &Quick<'_>) -> String {
    let answer = http::ask(stage.lab.network(), loopback(9817), "GET", "/metrics", None, "");
    answer.map(|answer| answer.body).unwrap_or_else(|error| error.to_string())
}

fn wait_for_metric(stage: &Quick<'_>, line: &str) {
    wait_until_seen(line, SOON, || match metrics(stage) {
        text if text.lines().any(|found| found == line) => Ok(()),
        text => Err(text),
    });
}

fn is_told(stage: &Quick<'_>, event: &str, reason: &str) -> usize {
    stage.told().iter().filter(|told| told["event"] == event && told["reason"] == reason).count()
}

#[test]
fn what_did_not_help_twice_is_not_done_again_until_a_person_rearms_it() {
    let lab = Lab::start();
    let stage = stage(&lab);
    let mut agent = stage.run(None);
    an_hour_after_the_first_end(&stage);

    stage.wait_until_told("the breaker", ONCE, |told| told["event"] == "stuck" && told["reason"] == "breaker_open");

    let not_helped = ("recover".to_owned(), "not_helped".to_owned());
    assert_eq!(carried_out(&stage), [not_helped.clone(), not_helped.clone()]);
    wait_until_seen("what it would do", SOON, || {
        let incidents = stage.incidents();
        if incidents.iter().any(|incident| incident["dry_run"] == true) {
            Ok(())
        } else {
            Err(format!("{incidents:#?}"))
        }
    });
    assert_eq!(stage.starts(), 3);
    stage.assert_in_service();

    // It is not forgotten with the agent, and not told again.
    agent.kill();
    drop(agent);
    let _agent = stage.run(None);
    wait_for_metric(&stage, &format!(r#"unwait_breaker_open{{service="{}",policy="leak"}} 1"#, service::UNIT));
    wait_for_metric(&stage, r#"unwait_incidents_total{outcome="completed",reason="not_helped",dry_run="false"} 2"#);
    wait_for_metric(&stage, r#"unwait_breaches_total{policy="leak"} 1"#);
    let status = stage.ask(&["status"]);
    assert_eq!(status["breakers"][0]["runbook"], "recover", "{status:#}");
    assert_eq!(stage.ask(&["explain", service::UNIT])["policies"][0]["breaker"]["policy"], "leak");
    assert_eq!(stage.ask(&["explain", "other.service"])["nothing_is_done"], "no_policy");
    assert_eq!(is_told(&stage, "stuck", "breaker_open"), 1);
    assert_eq!(stage.starts(), 3);

    stage.an_hour_passes();
    let rearmed = stage.unwait(&["rearm", "leak", "--service", service::UNIT]);

    assert!(rearmed.status.success(), "{rearmed:?}");
    wait_until_seen("a third restart", ONCE, || if stage.starts() == 4 { Ok(()) } else { Err(stage.starts()) });
    assert_eq!(stage.ask(&["status"])["breakers"], serde_json::json!([]));
}

#[test]
fn a_rung_that_did_not_help_is_passed_over_and_when_all_are_spent_it_is_held() {
    let lab = Lab::start();
    let stage = stage(&lab);
    stage.edit("policies/leak.yaml", "runbook: recover", "escalate: [in-place, recover]");
    let runbook = stage.etc().join("runbooks/in-place.yaml");
    let text = format!(
        "runbook: in-place\ndescription: The gentler one.\nsteps:\n  - restart: {{}}\n  \
         - verify: {{ {SOAK}, expect: [close_wait < 20] }}\n"
    );
    fs::write(&runbook, text).expect("the lab's directory is writable");
    fs::set_permissions(&runbook, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    let _agent = stage.run(None);
    an_hour_after_the_first_end(&stage);

    let held = stage.wait_until_told("that no rung is left", ONCE, |told| {
        told["event"] == "stuck" && told["reason"] == "rungs_spent"
    });

    let of = |runbook: &str| (runbook.to_owned(), "not_helped".to_owned());
    assert_eq!(carried_out(&stage), [of("in-place"), of("recover")], "{held:#}");
    // Once it has been in breach for long enough again.
    wait_until_seen("it explained", SOON, || {
        let explained = stage.ask(&["explain", service::UNIT]);
        if explained["policies"][0]["nothing_is_done"] == "rungs_spent" {
            Ok(())
        } else {
            Err(format!("{explained:#}"))
        }
    });
    wait_for_metric(
        &stage,
        &format!(r#"unwait_held{{service="{}",policy="leak",reason="rungs_spent"}} 1"#, service::UNIT),
    );
    assert_eq!(stage.ask(&["status"])["breakers"], serde_json::json!([]), "neither was done twice");
    holds_for("nothing is done", Duration::from_secs(3), || match (stage.starts(), stage.incidents().len()) {
        (3, 2) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    stage.assert_in_service();
}
