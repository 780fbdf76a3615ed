//! A drain that carries this host's marker, and that no incident knows of: the state directory was lost, or the agent
//! was set up anew.

use std::time::Duration;

use serde_json::Value;

use crate::lab::agent::{self, Etc, unwait};
use crate::lab::deadline::holds_for;
use crate::lab::stage::{ALL, OTHERS, OWN};
use crate::lab::{Behaviour, Lab, Stage, service};

const SOON: Duration = Duration::from_secs(20);
const INCIDENT: &str = "20260102T030405Z-rpc-order-0000";

fn marker(host: &str) -> String {
    format!("unwait: drained incident={INCIDENT} host={host}")
}

fn latches(lab: &Lab) -> Value {
    unwait(lab, &["status", "--json"]).json()["latches"].clone()
}

#[test]
fn a_drain_of_ours_that_no_incident_knows_of_is_told_and_latched() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::Sound);
    let marker = marker(&lab.stdout(&["hostname"]));
    stage.consul.put_maintenance(OWN, &marker);
    stage.wait_for_passing(&OTHERS, SOON);
    Etc::of_the_story().write(&lab);
    // Not even a registry that comes up after the agent hides it.
    stage.consul.stop();
    let _agent = agent::run(&lab);
    stage.consul.start_again();

    let told =
        stage.webhook.wait_for("that a person is needed", SOON, |request| request.json()["event"] == "stuck").json();
    assert_eq!((&told["reason"], &told["service"]), (&"orphaned_marker".into(), &service::UNIT.into()), "{told:#}");
    assert!(told["lines"].to_string().contains("OUT OF TRAFFIC"), "{told:#}");
    let latch = latches(&lab)[0].clone();
    assert_eq!((&latch["service"], &latch["reason"]), (&service::UNIT.into(), &"orphaned_marker".into()), "{latch:#}");
    assert_eq!(stage.consul.maintenance(OWN), Some(marker), "it is left as it is");
    let reasons: Vec<Value> =
        agent::held_by(&lab, service::UNIT, "close-wait-leak").iter().map(|held| held["reason"].clone()).collect();
    assert!(reasons.contains(&"latched".into()), "{reasons:?}");

    for undecided in [&["resolve", service::UNIT][..], &["resolve", service::UNIT, "--restore"]] {
        let refused = unwait(&lab, undecided);
        assert!(refused.code == 1 && refused.err.contains("--leave"), "{refused:?}");
        assert_eq!(latches(&lab).as_array().map(Vec::len), Some(1));
        assert!(stage.consul.maintenance(OWN).is_some());
    }
    stage.consul.end_maintenance(OWN);
    let resolved = unwait(&lab, &["resolve", service::UNIT, "--leave"]);
    assert_eq!(resolved.code, 0, "{resolved:?}");
    assert_eq!(latches(&lab), Value::Array(Vec::new()));
    stage.wait_for_passing(&ALL, SOON);
}

#[test]
fn a_drain_by_another_hosts_agent_is_not_ours() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::Sound);
    stage.consul.put_maintenance(OWN, &marker("bj1-09"));
    Etc::of_the_story().write(&lab);
    let _agent = agent::run(&lab);

    // The registries are asked at the first tick, which is over when the agent answers; then the outbox's second.
    holds_for("nothing is told or latched", Duration::from_secs(3), || {
        match (latches(&lab), stage.webhook.requests()) {
            (latches, requests) if latches == Value::Array(Vec::new()) && requests.is_empty() => Ok(()),
            other => Err(format!("{other:#?}")),
        }
    });
    assert_eq!(stage.consul.maintenance(OWN), Some(marker("bj1-09")));
}
