//! An incident: everything from one breach to its end.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reason::Reason;

/// `20261122T184329Z-rpc-order-1f3a`: sorts by time, is safe in a path and a registry's reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IncidentId(pub String);

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The trigger of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A policy's condition held for its whole `for`.
    Breach,
    /// `unwait act`, by this user.
    Person { who: String },
}

/// The three resting states of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// Every step was carried out. `not_helped` is a reason of this outcome.
    Completed,
    /// Ended before its pivot; every step that had been done was undone.
    Unwound,
    /// Needs a person: latched until `unwait resolve`.
    Stuck,
}

/// How an incident ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    pub outcome: Outcome,
    pub reason: Reason,
    /// A description of the end, free of secrets.
    pub detail: String,
}

/// Our own mark on a registry's record: whose drain it is.
///
/// Written as the reason of the isolation, so that people see it and a later agent finds it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub incident: IncidentId,
    pub host: String,
}

impl Marker {
    const PREFIX: &'static str = "unwait: drained";

    /// Reads a marker back; `None` where it is somebody else's text.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(Self::PREFIX)?.trim_start();
        let mut words = rest.split_ascii_whitespace();
        let incident = words.next()?.strip_prefix("incident=")?;
        let host = words.next()?.strip_prefix("host=")?;
        Some(Self { incident: IncidentId(incident.into()), host: host.into() })
    }
}

/// `unwait: drained incident=… host=…`
impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} incident={} host={}", Self::PREFIX, self.incident, self.host)
    }
}

/// From when until when our drain was in force.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drained {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Drained {
    /// After an event at that time: is it in force?
    pub fn follow(&mut self, holds: bool, at: Timestamp) {
        match (holds, self.since) {
            (true, None) => self.since = Some(at),
            (true, Some(_)) => self.until = None,
            (false, Some(_)) if self.until.is_none() => self.until = Some(at),
            (false, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_back_and_other_peoples_words_are_not() {
        let marker = Marker { incident: IncidentId("20261122T184329Z-rpc-order-1f3a".into()), host: "bj1-03".into() };
        assert_eq!(Marker::parse(&marker.to_string()), Some(marker));
        for other in
            ["", "deploy in progress", "unwait: drained", "unwait: drained incident=x", "unwait incident=a host=b"]
        {
            assert_eq!(Marker::parse(other), None, "{other:?}");
        }
    }
}
