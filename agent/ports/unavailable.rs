//! Stands in for an adapter that cannot be made: whatever it is asked, it does not answer, and says why.
//!
//! For an agent that only ends what a former one began: what it could not put back, or tell, is tried again later.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::alerts::Alerts;
use super::notifier::{DeliveryError, Letter, Notifier, Pace, ThreadKey};
use super::registry::{FoundMarker, Others, Registration, Registry, RegistryError, Restored};
use crate::model::Marker;
use crate::model::alerts::{AlertSelector, FiringAlert};

#[derive(Debug)]
pub struct UnavailableAdapter {
    pub name: String,
    pub why: String,
}

impl UnavailableAdapter {
    fn silent<T>(&self) -> Result<T, RegistryError> {
        Err(RegistryError::Unreachable { registry: self.name.clone(), detail: self.why.clone() })
    }
}

#[async_trait]
impl Registry for UnavailableAdapter {
    async fn would(
        &self,
        _change: crate::ports::registry::TrafficChange,
        _id: &str,
        _marker: &Marker,
    ) -> Result<Vec<String>, RegistryError> {
        self.silent()
    }

    async fn observe(&self, _id: &str) -> Result<Registration, RegistryError> {
        self.silent()
    }

    async fn drain(&self, _id: &str, _marker: &Marker) -> Result<(), RegistryError> {
        self.silent()
    }

    async fn restore(&self, _id: &str, _marker: &Marker, _record: &Value) -> Result<Restored, RegistryError> {
        self.silent()
    }

    async fn others(&self, _id: &str) -> Result<Others, RegistryError> {
        self.silent()
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        self.silent()
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        self.silent()
    }

    async fn takes_writes(&self, _id: &str, _marker: &Marker) -> Result<bool, RegistryError> {
        Ok(true)
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        crate::ports::registry::found_by_record(self, id).await
    }

    fn clients_follow(&self) -> Duration {
        Duration::ZERO
    }
}

#[async_trait]
impl Alerts for UnavailableAdapter {
    async fn firing(&self, _selectors: &[AlertSelector]) -> Result<Vec<FiringAlert>, String> {
        Err(self.why.clone())
    }

    async fn server(&self) -> Result<String, String> {
        Err(self.why.clone())
    }
}

#[async_trait]
impl Notifier for UnavailableAdapter {
    async fn deliver(&self, _letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        Err(DeliveryError::Later { after: None, detail: self.why.clone() })
    }

    fn pace(&self) -> Pace {
        Pace::UNLIMITED
    }
}
