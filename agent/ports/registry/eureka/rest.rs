//! Eureka's REST operations, as its servers answer them: requests, and what is read from their answers.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::header::{ACCEPT, DATE};
use reqwest::{Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::super::RegistryError;
use crate::model::socket::canonical;
use crate::ports::http::{self, Client, Members};
use crate::ports::{Servers, User, said};

/// One that lives renews its lease each 30 s. What the record shows is when the lease of 90 s ends that began then; and before
/// the first renewal, when the instance registered. Both lie in the past of a dead one by more than that.
const RENEWED_EACH: SignedDuration = SignedDuration::from_secs(30);

/// No override.
pub const NONE: &str = "UNKNOWN";

#[derive(Debug)]
pub struct Rest {
    pub registry: String,
    members: Members,
    user: Option<User>,
}

/// What the server says, and when by its own clock.
struct Answer {
    body: Vec<u8>,
    at: Option<Timestamp>,
}

impl Rest {
    /// Each address of `servers` ends where `/apps` begins.
    pub fn new(name: &str, servers: Servers, user: Option<User>, deadline: Duration) -> Result<Self, RegistryError> {
        let members = Members::new(servers, deadline)
            .map_err(|detail| RegistryError::Refused { registry: name.into(), detail })?;
        Ok(Self { registry: name.into(), members, user })
    }

    /// `None` for a 404.
    async fn call(&self, method: Method, path: &[&str], value: Option<&str>) -> Result<Option<Answer>, RegistryError> {
        let method = &method;
        let call = |password: Option<SecretString>| {
            let call = move |client, base| self.call_one(client, base, password.clone(), method.clone(), path, value);
            self.members.ask(call, RegistryError::is_passing)
        };
        match &self.user {
            Some(user) => user.password.with(|now| call(Some(now)), |error| !error.is_passing()).await,
            None => call(None).await,
        }
    }

    async fn call_one(
        &self,
        client: Client,
        base: Url,
        password: Option<SecretString>,
        method: Method,
        path: &[&str],
        value: Option<&str>,
    ) -> Result<Option<Answer>, RegistryError> {
        let asked = format!("{method} apps/{}", path.join("/"));
        let reads = method == Method::GET;
        let mut request = client.request(method, at(base, path, value)).header(ACCEPT, "application/json");
        let secret = password.clone();
        if let (Some(user), Some(password)) = (&self.user, password) {
            request = request.basic_auth(&user.name, Some(password.expose_secret()));
        }
        let unreachable = |why: String| self.unreachable(format!("{asked}: {why}"));
        let response = client.send(request).await.map_err(|failure| failure.of_registry(&self.registry, &asked))?;
        let status = response.status();
        let at = response.headers().get(DATE).and_then(|date| {
            let date = date.to_str().ok()?;
            Some(jiff::fmt::rfc2822::parse(date).ok()?.timestamp())
        });
        let body = http::body(response, http::MAX_ANSWER_BYTES).await.map_err(unreachable)?;
        let says = said::behind(&said::in_body(&body, secret.as_ref().map(ExposeSecret::expose_secret)));
        match status {
            status if status.is_success() => Ok(Some(Answer { body, at })),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let why = match &self.user {
                    None => "Eureka asks for a name and a password: set `user` and `password_file` of this registry",
                    Some(_) if reads => "wrong name or password, or the user may not",
                    Some(_) => {
                        "wrong name or password, or the user may not; or Spring Security's CSRF protection refuses \
                         writes: exempt /eureka/** from it in Eureka's server"
                    }
                };
                Err(self.refused(format!("{asked}: {status}{says}; {why}")))
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(unreachable(format!("{status}{says}")))
            }
            status => Err(self.refused(format!("{asked}: {status}{says}"))),
        }
    }

    fn refused(&self, detail: String) -> RegistryError {
        RegistryError::Refused { registry: self.registry.clone(), detail }
    }

    fn unreachable(&self, detail: String) -> RegistryError {
        RegistryError::Unreachable { registry: self.registry.clone(), detail }
    }

    /// What stands under `key` in the answer, and when by the server's clock; `None` for a 404.
    async fn get(&self, path: &[&str], key: &str) -> Result<Option<(Value, Option<Timestamp>)>, RegistryError> {
        let Some(answer) = self.call(Method::GET, path, None).await? else { return Ok(None) };
        let not_eurekas = || {
            let asked = path.join("/");
            self.refused(format!("GET apps/{asked}: the answer is not Eureka's: it has no `{key}`"))
        };
        let mut read: Value = serde_json::from_slice(&answer.body).map_err(|_| not_eurekas())?;
        let value = read.get_mut(key).map(Value::take).ok_or_else(not_eurekas)?;
        Ok(Some((value, answer.at)))
    }

    /// The registry's own record, which no cache stands before.
    pub async fn record(&self, app: &str, instance: &str) -> Result<Option<(Value, Option<Timestamp>)>, RegistryError> {
        self.get(&[app, instance], "instance").await
    }

    /// The instances of the application as clients read them: from the cache. Clients fetch the list of all applications, or
    /// what has changed in it; those lists and this one are made anew in the same moment, once this one was asked for.
    pub async fn list(&self, app: &str) -> Result<Vec<Value>, RegistryError> {
        let list = self.get(&[app], "application").await?;
        Ok(list.map(|(list, _)| listed(&list["instance"])).unwrap_or_default())
    }

    /// A list that does not show what is registered is older than that, and proves nothing.
    pub fn older(&self, id: &str) -> RegistryError {
        let detail = format!(
            "`{id}` is registered, but Eureka's list of its application does not show it yet (Eureka's cache lags by \
             up to 30 s); asking again"
        );
        self.unreachable(detail)
    }

    /// Does the instance renew its lease, by the clock of the server that answered?
    pub fn lives(&self, id: &str, record: &Value, at: Option<Timestamp>) -> Result<bool, RegistryError> {
        let lasts = number(&record["leaseInfo"]["lastRenewalTimestamp"]);
        let lasts = lasts.and_then(|at| Timestamp::from_millisecond(i64::try_from(at).ok()?).ok());
        match (lasts, at) {
            (Some(lasts), Some(at)) => Ok(at.duration_since(lasts) <= RENEWED_EACH),
            _ => Err(self.refused(format!(
                "the record of `{id}` has no leaseInfo.lastRenewalTimestamp, or its answer no Date, so the instance \
                 may be dead"
            ))),
        }
    }

    pub async fn apps(&self) -> Result<Vec<Value>, RegistryError> {
        let (apps, _) = self.get(&[], "applications").await?.ok_or_else(|| {
            self.refused("GET apps: 404; the url must be Eureka's with its path (http://HOST:8761/eureka)".into())
        })?;
        Ok(listed(&apps["application"]))
    }

    /// Every instance of every application, as the lists have it.
    pub async fn all(&self) -> Result<Vec<Listed>, RegistryError> {
        let mut all = Vec::new();
        for app in self.apps().await? {
            let read = |record: &Value| {
                let address = address(record)?;
                let app = app["name"].as_str()?.to_ascii_lowercase();
                let id = instance_id(record).map(|instance| format!("{app}/{instance}"));
                // A client without one of its own says an empty one.
                let health_url = record["healthCheckUrl"].as_str().filter(|url| !url.is_empty()).map(Into::into);
                Some(Listed { app, id, address, health_url })
            };
            all.extend(listed(&app["instance"]).iter().filter_map(read));
        }
        Ok(all)
    }

    /// The call of [`Self::set`], for people.
    pub fn shown(&self, app: &str, instance: &str, method: &Method, value: &str) -> String {
        self.members.shown(method, |base| at(base, &[app, instance, "status"], Some(value)))
    }

    /// Overrides the status with `value`, or takes the override back and suggests it. False where there is no such instance.
    pub async fn set(&self, app: &str, instance: &str, method: Method, value: &str) -> Result<bool, RegistryError> {
        Ok(self.call(method, &[app, instance, "status"], Some(value)).await?.is_some())
    }
}

fn at(base: Url, path: &[&str], value: Option<&str>) -> Url {
    let mut url = base;
    url.path_segments_mut().expect("an http url has a path").pop_if_empty().push("apps").extend(path);
    if let Some(value) = value {
        url.query_pairs_mut().append_pair("value", value);
    }
    url
}

/// One that is listed, with the id that bindings name it by.
pub struct Listed {
    pub app: String,
    pub id: Option<String>,
    pub address: SocketAddr,
    pub health_url: Option<String>,
}

/// Older versions write it otherwise.
pub fn overridden(record: &Value) -> &str {
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

/// Some versions write numbers as text.
pub fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Before instances had ids of their own, the host's name was it.
pub fn instance_id(record: &Value) -> Option<&str> {
    record.get("instanceId").or(record.get("hostName"))?.as_str()
}

/// Where it accepts connections.
pub fn address(record: &Value) -> Option<SocketAddr> {
    let port = u16::try_from(number(&record["port"]["$"])?).ok()?;
    Some(canonical(SocketAddr::new(record["ipAddr"].as_str()?.parse().ok()?, port)))
}

pub fn is_up(record: &Value) -> bool {
    record["status"] == "UP"
}
