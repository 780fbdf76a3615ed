//! Which of the local agent's instances a binding names: by its id, or by where it stands.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Deserialize;
use serde_json::Value;

use super::super::{FoundMarker, RegistryError};
use super::{AgentSelf, Local, marker_in};
use crate::model::socket::canonical;
use crate::model::{ConsulScope, Marker, StandsAt};

/// An instance of this host, as the local agent has it.
pub(super) struct Own {
    pub id: String,
    /// The name that it is registered under.
    pub name: String,
    pub record: Value,
}

/// One instance in `/v1/agent/services`.
#[derive(Deserialize)]
pub(super) struct AgentService {
    #[serde(rename = "Service", default)]
    name: String,
    #[serde(rename = "Address", default)]
    address: String,
    #[serde(rename = "Port", default)]
    port: u16,
}

impl Local {
    /// The instance that a binding names: by its id, or by where it stands.
    pub(super) async fn own(&self, id: &str) -> Result<Own, RegistryError> {
        match StandsAt::parse(id) {
            Some(at) => self.service(&self.own_id(id, &at).await?).await,
            None => self.service(id).await,
        }
    }

    async fn own_id(&self, id: &str, at: &StandsAt) -> Result<String, RegistryError> {
        let all: BTreeMap<String, AgentService> = self.get(&["agent", "services"], &[]).await?;
        let mut there: Vec<&String> = all.iter().filter(|(_, service)| service.stands(at)).map(|(id, _)| id).collect();
        match there.as_slice() {
            [] => {
                // A token that may not read is shown fewer, or none.
                let agent: AgentSelf = self.get(&["agent", "self"], &[]).await?;
                match agent.counts("services") {
                    Some(count) if all.len() >= count => Err(self.not_registered(id)),
                    _ => Err(self.refused(format!(
                        "the token shows {} of the local agent's services, none of them `{id}`; the token needs \
                         service:read",
                        all.len()
                    ))),
                }
            }
            [one] => Ok((*one).clone()),
            _ => {
                let node = self.node().await?;
                let entries = self.entries(&at.service, false).await?;
                // What the catalog does not show yet is the newest.
                let created = |id: &&String| {
                    let entry = entries.iter().find(|entry| entry.is(&node, id));
                    entry.map_or(u64::MAX, |entry| entry.service.created)
                };
                there.sort_by_key(created);
                Ok(there[there.len() - 1].clone())
            }
        }
    }

    /// The local agent's record of the instance of this id.
    async fn service(&self, id: &str) -> Result<Own, RegistryError> {
        let answer = self.api.get(&["agent", "service", id], &[]).await.map_err(|error| self.told(error))?;
        if !answer.found && answer.text().to_lowercase().starts_with("unknown service id") {
            return Err(self.not_registered(id));
        }
        let record: Value = answer.json().map_err(|error| self.told(error))?;
        match record["Service"].as_str() {
            Some(name) if record["ID"] == id => Ok(Own { id: id.into(), name: name.into(), record }),
            _ => Err(self.refused(format!("GET /v1/agent/service/{id}: the answer names another instance"))),
        }
    }

    /// Takes our marker from what stood at the same place under a former id, which nobody else would. True where any had it.
    pub(super) async fn lift_former(&self, id: &str, own: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let mut lifted = false;
        let ours = Some(FoundMarker { id: id.into(), marker: marker.clone() });
        for check in self.checks().await?.values().filter(|check| marker_in(check) == ours) {
            if let Some(former) = check["ServiceID"].as_str().filter(|former| !former.is_empty() && *former != own) {
                self.set_maintenance(ConsulScope::Service, former, None).await?;
                lifted = true;
            }
        }
        Ok(lifted)
    }
}

impl AgentService {
    fn stands(&self, at: &StandsAt) -> bool {
        let same = |own: SocketAddr| own.ip().is_unspecified() || canonical(own).ip() == canonical(at.address).ip();
        self.name == at.service && self.port == at.address.port() && self.socket().is_some_and(same)
    }

    /// A service without an address of its own is somewhere on this host.
    pub fn socket(&self) -> Option<SocketAddr> {
        let anywhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let ip = if self.address.is_empty() { anywhere } else { self.address.parse().ok()? };
        (self.port > 0).then(|| SocketAddr::new(ip, self.port))
    }
}
