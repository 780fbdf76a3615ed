//! Consul: maintenance mode of one service on the local agent (`/v1/agent/service/maintenance/<id>`), or of the whole node
//! (`/v1/agent/maintenance`).
//!
//! Maintenance is a critical check `_service_maintenance:<id>` or `_node_maintenance`, whose notes are the reason; ours is a
//! [`Marker`], for a node with the instance's id behind it. It outlives this agent, a kill of Consul's (given a data
//! directory) and a registration with the same id.
//! Measured with Consul 1.8.7:
//!
//! - The first reason stays: enabling it again answers 200 and changes nothing. So each drain reads the reason back, and
//!   one that is not ours is somebody else's drain. (Somebody who lifts ours and sets their own between our last look and
//!   our own lifting is not seen: the API has no compare-and-swap here.)
//! - A token that may not read is answered `200 []` or `200 {}`. So absence is never believed by itself: *passing* needs
//!   ourselves (node and id) in the passing list, *failing* and *drained* need ourselves in the whole list, a list of
//!   markers needs as many checks as the agent says it has (`Stats.agent.checks`), and *not registered* needs the local
//!   agent's own `404 unknown service ID`, which it gives whatever the token.
//! - A service that registers under another id at each start is found by its name, address and port among the local agent's;
//!   of several the one that was registered last is it, since one port has one process at a time.
//! - Maintenance of the node takes every service out, and survives what its services do: also a deregistration.
//!
//! - A deregistration takes the maintenance with it, and a service that registers again is in traffic. While an agent
//!   runs it is drained again ([`held`]).
//!
//! The token needs `service:write` on the service, and read on all services, nodes and the agent.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange};
use crate::model::{ConsulScope, Marker};
use crate::ports::Secret;
use crate::ports::api_error::ApiError;
use crate::ports::consul::Api;
use crate::ports::http::Servers;

mod checks;
mod held;
mod maintenance;
mod own;
#[cfg(test)]
mod would_tests;

pub use held::Consul;
use maintenance::{NODE_MAINTENANCE, SCOPES, maintenance, maintenance_check, marker_in, reason_in};
use own::{AgentService, Own};

/// From the write until the catalog shows it: 40 ms measured; a new leader takes some seconds.
const SEEN_DEADLINE: Duration = Duration::from_secs(10);
const SEEN_POLL: Duration = Duration::from_millis(50);
/// For naming peers: bounds on what one look at the catalog may cost.
const NAMES_DEADLINE: Duration = Duration::from_secs(5);
const NAMES_SERVICES: usize = 500;

/// Between counting the agent's checks and listing them one may come or go.
const MARKER_LOOKS: u32 = 3;

/// The local agent, asked directly.
#[derive(Debug)]
struct Local {
    name: String,
    host: String,
    scope: ConsulScope,
    api: Api,
    /// Which registration of an instance was drained, by `CreateIndex`: one that was made anew has another.
    drained: Mutex<BTreeMap<String, u64>>,
    /// A look at a drain and its end never meet half-way.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Deserialize)]
struct AgentSelf {
    #[serde(rename = "Config")]
    config: SelfConfig,
    #[serde(rename = "Stats", default)]
    stats: HashMap<String, HashMap<String, String>>,
}

#[derive(Deserialize)]
struct SelfConfig {
    #[serde(rename = "NodeName")]
    node: String,
}

#[derive(Deserialize)]
struct Check {
    #[serde(rename = "CheckID")]
    id: String,
    #[serde(rename = "Notes", default)]
    notes: String,
    #[serde(rename = "ServiceID", default)]
    service_id: String,
}

/// One instance in `/v1/health/service/<name>`.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "Node")]
    node: EntryNode,
    #[serde(rename = "Service")]
    service: EntryService,
    #[serde(rename = "Checks")]
    checks: Vec<Check>,
}

#[derive(Deserialize)]
struct EntryNode {
    #[serde(rename = "Node")]
    name: String,
}

#[derive(Deserialize)]
struct EntryService {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "CreateIndex", default)]
    created: u64,
}

#[derive(Deserialize)]
struct CatalogEntry {
    #[serde(rename = "Address", default)]
    node_address: String,
    #[serde(rename = "ServiceAddress", default)]
    address: String,
    #[serde(rename = "ServicePort", default)]
    port: u16,
}

impl Local {
    /// `name` is the registry's in the host's file, `server` the local agent, `host` the one that our markers carry.
    fn new(name: &str, server: Servers, token: Option<Secret>, host: &str) -> Result<Self, RegistryError> {
        let api = Api::new(server, token).map_err(|detail| RegistryError::Refused { registry: name.into(), detail })?;
        Ok(Self {
            name: name.into(),
            host: host.into(),
            scope: ConsulScope::Service,
            api,
            drained: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        })
    }

    fn told(&self, error: ApiError) -> RegistryError {
        error.of_registry(&self.name)
    }

    fn refused(&self, detail: String) -> RegistryError {
        RegistryError::Refused { registry: self.name.clone(), detail }
    }

    async fn get<T: serde::de::DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, RegistryError> {
        let answer = self.api.get(path, query).await.map_err(|error| self.told(error))?;
        if answer.cut {
            let detail = format!(
                "GET /v1/{}: Consul left instances out of the answer that the token may not see; the token needs \
                 service:read and node:read",
                path.join("/")
            );
            return Err(self.refused(detail));
        }
        answer.json().map_err(|error| self.told(error))
    }

    fn not_registered(&self, id: &str) -> RegistryError {
        RegistryError::NotRegistered { registry: self.name.clone(), id: id.into() }
    }

    async fn node(&self) -> Result<String, RegistryError> {
        Ok(self.get::<AgentSelf>(&["agent", "self"], &[]).await?.config.node)
    }

    async fn version(&self) -> Result<Option<String>, RegistryError> {
        self.api.version().await.map(Some).map_err(|error| self.told(error))
    }

    async fn checks(&self) -> Result<BTreeMap<String, Value>, RegistryError> {
        self.get(&["agent", "checks"], &[]).await
    }

    /// Where our drain stands, by the local agent: in the scope that the host's file told when it was made.
    async fn scope_of(&self, id: &str, marker: &Marker) -> Result<Option<ConsulScope>, RegistryError> {
        let checks = self.checks().await?;
        let ours = |scope: &ConsulScope| {
            let reason = reason_in(&checks, &maintenance_check(*scope, id));
            reason.is_some_and(|reason| Marker::parse(&reason).as_ref() == Some(marker))
        };
        Ok(SCOPES.into_iter().find(ours))
    }

    async fn entries(&self, name: &str, passing: bool) -> Result<Vec<Entry>, RegistryError> {
        let query: &[(&str, &str)] =
            if passing { &[("passing", "1"), ("consistent", "")] } else { &[("consistent", "")] };
        self.get(&["health", "service", name], query).await
    }

    /// Switches it off, or on: with a marker, and the id that the binding has.
    async fn set_maintenance(
        &self,
        scope: ConsulScope,
        id: &str,
        on: Option<(&Marker, &str)>,
    ) -> Result<(), RegistryError> {
        let (path, query) = maintenance(scope, id, on);
        let query: Vec<(&str, &str)> = query.iter().map(|(key, value)| (*key, value.as_str())).collect();
        match self.api.put(&path, &query, vec![]).await.map_err(|error| self.told(error))? {
            answer if answer.found => Ok(()),
            _ => Err(self.not_registered(id)),
        }
    }

    /// Our drain is read back, the catalog has it, and no client finds us. False: not yet.
    async fn is_drained(&self, node: &str, id: &str, name: &str, marker: &Marker) -> Result<bool, RegistryError> {
        if self.scope_of(id, marker).await?.is_none() {
            return match reason_in(&self.checks().await?, &maintenance_check(self.scope, id)) {
                Some(other) if Marker::parse(&other).as_ref() != Some(marker) => {
                    let detail = format!("somebody else took `{id}` out a moment before; their reason: {other}");
                    Err(self.refused(detail))
                }
                _ => Ok(false),
            };
        }
        let passing = self.entries(name, true).await?;
        let all = self.entries(name, false).await?;
        let ours = all.iter().find(|entry| entry.is(node, id));
        let shown = ours.is_some_and(|entry| entry.checks.iter().any(|check| check.carries(marker)));
        Ok(shown && !passing.iter().any(|entry| entry.is(node, id)))
    }

    /// The catalog shows us without our maintenance. False: not yet, or it does not show us at all.
    async fn is_restored(&self, node: &str, id: &str, name: &str, marker: &Marker) -> Result<bool, RegistryError> {
        if self.scope_of(id, marker).await?.is_some() {
            return Ok(false);
        }
        let all = self.entries(name, false).await?;
        let entry = all.iter().find(|entry| entry.is(node, id));
        Ok(entry.is_some_and(|entry| !entry.checks.iter().any(|check| check.carries(marker))))
    }

    /// Every (service id, reason) that carries a marker, once the whole list of checks has been seen.
    async fn all_markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        let mut seen = (0, 0);
        for _ in 0..MARKER_LOOKS {
            let agent: AgentSelf = self.get(&["agent", "self"], &[]).await?;
            let Some(count) = agent.counts("checks") else {
                return Err(self.refused("GET /v1/agent/self shows no number of checks to compare with".into()));
            };
            let checks = self.checks().await?;
            seen = (checks.len(), count);
            if checks.len() >= count {
                return Ok(checks.values().filter_map(marker_in).collect());
            }
        }
        Err(self.refused(format!(
            "the token shows {} of the local agent's {} checks; the token needs read on all services and nodes",
            seen.0, seen.1
        )))
    }
}

impl AgentSelf {
    /// How many checks, or services, the local agent has itself, whatever the token shows of them.
    fn counts(&self, what: &str) -> Option<usize> {
        self.stats.get("agent")?.get(what)?.parse().ok()
    }
}

impl Check {
    fn carries(&self, marker: &Marker) -> bool {
        Marker::parse(&self.notes).as_ref() == Some(marker)
    }
}

impl Entry {
    fn is(&self, node: &str, id: &str) -> bool {
        self.node.name == node && self.service.id == id
    }
}

/// Asks until the answer is yes, an error, or `SEEN_DEADLINE` has passed; then the last failure, or `None`.
async fn until<F: Future<Output = Result<bool, RegistryError>>>(
    ask: impl Fn() -> F,
) -> Result<Option<()>, RegistryError> {
    let deadline = tokio::time::Instant::now() + SEEN_DEADLINE;
    loop {
        let answer = ask().await;
        let late = tokio::time::Instant::now() >= deadline;
        match answer {
            Ok(true) => return Ok(Some(())),
            Ok(false) if late => return Ok(None),
            Err(error) if late || !error.is_passing() => return Err(error),
            _ => tokio::time::sleep(SEEN_POLL).await,
        }
    }
}

#[async_trait]
impl Registry for Local {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        let registered = self.own(id).await;
        let checks = self.checks().await?;
        let Own { id: own, name, record: service } =
            match (registered, checks.get(NODE_MAINTENANCE).and_then(marker_in)) {
                // The service has gone; the node is out on its account still, and to be put back.
                (Err(RegistryError::NotRegistered { .. }), Some(found)) if found.id == id => {
                    let traffic = Traffic::DrainedBy(found.marker);
                    return Ok(Registration { name: id.into(), traffic, record: Value::Null });
                }
                (registered, _) => registered?,
            };
        let of_own: Vec<&Value> = checks.values().filter(|check| check["ServiceID"] == own.as_str()).collect();
        let record = json!({ "service": service, "checks": of_own });
        let told = |traffic| Ok(Registration { name: name.clone(), traffic, record: record.clone() });
        for scope in SCOPES {
            let Some(reason) = reason_in(&checks, &maintenance_check(scope, &own)) else { continue };
            return told(match (Marker::parse(&reason), scope) {
                (Some(marker), _) => Traffic::DrainedBy(marker),
                (None, ConsulScope::Service) => Traffic::Isolated { reason },
                (None, ConsulScope::Node) => Traffic::Isolated { reason: format!("the whole node: {reason}") },
            });
        }
        let node = self.node().await?;
        if self.entries(&name, true).await?.iter().any(|entry| entry.is(&node, &own)) {
            return told(Traffic::Passing);
        }
        // Not passing is believed only from an answer that shows us.
        match self.entries(&name, false).await?.iter().find(|entry| entry.is(&node, &own)) {
            Some(entry) => match entry.checks.iter().find(|check| check.id == NODE_MAINTENANCE) {
                Some(check) => told(Traffic::Isolated { reason: format!("the whole node: {}", check.notes) }),
                None => told(Traffic::Failing),
            },
            None => Err(self.refused(format!(
                "`{id}` is registered with the local agent, but the answer for `{name}` does not show it: \
                 the token needs service:read and node:read (or the registration has not reached the servers yet)"
            ))),
        }
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let own = self.own(id).await?;
        let seen = self.observe(id).await?;
        let node = self.node().await?;
        if super::may_drain(&self.name, id, &seen.traffic, marker)? {
            self.set_maintenance(self.scope, &own.id, Some((marker, id))).await?;
        }
        until(|| self.is_drained(&node, &own.id, &own.name, marker)).await?.ok_or_else(|| RegistryError::Unreachable {
            registry: self.name.clone(),
            detail: format!("clients still find `{id}` {SEEN_DEADLINE:?} after its maintenance began"),
        })
    }

    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError> {
        let own = self.own(id).await?;
        let on = (change == TrafficChange::Drain).then_some((marker, id));
        let (path, query) = maintenance(self.scope, &own.id, on);
        let query: Vec<(&str, &str)> = query.iter().map(|(key, value)| (*key, value.as_str())).collect();
        Ok(vec![self.api.shown(&Method::PUT, &path, &query)])
    }

    async fn restore(&self, id: &str, marker: &Marker, _record: &Value) -> Result<Restored, RegistryError> {
        let own = match self.own(id).await {
            Ok(own) => own,
            // The service has gone; what else the node has is out by our doing still.
            Err(RegistryError::NotRegistered { .. }) if self.scope_of(id, marker).await? == Some(ConsulScope::Node) => {
                self.set_maintenance(ConsulScope::Node, id, None).await?;
                return match self.scope_of(id, marker).await? {
                    None => Ok(Restored::Done),
                    Some(_) => Err(self.refused("the node was restored, but still reads as drained".into())),
                };
            }
            Err(RegistryError::NotRegistered { .. }) => {
                return Ok(Restored::NotOurs(format!("instance `{id}` is not registered any more")));
            }
            Err(error) => return Err(error),
        };
        let lifted = self.lift_former(id, &own.id, marker).await?;
        let Some(scope) = self.scope_of(&own.id, marker).await? else {
            return match self.observe(id).await?.traffic {
                Traffic::Passing | Traffic::Failing if lifted => Ok(Restored::Done),
                other => Ok(Restored::NotOurs(super::stands_there(&other))),
            };
        };
        let node = self.node().await?;
        self.set_maintenance(scope, &own.id, None).await?;
        match until(|| self.is_restored(&node, &own.id, &own.name, marker)).await? {
            Some(()) => Ok(Restored::Done),
            None => Err(RegistryError::Unreachable {
                registry: self.name.clone(),
                detail: format!(
                    "Consul still shows `{id}` in maintenance {SEEN_DEADLINE:?} after the maintenance was ended"
                ),
            }),
        }
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        let Own { id: own, name, .. } = self.own(id).await?;
        let node = self.node().await?;
        let all = self.entries(&name, false).await?;
        if !all.iter().any(|entry| entry.is(&node, &own)) {
            return Err(self.refused(format!(
                "the answer for `{name}` lacks this instance (`{id}` on {node}), so it may lack others: the token \
                 needs service:read and node:read"
            )));
        }
        let passing = self.entries(&name, true).await?;
        // A drained node takes its other instances along.
        let stays = |entry: &&Entry| match self.scope {
            ConsulScope::Service => !entry.is(&node, &own),
            ConsulScope::Node => entry.node.name != node,
        };
        let healthy = passing.iter().filter(stays).count();
        Ok(Others { healthy: healthy as u32, registered: all.len() as u32 })
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        let mut found = self.all_markers().await?;
        found.retain(|found| found.marker.host == self.host);
        Ok(found)
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        let services: BTreeMap<String, Value> = self.get(&["catalog", "services"], &[]).await?;
        let mut names = HashMap::new();
        let all = async {
            for name in services.keys().take(NAMES_SERVICES) {
                let entries: Vec<CatalogEntry> = self.get(&["catalog", "service", name], &[]).await?;
                names.extend(entries.iter().filter_map(|entry| Some((entry.socket()?, name.clone()))));
            }
            Ok(())
        };
        match tokio::time::timeout(NAMES_DEADLINE, all).await {
            Ok(Err(error)) => Err(error),
            // What was read until then is true; peers without a name are shown by their address.
            Ok(Ok(())) | Err(_) => Ok(names),
        }
    }

    /// What the local agent has registered.
    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        let services: BTreeMap<String, AgentService> = self.get(&["agent", "services"], &[]).await?;
        Ok(services.into_iter().filter_map(|(id, service)| Some((id, service.socket()?))).collect())
    }

    async fn health_url(&self, id: &str) -> Result<Option<String>, RegistryError> {
        Ok(checks::health_url(&self.checks().await?, id))
    }

    fn caveats(&self) -> &'static [&'static str] {
        match self.scope {
            ConsulScope::Service => &[
                "a registration under another id or with replace-existing-checks ends a drain",
                "a service that deregisters and registers again while drained is in traffic until the agent drains it again, some seconds later; if no agent runs, it stays in traffic",
            ],
            ConsulScope::Node => {
                &["`scope: node`: a drain takes every service of this node out of traffic, even the last healthy \
                   instance of another service"]
            }
        }
    }

    async fn takes_writes(&self, _id: &str, _marker: &Marker) -> Result<bool, RegistryError> {
        Ok(true)
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        super::found_by_record(self, id).await
    }

    fn clients_follow(&self) -> Duration {
        Duration::ZERO
    }
}

impl CatalogEntry {
    /// A service without an address of its own has its node's.
    fn socket(&self) -> Option<SocketAddr> {
        let address = if self.address.is_empty() { &self.node_address } else { &self.address };
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, self.port))
    }
}
