//! Nacos: `enabled=false` of one instance, by its open API. An instance's id is `SERVICE/IP:PORT`. Written after Nacos'
//! documentation and sources (`InstanceController`, `InstanceControllerV2`, `InstanceOperatorClientImpl`), and tried on
//! a stub that follows them, not on a real server.
//!
//! - `PUT /v1/ns/instance` (or `/v2/…`) replaces weight, metadata and `enabled` together, without a compare: what is not
//!   changed is sent as it was read a moment before. The marker travels in the metadata, under `unwait`.
//! - `GET …/instance` tells an instance whether it is enabled or not, but not which; `GET …/instance/list` leaves out who
//!   is not. So *disabled* is: there, and not in the list.
//! - Nacos 2 keeps what was put, also through a restart of the application. Nacos 1 forgets it as soon as the instance
//!   registers anew, marker and all. So whose drain it is stands in a [`Ledger`] of this host besides, and drained is
//!   held. Disabled without a marker of ours is somebody else's.
//! - What may not be read is 403. What is not there is 404 with words of Nacos' own; any other 404 proves nothing.
//! - Where too few are healthy (`protectThreshold`) the list calls all of them healthy. So others are counted by what
//!   each one's own record says.

mod api;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::ledger::Ledger;
use super::noted::{Backend, Noted, until_seen};
use super::whose::{Shown, whose};
use super::{Others, Registration, RegistryError, Traffic};
use crate::model::{Marker, NacosLayout};
use crate::ports::User;

use api::{Api, Place};

/// For one call.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// A registration that undoes a drain is in force for so long at most.
const HOLD_EVERY: Duration = Duration::from_secs(1);
/// For naming peers: bounds on what one look may cost.
const NAMES_DEADLINE: Duration = Duration::from_secs(5);
const NAMES_SERVICES: usize = 500;
/// The key of our marker among the metadata.
const MARKER: &str = "unwait";

pub type Nacos = Noted<Instances>;

#[derive(Debug)]
pub struct Instances {
    registry: String,
    api: Api,
    ledger: Ledger,
}

/// An instance as its record and the list have it.
#[derive(Debug)]
pub struct Seen {
    registration: Registration,
    enabled: bool,
    metadata: Map<String, Value>,
    weight: Value,
    /// Told of enabled instances alone.
    ephemeral: Option<bool>,
}

impl Nacos {
    /// `name` is the registry's in the host's file; `url` ends where `/v1` begins; `ledger` is a file that this agent
    /// alone writes.
    pub fn new(
        name: &str,
        url: &str,
        user: Option<User>,
        layout: NacosLayout,
        ledger: PathBuf,
    ) -> Result<Self, RegistryError> {
        Self::within(CALL_DEADLINE, HOLD_EVERY, name, url, user, layout, ledger)
    }

    /// With another deadline for each call, and other times between two looks at a drain.
    pub(super) fn within(
        deadline: Duration,
        hold_every: Duration,
        name: &str,
        url: &str,
        user: Option<User>,
        layout: NacosLayout,
        ledger: PathBuf,
    ) -> Result<Self, RegistryError> {
        let api = Api::new(name, url, user, layout, deadline)?;
        let instances = Instances { registry: name.into(), api, ledger: Ledger::new(ledger) };
        Ok(Self::over(instances, hold_every))
    }
}

impl Instances {
    /// Sets `enabled`, and what else stands there as it was read; returns once it reads back.
    async fn put(&self, place: &Place<'_>, seen: &Seen, drained_by: Option<&Marker>) -> Result<(), RegistryError> {
        let mut metadata = seen.metadata.clone();
        if let Some(marker) = drained_by {
            metadata.insert(MARKER.into(), marker.to_string().into());
        }
        let enabled = drained_by.is_none();
        self.api.update(place, enabled, &seen.weight, &metadata, seen.ephemeral.unwrap_or(true)).await?;
        until_seen(&self.registry, place.id, || async {
            let now = self.look(place.id).await?;
            let drained = |traffic: &Traffic| matches!(traffic, Traffic::DrainedBy(found) if Some(found) == drained_by);
            let is_so = now.enabled == enabled && (enabled || drained(&now.registration.traffic));
            Ok((!is_so).then(|| super::stands_there(&now.registration.traffic)))
        })
        .await
    }

    /// Every instance that is enabled: its service, its id where it is in our cluster, and its address.
    async fn read_all(&self, all: &mut Vec<(String, Option<String>, SocketAddr)>) -> Result<(), RegistryError> {
        for service in self.api.services(NAMES_SERVICES).await? {
            let named = |listed: &Value| {
                let (ip, port) = (listed["ip"].as_str()?, u16::try_from(listed["port"].as_u64()?).ok()?);
                let id = format!("{service}/{ip}:{port}");
                let ours = self.api.place(&id).is_ok_and(|place| place.is(listed));
                Some((service.clone(), ours.then_some(id), SocketAddr::new(ip.parse().ok()?, port)))
            };
            all.extend(self.api.listed(&service).await?.iter().filter_map(named));
        }
        Ok(())
    }
}

#[async_trait]
impl Backend for Instances {
    type Seen = Seen;

    fn registry(&self) -> &str {
        &self.registry
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    async fn look(&self, id: &str) -> Result<Seen, RegistryError> {
        let place = self.api.place(id)?;
        let Some(record) = self.api.record(&place).await? else {
            return Err(RegistryError::NotRegistered { registry: self.registry.clone(), id: id.into() });
        };
        let listed = self.api.listed(place.service).await?.into_iter().find(|listed| place.is(listed));
        let enabled = listed.is_some();
        let mut metadata = record["metadata"].as_object().cloned().unwrap_or_default();
        let kept = metadata.remove(MARKER).and_then(|text| Some(text.as_str()?.to_owned()));
        let shown = match enabled {
            true => Shown::In { passing: record["healthy"] == true },
            false => Shown::Out("its instance is disabled (enabled=false)"),
        };
        let traffic = whose(shown, kept.as_deref(), self.note(id)?.as_ref());
        let weight = record["weight"].clone();
        let ephemeral = listed.and_then(|listed| listed["ephemeral"].as_bool());
        let kept = json!({ "weight": weight, "metadata": metadata, "ephemeral": ephemeral });
        let registration = Registration { name: place.service.into(), traffic, record: kept };
        Ok(Seen { registration, enabled, metadata, weight, ephemeral })
    }

    fn registration(seen: &Seen) -> &Registration {
        &seen.registration
    }

    async fn take_out(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let seen = self.look(id).await?;
        if !seen.enabled {
            return Ok(false);
        }
        self.put(&self.api.place(id)?, &seen, Some(marker)).await?;
        Ok(true)
    }

    async fn put_back(&self, id: &str, _marker: &Marker, mut seen: Seen, record: &Value) -> Result<(), RegistryError> {
        seen.ephemeral = seen.ephemeral.or(record["ephemeral"].as_bool());
        self.put(&self.api.place(id)?, &seen, None).await
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        let place = self.api.place(id)?;
        // Proves that this user sees the service's instances, ourselves among them.
        self.look(id).await?;
        let listed = self.api.listed(place.service).await?;
        let mut others = Others { healthy: 0, registered: 1 };
        for other in listed.iter().filter(|listed| !place.is(listed)) {
            others.registered += 1;
            if self.api.is_healthy(place.service, other).await? {
                others.healthy += 1;
            }
        }
        Ok(others)
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
            Err(_) => Err(RegistryError::Unreachable {
                registry: self.registry.clone(),
                detail: "its instances could not be read within the deadline".into(),
            }),
        }
    }

    fn caveats(&self) -> &'static [&'static str] {
        &[
            "not tried on a real Nacos: it follows the open API as documented",
            "Nacos 1 forgets a drain when the service registers anew: it is in traffic until the agent takes it out again, \
             and for good while no agent runs",
            "Nacos 2 keeps weight and metadata as they were written last, by a drain and its restore too: other ones that \
             the service registers later have no effect",
            "instances that somebody disabled are not counted as registered: min_healthy in percent is of the others",
        ]
    }
}
