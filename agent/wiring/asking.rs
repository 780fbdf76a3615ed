//! Asking each party that the host's file names, once: what `unwait check --ask` shows. Reads and greets; changes nothing.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::{Wiring, adapters, notifiers};
use crate::config::{Destination, FleetConfig, RegistryConfig};
use crate::model::Tls;
use crate::ports::fleet::{Fleet, FleetError};
use crate::ports::greeting::greet;
use crate::ports::registry::{Registry, RegistryError, Traffic};
pub use crate::ports::tls::Certificate;
use crate::ports::tls::{HandshakeSeen, Whose};

/// For one connection, or one question to a probe.
const DEADLINE: Duration = Duration::from_secs(5);

/// One party, and what came of asking it.
#[derive(Debug)]
pub struct Asked {
    /// `registry consul`.
    pub of: String,
    /// Its address, where there may be several.
    pub address: Option<String>,
    /// What it calls itself, with its version.
    pub server: Option<String>,
    /// What was read, or why it could not be.
    pub answer: Result<String, String>,
    /// Where TLS was spoken.
    pub tls: Option<HandshakeSeen>,
    /// What we showed.
    pub own: Option<Certificate>,
}

impl Wiring {
    /// Asks everybody, one after the other.
    pub async fn ask_all(&self) -> Vec<Asked> {
        let mut all = Vec::new();
        for (name, config) in &self.config.host.registries {
            let of = format!("registry {name}");
            for (address, config) in each_registry(config) {
                let made = adapters::registry(name, &config, &self.config.host.state, &self.host.name, &self.shared);
                let (server, answer) = match made {
                    Ok(adapter) => (adapter.server().await.ok().flatten(), self.read(name, adapter.as_ref()).await),
                    Err(error) => (None, Err(error.to_string())),
                };
                all.push(self.asked(&of, address, server, answer, config.tls()));
            }
        }
        for (address, config) in self.config.host.fleet.iter().flat_map(each_fleet) {
            let (server, answer) = match adapters::fleet(&config, &self.host, &self.shared) {
                Ok(fleet) => (fleet.server().await.ok().flatten(), self.read_fleet(fleet, &config).await),
                Err(error) => (None, Err(error.to_string())),
            };
            all.push(self.asked(adapters::FLEET, address, server, answer, config.tls()));
        }
        for (service, config) in &self.config.host.services {
            let Some(health) = &config.health else { continue };
            let answer = match self.ports.probe.ask(health, DEADLINE).await {
                Ok(()) => Ok("passes".into()),
                Err(failure) if failure.is_an_answer => Ok(format!("the probe fails now: {failure}")),
                Err(failure) => Err(failure.to_string()),
            };
            all.push(Asked {
                of: format!("health of {service}"),
                address: None,
                server: None,
                answer,
                tls: None,
                own: None,
            });
        }
        for destination in &self.config.host.notify {
            let answer = self.greet(destination).await;
            all.push(self.asked(&of_notifier(destination), None, None, answer, Some(&destination.tls)));
        }
        all
    }

    fn asked(
        &self,
        of: &str,
        address: Option<String>,
        server: Option<String>,
        answer: Result<String, String>,
        tls: Option<&Tls>,
    ) -> Asked {
        // What another address of the same party has shown is not this one's.
        let is_plain = address.as_ref().is_some_and(|at| at.starts_with("http:") || at.starts_with("unix:"));
        let tls = tls.filter(|_| !is_plain);
        let context = tls.and_then(|tls| self.shared.contexts.of(of, tls).ok());
        let seen = context.as_ref().map(|context| context.seen()).filter(|seen| seen.theirs.is_some());
        let own = context.and_then(|context| {
            context.certificates().into_iter().find(|(whose, _)| *whose == Whose::Own).map(|(_, own)| own)
        });
        Asked { of: of.into(), address, server, answer, tls: seen, own }
    }

    /// One of the instances that are bound there; where none is, which addresses are known.
    async fn read(&self, name: &str, registry: &dyn Registry) -> Result<String, String> {
        let bindings = self.config.host.services.values().flat_map(|service| &service.bindings);
        let Some(bound) = bindings.into_iter().find(|binding| binding.registry == name) else {
            let found = registry.names().await.map_err(|error| error.to_string())?;
            return Ok(format!("answers; it lists {} addresses", found.len()));
        };
        match registry.observe(&bound.id).await {
            Ok(registration) => Ok(format!("{} is {}", bound.id, shown(&registration.traffic))),
            Err(RegistryError::NotRegistered { .. }) => Ok(format!("{} is not registered there", bound.id)),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn read_fleet(&self, fleet: Arc<dyn Fleet>, config: &FleetConfig) -> Result<String, String> {
        match (fleet.services().await, config) {
            (Ok(services), _) => Ok(format!("answers; slots of {} services are held", services.len())),
            // A lock that can only be taken is not taken for a look.
            (Err(FleetError::Cannot(_)), FleetConfig::FleetLock { url, tls, .. }) => {
                let tls = self.shared.tls(adapters::FLEET, tls).map_err(|error| error.to_string())?;
                greet(url, &tls.into(), DEADLINE).await.map(|()| "accepts connections".into())
            }
            (Err(error), _) => Err(error.to_string()),
        }
    }

    async fn greet(&self, destination: &Destination) -> Result<String, String> {
        let url = notifiers::address(&destination.to).map_err(|error| error.to_string())?;
        let via = notifiers::via_of(destination, &self.shared).map_err(|error| error.to_string())?;
        greet(url.expose_secret(), &via, DEADLINE).await?;
        Ok("accepts connections; no message was sent".into())
    }
}

pub(crate) fn of_notifier(destination: &Destination) -> String {
    format!("notify {}", destination.name)
}

fn shown(traffic: &Traffic) -> String {
    match traffic {
        Traffic::Passing => "in traffic".into(),
        Traffic::Failing => "registered, and fails its checks".into(),
        Traffic::DrainedBy(marker) => format!("drained by incident {} of {}", marker.incident, marker.host),
        Traffic::Isolated { reason } => format!("taken out by others: {reason}"),
    }
}

/// The registry as it would be with each of its addresses alone.
fn each_registry(config: &RegistryConfig) -> Vec<(Option<String>, RegistryConfig)> {
    let addresses = match config {
        RegistryConfig::Etcd { urls, .. }
        | RegistryConfig::Nacos { urls, .. }
        | RegistryConfig::Eureka { urls, .. } => urls.clone(),
        RegistryConfig::ZooKeeper { servers, .. } => servers.clone(),
        RegistryConfig::Consul { url, .. } => return vec![(Some(url.clone()), config.clone())],
        other => return vec![(None, other.clone())],
    };
    let alone = |address: String| {
        let mut config = config.clone();
        match &mut config {
            RegistryConfig::Etcd { urls, .. }
            | RegistryConfig::Nacos { urls, .. }
            | RegistryConfig::Eureka { urls, .. } => {
                *urls = vec![address.clone()];
            }
            RegistryConfig::ZooKeeper { servers, .. } => *servers = vec![address.clone()],
            _ => {}
        }
        (Some(address), config)
    };
    addresses.into_iter().map(alone).collect()
}

fn each_fleet(config: &FleetConfig) -> Vec<(Option<String>, FleetConfig)> {
    let (FleetConfig::Consul { urls, .. } | FleetConfig::Etcd { urls, .. }) = config else {
        return vec![(None, config.clone())];
    };
    let alone = |address: &String| {
        let mut config = config.clone();
        if let FleetConfig::Consul { urls, .. } | FleetConfig::Etcd { urls, .. } = &mut config {
            *urls = vec![address.clone()];
        }
        (Some(address.clone()), config)
    };
    urls.iter().map(alone).collect()
}
