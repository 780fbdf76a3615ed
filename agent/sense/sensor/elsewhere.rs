//! What counts as a service's and others alone hold: no remedy of the service ends that.

use std::collections::HashSet;
use std::sync::Arc;

use super::identity::{LOOK_WITHIN, MOST_NAMED, holder};
use super::{Sensor, SharedSensor};
use crate::attribute::{Everyone, Found, HeldBy};
use crate::clock::Clock;
use crate::model::leaked::why_they_stay;
use crate::model::socket::Quality;
use crate::model::{Brief, Holder, Readings, ServiceCensus, ServiceName};

impl Sensor {
    /// The service's sockets that processes of others alone hold, and what it would read without them; `None` where there are
    /// none, or not all of its own processes could be looked into.
    ///
    /// As with [`Self::remaining`], looks go on while all processes are searched.
    pub fn elsewhere(
        sensor: &SharedSensor,
        service: &ServiceName,
        readings: Readings,
    ) -> Result<Option<Elsewhere>, String> {
        let Some(Foreign { mut held, not_own, everyone, clock }) = sensor.lock().foreign(service)? else {
            return Ok(None);
        };
        let Found { by, .. } = everyone.held_by(&not_own, clock.as_ref(), LOOK_WITHIN);
        let sensor = sensor.lock();
        let by: Vec<HeldBy> = by.into_iter().filter(|by| !sensor.attributor.is_of(by, service)).collect();
        let elsewhere: HashSet<u64> = by.iter().flat_map(|by| by.inodes.iter().copied()).collect();
        if elsewhere.is_empty() {
            return Ok(None);
        }
        let (of, sockets) = (held.close_wait(), elsewhere.len());
        let stays = |socket: &Brief| !elsewhere.contains(&u64::from(socket.inode));
        held.inbound.retain(stays);
        held.outbound.retain(stays);
        let (without, left) = (sensor.meter.with(readings, &held), held.close_wait());
        let holders = by.iter().map(|by| holder(by, by.inodes.len(), false)).collect();
        Ok(Some(Elsewhere { of, sockets, holders, left, without }))
    }

    /// The sockets that count as the service's and that none of its own processes holds; `None` as with [`Self::elsewhere`].
    fn foreign(&mut self, service: &ServiceName) -> Result<Option<Foreign>, String> {
        let census = self.census().map_err(|error| error.to_string())?;
        if let Quality::Partial { why } = census.quality {
            return Err(why);
        }
        let Some(held) = census.services.get(service).cloned() else { return Ok(None) };
        let inodes: HashSet<u64> = held.sockets().map(|s| u64::from(s.inode)).filter(|inode| *inode != 0).collect();
        let clock = Arc::clone(&self.clock);
        let Some(own) = self.attributor.held_of(service, &held, inodes.clone(), clock.as_ref(), LOOK_WITHIN) else {
            return Ok(None);
        };
        let not_own: HashSet<u64> = inodes.difference(&own).copied().collect();
        let everyone = self.attributor.everyone();
        Ok((!not_own.is_empty()).then_some(Foreign { held, not_own, everyone, clock }))
    }
}

/// What a service's own processes do not hold of what counts as its.
struct Foreign {
    held: ServiceCensus,
    not_own: HashSet<u64>,
    everyone: Everyone,
    clock: Arc<dyn Clock>,
}

/// Sockets that count as a service's, since its living cgroup made them, and that no process of it holds.
#[derive(Debug)]
pub struct Elsewhere {
    /// All that count as the service's.
    of: usize,
    sockets: usize,
    holders: Vec<Holder>,
    /// That others do not hold.
    pub left: usize,
    /// What the service would read without them.
    pub without: Readings,
}

impl Elsewhere {
    pub fn says(&self, unit: &str) -> String {
        let Self { of, sockets, holders, .. } = self;
        let who: Vec<String> = holders.iter().take(MOST_NAMED).map(ToString::to_string).collect();
        let why = why_they_stay(unit, holders).map(|why| format!("; {why}")).unwrap_or_default();
        format!(
            "{sockets} of the service's {of} sockets in CLOSE_WAIT are held by other processes: {}{why}",
            who.join(", ")
        )
    }
}
