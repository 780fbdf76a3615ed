#![doc = include_str!("README.md")]

pub mod dump;
mod exhaustion;
mod growth;
mod series;
mod slope;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use crate::model::socket::Quality;
use crate::model::{Brief, Census, Reading, Readings, ServiceCensus, ServiceName, Signal};

use exhaustion::Exhaustion;
use growth::Growth;

/// The signals of every service at one tick.
#[derive(Clone, Debug)]
pub struct Measurements {
    pub at: Timestamp,
    /// Since boot.
    pub monotonic: Duration,
    /// Where the census was partial, why; then every signal is unknown.
    pub untrusted: Option<String>,
    services: BTreeMap<ServiceName, Readings>,
    /// What a service without a socket in CLOSE_WAIT reads; nothing at all where a namespace was passed over, in which
    /// it may have some.
    none: Readings,
}

impl Measurements {
    /// The service's signals; a service without such sockets has zero of them, which is known.
    pub fn of(&self, service: &ServiceName) -> Readings {
        match (&self.untrusted, self.services.get(service)) {
            (Some(_), _) => Readings::default(),
            (None, Some(readings)) => readings.clone(),
            (None, None) => self.none.clone(),
        }
    }

    /// The services that were seen with sockets, or are remembered from earlier ticks.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceName, &Readings)> {
        self.services.iter()
    }
}

/// Ticks of history kept for each service: what the evidence shows of the time before a breach.
const HISTORY: usize = 120;

/// Feeds on censuses. Every tick must be fed, also while action is held: windows that miss ticks lie.
#[derive(Debug)]
pub struct Meter {
    /// The windowed signals that anybody asks for.
    asked: BTreeSet<Signal>,
    growth: BTreeMap<ServiceName, Growth>,
    exhaustion: BTreeMap<ServiceName, Exhaustion>,
    history: BTreeMap<ServiceName, VecDeque<(Timestamp, Readings)>>,
}

impl Meter {
    /// `asked`: the signals that policies and expectations name; those with an argument are measured only then.
    pub fn new(asked: impl IntoIterator<Item = Signal>) -> Self {
        Self {
            asked: asked.into_iter().collect(),
            growth: BTreeMap::new(),
            exhaustion: BTreeMap::new(),
            history: BTreeMap::new(),
        }
    }

    /// A new configuration asks for other signals; what has been seen is kept.
    pub fn ask(&mut self, asked: impl IntoIterator<Item = Signal>) {
        self.asked = asked.into_iter().collect();
    }

    pub fn asked(&self) -> &BTreeSet<Signal> {
        &self.asked
    }

    /// The service's signals of the last ticks, oldest first.
    pub fn history(&self, service: &ServiceName) -> Vec<(Timestamp, Readings)> {
        self.history.get(service).map(|ticks| ticks.iter().cloned().collect()).unwrap_or_default()
    }

    /// Does the service hold sockets in CLOSE_WAIT, or did it within the ticks that are remembered?
    pub fn has_held(&self, service: &ServiceName) -> bool {
        self.history.contains_key(service)
    }

    /// One tick.
    pub fn feed(&mut self, census: &Census) -> Measurements {
        if let Quality::Partial { why } = &census.quality {
            return Measurements {
                at: census.at,
                monotonic: census.monotonic,
                untrusted: Some(why.clone()),
                services: BTreeMap::new(),
                none: Readings::default(),
            };
        }
        let host = (census.passed_over.namespaces == 0).then(|| census.host_close_wait() as f64);
        let nothing = ServiceCensus::default();
        // What is not seen has nothing; but for what may lie in a namespace that was passed over.
        let remembered = self.growth.keys().filter(|_| host.is_some());
        let known: BTreeSet<ServiceName> = census.services.keys().chain(remembered).cloned().collect();
        let mut services = BTreeMap::new();
        for service in known {
            let held = census.services.get(&service).unwrap_or(&nothing);
            if host.is_none() {
                // What lies where nobody looked may be its own: what was seen is the least, and no part of a window.
                if held.close_wait() > 0 {
                    services.insert(service, self.counts(held, None));
                }
                continue;
            }
            let mut readings = self.counts(held, host);
            let window = self.longest_window();
            let growth = self.growth.entry(service.clone()).or_default();
            let incarnation = held.descriptors.map(|counted| counted.oldest);
            growth.see(census.monotonic, held.close_wait() as f64, incarnation, window);
            for signal in &self.asked {
                if let Signal::CloseWaitGrowth(window) = signal
                    && let Some(per_minute) = growth.per_minute(*window)
                {
                    // What holds none does not grow, whatever it did within the window.
                    readings.set(*signal, if held.close_wait() > 0 { per_minute } else { per_minute.min(0.0) });
                }
            }
            if self.asked.contains(&Signal::FdExhaustedIn) {
                let exhaustion = self.exhaustion.entry(service.clone()).or_default();
                exhaustion.see(census.monotonic, held.descriptors.as_ref());
                if let Some(left) = exhaustion.exhausted_in() {
                    readings.set(Signal::FdExhaustedIn, left.as_secs_f64());
                }
            }
            // Nobody asks for the history of a service that has never held one.
            if held.leaks() || self.history.contains_key(&service) {
                let ticks = self.history.entry(service.clone()).or_default();
                if ticks.len() == HISTORY {
                    ticks.pop_front();
                }
                ticks.push_back((census.at, readings.clone()));
            }
            services.insert(service, readings);
        }
        let none = if host.is_some() { self.counts(&nothing, host) } else { Readings::default() };
        self.forget_quiet(census);
        Measurements { at: census.at, monotonic: census.monotonic, untrusted: None, services, none }
    }

    /// These readings, with what is told by the service's sockets alone as it would be if it held these.
    pub fn with(&self, readings: Readings, held: &ServiceCensus) -> Readings {
        let held = ServiceCensus { established: None, descriptors: None, ..held.clone() };
        let known = |signal| match readings.get(signal) {
            Reading::Known(value) => Some(value),
            Reading::Unknown => None,
        };
        let taken = known(Signal::CloseWait).map(|all| all - held.close_wait() as f64);
        let host = known(Signal::HostCloseWait).zip(taken).map(|(host, taken)| host - taken);
        self.counted(readings, &held, host)
    }

    fn counts(&self, held: &ServiceCensus, host: Option<f64>) -> Readings {
        self.counted(Readings::default(), held, host)
    }

    fn counted(&self, mut readings: Readings, held: &ServiceCensus, host: Option<f64>) -> Readings {
        let count = |wanted: &dyn Fn(&Brief) -> bool| held.sockets().filter(|socket| wanted(socket)).count() as f64;
        let all = held.close_wait() as f64;
        readings.set(Signal::CloseWait, all);
        readings.set(Signal::CloseWaitInbound, held.inbound.len() as f64);
        readings.set(Signal::CloseWaitOutbound, held.outbound.len() as f64);
        readings.set(Signal::CloseWaitUnaccepted, count(&|socket| socket.inode == 0));
        readings.set(Signal::CloseWaitUnread, count(&|socket| socket.unread));
        readings.set(Signal::CloseWaitSending, count(&|socket| socket.sending));
        if let Some(host) = host {
            readings.set(Signal::HostCloseWait, host);
            readings.set(Signal::CloseWaitHostShare, if host > 0.0 { all / host } else { 0.0 });
        }
        let oldest = held.sockets().map(Brief::age).max().unwrap_or_default();
        // Any whose age is a lower bound may be the oldest.
        match held.sockets().any(|socket| socket.at_least) {
            true => readings.set_at_least(Signal::CloseWaitOldest, oldest.as_secs_f64()),
            false => readings.set(Signal::CloseWaitOldest, oldest.as_secs_f64()),
        }
        for signal in &self.asked {
            if let Signal::CloseWaitAged(least) = signal {
                readings.set(*signal, count(&|socket| !socket.sending && socket.age() >= *least));
            }
        }
        if let Some(established) = held.established {
            readings.set(Signal::Established, established as f64);
        }
        if let Some(descriptors) = held.descriptors {
            readings.set(Signal::FdUsed, descriptors.used as f64);
            readings.set(Signal::FdRatio, descriptors.worst_ratio);
        }
        if let Some(closed) = held.closed {
            readings.set(Signal::FdClosed, closed as f64);
        }
        readings
    }

    fn longest_window(&self) -> Duration {
        self.asked
            .iter()
            .filter_map(|signal| match signal {
                Signal::CloseWaitGrowth(window) => Some(*window),
                _ => None,
            })
            .max()
            .unwrap_or_default()
    }

    /// A service that has held nothing for the whole of its history, and is not seen any more, is forgotten.
    fn forget_quiet(&mut self, census: &Census) {
        let quiet = |ticks: &VecDeque<(Timestamp, Readings)>| {
            ticks.len() == HISTORY
                && ticks
                    .iter()
                    .all(|(_, readings)| readings.get(Signal::CloseWait) == crate::model::Reading::Known(0.0))
        };
        let forgotten: Vec<ServiceName> = self
            .history
            .iter()
            .filter(|(service, ticks)| !census.services.contains_key(*service) && quiet(ticks))
            .map(|(service, _)| service.clone())
            .collect();
        for service in forgotten {
            self.history.remove(&service);
            self.growth.remove(&service);
            self.exhaustion.remove(&service);
        }
    }
}

#[cfg(test)]
mod tests;
