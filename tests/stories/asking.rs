//! What waits for a person, or for the fleet, on a real host: `mode: approve`, a silence, and a common cause.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::lab::agent::{self, Etc, HOST, POLICY, unwait, unwait_as_nobody, wait_for_held};
use crate::lab::deadline::{holds_for, wait_until_seen};
use crate::lab::stage::{ALL, OTHERS};
use crate::lab::{Behaviour, Lab, Stage, service};

const SOON: Duration = Duration::from_secs(20);
const A_WHILE: Duration = Duration::from_secs(3);

fn nothing_begins(lab: &Lab) {
    holds_for("nothing has begun", A_WHILE, || match agent::history(lab) {
        history if history.is_empty() => Ok(()),
        history => Err(format!("{history:#?}")),
    });
}

fn approvals(lab: &Lab) -> Vec<Value> {
    unwait(lab, &["status", "--json"]).json()["approvals"].as_array().cloned().unwrap_or_default()
}

#[test]
fn a_plan_waits_for_a_persons_word_across_a_restart_and_begins_on_it_once() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    stage.service.wait_for_leak();
    Etc::of_the_story()
        .edit(HOST, "[breach, held,", "[breach, held, approval,")
        .edit(POLICY, "mode: auto", "mode: approve")
        .write(&lab);
    let before = stage.picture();
    let mut agent = agent::run(&lab);

    let asked = stage.webhook.wait_for("approval", SOON, |request| request.json()["event"] == "approval").json();
    let held = wait_for_held(&lab, "awaiting_approval");
    assert!(held["until"].is_string(), "{held:#}");
    let id = approvals(&lab)[0]["id"].as_str().expect("an id").to_owned();
    let hash = approvals(&lab)[0]["hash"].as_str().expect("a hash")[..12].to_owned();
    assert!(asked.to_string().contains(&format!("unwait approve {id} {hash}")), "{asked:#}");
    assert!(unwait(&lab, &["plan", service::UNIT]).out.contains(&hash));
    nothing_begins(&lab);
    stage.picture().assert_as(&before);
    let stranger = unwait_as_nobody(&lab, &["approve", &id]);
    assert_ne!(stranger.code, 0, "{stranger:?}");

    // The plan is still the same, and so is what was asked.
    agent.kill();
    drop(agent);
    let _agent = agent::run(&lab);
    wait_for_held(&lab, "awaiting_approval");
    assert_eq!(approvals(&lab)[0]["id"], id.as_str());
    assert!(unwait(&lab, &["status"]).out.contains(&format!("unwait approve {id} {hash}")));
    let unread = unwait(&lab, &["approve", &id]);
    assert!(unread.code == 1 && unread.all().contains(&format!("unwait approve {id} {hash}")), "{unread:?}");
    nothing_begins(&lab);

    let said = unwait(&lab, &["approve", &id, &hash]);
    assert_eq!(said.code, 0, "{said:?}");
    stage.wait_for_passing(&OTHERS, SOON);
    assert_eq!(agent::history(&lab).len(), 1);
    assert_eq!(approvals(&lab), Vec::<Value>::new());
    let again = unwait(&lab, &["approve", &id]);
    assert!(again.code == 1 && again.all().contains("used already"), "{again:?}");
    let ended = agent::wait_for_end(&lab, Duration::from_secs(60));
    assert_eq!(ended["outcome"], "completed", "{ended:#}");
    stage.wait_for_passing(&ALL, SOON);
}

#[test]
fn a_denied_plan_is_held_and_nobody_is_asked_again() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    stage.service.wait_for_leak();
    Etc::of_the_story()
        .edit(HOST, "[breach, held,", "[breach, held, approval,")
        .edit(POLICY, "mode: auto", "mode: approve")
        .write(&lab);
    let before = stage.picture();
    let _agent = agent::run(&lab);
    wait_for_held(&lab, "awaiting_approval");
    let id = approvals(&lab)[0]["id"].as_str().expect("an id").to_owned();

    let said = unwait(&lab, &["deny", &id, "--why", "release 41 is on its way"]);

    assert_eq!(said.code, 0, "{said:?}");
    let held = wait_for_held(&lab, "approval_denied");
    assert!(held["detail"].as_str().is_some_and(|detail| detail.contains("root denied")), "{held:#}");
    nothing_begins(&lab);
    assert_eq!(approvals(&lab), Vec::<Value>::new());
    stage.picture().assert_as(&before);
}

#[test]
fn what_no_policy_asks_for_any_more_is_not_to_be_approved() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    stage.service.wait_for_leak();
    let asks = || Etc::of_the_story().edit(HOST, "[breach, held,", "[breach, held, approval,");
    asks().edit(POLICY, "mode: auto", "mode: approve").write(&lab);
    let before = stage.picture();
    let agent = agent::run(&lab);
    wait_for_held(&lab, "awaiting_approval");
    let id = approvals(&lab)[0]["id"].as_str().expect("an id").to_owned();

    asks().edit(POLICY, "mode: auto", "mode: observe").write(&lab);
    agent.signal(Signal::SIGHUP);
    wait_until_seen("the approval is withdrawn", SOON, || match approvals(&lab) {
        open if open.is_empty() => Ok(()),
        open => Err(format!("{open:#?}")),
    });

    let late = unwait(&lab, &["approve", &id]);
    assert!(late.code == 1 && late.all().contains("is closed: another plan has taken its place"), "{late:?}");
    nothing_begins(&lab);
    stage.picture().assert_as(&before);
}

#[test]
fn a_silenced_service_is_left_alone_until_the_silence_is_ended() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    stage.service.wait_for_leak();
    Etc::of_the_story().write(&lab);
    // The agent has not run here yet: a person may speak first.
    let silenced = unwait(&lab, &["silence", service::UNIT, "--for", "2h", "--why", "a migration"]);
    assert_eq!(silenced.code, 0, "{silenced:?}");
    let shorter = unwait(&lab, &["silence", service::UNIT, "--for", "1s", "--why", "a script"]);
    assert!(shorter.code == 0 && shorter.out.contains("by root: a migration"), "{shorter:?}");
    let host = unwait(&lab, &["silence", "--host"]);
    assert_eq!(host.code, 2, "for how long, and why: {host:?}");
    let agent = agent::run(&lab);

    let held = wait_for_held(&lab, "silenced");

    assert!(held["detail"].as_str().is_some_and(|detail| detail.contains("a migration")), "{held:#}");
    // The agent writes what it measures every five minutes: this is in its memory alone.
    let measured = unwait(&lab, &["history", service::UNIT, "--signals", "--json"]);
    assert!(measured.code == 0 && measured.out.contains("\"close_wait\""), "{measured:?}");
    assert!(unwait(&lab, &["status"]).out.contains(&format!("SILENCED {} by root", service::UNIT)));
    nothing_begins(&lab);
    let ended = unwait(&lab, &["silence", service::UNIT, "--end"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    stage.wait_for_passing(&OTHERS, SOON);
    drop(agent);
}

#[test]
fn where_most_of_a_fleet_is_in_breach_all_hold_and_another_tells() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    stage.service.wait_for_leak();
    Etc::of_the_story().edit(POLICY, "guards: {", "guards: { common_cause: 55%,").write(&lab);
    // Another host, first by name, is in breach for the next hour.
    let until = lab.stdout(&["date", "--utc", "--date=+1 hour", "+%Y-%m-%dT%H:%M:%SZ"]);
    let other = json!({ "version": 1, "service": "rpc-order", "host": "a-first-one", "until": until.trim() });
    let key = "/v1/kv/unwait/breaches/rpc-order/a-first-one";
    stage.consul.put(key, &other);
    let _agent = agent::run(&lab);

    let held = wait_for_held(&lab, "common_cause");

    let detail = held["detail"].as_str().expect("a detail");
    assert!(detail.starts_with("2 of 3 instances of rpc-order are in breach, on a-first-one, "), "{detail}");
    nothing_begins(&lab);
    let told = stage.webhook.requests().iter().filter(|request| request.json()["event"] == "held").count();
    assert_eq!(told, 0, "it is the other's to tell");
    stage.consul.put(
        key,
        &json!({ "version": 1, "service": "rpc-order", "host": "a-first-one", "until": "2026-01-02T03:04:05Z" }),
    );
    wait_until_seen("an incident", SOON, || match agent::history(&lab) {
        history if history.len() == 1 => Ok(()),
        history => Err(format!("{history:#?}")),
    });
}
