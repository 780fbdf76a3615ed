//! The fleet's slots: who holds which.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What `unwait slot` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsShown {
    pub slots: Vec<HeldSlot>,
    pub unreadable: Vec<UnreadableSlots>,
}

/// The same, as the agent read it last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetSlots {
    /// `None`: not read yet.
    pub read: Option<Timestamp>,
    /// Why they could not be read then.
    pub unread: Option<String>,
    #[serde(flatten)]
    pub shown: SlotsShown,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldSlot {
    /// The name that hosts contend under.
    pub service: String,
    pub holder: String,
    pub phase: SlotPhase,
    /// Until when it waits, by its holder's clock.
    pub until: Option<Timestamp>,
    /// Its lease has ended: anyone may take its place.
    pub ended: bool,
    pub since: Timestamp,
    pub incident: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum SlotPhase {
    Waiting,
    Changing,
    Drained,
}

/// The slots of a service whose document is not one of ours, or of another version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableSlots {
    pub service: String,
    pub error: String,
}
