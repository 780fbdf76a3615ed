//! ZooKeeper as Dubbo uses it: an override in `/dubbo/SERVICE/configurators`, which Dubbo's consumers follow. An
//! instance's id is `SERVICE/IP:PORT`.
//!
//! Providers (`/dubbo/SERVICE/providers`) are ephemeral nodes of the application's own session: they are looked at and
//! never touched. One that we created would belong to our session, keep the application from registering (NodeExists), and
//! vanish with this agent.
//!
//! What disables a provider is a node that stays, named by the override's URL, with our [`Marker`] as its data. Dubbo
//! reads names and not data. Its URL carries `unwait=true`, so that a person who disables the same provider writes a node
//! of their own; where it has the provider's `group` and `version`, as consumers look for their own alone. It is created
//! only where no such node is, and deleted only by the version that was read.
//!
//! ZooKeeper never cuts an answer by permissions: what may not be read is an error (NoAuth). Each look begins with a
//! `sync`, so that a server that lags behind does not answer from memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::dubbo::{address, decoded, disables, encoded, override_url, parameter};
use super::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic};
use crate::model::Marker;
use crate::ports::User;
use crate::ports::zookeeper::{Api, ApiError, Session};

/// For one call.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// For naming peers: bounds on what one look may cost.
const NAMES_DEADLINE: Duration = Duration::from_secs(5);
const NAMES_SERVICES: usize = 500;
/// Tells a node of ours from one that a person made.
const OURS: &str = "unwait";

#[derive(Debug)]
pub struct ZooKeeper {
    registry: String,
    host: String,
    api: Api,
    root: String,
}

/// A node of ours that disables an instance.
struct Override {
    path: String,
    marker: Marker,
    version: i32,
}

/// An instance, and what stands over it.
struct Seen {
    registration: Registration,
    ours: Vec<Override>,
    /// The nodes that disable all that the instance provides, and are not there.
    missing: Vec<String>,
    /// Whether the folder for them is there.
    has_folder: bool,
}

impl ZooKeeper {
    /// `name` is the registry's in the host's file, `root` Dubbo's there (`/dubbo`), `host` the one that our markers carry.
    pub fn new(name: &str, servers: Vec<String>, user: Option<User>, root: &str, host: &str) -> Self {
        Self::within(CALL_DEADLINE, name, servers, user, root, host)
    }

    /// With another deadline for each call.
    pub(super) fn within(
        deadline: Duration,
        name: &str,
        servers: Vec<String>,
        user: Option<User>,
        root: &str,
        host: &str,
    ) -> Self {
        let api = Api::new(servers, user, deadline);
        Self { registry: name.into(), host: host.into(), api, root: root.into() }
    }

    fn told(&self, error: ApiError) -> RegistryError {
        let registry = self.registry.clone();
        match error {
            ApiError::Unreachable(detail) => RegistryError::Unreachable { registry, detail },
            ApiError::Refused(detail) => RegistryError::Refused { registry, detail },
        }
    }

    /// Sees everything that was written until now.
    async fn session(&self) -> Result<Session, RegistryError> {
        let mut session = self.api.session().await.map_err(|error| self.told(error))?;
        session.sync(&self.root).await.map_err(|error| self.told(error))?;
        Ok(session)
    }

    fn folder(&self, service: &str, what: &str) -> String {
        format!("{}/{}/{what}", self.root, encoded(service))
    }

    /// The URLs that name the nodes of a folder; `None` where it is not there.
    async fn urls(
        &self,
        session: &mut Session,
        service: &str,
        what: &str,
    ) -> Result<Option<Vec<String>>, RegistryError> {
        let names = session.children(&self.folder(service, what)).await.map_err(|error| self.told(error))?;
        Ok(names.map(|names| names.iter().filter_map(|name| decoded(name)).collect()))
    }

    /// The nodes of ours in a service's folder, by the URL that each is named by.
    async fn our_override(
        &self,
        session: &mut Session,
        service: &str,
        url: &str,
    ) -> Result<Option<Override>, RegistryError> {
        if parameter(url, OURS).is_none() {
            return Ok(None);
        }
        let path = format!("{}/{}", self.folder(service, "configurators"), encoded(url));
        let node = session.read(&path).await.map_err(|error| self.told(error))?;
        let marked = node.and_then(|node| Some((Marker::parse(std::str::from_utf8(&node.data).ok()?)?, node.version)));
        Ok(marked.map(|(marker, version)| Override { path, marker, version }))
    }

    async fn look(&self, session: &mut Session, id: &str) -> Result<Seen, RegistryError> {
        let (service, instance) = super::service_and_instance(&self.registry, id)?;
        let mut provided = self.urls(session, service, "providers").await?.unwrap_or_default();
        provided.retain(|url| address(url) == Some(instance));
        provided.sort_unstable();
        if provided.is_empty() {
            return Err(RegistryError::NotRegistered { registry: self.registry.clone(), id: id.into() });
        }
        let overrides = self.urls(session, service, "configurators").await?;
        let has_folder = overrides.is_some();
        let overrides = overrides.unwrap_or_default();
        let mut ours = Vec::new();
        let mut theirs = None;
        for url in overrides.iter().filter(|url| disables(url) && concerns(url, instance)) {
            match self.our_override(session, service, url).await? {
                Some(found) => ours.push(found),
                None => theirs = Some(url.clone()),
            }
        }
        let wanted: BTreeSet<String> = provided.iter().map(|url| own_url(url, instance, service)).collect();
        let missing = wanted.into_iter().filter(|url| !overrides.contains(url)).collect();
        let traffic = match (ours.first(), theirs) {
            (Some(found), _) => Traffic::DrainedBy(found.marker.clone()),
            (None, Some(reason)) => Traffic::Isolated { reason },
            (None, None) => Traffic::Passing,
        };
        let registration = Registration { name: service.into(), traffic, record: json!({ "providers": provided }) };
        Ok(Seen { registration, ours, missing, has_folder })
    }

    async fn drain_by(&self, session: &mut Session, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let seen = self.look(session, id).await?;
        super::may_drain(&self.registry, id, &seen.registration.traffic, marker)?;
        self.put(session, id, &seen, marker).await?;
        let seen = self.look(session, id).await?;
        match &seen.registration.traffic {
            Traffic::DrainedBy(found) if found == marker && seen.missing.is_empty() => Ok(()),
            other => {
                // What another put there a moment before is refused by its own words.
                super::may_drain(&self.registry, id, other, marker)?;
                let detail = format!("`{id}` was to be drained, but reads back as {}", super::stands_there(other));
                Err(RegistryError::Refused { registry: self.registry.clone(), detail })
            }
        }
    }

    /// Disables what is not disabled by us yet.
    async fn put(&self, session: &mut Session, id: &str, seen: &Seen, marker: &Marker) -> Result<(), RegistryError> {
        let (service, _) = super::service_and_instance(&self.registry, id)?;
        let folder = self.folder(service, "configurators");
        let told = |error| self.told(error);
        if !seen.has_folder && !seen.missing.is_empty() {
            session.create(&folder, &[]).await.map_err(told)?;
        }
        for url in &seen.missing {
            let path = format!("{folder}/{}", encoded(url));
            session.create(&path, marker.to_string().as_bytes()).await.map_err(told)?;
        }
        Ok(())
    }

    async fn hold_by(&self, session: &mut Session, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let seen = match self.look(session, id).await {
            Ok(seen) => seen,
            // Gone while it restarts: what registers again is seen next time.
            Err(RegistryError::NotRegistered { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        match &seen.registration.traffic {
            Traffic::Passing | Traffic::Failing => {
                self.drain_by(session, id, marker).await?;
                Ok(true)
            }
            // It came back with another group or version.
            Traffic::DrainedBy(found) if found == marker && !seen.missing.is_empty() => {
                self.put(session, id, &seen, marker).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn restore_by(&self, session: &mut Session, id: &str, marker: &Marker) -> Result<Restored, RegistryError> {
        let seen = match self.look(session, id).await {
            Ok(seen) => seen,
            Err(RegistryError::NotRegistered { .. }) => {
                return Ok(Restored::NotOurs(format!("no instance `{id}` is registered any more")));
            }
            Err(error) => return Err(error),
        };
        let ours: Vec<&Override> = seen.ours.iter().filter(|found| found.marker == *marker).collect();
        if ours.is_empty() {
            return Ok(Restored::NotOurs(super::stands_there(&seen.registration.traffic)));
        }
        for found in ours {
            session.delete(&found.path, found.version).await.map_err(|error| self.told(error))?;
        }
        let now = self.look(session, id).await?;
        if now.ours.iter().any(|found| found.marker == *marker) {
            let detail = format!("`{id}` was put back, but an override of ours was written again just then");
            return Err(RegistryError::Unreachable { registry: self.registry.clone(), detail });
        }
        Ok(Restored::Done)
    }

    async fn count(&self, session: &mut Session, id: &str) -> Result<Others, RegistryError> {
        let (service, own) = super::service_and_instance(&self.registry, id)?;
        // Proves that this user sees the service's instances, ourselves among them.
        self.look(session, id).await?;
        // In this order: an instance that is drained meanwhile is not counted as healthy.
        let providers = self.urls(session, service, "providers").await?.unwrap_or_default();
        let mut overrides = self.urls(session, service, "configurators").await?.unwrap_or_default();
        overrides.retain(|url| disables(url));
        let mut standing: BTreeMap<&str, bool> = BTreeMap::new();
        for instance in providers.iter().filter_map(|url| address(url)) {
            let disabled = overrides.iter().any(|url| concerns(url, instance));
            standing.insert(instance, instance != own && !disabled);
        }
        let healthy = standing.values().filter(|healthy| **healthy).count();
        Ok(Others { healthy: healthy as u32, registered: standing.len() as u32 })
    }

    async fn services(&self, session: &mut Session) -> Result<Vec<String>, RegistryError> {
        let names = session.children(&self.root).await.map_err(|error| self.told(error))?.unwrap_or_default();
        Ok(names.iter().filter_map(|name| decoded(name)).collect())
    }

    async fn find_markers(&self, session: &mut Session) -> Result<Vec<FoundMarker>, RegistryError> {
        let mut found: BTreeMap<String, Marker> = BTreeMap::new();
        for service in self.services(session).await? {
            for url in self.urls(session, &service, "configurators").await?.unwrap_or_default() {
                if let Some(ours) = self.our_override(session, &service, &url).await?
                    && ours.marker.host == self.host
                    && let Some(instance) = address(&url)
                {
                    found.insert(format!("{service}/{instance}"), ours.marker);
                }
            }
        }
        Ok(found.into_iter().map(|(id, marker)| FoundMarker { id, marker }).collect())
    }

    /// Every instance: its service, its id and its address. One that provides several versions is there once.
    async fn read_all(&self, all: &mut BTreeSet<(String, String, SocketAddr)>) -> Result<(), RegistryError> {
        let mut session = self.session().await?;
        for service in self.services(&mut session).await?.into_iter().take(NAMES_SERVICES) {
            let providers = self.urls(&mut session, &service, "providers").await?.unwrap_or_default();
            let named = |instance: &str| {
                Some((service.clone(), format!("{service}/{instance}"), instance.parse::<SocketAddr>().ok()?))
            };
            all.extend(providers.iter().filter_map(|url| named(address(url)?)));
        }
        session.close().await;
        Ok(())
    }
}

/// An override of `0.0.0.0` is one of every provider.
fn concerns(url: &str, instance: &str) -> bool {
    address(url).is_some_and(|whom| whom == instance || whom.split(':').next() == Some("0.0.0.0"))
}

/// The override that disables what is provided under this URL.
fn own_url(provider: &str, instance: &str, service: &str) -> String {
    let mut url = override_url(instance, service);
    for key in ["group", "version"] {
        if let Some(value) = parameter(provider, key).filter(|value| !value.is_empty()) {
            url.push_str(&format!("&{key}={value}"));
        }
    }
    url + "&" + OURS + "=true"
}

#[async_trait]
impl Registry for ZooKeeper {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        let mut session = self.session().await?;
        let seen = self.look(&mut session, id).await;
        session.close().await;
        Ok(seen?.registration)
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let mut session = self.session().await?;
        let drained = self.drain_by(&mut session, id, marker).await;
        session.close().await;
        drained
    }

    async fn hold(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let mut session = self.session().await?;
        let held = self.hold_by(&mut session, id, marker).await;
        session.close().await;
        held
    }

    async fn restore(&self, id: &str, marker: &Marker, _record: &Value) -> Result<Restored, RegistryError> {
        let mut session = self.session().await?;
        let restored = self.restore_by(&mut session, id, marker).await;
        session.close().await;
        restored
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        let mut session = self.session().await?;
        let others = self.count(&mut session, id).await;
        session.close().await;
        others
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        let mut session = self.session().await?;
        let found = self.find_markers(&mut session).await;
        session.close().await;
        found
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        let mut all = BTreeSet::new();
        match tokio::time::timeout(NAMES_DEADLINE, self.read_all(&mut all)).await {
            Ok(Err(error)) => Err(error),
            // What was read until then is true; peers without a name are shown by their address.
            Ok(Ok(())) | Err(_) => Ok(all.into_iter().map(|(service, _, address)| (address, service)).collect()),
        }
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        let mut all = BTreeSet::new();
        match tokio::time::timeout(NAMES_DEADLINE, self.read_all(&mut all)).await {
            Ok(read) => read.map(|()| all.into_iter().map(|(_, id, address)| (id, address)).collect()),
            Err(_) => Err(RegistryError::Unreachable {
                registry: self.registry.clone(),
                detail: "its instances could not be read within the deadline".into(),
            }),
        }
    }

    fn caveats(&self) -> &'static [&'static str] {
        &[
            "consumers that follow no overrides of Dubbo's (configurators) still call a drained provider",
            "the registry tells no health: min_healthy counts every other provider whose session lives and that is not \
             disabled",
        ]
    }
}
