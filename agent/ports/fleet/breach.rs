//! One host's word that its instance of a service is in breach; no I/O.
//!
//! `{"version": 1, "service": …, "host": …, "until": …}`, a text for each host and service, so that hosts that are in
//! breach together do not contend for one. It ends by itself at `until`, the writer's wall clock.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Breach {
    version: u32,
    pub service: String,
    pub host: String,
    pub until: Timestamp,
}

pub(super) fn parse(text: &[u8]) -> Result<Breach, String> {
    let breach: Breach = serde_json::from_slice(text).map_err(|error| format!("the entry is no breach: {error}"))?;
    if breach.version != VERSION {
        return Err(format!(
            "the entry has version {}, and this unwait reads {VERSION}: update unwait on this host",
            breach.version
        ));
    }
    Ok(breach)
}

pub(super) fn write(service: &str, host: &str, until: Timestamp) -> Vec<u8> {
    let breach = Breach { version: VERSION, service: service.into(), host: host.into(), until };
    serde_json::to_vec(&breach).expect("strings and timestamps are JSON")
}
