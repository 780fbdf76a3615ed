//! What was recorded since the last write, and how what came later joins what came before. Pure.

use std::collections::BTreeMap;

use super::encoding::{Known, Range, scaled};
use super::tiers::TIERS;
use crate::model::{Reading, Readings, ServiceName, Signal};

/// One step of all services. A service that is not in it was measured all the same, and held no socket.
#[derive(Debug, Default)]
pub struct PendingStep {
    /// What speaks of the whole host. Empty: looked at, and no look could be trusted.
    pub host: Known,
    pub services: BTreeMap<ServiceName, Known>,
}

/// By tier (its place in [`TIERS`]) and the beginning of the step.
#[derive(Debug, Default)]
pub struct Pending(pub BTreeMap<(usize, i64), PendingStep>);

impl Pending {
    /// One tick.
    pub fn add<'a>(
        &mut self,
        at: i64,
        host_close_wait: Reading,
        services: impl Iterator<Item = (&'a ServiceName, &'a Readings)> + Clone,
    ) {
        for (place, tier) in TIERS.iter().enumerate() {
            let seen = self.0.entry((place, tier.step_of(at))).or_default();
            let Reading::Known(host) = host_close_wait else { continue };
            let looked_before = !seen.host.is_empty();
            for (service, readings) in services.clone() {
                let later = known(readings);
                match seen.services.get_mut(service) {
                    Some(earlier) => follow(earlier, later),
                    None => {
                        let mut earlier = if looked_before { quiet(&later) } else { Known::new() };
                        follow(&mut earlier, later);
                        seen.services.insert(service.clone(), earlier);
                    }
                }
            }
            if seen.services.len() > services.clone().count() {
                let now: std::collections::BTreeSet<_> = services.clone().map(|(service, _)| service).collect();
                for (_, earlier) in seen.services.iter_mut().filter(|(service, _)| !now.contains(service)) {
                    let later = quiet(earlier);
                    follow(earlier, later);
                }
            }
            follow(&mut seen.host, known_of([(Signal::HostCloseWait, host)]));
        }
    }

    /// What was seen in each block (by tier and beginning), by the steps' places in it.
    pub fn by_block(&self) -> BTreeMap<(usize, i64), Vec<(u16, &PendingStep)>> {
        let mut blocks: BTreeMap<(usize, i64), Vec<(u16, &PendingStep)>> = BTreeMap::new();
        for ((place, step), seen) in &self.0 {
            let tier = &TIERS[*place];
            blocks.entry((*place, tier.block_of(*step))).or_default().push((tier.index_of(*step), seen));
        }
        blocks
    }

    /// Drops the oldest steps of each tier beyond `at_most`, and says how many.
    pub fn shrink(&mut self, at_most: usize) -> usize {
        let before = self.0.len();
        for place in 0..TIERS.len() {
            while self.0.range((place, i64::MIN)..=(place, i64::MAX)).count() > at_most {
                let oldest = self.0.range((place, i64::MIN)..).next().map(|(key, _)| *key);
                oldest.map(|key| self.0.remove(&key));
            }
        }
        before - self.0.len()
    }
}

/// Within one step: this, and then `later`.
pub fn follow(earlier: &mut Known, later: Known) {
    for (signal, range) in later {
        earlier.entry(signal).and_modify(|known| *known = known.and_then(range)).or_insert(range);
    }
}

/// The same signals of a service that holds no socket in CLOSE_WAIT, as far as that says what they are.
pub fn quiet(like: &Known) -> Known {
    like.keys().filter(|signal| is_zero_when_quiet(**signal)).map(|signal| (*signal, Range::of(0))).collect()
}

/// No socket in CLOSE_WAIT over the whole step.
pub fn is_quiet(known: &Known) -> bool {
    known.get(&Signal::CloseWait).is_some_and(|range| range.most == 0)
}

/// Where there is no socket in CLOSE_WAIT, these are zero, and known to be.
pub fn is_zero_when_quiet(signal: Signal) -> bool {
    match signal {
        Signal::CloseWait
        | Signal::CloseWaitInbound
        | Signal::CloseWaitOutbound
        | Signal::CloseWaitAged(_)
        | Signal::CloseWaitOldest
        | Signal::CloseWaitUnaccepted
        | Signal::CloseWaitUnread
        | Signal::CloseWaitSending
        | Signal::CloseWaitHostShare => true,
        // Of the minutes before, of the host, or not of CLOSE_WAIT at all.
        Signal::CloseWaitGrowth(_)
        | Signal::HostCloseWait
        | Signal::Established
        | Signal::FdUsed
        | Signal::FdRatio
        | Signal::FdClosed
        | Signal::FdExhaustedIn => false,
    }
}

fn known(readings: &Readings) -> Known {
    known_of(readings.iter().filter(|(signal, _)| !signal.is_of_the_host()))
}

fn known_of(readings: impl IntoIterator<Item = (Signal, f64)>) -> Known {
    let ranges = readings.into_iter().filter_map(|(signal, value)| Some((signal, Range::of(scaled(signal, value)?))));
    ranges.collect()
}
