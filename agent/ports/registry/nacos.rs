//! Nacos: `enabled=false` of one instance. An instance's id is `SERVICE/IP:PORT`. As Nacos 2.5.1 and 3.0.3 and r-nacos 0.8.8
//! answer; tried on a stub that answers as they do, since no package registry has a server. Nacos 1 after its sources.
//!
//! - Nacos 2 and 3 lay what is written over what the service registers, key by key and for good. So our own key alone is laid
//!   over it, by the call that leaves an operator's keys as they are, and taken away at the end: what shows then is what the
//!   service that runs now has registered. The weight goes along with `enabled`, since without it it becomes 1.
//! - Nacos 1 and r-nacos replace the metadata whole: what is not changed is sent as it was read a moment before.
//! - The marker travels in the metadata, under `unwait`. It is written after the drain, r-nacos drops it when the service
//!   registers by HTTP, and Nacos 1 forgets the drain with it. So whose drain it is stands in a [`Ledger`] of this host
//!   besides, and drained is held.
//! - The record of Nacos 3 and r-nacos tells `enabled`. Nacos 1 and 2 tell whether an instance is enabled or not, but not
//!   which; their list leaves out who is not. So *disabled* is there: there, and not in the list.
//! - What may not be read is 403. What is not there is 404 with words of Nacos' own (500 `error` of r-nacos, where its list
//!   answers); any other 404 proves nothing.
//! - Where too few are healthy (`protectThreshold`) the list calls all of them healthy. So others are counted by what
//!   each one's own record says.

mod api;
mod calls;
mod said;
mod server;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::ledger::Ledger;
use super::ledger_registry::{Backend, LedgerRegistry, until_seen};
use super::whose::{Shown, whose};
use super::{Others, Registration, RegistryError, TrafficChange};
use crate::model::{Marker, NacosLayout};
use crate::ports::{Servers, User};

use api::Api;
use calls::InstanceAddress;
use server::Kind;

/// For one call.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// A registration that undoes a drain is in force for so long at most.
const HOLD_EVERY: Duration = Duration::from_secs(1);
/// Subscribers were told after 0.53 to 0.68 s.
const CLIENTS_FOLLOW: Duration = Duration::from_secs(1);
/// For naming peers: bounds on what one look may cost.
const NAMES_DEADLINE: Duration = Duration::from_secs(5);
const NAMES_SERVICES: usize = 500;
/// The key of our marker among the metadata.
const MARKER: &str = "unwait";

pub type Nacos = LedgerRegistry<Instances>;

#[derive(Debug)]
pub struct Instances {
    registry: String,
    api: Api,
    ledger: Ledger,
}

/// An instance as its record and the list have it.
#[derive(Debug)]
pub struct NacosInstance {
    registration: Registration,
    enabled: bool,
    /// What stands under our key.
    kept: Option<String>,
    /// All the rest.
    metadata: Map<String, Value>,
    weight: Value,
    /// Nacos 1 and 2 tell it of enabled instances alone.
    ephemeral: Option<bool>,
}

impl Nacos {
    /// `name` is the registry's in the host's file; each address of the cluster ends where `/v1` or `/v3` begins; `ledger` is a
    /// file that this agent alone writes.
    pub fn new(
        name: &str,
        servers: impl Into<Servers>,
        user: Option<User>,
        layout: NacosLayout,
        ledger: PathBuf,
    ) -> Result<Self, RegistryError> {
        Self::within(CALL_DEADLINE, HOLD_EVERY, name, servers, user, layout, ledger)
    }

    /// With another deadline for each call, and other times between two looks at a drain.
    pub(super) fn within(
        deadline: Duration,
        hold_every: Duration,
        name: &str,
        servers: impl Into<Servers>,
        user: Option<User>,
        layout: NacosLayout,
        ledger: PathBuf,
    ) -> Result<Self, RegistryError> {
        let api = Api::new(name, servers.into(), user, layout, deadline)?;
        let instances = Instances { registry: name.into(), api, ledger: Ledger::new(ledger) };
        Ok(Self::over(instances, hold_every))
    }
}

impl Instances {
    fn place<'a>(&'a self, id: &'a str) -> Result<InstanceAddress<'a>, RegistryError> {
        let (service, instance) = super::service_and_instance(&self.registry, id)?;
        self.api.place(id, service, instance)
    }

    /// Disables it under this marker, or enables it without one; returns once both read back.
    async fn set(
        &self,
        place: &InstanceAddress<'_>,
        seen: NacosInstance,
        drained_by: Option<&Marker>,
    ) -> Result<(), RegistryError> {
        let enabled = drained_by.is_none();
        let kind = self.api.server().await?.kind;
        if !kind.lays_over() {
            let metadata = whole(kind, seen.metadata, seen.kept.is_some(), drained_by);
            let write = self.api.replacing(place, enabled, &seen.weight, metadata, seen.ephemeral).await?;
            self.api.change(&write).await?;
            return self.until(place.id, enabled, Some(drained_by)).await;
        }
        // First `enabled`, then our key: theirs reads the overlay and writes it back, and alone it would make the weight 1.
        self.api.change(&self.api.enabling(place, enabled, &seen.weight).await?).await?;
        self.until(place.id, enabled, None).await?;
        let ephemeral = self.look(place.id).await?.ephemeral.or(seen.ephemeral);
        self.api.change(&self.api.marking(place, drained_by, ephemeral).await?).await?;
        self.until(place.id, enabled, Some(drained_by)).await
    }

    /// Until it reads back so, with our key as it should be where that is told.
    async fn until(&self, id: &str, enabled: bool, marker: Option<Option<&Marker>>) -> Result<(), RegistryError> {
        let marker = marker.map(|marker| marker.map(ToString::to_string));
        until_seen(&self.registry, id, || async {
            let now = self.look(id).await?;
            if now.enabled != enabled {
                return Ok(Some(super::stands_there(&now.registration.traffic)));
            }
            Ok(match &marker {
                Some(marker) if *marker != now.kept => Some(match &now.kept {
                    Some(kept) => format!("the key `{MARKER}` holds `{kept}`"),
                    None => format!("the key `{MARKER}` is missing"),
                }),
                _ => None,
            })
        })
        .await
    }

    /// Every instance that is listed: its service, its id where it is in our cluster, and its address.
    async fn read_all(&self, all: &mut Vec<(String, Option<String>, SocketAddr)>) -> Result<(), RegistryError> {
        for service in self.api.services(NAMES_SERVICES).await? {
            let named = |listed: &Value| {
                let (ip, port) = (listed["ip"].as_str()?, u16::try_from(listed["port"].as_u64()?).ok()?);
                let id = format!("{service}/{ip}:{port}");
                let ours = self.place(&id).is_ok_and(|place| place.is(listed));
                Some((service.clone(), ours.then_some(id), SocketAddr::new(ip.parse().ok()?, port)))
            };
            all.extend(self.api.listed(&service).await?.iter().filter_map(named));
        }
        Ok(())
    }
}

/// The metadata as it is written where that replaces it whole. For an empty one r-nacos keeps what it has, our key too where
/// it `is_marked`; an empty text is no marker.
fn whole(kind: Kind, mut metadata: Map<String, Value>, is_marked: bool, marker: Option<&Marker>) -> Map<String, Value> {
    let keeps = kind == Kind::RNacos && is_marked && metadata.is_empty();
    if let Some(text) = marker.map(ToString::to_string).or(keeps.then(String::new)) {
        metadata.insert(MARKER.into(), text.into());
    }
    metadata
}

#[async_trait]
impl Backend for Instances {
    type Instance = NacosInstance;

    fn registry(&self) -> &str {
        &self.registry
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    async fn look(&self, id: &str) -> Result<NacosInstance, RegistryError> {
        let place = self.place(id)?;
        let Some(record) = self.api.record(&place).await? else {
            return Err(RegistryError::NotRegistered { registry: self.registry.clone(), id: id.into() });
        };
        let (enabled, ephemeral) = match record["enabled"].as_bool() {
            Some(enabled) => (enabled, record["ephemeral"].as_bool()),
            None => {
                let listed = self.api.listed(place.service).await?.into_iter().find(|listed| place.is(listed));
                (listed.is_some(), listed.and_then(|listed| listed["ephemeral"].as_bool()))
            }
        };
        let mut metadata = record["metadata"].as_object().cloned().unwrap_or_default();
        let kept = metadata.remove(MARKER).and_then(|text| Some(text.as_str()?.to_owned()));
        let kept = kept.filter(|text| !text.is_empty());
        let shown = match enabled {
            true => Shown::In { passing: record["healthy"] == true },
            false => Shown::Out("the instance is disabled (enabled=false)"),
        };
        let traffic = whose(shown, kept.as_deref(), self.note(id)?.as_ref());
        let weight = record["weight"].clone();
        let record = json!({ "weight": weight, "metadata": metadata, "ephemeral": ephemeral });
        let registration = Registration { name: place.service.into(), traffic, record };
        Ok(NacosInstance { registration, enabled, kept, metadata, weight, ephemeral })
    }

    fn registration(seen: &NacosInstance) -> &Registration {
        &seen.registration
    }

    async fn take_out(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let seen = self.look(id).await?;
        if !seen.enabled {
            return Ok(false);
        }
        self.set(&self.place(id)?, seen, Some(marker)).await?;
        Ok(true)
    }

    async fn put_back(
        &self,
        id: &str,
        _marker: &Marker,
        mut seen: NacosInstance,
        record: &Value,
    ) -> Result<(), RegistryError> {
        seen.ephemeral = seen.ephemeral.or(record["ephemeral"].as_bool());
        self.set(&self.place(id)?, seen, None).await
    }

    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError> {
        let (place, seen) = (self.place(id)?, self.look(id).await?);
        let drained_by = (change == TrafficChange::Drain).then_some(marker);
        let (enabled, kind) = (drained_by.is_none(), self.api.server().await?.kind);
        if kind.lays_over() {
            let enabling = self.api.enabling(&place, enabled, &seen.weight).await?;
            let marking = self.api.marking(&place, drained_by, seen.ephemeral).await?;
            return Ok([enabling, marking].iter().map(|write| self.api.shown(write)).collect());
        }
        // What the service itself has written there may be a secret.
        let metadata = Map::from_iter(drained_by.map(|marker| (MARKER.into(), marker.to_string().into())));
        let write = self.api.replacing(&place, enabled, &seen.weight, metadata, seen.ephemeral).await?;
        Ok(vec![format!("{}, beside the metadata that it has", self.api.shown(&write))])
    }

    /// Where the drain itself was taken, it stands, whatever was refused after it.
    async fn is_undone(&self, id: &str, error: &RegistryError) -> bool {
        !error.is_passing() && self.look(id).await.is_ok_and(|seen| seen.enabled)
    }

    /// Our key alone, where that is laid over the metadata. Nacos 1 and r-nacos have no such call: theirs replaces the
    /// record, and r-nacos takes it for a heartbeat.
    async fn write_again(&self, id: &str, marker: &Marker, seen: NacosInstance) -> Result<(), RegistryError> {
        let is_marked = seen.kept.as_deref().and_then(Marker::parse).as_ref() == Some(marker);
        if !is_marked || !self.api.server().await?.kind.lays_over() {
            return Ok(());
        }
        self.api.change(&self.api.marking(&self.place(id)?, Some(marker), seen.ephemeral).await?).await
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        let place = self.place(id)?;
        // Proves that this user sees the service's instances, ourselves among them.
        let us = self.look(id).await?;
        let listed = self.api.listed(place.service).await?;
        let enabled = |listed: &Value| listed["enabled"].as_bool().unwrap_or(true);
        if us.enabled && !listed.iter().any(|listed| place.is(listed) && enabled(listed)) {
            let detail = format!(
                "the registry's list of `{}` lacks `{id}`, although that is enabled: others may be missing as well",
                place.service
            );
            return Err(RegistryError::Unreachable { registry: self.registry.clone(), detail });
        }
        let mut others = Others { healthy: 0, registered: 1 };
        for other in listed.iter().filter(|listed| !place.is(listed)) {
            others.registered += 1;
            if enabled(other) && self.api.is_healthy(place.service, other).await? {
                others.healthy += 1;
            }
        }
        Ok(others)
    }

    async fn server(&self) -> Result<Option<String>, RegistryError> {
        Ok(Some(self.api.server().await?.to_string()))
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        let mut all = Vec::new();
        match tokio::time::timeout(NAMES_DEADLINE, self.read_all(&mut all)).await {
            Ok(Err(error)) => Err(error),
            // What was read until then is true; peers without a name are shown by their address.
            Ok(Ok(())) | Err(_) => Ok(all.into_iter().map(|(service, _, address)| (address, service)).collect()),
        }
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        let mut all = Vec::new();
        match tokio::time::timeout(NAMES_DEADLINE, self.read_all(&mut all)).await {
            Ok(read) => read.map(|()| all.into_iter().filter_map(|(_, id, address)| Some((id?, address))).collect()),
            Err(_) => {
                Err(self.api.unreachable("the instances of the registry could not be read within the deadline".into()))
            }
        }
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        let place = self.place(id)?;
        let listed = self.api.clients_list(place.service).await?;
        let found = |listed: &Value| place.is(listed) && listed["enabled"] != false && listed["healthy"] == true;
        Ok(listed.iter().any(found))
    }

    fn clients_follow(&self) -> Duration {
        CLIENTS_FOLLOW
    }

    fn caveats(&self) -> &'static [&'static str] {
        &[
            "Nacos itself is not among the tests: they use a stub with recorded answers of Nacos, and a real r-nacos",
            "Nacos keeps no reason: a service that a person disables during our drain is enabled with the restore",
            "clients that poll (Nacos 1) follow a change later than 1 s: set `clients_follow`",
            "Nacos 2 and 3 forget a drain when the service is away for 60 s, Nacos 1 when it registers anew, r-nacos \
             when it registers by gRPC or the server restarts: then the service is in traffic until the agent drains \
             it again; without a running agent it stays in traffic",
            "Nacos 2 and 3 keep the weight of the time of a drain: a weight that the service registers later has no \
             effect; r-nacos keeps the metadata likewise, until the service was away for 60 s",
            "r-nacos counts a drain or a restore as a heartbeat: a failing instance stays healthy for 15 s more",
            "Nacos 1 and r-nacos have no write that changes nothing: a server that accepts no writes is noticed at the \
             restore, not before the restart",
            "Nacos 1, Nacos 2 and r-nacos do not list disabled instances: min_healthy in percent counts the others \
             only",
        ]
    }
}
