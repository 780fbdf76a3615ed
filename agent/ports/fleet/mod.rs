//! What the hosts of a fleet agree on: how many of them may work on one service at once, and who of them is in breach.
//!
//! A slot is an entry in a document changed by compare-and-swap. While it waits it is a lease that expires; from
//! [`Fleet::begin`] on it stays until it is released, however long that takes: a host that ends stuck keeps its slot,
//! so that a bad restart stops at one host.
//!
//! # Whose clock
//! Two hosts never rely on each other's clocks to be safe: going from waiting to changing is a compare-and-swap, and of
//! two hosts that both think the place is theirs one loses it. Clocks only decide how long a host that vanished while
//! waiting is waited for. The holder of a waiting slot goes by its own clock, and ends at [`LEASE`]; another host
//! takes the place by its own wall clock, [`SKEW`] later. A host whose clock runs ahead by more than that holds its
//! place longer, one whose clock runs behind may lose it and asks again; neither lets two hosts work.
//!
//! # How long an answer holds
//! An answer is good until a time on this host's boot clock, [`LEASE`] from when it was asked for. No change may begin
//! later (the process may have been stopped meanwhile, and a person may have given the slot away): ask again.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::HostStatus;

mod breach;
pub mod consul;
mod document;
mod documents;
pub mod dry;
pub mod etcd;
#[cfg(any(test, feature = "crash-points"))]
pub mod fake;
pub mod fleetlock;
pub mod redis;
mod shared;
mod told;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod failover_tests;

pub use super::User;
pub use document::{LEASE, SKEW};
pub use told::Told;

/// One entry of the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The host that holds it.
    pub holder: String,
    /// The incident that it is held for.
    pub incident: String,
    /// Since when it is in this phase, by the holder's wall clock.
    pub since: Timestamp,
    pub phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Phase {
    /// Nothing is changed yet. `until` is by the holder's wall clock; others may take the place [`SKEW`] later.
    Waiting { until: Timestamp },
    /// Something is being changed: it stays until it is released.
    Changing,
    /// The same, and every registry has shown the drain: whoever counts there counts it already.
    Drained,
}

impl Phase {
    /// Its holder has begun to change something: nothing but a release ends it.
    pub fn is_begun(&self) -> bool {
        !matches!(self, Self::Waiting { .. })
    }
}

/// How asking for a slot went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It is this host's. `until` is a time of its `Clock::monotonic`: begin no change then or later.
    Yes { until: Duration },
    /// Nobody gets one for now, and why: the store may have forgotten who holds them.
    NotYet(String),
    /// Others hold them all, since when. Empty where the store does not tell who; what it says instead, in its own words.
    No { held: Vec<Slot>, says: Option<String> },
}

/// Why there is no answer; all of them are a deny.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// May pass by itself.
    #[error("fleet: {0}")]
    Unreachable(String),
    /// It has not answered others, and was not asked: nothing was done.
    #[error("fleet: {0}")]
    NotAsked(String),
    /// TLS: one side does not believe the other, and nothing was done. A person must look; it is tried again all the same.
    #[error("fleet: {0}")]
    Distrusted(String),
    /// A person must look: a permission, an address, a document that is not ours.
    #[error("fleet: {0}")]
    Refused(String),
    /// The slot was this host's, and is not any more. Nothing may be changed.
    #[error("fleet: {0}")]
    Lost(String),
    /// This kind of store has no way to do it, now or ever.
    #[error("fleet: {0}")]
    Cannot(&'static str),
}

impl FleetError {
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::NotAsked(_) | Self::Distrusted(_))
    }
}

/// The fleet, seen from one host. `service` is the name that hosts contend under (`Plan::fleet_scope`). Every call ends
/// within [`DEADLINE`]; a write whose answer did not come is read again before anything is said about it.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// Takes, or renews, this host's slot for `service` where at most `slots` hosts may hold one. None where this host
    /// has begun to change something in another incident and holds it for that.
    async fn acquire(&self, service: &str, incident: &str, slots: u32) -> Result<Acquired, FleetError>;

    /// The call that taking a slot would send now, for people: method, address and what is written; no secret. `None` where
    /// none would be sent: it is held already, or nobody gets one. Takes none.
    async fn would_take(&self, service: &str, incident: &str, slots: u32) -> Result<Option<String>, FleetError>;

    /// From waiting to changing; asked just before each change. Says until when (`Clock::monotonic`) the change may
    /// begin; [`FleetError::Lost`] where the slot is not this incident's any more.
    async fn begin(&self, service: &str, incident: &str) -> Result<Duration, FleetError>;

    /// From changing to drained, once every registry has shown the drain. A slot that is not this incident's any more is
    /// left as it is. It only spares others from counting this host twice, so nothing waits for it to succeed.
    async fn drained(&self, _service: &str, _incident: &str) -> Result<(), FleetError> {
        Err(FleetError::Cannot("this store has no phases of slots"))
    }

    /// Gives this incident's slot back; giving back what is not held is harmless.
    async fn release(&self, service: &str, incident: &str) -> Result<(), FleetError>;

    /// Makes the store's word of this host true again, where a failover may have lost some of it: what this host has begun is
    /// written again. To be asked within every [`KEPT_EVERY`]. `needed` are the incidents that run or rest stuck, each with the
    /// service that hosts contend for; says which slots of this host are for none of them, by service. Empty where the store
    /// never forgets.
    async fn keep(&self, needed: &[(String, String)]) -> Result<Vec<(String, Slot)>, FleetError>;

    /// Who holds all the slots, so that `incident` would get none now; empty where it would get one. Takes none.
    async fn blocked_by(&self, service: &str, incident: &str, slots: u32) -> Result<Vec<Slot>, FleetError>;

    /// Gives back, for another host that is gone, what it holds of `service`. Says what that was.
    async fn release_host(&self, service: &str, host: &str) -> Result<Vec<Slot>, FleetError>;

    /// The services of which somebody holds, or has waited for, a slot.
    async fn services(&self) -> Result<Vec<String>, FleetError> {
        Err(FleetError::Cannot("this store does not list slots"))
    }

    /// Every entry for `service`, also those whose lease has ended.
    async fn holders(&self, _service: &str) -> Result<Vec<Slot>, FleetError> {
        Err(FleetError::Cannot("this store does not show the holder of a slot"))
    }

    /// Tells the fleet that this host's instance of `service` is in breach, until then (wall clock) unless it is told
    /// again. A time that is past takes it back.
    async fn publish_breach(&self, _service: &str, _until: Timestamp) -> Result<(), FleetError> {
        Err(FleetError::Cannot("this store shares no breaches"))
    }

    /// The hosts whose instance of `service` is in breach now, this one included; sorted.
    async fn breaches(&self, _service: &str) -> Result<Vec<String>, FleetError> {
        Err(FleetError::Cannot("this store shares no breaches"))
    }

    /// Shows this host's status to whoever looks at the fleet, in place of the one before; it counts as current until then (wall
    /// clock). Nothing is decided by it.
    async fn publish_status(&self, _status: &HostStatus, _until: Timestamp) -> Result<(), FleetError> {
        Err(FleetError::Cannot("this store shows no status of hosts"))
    }

    /// What each host has told of itself, by its name; of one whose entry cannot be read, why. A host that has told nothing for
    /// a month is left out.
    async fn statuses(&self) -> Result<Vec<(String, Result<Told, String>)>, FleetError> {
        Err(FleetError::Cannot("this store shows no status of hosts"))
    }

    /// What the server calls itself, with its version; `None` where it does not say, as those of FleetLock.
    async fn server(&self) -> Result<Option<String>, FleetError> {
        Ok(None)
    }

    /// What this kind of store cannot promise, a sentence each; `unwait check` shows them.
    fn caveats(&self) -> &'static [&'static str] {
        &[]
    }
}

/// Far more often than the time for which nobody takes a slot after a failover ([`YOUNG`]).
pub const KEPT_EVERY: Duration = Duration::from_secs(10);

/// For so long after a store's line of masters was first seen nobody gets a slot: until then each host at work has written its
/// own again ([`Fleet::keep`]), and whoever waited has waited in vain and asks again.
pub const YOUNG: Duration = LEASE.saturating_add(SKEW);

/// Within which every call ends: a few rounds of compare-and-swap, each question of at most 5 s.
pub const DEADLINE: Duration = Duration::from_secs(12);

/// For one question to the store. It stands on the local network, and elects a leader within seconds.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
