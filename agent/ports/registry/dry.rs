//! A registry that is only looked at: reads are real, writes are remembered here and done nowhere.
//!
//! One is made for each dry saga. After a dry drain, `observe` goes on telling the real state, except that what is
//! really in traffic (passing or failing) is told as drained under our marker, so that the saga can read its drain
//! back; what anybody really does to the instance meanwhile is seen. After a dry restore it is told as passing: whether
//! what fails its check now would be mended is not known. `others`, `markers` and `names` are the real ones
//! throughout: a dry drain leaves no marker for the sweep to find.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange};
use crate::model::Marker;

pub struct DryRegistry {
    real: Arc<dyn Registry>,
    pretended: Mutex<HashMap<String, Pretence>>,
}

#[derive(Debug, PartialEq)]
enum Pretence {
    Drained(Marker),
    PutBack,
}

impl DryRegistry {
    pub fn new(real: Arc<dyn Registry>) -> Self {
        Self { real, pretended: Mutex::default() }
    }

    fn pretended(&self) -> std::sync::MutexGuard<'_, HashMap<String, Pretence>> {
        self.pretended.lock().expect("nothing panics while it holds the map")
    }
}

impl std::fmt::Debug for DryRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DryRegistry").field("pretended", &self.pretended).finish_non_exhaustive()
    }
}

#[async_trait]
impl Registry for DryRegistry {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        let mut seen = self.real.observe(id).await?;
        if matches!(seen.traffic, Traffic::Passing | Traffic::Failing)
            && let Some(pretence) = self.pretended().get(id)
        {
            seen.traffic = match pretence {
                Pretence::Drained(marker) => Traffic::DrainedBy(marker.clone()),
                Pretence::PutBack => Traffic::Passing,
            };
        }
        Ok(seen)
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let traffic = self.observe(id).await?.traffic;
        if super::may_drain("dry-run", id, &traffic, marker)? {
            self.pretended().insert(id.into(), Pretence::Drained(marker.clone()));
        }
        Ok(())
    }

    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError> {
        self.real.would(change, id, marker).await
    }

    async fn restore(&self, id: &str, marker: &Marker, _record: &serde_json::Value) -> Result<Restored, RegistryError> {
        let found = match self.observe(id).await {
            Ok(seen) => seen.traffic,
            Err(RegistryError::NotRegistered { .. }) => {
                return Ok(Restored::NotOurs("no instance of that id".into()));
            }
            Err(error) => return Err(error),
        };
        let mut pretended = self.pretended();
        match (found, pretended.get(id)) {
            (Traffic::DrainedBy(found), Some(Pretence::Drained(ours))) if found == *marker && found == *ours => {
                pretended.insert(id.into(), Pretence::PutBack);
                Ok(Restored::Done)
            }
            (other, _) => Ok(Restored::NotOurs(super::stands_there(&other))),
        }
    }

    async fn forget(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let mut pretended = self.pretended();
        if pretended.get(id) == Some(&Pretence::Drained(marker.clone())) {
            pretended.remove(id);
        }
        Ok(())
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        self.real.others(id).await
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        self.real.markers().await
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        self.real.names().await
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        self.real.instances().await
    }

    async fn health_url(&self, id: &str) -> Result<Option<String>, RegistryError> {
        self.real.health_url(id).await
    }

    fn counts(&self) -> bool {
        self.real.counts()
    }

    async fn server(&self) -> Result<Option<String>, RegistryError> {
        self.real.server().await
    }

    fn ends_within(&self) -> Duration {
        self.real.ends_within()
    }

    fn drains_within(&self) -> Duration {
        self.real.drains_within()
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        let finds = self.real.clients_find(id).await?;
        Ok(match self.pretended().get(id) {
            None => finds,
            Some(pretence) => *pretence == Pretence::PutBack,
        })
    }

    fn clients_follow(&self) -> Duration {
        self.real.clients_follow()
    }

    fn clients_leave(&self) -> bool {
        self.real.clients_leave()
    }

    fn gone_after(&self) -> Duration {
        self.real.gone_after()
    }

    fn caveats(&self) -> &'static [&'static str] {
        self.real.caveats()
    }

    async fn takes_writes(&self, _id: &str, _marker: &Marker) -> Result<bool, RegistryError> {
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeRegistry;
    use super::*;
    use crate::model::IncidentId;

    #[tokio::test]
    async fn a_dry_saga_reads_its_drain_back_and_the_real_registry_stays_as_it_was() {
        let real = Arc::new(FakeRegistry::new("fake"));
        real.register("a-1", "a", "127.0.0.1:1");
        let before = real.observe("a-1").await.unwrap();
        let dry = DryRegistry::new(real.clone());
        let marker = Marker { incident: IncidentId("i".into()), host: "h".into() };

        dry.drain("a-1", &marker).await.unwrap();
        dry.drain("a-1", &marker).await.unwrap();
        assert_eq!(dry.observe("a-1").await.unwrap().traffic, Traffic::DrainedBy(marker.clone()));
        assert_eq!(real.observe("a-1").await.unwrap(), before);
        assert!(dry.markers().await.unwrap().is_empty());

        // What somebody really does meanwhile is told as it is, and is not ours to take back.
        real.isolate("a-1", Some("deploy"));
        assert_eq!(dry.observe("a-1").await.unwrap().traffic, Traffic::Isolated { reason: "deploy".into() });
        let null = serde_json::Value::Null;
        assert!(matches!(dry.restore("a-1", &marker, &null).await.unwrap(), Restored::NotOurs(_)));
        real.isolate("a-1", None);

        assert_eq!(dry.restore("a-1", &marker, &null).await.unwrap(), Restored::Done);
        assert_eq!(dry.observe("a-1").await.unwrap(), before);

        dry.drain("a-1", &marker).await.unwrap();
        dry.forget("a-1", &marker).await.unwrap();
        assert_eq!(dry.observe("a-1").await.unwrap(), before);
    }

    #[tokio::test]
    async fn what_fails_its_check_passes_it_once_it_is_put_back() {
        let real = Arc::new(FakeRegistry::new("fake"));
        real.register("a-1", "a", "127.0.0.1:1");
        real.set_healthy("a-1", false);
        let dry = DryRegistry::new(real.clone());
        let marker = Marker { incident: IncidentId("i".into()), host: "h".into() };
        assert_eq!(dry.observe("a-1").await.unwrap().traffic, Traffic::Failing);
        dry.drain("a-1", &marker).await.unwrap();
        assert!(!dry.clients_find("a-1").await.unwrap());
        assert_eq!(dry.restore("a-1", &marker, &serde_json::Value::Null).await.unwrap(), Restored::Done);
        assert_eq!(dry.observe("a-1").await.unwrap().traffic, Traffic::Passing);
        assert!(dry.clients_find("a-1").await.unwrap());
        assert_eq!(real.observe("a-1").await.unwrap().traffic, Traffic::Failing);
    }

    #[tokio::test]
    async fn what_a_real_drain_would_refuse_is_refused() {
        let real = Arc::new(FakeRegistry::new("fake"));
        real.register("a-1", "a", "127.0.0.1:1");
        real.isolate("a-1", Some("deploy"));
        let marker = Marker { incident: IncidentId("i".into()), host: "h".into() };
        let refused = DryRegistry::new(real).drain("a-1", &marker).await.unwrap_err();
        assert!(refused.to_string().contains("deploy"), "{refused}");
    }
}
