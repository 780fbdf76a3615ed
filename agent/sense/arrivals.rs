//! Whose new connections are counted, and since when: of each service of which a policy's condition holds that would drain it,
//! from the moment it first does, so that a drain can be told from the traffic that came before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sensor::Sensor;
use crate::clock::Clock;
use crate::collect::arrivals::Arrivals as Counter;
use crate::execute::world::Arrivals;
use crate::model::ServiceName;

/// The counters that run. Of one that cannot, why.
#[derive(Clone, Debug, Default)]
pub struct Counted(Arc<Mutex<BTreeMap<ServiceName, Result<Counter, String>>>>);

impl Counted {
    /// Counts for these services from now on, where it does not yet, and for no other.
    pub fn only(&self, services: &BTreeSet<ServiceName>, sensor: &mut Sensor, clock: &dyn Clock) {
        let mut counters = self.counters();
        counters.retain(|service, _| services.contains(service));
        for service in services {
            // One that could not is tried again: it may have listened nowhere then.
            if !matches!(counters.get(service), Some(Ok(_))) {
                counters.insert(service.clone(), begin(service, sensor, clock));
            }
        }
    }

    /// Nothing is to be counted now.
    pub fn end(&self) {
        self.counters().clear();
    }

    /// What has come since its counter began, which is now where nobody began it before. A service that listens elsewhere by
    /// now is counted anew; one that opens and closes further ports (FTP, RMI) is counted where it was.
    pub fn read(&self, service: &ServiceName, sensor: &mut Sensor, clock: &dyn Clock) -> Result<Arrivals, String> {
        let ports = sensor.ports_of_its_own(service)?;
        let mut counters = self.counters();
        let runs = matches!(counters.get(service), Some(Ok(counter)) if !counter.ports().is_disjoint(&ports));
        if !runs {
            counters.insert(service.clone(), Counter::at(ports, clock));
        }
        match &counters[service] {
            Ok(counter) => counter.read(clock).map(|(count, over)| Arrivals { count, over }),
            Err(why) => Err(why.clone()),
        }
    }

    fn counters(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Result<Counter, String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn begin(service: &ServiceName, sensor: &mut Sensor, clock: &dyn Clock) -> Result<Counter, String> {
    let counter = sensor.ports_of_its_own(service).and_then(|ports| Counter::at(ports, clock));
    if let Err(why) = &counter {
        tracing::debug!(
            %service,
            why,
            "the kernel cannot count the new connections of {service}: {why}; a lower bound comes from the looks",
        );
    }
    counter
}
