//! Nacos' open API: one call, one deadline, one honest answer. A token is asked for by name and password and kept until
//! Nacos does not take it any more; it travels in a header, and in no address.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::super::RegistryError;
use crate::model::NacosLayout;
use crate::ports::{User, http};

/// In a 404, Nacos' own words for what is not there; without them it may be another path, or another server.
const ABSENT: [&str; 3] = ["no matched ip found", "no ips found for cluster", "no service "];

#[derive(Debug)]
pub(super) struct Api {
    registry: String,
    base: Url,
    client: Client,
    user: Option<User>,
    /// The last that was given; held while a new one is asked for.
    token: Mutex<Option<SecretString>>,
    layout: NacosLayout,
}

/// Where an instance stands.
pub(super) struct Place<'a> {
    pub id: &'a str,
    pub service: &'a str,
    cluster: &'a str,
    ip: &'a str,
    port: u16,
}

impl Place<'_> {
    /// Is it this one, of those in a list?
    pub fn is(&self, listed: &Value) -> bool {
        listed["ip"] == self.ip && listed["port"] == self.port && listed["clusterName"] == self.cluster
    }
}

enum Answer {
    Body(Vec<u8>),
    /// 404, with these words.
    NotFound(String),
}

impl Api {
    pub fn new(
        registry: &str,
        url: &str,
        user: Option<User>,
        layout: NacosLayout,
        deadline: Duration,
    ) -> Result<Self, RegistryError> {
        let refused = |detail| RegistryError::Refused { registry: registry.into(), detail };
        let base = http::address(url).map_err(refused)?;
        let client = http::client(&base, deadline).map_err(refused)?;
        Ok(Self { registry: registry.into(), base, client, user, token: Mutex::new(None), layout })
    }

    fn refused(&self, detail: String) -> RegistryError {
        RegistryError::Refused { registry: self.registry.clone(), detail }
    }

    pub fn place<'a>(&'a self, id: &'a str) -> Result<Place<'a>, RegistryError> {
        let (service, instance) = super::super::service_and_instance(&self.registry, id)?;
        let parts = instance.rsplit_once(':').and_then(|(ip, port)| Some((ip, port.parse().ok()?)));
        let (ip, port) = parts.ok_or_else(|| {
            self.refused(format!("`{id}` names no instance: expected SERVICE/IP:PORT, as in rpc-order/10.0.0.1:7801"))
        })?;
        Ok(Place { id, service, cluster: &self.layout.cluster, ip, port })
    }

    /// The instance's own record, enabled or not; `None` only where Nacos itself says that there is none.
    pub async fn record(&self, place: &Place<'_>) -> Result<Option<Value>, RegistryError> {
        let mut query = self.of(place.service);
        query.extend(address(place.ip, place.port, place.cluster));
        match self.call(Method::GET, "ns/instance", &query).await? {
            Answer::Body(body) => self.read("ns/instance", &body).map(Some),
            Answer::NotFound(words) if ABSENT.iter().any(|absent| words.contains(absent)) => Ok(None),
            Answer::NotFound(_) => Err(self.not_nacos("ns/instance")),
        }
    }

    /// Whether one of a list is healthy by its own record.
    pub async fn is_healthy(&self, service: &str, listed: &Value) -> Result<bool, RegistryError> {
        let (Some(ip), Some(port), Some(cluster)) = (
            listed["ip"].as_str(),
            listed["port"].as_u64().and_then(|port| u16::try_from(port).ok()),
            listed["clusterName"].as_str(),
        ) else {
            return Ok(false);
        };
        let record = self.record(&Place { id: "", service, cluster, ip, port }).await?;
        Ok(record.is_some_and(|record| record["healthy"] == true))
    }

    /// The instances of a service that are enabled, of all its clusters.
    pub async fn listed(&self, service: &str) -> Result<Vec<Value>, RegistryError> {
        let answer = self.get("ns/instance/list", &self.of(service)).await?;
        match &answer["hosts"] {
            Value::Array(hosts) => Ok(hosts.clone()),
            _ => Err(self.refused("GET ns/instance/list: the answer is not Nacos': it has no hosts".into())),
        }
    }

    /// The names of at most so many services.
    pub async fn services(&self, most: usize) -> Result<Vec<String>, RegistryError> {
        let mut query = self.everywhere();
        query.extend([("pageNo", "1".to_owned()), ("pageSize", most.to_string())]);
        let answer = self.get("ns/service/list", &query).await?;
        let names = answer.get("doms").or(answer.get("services")).and_then(Value::as_array);
        Ok(names.into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect())
    }

    /// Replaces all that may be changed of an instance.
    pub async fn update(
        &self,
        place: &Place<'_>,
        enabled: bool,
        weight: &Value,
        metadata: &Map<String, Value>,
        ephemeral: bool,
    ) -> Result<(), RegistryError> {
        let mut query = self.of(place.service);
        query.extend(address(place.ip, place.port, place.cluster));
        query.extend([
            ("enabled", enabled.to_string()),
            ("weight", weight.to_string()),
            ("ephemeral", ephemeral.to_string()),
            ("metadata", Value::Object(metadata.clone()).to_string()),
        ]);
        match self.call(Method::PUT, "ns/instance", &query).await? {
            Answer::Body(_) => Ok(()),
            Answer::NotFound(words) => Err(self.refused(format!("PUT ns/instance: 404: {words}"))),
        }
    }

    fn everywhere(&self) -> Vec<(&'static str, String)> {
        let namespace = self.layout.namespace.iter().map(|namespace| ("namespaceId", namespace.clone()));
        namespace.chain([("groupName", self.layout.group.clone())]).collect()
    }

    fn of(&self, service: &str) -> Vec<(&'static str, String)> {
        let mut query = self.everywhere();
        query.push(("serviceName", service.into()));
        query
    }

    async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, RegistryError> {
        match self.call(Method::GET, path, query).await? {
            Answer::Body(body) => self.read(path, &body),
            Answer::NotFound(_) => Err(self.not_nacos(path)),
        }
    }

    fn not_nacos(&self, path: &str) -> RegistryError {
        self.refused(format!(
            "GET {path}: 404; is the url Nacos', with its path (http://HOST:8848/nacos), and `api` right?"
        ))
    }

    /// The second API wraps what it says: `{"code": 0, "data": …}`.
    fn read(&self, path: &str, body: &[u8]) -> Result<Value, RegistryError> {
        let answer: Value = serde_json::from_slice(body)
            .map_err(|error| self.refused(format!("{path}: the answer is not Nacos': {error}")))?;
        match (self.layout.v2, answer["code"].as_i64()) {
            (false, _) => Ok(answer),
            (true, Some(0)) => Ok(answer["data"].clone()),
            (true, code) => {
                let says = answer["message"].as_str().unwrap_or_default();
                Err(self.refused(format!("{path}: code {code:?}: {}", short(says))))
            }
        }
    }

    async fn call(&self, method: Method, path: &str, query: &[(&str, String)]) -> Result<Answer, RegistryError> {
        let token = self.token(None).await?;
        let version = if self.layout.v2 { "v2" } else { "v1" };
        let asked = format!("{method} {path}");
        let url = self.url(version, path, query);
        let mut answer = self.send(&asked, self.client.request(method.clone(), url.clone()), token.as_ref()).await?;
        // A token that has ended is refused like one that may not: asking again with a new one does nothing twice.
        if answer.0 == StatusCode::FORBIDDEN && token.is_some() {
            let token = self.token(token.as_ref()).await?;
            answer = self.send(&asked, self.client.request(method, url), token.as_ref()).await?;
        }
        let (status, body) = answer;
        match status {
            status if status.is_success() => Ok(Answer::Body(body)),
            StatusCode::NOT_FOUND => Ok(Answer::NotFound(short(&String::from_utf8_lossy(&body)))),
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                Err(self.refused(format!("{asked}: {status}: the user may not, or no user is named")))
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(RegistryError::Unreachable {
                    registry: self.registry.clone(),
                    detail: format!("{asked}: {status}"),
                })
            }
            status => Err(self.refused(format!("{asked}: {status}"))),
        }
    }

    /// A token, where there is a user; another one than `spent`.
    async fn token(&self, spent: Option<&SecretString>) -> Result<Option<SecretString>, RegistryError> {
        let Some(user) = &self.user else { return Ok(None) };
        let mut kept = self.token.lock().await;
        let is_spent = |token: &SecretString| spent.is_some_and(|it| it.expose_secret() == token.expose_secret());
        if kept.as_ref().is_none_or(is_spent) {
            let mut form = self.base.clone();
            form.query_pairs_mut()
                .clear()
                .append_pair("username", &user.name)
                .append_pair("password", user.password.now().expose_secret());
            let form = form.query().unwrap_or_default().to_owned();
            let request = self.client.post(self.url("v1", "auth/login", &[]));
            let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
            let (status, body) = self.send("POST auth/login", request, None).await?;
            let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
            let token = answer["accessToken"].as_str().filter(|_| status.is_success());
            if status.is_server_error() {
                let detail = format!("POST auth/login: {status}");
                return Err(RegistryError::Unreachable { registry: self.registry.clone(), detail });
            }
            let none = || self.refused(format!("POST auth/login: {status}: no token was given for this user"));
            *kept = Some(token.ok_or_else(none)?.to_owned().into());
        }
        Ok(kept.clone())
    }

    fn url(&self, version: &str, path: &str, query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("an http url has a path").pop_if_empty().push(version).extend(path.split('/'));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    async fn send(
        &self,
        asked: &str,
        request: reqwest::RequestBuilder,
        token: Option<&SecretString>,
    ) -> Result<(StatusCode, Vec<u8>), RegistryError> {
        let unreachable = |why: String| RegistryError::Unreachable {
            registry: self.registry.clone(),
            detail: format!("{asked}: {why}"),
        };
        let request = match token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        };
        let response = request.send().await.map_err(|error| unreachable(http::failure(error)))?;
        let status = response.status();
        Ok((status, http::body(response, http::MAX_ANSWER_BYTES).await.map_err(unreachable)?))
    }
}

fn address(ip: &str, port: u16, cluster: &str) -> [(&'static str, String); 3] {
    [("ip", ip.into()), ("port", port.to_string()), ("clusterName", cluster.into())]
}

fn short(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(160).collect()
}
