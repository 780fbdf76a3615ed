//! `holders.json`: how many leaked sockets each process holds, of all processes, also of those that are not read in full.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Request;

/// Processes that are listed one by one; the rest is counted.
const LISTED: usize = 10_000;

/// Who holds the service's leaked sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    /// The pid, and how many sockets it holds; the biggest first.
    pub processes: Vec<(u32, usize)>,
    /// Processes that are not listed.
    pub not_listed: usize,
    /// Descriptors of the service at TCP sockets that were connected once and that no table lists any more: keepalive or a
    /// reset has ended CLOSE_WAIT, and the program has never closed them. Absent: not known.
    pub closed_descriptors: Option<u64>,
}

impl Holders {
    pub(super) fn of(request: &Request<'_>) -> Self {
        let mut processes = biggest(request.holders);
        let not_listed = processes.len().saturating_sub(LISTED);
        processes.truncate(LISTED);
        Self { processes, not_listed, closed_descriptors: request.closed }
    }
}

/// In the order of what they hold.
pub(super) fn biggest(holders: &BTreeMap<u32, usize>) -> Vec<(u32, usize)> {
    let mut biggest: Vec<(u32, usize)> = holders.iter().map(|(pid, leaked)| (*pid, *leaked)).collect();
    biggest.sort_by_key(|(pid, leaked)| (Reverse(*leaked), *pid));
    biggest
}
