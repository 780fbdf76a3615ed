//! Holds a drain against a service that registers itself anew: frameworks that deregister when they end and register
//! when they start take our maintenance away with the record that it stood on.
//!
//! Only a new registration is drained again here, told by its `CreateIndex` in the catalog. Where the very same one is
//! back in traffic somebody has lifted our maintenance: while a saga is under way it drains again, once it rests stuck
//! that was a person's decision.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::ports::{Secret, Servers};
use async_trait::async_trait;
use serde_json::Value;

use super::super::holder::{Holder, HoldsDrains, Look};
use super::super::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange};
use super::Local;
use crate::model::{ConsulScope, Marker};

/// From one look at a drain to the next: some requests to the local agent each.
const HOLD_EVERY: Duration = Duration::from_secs(2);

/// Consul, with what was drained held.
#[derive(Debug)]
pub struct Consul {
    local: Arc<Local>,
    holder: Holder,
}

impl Consul {
    /// `name` is the registry's in the host's file, `server` the local agent, `host` the one that our markers carry.
    pub fn new(
        name: &str,
        server: impl Into<Servers>,
        token: Option<Secret>,
        host: &str,
    ) -> Result<Self, RegistryError> {
        Ok(Self { local: Arc::new(Local::new(name, server.into(), token, host)?), holder: Holder::new(HOLD_EVERY) })
    }

    /// The same, whose drains take out so much.
    pub fn draining(self, scope: ConsulScope) -> Self {
        let local = Arc::into_inner(self.local).expect("nothing is drained yet");
        Self { local: Arc::new(Local { scope, ..local }), holder: self.holder }
    }

    async fn hold_on(&self, id: &str, marker: &Marker) {
        self.local.note_registration(id).await;
        self.holder.hold(&self.local, id, marker);
    }
}

impl Local {
    /// Which registration it is that the catalog has now.
    async fn registration(&self, id: &str) -> Result<Option<u64>, RegistryError> {
        let own = self.own(id).await?;
        let node = self.node().await?;
        let entries = self.entries(&own.name, false).await?;
        Ok(entries.iter().find(|entry| entry.is(&node, &own.id)).map(|entry| entry.service.created))
    }

    /// The registration that the drain stands on. Where it cannot be read now, the next look tries again.
    async fn note_registration(&self, id: &str) {
        let created = self.registration(id).await.ok().flatten();
        let mut drained = self.drained.lock().unwrap_or_else(PoisonError::into_inner);
        match created {
            Some(created) => drained.insert(id.into(), created),
            None => drained.remove(id),
        };
    }

    fn forget_registration(&self, id: &str) {
        self.drained.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn noted(&self, id: &str) -> Option<u64> {
        self.drained.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }
}

#[async_trait]
impl HoldsDrains for Local {
    async fn look_again(&self, id: &str, marker: &Marker) -> Result<Look, RegistryError> {
        let _one = self.changing.lock().await;
        match self.observe(id).await.map(|seen| seen.traffic) {
            Ok(Traffic::DrainedBy(found)) if found == *marker => {
                if self.noted(id).is_none() {
                    self.note_registration(id).await;
                }
                Ok(Look::Out)
            }
            Ok(Traffic::Passing | Traffic::Failing) => {
                let (now, noted) = (self.registration(id).await?, self.noted(id));
                if now.is_none() || noted.is_none() || now == noted {
                    return Ok(Look::NotOurs);
                }
                self.drain(id, marker).await?;
                self.note_registration(id).await;
                Ok(Look::OutAgain)
            }
            Ok(_) => Ok(Look::NotOurs),
            // Gone while it restarts: what registers again is seen next time.
            Err(RegistryError::NotRegistered { .. }) => Ok(Look::Out),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Registry for Consul {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.local.observe(id).await
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.local.drain(id, marker).await?;
        self.hold_on(id, marker).await;
        Ok(())
    }

    async fn hold(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let came_back = self.local.hold(id, marker).await?;
        if came_back {
            self.hold_on(id, marker).await;
        }
        Ok(came_back)
    }

    /// Consul asks for the right to write first, and changes nothing where maintenance is on (`EnableServiceMaintenance`).
    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let local = &self.local;
        let _one = local.changing.lock().await;
        let own = local.own(id).await?;
        let Some(scope) = local.scope_of(&own.id, marker).await? else { return Ok(false) };
        local.set_maintenance(scope, &own.id, Some((marker, id))).await?;
        Ok(true)
    }

    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError> {
        self.local.would(change, id, marker).await
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &Value) -> Result<Restored, RegistryError> {
        // A look that has begun ends first; one that comes too late finds nothing noted, and takes nothing out again.
        let _one = self.local.changing.lock().await;
        let restore = async {
            self.local.forget_registration(id);
            self.local.restore(id, marker, record).await
        };
        self.holder.put_back(&self.local, id, marker, restore).await
    }

    /// What registers anew from now on is another's.
    async fn forget(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        if self.holder.forget(id, marker).await {
            self.local.forget_registration(id);
        }
        Ok(())
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        self.local.others(id).await
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        // What is being put back is not held on the word of an older list.
        let _one = self.local.changing.lock().await;
        let found = self.local.markers().await?;
        for FoundMarker { id, marker } in &found {
            self.hold_on(id, marker).await;
        }
        Ok(found)
    }

    async fn server(&self) -> Result<Option<String>, RegistryError> {
        self.local.version().await
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        self.local.names().await
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        self.local.instances().await
    }

    async fn health_url(&self, id: &str) -> Result<Option<String>, RegistryError> {
        self.local.health_url(id).await
    }

    fn caveats(&self) -> &'static [&'static str] {
        self.local.caveats()
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        crate::ports::registry::found_by_record(self, id).await
    }

    fn clients_follow(&self) -> Duration {
        Duration::ZERO
    }
}
