//! Eureka: the status of one instance overridden as OUT_OF_SERVICE. An instance's id is `APP/INSTANCE-ID`. Measured with the
//! servers of spring-cloud-starter-netflix-eureka-server 5.0.0 and 4.3.0:
//!
//! - `PUT …/status?value=OUT_OF_SERVICE` overrides what the application says of itself; `DELETE …/status?value=UP` takes
//!   the override back. Without the value it stays UNKNOWN until the application registers anew.
//! - The override stays when the same instance registers again, and goes when it deregisters, as applications do that
//!   stop in good order. So drained is held.
//! - An override carries no reason. Metadata could, but a key of it is never removed again, and to set one registers the
//!   instance anew. So whose drain it is stands in a [`Ledger`] of this host; an override without a note is somebody
//!   else's.
//! - The record of one instance is read from the registry itself; lists come from a cache that is made anew each 30 s, "no
//!   such application" among them. Clients read lists. So others are counted by what each one's own record says, where the list
//!   shows ourselves; and what clients find is what the list says.
//! - An instance that died stays UP as long as Eureka preserves itself, in a small cluster for ever. It lives while it renews
//!   its lease.
//! - A 404 tells nothing by itself: it counts where the same server shows that it is Eureka's.
//! - Where Spring Security protects it by a password, its protection against CSRF refuses writes with the right one by a 401.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde_json::{Value, json};

use super::ledger::Ledger;
use super::ledger_registry::{Backend, LedgerRegistry, until_seen};
use super::whose::{Shown, whose};
use super::{Others, Registration, RegistryError, TrafficChange};
use crate::model::{Marker, StandsAt};
use crate::ports::{Servers, User};

mod rest;

use rest::{NONE, Rest, address, instance_id, is_up, number, overridden};

/// For one call.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// A registration that undoes a drain is in force for so long at most.
const HOLD_EVERY: Duration = Duration::from_secs(1);

/// Until the last client has followed a change: the server's cache of lists (`responseCacheUpdateIntervalMs`), a client's own
/// fetch of them (`registry-fetch-interval-seconds`), and the cache of Spring Cloud LoadBalancer
/// (`spring.cloud.loadbalancer.cache.ttl`), each by its default.
const CLIENTS_FOLLOW: Duration = Duration::from_secs(30 + 30 + 35);

const OUT: &str = "OUT_OF_SERVICE";

pub type Eureka = LedgerRegistry<Apps>;

#[derive(Debug)]
pub struct Apps {
    rest: Rest,
    ledger: Ledger,
}

/// An instance as its own record has it.
#[derive(Debug)]
pub struct EurekaInstance {
    registration: Registration,
    status: String,
    overridden: String,
}

impl Eureka {
    /// `name` is the registry's in the host's file; each of `servers` is one of a cluster, and its address ends where `/apps`
    /// begins; `ledger` is a file that this agent alone writes.
    pub fn new(
        name: &str,
        servers: impl Into<Servers>,
        user: Option<User>,
        ledger: PathBuf,
    ) -> Result<Self, RegistryError> {
        Self::within(CALL_DEADLINE, HOLD_EVERY, name, servers, user, ledger)
    }

    /// With another deadline for each call, and other times between two looks at a drain.
    pub(super) fn within(
        deadline: Duration,
        hold_every: Duration,
        name: &str,
        servers: impl Into<Servers>,
        user: Option<User>,
        ledger: PathBuf,
    ) -> Result<Self, RegistryError> {
        let apps = Apps { rest: Rest::new(name, servers.into(), user, deadline)?, ledger: Ledger::new(ledger) };
        Ok(Self::over(apps, hold_every))
    }
}

/// The instance that an id names.
struct Ours {
    app: String,
    instance: String,
    /// Where it was looked up by.
    at: Option<SocketAddr>,
}

impl Ours {
    fn is(&self, listed: &Value) -> bool {
        match self.at {
            Some(at) => address(listed) == Some(at),
            None => instance_id(listed) == Some(self.instance.as_str()),
        }
    }
}

impl Apps {
    /// Of those that stand where the binding says, the last that registered: one port has one process at a time, and a dead
    /// one's record may stay.
    async fn ours(&self, id: &str) -> Result<Ours, RegistryError> {
        let Some(StandsAt { service, address: at }) = StandsAt::parse(id) else {
            let (app, instance) = super::service_and_instance(self.registry(), id)?;
            return Ok(Ours { app: app.into(), instance: instance.into(), at: None });
        };
        let list = self.rest.list(&service).await?;
        let there = list.iter().filter(|listed| address(listed) == Some(at));
        let last = there.max_by_key(|listed| number(&listed["leaseInfo"]["registrationTimestamp"]));
        match last.and_then(instance_id) {
            Some(instance) => Ok(Ours { app: service, instance: instance.into(), at: Some(at) }),
            None => Err(self.not_registered(id).await),
        }
    }

    /// A 404 is believed from a server that answers as Eureka does.
    async fn not_registered(&self, id: &str) -> RegistryError {
        match self.rest.apps().await {
            Ok(_) => RegistryError::NotRegistered { registry: self.registry().into(), id: id.into() },
            Err(error) => error,
        }
    }

    async fn set(&self, id: &str, method: Method, value: &str) -> Result<(), RegistryError> {
        let Ours { app, instance, .. } = self.ours(id).await?;
        match self.rest.set(&app, &instance, method, value).await? {
            true => Ok(()),
            false => Err(RegistryError::NotRegistered { registry: self.registry().into(), id: id.into() }),
        }
    }
}

/// What takes our override back: `said` is the application's status now, `record` what stood there before the drain.
fn taking_back<'a>(said: &'a str, record: &'a Value) -> (Method, &'a str) {
    let status = match (said, record["status"].as_str()) {
        // What the application itself has said since stands over an override, and is newer than what we kept.
        (said @ ("DOWN" | "STARTING"), _) | (_, Some(said @ ("DOWN" | "STARTING"))) => said,
        _ => "UP",
    };
    match record["overridden"].as_str() {
        Some("UP") => (Method::PUT, "UP"),
        _ => (Method::DELETE, status),
    }
}

#[async_trait]
impl Backend for Apps {
    type Instance = EurekaInstance;

    fn registry(&self) -> &str {
        &self.rest.registry
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    async fn look(&self, id: &str) -> Result<EurekaInstance, RegistryError> {
        let Ours { app, instance, .. } = self.ours(id).await?;
        let Some((record, _)) = self.rest.record(&app, &instance).await? else {
            return Err(self.not_registered(id).await);
        };
        let status = record["status"].as_str().unwrap_or(NONE).to_owned();
        let overridden = overridden(&record).to_owned();
        let unsaid = format!("somebody set its status to {overridden}");
        let shown = match (overridden.as_str(), status.as_str()) {
            (NONE | "UP", OUT) => Shown::Out("the application itself reports OUT_OF_SERVICE"),
            (NONE | "UP", status) => Shown::In { passing: status == "UP" },
            (OUT, _) => Shown::Out(&unsaid),
            _ => Shown::OutOtherwise(&unsaid),
        };
        let traffic = whose(shown, None, self.note(id)?.as_ref());
        let record = json!({ "status": status, "overridden": overridden });
        Ok(EurekaInstance { registration: Registration { name: app, traffic, record }, status, overridden })
    }

    fn registration(seen: &EurekaInstance) -> &Registration {
        &seen.registration
    }

    async fn take_out(&self, id: &str, _marker: &Marker) -> Result<bool, RegistryError> {
        if !matches!(self.look(id).await?.overridden.as_str(), NONE | "UP") {
            return Ok(false);
        }
        // Asked for once, it is made anew together with what clients fetch, and not earlier.
        self.rest.list(&self.ours(id).await?.app).await?;
        self.set(id, Method::PUT, OUT).await?;
        until_seen(self.registry(), id, || async {
            let now = self.look(id).await?.overridden;
            Ok((now != OUT).then(|| format!("somebody set its status to {now}")))
        })
        .await?;
        Ok(true)
    }

    /// Where no override stands, taking one back changes nothing.
    async fn put_back(
        &self,
        id: &str,
        _marker: &Marker,
        seen: EurekaInstance,
        record: &Value,
    ) -> Result<(), RegistryError> {
        let (method, value) = taking_back(&seen.status, record);
        self.set(id, method, value).await?;
        until_seen(self.registry(), id, || async {
            let now = self.look(id).await?.overridden;
            Ok((now == OUT).then(|| format!("somebody set its status to {now}")))
        })
        .await
    }

    async fn would(&self, change: TrafficChange, id: &str, _marker: &Marker) -> Result<Vec<String>, RegistryError> {
        let (ours, seen) = (self.ours(id).await?, self.look(id).await?);
        let (method, value) = match change {
            TrafficChange::Drain => (Method::PUT, OUT),
            TrafficChange::Restore => taking_back(&seen.status, &seen.registration.record),
        };
        Ok(vec![self.rest.shown(&ours.app, &ours.instance, &method, value)])
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        let ours = self.ours(id).await?;
        self.look(id).await?;
        let list = self.rest.list(&ours.app).await?;
        let others: Vec<&Value> = list.iter().filter(|listed| !ours.is(listed)).collect();
        if others.len() == list.len() {
            return Err(self.rest.older(id));
        }
        let mut counted = Others { healthy: 0, registered: 1 + others.len() as u32 };
        let up: Vec<&str> = others.into_iter().filter(|other| is_up(other)).filter_map(instance_id).collect();
        for instance in up {
            if let Some((record, at)) = self.rest.record(&ours.app, instance).await?
                && is_up(&record)
                && self.rest.lives(instance, &record, at)?
            {
                counted.healthy += 1;
            }
        }
        Ok(counted)
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        let ours = match self.ours(id).await {
            Ok(ours) => ours,
            Err(RegistryError::NotRegistered { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let list = self.rest.list(&ours.app).await?;
        let up: Vec<bool> = list.iter().filter(|listed| ours.is(listed)).map(is_up).collect();
        if !up.is_empty() {
            return Ok(up.contains(&true));
        }
        match self.look(id).await {
            Ok(_) => Err(self.rest.older(id)),
            Err(RegistryError::NotRegistered { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn clients_follow(&self) -> Duration {
        CLIENTS_FOLLOW
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        Ok(self.rest.all().await?.into_iter().map(|listed| (listed.address, listed.app)).collect())
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        let all = self.rest.all().await?.into_iter();
        Ok(all.filter_map(|listed| Some((listed.id?, listed.address))).collect())
    }

    async fn health_url(&self, id: &str) -> Result<Option<String>, RegistryError> {
        let all = self.rest.all().await?.into_iter();
        Ok(all.filter(|listed| listed.id.as_deref() == Some(id)).find_map(|listed| listed.health_url))
    }

    fn caveats(&self) -> &'static [&'static str] {
        &[
            "clients follow a drain, and a restore, within 95s: Eureka's cache of lists, their own fetch, and Spring \
             Cloud LoadBalancer's cache; where these times differ, set `clients_follow` of the service's registration",
            "a service that deregisters as it stops ends its drain: after its start it is in traffic until the agent \
             drains it again, within 1 s, and stays in traffic while no agent runs; with the service's own \
             `eureka.client.should-unregister-on-shutdown=false` it stays drained over its restart",
            "a single Eureka server forgets all drains at its own restart: a running agent makes each of its drains again \
             within 1 s after the drained service has registered again",
            "Eureka counts a drain or a restore as a heartbeat: an instance that has died stays listed for one more \
             lease (90 s by default); so no test write is made just before the restart",
            "an override has no reason: one that a person sets during our drain is removed with it",
        ]
    }
}
