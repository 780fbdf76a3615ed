//! What is looked after besides: drains of ours that no incident knows of, slots to give back, evidence to let go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::crash;
use crate::model::incident::Ending;
use crate::model::{EventKind, IncidentId, Message, Outcome, Reason, ServiceName};
use crate::ports::fleet::FleetError;
use crate::ports::registry::FoundMarker;
use crate::ports::{Ports, SILENT_AFTER};
use crate::store::{OrphanedDrain, Store};
use crate::wiring::Wiring;

/// Asks each registry for this host's drains of ours. One that no open or latched incident knows of is told, and its
/// service latched: a person must say whether it may go back. False where a registry could not be asked.
pub async fn orphans(wiring: &Wiring, store: &Arc<Store>) -> bool {
    let mut known = match known(store) {
        Ok(known) => known,
        Err(error) => {
            tracing::error!(
                %error,
                "cannot read the incidents from the store: {error}; the search for drains without an incident is \
                 retried",
            );
            return false;
        }
    };
    let began = wiring.host.clock.now();
    let mut all_answered = true;
    for (name, registry) in &wiring.ports.registries {
        let found = registry.markers().await;
        // An incident may end, and another begin, while the registry answers.
        match self::known(store) {
            Ok(now) => known.extend(now),
            Err(error) => {
                tracing::error!(
                    %error,
                    "cannot read the incidents from the store: {error}; the search for drains without an incident in \
                     registry {name} is retried",
                );
                return false;
            }
        }
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(
                    registry = %name,
                    %error,
                    "cannot list the drains of this host in registry {name}: {error}; retrying. Until that succeeds, a \
                     drain that no incident knows of goes unnoticed",
                );
                all_answered = false;
                continue;
            }
        };
        for found in found {
            let incident = &found.marker.incident;
            if found.marker.host != wiring.host.name || known.contains(incident) {
                continue;
            }
            if ended_between(store, incident, began, wiring.host.clock.now()) {
                // Its drain may have been gone before its end, and the answer older than that.
                all_answered = false;
            } else if !left_by_a_person(store, incident) {
                orphan(wiring, store, name, &found);
            } else if let Err(error) = registry.forget(&found.id, &found.marker).await {
                tracing::warn!(
                    registry = %name,
                    id = %found.id,
                    %error,
                    "cannot remove our drain marker of {} from registry {name}: {error}; a person has resolved its \
                     incident, so the removal is retried",
                    found.id,
                );
                all_answered = false;
            }
        }
    }
    all_answered
}

fn known(store: &Store) -> Result<BTreeSet<IncidentId>, crate::store::StoreError> {
    let open = store.open_plans()?.into_iter().map(|plan| plan.incident);
    let latched = store.latches()?.into_iter().map(|latch| IncidentId(latch.incident));
    Ok(open.chain(latched).collect())
}

/// Did the incident end, in whatever way, while the registries were asked? A damaged row, or a clock that was set, may say of
/// any other that it ended in days to come.
fn ended_between(store: &Store, incident: &IncidentId, began: Timestamp, now: Timestamp) -> bool {
    let row = store.incident(incident).ok().flatten();
    row.is_some_and(|row| row.ended.is_some_and(|ended| began < ended && ended <= now))
}

/// A stuck incident that is latched no more was left as it is by a person (`unwait resolve --leave`): that stands, and its
/// drain is held no more. Where it cannot be read, the marker is told of rather than forgotten.
fn left_by_a_person(store: &Store, incident: &IncidentId) -> bool {
    let row = store.incident(incident).ok().flatten();
    row.and_then(|row| row.outcome).is_some_and(|outcome| outcome.is(Outcome::Stuck))
}

fn orphan(wiring: &Wiring, store: &Store, registry: &str, found: &FoundMarker) {
    let service = wiring.config.service_bound_to(registry, &found.id);
    let ending = Ending {
        outcome: Outcome::Stuck,
        reason: Reason::OrphanedMarker,
        detail: format!("{registry}/{} carries: {}", found.id, found.marker),
    };
    let message = orphan_message(wiring, service.as_ref(), &found.marker.incident, &ending);
    tracing::error!(
        registry,
        id = %found.id,
        marker = %found.marker,
        "{} in registry {registry} is drained by this host ({}), but no open incident knows of the drain: put the instance \
         back in the registry, or run `unwait resolve SERVICE --leave` where it is latched",
        found.id,
        found.marker,
    );
    (wiring.host.on_message)(&message);
    match service {
        Some(service) => {
            let now = wiring.host.clock.now();
            let orphan =
                OrphanedDrain { registry: registry.into(), id: found.id.clone(), marker: found.marker.clone() };
            if let Err(error) = store.latch_orphan(&service, &orphan, &ending, now, &wiring.audience, &message) {
                tracing::error!(
                    %error,
                    %service,
                    "cannot store the lock of {service}: {error}; the message about its drain is sent all the same",
                );
                store.tell(&wiring.audience, &[message]);
            }
        }
        None => store.tell(&wiring.audience, &[message]),
    }
}

fn orphan_message(wiring: &Wiring, service: Option<&ServiceName>, incident: &IncidentId, ending: &Ending) -> Message {
    let who = service.map_or("a service that the host's file does not name".to_string(), ToString::to_string);
    let mut lines = vec![
        ending.reason.says().to_string(),
        ending.detail.clone(),
        "Our drain keeps it OUT OF TRAFFIC, and nobody takes it back.".into(),
    ];
    if let Some(service) = service {
        // Without the incident's plan it is not known what stood there before.
        lines.push(format!(
            "let go of it: unwait resolve {service} --leave; then put it back in the registry by hand. While our marker \
             stands there, this is told again"
        ));
    }
    Message {
        labels: wiring.labels(),
        service: service.cloned(),
        incident: Some(incident.clone()),
        outcome: Some(ending.outcome),
        reason: Some(ending.reason),
        lines,
        ..Message::new(
            EventKind::Stuck,
            &wiring.host.name,
            wiring.host.clock.now(),
            format!("{who} on {}: needs a person: {}", wiring.host.name, ending.reason),
        )
    }
}

/// For so long a slot is tried to be given back before people are told ([`super::remind::of_slots`]).
const TELL_AFTER: Duration = Duration::from_secs(120);

/// Gives back the slots of incidents that completed or unwound. What cannot be given back now is tried again.
pub async fn release_slots(ports: &Ports, store: &Store, now: Timestamp) {
    let slots = match store.slots_to_release() {
        Ok(slots) => slots,
        Err(error) => {
            return tracing::error!(%error, "cannot read the fleet slots that are to be given back: {error}; retrying");
        }
    };
    for (incident, scope) in slots {
        let began = Instant::now();
        crash::point("slot", "releasing");
        let released = match &ports.fleet {
            Some(fleet) => fleet.release(&scope, &incident.0).await,
            None => Err(FleetError::Refused(
                "the fleet store is unavailable: agent.yaml has no `fleet`, or its file could not be read at the last \
                 start"
                    .into(),
            )),
        };
        crash::point("slot", "released");
        // It is silent: the others are tried later.
        let is_silent = matches!(released, Err(FleetError::Unreachable(_))) && began.elapsed() >= SILENT_AFTER;
        let noted = match released {
            Ok(()) => store.forget_slot(&incident),
            Err(error) => store.slot_not_taken_back(&incident, &error.to_string(), now, TELL_AFTER).map(|first| {
                if first {
                    tracing::warn!(
                        service = scope,
                        %incident,
                        %error,
                        "cannot give back the fleet slot of {scope} to the fleet's store: {error}; retrying. Until that \
                         succeeds, other hosts cannot get this slot",
                    );
                }
            }),
        };
        if let Err(error) = noted {
            tracing::warn!(
                %error,
                %incident,
                "cannot store the result of giving back the fleet slot of {scope}: {error}; the slot is given back \
                 once more",
            );
        }
        if is_silent {
            return;
        }
    }
}

/// Makes the fleet's word of this host true again, where its store has lost some of it.
pub async fn keep_slots(ports: &Ports, store: &Store) {
    let Some(fleet) = &ports.fleet else { return };
    let needed = match store.needed_slots() {
        Ok(needed) => needed,
        Err(error) => {
            return tracing::error!(
                %error,
                "cannot read which fleet slots this host needs: {error}; they are not compared with the fleet's store \
                 now",
            );
        }
    };
    let strays = match fleet.keep(&needed).await {
        Ok(strays) => strays,
        Err(error) => {
            return tracing::warn!(%error, "cannot read this host's slots from the fleet's store: {error}; retrying");
        }
    };
    for (service, slot) in strays {
        let incident = IncidentId(slot.incident);
        // One that this host knows nothing of is a person's: `unwait slot` shows it.
        let is_over = store.incident(&incident).is_ok_and(|row| row.is_some_and(|row| row.outcome.is_some()));
        if is_over && let Err(error) = store.note_slot(&incident, &service) {
            tracing::warn!(
                %error,
                %incident,
                "the fleet's store still lists a fleet slot of {service} for incident {incident}, which is over, but this \
                 host cannot store that the slot is to be given back again: {error}; retrying. Until then, other hosts may \
                 have to wait for the slot",
            );
        }
    }
}

/// Lets old evidence go; never that of incidents that are open or wait for a person.
pub fn retain_evidence(wiring: &Wiring, store: &Store) {
    let spare = match known(store) {
        Ok(spare) => spare,
        Err(error) => {
            return tracing::error!(
                %error,
                "cannot read the incidents from the store: {error}; no old evidence is removed",
            );
        }
    };
    match wiring.vault.retain(wiring.host.clock.now(), &spare) {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => tracing::info!(
            bundles = removed.len(),
            "removed {} old evidence bundles (`evidence: keep` of agent.yaml)",
            removed.len(),
        ),
        Err(error) => tracing::warn!(%error, "cannot remove old evidence: {error}; retrying"),
    }
    let month = Duration::from_secs(30 * 86_400);
    if let Err(error) = store.forget_told(wiring.host.clock.now() - month) {
        tracing::warn!(
            %error,
            "cannot delete messages from the store that a destination refused over 30 days ago: {error}; retrying",
        );
    }
}
