#![doc = include_str!("README.md")]

#[macro_use]
mod spec;

mod already_met;
mod comparison;
mod compile;
mod decode;
pub mod diagnostic;
mod expand;
pub mod host;
mod load;
mod marks;
mod not_built;
pub mod notify;
mod overlaps;
mod place;
mod protected;
mod random_ids;
mod source;
mod words;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use host::{
    EvidenceConfig, FleetConfig, HostConfig, HttpConfig, Login, Match, MinFree, PrometheusConfig, RedisConfig,
    RegistryConfig, ServiceConfig, TlsFiles,
};
pub use load::{load, load_with, unreadable_secrets};
pub use notify::{Destination, To};
pub use protected::protected;

use crate::model::plan::{Binding, Restart};
use crate::model::policy::Selector;
use crate::model::service::ServiceKind;
use crate::model::{HeldMode, Policy, PolicyTest, Runbook, ServiceName, Target};

/// Where the state lies unless `state:` says otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/unwait";

/// Where systemd keeps the credentials of the shipped unit while it runs, readable for root: what `${CREDENTIALS_DIRECTORY}`
/// means to a verb that a person calls (systemd.exec(5), LoadCredential=).
pub const DEFAULT_CREDENTIALS: &str = "/run/credentials/unwait.service";

/// Where supervisord listens unless `restart:` says otherwise, as Debian has it.
pub const DEFAULT_SUPERVISORD: &str = "/run/supervisor.sock";

/// Where `/metrics` is served unless `http:` says otherwise.
pub const DEFAULT_HTTP: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9817));

/// Where Docker listens unless `restart:` says otherwise.
pub const DEFAULT_DOCKER: &str = "/run/docker.sock";

/// Where podman's compatible API listens unless `restart:` says otherwise.
pub const DEFAULT_PODMAN: &str = "/run/podman/podman.sock";

/// A configuration without an error in it: what the rest of the agent sees.
#[derive(Clone, Debug)]
pub struct Config {
    pub host: HostConfig,
    /// In the order of their names, which is the order in which they act.
    pub policies: Vec<Policy>,
    pub runbooks: BTreeMap<String, Runbook>,
    /// By the policy's name; a policy without tests is not in it.
    pub tests: BTreeMap<String, Vec<PolicyTest>>,
}

/// How a policy selects a service: a protected one is selected in full or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// By its whole name.
    InFull,
    /// By a glob or a label.
    ByPattern,
}

impl Config {
    /// What the host's file says of a service; most services it does not mention.
    pub fn service_config(&self, service: &ServiceName) -> Option<&ServiceConfig> {
        self.host.services.get(service)
    }

    /// The service with all that acting on it needs, as far as the configuration knows.
    pub fn target_for(&self, service: &ServiceName) -> Target {
        let configured = self.service_config(service);
        let by_its_kind = || match service.kind() {
            // systemd has no unit of a template's name.
            ServiceKind::Unit if service.is_template() => None,
            ServiceKind::Unit => Some(Restart::Systemd {
                unit: service.as_str().into(),
                with_dependents: configured.is_some_and(|service| service.with_dependents),
            }),
            ServiceKind::Program => Some(Restart::Supervisord {
                program: service.bare().into(),
                socket: PathBuf::from(DEFAULT_SUPERVISORD),
            }),
            // `lxc:NAME` and `machine:NAME` are no containers of Docker's.
            ServiceKind::Container if !service.bare().contains(':') => {
                Some(Restart::Docker { container: service.bare().into(), socket: PathBuf::from(DEFAULT_DOCKER) })
            }
            ServiceKind::Container | ServiceKind::Process => None,
        };
        let restart = configured.and_then(|service| service.restart.clone()).or_else(by_its_kind);
        Target {
            service: service.clone(),
            bindings: configured.map(|service| service.bindings.clone()).unwrap_or_default(),
            health: configured.and_then(|service| service.health.clone()),
            restart,
        }
    }

    /// What the policy's runbook needs and the service does not have, each with what to do. Where this is not
    /// empty, the policy does not act on that service; the agent and its other services are not concerned.
    pub fn lacks(&self, policy: &Policy, target: &Target) -> Vec<String> {
        let mut lacks: Vec<String> = Vec::new();
        for lack in policy.rungs().flat_map(|runbook| self.lacks_for(runbook, target)) {
            if !lacks.contains(&lack) {
                lacks.push(lack);
            }
        }
        lacks
    }

    /// The same for one of the policy's runbooks.
    pub fn lacks_for(&self, runbook: &Runbook, target: &Target) -> Vec<String> {
        let service = &target.service;
        let in_file = |key: &str| format!("add `{key}` to {service} under `services:` in agent.yaml");
        let mut lacks = Vec::new();
        if runbook.drains() && target.bindings.is_empty() {
            lacks.push(format!("drain: no registry is bound; {}", in_file("register: [{ registry: NAME, id: ID }]")));
        }
        let counts =
            |binding: &Binding| self.host.registries.get(&binding.registry).is_some_and(RegistryConfig::counts);
        if runbook.drains() && !target.bindings.is_empty() && !target.bindings.iter().any(counts) {
            lacks.push(
                "min_healthy: none of the service's registries can count its instances: add `count` to a hook, or bind \
                 the service in a registry that can count, in agent.yaml"
                    .into(),
            );
        }
        if runbook.checks_health() && target.health.is_none() {
            lacks.push(format!(
                "health_check: the service declares no health check; {}",
                in_file("health: { tcp: ADDRESS:PORT }")
            ));
        }
        let main_process = match &target.restart {
            None if runbook.reloads() => Some(("reload", "the service has no reload")),
            None if runbook.recycles_workers() => {
                Some(("recycle_workers", "the main process of the service is unknown"))
            }
            Some(Restart::Docker { .. }) if runbook.recycles_workers() => {
                Some(("recycle_workers", "Docker does not report a container's main process by its pid on this host"))
            }
            _ => None,
        };
        if let Some((step, why)) = main_process {
            lacks.push(format!("{step}: {why}"));
        }
        if runbook.restarts() && target.restart.is_none() {
            lacks.push(match service.kind() {
                ServiceKind::Unit if service.is_template() => per_connection(service),
                ServiceKind::Container => {
                    format!(
                        "restart: {service} belongs to another runtime than Docker or podman, and unwait restarts only \
                         these"
                    )
                }
                ServiceKind::Process | ServiceKind::Program | ServiceKind::Unit => {
                    let keys = "restart: { process: { argv: [PROGRAM], pid_file: PATH } }";
                    format!("restart: the service declares no restart; {}", in_file(keys))
                }
            });
        }
        lacks
    }

    /// How long the service is left to settle after anybody's restart.
    pub fn grace(&self, service: &ServiceName) -> std::time::Duration {
        self.service_config(service).and_then(|service| service.grace).unwrap_or(self.host.restart_grace)
    }

    /// How long this host waits at the most after a breach of the policy. Where hosts share a fleet it is two intervals,
    /// so that those that breach at one tick do not all act at the next; a host alone is in step with nobody.
    pub fn jitter(&self, policy: &Policy) -> std::time::Duration {
        let derived = if self.host.fleet.is_some() { 2 * self.host.interval } else { std::time::Duration::ZERO };
        policy.limits.jitter.unwrap_or(derived)
    }

    /// The service that the host's file binds to this instance of a registry.
    pub fn service_bound_to(&self, registry: &str, id: &str) -> Option<ServiceName> {
        let bound = |service: &&ServiceConfig| {
            service.bindings.iter().any(|binding| binding.registry == registry && binding.id == id)
        };
        self.host.services.values().find(bound).map(|service| service.service.clone())
    }

    /// Labels by which a policy selects, and which no service of this host carries: a slip, or meant for other hosts.
    pub fn labels_of_none(&self, policy: &Policy) -> Vec<String> {
        let carried = |key: &str, value: &str| {
            self.host.services.values().any(|service| service.labels.get(key).is_some_and(|carried| carried == value))
        };
        let of_none = |selector: &Selector| match selector {
            Selector::Label { key, value } if !carried(key, value) => Some(format!("{key}: {value}")),
            _ => None,
        };
        policy.services.iter().filter_map(of_none).collect()
    }

    /// The policies that ask for more than the host's file allows.
    pub fn held_modes(&self) -> impl Iterator<Item = (&str, &HeldMode)> {
        self.policies.iter().filter_map(|policy| Some((policy.name.as_str(), policy.held_mode.as_ref()?)))
    }

    /// The policies that select the service, in their order.
    pub fn selecting(&self, service: &ServiceName) -> Vec<&Policy> {
        self.policies.iter().filter(|policy| self.selects(policy, service).is_some()).collect()
    }

    /// The policy of this name; without a name, the first that selects the service.
    ///
    /// # Errors
    /// In words, where none of that name selects it.
    pub fn choose(&self, service: &ServiceName, policy: Option<&str>) -> Result<&Policy, String> {
        let selecting = self.selecting(service);
        let found = match policy {
            None => selecting.first(),
            Some(name) => selecting.iter().find(|policy| policy.name == name),
        };
        match (found, policy) {
            (Some(found), _) => Ok(found),
            (None, Some(name)) if !selecting.is_empty() => {
                let names: Vec<&str> = selecting.iter().map(|policy| policy.name.as_str()).collect();
                Err(format!("no policy `{name}` selects {service}; these do: {}", names.join(", ")))
            }
            (None, _) => Err(format!("no policy selects {service}")),
        }
    }

    /// Does the policy speak of the service, and how? A label is looked for among the service's own, not the host's.
    pub fn selects(&self, policy: &Policy, service: &ServiceName) -> Option<Selected> {
        let labels = self.service_config(service).map(|service| &service.labels);
        let found: Vec<&Selector> = policy.services.iter().filter(|one| one.selects(service, labels)).collect();
        match found.iter().any(|selector| matches!(selector, Selector::Name(_))) {
            true => Some(Selected::InFull),
            false => (!found.is_empty()).then_some(Selected::ByPattern),
        }
    }
}

/// Why the instances of a socket with `Accept=yes` are not restarted, and what ends them.
fn per_connection(template: &ServiceName) -> String {
    let stem = template.as_str().trim_end_matches("@.service");
    format!(
        "restart: {template} runs one process per connection (`Accept=yes`), and a restarted instance gets its old \
         connection back; free its sockets by `systemctl stop '{stem}@*.service'`, while {stem}.socket accepts new \
         connections"
    )
}

#[cfg(test)]
mod tests;
