//! What holds the agent back. In each of these nothing is changed, and the reason is said by its code; where what was
//! in the way goes away, it acts.

use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::agent::{self, Etc, HOST, POLICY, unwait, wait_for_held};
use crate::lab::deadline::{holds_for, wait_until, wait_until_seen};
use crate::lab::net::loopback;
use crate::lab::stage::{ALL, NAME, OTHERS, OWN, SLOTS, own_registration};
use crate::lab::{Behaviour, Consul, Lab, Stage, service};

const SOON: Duration = Duration::from_secs(20);
/// Three ticks: a breach that stands is considered at each.
const A_WHILE: Duration = Duration::from_secs(3);
const POLICY_NAME: &str = "close-wait-leak";

/// Waits until the breach is held for `reason`; `explain` and the message say so too, and nothing was changed.
fn is_held(stage: &Stage<'_>, reason: &str) -> Value {
    let before = stage.picture();
    let held = wait_for_held(stage.lab, reason);
    assert_eq!((&held["service"], &held["policy"]), (&service::UNIT.into(), &POLICY_NAME.into()));
    let told = stage.webhook.wait_for("held", SOON, |request| request.json()["event"] == "held").json();
    assert_eq!((&told["reason"], &told["service"]), (&reason.into(), &service::UNIT.into()), "{told:#}");
    explain_says(stage.lab, reason);
    holds_for("nothing has begun", A_WHILE, || match agent::history(stage.lab) {
        history if history.is_empty() => Ok(()),
        history => Err(format!("{history:#?}")),
    });
    stage.picture().assert_as(&before);
    held
}

fn explain_says(lab: &Lab, reason: &str) {
    let held_by = agent::held_by(lab, service::UNIT, POLICY_NAME);
    assert!(held_by.iter().any(|held| held["reason"] == reason), "{held_by:#?}");
}

/// It has gone on to act once it is drained.
fn acts(stage: &Stage<'_>) {
    stage.wait_for_passing(&OTHERS, SOON);
    assert_eq!(agent::history(stage.lab).len(), 1);
}

#[test]
fn the_last_healthy_instance_is_refused() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    stage.consul.deregister_peer(NAME, 2);
    stage.consul.deregister_peer(NAME, 3);
    stage.wait_for_passing(&[OWN], SOON);
    stage.service.wait_for_leak();
    Etc::of_the_story().write(&lab);
    let _agent = agent::run(&lab);

    let held = is_held(&stage, "too_few_healthy");

    assert!(
        held["detail"].as_str().is_some_and(|detail| detail.starts_with("0 other healthy instances of 1 registered")),
        "{held:#}"
    );
}

#[test]
fn an_empty_answer_from_consul_is_refused() {
    let lab = Lab::start();
    let (consul, tokens) = Consul::start_with_acl(&lab);
    let stage = Stage::set_with(&lab, Behaviour::LeakUntilRestarted, consul);
    stage.service.wait_for_leak();
    agent::write_credential(&lab, "consul", &tokens.blind);
    Etc::of_the_story().edit(HOST, "    #token_file:", "    token_file:").write(&lab);
    let _agent = agent::run(&lab);

    let held = is_held(&stage, "guard_failed");

    assert!(held["detail"].as_str().is_some_and(|detail| detail.contains("token")), "{held:#}");
    assert!(!held.to_string().contains(&tokens.blind));
}

#[test]
fn what_a_person_put_in_maintenance_is_left_alone() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    stage.consul.put_maintenance(OWN, "by hand: new disk");
    stage.wait_for_passing(&OTHERS, SOON);
    stage.service.wait_for_leak();
    Etc::of_the_story().write(&lab);
    let _agent = agent::run(&lab);

    let held = is_held(&stage, "out_of_traffic");

    assert!(held["detail"].as_str().is_some_and(|detail| detail.contains("by hand: new disk")), "{held:#}");
    assert_eq!(stage.consul.maintenance(OWN).as_deref(), Some("by hand: new disk"));
}

/// Where the service's own check looks; nobody listens there before it is restarted.
const CHECKED: u16 = 7999;

/// The service leaks, and fails its own check in Consul, though its own probe passes.
fn fails_its_check(stage: &Stage<'_>) {
    let mut registration = own_registration();
    registration["Check"]["TCP"] = format!("127.0.0.1:{CHECKED}").into();
    registration["Check"]["Status"] = "critical".into();
    stage.consul.register(&registration);
    stage.wait_for_passing(&OTHERS, SOON);
    stage.service.wait_for_leak();
}

#[test]
fn a_service_that_fails_its_own_check_is_restarted_and_put_back_once_it_passes() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    fails_its_check(&stage);
    let lifetime = stage.service.invocation_id();
    Etc::of_the_story().write(&lab);
    let _agent = agent::run(&lab);

    wait_until_seen("its restart", Duration::from_secs(60), || match stage.service.invocation_id() {
        same if same == lifetime => Err(unwait(&lab, &["explain", service::UNIT]).all()),
        _ => Ok(()),
    });
    assert!(stage.consul.maintenance(OWN).is_some_and(|why| why.starts_with("unwait: drained")), "drained meanwhile");
    let _listener = lab.network().listen(loopback(CHECKED)).expect("nobody listens there");
    let ended = agent::wait_for_end(&lab, Duration::from_secs(60));
    assert_eq!((&ended["outcome"], &ended["reason"]), (&"completed".into(), &"recovered".into()), "{ended:#}");
    stage.wait_for_passing(&ALL, SOON);
    assert_eq!((stage.service.close_wait(), stage.consul.maintenance(OWN)), (0, None));
}

#[test]
fn instances_that_fail_their_checks_together_are_left_to_a_person() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    fails_its_check(&stage);
    stage.consul.fail_peer(NAME, 2);
    stage.wait_for_passing(&[OTHERS[1]], SOON);
    Etc::of_the_story().write(&lab);
    let _agent = agent::run(&lab);

    let held = is_held(&stage, "common_cause");

    let detail = held["detail"].as_str().unwrap_or_default();
    assert!(detail.starts_with("2 of 3 instances are not healthy in consul"), "{held:#}");
}

#[test]
fn a_consul_that_is_down_means_no_action_until_it_is_back() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    stage.service.wait_for_leak();
    stage.consul.stop();
    let lifetime = stage.service.invocation_id();
    Etc::of_the_story().write(&lab);
    let _agent = agent::run(&lab);

    let held = wait_for_held(&lab, "guard_failed");
    assert!(
        held["detail"].as_str().is_some_and(|detail| detail.contains("consul: GET ") && detail.contains("refused")),
        "{held:#}"
    );
    explain_says(&lab, "guard_failed");
    holds_for("the service is left as it is", A_WHILE, || match stage.service.invocation_id() {
        same if same == lifetime && agent::history(&lab).is_empty() => Ok(()),
        other => Err(other),
    });
    stage.webhook.wait_for("held", SOON, |request| request.json()["reason"] == "guard_failed");

    stage.consul.start_again();
    acts(&stage);
}

#[test]
fn a_paused_agent_does_nothing_until_resumed() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    stage.service.wait_for_leak();
    Etc::of_the_story().write(&lab);
    let mut agent = agent::run(&lab);
    let paused = unwait(&lab, &["pause", "--why", "migration of the database"]);
    assert_eq!(paused.code, 0, "{paused:?}");

    let held = is_held(&stage, "paused");

    assert!(held["detail"].as_str().is_some_and(|detail| detail.contains("migration of the database")), "{held:#}");
    // A kill switch that a restart turned off would be none.
    agent.kill();
    drop(agent);
    let _agent = agent::run(&lab);
    wait_for_held(&lab, "paused");
    assert!(unwait(&lab, &["status"]).out.contains("PAUSED by root"));
    let resumed = unwait(&lab, &["resume"]);
    assert_eq!(resumed.code, 0, "{resumed:?}");
    acts(&stage);
}

#[test]
fn a_recently_restarted_service_is_left_to_settle() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakAlways);
    Etc::of_the_story().edit(HOST, "restart_grace: 0s", "restart_grace: 30s").write(&lab);
    // By a person, as the agent cannot know.
    lab.restart_unit(service::UNIT);
    let restarted = up_since(&lab);
    stage.service.wait_for_pong();
    stage.wait_for_passing(&ALL, SOON);
    stage.service.wait_for_leak();
    let _agent = agent::run(&lab);

    let held = is_held(&stage, "recently_restarted");

    assert!(held["until"].is_string(), "it says until when: {held:#}");
    acts(&stage);
    let began = agent::history(&lab)[0]["began"].as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
    assert!(began.as_second() >= restarted + 30, "began {began}, restarted at {restarted}");
}

/// Seconds since the epoch.
fn up_since(lab: &Lab) -> i64 {
    let text = lab.stdout(&[
        "systemctl",
        "show",
        "--timestamp=unix",
        "--property=ActiveEnterTimestamp",
        "--value",
        service::UNIT,
    ]);
    text.trim_start_matches('@').parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_slot_held_by_another_host_is_waited_for() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    let slot = json!({ "holder": "bj1-09", "incident": "x-1", "since": "2026-01-02T03:04:05Z", "phase": "changing" });
    stage.consul.put(&format!("/v1/kv/{SLOTS}"), &json!({ "version": 1, "slots": [slot] }));
    stage.service.wait_for_leak();
    Etc::of_the_story().write(&lab);
    let _agent = agent::run(&lab);

    let held = is_held(&stage, "slot_taken");

    let detail = held["detail"].as_str().expect("a detail");
    assert!(detail.contains("bj1-09") && detail.contains("2026-01-02T03:04:05Z"), "who, since when: {detail}");

    let shown = unwait(&lab, &["slot", "--json"]).json();
    assert_eq!((&shown["slots"][0]["holder"], &shown["slots"][0]["phase"]), (&json!("bj1-09"), &json!("changing")));
    assert_eq!(unwait(&lab, &["slot", "release", HOST]).code, 1, "this host holds none");
    let given_back = unwait(&lab, &["slot", "release", "bj1-09"]);
    assert_eq!(given_back.code, 0, "{}", given_back.all());
    assert!(
        given_back.all().contains("bj1-09 since 2026-01-02 03:04:05Z (changing, incident x-1)"),
        "{}",
        given_back.all()
    );
    acts(&stage);
}

#[test]
fn a_protected_unit_needs_to_be_named_in_full() {
    const UNIT: &str = "nginx.service";
    const EVERY: &str = r#"services: ["*"]"#;
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::Sound);
    // The same program under a name that carries the traffic of others.
    stage.service.start_twin(UNIT, stage.redis.port(), Behaviour::LeakAlways);
    let before = lab.show(UNIT, "InvocationID");
    let etc = Etc::of_the_story()
        .edit(HOST, "service: rpc-order.service", "service: nginx.service")
        .edit(HOST, "    register: [{ registry: consul, id: rpc-order-1 }]\n", "")
        .edit(HOST, "127.0.0.1:7801", &service::twin_address().to_string())
        .edit(POLICY, "runbook: isolate-restart-recover", "runbook: restart-in-place")
        .edit(POLICY, "guards: { min_healthy: 50% }\n", "");
    etc.clone().edit(POLICY, r#"services: ["rpc-*.service"]"#, EVERY).write(&lab);
    let agent = agent::run(&lab);

    let held = wait_for_held(&lab, "protected");
    assert_eq!(held["service"], UNIT, "{held:#}");
    let held_by = agent::held_by(&lab, UNIT, POLICY_NAME);
    assert!(held_by.iter().any(|held| held["reason"] == "protected"), "{held_by:#?}");
    holds_for("it is left alone", A_WHILE, || match lab.show(UNIT, "InvocationID") {
        same if same == before => Ok(()),
        other => Err(other),
    });

    etc.edit(POLICY, r#"services: ["rpc-*.service"]"#, r#"services: ["nginx.service"]"#).write(&lab);
    agent.signal(nix::sys::signal::Signal::SIGHUP);
    let incident = wait_until("an incident on it", SOON, || agent::history(&lab).into_iter().next());
    assert_eq!(incident["service"], UNIT, "{incident:#}");
    wait_until("a new lifetime", SOON, || (lab.show(UNIT, "InvocationID") != before).then_some(()));
}
