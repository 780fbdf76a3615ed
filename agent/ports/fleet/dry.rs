//! Slots that are only looked at: says whether one could be had now, and takes none. A breach is published as any
//! other: a policy that only rehearses still knows of one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Acquired, Fleet, FleetError, LEASE, Slot, Told};
use crate::clock::Clock;
use crate::model::HostStatus;

pub struct DryFleet {
    real: Arc<dyn Fleet>,
    clock: Arc<dyn Clock>,
}

impl DryFleet {
    pub fn new(real: Arc<dyn Fleet>, clock: Arc<dyn Clock>) -> Self {
        Self { real, clock }
    }
}

impl std::fmt::Debug for DryFleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DryFleet").finish_non_exhaustive()
    }
}

#[async_trait]
impl Fleet for DryFleet {
    async fn acquire(&self, service: &str, incident: &str, slots: u32) -> Result<Acquired, FleetError> {
        let until = self.clock.monotonic() + LEASE;
        let held = self.real.blocked_by(service, incident, slots).await?;
        Ok(if held.is_empty() { Acquired::Yes { until } } else { Acquired::No { held, says: None } })
    }

    async fn would_take(&self, service: &str, incident: &str, slots: u32) -> Result<Option<String>, FleetError> {
        self.real.would_take(service, incident, slots).await
    }

    /// There is nothing to lose: none was taken.
    async fn begin(&self, _service: &str, _incident: &str) -> Result<Duration, FleetError> {
        Ok(self.clock.monotonic() + LEASE)
    }

    async fn drained(&self, _service: &str, _incident: &str) -> Result<(), FleetError> {
        Ok(())
    }

    async fn release(&self, _service: &str, _incident: &str) -> Result<(), FleetError> {
        Ok(())
    }

    /// A dry incident holds nothing that could be lost.
    async fn keep(&self, _needed: &[(String, String)]) -> Result<Vec<(String, Slot)>, FleetError> {
        Ok(Vec::new())
    }

    async fn blocked_by(&self, service: &str, incident: &str, slots: u32) -> Result<Vec<Slot>, FleetError> {
        self.real.blocked_by(service, incident, slots).await
    }

    async fn release_host(&self, _service: &str, _host: &str) -> Result<Vec<Slot>, FleetError> {
        Ok(Vec::new())
    }

    async fn services(&self) -> Result<Vec<String>, FleetError> {
        self.real.services().await
    }

    async fn holders(&self, service: &str) -> Result<Vec<Slot>, FleetError> {
        self.real.holders(service).await
    }

    async fn publish_breach(&self, service: &str, until: Timestamp) -> Result<(), FleetError> {
        self.real.publish_breach(service, until).await
    }

    async fn breaches(&self, service: &str) -> Result<Vec<String>, FleetError> {
        self.real.breaches(service).await
    }

    async fn publish_status(&self, status: &HostStatus, until: Timestamp) -> Result<(), FleetError> {
        self.real.publish_status(status, until).await
    }

    async fn statuses(&self) -> Result<Vec<(String, Result<Told, String>)>, FleetError> {
        self.real.statuses().await
    }

    async fn server(&self) -> Result<Option<String>, FleetError> {
        self.real.server().await
    }

    fn caveats(&self) -> &'static [&'static str] {
        self.real.caveats()
    }
}
