//! etcd: an override key beside the instance's own. An instance's id is `SERVICE/INSTANCE`.
//!
//! The instance's key stands under a lease of the application's, which writes it again as it likes: it is looked at and
//! never touched. What takes the instance out of traffic is a key of its own, which the framework's clients honour, with
//! our [`Marker`] in its value; it has no lease, so it outlives this agent and the application. It is put only where
//! nothing stands, and deleted only as it was read, both by a transaction that compares its revision: what another hand
//! has put there is theirs, whatever it says.
//!
//! Whether an instance is healthy is not told: it is there for as long as its lease lives.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange};
use crate::model::{EtcdLayout, Marker};
use crate::ports::Login;
use crate::ports::api_error::ApiError;
use crate::ports::etcd::{Api, Keys, Pair};
use crate::ports::http::Servers;

/// For one call. A read waits for the leader, which may be elected anew meanwhile (some seconds).
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Of a value that is not ours, for people.
const SHOWN_CHARS: usize = 160;

#[derive(Debug)]
pub struct Etcd {
    registry: String,
    host: String,
    api: Api,
    layout: EtcdLayout,
}

/// An instance, and what stands under its two keys.
struct EtcdInstance {
    registration: Registration,
    /// The revision of the override; 0 where there is none.
    revision: u64,
}

impl Etcd {
    /// `name` is the registry's in the host's file, `servers` are members of one cluster, `host` the one that our markers carry.
    pub fn new(
        name: &str,
        servers: impl Into<Servers>,
        login: Option<Arc<Login>>,
        layout: EtcdLayout,
        host: &str,
    ) -> Result<Self, RegistryError> {
        Self::within(CALL_DEADLINE, name, servers, login, layout, host)
    }

    /// With another deadline for each call.
    pub(super) fn within(
        deadline: Duration,
        name: &str,
        servers: impl Into<Servers>,
        login: Option<Arc<Login>>,
        layout: EtcdLayout,
        host: &str,
    ) -> Result<Self, RegistryError> {
        let refused = |detail| RegistryError::Refused { registry: name.into(), detail };
        let api = Api::new(servers.into(), login, deadline).map_err(refused)?;
        Ok(Self { registry: name.into(), host: host.into(), api, layout })
    }

    fn told(&self, error: ApiError) -> RegistryError {
        error.of_registry(&self.registry)
    }

    fn split<'a>(&self, id: &'a str) -> Result<(&'a str, &'a str), RegistryError> {
        super::service_and_instance(&self.registry, id)
    }

    async fn look(&self, id: &str) -> Result<EtcdInstance, RegistryError> {
        let (service, instance) = self.split(id)?;
        let own = filled(&self.layout.key, service, instance);
        let over = filled(&self.layout.override_key, service, instance);
        let both = self.api.get_all([Keys::One(&own), Keys::One(&over)]).await.map_err(|error| self.told(error))?;
        self.seen(id, service, both)
    }

    /// The key and the value of our drain.
    fn override_by(&self, id: &str, marker: &Marker) -> Result<(String, String), RegistryError> {
        let (service, instance) = self.split(id)?;
        let value = self.layout.value.replace("{marker}", &marker.to_string());
        Ok((filled(&self.layout.override_key, service, instance), value))
    }

    /// What an instance's two keys come to.
    fn seen(&self, id: &str, service: &str, [own, over]: [Vec<Pair>; 2]) -> Result<EtcdInstance, RegistryError> {
        let Some(own) = own.into_iter().next() else {
            return Err(RegistryError::NotRegistered { registry: self.registry.clone(), id: id.into() });
        };
        let over = over.into_iter().next();
        let revision = over.as_ref().map_or(0, |pair| pair.mod_revision);
        let traffic = over.map_or(Traffic::Passing, |pair| self.traffic(&pair));
        let record = json!({ "key": own.key, "value": String::from_utf8_lossy(&own.value) });
        Ok(EtcdInstance { registration: Registration { name: service.into(), traffic, record }, revision })
    }

    /// What an override says. Whatever is not a value of ours is another hand's.
    fn traffic(&self, pair: &Pair) -> Traffic {
        let text = String::from_utf8_lossy(&pair.value);
        let (before, behind) = self.layout.value.split_once("{marker}").unwrap_or((&self.layout.value, ""));
        let says = text.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
        match says.and_then(Marker::parse) {
            Some(marker) => Traffic::DrainedBy(marker),
            None => Traffic::Isolated { reason: says.unwrap_or(&text).chars().take(SHOWN_CHARS).collect() },
        }
    }

    /// Every key of one template, as `(service, instance, pair)`.
    async fn all(&self, template: &str) -> Result<Vec<(String, String, Pair)>, RegistryError> {
        let template = Template::of(template);
        let pairs = self.api.below(template.before).await.map_err(|error| self.told(error))?;
        let named = |pair: Pair| {
            let (service, instance) = template.parts(&pair.key)?;
            Some((service.to_owned(), instance.to_owned(), pair))
        };
        Ok(pairs.into_iter().filter_map(named).collect())
    }
}

/// What stands around the service and the instance in a key.
#[derive(Clone, Copy)]
struct Template<'a> {
    before: &'a str,
    between: &'a str,
    behind: &'a str,
}

impl<'a> Template<'a> {
    fn of(text: &'a str) -> Self {
        let (before, rest) = text.split_once("{service}").unwrap_or((text, ""));
        let (between, behind) = rest.split_once("{instance}").unwrap_or((rest, ""));
        Self { before, between, behind }
    }

    /// What every key of this service begins with.
    fn prefix(self, service: &str) -> String {
        format!("{}{service}{}", self.before, self.between)
    }

    fn parts(self, key: &str) -> Option<(&str, &str)> {
        let (service, instance) = key.strip_prefix(self.before)?.split_once(self.between)?;
        Some((service, self.ended(instance)?))
    }

    fn instance_of<'k>(self, service: &str, key: &'k str) -> Option<&'k str> {
        let rest = key.strip_prefix(self.before)?.strip_prefix(service)?;
        self.ended(rest.strip_prefix(self.between)?)
    }

    fn ended(self, instance: &str) -> Option<&str> {
        instance.strip_suffix(self.behind).filter(|instance| !instance.is_empty())
    }
}

/// The instance first: a service's name is not looked into.
fn filled(template: &str, service: &str, instance: &str) -> String {
    template.replace("{instance}", instance).replace("{service}", service)
}

#[async_trait]
impl Registry for Etcd {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        Ok(self.look(id).await?.registration)
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let seen = self.look(id).await?;
        if !super::may_drain(&self.registry, id, &seen.registration.traffic, marker)? {
            return Ok(());
        }
        let (over, value) = self.override_by(id, marker)?;
        let put = self.api.swap(&over, 0, Some(value.as_bytes())).await;
        // Where somebody was quicker, what they put stands there now, and it is refused by its own words. A write without
        // an answer may have been done.
        match (self.look(id).await?.registration.traffic, put) {
            (Traffic::DrainedBy(found), _) if found == *marker => Ok(()),
            (_, Err(error)) => Err(self.told(error)),
            (other, Ok(_)) => {
                super::may_drain(&self.registry, id, &other, marker)?;
                let detail =
                    format!("`{id}` was drained, but the registry shows it as {}", super::stands_there(&other));
                Err(RegistryError::Refused { registry: self.registry.clone(), detail })
            }
        }
    }

    /// A put asks for more than the delete that puts back: an etcd whose quota is spent takes that alone.
    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let (over, value) = self.override_by(id, marker)?;
        self.api.put_again(&over, value.as_bytes()).await.map_err(|error| self.told(error))
    }

    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError> {
        let (over, value) = self.override_by(id, marker)?;
        let call = self.api.shown("kv/txn");
        Ok(vec![match change {
            TrafficChange::Drain => format!("{call}: put {over} = {value}, where no such key stands"),
            TrafficChange::Restore => format!("{call}: delete {over}, where it stands as it was read"),
        }])
    }

    async fn restore(&self, id: &str, marker: &Marker, _record: &Value) -> Result<Restored, RegistryError> {
        let seen = match self.look(id).await {
            Ok(seen) => seen,
            Err(RegistryError::NotRegistered { .. }) => {
                return Ok(Restored::NotOurs(format!("instance `{id}` is not registered any more")));
            }
            Err(error) => return Err(error),
        };
        match &seen.registration.traffic {
            Traffic::DrainedBy(found) if found == marker => {}
            other => return Ok(Restored::NotOurs(super::stands_there(other))),
        }
        let (service, instance) = self.split(id)?;
        let over = filled(&self.layout.override_key, service, instance);
        let deleted = self.api.swap(&over, seen.revision, None).await;
        let left = self.api.get(&over).await.map_err(|error| self.told(error))?.map(|pair| self.traffic(&pair));
        match (left, deleted) {
            (Some(Traffic::DrainedBy(found)), deleted) if found == *marker => Err(match deleted {
                Err(error) => self.told(error),
                Ok(_) => RegistryError::Unreachable {
                    registry: self.registry.clone(),
                    detail: format!("somebody else changed `{over}` just before it was deleted"),
                },
            }),
            // Without an answer it may have been done, and it is gone.
            (None, Ok(true) | Err(_)) | (Some(_), Ok(true)) => Ok(Restored::Done),
            (Some(other), _) => Ok(Restored::NotOurs(super::stands_there(&other))),
            (None, Ok(false)) => Ok(Restored::NotOurs("somebody else removed our override a moment before".into())),
        }
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        let (service, own) = self.split(id)?;
        let (keys, overrides) = (Template::of(&self.layout.key), Template::of(&self.layout.override_key));
        let our_key = filled(&self.layout.key, service, own);
        // As it all stands at one moment; our own key among them proves that this user sees the service's instances.
        let asked = [Keys::One(&our_key), Keys::Below(&keys.prefix(service)), Keys::Below(&overrides.prefix(service))];
        let [ours, instances, overridden] = self.api.get_all(asked).await.map_err(|error| self.told(error))?;
        if ours.is_empty() {
            return Err(RegistryError::NotRegistered { registry: self.registry.clone(), id: id.into() });
        }
        // What an instance keeps below its own key is no instance.
        let depth = own.matches('/').count();
        let mut standing: BTreeMap<&str, bool> = instances
            .iter()
            .filter_map(|pair| keys.instance_of(service, &pair.key))
            .filter(|instance| instance.matches('/').count() == depth)
            .map(|instance| (instance, true))
            .collect();
        let out = overridden.iter().filter_map(|pair| overrides.instance_of(service, &pair.key));
        for instance in out.chain([own]) {
            if let Some(healthy) = standing.get_mut(instance) {
                *healthy = false;
            }
        }
        let healthy = standing.values().filter(|healthy| **healthy).count();
        Ok(Others { healthy: healthy as u32, registered: standing.len() as u32 })
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        let overrides = self.all(&self.layout.override_key).await?;
        let own = overrides.into_iter().filter_map(|(service, instance, pair)| match self.traffic(&pair) {
            Traffic::DrainedBy(marker) if marker.host == self.host => {
                Some(FoundMarker { id: format!("{service}/{instance}"), marker })
            }
            _ => None,
        });
        Ok(own.collect())
    }

    async fn server(&self) -> Result<Option<String>, RegistryError> {
        let version = self.api.version().await.map_err(|error| self.told(error))?;
        Ok(version.map(|version| format!("etcd {version}")))
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        let all = self.all(&self.layout.key).await?;
        Ok(all.into_iter().filter_map(|(service, instance, _)| Some((instance.parse().ok()?, service))).collect())
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        let all = self.all(&self.layout.key).await?;
        let named = |(service, instance, _): (String, String, Pair)| {
            Some((format!("{service}/{instance}"), instance.parse().ok()?))
        };
        Ok(all.into_iter().filter_map(named).collect())
    }

    fn caveats(&self) -> &'static [&'static str] {
        &[
            "clients that do not read the override key still call a drained service",
            "the registry has no health state: min_healthy counts every other instance with a key and no override",
        ]
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        super::found_by_record(self, id).await
    }

    fn clients_follow(&self) -> Duration {
        Duration::ZERO
    }
}
