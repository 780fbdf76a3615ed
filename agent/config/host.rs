//! The host's file, checked and compiled. Made by `compile`, read by the wiring and the stages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Diagnostic;
use super::notify::Destination;
use crate::model::plan::{Binding, Health, Restart};
use crate::model::service::ServiceName;
use crate::model::words::Language;
use crate::model::{
    ConsulScope, EtcdLayout, ExecHook, HttpHook, ModeCeiling, NacosLayout, RedisAt, RedisLayout, RedisServers, Tls,
};

/// `agent.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub struct HostConfig {
    /// From tick to tick. Default 15s, from 1s to 10m.
    pub interval: Duration,
    /// The share of one core that looking may cost; above it the interval is lengthened. Default 0.005 (0.5%), from
    /// 0.0001 to 1.
    pub cpu_budget: f64,
    /// Told with every message.
    pub labels: BTreeMap<String, String>,
    /// By the name that `register` uses: the kind, or a hook's own.
    pub registries: BTreeMap<String, RegistryConfig>,
    pub services: BTreeMap<ServiceName, ServiceConfig>,
    /// Where hosts agree on slots.
    pub fleet: Option<FleetConfig>,
    pub notify: Vec<Destination>,
    pub evidence: EvidenceConfig,
    /// How long the agent only watches after its start. Default: two intervals, at most 1h.
    pub warm_up: Duration,
    /// A service that was restarted by anyone less than this ago is left alone. Default 5m, at most 1d.
    pub restart_grace: Duration,
    /// Sagas at once on this host. Default 1, at most 16.
    pub max_parallel: u32,
    /// The furthest that any policy of this host may go. Default: as far as each says.
    pub mode_at_most: Option<ModeCeiling>,
    /// Where the status page and `/metrics` are served; `None`: nowhere.
    pub http: Option<HttpConfig>,
    /// From one reminder of what stays latched to the next. Default 1d, from 10m to 30d.
    pub remind: Duration,
    /// Of the messages. Default: English.
    pub language: Language,
    /// The state directory. Default /var/lib/unwait.
    pub state: PathBuf,
    /// Files that hold a secret, each with the place that names it.
    pub secrets: Vec<(PathBuf, Diagnostic)>,
    /// Each `tls:` that names something.
    pub tls: Vec<TlsFiles>,
}

/// What is served over HTTP, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Default 127.0.0.1:9817.
    pub listen: SocketAddr,
    /// Names and addresses by which browsers may call it besides loopback's and its own address; lower case, without a port.
    pub hosts: Vec<String>,
}

/// What one `tls:` of the host's file names.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsFiles {
    pub tls: Tls,
    /// Where it stands.
    pub at: Diagnostic,
    /// The server takes our certificate for another login where it has a CN.
    pub nameless: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryConfig {
    /// The local Consul agent: a URL without credentials, those are refused; or `unix:///PATH`.
    Consul { url: String, tls: Tls, token_file: Option<PathBuf>, scope: ConsulScope },
    /// Commands; instances are `SERVICE/INSTANCE`.
    Exec(ExecHook),
    /// A JSON file, for the demo and for tests.
    File { path: PathBuf },
    /// The stats sockets of every balancer, at least one: a path, or `HOST:PORT`. Instances are `BACKEND/SERVER`.
    HaProxy { sockets: Vec<String> },
    /// Files that health checks read; instances are `SERVICE/FILE` below the directory.
    HealthFile { directory: PathBuf, hold_every: Duration },
    /// HTTP requests; instances are `SERVICE/INSTANCE`.
    Http { hook: Box<HttpHook>, tls: Tls, proxy: Option<String>, headers_file: Option<PathBuf> },
    /// Instances are `SERVICE/INSTANCE`.
    Redis { access: RedisConfig, layout: RedisLayout },
    /// Instances are `SERVICE/INSTANCE`.
    Etcd { urls: Vec<String>, tls: Tls, login: Option<Login>, layout: EtcdLayout },
    /// `HOST:PORT`, at least one, and Dubbo's root node; without `tls` in plain text. Instances are `SERVICE/IP:PORT`.
    ZooKeeper { servers: Vec<String>, tls: Option<Tls>, root: String, merge: bool, login: Option<Login> },
    /// Each URL ends where `/v1` or `/v3` begins. Instances are `SERVICE/IP:PORT`.
    Nacos { urls: Vec<String>, tls: Tls, login: Option<Login>, layout: NacosLayout },
    /// Each URL ends where `/apps` begins. Instances are `APP/INSTANCE-ID`.
    Eureka { urls: Vec<String>, tls: Tls, login: Option<Login> },
}

impl RegistryConfig {
    /// Can it count others at all, as `min_healthy` asks?
    pub fn counts(&self) -> bool {
        match self {
            Self::HealthFile { .. } => false,
            Self::Exec(hook) => hook.count.is_some(),
            Self::Http { hook, .. } => hook.count.is_some(),
            _ => true,
        }
    }

    /// Can an instance be named there by its service and address in place of its id? Elsewhere the address is the id, or
    /// nothing tells addresses.
    pub fn finds_by_address(&self) -> bool {
        matches!(self, Self::Consul { .. } | Self::Eureka { .. })
    }

    /// What stands beside its addresses, where it has such.
    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Consul { tls, .. }
            | Self::Etcd { tls, .. }
            | Self::Nacos { tls, .. }
            | Self::Eureka { tls, .. }
            | Self::Http { tls, .. } => Some(tls),
            Self::ZooKeeper { tls, .. } | Self::Redis { access: RedisConfig { tls, .. }, .. } => tls.as_ref(),
            _ => None,
        }
    }

    /// What an instance's id looks like there, where not everything will do.
    pub fn id_form(&self) -> Option<&'static str> {
        match self {
            Self::Consul { .. } | Self::File { .. } => None,
            Self::HaProxy { .. } => Some("BACKEND/SERVER, such as rpc-order/s1"),
            Self::HealthFile { .. } => Some("SERVICE/FILE, such as rpc-order/up"),
            Self::Redis { .. } | Self::Etcd { .. } | Self::Exec(_) | Self::Http { .. } => {
                Some("SERVICE/INSTANCE, such as rpc-order/10.0.0.1:7801")
            }
            Self::ZooKeeper { .. } => Some("SERVICE/IP:PORT, such as com.shop.Order/10.0.0.1:20880"),
            Self::Nacos { .. } => Some("SERVICE/IP:PORT, such as rpc-order/10.0.0.1:7801"),
            Self::Eureka { .. } => Some("APP/INSTANCE-ID, such as rpc-order/bj1-03:rpc-order:7801"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FleetConfig {
    Consul {
        urls: Vec<String>,
        tls: Tls,
        token_file: Option<PathBuf>,
    },
    Etcd {
        urls: Vec<String>,
        tls: Tls,
        login: Option<Login>,
    },
    Redis {
        access: RedisConfig,
        /// The operator has said that slots may be lost with the only copy of them.
        may_lose_slots: bool,
    },
    /// Any server of the FleetLock protocol. Without a group, each service is one. `id` has `{host}`, mostly `{service}`.
    FleetLock {
        url: String,
        tls: Tls,
        group: Option<String>,
        id: String,
    },
}

impl FleetConfig {
    /// The name that hosts contend under for a service that is registered as `name`. Services that a host would hold under
    /// the same lock contend under the same name: the lock is one, and is given back once.
    pub fn scope(&self, name: String) -> String {
        match self {
            Self::FleetLock { group, id, .. } if !id.contains("{service}") => {
                let other = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-');
                group.clone().unwrap_or_else(|| name.replace(other, "-"))
            }
            _ => name,
        }
    }

    /// What stands beside its addresses.
    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Consul { tls, .. } | Self::Etcd { tls, .. } | Self::FleetLock { tls, .. } => Some(tls),
            Self::Redis { access, .. } => access.tls.as_ref(),
        }
    }

    /// Does nothing name a second copy of the slots: one Redis, which may be lost with all that it holds? The operator has not
    /// said that they may be.
    pub fn may_lose_slots_unsaid(&self) -> bool {
        match self {
            Self::Redis { access, may_lose_slots } => matches!(access.servers.at, RedisAt::One(_)) && !may_lose_slots,
            _ => false,
        }
    }

    /// Can hosts tell each other through it that they are in breach? What `common_cause` needs.
    pub fn shares_breaches(&self) -> bool {
        match self {
            Self::Consul { .. } | Self::Etcd { .. } | Self::Redis { .. } => true,
            Self::FleetLock { .. } => false,
        }
    }
}

/// A Redis, and whom it and its sentinels know this host as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisConfig {
    pub servers: RedisServers,
    pub login: Option<Login>,
    /// `None`: in plain text.
    pub tls: Option<Tls>,
    pub sentinel_login: Option<Login>,
    pub sentinel_tls: Option<Tls>,
}

impl RedisConfig {
    /// In place of one that the host's file does not name, which is an error there.
    pub fn nowhere() -> Self {
        Self::at(RedisServers { at: RedisAt::Cluster { nodes: Vec::new() }, database: 0 })
    }

    /// In plain text, and without a login.
    pub fn at(servers: RedisServers) -> Self {
        Self { servers, login: None, tls: None, sentinel_login: None, sentinel_tls: None }
    }
}

/// Whom a store knows this host as. The name may be empty for Redis: its default user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub user: String,
    pub password_file: PathBuf,
}

/// What the host's file says of one service; everything else is discovered.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceConfig {
    pub service: ServiceName,
    /// What policies select by `{label: value}`.
    pub labels: BTreeMap<String, String>,
    pub bindings: Vec<Binding>,
    pub health: Option<Health>,
    pub found_by: Option<Match>,
    /// `None` where it is restarted as its kind is, or not at all.
    pub restart: Option<Restart>,
    /// Restart although other units are taken along.
    pub with_dependents: bool,
    /// In place of `restart_grace`.
    pub grace: Option<Duration>,
}

/// How a service is found that neither systemd nor a container runtime names. Any of them suffices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The process that listens on one of these TCP ports.
    pub ports: Vec<u16>,
    /// A cgroup and what is below it, as in /proc/PID/cgroup: `/system.slice/gate.slice`.
    pub cgroup: Option<String>,
    /// With a slash the executable (/proc/PID/exe); without, the name (/proc/PID/comm: 15 characters at most).
    pub process: Option<String>,
    /// The process whose pid the file holds, and its children.
    pub pid_file: Option<PathBuf>,
}

/// What is kept of the evidence, and what it must leave free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvidenceConfig {
    /// Bundles. Default 50.
    pub keep: u32,
    /// Of all bundles together. Default 2GiB.
    pub max_bytes: u64,
    /// No evidence is written that would leave less. Default 5%.
    pub min_free: MinFree,
    /// Default 30d.
    pub max_age: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MinFree {
    /// Of the file system of the state directory, 0 to 1.
    Share(f64),
    Bytes(u64),
}
