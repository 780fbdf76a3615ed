//! When the descriptors are counted that a service never closed: seldom, since it takes a walk of the whole table and a look
//! at each descriptor, and never at a tick that looks at what matters alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Effort, Sensor};
use crate::attribute::DescriptorAsk;
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
    next: Option<Duration>,
    /// Of so many services it could not be known.
    unknown: usize,
}

/// Whose descriptors are counted at this look.
#[derive(Clone, Copy)]
pub(crate) enum Due<'a> {
    Everyones,
    /// Of the service that is looked at before something is changed.
    One(&'a ServiceName),
}

impl Pace {
    pub fn due<'a>(&self, now: Duration, effort: Effort<'a>) -> Option<Due<'a>> {
        match effort {
            Effort::Gated(_) => None,
            Effort::Of(service) => Some(Due::One(service)),
            Effort::Whole | Effort::Afresh => self.next.is_none_or(|next| now >= next).then_some(Due::Everyones),
        }
    }

    pub fn blind_spot(&self) -> Option<BlindSpot> {
        (self.unknown > 0).then_some(BlindSpot::ClosedDescriptors(self.unknown))
    }
}

impl Sensor {
    /// Counts. The look has cost CPU time since `begun`.
    pub(crate) fn count_closed(&mut self, census: &mut Census, due: Due, ask: DescriptorAsk, begun: Duration) {
        if census.quality != Quality::Complete {
            return;
        }
        let unknown = self.count(census, due, ask);
        if let Due::Everyones = due {
            let cost = thread_cpu_time().saturating_sub(begun);
            self.pace = Pace { next: Some(census.monotonic + EVERY.max(cost * COSTS_AT_MOST)), unknown };
        }
    }

    /// Of how many services it is not known.
    fn count(&mut self, census: &mut Census, due: Due, ask: DescriptorAsk) -> usize {
        let mut tables = Tables::new();
        let mut unknown = 0;
        let is_due = |name: &ServiceName| match due {
            Due::Everyones => true,
            Due::One(service) => service == name,
        };
        for (name, held) in census.services.iter_mut().filter(|(name, _)| is_due(name)) {
            unknown += usize::from(!self.count_of(name, held, &mut tables, ask));
        }
        // Where keepalive has taken all that a service had, and it listens nowhere, no table has a trace of it.
        let quiet = self.attributor.quiet(&census.services);
        for (name, mut held) in quiet.into_iter().filter(|(name, _)| is_due(name)) {
            unknown += usize::from(!self.count_of(&name, &mut held, &mut tables, ask));
            if held.leaks() || self.meter.has_held(&name) || matches!(due, Due::One(_)) {
                census.services.insert(name, held);
            }
        }
        unknown
    }

    /// False where it is not known.
    pub(super) fn count_of(
        &mut self,
        name: &ServiceName,
        held: &mut ServiceCensus,
        tables: &mut Tables,
        ask: DescriptorAsk,
    ) -> bool {
        let listening = held.listening.iter().map(|(namespace, _)| *namespace);
        let mut of: BTreeSet<NetNs> = held.namespaces.iter().copied().chain(listening).collect();
        if of.is_empty() {
            of = self.collector.every_namespace();
        }
        let listed = tables
            .entry(of)
            .or_insert_with_key(|of| self.collector.inodes(of).ok().map(|(inodes, mptcp)| Listed { inodes, mptcp }));
        // After a broken walk what was counted last stands.
        let is_known = listed.as_ref().is_none_or(|listed| self.attributor.count_closed(name, held, listed));
        // What leaked once and leaks no more is told by its descriptors, where it is not known what it never closed.
        if ask == DescriptorAsk::Count && held.descriptors.is_none() && self.meter.has_held(name) {
            self.attributor.count_descriptors_of(name, held);
        }
        is_known
    }
}

/// What the tables of these namespaces list; most services live in the host's, which is read once for all of them.
type Tables = BTreeMap<BTreeSet<NetNs>, Option<Listed>>;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    use super::*;
    use crate::attribute::ServiceMatch;
    use crate::clock::SystemClock;
    use crate::model::{Reading, Signal};

    /// Where what it never closed cannot be known, a breach for descriptors can end by these.
    #[test]
    fn the_descriptors_of_what_leaked_once_are_counted_also_once_it_leaks_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        std::fs::write(&pid_file, std::process::id().to_string()).unwrap();
        let service = ServiceName::parse("process:ours").unwrap();
        let found = ServiceMatch {
            service: service.clone(),
            ports: vec![],
            cgroup: None,
            process: None,
            pid_file: Some(pid_file),
            supervised: false,
        };
        let asked = vec![Signal::FdRatio, Signal::FdClosed];
        let mut sensor = Sensor::new(vec![found], asked, Arc::new(SystemClock)).unwrap();
        let mut look = || {
            sensor.pace = Pace::default(); // a minute has gone by
            let readings = sensor.look(Effort::Whole).unwrap().measurements.of(&service);
            let is_known = matches!(readings.get(Signal::FdRatio), Reading::Known(_));
            (readings.get(Signal::CloseWait), is_known)
        };
        assert_eq!(look(), (Reading::Known(0.0), false), "nothing was ever leaked");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (leaked, _) = listener.accept().unwrap();
        std::io::copy(&mut &leaked, &mut std::io::sink()).unwrap();
        assert_eq!(look(), (Reading::Known(1.0), true));
        drop(leaked);
        assert_eq!(look(), (Reading::Known(0.0), true));
    }
}
