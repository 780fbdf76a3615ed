//! When the descriptors are counted that a service never closed: seldom, since it takes a walk of the whole table and a look
//! at each descriptor, and never at a tick that looks at what matters alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Effort, Sensor};
use crate::attribute::closed::Listed;
use crate::clock::thread_cpu_time;
use crate::model::socket::{BlindSpot, Quality};
use crate::model::{Census, NetNs, ServiceCensus, ServiceName};

/// Once a minute: the agent looks at everything in each of the wall clock's, some seconds earlier or later.
const EVERY: Duration = Duration::from_secs(50);
/// No more than this part of one core, 0.5%, whatever there is to count.
const COSTS_AT_MOST: u32 = 200;

/// What is remembered from one count to the next.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Since boot; `None`: nothing was counted yet.
    due: Option<Duration>,
    /// Of so many services it could not be known.
    unknown: usize,
}

impl Sensor {
    /// Counts where it is due, all services or the one that is looked at before something is changed. What could not be.
    pub(crate) fn count_closed(&mut self, census: &mut Census, effort: Effort) -> Option<BlindSpot> {
        let begun = thread_cpu_time();
        let now = census.monotonic;
        let only = match effort {
            Effort::Gated(_) => return None,
            Effort::Of(service) => Some(service),
            Effort::Whole | Effort::Afresh => None,
        };
        if census.quality != Quality::Complete {
            return None;
        }
        if only.is_some() || self.pace.due.is_none_or(|due| now >= due) {
            let services = census.services.iter_mut().filter(|(name, _)| only.is_none_or(|only| *name == only));
            let unknown = count(&mut self.collector, &mut self.attributor, services);
            if only.is_none() {
                let cost = thread_cpu_time().saturating_sub(begun);
                self.pace = Pace { due: Some(now + EVERY.max(cost * COSTS_AT_MOST)), unknown };
            }
        }
        (self.pace.unknown > 0).then_some(BlindSpot::ClosedDescriptors(self.pace.unknown))
    }
}

/// Of how many of them it is not known.
fn count<'a>(
    collector: &mut crate::collect::Collector,
    attributor: &mut crate::attribute::Attributor,
    services: impl Iterator<Item = (&'a ServiceName, &'a mut ServiceCensus)>,
) -> usize {
    // Most services live in the host's namespace, whose table is read once for all of them.
    let mut tables: BTreeMap<BTreeSet<NetNs>, Option<Listed>> = BTreeMap::new();
    let mut unknown = 0;
    for (name, held) in services {
        let listening = held.listening.iter().map(|(namespace, _)| *namespace);
        let mut of: BTreeSet<NetNs> = held.namespaces.iter().copied().chain(listening).collect();
        if of.is_empty() {
            of.insert(collector.own_namespace());
        }
        let listed = tables
            .entry(of)
            .or_insert_with_key(|of| collector.inodes(of).ok().map(|(inodes, mptcp)| Listed { inodes, mptcp }));
        // After a broken walk what was counted last stands.
        if let Some(listed) = listed {
            unknown += usize::from(!attributor.count_closed(name, held, listed));
        }
    }
    unknown
}
