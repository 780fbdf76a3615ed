#![doc = include_str!("README.md")]

mod bundle;
mod capture;
mod draft;
mod error;
mod holders;
mod lines;
pub mod peers;
mod processes;
pub mod redact;
mod retention;
mod table;
mod vault;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;

pub use bundle::{Bundle, Fault, FileEntry, Manifest, Missing};
pub use error::EvidenceError;
pub use holders::Holders;
pub use lines::SocketLine;
pub use processes::{Facts, Thread};
pub use retention::{Cause, Limits, MinFree, Removed, Room};
pub use vault::Vault;

use crate::model::census::Owned;
use crate::model::{IncidentId, Sample, ServiceName, TableRow};

/// What the other stages know at the moment of the breach. Evidence itself reads /proc, the journal and the
/// output of `commands`, and nothing else.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub incident: &'a IncidentId,
    pub service: &'a ServiceName,
    pub host: &'a str,
    pub at: Timestamp,
    /// Where the look at the sockets was partial, why.
    pub partial: Option<&'a str>,
    /// The service's sockets in CLOSE_WAIT.
    pub sockets: &'a [Owned],
    /// The whole TCP table of the network namespaces that it lives in.
    pub table: &'a [TableRow],
    /// Leaked sockets that each process holds, by pid.
    pub holders: &'a BTreeMap<u32, usize>,
    /// Descriptors of the service at TCP sockets that no table lists any more; `None`: not known.
    pub closed: Option<u64>,
    /// What the registry calls those addresses.
    pub names: &'a HashMap<SocketAddr, String>,
    /// The signals' history, oldest first: the ticks of late, and before them what the store keeps of the last day.
    pub history: &'a [Sample],
    /// The systemd unit whose journal is kept, if it is one.
    pub unit: Option<&'a str>,
    /// The runbook's own commands, as argv.
    pub commands: &'a [Vec<String>],
    /// For all of it, syncing included.
    pub deadline: Duration,
}

impl std::fmt::Debug for Request<'_> {
    /// Without the commands: an argv may hold a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("incident", &self.incident)
            .field("service", &self.service)
            .field("sockets", &self.sockets.len())
            .field("table", &self.table.len())
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// A process in the summary.
struct Holder {
    pid: u32,
    leaked: usize,
    /// Redacted, on one line.
    command: Option<String>,
}
