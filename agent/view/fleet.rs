//! The fleet at a glance, from what each host has told the fleet's store of itself.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::slots::SlotsShown;
use crate::model::HostStatus;

/// What `unwait fleet` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetShown {
    /// When it was read.
    pub at: Timestamp,
    /// By their names.
    pub hosts: Vec<HostShown>,
    pub unreadable: Vec<UnreadableHost>,
    pub slots: SlotsShown,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostShown {
    pub host: String,
    /// Its last word of itself, by its own clock.
    pub told: Timestamp,
    /// It has told nothing since, although it should have: its agent has ended, or cannot reach the store.
    pub silent: bool,
    pub status: HostStatus,
}

/// A host whose entry is not one of ours, or of another version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableHost {
    pub host: String,
    pub error: String,
}

impl FleetShown {
    /// Is there anything that wants a person? A host that is silent does.
    pub fn wants_a_person(&self) -> bool {
        !self.unreadable.is_empty() || self.hosts.iter().any(|host| host.silent || !host.status.stuck.is_empty())
    }
}
