//! The words of a breach, before there is an incident that could tell of itself.

use super::Wiring;
use crate::model::{EventKind, Message, Mode, Policy, Readings, ServiceName, Truth};

/// Each comparison of the condition with the value beside it.
pub fn why(policy: &Policy, readings: &Readings) -> Vec<String> {
    let comparisons = policy.when.comparisons();
    comparisons
        .iter()
        .filter(|comparison| comparison.truth(readings) == Truth::True)
        .map(|comparison| format!("{comparison}: now {}", readings.get(comparison.signal).show(comparison.signal)))
        .collect()
}

pub fn breach(wiring: &Wiring, policy: &Policy, service: &ServiceName, readings: &Readings) -> Message {
    let title = format!("{service} on {}: {} is breached", wiring.host.name, policy.name);
    message(wiring, policy, service, EventKind::Breach, title, why(policy, readings))
}

pub fn recovered(wiring: &Wiring, policy: &Policy, service: &ServiceName) -> Message {
    let title = format!("{service} on {}: {} is over", wiring.host.name, policy.name);
    message(wiring, policy, service, EventKind::Recovered, title, Vec::new())
}

fn message(
    wiring: &Wiring,
    policy: &Policy,
    service: &ServiceName,
    event: EventKind,
    title: String,
    lines: Vec<String>,
) -> Message {
    Message {
        at: wiring.host.clock.now(),
        event,
        host: wiring.host.name.clone(),
        labels: wiring.labels(),
        service: Some(service.clone()),
        policy: Some(policy.name.clone()),
        incident: None,
        dry_run: policy.mode == Mode::DryRun,
        outcome: None,
        reason: None,
        step: None,
        title,
        lines,
    }
}
