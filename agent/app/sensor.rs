//! Collect, attribute, measure: one look at the host.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::attribute::{Attributor, DescriptorAsk, ServiceMatch};
use crate::clock::Clock;
use crate::collect::{Ask, CollectError, Collector};
use crate::measure::{Measurements, Meter};
use crate::model::{Census, ServiceName, Signal, Snapshot, TableRow};

/// What was seen at one look.
#[derive(Debug)]
pub struct Look {
    pub snapshot: Snapshot,
    pub census: Census,
    pub measurements: Measurements,
}

/// The sensor, shared by the tick and by sagas that measure afresh. Never locked across a wait: a look takes
/// milliseconds.
#[derive(Clone, Debug)]
pub struct SharedSensor(Arc<Mutex<Sensor>>);

impl SharedSensor {
    pub fn new(sensor: Sensor) -> Self {
        Self(Arc::new(Mutex::new(sensor)))
    }

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
}

impl std::fmt::Debug for Sensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sensor").field("meter", &self.meter).finish_non_exhaustive()
    }
}

impl Sensor {
    pub fn new(matches: Vec<ServiceMatch>, asked: Vec<Signal>, clock: Arc<dyn Clock>) -> Result<Self, CollectError> {
        Ok(Self { collector: Collector::new()?, attributor: Attributor::new(matches), meter: Meter::new(asked), clock })
    }

    /// Another configuration: what has been measured is kept.
    pub fn reconfigure(&mut self, matches: Vec<ServiceMatch>, asked: Vec<Signal>) {
        self.attributor = Attributor::new(matches);
        self.meter.ask(asked);
    }

    /// One look, fed to the windows.
    pub fn look(&mut self) -> Result<Look, CollectError> {
        let asked = self.meter.asked();
        let established = asked.contains(&Signal::Established);
        let of_descriptors =
            |signal: &Signal| matches!(signal, Signal::FdUsed | Signal::FdRatio | Signal::FdExhaustedIn);
        let descriptors = asked.iter().any(of_descriptors);
        let snapshot = self.collector.snapshot(self.clock.as_ref(), Ask { established })?;
        let descriptors = if descriptors { DescriptorAsk::Count } else { DescriptorAsk::Skip };
        let census = self.attributor.attribute(&snapshot, descriptors);
        let measurements = self.meter.feed(&census);
        Ok(Look { snapshot, census, measurements })
    }

    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The host's whole TCP table.
    pub fn table(&mut self) -> Result<Vec<TableRow>, CollectError> {
        self.collector.table()
    }

    /// Which processes hold the service's sockets, and how many each.
    pub fn holders(&mut self, census: &Census, service: &ServiceName, within: Duration) -> BTreeMap<u32, usize> {
        let Some(held) = census.services.get(service) else { return BTreeMap::new() };
        self.attributor.holders(service, &held.sockets, self.clock.as_ref(), within)
    }

    /// Ages of the service's sockets by cookie, at the census' moment.
    pub fn ages(&self, census: &Census, service: &ServiceName) -> HashMap<u64, Duration> {
        let held = census.services.get(service).map(|held| held.sockets.as_slice()).unwrap_or_default();
        held.iter().map(|owned| (owned.socket.cookie, self.meter.age(&owned.socket, census.monotonic))).collect()
    }

    /// Connections to the ports that the service listens on which somebody still uses: established ones, and those
    /// that the peer has half-closed while data still leaves. What merely leaks never drains, and is not waited for.
    pub fn inbound(&mut self, service: &ServiceName) -> Result<u64, String> {
        let look = self.look().map_err(|error| error.to_string())?;
        if let Some(why) = &look.measurements.untrusted {
            return Err(why.clone());
        }
        let listening = look.census.services.get(service).map(|held| held.listening.clone()).unwrap_or_default();
        let table = self.table().map_err(|error| error.to_string())?;
        let ours = |local: &SocketAddr| {
            listening.iter().any(|at| {
                at.port() == local.port()
                    && (at.ip().is_unspecified() || at.ip().to_canonical() == local.ip().to_canonical())
            })
        };
        let in_use = |row: &&TableRow| row.state == "ESTAB" || (row.state == "CLOSE-WAIT" && row.send_q > 0);
        Ok(table.iter().filter(in_use).filter(|row| ours(&row.local)).count() as u64)
    }
}
