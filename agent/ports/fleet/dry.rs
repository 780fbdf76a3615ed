//! Slots that are only looked at: says whether one could be had now, and takes none.

use std::sync::Arc;

use async_trait::async_trait;

use super::document::{self, Asker, Take};
use super::{Acquired, FleetError, FleetSlots, Slot};
use crate::clock::Clock;

pub struct DrySlots {
    real: Arc<dyn FleetSlots>,
    host: String,
    clock: Arc<dyn Clock>,
}

impl DrySlots {
    pub fn new(real: Arc<dyn FleetSlots>, host: &str, clock: Arc<dyn Clock>) -> Self {
        Self { real, host: host.into(), clock }
    }
}

impl std::fmt::Debug for DrySlots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DrySlots").field("host", &self.host).finish_non_exhaustive()
    }
}

#[async_trait]
impl FleetSlots for DrySlots {
    async fn acquire(&self, service: &str, incident: &str, slots: u32) -> Result<Acquired, FleetError> {
        let document = self.real.holders(service).await?;
        let asker = Asker { host: &self.host, incident, now: self.clock.now() };
        Ok(match document::take(&document, asker, slots) {
            Take::Write(_) | Take::Held => Acquired::Yes,
            Take::No(held) => Acquired::No { held },
        })
    }

    /// There is nothing to lose: none was taken.
    async fn begin(&self, _service: &str, _incident: &str) -> Result<(), FleetError> {
        Ok(())
    }

    async fn release(&self, _service: &str, _incident: &str) -> Result<(), FleetError> {
        Ok(())
    }

    async fn holders(&self, service: &str) -> Result<Vec<Slot>, FleetError> {
        self.real.holders(service).await
    }
}
