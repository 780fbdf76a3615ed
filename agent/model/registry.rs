//! How services stand in registries whose shape the host's file tells.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// An instance by its service and its address, for what registers under another id at each start. A binding has it in place of
/// an id, written `rpc-order at 10.0.0.1:7801`, and the adapter looks up which instance that is each time it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandsAt {
    pub service: String,
    pub address: SocketAddr,
}

impl StandsAt {
    /// `None` for every other id.
    pub fn parse(id: &str) -> Option<Self> {
        let (service, address) = id.rsplit_once(" at ")?;
        Some(Self { service: service.into(), address: address.parse().ok()? })
    }
}

impl fmt::Display for StandsAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.service, self.address)
    }
}

/// Where the instances of a service stand in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisLayout {
    pub profile: RedisProfile,
    /// The key's name, with `{service}` once, and for [`RedisProfile::TtlKey`] `{instance}` once behind it.
    pub key: String,
    /// From one look at a drain to the next: a heartbeat that undoes it is in force for so long at most.
    pub hold_every: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisProfile {
    /// A set of instances a service.
    Set,
    /// A sorted set a service; the score is the time of the last heartbeat, in seconds or in milliseconds.
    SortedSet {
        /// An instance whose heartbeat is older than this is failing.
        stale_after: Duration,
    },
    /// A hash a service, a field an instance.
    Hash,
    /// A key an instance, that ends unless it is written again.
    TtlKey,
    /// Dubbo's: a hash of provider URLs a service, its value the time in milliseconds when it ends; overrides beside it.
    Dubbo,
}

/// The scope of a drain in Consul.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsulScope {
    /// The one service.
    Service,
    /// The whole node, with everything that it has.
    Node,
}

/// A backend by commands. Words such as `{id}` are filled in; [`WORDS`] has them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecHook {
    pub isolate: Vec<String>,
    pub restore: Vec<String>,
    pub observe: Vec<String>,
    pub count: Option<Vec<String>>,
    /// Environment variables, and the files that they name.
    pub files: BTreeMap<String, PathBuf>,
    /// The deadline of each command, and from a change until `observe` shows it.
    pub deadline: Duration,
    /// From one look at a drain to the next.
    pub hold_every: Duration,
}

/// A backend by HTTP requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpHook {
    pub isolate: HttpCall,
    pub restore: HttpCall,
    pub observe: HttpCall,
    /// The statuses by which `observe` says that it knows no such instance.
    pub absent: Vec<u16>,
    /// The statuses by which it says that the instance is drained, whatever else it says.
    pub drained_status: Vec<u16>,
    /// Where in its JSON the state stands, as a JSON pointer (RFC 6901; empty, all of it), and the words for each.
    pub traffic: String,
    pub passing: Vec<String>,
    pub failing: Vec<String>,
    pub drained: Vec<String>,
    pub isolated: Vec<String>,
    /// Where our marker stands, if the backend keeps it.
    pub marker: Option<String>,
    pub count: Option<HttpCount>,
    pub deadline: Duration,
    pub hold_every: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpCall {
    pub method: String,
    pub url: String,
    pub body: Option<String>,
    /// The media type of the body; `None`: JSON.
    pub content_type: Option<String>,
    /// Only where nothing has changed since `observe` was asked: `If-Match` with the ETag of its answer.
    pub if_match: bool,
    /// The statuses that count as done; none given, every 2xx.
    pub expect: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCount {
    pub call: HttpCall,
    /// JSON pointers to a number, or to a list whose items are counted.
    pub healthy: String,
    pub registered: String,
    /// The items of a list that count.
    pub only: Having,
    /// The items among these that are healthy.
    pub only_healthy: Having,
    pub ourselves: Ourselves,
}

/// The words that an item of a list must have, by JSON pointers within the item.
pub type Having = BTreeMap<String, String>;

/// How ourselves are told from the others, and left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ourselves {
    /// By when the count of the healthy counts us too.
    Included(IncludesUs),
    /// The items of the lists that have this.
    Having(Having),
}

/// When a count of the healthy counts ourselves too, so that one is to be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncludesUs {
    Never,
    InTraffic,
    Always,
}

/// The placeholders in a hook's arguments, addresses, bodies and pointers, written between braces.
pub const WORDS: [&str; 6] = ["id", "service", "instance", "marker", "incident", "host"];

/// Where the instances of a service stand in etcd, and where their clients look for an override. Each template has
/// `{service}` once and `{instance}` once behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdLayout {
    /// The instance's own key, under the application's lease.
    pub key: String,
    /// The key that takes the instance out of traffic for as long as it is there.
    pub override_key: String,
    /// The value of the override, with `{marker}` once.
    pub value: String,
}

/// One of Nacos' APIs, by the first part of its paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NacosApi {
    /// Whichever the server takes.
    Auto,
    V1,
    V2,
    V3,
}

/// Which of Nacos' instances are a service's, and by which of its APIs they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NacosLayout {
    pub api: NacosApi,
    /// The id of a namespace; Nacos' own `public` where it is left out.
    pub namespace: Option<String>,
    pub group: String,
    pub cluster: String,
}
