//! The words of what is told outside an incident: a breach, before there is one; a memory that is lost, or out of reach.

use crate::model::{EventKind, IncidentId, Message, Mode, Policy, Readings, Reason, ServiceName, Truth, duration};
use crate::store::{Latch, Pause, UnreturnedSlot};
use crate::view::status::RejectedConfiguration;
use crate::wiring::Wiring;

/// Each comparison of the condition with the value beside it.
pub fn why(policy: &Policy, readings: &Readings) -> Vec<String> {
    let comparisons = policy.when.comparisons();
    comparisons
        .iter()
        .filter(|comparison| comparison.truth(readings) == Truth::True)
        .map(|comparison| format!("{comparison}: now {}", readings.show(comparison.signal)))
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

/// The agent does not know any more what it knew, and does nothing until a person has looked.
pub fn forgot(wiring: &Wiring, pause: &Pause) -> Message {
    let forgotten = "Services that it had drained are looked for in the registries, and told. Restarts that were under way, \
                     and slots of the fleet that it held, are forgotten: look at both.";
    Message {
        labels: wiring.labels(),
        reason: Some(Reason::Paused),
        lines: vec![
            pause.why.clone(),
            forgotten.into(),
            "look:   unwait status; unwait slot".into(),
            "decide: unwait resume   (once the services of this host are as they should be)".into(),
        ],
        ..Message::new(
            EventKind::Stuck,
            &wiring.host.name,
            wiring.host.clock.now(),
            format!("unwait on {}: it has lost its memory, and is paused", wiring.host.name),
        )
    }
}

/// The other hosts wait for a slot that this one needs no more.
pub fn unreturned(wiring: &Wiring, slot: &UnreturnedSlot) -> Message {
    let (host, now) = (&wiring.host.name, wiring.host.clock.now());
    let UnreturnedSlot { incident, service, error, since } = slot;
    let lasts = now.duration_since(*since).unsigned_abs().as_secs() / 60 * 60;
    let lasts = duration::format(std::time::Duration::from_secs(lasts));
    Message {
        labels: wiring.labels(),
        incident: Some(IncidentId(incident.clone())),
        lines: vec![
            error.clone(),
            format!(
                "A fleet slot is the permission to act on {service}. {host} is done with the slot, but the fleet's store has \
                 not taken it back. Until then, other hosts may have to wait for the slot. {host} tries again every 30s."
            ),
            format!("look: unwait slot --service {service}"),
            format!("free it now: unwait slot release {host} --service {service}, or in the fleet's store itself"),
        ],
        ..Message::new(
            EventKind::Stuck,
            host,
            now,
            format!("{service} on {host}: its fleet slot could not be given back for {lasts}; no other host gets it"),
        )
    }
}

/// The agent is there, and can neither watch nor go on with what a former one began.
pub fn no_state(wiring: &Wiring, error: &dyn std::fmt::Display) -> Message {
    let state = wiring.config.host.state.display();
    Message {
        labels: wiring.labels(),
        reason: Some(Reason::JournalNotWritable),
        lines: vec![
            error.to_string(),
            "Until the agent can open its state, unwait watches no service and ends no incident. Services that unwait drained \
             before may still be out of traffic."
                .into(),
            format!("look: findmnt --target {state}; df {state}; dmesg; make it writable, and the agent goes on by itself"),
        ],
        ..Message::new(
            EventKind::Stuck,
            &wiring.host.name,
            wiring.host.clock.now(),
            format!("unwait on {}: the agent cannot open its state in {state}", wiring.host.name),
        )
    }
}

pub fn state_again(wiring: &Wiring) -> Message {
    Message {
        labels: wiring.labels(),
        ..Message::new(
            EventKind::Recovered,
            &wiring.host.name,
            wiring.host.clock.now(),
            format!("unwait on {}: the agent can open its state again, and goes on", wiring.host.name),
        )
    }
}

/// The agent ends, and leaves services out of traffic that a person must decide about.
pub fn stay_out(wiring: &Wiring, latches: &[Latch]) -> Message {
    let host = &wiring.host.name;
    let services: Vec<&str> = latches.iter().map(|latch| latch.service.as_str()).collect();
    let stay = if services.len() == 1 { "stays" } else { "stay" };
    let of = |latch: &Latch| {
        let Latch { service, incident, since, .. } = latch;
        format!(
            "{service}: out of traffic since {since:.0}: unwait show {incident}; unwait resolve {service} --restore | --leave"
        )
    };
    let mut lines: Vec<String> = latches.iter().map(of).collect();
    lines.push(
        "While no agent runs, nobody is reminded, and a registry that forgets a drain may send traffic again. Start the agent \
         (systemctl start unwait), then decide by the commands above."
            .into(),
    );
    Message {
        labels: wiring.labels(),
        lines,
        ..Message::new(
            EventKind::Stuck,
            host,
            wiring.host.clock.now(),
            format!(
                "unwait on {host}: the agent is stopping, and {} {stay} drained, without traffic",
                services.join(", ")
            ),
        )
    }
}

/// Error lines of a rejected configuration that are told; all of them stand in the log of who asked.
const ERRORS_TOLD: usize = 20;

/// Files that were to be put in force are not.
pub fn rejected(wiring: &Wiring, rejected: &RejectedConfiguration, in_full: &str, by: &[String]) -> Message {
    let host = &wiring.host.name;
    let RejectedConfiguration { at, why, in_force_since } = rejected;
    let mut lines: Vec<String> = match in_full {
        "" => vec![why.clone()],
        all => all.lines().take(ERRORS_TOLD).map(Into::into).collect(),
    };
    lines.extend(asked_by(by));
    lines.push(format!("The configuration of {in_force_since:.0} stays in force."));
    lines.push("look: unwait check; then: systemctl reload unwait".into());
    let title = format!("unwait on {host}: the new configuration is rejected");
    Message { labels: wiring.labels(), lines, ..Message::new(EventKind::Stuck, host, *at, title) }
}

/// After one that was rejected.
pub fn accepted(wiring: &Wiring, by: &[String]) -> Message {
    let (host, now) = (&wiring.host.name, wiring.host.clock.now());
    let title = format!("unwait on {host}: the new configuration is accepted");
    let lines = asked_by(by).into_iter().collect();
    Message { labels: wiring.labels(), lines, ..Message::new(EventKind::Recovered, host, now, title) }
}

fn asked_by(people: &[String]) -> Option<String> {
    (!people.is_empty()).then(|| format!("asked for by {}", people.join("; ")))
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
        labels: wiring.labels(),
        service: Some(service.clone()),
        policy: Some(policy.name.clone()),
        dry_run: policy.mode == Mode::DryRun,
        lines,
        ..Message::new(event, &wiring.host.name, wiring.host.clock.now(), title)
    }
}
