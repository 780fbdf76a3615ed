//! `agent.yaml` as it is written.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::Items;
use super::address::HostPort;
use super::notify::DestinationSpec;
use super::scalar::{Bytes, Free, OneOrMany, Percentage, Typed};
use crate::model::runbook::StopSignal;
use crate::model::words::Language;
use crate::model::{Mode, ServiceName};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HostSpec {
    pub interval: Option<Typed<Duration>>,
    pub cpu_budget: Option<Typed<Percentage>>,
    pub labels: BTreeMap<String, Typed<String>>,
    pub registries: RegistriesSpec,
    pub services: Items<ServiceSpec>,
    pub fleet: Option<FleetSpec>,
    pub notify: Items<DestinationSpec>,
    pub evidence: EvidenceSpec,
    pub warm_up: Option<Typed<Duration>>,
    pub restart_grace: Option<Typed<Duration>>,
    pub max_parallel: Option<u32>,
    pub mode_at_most: Option<Typed<Mode>>,
    pub http: Option<HttpSpec>,
    pub remind: Option<Typed<Duration>>,
    pub language: Option<Typed<Language>>,
    pub state: Option<Typed<String>>,
}

/// The key is the kind, and the name that `register` uses; hooks are called by names of their own.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct RegistriesSpec {
    pub consul: Option<ConsulRegistrySpec>,
    pub exec: BTreeMap<String, ExecHookSpec>,
    pub file: Option<FileSpec>,
    pub haproxy: Option<HaProxySpec>,
    pub health_file: Option<HealthFileSpec>,
    pub http: BTreeMap<String, HttpHookSpec>,
    pub redis: Option<RedisSpec>,
    pub etcd: Option<EtcdRegistrySpec>,
    pub zookeeper: Option<ZooKeeperSpec>,
    pub nacos: Option<NacosSpec>,
    pub eureka: Option<ClusterSpec>,
}

/// Whom we believe behind an address, and who we are there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct TlsSpec {
    pub ca_file: Option<Typed<String>>,
    pub cert_file: Option<Typed<String>>,
    pub key_file: Option<Typed<String>>,
    pub server_name: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct EtcdRegistrySpec {
    pub url: Option<OneOrMany<String>>,
    pub tls: Option<TlsSpec>,
    pub user: Option<Typed<String>>,
    pub password_file: Option<Typed<String>>,
    pub key: Option<Typed<String>>,
    #[serde(rename = "override")]
    pub override_key: Option<Typed<String>>,
    pub value: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct ZooKeeperSpec {
    pub servers: Items<Typed<HostPort>>,
    pub tls: Option<TlsSpec>,
    pub root: Option<Typed<String>>,
    pub merge: bool,
    pub user: Option<Typed<String>>,
    pub password_file: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct NacosSpec {
    pub url: Option<OneOrMany<String>>,
    pub tls: Option<TlsSpec>,
    pub user: Option<Typed<String>>,
    pub password_file: Option<Typed<String>>,
    pub api: Option<NacosApiSpec>,
    pub namespace: Option<Typed<String>>,
    pub group: Option<Typed<String>>,
    pub cluster: Option<Typed<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NacosApiSpec {
    Auto,
    V1,
    V2,
    V3,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct ConsulSpec {
    pub url: Option<OneOrMany<String>>,
    pub tls: Option<TlsSpec>,
    pub token_file: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct ConsulRegistrySpec {
    pub url: Option<Typed<String>>,
    pub tls: Option<TlsSpec>,
    pub token_file: Option<Typed<String>>,
    pub scope: Option<ConsulScopeSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsulScopeSpec {
    Service,
    Node,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HealthFileSpec {
    pub directory: Option<Typed<String>>,
    pub hold_every: Option<Typed<Duration>>,
}

/// Commands that isolate, restore, look and count.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct ExecHookSpec {
    pub isolate: Items<Typed<String>>,
    pub restore: Items<Typed<String>>,
    pub observe: Items<Typed<String>>,
    pub count: Option<Items<Typed<String>>>,
    pub files: BTreeMap<String, Typed<String>>,
    pub deadline: Option<Typed<Duration>>,
    pub hold_every: Option<Typed<Duration>>,
}

/// The same by HTTP requests.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HttpHookSpec {
    pub isolate: Option<HttpCallSpec>,
    pub restore: Option<HttpCallSpec>,
    pub observe: Option<HttpObserveSpec>,
    pub count: Option<HttpCountSpec>,
    pub headers_file: Option<Typed<String>>,
    pub tls: Option<TlsSpec>,
    pub proxy: Option<Typed<String>>,
    pub deadline: Option<Typed<Duration>>,
    pub hold_every: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HttpCallSpec {
    pub method: Option<Typed<String>>,
    pub url: Option<Typed<String>>,
    pub body: Option<Typed<String>>,
    pub content_type: Option<Typed<String>>,
    pub if_match: bool,
    pub expect: Items<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HttpObserveSpec {
    pub url: Option<Typed<String>>,
    pub absent: Items<u16>,
    pub drained_status: Items<u16>,
    pub traffic: Option<Typed<String>>,
    pub passing: Items<Typed<String>>,
    pub failing: Items<Typed<String>>,
    pub drained: Items<Typed<String>>,
    pub isolated: Items<Typed<String>>,
    pub marker: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HttpCountSpec {
    pub url: Option<Typed<String>>,
    pub healthy: Option<Typed<String>>,
    pub registered: Option<Typed<String>>,
    pub only: BTreeMap<String, Typed<String>>,
    pub only_healthy: BTreeMap<String, Typed<String>>,
    pub ourselves: BTreeMap<String, Typed<String>>,
    pub includes_us: Option<IncludesUsSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncludesUsSpec {
    Never,
    InTraffic,
    Always,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct FileSpec {
    pub path: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HaProxySpec {
    pub sockets: Items<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct RedisSpec {
    pub url: Option<Typed<String>>,
    pub sentinels: Option<Items<Typed<HostPort>>>,
    pub master: Option<Typed<String>>,
    pub sentinel: Option<SentinelSpec>,
    pub nodes: Option<Items<Typed<HostPort>>>,
    pub tls: Option<TlsSpec>,
    pub database: Option<u32>,
    pub user: Option<Typed<String>>,
    pub password_file: Option<Typed<String>>,
    pub profile: Option<RedisProfileSpec>,
    pub key: Option<Typed<String>>,
    pub stale_after: Option<Typed<Duration>>,
    pub hold_every: Option<Typed<Duration>>,
}

/// Whom the sentinels know us as, and we them.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct SentinelSpec {
    pub user: Option<Typed<String>>,
    pub password_file: Option<Typed<String>>,
    pub tls: Option<TlsSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisProfileSpec {
    Set,
    SortedSet,
    Hash,
    TtlKey,
    Dubbo,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct ServiceSpec {
    pub service: Option<Typed<ServiceName>>,
    pub labels: BTreeMap<String, Typed<String>>,
    pub register: Items<RegisterSpec>,
    pub health: Option<HealthSpec>,
    #[serde(rename = "match")]
    pub found_by: Option<MatchSpec>,
    pub restart: Option<RestartSpec>,
    pub with_dependents: bool,
    pub grace: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct RegisterSpec {
    pub registry: Option<Typed<String>>,
    pub id: Option<Typed<String>>,
    pub service: Option<Typed<String>>,
    pub address: Option<Typed<SocketAddr>>,
    pub clients_follow: Option<Typed<Duration>>,
    pub clients_leave: bool,
}

/// One question, and for `http` what TLS needs.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HealthSpec {
    pub tcp: Option<Typed<SocketAddr>>,
    pub http: Option<Typed<String>>,
    pub redis_ping: Option<Typed<SocketAddr>>,
    pub exec: Option<Items<Typed<String>>>,
    pub tls: Option<TlsSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct MatchSpec {
    pub ports: Items<u16>,
    pub cgroup: Option<Typed<String>>,
    pub process: Option<Typed<String>>,
    pub pid_file: Option<Typed<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartSpec {
    Process(ProcessSpec),
    Supervisord(SocketSpec),
    Docker(SocketSpec),
    Podman(SocketSpec),
    Runit(DirectorySpec),
    S6(DirectorySpec),
}

/// A service directory, and how long its process may take to end.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct DirectorySpec {
    pub dir: Option<Typed<String>>,
    pub stop_timeout: Option<Typed<Duration>>,
}

/// A manager of this host, by its unix socket.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct SocketSpec {
    pub socket: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct ProcessSpec {
    pub argv: Items<Typed<String>>,
    pub pid_file: Option<Typed<String>>,
    pub stop_timeout: Option<Typed<Duration>>,
    pub reload_signal: Option<Typed<StopSignal>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FleetSpec {
    Consul(ConsulSpec),
    Etcd(ClusterSpec),
    Redis(Box<RedisFleetSpec>),
    Fleetlock(FleetLockSpec),
}

/// Servers that each answer for all, and know their clients by name and password.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct ClusterSpec {
    pub url: Option<OneOrMany<String>>,
    pub tls: Option<TlsSpec>,
    pub user: Option<Typed<String>>,
    pub password_file: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct RedisFleetSpec {
    pub url: Option<Typed<String>>,
    pub sentinels: Option<Items<Typed<HostPort>>>,
    pub master: Option<Typed<String>>,
    pub sentinel: Option<SentinelSpec>,
    pub nodes: Option<Items<Typed<HostPort>>>,
    pub tls: Option<TlsSpec>,
    pub database: Option<u32>,
    pub user: Option<Typed<String>>,
    pub password_file: Option<Typed<String>>,
    pub may_lose_slots: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct FleetLockSpec {
    pub url: Option<Typed<String>>,
    pub tls: Option<TlsSpec>,
    pub group: Option<Typed<String>>,
    pub id: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct EvidenceSpec {
    pub keep: Option<u32>,
    pub max_bytes: Option<Typed<Bytes>>,
    pub min_free: Option<Typed<Free>>,
    pub max_age: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HttpSpec {
    pub listen: Option<Typed<SocketAddr>>,
    pub hosts: Items<Typed<String>>,
}

as_mapping!(
    HostSpec,
    RegistriesSpec,
    ConsulRegistrySpec,
    ConsulSpec,
    ExecHookSpec,
    HealthFileSpec,
    HttpCallSpec,
    HttpCountSpec,
    HttpHookSpec,
    HttpObserveSpec,
    FileSpec,
    HaProxySpec,
    RedisSpec,
    SentinelSpec,
    RedisFleetSpec,
    EtcdRegistrySpec,
    ZooKeeperSpec,
    NacosSpec,
    ServiceSpec,
    RegisterSpec,
    ClusterSpec,
    MatchSpec,
    ProcessSpec,
    SocketSpec,
    DirectorySpec,
    FleetLockSpec,
    EvidenceSpec,
    HealthSpec,
    HttpSpec,
    TlsSpec,
);
