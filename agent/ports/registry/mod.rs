//! Registries: taking a service out of traffic, and putting back exactly what was there.
//!
//! Called by the guards (reads), the steps drain, restore and verify, recovery, and the sweep for markers. An adapter
//! never deletes or rewrites a record, never takes back what somebody else did, and says yes to a write only once it
//! has read it back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::Marker;

pub mod consul;
pub mod dry;
mod dubbo;
pub mod etcd;
pub mod eureka;
#[cfg(any(test, feature = "crash-points"))]
pub mod fake;
pub mod file;
pub mod haproxy;
pub mod health_file;
mod holder;
pub mod hook;
mod instances;
mod ledger;
mod ledger_registry;
pub mod nacos;
pub mod redis;
mod whose;
pub mod zookeeper;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod consul_tests;
#[cfg(test)]
mod dubbo_tests;
#[cfg(test)]
mod etcd_tests;
#[cfg(test)]
mod eureka_server_tests;
#[cfg(test)]
mod eureka_tests;
#[cfg(test)]
mod haproxy_tests;
#[cfg(test)]
mod health_file_tests;
#[cfg(test)]
mod hook_http_tests;
#[cfg(test)]
mod hook_tests;
#[cfg(test)]
mod hook_word_tests;
#[cfg(test)]
mod ledger_registry_tests;
#[cfg(test)]
mod nacos_server_tests;
#[cfg(test)]
mod nacos_stub;
#[cfg(test)]
mod nacos_tests;
#[cfg(test)]
mod proxies_tests;
#[cfg(test)]
mod redis_dubbo_tests;
#[cfg(test)]
mod redis_failover_tests;
#[cfg(test)]
mod redis_tests;
#[cfg(test)]
mod rnacos_tests;
#[cfg(test)]
mod stub;
#[cfg(test)]
mod zookeeper_rule_tests;
#[cfg(test)]
mod zookeeper_tests;

/// A change of an instance's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficChange {
    Drain,
    Restore,
}

/// What a registry says of one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// The name it is registered under; instances of the same name stand in for each other.
    pub name: String,
    pub traffic: Traffic,
    /// The record as it was read, for the journal; its shape is the adapter's own.
    pub record: serde_json::Value,
}

/// Does traffic reach the instance, as a client of the registry sees it?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// Seen among the passing instances: the positive control.
    Passing,
    /// Registered, not isolated by anyone, and failing its checks.
    Failing,
    /// Taken out by us, and not taken back by us since. Where a heartbeat or a reload has put it into traffic all the
    /// same, it is still this: see [`Registry::hold`].
    DrainedBy(Marker),
    /// Taken out by somebody else, with the reason they gave.
    Isolated { reason: String },
}

/// The other instances under the same name, ourselves left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Others {
    pub healthy: u32,
    /// All that are registered, ourselves included.
    pub registered: u32,
}

/// How a restore went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// Our change is taken back, and read back.
    Done,
    /// Our change is not there any more; nothing was written. Says what stands there instead.
    NotOurs(String),
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Nobody answered, or the answer was a server error: worth trying again.
    #[error("{registry}: {detail}")]
    Unreachable { registry: String, detail: String },
    /// TLS: one side does not believe the other, and nothing was done. A person must look; it is tried again all the same.
    #[error("{registry}: {detail}")]
    Distrusted { registry: String, detail: String },
    /// The instance is not registered, as far as an answer can prove it.
    #[error("{registry}: no instance `{id}` is registered there")]
    NotRegistered { registry: String, id: String },
    /// The answer cannot be trusted or was refused: a token that may not read, a record of another shape.
    #[error("{registry}: {detail}")]
    Refused { registry: String, detail: String },
}

impl RegistryError {
    /// Trying again later may succeed.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Distrusted { .. })
    }

    /// It will not pass before a person has done something.
    pub fn needs_a_person(&self) -> bool {
        !matches!(self, Self::Unreachable { .. })
    }
}

/// A drain of ours that stands in the registry now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundMarker {
    pub id: String,
    pub marker: Marker,
}

/// A drain is several questions of 5 s, and 10 s until it is seen.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
const DRAINS_WITHIN: Duration = Duration::from_secs(30);
const GONE_AFTER: Duration = Duration::from_secs(60);

/// A place where clients find instances. `id` is the instance's id in this registry.
#[async_trait]
pub trait Registry: Send + Sync {
    /// What the registry says of the instance. An answer that permissions have cut is an error, never absence.
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError>;

    /// Takes the instance out of traffic under our marker, and returns once the registry's own record shows it; what
    /// clients find is asked apart ([`Self::clients_find`]). Repeating it is harmless; an isolation by somebody else is
    /// refused.
    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError>;

    /// Drained is a state to hold: takes the instance out again where it came back into traffic although nobody took
    /// our drain back. True where it had come back.
    async fn hold(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        match self.observe(id).await {
            Ok(Registration { traffic: Traffic::Passing | Traffic::Failing, .. }) => {
                self.drain(id, marker).await?;
                Ok(true)
            }
            // Gone while it restarts: nothing is in traffic, and what registers again is seen next time.
            Ok(_) | Err(RegistryError::NotRegistered { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes our drain once more as it stands, so that nothing changes: a registry that takes no writes any more is met
    /// before the restart, and not by what follows it. What the write asks for (permission, a quorum, room) is no less than
    /// what putting back and draining again ask for. False where our drain does not stand there. Where no such write can be
    /// had, or it would do harm, none is made, and it is true.
    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError>;

    /// Takes back the drain that carries this marker, and nothing else. `record` is the pre-image that
    /// `observe` gave before the drain. Repeating it is harmless.
    async fn restore(&self, id: &str, marker: &Marker, record: &serde_json::Value) -> Result<Restored, RegistryError>;

    /// The calls that would make this change now, in their order, for people: method, address and body, or the file and what
    /// becomes of it. Without secrets, and without the questions that come before and after it. Sends none of them.
    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError>;

    /// Lets go of the drain that carries this marker: a person has decided what becomes of it. What the adapter itself keeps of
    /// it goes (it is held no more, its note is taken back); what stands in the registry, and traffic, stay as they are.
    /// Repeating it is harmless. Where an adapter keeps nothing, there is nothing to do.
    async fn forget(&self, _id: &str, _marker: &Marker) -> Result<(), RegistryError> {
        Ok(())
    }

    /// Counts the instances of the same name. Fails where it cannot see ourselves: then the count proves nothing.
    async fn others(&self, id: &str) -> Result<Others, RegistryError>;

    /// Can this kind of registry count others at all? Where none of a service's registries can, its last healthy
    /// instance would go unnoticed, and nothing is drained.
    fn counts(&self) -> bool {
        true
    }

    /// This host's drains of ours that stand now, whoever made them. The running agent asks at its start, after a
    /// reload and every hour; an adapter whose drains others undo holds what it found from then on, until it is restored or
    /// forgotten.
    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError>;

    /// Addresses that the registry knows, with the names registered there; for naming peers in the evidence.
    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError>;

    /// Every instance that the registry shows to this host, by its id, with its address: for finding which of them a
    /// service here is. Empty where the registry tells no addresses.
    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        Ok(vec![])
    }

    /// The URL that the instance's health is asked at by HTTP, as the registry has it; `None` where it has none, or does not
    /// tell.
    async fn health_url(&self, _id: &str) -> Result<Option<String>, RegistryError> {
        Ok(None)
    }

    /// What the server calls itself, with its version; `None` where it does not say, as Eureka.
    async fn server(&self) -> Result<Option<String>, RegistryError> {
        Ok(None)
    }

    /// By when any of these calls has ended, one way or the other.
    fn ends_within(&self) -> Duration {
        ENDS_WITHIN
    }

    /// How long a drain may take by the registry's own settings; of a step whose deadline is below, people are warned.
    fn drains_within(&self) -> Duration {
        DRAINS_WITHIN
    }

    /// Do clients find the instance now, by the view that clients read? For most registries that is what `observe` reads
    /// ([`found_by_record`]).
    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError>;

    /// From a change that was taken until the last client has followed it, by caches of the server's and of the clients'
    /// own. A binding may say that its clients are slower.
    fn clients_follow(&self) -> Duration;

    /// Do clients close their connections to an instance that they do not find any more?
    fn clients_leave(&self) -> bool {
        false
    }

    /// For how long the registry must answer without an instance before that counts as gone: a restart of the server's, or
    /// an outage, is over for the last client by then.
    fn gone_after(&self) -> Duration {
        GONE_AFTER
    }

    /// What this kind of registry cannot promise, a sentence each; `unwait check` and `plan` show them.
    fn caveats(&self) -> &'static [&'static str] {
        &[]
    }
}

/// [`Registry::clients_find`] where clients read what `observe` reads.
pub async fn found_by_record(registry: &dyn Registry, id: &str) -> Result<bool, RegistryError> {
    match registry.observe(id).await {
        Ok(registration) => Ok(registration.traffic == Traffic::Passing),
        Err(RegistryError::NotRegistered { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// An id that is `SERVICE/INSTANCE`, where the registry itself knows services by name.
fn service_and_instance<'a>(registry: &str, id: &'a str) -> Result<(&'a str, &'a str), RegistryError> {
    id.split_once('/').filter(|(service, instance)| !service.is_empty() && !instance.is_empty()).ok_or_else(|| {
        RegistryError::Refused {
            registry: registry.into(),
            detail: format!("`{id}` names no instance: expected SERVICE/INSTANCE, as in rpc-order/10.0.0.1:7801"),
        }
    })
}

/// The rule of every drain: only what is in traffic is taken out. False where our own drain stands there already.
fn may_drain(registry: &str, id: &str, traffic: &Traffic, marker: &Marker) -> Result<bool, RegistryError> {
    match traffic {
        Traffic::Passing | Traffic::Failing => Ok(true),
        Traffic::DrainedBy(found) if found == marker => Ok(false),
        other => Err(RegistryError::Refused {
            registry: registry.into(),
            detail: format!("`{id}` is left alone: {}", stands_there(other)),
        }),
    }
}

/// What stands in the registry, for a person.
fn stands_there(traffic: &Traffic) -> String {
    match traffic {
        Traffic::Passing => "in traffic and passing, isolated by nobody".into(),
        Traffic::Failing => "in traffic and failing its checks, isolated by nobody".into(),
        Traffic::DrainedBy(marker) => {
            format!("drained by unwait on host {} for incident {}", marker.host, marker.incident)
        }
        Traffic::Isolated { reason } => format!("taken out by somebody else; their reason: {reason}"),
    }
}
