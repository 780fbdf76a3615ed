//! Drained is a state to hold: against other controllers, against a service that registers itself, and while it rests
//! stuck. What a person takes out is theirs.

use std::time::Duration;

use serde_json::json;

use crate::lab::deadline::{holds_for, wait_until, wait_until_seen};
use crate::lab::quick::{ENDS_WITHIN, OWN, Quick, SOON};
use crate::lab::{Lab, service};

#[test]
fn what_others_put_back_while_it_is_drained_is_drained_again_until_it_is_healthy() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    let client = stage.lingering_client();
    let agent = stage.run(None);
    stage.wait_for_drain();

    // Another controller, before the restart.
    stage.wait_until_told("the drain", SOON, |told| told["step"]["name"] == "drain");
    stage.consul.end_maintenance(OWN);
    wait_for_our_drain(&stage);
    wait_until("the agent to say so", SOON, || agent.output().contains("drained it again").then_some(()));

    // The service itself, after it; it is not healthy yet.
    stage.sicken();
    drop(client);
    stage.wait_until_told("the restart", SOON, |told| told["step"]["name"] == "restart");
    register_anew(&stage);
    wait_for_our_drain(&stage);

    stage.mend();
    let end = stage.wait_for_first_end(ENDS_WITHIN);
    assert_eq!((&end["outcome"], &end["reason"]), (&"completed".into(), &"recovered".into()), "{end:#}");
    stage.assert_in_service();
    assert_eq!(stage.starts(), 2);
}

#[test]
fn what_a_person_takes_out_while_it_is_drained_stays_out_and_is_theirs() {
    const WHY: &str = "deploy of release 41";
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    let client = stage.lingering_client();
    let _agent = stage.run(None);
    stage.wait_for_drain();

    stage.wait_until_told("the drain", SOON, |told| told["step"]["name"] == "drain");
    // Consul keeps the first reason, so a person who is slower than our next look tries again.
    wait_until_seen("the person's own maintenance", SOON, || {
        stage.consul.end_maintenance(OWN);
        stage.consul.put_maintenance(OWN, WHY);
        match stage.consul.maintenance(OWN) {
            Some(reason) if reason == WHY => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    drop(client);

    stage.wait_until_told_end("stuck", "record_changed");
    stage.wait_until_told("that a person is needed", SOON, |told| told["event"] == "stuck");
    assert_eq!(stage.consul.maintenance(OWN).as_deref(), Some(WHY));
    assert_eq!(stage.starts(), 1);
}

#[test]
fn a_service_that_rests_stuck_and_registers_itself_anew_is_held_out_of_traffic() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.edit("runbooks/recover.yaml", "health_check: { timeout: 30s", "health_check: { timeout: 1s");
    let client = stage.lingering_client();
    let mut agent = stage.run(None);
    stage.wait_for_drain();
    stage.sicken();
    drop(client);
    stage.wait_until_told_end("stuck", "unhealthy");

    register_anew(&stage);
    wait_for_our_drain(&stage);

    // The next agent knows of it from the registry.
    agent.kill();
    let _agent = stage.run(None);
    wait_until_seen("the next agent's first look", SOON, || {
        let status = stage.ask(&["status"]);
        if status["agent"]["last_snapshot"].is_string() { Ok(()) } else { Err(format!("{status:#}")) }
    });
    register_anew(&stage);
    wait_for_our_drain(&stage);

    // A person who puts the very same record back has decided, and is not fought with.
    stage.consul.end_maintenance(OWN);
    stage.wait_for_traffic(SOON);
    holds_for("what a person put back stays", Duration::from_secs(4), || match stage.consul.maintenance(OWN) {
        None => Ok(()),
        Some(reason) => Err(reason),
    });
}

/// As frameworks do that deregister when they end, and register when they start.
fn register_anew(stage: &Quick<'_>) {
    stage.consul.deregister(OWN);
    wait_until_seen("the registration to be gone", SOON, || {
        let all = stage.consul.get("/v1/catalog/service/rpc-order").to_string();
        if all.contains(OWN) { Err(all) } else { Ok(()) }
    });
    stage.consul.register(&json!({ "ID": OWN, "Name": "rpc-order", "Address": "127.0.0.1", "Port": service::PORT }));
}

fn wait_for_our_drain(stage: &Quick<'_>) {
    wait_until_seen("our drain", SOON, || match stage.consul.maintenance(OWN) {
        Some(reason) if reason.contains("unwait") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
