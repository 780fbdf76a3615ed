//! The history of one service, put together from the tiers and from what is not written yet.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::super::{Store, StoreError, time};
use super::encoding::{Known, Range, scale};
use super::pending::{self, is_zero_when_quiet};
use super::rows::{self, HOST};
use super::tiers::{TIERS, Tier};
use crate::model::{Readings, Sample, ServiceName, Signal, Spread};

/// What is zero at a quiet step without being named anywhere; those with an argument are named by the blocks.
const PLAIN: [Signal; 8] = [
    Signal::CloseWait,
    Signal::CloseWaitInbound,
    Signal::CloseWaitOutbound,
    Signal::CloseWaitOldest,
    Signal::CloseWaitUnaccepted,
    Signal::CloseWaitUnread,
    Signal::CloseWaitSending,
    Signal::CloseWaitHostShare,
];

/// One step of the service, and of the host.
#[derive(Default)]
struct Moment {
    host: Known,
    service: Option<Known>,
}

impl Store {
    /// The service's signals from `from` up to, and without, `until`, oldest first: each time as finely as it is still
    /// known, and once. A step at which the agent did not look is missing; one at which it could not measure is there
    /// without the signal. A row that is damaged is logged, and is a gap.
    pub fn samples(&self, service: &ServiceName, from: Timestamp, until: Timestamp) -> Result<Vec<Sample>, StoreError> {
        let (from, until) = (from.as_millisecond(), until.as_millisecond());
        let mut zero = BTreeSet::from(PLAIN);
        // Which blocks of the finer tier are there: what they speak of is not said again by a coarser one.
        let mut finer: Option<(&Tier, BTreeSet<i64>)> = None;
        let mut samples = BTreeMap::new();
        for (place, tier) in TIERS.iter().enumerate() {
            let (moments, named) = self.moments(service, place, from, until)?;
            zero.extend(named.into_iter().filter(|signal| is_zero_when_quiet(*signal)));
            let said = |at: i64| finer.as_ref().is_some_and(|(tier, blocks)| blocks.contains(&tier.block_of(at)));
            let new = moments.into_iter().filter(|(at, _)| !said(*at));
            let new: BTreeMap<i64, (&Tier, Moment)> = new.map(|(at, moment)| (at, (tier, moment))).collect();
            finer = Some((tier, new.keys().map(|at| tier.block_of(*at)).collect()));
            samples.extend(new);
        }
        let within = |at: &i64, tier: &Tier| at.saturating_add(tier.step_millis()) > from && *at < until;
        let samples = samples.into_iter().filter(|(at, (tier, _))| within(at, tier));
        Ok(samples.map(|(at, (tier, moment))| moment.sample(at, tier, &zero)).collect())
    }

    /// The services that have a history, by name.
    pub fn services_with_samples(&self) -> Result<Vec<String>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT DISTINCT service FROM sample WHERE service <> ?1 ORDER BY service")?
                .query_map([HOST], |row| row.get(0))?
                .collect()
        })
    }

    /// The steps of one tier by their beginnings, and the signals that its blocks name.
    fn moments(
        &self,
        service: &ServiceName,
        place: usize,
        from: i64,
        until: i64,
    ) -> Result<(BTreeMap<i64, Moment>, BTreeSet<Signal>), StoreError> {
        let tier = &TIERS[place];
        let (mut moments, mut named) = (BTreeMap::<i64, Moment>::new(), BTreeSet::new());
        let blocks = self.read(|connection| rows::blocks_of(connection, tier, service.as_str(), from, until))?;
        for block in blocks {
            named.extend(block.signals.iter().filter_map(|name| Signal::parse(name).ok()));
            let mut rows = block.decoded(tier);
            // Without the host's row it is not known when the agent looked; without the service's it would read as quiet.
            let (Some(Some(host)), Some(own)) =
                (rows.remove(HOST), rows.remove(service.as_str()).unwrap_or(Some(BTreeMap::new())))
            else {
                continue;
            };
            let at = |index: u16| block.start.saturating_add(i64::from(index) * tier.step_millis());
            for (index, known) in host {
                moments.entry(at(index)).or_default().host = known;
            }
            for (index, known) in own {
                moments.entry(at(index)).or_default().service = Some(known);
            }
        }
        let waiting = self.samples.lock();
        for ((_, at), seen) in waiting.pending.0.range((place, i64::MIN)..=(place, i64::MAX)) {
            let moment = moments.entry(*at).or_default();
            let looked_before = !moment.host.is_empty();
            pending::follow(&mut moment.host, seen.host.clone());
            if let Some(later) = seen.services.get(service) {
                let nothing = if looked_before { pending::quiet(later) } else { Known::new() };
                pending::follow(moment.service.get_or_insert(nothing), later.clone());
                named.extend(later.keys());
            }
        }
        Ok((moments, named))
    }
}

impl Moment {
    /// `zero`: what is zero where the service was quiet.
    fn sample(self, at: i64, tier: &Tier, zero: &BTreeSet<Signal>) -> Sample {
        let Self { host, service } = self;
        let own = match service {
            Some(own) => own,
            None if host.is_empty() => Known::new(),
            None => zero.iter().map(|signal| (*signal, Range::of(0))).collect(),
        };
        let readings = |of: fn(&Range) -> i64| {
            let mut readings = Readings::default();
            for (signal, range) in own.iter().chain(&host) {
                readings.set(*signal, of(range) as f64 / scale(*signal));
            }
            readings
        };
        Sample {
            at: time(at),
            readings: readings(|range| range.last),
            spread: Some(Spread {
                step: tier.step,
                least: readings(|range| range.least),
                most: readings(|range| range.most),
            }),
        }
    }
}
