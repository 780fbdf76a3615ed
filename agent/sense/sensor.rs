//! Collect, attribute, measure: one look at the host.

pub mod cautions;
mod closed;
mod elsewhere;
pub mod every_socket;
pub mod gentle;
pub mod identity;
mod inbound;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use jiff::Timestamp;

use crate::attribute::{Attributor, DescriptorAsk, ServiceMatch};
use crate::clock::{Clock, thread_cpu_time};
use crate::collect::{Ask, CollectError, Collector};
use crate::measure::{Measurements, Meter};
use crate::model::census::{NoOwner, Owned, Stray};
use crate::model::socket::{BlindSpot, PassedOver, Quality};
use crate::model::{Census, NetNs, ServiceCensus, ServiceName, Signal, TableRow};

/// What was seen at one look. The sockets themselves are gone: there may be hundreds of thousands.
#[derive(Debug)]
pub struct Look {
    pub measurements: Measurements,
    /// All sockets in CLOSE_WAIT that were walked, owned or not.
    pub host_close_wait: u64,
    /// Those without an owner, by the reason.
    pub unattributed: BTreeMap<NoOwner, u64>,
    /// Those of them that were made in a cgroup which is no service, by the cgroup's id.
    pub of_no_service: BTreeMap<u64, u64>,
    /// What was not walked, because it could not matter.
    pub passed_over: PassedOver,
    pub blind_spots: Vec<BlindSpot>,
    /// `sock_diag`, or `procfs` where netlink is not to be had.
    pub source: &'static str,
    /// CPU time that the look took.
    pub cost: Duration,
}

/// How closely to look.
#[derive(Clone, Copy, Default)]
pub enum Effort<'a> {
    /// Whatever matters, and only that: see [`Ask::matters`].
    Gated(&'a dyn Fn(u64, u64) -> bool),
    /// Everything that a tick looks at.
    #[default]
    Whole,
    /// Everything, and each socket is asked anew: to see what is so now.
    Afresh,
    /// The same, and whether this service's own processes hold what is counted as its: before something is changed.
    Of(&'a ServiceName),
}

/// How often it is asked whether somebody else still looks.
const FREE_EVERY: Duration = Duration::from_millis(10);

/// For looking through the descriptors of one service's processes: some 3 µs each.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);

/// What supervisors and containers' daemons said a moment ago.
#[derive(Debug, Default)]
pub struct Told {
    /// The main processes of supervised services.
    pub mains: Vec<(ServiceName, u32)>,
    /// Containers by their names, and what their cgroups call them.
    pub containers: Vec<(ServiceName, ServiceName)>,
}

/// What is known of one service's sockets, each in full; for the evidence.
#[derive(Debug)]
pub struct Closely {
    pub at: Timestamp,
    /// Where the look was partial, why: then it may have missed some.
    pub partial: Option<String>,
    pub sockets: Vec<Owned>,
    /// The whole TCP table of the network namespaces that it lives in.
    pub table: Vec<TableRow>,
    /// Which processes hold its sockets, and how many each.
    pub holders: BTreeMap<u32, usize>,
    /// Its descriptors at TCP sockets that no table lists any more; `None`: not known.
    pub closed: Option<u64>,
}

impl std::fmt::Debug for Effort<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gated(_) => "Gated",
            Self::Whole => "Whole",
            Self::Afresh => "Afresh",
            Self::Of(_) => "Of",
        })
    }
}

/// The sensor, shared by the tick and by sagas that measure afresh. Never locked across a wait. A look takes milliseconds;
/// a close one for the evidence takes seconds, on a thread of its own ([`on_blocking_thread`]).
#[derive(Clone, Debug)]
pub struct SharedSensor(Arc<Mutex<Sensor>>);

impl SharedSensor {
    pub fn new(sensor: Sensor) -> Self {
        Self(Arc::new(Mutex::new(sensor)))
    }

    /// Waits until nobody else looks, and keeps no other task of this thread from its turn meanwhile.
    pub async fn acquire(&self) -> MutexGuard<'_, Sensor> {
        loop {
            if let Some(sensor) = self.try_lock() {
                return sensor;
            }
            tokio::time::sleep(FREE_EVERY).await;
        }
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Sensor>> {
        match self.0.try_lock() {
            Ok(sensor) => Some(sensor),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Keeps the calling thread until nobody else looks: for threads of their own.
    pub fn lock(&self) -> MutexGuard<'_, Sensor> {
        // A look that panicked has fed nothing, or all of its census.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The first three stages, with what they remember.
pub struct Sensor {
    collector: Collector,
    attributor: Attributor,
    meter: Meter,
    clock: Arc<dyn Clock>,
    pace: closed::Pace,
}

impl std::fmt::Debug for Sensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sensor").field("meter", &self.meter).finish_non_exhaustive()
    }
}

impl Sensor {
    pub fn new(matches: Vec<ServiceMatch>, asked: Vec<Signal>, clock: Arc<dyn Clock>) -> Result<Self, CollectError> {
        let mut collector = Collector::new()?;
        collector.tell_apart(ports(&matches));
        collector.count_at(ages(&asked));
        Ok(Self {
            collector,
            attributor: Attributor::new(matches),
            meter: Meter::new(asked),
            clock,
            pace: closed::Pace::default(),
        })
    }

    /// Another configuration: what has been measured is kept.
    pub fn reconfigure(&mut self, matches: Vec<ServiceMatch>, asked: Vec<Signal>) {
        self.collector.tell_apart(ports(&matches));
        self.collector.count_at(ages(&asked));
        self.attributor = Attributor::new(matches);
        self.pace = closed::Pace::default();
        self.meter.ask(asked);
    }

    /// For whoever looks only once: the search for sockets' holders may take so long.
    pub fn search_within(&mut self, budget: Duration) {
        self.attributor.search_within(budget);
    }

    /// Looks for network namespaces that are new, or gone.
    pub fn discover(&mut self) {
        self.collector.discover();
    }

    /// What supervisors and daemons said a moment ago.
    pub fn told(&mut self, told: Told) {
        self.attributor.supervised(told.mains);
        self.attributor.containers(told.containers);
    }

    /// One look, fed to the windows.
    pub fn look(&mut self, effort: Effort) -> Result<Look, CollectError> {
        let begun = thread_cpu_time();
        let asked = self.meter.asked();
        let of_descriptors =
            |signal: &Signal| matches!(signal, Signal::FdUsed | Signal::FdRatio | Signal::FdExhaustedIn);
        let closed = asked.contains(&Signal::FdClosed);
        let descriptors = asked.iter().any(of_descriptors);
        let descriptors = if descriptors { DescriptorAsk::Count } else { DescriptorAsk::Skip };
        let ask = Ask {
            established: asked.contains(&Signal::Established),
            afresh: matches!(effort, Effort::Afresh | Effort::Of(_)),
            matters: match effort {
                Effort::Gated(matters) => Some(matters),
                Effort::Whole | Effort::Afresh | Effort::Of(_) => None,
            },
        };
        let clock = self.clock.as_ref();
        let snapshot = self.collector.snapshot(clock, ask)?;
        let (source, mut blind_spots) = (snapshot.source, snapshot.blind_spots.clone());
        let due = closed.then(|| self.pace.due(snapshot.monotonic, effort)).flatten();
        let mut census = match due {
            Some(_) => self.attributor.attribute_quiet_too(snapshot, descriptors, clock),
            None => self.attributor.attribute(snapshot, descriptors, clock),
        };
        if let Effort::Of(service) = effort
            && let Some(held) = census.services.get(service)
            && self.attributor.confirm(service, held, clock, CONFIRM_WITHIN) > 0
        {
            let snapshot = self.collector.snapshot(clock, ask)?;
            census = self.attributor.attribute(snapshot, descriptors, clock);
        }
        // After a remedy it may leak nothing, and its descriptors are asked about all the same.
        if let (Effort::Of(service), DescriptorAsk::Count) = (effort, descriptors)
            && let Some(held) = census.services.get_mut(service).filter(|held| held.descriptors.is_none())
        {
            self.attributor.count_descriptors_of(service, held);
        }
        if let Some(due) = due {
            self.count_closed(&mut census, due, descriptors, begun);
        }
        if closed {
            blind_spots.extend(self.pace.blind_spot());
        }
        let measurements = self.meter.feed(&census);
        Ok(Look {
            measurements,
            host_close_wait: census.host_close_wait(),
            unattributed: census.unattributed,
            of_no_service: census.of_no_service,
            passed_over: census.passed_over,
            blind_spots,
            source,
            cost: thread_cpu_time().saturating_sub(begun),
        })
    }

    /// Where the sockets are that were no service's at that last look.
    pub fn strays(&mut self, look: &Look) -> Vec<Stray> {
        self.attributor.strays(&look.of_no_service)
    }

    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The service's sockets, each in full, with what lies around them.
    pub fn closely(&mut self, service: &ServiceName, holders_within: Duration) -> Result<Closely, CollectError> {
        let detail = self.collector.detail(self.clock.as_ref())?;
        let (mut census, sockets) = self.attributor.owned(detail, service, self.clock.as_ref());
        let at = census.at;
        let partial = match std::mem::replace(&mut census.quality, Quality::Complete) {
            Quality::Complete => None,
            Quality::Partial { why } => Some(why),
        };
        // Where keepalive has taken all that it had, no table has a trace of it.
        let quiet = || self.attributor.quiet(&census.services).remove(service).unwrap_or_default();
        let mut held = census.services.get(service).cloned().unwrap_or_else(quiet);
        let namespaces = self.namespaces(&held);
        let holders = self.attributor.holders(service, &held, self.clock.as_ref(), holders_within);
        self.count_of(service, &mut held, &mut BTreeMap::new(), DescriptorAsk::Skip);
        let table = self.collector.table(&namespaces)?;
        Ok(Closely { at, partial, sockets, table, holders, closed: held.closed })
    }

    /// Where each service listens in our own network namespace.
    pub fn listening(&mut self) -> Result<BTreeMap<ServiceName, Vec<SocketAddr>>, CollectError> {
        let census = self.census()?;
        let own = self.collector.own_namespace();
        let of = |(service, held): (ServiceName, ServiceCensus)| {
            let here = held.listening.iter().filter(|(namespace, _)| *namespace == own).map(|(_, address)| *address);
            let here: BTreeSet<SocketAddr> = here.collect();
            (!here.is_empty()).then(|| (service, here.into_iter().collect()))
        };
        Ok(census.services.into_iter().filter_map(of).collect())
    }

    fn census(&mut self) -> Result<Census, CollectError> {
        let snapshot = self.collector.snapshot(self.clock.as_ref(), Ask { afresh: true, ..Ask::default() })?;
        Ok(self.attributor.attribute(snapshot, DescriptorAsk::Skip, self.clock.as_ref()))
    }

    /// The network namespaces that the service lives in; our own where it holds and listens nowhere.
    fn namespaces(&self, held: &ServiceCensus) -> BTreeSet<NetNs> {
        let listening = held.listening.iter().map(|(namespace, _)| *namespace);
        let all: BTreeSet<NetNs> = held.namespaces.iter().copied().chain(listening).collect();
        if all.is_empty() { [self.collector.own_namespace()].into() } else { all }
    }
}

/// A look that may take seconds, on a thread of its own: the agent's one thread holds drains and asks probes meanwhile.
pub async fn on_blocking_thread<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(look).await {
        Ok(seen) => seen,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn ports(matches: &[ServiceMatch]) -> impl Iterator<Item = u16> {
    matches.iter().flat_map(|found| found.ports.iter().copied())
}

/// The ages by which sockets are counted.
fn ages(asked: &[Signal]) -> impl Iterator<Item = Duration> {
    asked.iter().filter_map(|signal| match signal {
        Signal::CloseWaitAged(age) => Some(*age),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn others_go_on_while_somebody_looks_closely_and_another_waits_to_look() {
        let sensor = Sensor::new(Vec::new(), Vec::new(), Arc::new(crate::clock::SystemClock)).unwrap();
        let sensor = SharedSensor::new(sensor);
        let (looks, looking) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let closely = sensor.clone();
        let look = on_blocking_thread(move || {
            let _held = closely.lock();
            looks.send(()).unwrap();
            told.recv_timeout(Duration::from_secs(10)).is_ok()
        });
        let waits = async {
            looking.await.unwrap();
            drop(sensor.acquire().await);
        };
        let others = async {
            // Its turn comes only where the one who waits leaves it one.
            tokio::time::sleep(2 * FREE_EVERY).await;
            tell.send(())
        };
        let (seen, (), _) = tokio::join!(look, waits, others);
        assert!(seen, "nobody else had a turn");
    }
}
