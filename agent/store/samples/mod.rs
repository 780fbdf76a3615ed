//! Down-sampled signal history, for plots, replay and evidence.
//!
//! The agent's loop calls [`Store::record`] once a tick. For each step of each tier ([`tiers`]) and each signal the last
//! reading, the least and the most are kept. What was recorded is written every five minutes, in one synced
//! transaction for all services: the rows of the blocks under way are read, joined with what is new, and written again
//! ([`encoding`] holds their format). So a restart goes on where the former agent ended, and a wall clock that is set
//! back meets its own blocks again.
//!
//! | | what it is | as it is kept |
//! |---|---|---|
//! | gap | the agent did not look | the host's row has no such step |
//! | unknown | it looked, and could not measure | the step is there without the signal |
//! | quiet | no socket in CLOSE_WAIT | the host's row has the step, the service's has not; reads as zero |
//!
//! A service that was quiet for a whole block has no row; what else was known of it then (its descriptors) is not
//! kept. The host's row (no service's name) holds `host.close_wait`, once for all services.
//!
//! History is not the journal. A write that fails is tried again at the next turn, and keeps no incident from being
//! journaled: it does not turn the agent observe-only, and while the store is failing nothing is tried at all, so that what
//! is left of a full disk is left to the journal. What cannot wait longer is dropped and counted.
//!
//! Blocks are dropped by count, the one written longest ago first, whatever time they speak of.

mod bits;
mod encoding;
mod pending;
mod read;
mod rows;
mod tiers;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;

use super::{Health, Store, StoreError};
use crate::model::{Reading, Readings, ServiceName};

use encoding::{Known, Steps};
use pending::{Pending, PendingStep};
use rows::{HOST, Rewrite};
use tiers::TIERS;

pub(super) use rows::MIGRATION;

/// What a crash loses of the history, at the most.
const WRITE_EVERY: Duration = Duration::from_secs(300);
/// Steps of each tier that wait for a disk that refuses them: three turns of the finest.
const MOST_WAITING: usize = 15;

/// What waits to be written.
#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    pending: Pending,
    /// When a write was tried last, by the monotonic clock.
    tried: Option<Duration>,
    failing: bool,
    lost: u64,
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A panic while it is held leaves a step without some of its services, no worse.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Store {
    /// One tick, at the wall time `at` and the monotonic time `monotonic`. `host_close_wait`: unknown where the look could
    /// not be trusted; then so is every service. `services`: those that hold sockets in CLOSE_WAIT, or did; any other
    /// holds none. Costs memory alone, but for one write in five minutes; what becomes of that is the history's affair.
    pub fn record<'a>(
        &self,
        at: Timestamp,
        monotonic: Duration,
        host_close_wait: Reading,
        services: impl Iterator<Item = (&'a ServiceName, &'a Readings)> + Clone,
    ) {
        let mut waiting = self.samples.lock();
        waiting.pending.add(at.as_millisecond(), host_close_wait, services);
        let tried = *waiting.tried.get_or_insert(monotonic);
        if monotonic.saturating_sub(tried) >= WRITE_EVERY {
            waiting.tried = Some(monotonic);
            self.write_waiting(&mut waiting);
        }
    }

    /// Writes what was recorded, now: when the agent ends.
    pub fn write_samples(&self) {
        self.write_waiting(&mut self.samples.lock());
    }

    /// Steps that could not be written in time and were dropped, all services' at once, since the agent started.
    pub fn samples_lost(&self) -> u64 {
        self.samples.lock().lost
    }

    fn write_waiting(&self, waiting: &mut Waiting) {
        let written = match self.health() {
            Health::Sound => self.write_pending(&waiting.pending).map_err(Some),
            Health::Failing | Health::Hanging(_) => Err(None),
        };
        match written {
            Ok(()) => {
                if waiting.failing {
                    tracing::info!(
                        lost = waiting.lost,
                        "the signal history can be written again; one-minute samples lost so far: {}",
                        waiting.lost,
                    );
                }
                waiting.failing = false;
                waiting.pending = Pending::default();
            }
            Err(error) => {
                if let Some(error) = error.filter(|_| !waiting.failing) {
                    tracing::warn!(
                        %error,
                        "cannot write the signal history: {error}; retrying, and nothing but the history is affected",
                    );
                }
                waiting.failing = true;
                waiting.lost += waiting.pending.shrink(MOST_WAITING) as u64;
            }
        }
    }

    /// The connection is not held while rows are joined and encoded: the journal need not wait for that.
    fn write_pending(&self, pending: &Pending) -> Result<(), StoreError> {
        let mut rewrites = Vec::new();
        for ((place, start), seen) in pending.by_block() {
            let tier = &TIERS[place];
            let mut block = self.read(|connection| rows::block(connection, tier, start))?;
            let rows: Vec<_> = joined(block.decoded(tier), &seen)
                .into_iter()
                .map(|(service, steps)| {
                    let row = encoding::encode(&steps, tier.steps_in_block, &mut block.signals);
                    (service, row)
                })
                .collect();
            rewrites.push(Rewrite { tier, start, signals: block.signals, rows });
        }
        if rewrites.is_empty() {
            return Ok(());
        }
        self.transact(|transaction| rows::write(transaction, &rewrites), false)
    }
}

/// The rows of a block with what was seen since; without those that need no write.
fn joined(mut rows: BTreeMap<String, Option<Steps>>, seen: &[(u16, &PendingStep)]) -> BTreeMap<String, Steps> {
    let loud = |known: &Known| !pending::is_quiet(known);
    let mut changed: BTreeMap<String, Steps> = BTreeMap::new();
    let mut take = |service: &str| rows.remove(service).map(|damaged| damaged.unwrap_or_default());
    let host = changed.entry(HOST.into()).or_insert_with(|| take(HOST).unwrap_or_default());
    let looked_before: Vec<bool> =
        seen.iter().map(|(index, _)| host.get(index).is_some_and(|known| !known.is_empty())).collect();
    for (index, now) in seen {
        pending::follow(host.entry(*index).or_default(), now.host.clone());
    }
    let mut services: Vec<&ServiceName> = seen.iter().flat_map(|(_, now)| now.services.keys()).collect();
    services.sort_unstable();
    services.dedup();
    for service in services {
        let row = take(service.as_str());
        if row.is_none() && !seen.iter().filter_map(|(_, now)| now.services.get(service)).any(loud) {
            continue;
        }
        let mut steps = row.unwrap_or_default();
        for ((index, now), looked_before) in seen.iter().zip(&looked_before) {
            let Some(later) = now.services.get(service) else { continue };
            let nothing = if *looked_before { pending::quiet(later) } else { Known::new() };
            pending::follow(steps.entry(*index).or_insert(nothing), later.clone());
        }
        changed.insert(service.as_str().into(), steps);
    }
    changed
}

#[cfg(test)]
mod tests;
