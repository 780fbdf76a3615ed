//! What must be so once everything has ended, whatever went wrong; seen from outside, and by what the state says.

use std::collections::BTreeSet;

use serde_json::Value;
use unwait::model::{IncidentId, Marker};
use unwait::store::Store;

use crate::lab::cast::Host;

const MANY: usize = 1_000;

/// Something was begun, nothing is open, everything is told, and each slot that is to be given back was.
pub fn rests(store: &Store) -> bool {
    store.history(None, 1).is_ok_and(|incidents| !incidents.is_empty())
        && store.open_incidents().is_ok_and(|open| open.is_empty())
        && store.undelivered(1).is_ok_and(|waiting| waiting.is_empty())
        && store.slots_to_release().is_ok_and(|slots| slots.is_empty())
}

/// For a person, where that does not come about.
pub fn seen(store: &Store) -> String {
    let slots = (store.slots_to_release(), store.unreturned_slots());
    format!("{:#?}\n{slots:?}\n{:?}", store.history(None, MANY), store.latches())
}

/// How the incidents ended; or everything that is wrong. Where the service `died` at another hand, a restart that had
/// stopped it and is not done may start it a second time.
pub fn is_kept(host: &Host<'_>, died: bool) -> Result<Vec<String>, Vec<String>> {
    let mut wrong = Vec::new();
    let store = host.store().expect("an agent ran");
    let told = host.told();
    let incidents = store.history(None, MANY).expect("the state can be read");
    let latched: BTreeSet<String> =
        store.latches().expect("the state can be read").into_iter().map(|latch| latch.incident).collect();
    let is_told =
        |event: &str, incident: &str| told.iter().any(|told| told["event"] == event && told["incident"] == incident);

    if !rests(&store) {
        wrong.push(format!("it does not rest: {}", seen(&store)));
    }
    let marker = host.drained_by();
    match (&marker, host.answers()) {
        (Some(reason), _) => match Marker::parse(reason) {
            Some(marker) if latched.contains(&marker.incident.0) => {}
            _ => wrong.push(format!("a drain that no latch knows of: {reason}")),
        },
        (None, true) => {}
        (None, false) if !latched.is_empty() => {}
        (None, false) => wrong.push("in traffic, unhealthy, and not latched".into()),
    }
    for incident in &latched {
        if !is_told("stuck", incident) {
            wrong.push(format!("latched, and nobody was told that a person is needed: {incident}"));
        }
    }

    let mut restarts = 0;
    for row in &incidents {
        let incident = IncidentId(row.incident.clone());
        // Who asks for both is told of one that is stuck by `stuck` alone.
        if !is_told("end", &row.incident) && !is_told("stuck", &row.incident) {
            wrong.push(format!("an end that nobody was told of: {row:?}"));
        }
        let plan = store.plan(&incident).expect("the state can be read").expect("an incident has a plan");
        let journal = store.journal(&incident).expect("the state can be read");
        let events = journal.iter().map(|row| serde_json::from_str::<Value>(&row.event).expect("an event is JSON"));
        let begun =
            events.filter(|event| event["event"] == "intended" && event["step"] == Value::from(plan.pivot())).count();
        if begun > 1 {
            wrong.push(format!("a pivot that was begun {begun} times: {row:?}"));
        }
        restarts += begun;
    }
    let starts = host.starts().len();
    if starts - 1 > restarts + usize::from(died && restarts > 0) {
        wrong.push(format!("{starts} starts of the service, and {restarts} restarts were intended"));
    }
    if host.running().len() > 1 {
        wrong.push(format!("more than one copy of the service runs: {:?}", host.running()));
    }
    for slot in host.slots() {
        if !latched.contains(&slot) {
            wrong.push(format!("a slot that is held by nobody: {slot}"));
        }
    }
    if !wrong.is_empty() {
        wrong.push(format!("{incidents:#?}\nlatched: {latched:?}\nregistry: {marker:?}\ntold: {told:#?}"));
        return Err(wrong);
    }
    let end = |row: &unwait::store::IncidentRow| match (&row.outcome, &row.reason) {
        (Some(outcome), Some(reason)) => format!("{outcome}, {reason}"),
        _ => "not at all".into(),
    };
    Ok(incidents.iter().map(end).collect())
}
