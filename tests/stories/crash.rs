//! SIGKILL of the agent under systemd and Consul, and what the next start makes of it; where what they say of a service
//! matters to it. Every other moment of a saga is in `crash_sweep.rs`.
//!
//! Before the pivot everything is undone; past it the saga goes on to a healthy end. Either way the service is in
//! traffic and healthy within [`ENDS_WITHIN`] of the next start, restarted at most once; or it rests drained, latched,
//! and people are told.

use std::fs;

use serde_json::Value;

use crate::lab::deadline::wait_until;
use crate::lab::quick::{ENDS_WITHIN, OWN, Quick, SOON};
use crate::lab::{Lab, service};

const UNWOUND: Ends = Ends { outcome: "unwound", reason: "agent_restarted", starts: 1 };
const COMPLETED: Ends = Ends { outcome: "completed", reason: "recovered", starts: 2 };

/// How the incident ends once an agent lives, and how often the service was started by then.
struct Ends {
    outcome: &'static str,
    reason: &'static str,
    starts: usize,
}

/// Kills one agent after another at these points, then lets one live.
fn killed_at(points: &[&str], ends: &Ends) {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.service.wait_for_leak();
    for point in points {
        stage.run_until_killed_at(point);
    }
    // What is begun afterwards is another story.
    assert!(stage.unwait(&["pause", "--why", "the story is over"]).status.success());

    let _agent = stage.run(None);

    let first = stage.wait_for_first_end(ENDS_WITHIN);
    assert_eq!((&first["outcome"], &first["reason"]), (&ends.outcome.into(), &ends.reason.into()), "{first:#}");
    stage.assert_in_service();
    assert_eq!(stage.starts(), ends.starts, "starts of the service");
    stage.wait_until_told_end(ends.outcome, ends.reason);
    assert_eq!(stage.incidents().len(), 1);
}

macro_rules! kills {
    ($($name:ident: $points:expr, $ends:expr;)*) => {
        $(#[test] fn $name() { killed_at(&$points, &$ends); })*
    };
}

kills! {
    agent_killed_after_the_drains_effect_puts_the_service_back: ["drain:effected"], UNWOUND;
    agent_killed_after_the_restarts_intent_puts_the_same_incarnation_back: ["restart:intended"], UNWOUND;
    agent_killed_after_the_restarts_effect_goes_on_and_does_not_restart_again: ["restart:acted"], COMPLETED;
    agent_killed_after_the_restores_effect_goes_on_in_traffic: ["restore:acted"], COMPLETED;
    agent_killed_again_after_the_undos_effect_finds_it_undone: ["drain:effected", "drain:undone"], UNWOUND;
    agent_killed_again_and_again_past_the_restart_goes_on:
        ["restart:acted", "health_check:acted", "restore:acted"], COMPLETED;
}

#[test]
fn an_agent_whose_secrets_are_gone_still_puts_back_what_a_former_one_drained() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.service.wait_for_leak();
    stage.run_until_killed_at("drain:effected");
    let (secret, aside) = (stage.etc().join("webhook"), stage.etc().join("webhook.aside"));
    fs::rename(&secret, &aside).expect("the lab's directory is writable");

    let mut agent = stage.run(None);

    stage.wait_for_traffic(ENDS_WITHIN);
    assert_eq!(agent.wait(ENDS_WITHIN).code(), Some(2), "it begins nothing: {}", agent.output());
    assert!(agent.output().contains("the webhook's address"), "{}", agent.output());
    assert_eq!(stage.starts(), 1);

    fs::rename(&aside, &secret).expect("the lab's directory is writable");
    let _agent = stage.run(None);
    // What could not be told then is told now.
    stage.wait_until_told_end("unwound", "agent_restarted");
}

#[test]
fn a_service_that_died_drained_while_nobody_watched_stays_drained_until_a_person_decides() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.service.wait_for_leak();
    stage.run_until_killed_at("drain:effected");
    lab.run(&["systemctl", "kill", "--signal=KILL", service::UNIT]);
    // Until systemd has noticed, the service runs for all that anybody can tell.
    wait_until("systemd to notice", SOON, || (lab.show(service::UNIT, "ActiveState") == "failed").then_some(()));

    let _agent = stage.run(None);

    stage.wait_until_told_end("stuck", "gone_while_drained");
    stage.wait_until_told("that a person is needed", SOON, |told| told["event"] == "stuck");
    assert_latched(&stage, "gone_while_drained");
    assert_eq!(stage.starts(), 1, "it is nobody's to start");
    assert_eq!(stage.slots().len(), 1, "a host that needs a person keeps its slot");

    let refused = stage.unwait(&["resolve", service::UNIT]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    lab.start_unit(service::UNIT);
    stage.service.wait_for_pong();
    let resolved = stage.unwait(&["resolve", service::UNIT, "--restore"]);
    assert!(resolved.status.success(), "{resolved:?}");
    stage.assert_in_service();
    assert_eq!(stage.ask(&["status"])["latches"], Value::Array(vec![]));
}

#[test]
fn a_service_that_somebody_restarted_while_it_was_drained_is_not_put_back_unseen() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.service.wait_for_leak();
    stage.run_until_killed_at("drain:effected");
    lab.restart_unit(service::UNIT);

    let mut agent = stage.run(None);

    stage.wait_until_told_end("stuck", "gone_while_drained");
    assert_latched(&stage, "gone_while_drained");
    assert_eq!(stage.starts(), 2, "one start more, by somebody else");

    // What a person left stays left: the sweep of the next start knows whose drain it is.
    let left = stage.unwait(&["resolve", service::UNIT, "--leave"]);
    assert!(left.status.success(), "{left:?}");
    agent.kill();
    let _agent = stage.run(None);
    let status = wait_until("the next agent's first look", SOON, || {
        Some(stage.ask(&["status"])).filter(|status| status["agent"]["last_snapshot"].is_string())
    });
    assert_eq!(status["latches"], Value::Array(vec![]), "{status:#}");
    assert!(!stage.is_in_traffic());
}

#[test]
fn a_registry_that_is_away_when_the_agent_starts_again_delays_the_undo_and_people_are_told() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.service.wait_for_leak();
    stage.run_until_killed_at("drain:effected");
    stage.consul.stop();

    let _agent = stage.run(None);

    let told = stage.wait_until_told("that the undo is still being tried", ENDS_WITHIN, |told| {
        told["event"] == "stuck" && told["title"].as_str().is_some_and(|title| title.contains("still being tried"))
    });
    assert!(told["lines"].to_string().contains("OUT OF TRAFFIC"), "{told:#}");
    stage.consul.start_again();
    stage.wait_for_traffic(ENDS_WITHIN);
    stage.wait_until_told_end("unwound", "agent_restarted");
    stage.assert_in_service();
    assert_eq!(stage.starts(), 1);
}

#[test]
fn a_drain_that_the_state_directory_has_forgotten_is_told_and_latched() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.service.wait_for_leak();
    stage.run_until_killed_at("drain:effected");
    fs::remove_dir_all(stage.state()).expect("the state directory is ours");

    let _agent = stage.run(None);

    stage.wait_until_told("the orphan", ENDS_WITHIN, |told| {
        told["event"] == "stuck" && told["reason"] == "orphaned_marker" && told["service"] == service::UNIT
    });
    assert_latched(&stage, "orphaned_marker");
    assert_eq!(stage.starts(), 1);
}

#[test]
fn an_agent_that_finds_its_configuration_broken_ends_what_was_begun_and_then_refuses_it() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.service.wait_for_leak();
    stage.run_until_killed_at("drain:effected");
    stage.edit("policies/leak.yaml", "close_wait > 100", "close_weight > 100");

    let mut agent = stage.run(None);

    let status = agent.wait(ENDS_WITHIN);
    assert_eq!(status.code(), Some(2), "{}", agent.output());
    for word in ["policies/leak.yaml:4:", "close_weight"] {
        assert!(agent.output().contains(word), "no {word:?} in {}", agent.output());
    }
    stage.wait_until_told_end("unwound", "agent_restarted");
    stage.assert_in_service();
    assert_eq!(stage.starts(), 1);
}

#[test]
fn with_a_broken_configuration_and_no_registry_people_are_told_and_the_end_still_comes() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.service.wait_for_leak();
    stage.run_until_killed_at("drain:effected");
    stage.edit("agent.yaml", "interval: 1s", "interval: often");
    stage.consul.stop();

    let mut agent = stage.run(None);

    stage.wait_until_told("that the undo is still being tried", ENDS_WITHIN, |told| told["event"] == "stuck");
    assert!(agent.runs(), "{}", agent.output());
    stage.consul.start_again();
    assert_eq!(agent.wait(2 * ENDS_WITHIN).code(), Some(2), "{}", agent.output());
    stage.wait_until_told_end("unwound", "agent_restarted");
    stage.assert_in_service();
}

#[test]
fn a_broken_configuration_does_not_keep_the_last_word_from_people() {
    let lab = Lab::start();
    let mut stage = Quick::set(&lab);
    stage.service.wait_for_leak();
    stage.webhook.refuse();
    stage.run_until_killed_at("drain:effected");
    stage.edit("policies/leak.yaml", "close_wait > 100", "close_weight > 100");
    let mut agent = stage.run(None);
    assert_eq!(agent.wait(ENDS_WITHIN).code(), Some(2), "{}", agent.output());
    assert_eq!(stage.webhook.requests().len(), 0);

    stage.webhook.listen();

    // As systemd would, every two seconds, until a person has mended the file.
    crate::lab::deadline::wait_until_seen("the end to be told", ENDS_WITHIN, || {
        let mut agent = stage.run(None);
        assert_eq!(agent.wait(ENDS_WITHIN).code(), Some(2), "{}", agent.output());
        let told = stage.told();
        if told.iter().any(|told| told["event"] == "end") { Ok(()) } else { Err(format!("{told:#?}")) }
    });
}

/// Out of traffic by our own mark, latched for this reason, and `status` fails to say so.
fn assert_latched(stage: &Quick<'_>, reason: &str) {
    assert!(!stage.is_in_traffic());
    assert!(stage.consul.maintenance(OWN).is_some_and(|notes| notes.contains("unwait")), "the marker stands");
    let status = stage.ask(&["status"]);
    assert_eq!(status["latches"][0]["service"], service::UNIT, "{status:#}");
    assert_eq!(status["latches"][0]["reason"], reason, "{status:#}");
    assert_eq!(stage.unwait(&["status"]).status.code(), Some(1));
}
