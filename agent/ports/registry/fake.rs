//! A registry in memory, for tests: it panics when an instance is put into traffic less healthy than it was taken out.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

use super::instances::{Drained, Instance, Instances};
use super::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange};
use crate::model::Marker;

#[derive(Debug)]
pub struct FakeRegistry {
    name: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    content: Instances,
    /// Drained while failing: may be put back failing.
    failing_when_drained: HashSet<String>,
    unreachable: bool,
    distrusted: bool,
    counts_nobody: bool,
}

impl FakeRegistry {
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that expects the panic below goes on to look at what stands here.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The content, unless this fake plays dead.
    fn answer(&self) -> Result<MutexGuard<'_, State>, RegistryError> {
        let state = self.state();
        if state.unreachable {
            return Err(RegistryError::Unreachable { registry: self.name.clone(), detail: "nobody answers".into() });
        }
        if state.distrusted {
            let detail = "TLS: the server's certificate `CN=server` expired at 2026-11-29T00:00:00Z".into();
            return Err(RegistryError::Distrusted { registry: self.name.clone(), detail });
        }
        Ok(state)
    }

    /// Registers a healthy instance, in traffic.
    pub fn register(&self, id: &str, name: &str, address: &str) {
        let mut state = self.state();
        state.content.instances.retain(|instance| instance.id != id);
        state.content.instances.push(Instance::new(id, name, address));
    }

    pub fn deregister(&self, id: &str) {
        self.state().content.instances.retain(|instance| instance.id != id);
    }

    pub fn set_healthy(&self, id: &str, healthy: bool) {
        self.change(id, |instance| instance.healthy = healthy);
    }

    /// As a person or another controller does it; `None` puts it back.
    pub fn isolate(&self, id: &str, reason: Option<&str>) {
        self.change(id, |instance| instance.drained = reason.map(|by| Drained { by: by.into() }));
    }

    /// What stands there, asked by nobody over any way; `None` where it is not registered.
    pub fn traffic(&self, id: &str) -> Option<Traffic> {
        self.state().content.observe(&self.name, id).ok().map(|registration| registration.traffic)
    }

    /// From now on each call fails as if nobody answered.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.state().unreachable = unreachable;
    }

    /// From now on each call fails as if its certificate had ended.
    pub fn set_distrusted(&self, distrusted: bool) {
        self.state().distrusted = distrusted;
    }

    /// From now on it is one that cannot count others.
    pub fn set_counts_nobody(&self) {
        self.state().counts_nobody = true;
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Instance)) {
        let mut state = self.state();
        change(state.content.instances.iter_mut().find(|instance| instance.id == id).expect("a test names its own"));
    }
}

#[async_trait]
impl Registry for FakeRegistry {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.answer()?.content.observe(&self.name, id)
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let mut state = self.answer()?;
        let in_traffic = state.content.find(&self.name, id)?.drained.is_none();
        state.content.drain(&self.name, id, marker)?;
        if in_traffic && !state.content.find(&self.name, id)?.healthy {
            state.failing_when_drained.insert(id.into());
        }
        Ok(())
    }

    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        Ok(self.answer()?.content.observe(&self.name, id)?.traffic == Traffic::DrainedBy(marker.clone()))
    }

    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError> {
        Ok(vec![format!("{change:?} {id} for {marker}")])
    }

    async fn restore(&self, id: &str, marker: &Marker, _record: &serde_json::Value) -> Result<Restored, RegistryError> {
        let mut state = self.answer()?;
        let restored = state.content.restore(&self.name, id, marker)?;
        if restored == Restored::Done {
            let was_failing = state.failing_when_drained.remove(id);
            let healthy = state.content.find(&self.name, id)?.healthy;
            assert!(healthy || was_failing, "`{id}` was put into traffic while it was unhealthy");
        }
        Ok(restored)
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        let state = self.answer()?;
        match state.counts_nobody {
            true => Err(RegistryError::Refused { registry: self.name.clone(), detail: "it counts nobody".into() }),
            false => state.content.others(&self.name, id),
        }
    }

    fn counts(&self) -> bool {
        !self.state().counts_nobody
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        Ok(self.answer()?.content.markers())
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        Ok(self.answer()?.content.names())
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        Ok(self.answer()?.content.addresses())
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        super::found_by_record(self, id).await
    }

    fn clients_follow(&self) -> Duration {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IncidentId;

    #[tokio::test]
    #[should_panic(expected = "was put into traffic while it was unhealthy")]
    async fn an_unhealthy_instance_put_into_traffic_panics() {
        let registry = FakeRegistry::new("fake");
        registry.register("a-1", "a", "127.0.0.1:1");
        let marker = Marker { incident: IncidentId("i".into()), host: "h".into() };
        registry.drain("a-1", &marker).await.unwrap();
        registry.set_healthy("a-1", false);
        registry.restore("a-1", &marker, &serde_json::Value::Null).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_failing_when_it_was_drained_may_go_back_as_it_was() {
        let registry = FakeRegistry::new("fake");
        registry.register("a-1", "a", "127.0.0.1:1");
        registry.set_healthy("a-1", false);
        let marker = Marker { incident: IncidentId("i".into()), host: "h".into() };
        registry.drain("a-1", &marker).await.unwrap();
        assert_eq!(registry.restore("a-1", &marker, &serde_json::Value::Null).await.unwrap(), Restored::Done);
    }
}
