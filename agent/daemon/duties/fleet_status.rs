//! What the fleet is told of this host, for whoever looks at all of it (`unwait fleet`): its breaches, what needs a person, its
//! version. Written where it has changed, and again before it would count as old.

use std::sync::Arc;
use std::time::Duration;

use super::resolve::resting_drained;
use crate::model::host::MOST_ROWS;
use crate::model::{HostBreach, HostState, HostStatus, IncidentUnderWay, StuckService};
use crate::ports::fleet::FleetError;
use crate::store::{Store, StoreError};
use crate::wiring::Wiring;

/// A host that has told nothing for so long is shown as silent.
const COUNTS_FOR: Duration = Duration::from_secs(15 * 60);
/// Three times in that time: one that is late makes nobody silent.
const AGAIN_AFTER: Duration = Duration::from_secs(5 * 60);
/// A status that changes at each look is written this often; a store of a thousand hosts takes one write of each.
const NOT_BEFORE: Duration = Duration::from_secs(30);
/// After a failure.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// What was told last.
#[derive(Debug, Default)]
pub struct TellsFleet {
    told: Option<HostStatus>,
    /// By the boot clock: when it is told again, changed or not; and before when it is not.
    due: Duration,
    not_before: Duration,
    fails: bool,
}

impl TellsFleet {
    /// `breaches` and `measures` are what the loop knows alone.
    pub async fn follow(&mut self, wiring: &Wiring, store: &Arc<Store>, breaches: Vec<HostBreach>, measures: bool) {
        let (Some(fleet), clock) = (&wiring.ports.fleet, &wiring.host.clock) else { return };
        let now = clock.monotonic();
        if now < self.not_before {
            return;
        }
        let status = match status(wiring, store, breaches, measures) {
            Ok(status) => status,
            Err(error) => {
                self.not_before = now + RETRY_AFTER;
                tracing::debug!(%error, "cannot read what the fleet is to be told of this host: {error}; retrying");
                return;
            }
        };
        if now < self.due && self.told.as_ref() == Some(&status) {
            return;
        }
        let told = fleet.publish_status(&status, clock.now() + COUNTS_FOR).await;
        (self.due, self.not_before) = (now + AGAIN_AFTER, now + NOT_BEFORE);
        match told {
            Ok(()) => {
                (self.told, self.fails) = (Some(status), false);
            }
            // Of a store that is none for this: until the configuration names another.
            Err(FleetError::Cannot(_)) => self.told = Some(status),
            Err(error) => {
                (self.due, self.not_before) = (now, now + RETRY_AFTER);
                if !std::mem::replace(&mut self.fails, true) {
                    tracing::warn!(
                        %error,
                        "cannot tell the fleet's store how this host is: {error}; `unwait fleet` shows it as silent on other hosts \
                         until that succeeds",
                    );
                }
            }
        }
    }
}

fn status(
    wiring: &Wiring,
    store: &Arc<Store>,
    mut breaches: Vec<HostBreach>,
    measures: bool,
) -> Result<HostStatus, StoreError> {
    let drained = resting_drained(store)?;
    let is_out = |service: &str| drained.iter().any(|latch| latch.service == service);
    let mut stuck: Vec<StuckService> = store
        .latches()?
        .into_iter()
        .map(|latch| StuckService {
            out_of_traffic: is_out(&latch.service),
            service: latch.service,
            since: latch.since,
            reason: latch.reason.to_string(),
        })
        .collect();
    let mut under_way: Vec<IncidentUnderWay> = store
        .under_way()?
        .into_iter()
        .map(|open| IncidentUnderWay {
            service: open.plan.target.service.to_string(),
            step: open.step,
            dry_run: open.plan.dry_run,
        })
        .collect();
    let state = match store.paused(wiring.host.clock.now())? {
        _ if !store.health().is_sound() => HostState::ObserveOnly,
        _ if !measures => HostState::NotMeasuring,
        Some(_) => HostState::Paused,
        None => HostState::AtWork,
    };
    let left_out = cut(&mut breaches) + cut(&mut stuck) + cut(&mut under_way);
    Ok(HostStatus { version: env!("CARGO_PKG_VERSION").into(), state, breaches, stuck, under_way, left_out })
}

fn cut<T>(rows: &mut Vec<T>) -> usize {
    let left_out = rows.len().saturating_sub(MOST_ROWS);
    rows.truncate(MOST_ROWS);
    left_out
}
