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

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::holder::{Held, Holder, Look};
use super::ledger::Ledger;
use super::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic};
use crate::model::{Marker, NacosLayout};
use crate::ports::User;

use api::{Api, Place};

/// For one call.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// From a write until a read shows it: Nacos 2 tells its own cache by an event.
const SEEN_DEADLINE: Duration = Duration::from_secs(10);
const SEEN_POLL: Duration = Duration::from_millis(50);
/// A registration that undoes a drain is in force for so long at most.
const HOLD_EVERY: Duration = Duration::from_secs(1);
/// For naming peers: bounds on what one look may cost.
const NAMES_DEADLINE: Duration = Duration::from_secs(5);
const NAMES_SERVICES: usize = 500;
/// The key of our marker among the metadata.
const MARKER: &str = "unwait";

#[derive(Debug)]
pub struct Nacos {
    instances: Arc<Instances>,
    holder: Holder,
}

#[derive(Debug)]
struct Instances {
    registry: String,
    api: Api,
    ledger: Ledger,
    /// One change at a time: nothing is held while it is being put back.
    changing: tokio::sync::Mutex<()>,
}

/// An instance as its record and the list have it.
struct Seen {
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
        let changing = tokio::sync::Mutex::default();
        let instances = Instances { registry: name.into(), api, ledger: Ledger::new(ledger), changing };
        Ok(Self { instances: Arc::new(instances), holder: Holder::new(hold_every) })
    }
}

impl Instances {
    fn refused(&self, detail: String) -> RegistryError {
        RegistryError::Refused { registry: self.registry.clone(), detail }
    }

    fn drains(&self) -> Result<BTreeMap<String, Marker>, RegistryError> {
        self.ledger.drains().map_err(|detail| self.refused(detail))
    }

    fn note(&self, id: &str, marker: Option<&Marker>) -> Result<(), RegistryError> {
        self.ledger.set(id, marker).map_err(|detail| self.refused(detail))
    }

    async fn look(&self, id: &str) -> Result<Seen, RegistryError> {
        let place = self.api.place(id)?;
        let Some(record) = self.api.record(&place).await? else {
            return Err(RegistryError::NotRegistered { registry: self.registry.clone(), id: id.into() });
        };
        let listed = self.api.listed(place.service).await?.into_iter().find(|listed| place.is(listed));
        let enabled = listed.is_some();
        let mut metadata = record["metadata"].as_object().cloned().unwrap_or_default();
        let marked = metadata.remove(MARKER).and_then(|text| Marker::parse(text.as_str()?));
        let healthy = record["healthy"] == true;
        let traffic = match (enabled, self.drains()?.remove(id), marked) {
            // Ours, or undone by a registration since.
            (true, Some(noted), _) => Traffic::DrainedBy(noted),
            (false, _, Some(marker)) => Traffic::DrainedBy(marker),
            (false, _, None) => Traffic::Isolated { reason: "its instance is disabled (enabled=false)".into() },
            (true, None, _) if healthy => Traffic::Passing,
            (true, None, _) => Traffic::Failing,
        };
        let weight = record["weight"].clone();
        let ephemeral = listed.and_then(|listed| listed["ephemeral"].as_bool());
        let kept = json!({ "weight": weight, "metadata": metadata, "ephemeral": ephemeral });
        let registration = Registration { name: place.service.into(), traffic, record: kept };
        Ok(Seen { registration, enabled, metadata, weight, ephemeral })
    }

    /// Sets `enabled`, and what else stands there as it was read; returns once it reads back.
    async fn put(&self, place: &Place<'_>, seen: &Seen, drained_by: Option<&Marker>) -> Result<(), RegistryError> {
        let mut metadata = seen.metadata.clone();
        if let Some(marker) = drained_by {
            metadata.insert(MARKER.into(), marker.to_string().into());
        }
        let enabled = drained_by.is_none();
        self.api.update(place, enabled, &seen.weight, &metadata, seen.ephemeral.unwrap_or(true)).await?;
        let until = tokio::time::Instant::now() + SEEN_DEADLINE;
        loop {
            let now = self.look(place.id).await?;
            let drained = |traffic: &Traffic| matches!(traffic, Traffic::DrainedBy(found) if Some(found) == drained_by);
            if now.enabled == enabled && (enabled || drained(&now.registration.traffic)) {
                return Ok(());
            }
            if tokio::time::Instant::now() >= until {
                let traffic = super::stands_there(&now.registration.traffic);
                return Err(
                    self.refused(format!("`{}` was set to enabled={enabled}, and reads back as {traffic}", place.id))
                );
            }
            tokio::time::sleep(SEEN_POLL).await;
        }
    }

    /// Takes it out where it is in traffic. True where it was.
    async fn take_out(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let seen = self.look(id).await?;
        if !seen.enabled {
            return Ok(false);
        }
        self.put(&self.api.place(id)?, &seen, Some(marker)).await?;
        Ok(true)
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &Value) -> Result<Restored, RegistryError> {
        let mut seen = match self.look(id).await {
            Ok(seen) => seen,
            Err(RegistryError::NotRegistered { .. }) => {
                return Ok(Restored::NotOurs(format!("no instance `{id}` is registered any more")));
            }
            Err(error) => return Err(error),
        };
        match &seen.registration.traffic {
            Traffic::DrainedBy(found) if found == marker => {}
            other => return Ok(Restored::NotOurs(super::stands_there(other))),
        }
        if !seen.enabled {
            seen.ephemeral = record["ephemeral"].as_bool();
            self.put(&self.api.place(id)?, &seen, None).await?;
        }
        // Last: until it is in traffic the drain is ours to take back.
        self.note(id, None)?;
        Ok(Restored::Done)
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
impl Held for Instances {
    async fn look_again(&self, id: &str, marker: &Marker) -> Result<Look, RegistryError> {
        let _one = self.changing.lock().await;
        if self.drains()?.get(id) != Some(marker) {
            return Ok(Look::NotOurs);
        }
        match self.take_out(id, marker).await {
            Ok(true) => Ok(Look::OutAgain),
            // Gone while it restarts: what registers again is seen next time.
            Ok(false) | Err(RegistryError::NotRegistered { .. }) => Ok(Look::Out),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Registry for Nacos {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        Ok(self.instances.look(id).await?.registration)
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let instances = &self.instances;
        let _one = instances.changing.lock().await;
        let traffic = instances.look(id).await?.registration.traffic;
        let anew = super::may_drain(&instances.registry, id, &traffic, marker)?;
        instances.note(id, Some(marker))?;
        if let Err(error) = instances.take_out(id, marker).await {
            // Refused, so not done. Where that is not known, the note stays for the saga's undo.
            if anew && !error.is_passing() {
                instances.note(id, None)?;
            }
            return Err(error);
        }
        self.holder.hold(instances, id, marker);
        Ok(())
    }

    async fn hold(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        self.holder.look_now(&self.instances, id, marker).await
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &Value) -> Result<Restored, RegistryError> {
        let instances = &self.instances;
        let _one = instances.changing.lock().await;
        self.holder.put_back(instances, id, marker, instances.restore(id, marker, record)).await
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        let place = self.instances.api.place(id)?;
        // Proves that this user sees the service's instances, ourselves among them.
        self.instances.look(id).await?;
        let listed = self.instances.api.listed(place.service).await?;
        let mut others = Others { healthy: 0, registered: 1 };
        for other in listed.iter().filter(|listed| !place.is(listed)) {
            others.registered += 1;
            if self.instances.api.is_healthy(place.service, other).await? {
                others.healthy += 1;
            }
        }
        Ok(others)
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        let mut found = Vec::new();
        for (id, marker) in self.instances.drains()? {
            match self.instances.look(&id).await.map(|seen| seen.registration.traffic) {
                Ok(Traffic::DrainedBy(stands)) if stands == marker => {
                    self.holder.hold(&self.instances, &id, &marker);
                    found.push(FoundMarker { id, marker });
                }
                Ok(_) | Err(RegistryError::NotRegistered { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        let mut all = Vec::new();
        match tokio::time::timeout(NAMES_DEADLINE, self.instances.read_all(&mut all)).await {
            Ok(Err(error)) => Err(error),
            // What was read until then is true; peers without a name are shown by their address.
            Ok(Ok(())) | Err(_) => Ok(all.into_iter().map(|(service, _, address)| (address, service)).collect()),
        }
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        let mut all = Vec::new();
        match tokio::time::timeout(NAMES_DEADLINE, self.instances.read_all(&mut all)).await {
            Ok(read) => read.map(|()| all.into_iter().filter_map(|(_, id, address)| Some((id?, address))).collect()),
            Err(_) => Err(RegistryError::Unreachable {
                registry: self.instances.registry.clone(),
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
