//! The doors to the outside: a trait each, and its adapters beside it.
//!
//! The stages know the traits; the adapters are known to the wiring alone. Every call ends by a
//! deadline, every error is free of secrets, and every write is read back by the adapter before it says yes.

pub mod alerts;
mod api_error;
mod consul;
mod deadlines;
mod etcd;
pub mod fleet;
pub mod greeting;
mod http;
#[cfg(test)]
#[path = "../../tests/lab/installed.rs"]
pub mod installed;
pub mod login;
pub mod notifier;
pub mod probe;
mod redis;
pub mod registry;
pub mod restarter;
mod restarters;
mod said;
#[cfg(test)]
mod secured_tests;
mod silence;
#[cfg(test)]
pub mod testing_consul;
#[cfg(test)]
mod testing_etcd;
#[cfg(test)]
mod testing_eureka;
#[cfg(test)]
pub mod testing_haproxy;
#[cfg(test)]
mod testing_nginx;
#[cfg(test)]
mod testing_proxies;
#[cfg(test)]
pub mod testing_redis;
#[cfg(test)]
pub mod testing_tls;
#[cfg(test)]
mod testing_zookeeper;
pub mod tls;
pub mod unavailable;
pub mod veto;
#[cfg(test)]
mod wire_tests;
mod zookeeper;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use deadlines::{around_fleet, with_deadlines};
pub use http::{Servers, Via};
pub use login::{Login, Secret};
pub use redis::RedisAccess;
pub use restarters::Restarters;
pub use silence::{SILENT_AFTER, sharing};
pub use zookeeper::Ensemble;

use crate::model::plan::Restart;

/// Whom a store knows us as. The name may be empty where a password alone is asked for.
#[derive(Debug)]
pub struct User {
    pub name: String,
    pub password: Secret,
}

/// One adapter for each door, as the wiring has chosen them.
#[derive(Clone)]
pub struct Ports {
    /// By the registry's name in the host's file.
    pub registries: BTreeMap<String, Arc<dyn registry::Registry>>,
    pub restarters: Restarters,
    pub probe: Arc<dyn probe::Probe>,
    /// `None` where agent.yaml has no `fleet`.
    pub fleet: Option<Arc<dyn fleet::Fleet>>,
    pub vetoes: Arc<dyn veto::Vetoes>,
    /// `None` where agent.yaml has no `prometheus`.
    pub alerts: Option<Arc<dyn alerts::Alerts>>,
}

impl Ports {
    pub fn restarter(&self, restart: &Restart) -> &dyn restarter::Restarter {
        self.restarters.of(restart).as_ref()
    }
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").field("registries", &self.registries.keys()).finish_non_exhaustive()
    }
}
