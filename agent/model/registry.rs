//! How services stand in a registry whose shape each framework chooses for itself.

use std::time::Duration;

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

/// Where the instances of a service stand in etcd, and where their clients look for an override. Each template has
/// `{service}` once and `{instance}` once behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdLayout {
    /// The instance's own key, under the application's lease.
    pub key: String,
    /// The key that takes the instance out of traffic for as long as it is there.
    pub override_key: String,
    /// What is put there, with `{marker}` once.
    pub value: String,
}

/// Which of Nacos' instances are a service's, and by which of its APIs they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NacosLayout {
    /// The second open API (`/v2/…`) in place of the first.
    pub v2: bool,
    /// The id of a namespace; Nacos' own `public` where it is left out.
    pub namespace: Option<String>,
    pub group: String,
    pub cluster: String,
}
