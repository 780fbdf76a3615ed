//! Eureka: the status of one instance overridden as OUT_OF_SERVICE. An instance's id is `APP/INSTANCE-ID`. Written after
//! Eureka's REST operations and sources (`InstanceResource`, `AbstractInstanceRegistry`), and tried on a stub that follows
//! them, not on a real server.
//!
//! - `PUT …/status?value=OUT_OF_SERVICE` overrides what the application says of itself; `DELETE …/status?value=UP` takes
//!   the override back. Without the value it stays UNKNOWN until the application registers anew.
//! - The override stays when the same instance registers again, and goes when it deregisters, as applications do that
//!   stop in good order. So drained is held.
//! - An override carries no reason. Metadata could, but a key of it is never removed again, and to set one registers the
//!   instance anew. So whose drain it is stands in a [`Ledger`] of this host; an override without a note is somebody
//!   else's.
//! - The record of one instance is read from the registry itself; lists come from a cache that may be 30 s old. So others
//!   are counted by what each one's own record says.
//! - A 404 tells nothing by itself: it counts where the same server shows that it is Eureka's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::ACCEPT;
use reqwest::{Client, Method, StatusCode, Url};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::ledger::Ledger;
use super::noted::{Backend, Noted, until_seen};
use super::whose::{Shown, whose};
use super::{Others, Registration, RegistryError};
use crate::model::Marker;
use crate::ports::{User, http};

/// For one call.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// A registration that undoes a drain is in force for so long at most.
const HOLD_EVERY: Duration = Duration::from_secs(1);

const OUT: &str = "OUT_OF_SERVICE";
/// No override.
const NONE: &str = "UNKNOWN";

pub type Eureka = Noted<Apps>;

#[derive(Debug)]
pub struct Apps {
    registry: String,
    base: Url,
    client: Client,
    user: Option<User>,
    ledger: Ledger,
}

/// An instance as its own record has it.
#[derive(Debug)]
pub struct Seen {
    registration: Registration,
    status: String,
    overridden: String,
}

impl Eureka {
    /// `name` is the registry's in the host's file; `url` ends where `/apps` begins; `ledger` is a file that this agent
    /// alone writes.
    pub fn new(name: &str, url: &str, user: Option<User>, ledger: PathBuf) -> Result<Self, RegistryError> {
        Self::within(CALL_DEADLINE, HOLD_EVERY, name, url, user, ledger)
    }

    /// With another deadline for each call, and other times between two looks at a drain.
    pub(super) fn within(
        deadline: Duration,
        hold_every: Duration,
        name: &str,
        url: &str,
        user: Option<User>,
        ledger: PathBuf,
    ) -> Result<Self, RegistryError> {
        let refused = |detail| RegistryError::Refused { registry: name.into(), detail };
        let base = http::address(url).map_err(refused)?;
        let client = http::client(&base, deadline).map_err(refused)?;
        let apps = Apps { registry: name.into(), base, client, user, ledger: Ledger::new(ledger) };
        Ok(Self::over(apps, hold_every))
    }
}

impl Apps {
    /// The body; `None` for a 404.
    async fn call(&self, method: Method, path: &[&str], value: Option<&str>) -> Result<Option<Vec<u8>>, RegistryError> {
        let asked = format!("{method} apps/{}", path.join("/"));
        let mut url = self.base.clone();
        url.path_segments_mut().expect("an http url has a path").pop_if_empty().push("apps").extend(path);
        if let Some(value) = value {
            url.query_pairs_mut().append_pair("value", value);
        }
        let mut request = self.client.request(method, url).header(ACCEPT, "application/json");
        if let Some(user) = &self.user {
            request = request.basic_auth(&user.name, Some(user.password.now().expose_secret()));
        }
        let unreachable = |why: String| RegistryError::Unreachable {
            registry: self.registry.clone(),
            detail: format!("{asked}: {why}"),
        };
        let response = request.send().await.map_err(|error| unreachable(http::failure(error)))?;
        let status = response.status();
        let body = http::body(response, http::MAX_ANSWER_BYTES).await.map_err(unreachable)?;
        match status {
            status if status.is_success() => Ok(Some(body)),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(self.refused(format!("{asked}: {status}: the user may not, or no user is named")))
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(unreachable(status.to_string()))
            }
            status => Err(self.refused(format!("{asked}: {status}"))),
        }
    }

    /// What stands under `key` in the answer; `None` for a 404.
    async fn get(&self, path: &[&str], key: &str) -> Result<Option<Value>, RegistryError> {
        let Some(body) = self.call(Method::GET, path, None).await? else { return Ok(None) };
        let not_eurekas = || {
            let asked = path.join("/");
            self.refused(format!("GET apps/{asked}: the answer is not Eureka's: it has no `{key}`"))
        };
        let mut answer: Value = serde_json::from_slice(&body).map_err(|_| not_eurekas())?;
        answer.get_mut(key).map(Value::take).ok_or_else(not_eurekas).map(Some)
    }

    async fn record(&self, app: &str, instance: &str) -> Result<Option<Value>, RegistryError> {
        self.get(&[app, instance], "instance").await
    }

    async fn apps(&self) -> Result<Vec<Value>, RegistryError> {
        let apps = self.get(&[], "applications").await?.ok_or_else(|| {
            self.refused("GET apps: 404; is the url Eureka's, with its path (http://HOST:8761/eureka)?".into())
        })?;
        Ok(listed(&apps["application"]))
    }

    /// Every instance of every application, as the lists have it.
    async fn all(&self) -> Result<Vec<Listed>, RegistryError> {
        let mut all = Vec::new();
        for app in self.apps().await? {
            let read = |record: &Value| {
                let port = &record["port"]["$"];
                let port = port.as_u64().or_else(|| port.as_str()?.parse().ok())?;
                let address = SocketAddr::new(record["ipAddr"].as_str()?.parse().ok()?, u16::try_from(port).ok()?);
                let app = app["name"].as_str()?.to_ascii_lowercase();
                let id = instance_id(record).map(|instance| format!("{app}/{instance}"));
                Some(Listed { app, id, address })
            };
            all.extend(listed(&app["instance"]).iter().filter_map(read));
        }
        Ok(all)
    }

    /// Overrides the status with `value`, or takes the override back and suggests it.
    async fn set(&self, id: &str, method: Method, value: &str) -> Result<(), RegistryError> {
        let (app, instance) = super::service_and_instance(&self.registry, id)?;
        match self.call(method, &[app, instance, "status"], Some(value)).await? {
            Some(_) => Ok(()),
            None => Err(RegistryError::NotRegistered { registry: self.registry.clone(), id: id.into() }),
        }
    }
}

/// One that is listed.
struct Listed {
    app: String,
    id: Option<String>,
    address: SocketAddr,
}

/// Older versions write it otherwise.
fn overridden(record: &Value) -> &str {
    record.get("overriddenStatus").or(record.get("overriddenstatus")).and_then(Value::as_str).unwrap_or(NONE)
}

/// Of one alone, some versions make no list.
fn listed(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.clone(),
        Value::Null => vec![],
        one => vec![one.clone()],
    }
}

/// Before instances had ids of their own, the host's name was it.
fn instance_id(record: &Value) -> Option<&str> {
    record.get("instanceId").or(record.get("hostName"))?.as_str()
}

fn is_up(record: &Value) -> bool {
    record["status"] == "UP"
}

#[async_trait]
impl Backend for Apps {
    type Seen = Seen;

    fn registry(&self) -> &str {
        &self.registry
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    async fn look(&self, id: &str) -> Result<Seen, RegistryError> {
        let (app, instance) = super::service_and_instance(&self.registry, id)?;
        let Some(record) = self.record(app, instance).await? else {
            self.apps().await?;
            return Err(RegistryError::NotRegistered { registry: self.registry.clone(), id: id.into() });
        };
        let status = record["status"].as_str().unwrap_or(NONE).to_owned();
        let overridden = overridden(&record).to_owned();
        let unsaid = format!("its status is overridden as {overridden}");
        let shown = match (overridden.as_str(), status.as_str()) {
            (NONE | "UP", OUT) => Shown::Out("the application itself says OUT_OF_SERVICE"),
            (NONE | "UP", status) => Shown::In { passing: status == "UP" },
            (OUT, _) => Shown::Out(&unsaid),
            _ => Shown::OutOtherwise(&unsaid),
        };
        let traffic = whose(shown, None, self.note(id)?.as_ref());
        let record = json!({ "status": status, "overridden": overridden });
        Ok(Seen { registration: Registration { name: app.into(), traffic, record }, status, overridden })
    }

    fn registration(seen: &Seen) -> &Registration {
        &seen.registration
    }

    async fn take_out(&self, id: &str, _marker: &Marker) -> Result<bool, RegistryError> {
        if !matches!(self.look(id).await?.overridden.as_str(), NONE | "UP") {
            return Ok(false);
        }
        self.set(id, Method::PUT, OUT).await?;
        until_seen(&self.registry, id, || async {
            let now = self.look(id).await?.overridden;
            Ok((now != OUT).then(|| format!("its status is overridden as {now}")))
        })
        .await?;
        Ok(true)
    }

    /// Where no override stands, taking one back changes nothing.
    async fn put_back(&self, id: &str, _marker: &Marker, seen: Seen, record: &Value) -> Result<(), RegistryError> {
        let status = match (seen.status.as_str(), record["status"].as_str()) {
            // What the application itself has said since stands over an override, and is newer than what we kept.
            (said @ ("DOWN" | "STARTING"), _) | (_, Some(said @ ("DOWN" | "STARTING"))) => said,
            _ => "UP",
        };
        match record["overridden"].as_str() {
            Some("UP") => self.set(id, Method::PUT, "UP").await?,
            _ => self.set(id, Method::DELETE, status).await?,
        }
        until_seen(&self.registry, id, || async {
            let now = self.look(id).await?.overridden;
            Ok((now == OUT).then(|| format!("its status is overridden as {now}")))
        })
        .await
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        let (app, own) = super::service_and_instance(&self.registry, id)?;
        self.look(id).await?;
        let list = self.get(&[app], "application").await?.unwrap_or_default();
        let mut others = Others { healthy: 0, registered: 1 };
        for other in listed(&list["instance"]).iter().filter(|other| instance_id(other) != Some(own)) {
            others.registered += 1;
            if let Some(instance) = instance_id(other).filter(|_| is_up(other))
                && self.record(app, instance).await?.is_some_and(|record| is_up(&record))
            {
                others.healthy += 1;
            }
        }
        Ok(others)
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        Ok(self.all().await?.into_iter().map(|listed| (listed.address, listed.app)).collect())
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        let all = self.all().await?.into_iter();
        Ok(all.filter_map(|listed| Some((listed.id?, listed.address))).collect())
    }

    fn caveats(&self) -> &'static [&'static str] {
        &[
            "not tried on a real Eureka: it follows its REST operations as documented",
            "clients learn of a drain by polling, through caches of up to 30 s each: give the step drain a `settle` of 90s",
            "a service that deregisters as it stops takes the drain along: once it is back it is in traffic until the \
             agent takes it out again, and for good while no agent runs",
            "an override has no reason: one that a person sets while a drain of ours stands is taken back with it",
        ]
    }
}
