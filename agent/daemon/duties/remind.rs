//! A reminder of what stays latched: a service that nobody decides on is not forgotten with the message that told of it.
//! Of a fleet slot that is not taken back. And of a memory that is lost: the agent is paused until somebody has looked.

use super::messages;
use crate::model::{EventKind, IncidentId, Message, ServiceName, duration};
use crate::store::{AGENT, Latch, Store};
use crate::wiring::Wiring;

/// All of these, where they are due.
pub fn of_all(wiring: &Wiring, store: &Store) {
    of_latches(wiring, store);
    of_slots(wiring, store);
    of_lost_memory(wiring, store);
}

/// Reminds people of each latch that they were last told of a period ago.
pub fn of_latches(wiring: &Wiring, store: &Store) {
    let (now, every) = (wiring.host.clock.now(), wiring.config.host.remind);
    let due = match store.due_reminders(now, every) {
        Ok(due) => due,
        Err(error) => {
            return tracing::error!(
                %error,
                "cannot read from the store which services are locked until a person has looked: {error}; nobody is reminded of them \
                 this time, and they stay locked",
            );
        }
    };
    for latch in due {
        let message = message(wiring, &latch);
        match store.remind(&latch, now, every, &wiring.audience, &message) {
            Ok(true) => (wiring.host.on_message)(&message),
            Ok(false) => {}
            Err(error) => tracing::error!(
                %error,
                service = latch.service,
                "cannot store the reminder about {}: {error}; retrying",
                latch.service,
            ),
        }
    }
}

/// Tells of each slot that the fleet's store has not taken back for a while, and again each period until it does.
pub fn of_slots(wiring: &Wiring, store: &Store) {
    let (now, every) = (wiring.host.clock.now(), wiring.config.host.remind);
    let due = match store.due_slots(now) {
        Ok(due) => due,
        Err(error) => {
            return tracing::error!(
                %error,
                "cannot read the fleet slots that are to be given back: {error}; the reminders are skipped",
            );
        }
    };
    for slot in due {
        let message = messages::unreturned(wiring, &slot);
        match store.tell_of_slot(&slot, now, every, &wiring.audience, &message) {
            Ok(true) => (wiring.host.on_message)(&message),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(
                    %error,
                    service = slot.service,
                    "cannot store the message about the fleet slot of {}: {error}; retrying",
                    slot.service,
                )
            }
        }
    }
}

/// Tells that the agent has lost its memory, and again each period until it is resumed.
pub fn of_lost_memory(wiring: &Wiring, store: &Store) {
    let (now, every) = (wiring.host.clock.now(), wiring.config.host.remind);
    let pause = match store.paused(now) {
        Ok(Some(pause)) if pause.who == AGENT => pause,
        Ok(_) => return,
        Err(error) => {
            return tracing::error!(
                %error,
                "cannot read the pause from the store: {error}; the reminder about the lost state is skipped",
            );
        }
    };
    let message = messages::forgot(wiring, &pause);
    match store.remind_of_own_pause(now, every, &wiring.audience, &message) {
        Ok(true) => (wiring.host.on_message)(&message),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "cannot store the message about the lost state: {error}; retrying"),
    }
}

fn message(wiring: &Wiring, latch: &Latch) -> Message {
    let now = wiring.host.clock.now();
    let Latch { service, incident, reason, detail, since, .. } = latch;
    let lasts = now.duration_since(*since).unsigned_abs();
    let lasts = duration::format(std::time::Duration::from_secs(lasts.as_secs() / 60 * 60));
    Message {
        labels: wiring.labels(),
        service: ServiceName::parse(service).ok(),
        incident: Some(IncidentId(incident.clone())),
        lines: vec![
            detail.clone(),
            format!("unwait does nothing more to {service} (latched) until a person decides."),
            format!("look:   unwait show {incident}"),
            format!("decide: unwait resolve {service} --restore   (or --leave)"),
        ],
        ..Message::new(
            EventKind::Stuck,
            &wiring.host.name,
            now,
            format!("{service} on {}: still needs a person, for {lasts} now: {reason}", wiring.host.name),
        )
    }
}
