//! The fleet's slots: how many hosts may work on one service at once.
//!
//! A slot is an entry in a document changed by compare-and-swap. While it waits it is a lease that expires; from
//! [`FleetSlots::begin`] on it stays until it is released, however long that takes: a host that ends stuck keeps
//! its slot, so that a bad restart stops at one host.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub mod consul;
mod document;
pub mod dry;

#[cfg(test)]
mod consul_tests;

pub use document::LEASE;

/// One entry of the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The host that holds it.
    pub holder: String,
    /// The incident that it is held for.
    pub incident: String,
    pub since: Timestamp,
    pub phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing is changed yet: anyone may take the place after `until`.
    Waiting { until: Timestamp },
    /// Something is being changed: it stays until it is released.
    Changing,
}

/// How asking for a slot went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    Yes,
    /// Others hold them all, since when.
    No {
        held: Vec<Slot>,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("fleet slots: {detail}")]
pub struct FleetError {
    pub detail: String,
}

#[async_trait]
pub trait FleetSlots: Send + Sync {
    /// Takes, or renews, this host's slot for `service` where at most `slots` hosts may hold one.
    async fn acquire(&self, service: &str, incident: &str, slots: u32) -> Result<Acquired, FleetError>;

    /// From waiting to changing, by compare-and-swap: fails where the slot was lost meanwhile.
    async fn begin(&self, service: &str, incident: &str) -> Result<(), FleetError>;

    /// Gives this incident's slot back; giving back what is not held is harmless.
    async fn release(&self, service: &str, incident: &str) -> Result<(), FleetError>;

    async fn holders(&self, service: &str) -> Result<Vec<Slot>, FleetError>;
}
