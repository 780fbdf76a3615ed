//! What one host tells of itself to whoever looks at the fleet. Nothing is decided by it.
//!
//! Hosts of other versions read it: an unknown word of [`HostState`] is shown as that, and reasons are words.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One host, as its agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Of unwait.
    pub version: String,
    pub state: HostState,
    /// At most [`MOST_ROWS`], as each list.
    pub breaches: Vec<HostBreach>,
    /// What needs a person.
    pub stuck: Vec<StuckService>,
    pub under_way: Vec<IncidentUnderWay>,
    /// Rows that did not fit.
    #[serde(default)]
    pub left_out: usize,
}

/// Of each list: a text of some 10 KiB is no burden for the fleet's store.
pub const MOST_ROWS: usize = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// Its policies are followed, each in its mode.
    #[strum(serialize = "at work")]
    AtWork,
    #[strum(serialize = "paused")]
    Paused,
    /// The state directory cannot be written.
    #[strum(serialize = "only observes")]
    ObserveOnly,
    /// The last look at the sockets failed.
    #[strum(serialize = "sees no sockets")]
    NotMeasuring,
    /// A word of another version.
    #[serde(other)]
    #[strum(serialize = "in a state of another version")]
    Other,
}

/// A policy's condition holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostBreach {
    pub service: String,
    pub policy: String,
    /// To the minute, by the host's wall clock.
    pub since: Timestamp,
    /// The reason, in one word, for which nothing is done about it; `None` where something is, or will be.
    pub held: Option<String>,
}

/// Locked until a person has looked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckService {
    pub service: String,
    pub since: Timestamp,
    pub reason: String,
    /// Clients do not find it, because of a drain of ours.
    pub out_of_traffic: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentUnderWay {
    pub service: String,
    pub step: String,
    pub dry_run: bool,
}
