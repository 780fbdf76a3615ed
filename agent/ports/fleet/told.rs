//! What a host has told of itself, as it stands in the store; no I/O.
//!
//! `{"version": 1, "host": …, "told": …, "until": …, "status": …}`, a text for each host. The times are the writer's wall clock.
//! Unknown keys are passed over: nothing is decided by it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::documents::Text;
use crate::model::HostStatus;
use crate::model::moment::after;

const VERSION: u32 = 1;

/// One host's word of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    version: u32,
    pub host: String,
    pub told: Timestamp,
    /// It is told again by then.
    pub until: Timestamp,
    pub status: HostStatus,
}

impl Told {
    pub(super) fn new(host: &str, told: Timestamp, until: Timestamp, status: &HostStatus) -> Self {
        Self { version: VERSION, host: host.into(), told, until, status: status.clone() }
    }
}

pub(super) fn parse(text: &[u8]) -> Result<Told, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let of = |error: serde_json::Error| format!("the entry is no host's status: {error}");
    let Versioned { version } = serde_json::from_slice(text).map_err(of)?;
    match version {
        VERSION => serde_json::from_slice(text).map_err(of),
        other => {
            Err(format!("the entry has version {other}, and this unwait reads {VERSION}: update unwait on this host"))
        }
    }
}

/// A host that has told nothing for so long is gone.
const GONE_AFTER: Duration = Duration::from_secs(31 * 86_400);

/// What stands in the store, by host; and one that is gone, with its revision.
#[expect(clippy::type_complexity, reason = "it is what the trait answers, and one besides")]
pub(super) fn listed(
    texts: Vec<(String, Text)>,
    now: Timestamp,
) -> (Vec<(String, Result<Told, String>)>, Option<(String, u64)>) {
    let mut hosts = Vec::new();
    let mut gone = None;
    for (name, read) in texts {
        match parse(&read.text) {
            Ok(told) if after(told.until, GONE_AFTER) < now => gone = Some((name, read.revision)),
            told => hosts.push((name, told)),
        }
    }
    hosts.sort_by(|(one, _), (other, _)| one.cmp(other));
    (hosts, gone)
}

pub(super) fn write(told: &Told) -> Vec<u8> {
    serde_json::to_vec(told).expect("strings, numbers and timestamps are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostState;

    #[test]
    fn what_a_later_version_says_besides_is_passed_over_and_another_layout_is_named() {
        let said = r#"{"version": 1, "host": "a", "told": "2026-11-30T10:00:00Z", "until": "2026-11-30T10:15:00Z", "mood": "good",
            "status": {"version": "2.0.0", "state": "dances", "breaches": [], "stuck": [], "under_way": [], "more": 1}}"#;
        let told = parse(said.as_bytes()).unwrap();
        assert_eq!((told.host.as_str(), told.status.state), ("a", HostState::Other));
        assert_eq!(parse(&write(&told)), Ok(told));
        let later = parse(br#"{"version": 2, "whatever": true}"#).unwrap_err();
        assert!(later.contains("version 2") && later.contains("update unwait"), "{later}");
        assert!(parse(b"?").unwrap_err().starts_with("the entry is no host's status: "));
    }
}
