//! What is asked of Nacos and told to it, by whichever of its APIs the server takes.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::super::RegistryError;
use super::MARKER;
use super::api::{Api, Parameter, UNKNOWN_TO_R_NACOS, Write, page};
use super::said::code;
use crate::model::{Marker, NacosApi};

/// In a 404, Nacos' own words for what is not there; without them it may be another path, or another server.
const ABSENT: [&str; 3] = ["no matched ip found", "no ips found for cluster", "no service "];
/// The same as the second and the third API's own code.
const ABSENT_CODE: i64 = 20004;
/// Of the third API's list, where a service has no instance.
const EMPTY_CODE: i64 = 30000;

/// Where an instance stands.
pub(super) struct InstanceAddress<'a> {
    pub id: &'a str,
    pub service: &'a str,
    cluster: &'a str,
    ip: &'a str,
    port: u16,
}

impl InstanceAddress<'_> {
    /// Is it this one, of those in a list?
    pub fn is(&self, listed: &Value) -> bool {
        listed["ip"] == self.ip && listed["port"] == self.port && self.is_cluster(listed)
    }

    /// r-nacos knows an instance by its address alone, whatever cluster is asked for.
    fn is_cluster(&self, record: &Value) -> bool {
        record["clusterName"].as_str().is_none_or(|cluster| cluster == self.cluster)
    }
}

impl Api {
    pub fn place<'a>(
        &'a self,
        id: &'a str,
        service: &'a str,
        instance: &'a str,
    ) -> Result<InstanceAddress<'a>, RegistryError> {
        let parts = instance.rsplit_once(':').and_then(|(ip, port)| Some((ip, port.parse().ok()?)));
        let (ip, port) = parts.ok_or_else(|| {
            self.refused(format!("`{id}` names no instance: expected SERVICE/IP:PORT, as in rpc-order/10.0.0.1:7801"))
        })?;
        Ok(InstanceAddress { id, service, cluster: &self.layout.cluster, ip, port })
    }

    fn of_instance(&self, place: &InstanceAddress<'_>) -> Vec<Parameter> {
        let mut query = self.of_service(place.service);
        query.extend([
            ("ip", place.ip.into()),
            ("port", place.port.to_string()),
            ("clusterName", place.cluster.into()),
        ]);
        query
    }

    /// The instance's own record, enabled or not; `None` only where the server itself says that there is none.
    pub async fn record(&self, place: &InstanceAddress<'_>) -> Result<Option<Value>, RegistryError> {
        let path = self.server().await?.instance();
        let body = match self.get(path, &self.of_instance(place)).await? {
            Ok(record) => return Ok(Some(record).filter(|record| place.is_cluster(record))),
            Err(body) => body,
        };
        let words = String::from_utf8_lossy(&body);
        if code(&body) == Some(ABSENT_CODE) || ABSENT.iter().any(|absent| words.contains(absent)) {
            return Ok(None);
        }
        // One word for every failure: believed where the service's list answers, and has no such instance either.
        if body == UNKNOWN_TO_R_NACOS && !self.listed(place.service).await?.iter().any(|listed| place.is(listed)) {
            return Ok(None);
        }
        Err(self.not_nacos(path, &body))
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
        let record = self.record(&InstanceAddress { id: "", service, cluster, ip, port }).await?;
        Ok(record.is_some_and(|record| record["healthy"] == true))
    }

    /// The instances of a service, of all its clusters, healthy or not: by the third API all, else those that are enabled.
    pub async fn listed(&self, service: &str) -> Result<Vec<Value>, RegistryError> {
        self.hosts(self.server().await?.list(), service).await
    }

    /// As clients are told them.
    pub async fn clients_list(&self, service: &str) -> Result<Vec<Value>, RegistryError> {
        self.hosts(self.server().await?.clients_list(), service).await
    }

    async fn hosts(&self, path: &str, service: &str) -> Result<Vec<Value>, RegistryError> {
        let mut query = self.of_service(service);
        // r-nacos leaves out who is not healthy, unless it is told not to.
        query.push(("healthyOnly", "false".into()));
        match self.get(path, &query).await? {
            Ok(Value::Array(hosts)) => Ok(hosts),
            Ok(mut answer) => match answer.get_mut("hosts").map(Value::take) {
                Some(Value::Array(hosts)) => Ok(hosts),
                _ => Err(self.refused(format!("GET {path}: the answer is not Nacos': it has no hosts"))),
            },
            Err(body) if [Some(EMPTY_CODE), Some(ABSENT_CODE)].contains(&code(&body)) => Ok(Vec::new()),
            Err(body) => Err(self.not_nacos(path, &body)),
        }
    }

    /// The names of at most so many services.
    pub async fn services(&self, most: usize) -> Result<Vec<String>, RegistryError> {
        let server = self.server().await?;
        let mut query = self.everywhere();
        query.extend(page(most));
        // The third API's name for the group in this one place.
        query.push(("groupNameParam", self.layout.group.clone()));
        let answer = self.get(server.services(), &query).await?;
        let answer = answer.map_err(|body| self.not_nacos(server.services(), &body))?;
        let names = answer.get("doms").or(answer.get("services")).or(answer.get("pageItems")).and_then(Value::as_array);
        let name = |name: &Value| name.as_str().or(name["name"].as_str()).map(ToOwned::to_owned);
        Ok(names.into_iter().flatten().filter_map(name).collect())
    }

    /// Replaces all that may be changed of an instance, the metadata too.
    pub async fn replacing(
        &self,
        place: &InstanceAddress<'_>,
        enabled: bool,
        weight: &Value,
        metadata: Map<String, Value>,
        ephemeral: Option<bool>,
    ) -> Result<Write, RegistryError> {
        let mut query = self.of_instance(place);
        query.extend([
            ("enabled", enabled.to_string()),
            ("weight", weight.to_string()),
            ("metadata", Value::Object(metadata).to_string()),
        ]);
        query.extend(ephemeral.map(|ephemeral| ("ephemeral", ephemeral.to_string())));
        Ok(Write { method: Method::PUT, path: self.server().await?.instance().into(), query })
    }

    /// Changes `enabled`, and nothing else: the weight goes along, since without it some versions take 1 for it.
    pub async fn enabling(
        &self,
        place: &InstanceAddress<'_>,
        enabled: bool,
        weight: &Value,
    ) -> Result<Write, RegistryError> {
        let server = self.server().await?;
        let mut query = self.of_instance(place);
        query.extend([("enabled", enabled.to_string()), ("weight", weight.to_string())]);
        if server.api == NacosApi::V3 {
            return Ok(Write { method: Method::PUT, path: format!("{}/partial", server.instance()), query });
        }
        // This one call of theirs takes the name with its group, the cluster by another name, and no metadata as an empty one.
        query.retain(|(name, _)| *name != "serviceName");
        query.extend([
            ("serviceName", format!("{}@@{}", self.layout.group, place.service)),
            ("cluster", place.cluster.into()),
            ("metadata", String::new()),
        ]);
        Ok(Write { method: Method::PATCH, path: server.instance().into(), query })
    }

    /// Lays our key over the metadata, or takes it away, and no other.
    pub async fn marking(
        &self,
        place: &InstanceAddress<'_>,
        marker: Option<&Marker>,
        ephemeral: Option<bool>,
    ) -> Result<Write, RegistryError> {
        let instance = json!([{ "ip": place.ip, "port": place.port, "clusterName": place.cluster }]);
        let text = marker.map(ToString::to_string).unwrap_or_default();
        let mut query = self.of_service(place.service);
        query.extend([("instances", instance.to_string()), ("metadata", json!({ MARKER: text }).to_string())]);
        let consistency = |ephemeral: bool| if ephemeral { "ephemeral" } else { "persist" };
        query.extend(ephemeral.map(|ephemeral| ("consistencyType", consistency(ephemeral).into())));
        let method = if marker.is_some() { Method::PUT } else { Method::DELETE };
        Ok(Write { method, path: format!("{}/metadata/batch", self.server().await?.instance()), query })
    }
}
