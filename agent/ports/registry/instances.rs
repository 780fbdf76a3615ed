//! A registry's content as one JSON document, and what may be done to it; no I/O.
//!
//! ```json
//! {"instances": [
//!   {"id": "rpc-order-1", "name": "rpc-order", "address": "127.0.0.1:7801", "healthy": true, "drained": null},
//!   {"id": "rpc-order-2", "name": "rpc-order", "address": "10.0.0.2:7801", "healthy": true,
//!    "drained": {"by": "deploy of release 41"}}
//! ]}
//! ```
//!
//! `drained.by` is the reason: our [`Marker`] or somebody else's words. Keys that are not known here stay as they are.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{FoundMarker, Others, Registration, RegistryError, Restored, Traffic};
use crate::model::Marker;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Instances {
    pub instances: Vec<Instance>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Instance {
    pub id: String,
    pub name: String,
    pub address: String,
    pub healthy: bool,
    pub drained: Option<Drained>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Drained {
    pub by: String,
}

impl Instance {
    #[cfg(any(test, feature = "crash-points"))]
    pub fn new(id: &str, name: &str, address: &str) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            address: address.into(),
            healthy: true,
            drained: None,
            rest: Map::new(),
        }
    }

    fn traffic(&self) -> Traffic {
        match &self.drained {
            Some(Drained { by }) => match Marker::parse(by) {
                Some(marker) => Traffic::DrainedBy(marker),
                None => Traffic::Isolated { reason: by.clone() },
            },
            None if self.healthy => Traffic::Passing,
            None => Traffic::Failing,
        }
    }
}

impl Instances {
    /// Ids name one instance each; without that nothing here would be sure whom it changes.
    pub fn check(&self) -> Result<(), String> {
        let mut seen = std::collections::HashSet::new();
        match self.instances.iter().find(|instance| !seen.insert(&instance.id)) {
            Some(twice) => Err(format!("the id `{}` is listed twice", twice.id)),
            None => Ok(()),
        }
    }

    pub fn find(&self, registry: &str, id: &str) -> Result<&Instance, RegistryError> {
        self.instances
            .iter()
            .find(|instance| instance.id == id)
            .ok_or_else(|| RegistryError::NotRegistered { registry: registry.into(), id: id.into() })
    }

    fn find_mut(&mut self, id: &str) -> &mut Instance {
        self.instances.iter_mut().find(|instance| instance.id == id).expect("the caller has found it")
    }

    pub fn observe(&self, registry: &str, id: &str) -> Result<Registration, RegistryError> {
        let instance = self.find(registry, id)?;
        let record = serde_json::to_value(instance).expect("strings, a bool and JSON are JSON");
        Ok(Registration { name: instance.name.clone(), traffic: instance.traffic(), record })
    }

    pub fn drain(&mut self, registry: &str, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let traffic = self.find(registry, id)?.traffic();
        if super::may_drain(registry, id, &traffic, marker)? {
            self.find_mut(id).drained = Some(Drained { by: marker.to_string() });
        }
        Ok(())
    }

    pub fn restore(&mut self, registry: &str, id: &str, marker: &Marker) -> Result<Restored, RegistryError> {
        match self.find(registry, id).map(Instance::traffic) {
            Ok(Traffic::DrainedBy(found)) if found == *marker => {
                self.find_mut(id).drained = None;
                Ok(Restored::Done)
            }
            Ok(other) => Ok(Restored::NotOurs(super::stands_there(&other))),
            Err(RegistryError::NotRegistered { .. }) => Ok(Restored::NotOurs("no instance of that id".into())),
            Err(error) => Err(error),
        }
    }

    pub fn others(&self, registry: &str, id: &str) -> Result<Others, RegistryError> {
        let name = &self.find(registry, id)?.name;
        let same = || self.instances.iter().filter(|instance| instance.name == *name);
        let healthy = same().filter(|instance| instance.id != id && instance.traffic() == Traffic::Passing).count();
        Ok(Others { healthy: healthy as u32, registered: same().count() as u32 })
    }

    pub fn markers(&self) -> Vec<FoundMarker> {
        self.instances
            .iter()
            .filter_map(|instance| match instance.traffic() {
                Traffic::DrainedBy(marker) => Some(FoundMarker { id: instance.id.clone(), marker }),
                _ => None,
            })
            .collect()
    }

    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.instances
            .iter()
            .filter_map(|instance| Some((instance.id.clone(), instance.address.parse().ok()?)))
            .collect()
    }

    pub fn names(&self) -> HashMap<SocketAddr, String> {
        self.instances
            .iter()
            .filter_map(|instance| Some((instance.address.parse().ok()?, instance.name.clone())))
            .collect()
    }
}
