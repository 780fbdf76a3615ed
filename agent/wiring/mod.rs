#![doc = include_str!("README.md")]

mod adapters;
pub mod asking;
pub mod certificates;
pub mod discover;
pub mod fleet;
pub mod kernel;
mod notifiers;
pub mod plans;
mod possession;
mod rehearsal;
pub mod saga_world;
mod servers;
pub mod supervised;

#[cfg(test)]
mod arrivals_tests;
#[cfg(test)]
mod asking_tests;
#[cfg(test)]
mod discover_tests;
#[cfg(test)]
mod fleet_tests;
#[cfg(test)]
mod gentle_tests;
#[cfg(test)]
mod rehearsal_tests;
#[cfg(test)]
mod reload_tests;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use globset::Glob;

use crate::attribute::ServiceMatch;
use crate::clock::Clock;
use crate::config::{Config, FleetConfig, RegistryConfig, ServiceConfig};
use crate::decide::guards::{Gate, Tally};
use crate::evidence::{Limits, MinFree, Vault};
use crate::execute::world::World;
use crate::model::plan::Restart;
use crate::model::{Message, Plan, Signal};
use crate::ports::notifier::Notifier;
use crate::ports::probe::real::Probes;
use crate::ports::registry::Registry;
use crate::ports::tls::{Certificate, TlsContext, Whose};
use crate::ports::{Ports, with_deadlines};
use crate::sense::arrivals::Counted;
use crate::sense::sensor::{Sensor, SharedSensor};
use crate::store::{Audience, StateDir, Store};
use rehearsal::Rehearsal;

use adapters::{Missing, Shared};

/// Sees every message as it is told.
pub type OnMessage = Arc<dyn Fn(&Message) + Send + Sync>;

/// What the host gives to every part.
#[derive(Clone)]
pub struct Host {
    pub name: String,
    pub clock: Arc<dyn Clock>,
    pub on_message: OnMessage,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    #[error("cannot read {what} from {path}: {source}")]
    Secret { path: PathBuf, what: &'static str, source: std::io::Error },
    #[error("{0}")]
    Registry(#[from] crate::ports::registry::RegistryError),
    #[error("{0}")]
    Fleet(#[from] crate::ports::fleet::FleetError),
    #[error("{of}: TLS: {detail}")]
    Tls { of: String, detail: String },
    #[error("notify, {destination}: {detail}")]
    Notifier { destination: String, detail: String },
    #[error("{0}")]
    Sensor(#[from] crate::collect::CollectError),
    #[error("the host name cannot be read: {0}")]
    HostName(String),
}

impl WiringError {
    /// A file that the configuration names, or a word in it, is what is wrong; not the host.
    pub fn is_of_the_configuration(&self) -> bool {
        !matches!(self, Self::Sensor(_) | Self::HostName(_))
    }
}

/// A configuration with the adapters that it asks for. A clone is the same one, and costs nothing; one that is changed is
/// another from then on.
#[derive(Clone)]
pub struct Wiring(Arc<WiringParts>);

impl Deref for Wiring {
    type Target = WiringParts;

    fn deref(&self) -> &WiringParts {
        &self.0
    }
}

impl DerefMut for Wiring {
    fn deref_mut(&mut self) -> &mut WiringParts {
        Arc::make_mut(&mut self.0)
    }
}

/// What a [`Wiring`] is made of.
#[derive(Clone)]
pub struct WiringParts {
    pub config: Arc<Config>,
    pub host: Host,
    pub ports: Ports,
    /// As the host's file has it; `config` has the one that is asked ([`fleet`]).
    named_fleet: Option<FleetConfig>,
    /// That one is asked, and noted to be: nothing more is to be found out.
    fleet_is_settled: bool,
    made: BTreeMap<String, Made>,
    shared: Shared,
    pub notifiers: BTreeMap<String, Arc<dyn Notifier>>,
    pub audience: Arc<Audience>,
    pub sensor: SharedSensor,
    pub arrivals: Counted,
    pub vault: Arc<Vault>,
    /// What the guards said so far.
    pub tally: Arc<Tally>,
    /// What was seen lately of who holds what a service leaks.
    pub lately: possession::Lately,
}

/// A registry's adapter, and what it was made from.
#[derive(Clone)]
struct Made {
    adapter: Arc<dyn Registry>,
    config: RegistryConfig,
}

impl std::fmt::Debug for Wiring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Wiring").field(&self.0).finish()
    }
}

impl std::fmt::Debug for WiringParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WiringParts").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Wiring {
    /// Reads the secrets and makes the adapters. `former` is handed over where a running agent loads a new configuration:
    /// what was measured stays known, and a registry that is what it was keeps its adapter. A saga under way goes on with
    /// that one: what it puts back must not be held by another at the same time.
    pub fn new(config: Config, host: Host, former: Option<&Self>) -> Result<Self, WiringError> {
        Self::wire(config, host, former, Missing::IsAnError)
    }

    /// The same, for an agent that only ends what was begun: an adapter that cannot be made, mostly for a secret that
    /// cannot be read, is one that does not answer.
    pub fn degraded(config: Config, host: Host) -> Result<Self, WiringError> {
        Self::wire(config, host, None, Missing::DoesNotAnswer)
    }

    fn wire(config: Config, host: Host, former: Option<&Self>, missing: Missing) -> Result<Self, WiringError> {
        let shared = former.map(|former| former.shared.clone()).unwrap_or_default();
        let mut made: BTreeMap<String, Made> = BTreeMap::new();
        for (name, registry) in &config.host.registries {
            let before = former.and_then(|former| former.made.get(name));
            // Another secret in its file is read by the adapter itself, once the server refuses the former.
            if let Some(before) = before.filter(|made| made.config == *registry) {
                made.insert(name.clone(), before.clone());
                continue;
            }
            let adapter = missing.or(
                name,
                adapters::registry(name, registry, &config.host.state, &host.name, &shared),
                |none| Arc::new(none),
            )?;
            made.insert(name.clone(), Made { adapter, config: registry.clone() });
        }
        let registries = made.iter().map(|(name, made)| (name.clone(), Arc::clone(&made.adapter))).collect();
        let fleet = match config.host.fleet.as_ref().map(|config| adapters::fleet(config, &host, &shared)).transpose() {
            Err(error) if missing == Missing::DoesNotAnswer => {
                tracing::error!(
                    %error,
                    "the fleet store is unavailable: {error}; slots of this host are not given back until the agent \
                     starts with a valid configuration",
                );
                None
            }
            fleet => fleet?,
        };
        let ports = with_deadlines(Ports {
            registries,
            restarters: adapters::restarters(&host.clock),
            probe: Arc::new(Probes::with(shared.contexts.clone())),
            fleet,
        });

        let mut notifiers: BTreeMap<String, Arc<dyn Notifier>> = BTreeMap::new();
        let mut audience = Vec::new();
        for destination in &config.host.notify {
            let adapter = missing.or(
                &destination.name,
                notifiers::notifier(destination, config.host.language, &host.name, &host.clock, &shared),
                |none| Arc::new(none),
            )?;
            notifiers.insert(destination.name.clone(), adapter);
            audience.push((destination.name.clone(), destination.events.iter().copied().collect()));
        }

        // What goes on with its former connections has its files looked at as well.
        shared.contexts.look();
        let asked = asked(&config);
        let matches = matches(&config);
        let sensor = match former {
            Some(former) => {
                former.sensor.lock().reconfigure(matches, asked);
                former.sensor.clone()
            }
            None => SharedSensor::new(Sensor::new(matches, asked, Arc::clone(&host.clock))?),
        };
        let vault = Vault::new(
            StateDir::evidence_of(&config.host.state),
            Limits {
                keep: config.host.evidence.keep as usize,
                max_bytes: config.host.evidence.max_bytes,
                min_free: match config.host.evidence.min_free {
                    crate::config::MinFree::Share(share) => MinFree::Percent(share * 100.0),
                    crate::config::MinFree::Bytes(bytes) => MinFree::Bytes(bytes),
                },
                max_age: config.host.evidence.max_age,
            },
        );
        Ok(Self(Arc::new(WiringParts {
            named_fleet: config.host.fleet.clone(),
            fleet_is_settled: false,
            config: Arc::new(config),
            host,
            ports,
            made,
            shared,
            notifiers,
            audience: Arc::new(Audience(audience)),
            sensor,
            arrivals: former.map(|former| former.arrivals.clone()).unwrap_or_default(),
            vault: Arc::new(vault),
            tally: Arc::default(),
            lately: possession::Lately::default(),
        })))
    }

    /// Each certificate in use: whose connections it is seen at, whose it is.
    pub fn certificates(&self) -> Vec<(String, Whose, Certificate)> {
        let contexts = self.shared.contexts.all();
        let of = |context: &Arc<TlsContext>| {
            let name = context.of().to_owned();
            context.certificates().into_iter().map(move |(whose, certificate)| (name.clone(), whose, certificate))
        };
        contexts.iter().flat_map(of).collect()
    }

    /// The host's labels, as `key=value`.
    pub fn labels(&self) -> Vec<String> {
        self.config.host.labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// The guards over these ports.
    pub fn gate(&self, store: &Arc<Store>, ports: &Ports, started: Duration) -> Gate {
        Gate {
            host: self.host.name.clone(),
            store: Arc::clone(store),
            ports: ports.clone(),
            clock: Arc::clone(&self.host.clock),
            started,
            warm_up: self.config.host.warm_up,
            max_parallel: self.config.host.max_parallel as usize,
            mode_at_most: self.config.host.mode_at_most.clone(),
            tally: Arc::clone(&self.tally),
            possession: Arc::new(possession::Holders(self.clone(), Arc::clone(store))),
        }
    }

    /// What a real saga may reach.
    pub fn world(&self, store: &Arc<Store>, started: Duration) -> World {
        saga_world::real(self, store, started)
    }

    /// What the plan's saga may reach.
    pub fn world_of(&self, plan: &Plan, store: &Arc<Store>, started: Duration) -> World {
        match plan.dry_run {
            true => self.dry_world(store, started),
            false => self.world(store, started),
        }
    }

    /// What a dry saga may reach. One is made for each: its adapters remember what they only pretended.
    pub fn dry_world(&self, store: &Arc<Store>, started: Duration) -> World {
        self.rehearsal(store, started).world
    }

    /// The same, and what it says of a plan.
    pub fn rehearsal(&self, store: &Arc<Store>, started: Duration) -> Rehearsal {
        rehearsal::dry(self, store, started)
    }
}

/// This host's name, as markers, slots and messages carry it.
pub fn host_name() -> Result<String, WiringError> {
    let name = nix::unistd::gethostname().map_err(|error| WiringError::HostName(error.to_string()))?;
    let name = name.to_string_lossy().into_owned();
    let word = |c: char| c.is_ascii_graphic();
    if name.is_empty() || !name.chars().all(word) {
        return Err(WiringError::HostName(format!("`{}` cannot be written in a registry", name.escape_debug())));
    }
    Ok(name)
}

/// Every signal that anybody asks for.
fn asked(config: &Config) -> Vec<Signal> {
    config.policies.iter().flat_map(|policy| policy.signals()).collect()
}

/// How the services are found that the host's file says how to find. A process that the agent restarts is found by its
/// pid file without being told so twice.
pub fn matches(config: &Config) -> Vec<ServiceMatch> {
    let found = |service: &ServiceConfig| {
        let by = service.found_by.clone().unwrap_or_default();
        let own_pid_file = match &service.restart {
            Some(Restart::Process(process)) => Some(process.pid_file.clone()),
            _ => None,
        };
        let pid_file = by.pid_file.or(own_pid_file);
        let cgroup =
            by.cgroup.and_then(|path| Glob::new(&globset::escape(&path)).ok()).map(|glob| glob.compile_matcher());
        let supervised = supervised::has_a_main(config.target_for(&service.service).restart.as_ref());
        let says_anything =
            !by.ports.is_empty() || cgroup.is_some() || by.process.is_some() || pid_file.is_some() || supervised;
        let service = service.service.clone();
        let (ports, process) = (by.ports, by.process);
        says_anything.then_some(ServiceMatch { service, ports, cgroup, process, pid_file, supervised })
    };
    config.host.services.values().filter_map(found).collect()
}
