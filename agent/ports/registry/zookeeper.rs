//! ZooKeeper as Dubbo uses it: a tag in the tag rule of the provider's application (`ROOT/config/dubbo/APP.tag-router`,
//! [`rule`](super::dubbo::rule)), which Dubbo's consumers follow. An instance's id is `SERVICE/IP:PORT`, or
//! `APPLICATION/IP:PORT`.
//!
//! Providers are ephemeral nodes of the application's own session (`ROOT/SERVICE/providers`, and by application
//! `/services/APPLICATION/IP:PORT`): they are looked at and never touched. One that we created would belong to our session,
//! keep the application from registering (NodeExists), and vanish with this agent.
//!
//! The rule stands by itself: seen with consumers of Dubbo 2.7.23 and 3.3.6, which find providers by interface or by
//! application, it is followed within 0.2 s both ways, and an override beside it makes that 5 to 10 s. A consumer follows
//! the rule of one application, that of the first provider that it sees at the time (`TagStateRouter.notify`): where two
//! provide a service, consumers of 3.3.6 missed our tag in 2 of 3 drains and its end in the third, although it stood in the
//! rules of both. Such a service is not drained. A rule is changed by the version that was read, since several hosts change
//! it at once. Where it is a person's, only `merge: true` puts our tag into it.
//!
//! Former versions of this agent drained by an override in `ROOT/SERVICE/configurators`, with the [`Marker`] as the node's
//! data: such a drain is found, and taken back, and none is made.
//!
//! ZooKeeper never cuts an answer by permissions: what may not be read is an error (NoAuth). Each look begins with a
//! `sync`, so that a server that lags behind does not answer from memory.

mod rules;
mod service;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::dubbo::rule::{Rule, Tag};
use super::dubbo::{Patience, address, application, decoded, disables, encoded, is_off, is_ours, parameter, stand_ins};
use super::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange};
use crate::model::Marker;
use crate::ports::User;
use crate::ports::api_error::ApiError;
use crate::ports::zookeeper::{Api, Ensemble, Session};

/// For one call.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// For naming peers: bounds on what one look may cost.
const NAMES_DEADLINE: Duration = Duration::from_secs(5);
const NAMES_SERVICES: usize = 500;
/// From a change of a tag rule until the last consumer follows it: 0.2 s were seen.
const RULE_FOLLOWED: Duration = Duration::from_secs(1);
/// Where Dubbo 3 registers applications, whatever the root is (`ZookeeperServiceDiscovery`).
const BY_APPLICATION: &str = "/services";

#[derive(Debug)]
pub struct ZooKeeper {
    registry: String,
    host: String,
    api: Api,
    root: String,
    /// Put our tag into a person's rule.
    merge: bool,
}

/// An override that a former version of ours left.
struct Override {
    path: String,
    url: String,
    marker: Marker,
    version: i32,
}

/// An instance, and what stands over it.
struct DubboInstance {
    registration: Registration,
    application: Option<String>,
    /// Of all who provide the same, itself among them.
    applications: BTreeSet<String>,
    /// Whose drains of this instance stand there.
    markers: Vec<Marker>,
    left_over: Vec<Override>,
}

impl ZooKeeper {
    /// `name` is the registry's in the host's file, `root` Dubbo's there (`/dubbo`), `host` the one that our markers carry.
    /// With `merge` our tag is put into a person's rule as well.
    pub fn new(
        name: &str,
        ensemble: impl Into<Ensemble>,
        user: Option<User>,
        root: &str,
        merge: bool,
        host: &str,
    ) -> Self {
        let api = Api::new(ensemble, user, CALL_DEADLINE);
        Self { registry: name.into(), host: host.into(), api, root: root.into(), merge }
    }

    /// With another deadline for each call.
    #[cfg(test)]
    pub(super) fn within(mut self, servers: Vec<String>, user: Option<User>, deadline: Duration) -> Self {
        self.api = Api::new(servers, user, deadline);
        self
    }

    fn told(&self, error: ApiError) -> RegistryError {
        error.of_registry(&self.registry)
    }

    fn refused(&self, detail: String) -> RegistryError {
        RegistryError::Refused { registry: self.registry.clone(), detail }
    }

    /// Sees everything that was written until now.
    async fn session(&self) -> Result<Session, RegistryError> {
        let mut session = self.api.session().await.map_err(|error| self.told(error))?;
        session.sync(&self.root).await.map_err(|error| self.told(error))?;
        Ok(session)
    }

    async fn children(&self, session: &mut Session, path: &str) -> Result<Option<Vec<String>>, RegistryError> {
        session.children(path).await.map_err(|error| self.told(error))
    }

    fn folder(&self, service: &str, what: &str) -> String {
        format!("{}/{}/{what}", self.root, encoded(service))
    }

    /// The URLs that name the nodes of a folder.
    async fn urls(&self, session: &mut Session, service: &str, what: &str) -> Result<Vec<String>, RegistryError> {
        let names = self.children(session, &self.folder(service, what)).await?.unwrap_or_default();
        Ok(names.iter().filter_map(|name| decoded(name)).collect())
    }

    /// An override that a former version of ours left, where this URL names one.
    async fn left_over(
        &self,
        session: &mut Session,
        service: &str,
        url: &str,
    ) -> Result<Option<Override>, RegistryError> {
        if !is_ours(url) {
            return Ok(None);
        }
        let path = format!("{}/{}", self.folder(service, "configurators"), encoded(url));
        let node = session.read(&path).await.map_err(|error| self.told(error))?;
        let marked = node.and_then(|node| Some((Marker::parse(std::str::from_utf8(&node.data).ok()?)?, node.version)));
        Ok(marked.map(|(marker, version)| Override { path, url: url.into(), marker, version }))
    }

    async fn look(&self, session: &mut Session, id: &str) -> Result<DubboInstance, RegistryError> {
        let (name, instance) = super::service_and_instance(&self.registry, id)?;
        let service = self.service(session, name, instance).await?;
        let provided = &service.providers[instance];
        let (mut left_over, mut theirs) = (Vec::new(), None);
        for url in &service.overrides {
            match self.left_over(session, name, url).await? {
                Some(ours) if address(url) == Some(instance) => left_over.push(ours),
                None if provided.iter().any(|provider| disables(url, provider)) => theirs = Some(url.clone()),
                _ => {}
            }
        }
        let (by_rule, by_override) = (service.by_rule(id, instance), service.by_override(instance, &left_over));
        let isolated = |reason: String| Traffic::Isolated { reason };
        let traffic = by_rule
            .or(by_override.map(Traffic::DrainedBy))
            .or(theirs.map(isolated))
            .or(provided.iter().find(|url| is_off(url)).cloned().map(isolated))
            .unwrap_or(Traffic::Passing);
        let ours = service.tags(instance).filter_map(Tag::ours).filter(|(_, of)| *of == id).map(|(marker, _)| marker);
        let markers = ours.chain(left_over.iter().map(|found| found.marker.clone())).collect();
        let applications: BTreeSet<String> = service.rules.keys().cloned().collect();
        let record = json!({ "providers": provided, "application": service.application });
        let registration = Registration { name: name.into(), traffic, record };
        Ok(DubboInstance { registration, application: service.application, applications, markers, left_over })
    }

    /// After a change of ours, or of a former version: a provider may be away for a moment just then.
    async fn look_settled(&self, session: &mut Session, id: &str) -> Result<DubboInstance, RegistryError> {
        let mut patience = Patience::new();
        loop {
            let seen = self.look(session, id).await;
            if !patience.asks_again(&seen).await {
                return seen;
            }
        }
    }

    async fn drain_by(&self, session: &mut Session, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let (_, instance) = super::service_and_instance(&self.registry, id)?;
        let seen = self.look(session, id).await?;
        let anew = super::may_drain(&self.registry, id, &seen.registration.traffic, marker)?;
        if !anew && !seen.left_over.is_empty() {
            return Ok(());
        }
        let Some(application) = seen.application else {
            return Err(self.refused(format!("`{id}` has no `application`, so no tag rule can drain it")));
        };
        if seen.applications.len() > 1 {
            let several = Vec::from_iter(seen.applications).join(", ");
            let detail = format!(
                "`{id}` is not drained: applications {several} provide the same service, and Dubbo's consumers follow the \
                 tag rule of one of them at a time"
            );
            return Err(self.refused(detail));
        }
        let tagged = seen.registration.record["providers"].as_array().into_iter().flatten();
        if let Some(tag) = tagged.filter_map(Value::as_str).find_map(|url| parameter(url, "dubbo.tag")) {
            let detail = format!(
                "`{id}` is not drained: this provider has the Dubbo tag `{tag}`, and consumers that ask for the tag ignore \
                 the tag rule by which unwait drains. Remove `dubbo.tag` from the provider, or drain it by hand"
            );
            return Err(self.refused(detail));
        }
        self.change(session, &application, |rule| self.tagged(&application, rule, id, instance, marker)).await?;
        let seen = self.look_settled(session, id).await?;
        match &seen.registration.traffic {
            Traffic::DrainedBy(found) if found == marker => Ok(()),
            other => {
                // What another put there a moment before is refused by its own words.
                super::may_drain(&self.registry, id, other, marker)?;
                let stands = super::stands_there(other);
                Err(self.refused(format!("`{id}` was drained, but the registry shows it as {stands}")))
            }
        }
    }

    async fn restore_by(
        &self,
        session: &mut Session,
        id: &str,
        marker: &Marker,
        record: &Value,
    ) -> Result<Restored, RegistryError> {
        let seen = match self.look_settled(session, id).await {
            Ok(seen) => seen,
            Err(RegistryError::NotRegistered { .. }) => {
                return Ok(Restored::NotOurs(format!("instance `{id}` is not registered any more")));
            }
            Err(error) => return Err(error),
        };
        let mut found = false;
        // Of the application that it is of now, and of that which it was of when it was drained.
        let before = record["application"].as_str().map(String::from);
        for application in &BTreeSet::from_iter(seen.application.into_iter().chain(before)) {
            let untagged = |rule: Option<&Rule>| match rule {
                Some(rule) => rule.without(marker, id).map_err(|why| {
                    self.refused(format!(
                        "the tag rule of application `{application}` carries our drain of `{id}`: {why}"
                    ))
                }),
                None => Ok(None),
            };
            found |= self.change(session, application, untagged).await?;
        }
        for ours in seen.left_over.iter().filter(|ours| ours.marker == *marker) {
            found |= session.delete(&ours.path, ours.version).await.map_err(|error| self.told(error))?;
        }
        if !found {
            return Ok(Restored::NotOurs(super::stands_there(&seen.registration.traffic)));
        }
        let now = self.look_settled(session, id).await;
        if now.is_ok_and(|now| now.markers.contains(marker)) {
            let detail = format!("`{id}` was restored, but our drain was written again at the same moment");
            return Err(RegistryError::Unreachable { registry: self.registry.clone(), detail });
        }
        Ok(Restored::Done)
    }

    async fn proved(&self, session: &mut Session, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let seen = self.look(session, id).await?;
        if !seen.markers.contains(marker) {
            return Ok(false);
        }
        // What a former version left has no rule.
        if let Some(application) = &seen.application {
            self.would_change(session, application).await?;
        }
        Ok(true)
    }

    async fn count(&self, session: &mut Session, id: &str) -> Result<Others, RegistryError> {
        let (name, own) = super::service_and_instance(&self.registry, id)?;
        // Proves that this user sees the service's instances, ourselves among them.
        let service = self.service(session, name, own).await?;
        if let Some((application, _)) = service.rules.iter().find(|(_, rule)| rule.as_ref().is_some_and(Rule::matches))
        {
            let path = self.rule_path(application);
            return Err(self.refused(format!(
                "the tag rule `{path}` has a `match`, so the instances that it takes out are unknown"
            )));
        }
        let mut others = Others { healthy: 0, registered: 0 };
        for (instance, whole) in stand_ins(&service.providers, &service.overrides, own) {
            let in_traffic = instance != own && whole && service.tags(instance).next().is_none();
            others.registered += 1;
            others.healthy += u32::from(in_traffic);
        }
        Ok(others)
    }

    async fn services(&self, session: &mut Session) -> Result<Vec<String>, RegistryError> {
        let names = self.children(session, &self.root).await?.unwrap_or_default();
        Ok(names.iter().filter_map(|name| decoded(name)).collect())
    }

    async fn find_markers(&self, session: &mut Session) -> Result<Vec<FoundMarker>, RegistryError> {
        let mut found: BTreeMap<String, Marker> = self.drains(session).await?.into_iter().collect();
        for service in self.services(session).await? {
            for url in self.urls(session, &service, "configurators").await? {
                if let Some(ours) = self.left_over(session, &service, &url).await?
                    && let Some(instance) = address(&ours.url)
                {
                    found.insert(format!("{service}/{instance}"), ours.marker);
                }
            }
        }
        found.retain(|_, marker| marker.host == self.host);
        Ok(found.into_iter().map(|(id, marker)| FoundMarker { id, marker }).collect())
    }

    /// Every instance: its service, its id and its address; by its application where it is known by that, or else by each
    /// interface. One that provides several versions is there once.
    async fn read_all(&self, all: &mut BTreeSet<(String, String, SocketAddr)>) -> Result<(), RegistryError> {
        let mut session = self.session().await?;
        let named = |name: &str, instance: &str| {
            Some((name.to_owned(), format!("{name}/{instance}"), instance.parse::<SocketAddr>().ok()?))
        };
        let applications = self.children(&mut session, BY_APPLICATION).await?.unwrap_or_default();
        for name in applications.iter().take(NAMES_SERVICES) {
            let known = self.children(&mut session, &format!("{BY_APPLICATION}/{name}")).await?.unwrap_or_default();
            all.extend(known.iter().filter_map(|instance| named(name, instance)));
        }
        for service in self.services(&mut session).await?.into_iter().take(NAMES_SERVICES) {
            for url in self.urls(&mut session, &service, "providers").await? {
                let known = application(&url).zip(address(&url)).and_then(|(name, instance)| named(name, instance));
                if known.is_none_or(|known| !all.contains(&known)) {
                    all.extend(address(&url).and_then(|instance| named(&service, instance)));
                }
            }
        }
        session.close().await;
        Ok(())
    }
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

    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let mut session = self.session().await?;
        let proved = self.proved(&mut session, id, marker).await;
        session.close().await;
        proved
    }

    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError> {
        let (_, instance) = super::service_and_instance(&self.registry, id)?;
        let mut session = self.session().await?;
        let seen = self.look(&mut session, id).await;
        session.close().await;
        let rule = self.rule_path(seen?.application.as_deref().unwrap_or("(the application is not known)"));
        Ok(vec![match change {
            TrafficChange::Drain => format!("write {rule}, with a tag of `{marker}` that has {instance}"),
            TrafficChange::Restore => {
                format!("write {rule}, without our tag of {instance}; delete it where nothing is left")
            }
        }])
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &Value) -> Result<Restored, RegistryError> {
        let mut session = self.session().await?;
        let restored = self.restore_by(&mut session, id, marker, record).await;
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

    async fn server(&self) -> Result<Option<String>, RegistryError> {
        self.api.version().await.map_err(|error| self.told(error))
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
                detail: "the instances of the registry could not be read within the deadline".into(),
            }),
        }
    }

    fn clients_follow(&self) -> Duration {
        RULE_FOLLOWED
    }

    /// They keep their connections, and send nothing on them but a heartbeat a minute.
    fn clients_leave(&self) -> bool {
        true
    }

    fn caveats(&self) -> &'static [&'static str] {
        &[
            "consumers of Dubbo before 2.7 ignore tag rules, and still call a drained provider",
            "the tag rule takes all interfaces of the application at IP:PORT out of traffic, not one interface alone",
            "a service that two applications provide is not drained: Dubbo's consumers follow the tag rule of one at a time",
            "the registry has no health state: min_healthy counts every other provider with a live session that is not \
             taken out",
        ]
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        super::found_by_record(self, id).await
    }
}
