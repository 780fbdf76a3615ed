//! Whose socket each one is, and the counts per service, with what stayed unattributed.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::service::ServiceName;
use super::socket::{Direction, Quality, Socket};

/// What one service holds, at the moment of the snapshot.
#[derive(Clone, Debug, Default)]
pub struct ServiceCensus {
    pub sockets: Vec<Owned>,
    /// Where the service listens.
    pub listening: Vec<std::net::SocketAddr>,
    /// Established connections, when they were asked for.
    pub established: Option<u64>,
    /// Open descriptors of the service's processes, where they could be counted.
    pub descriptors: Option<Descriptors>,
}

/// A socket with its direction, as its owner sees it.
#[derive(Clone, Debug)]
pub struct Owned {
    pub socket: Socket,
    pub direction: Direction,
}

/// Descriptor use of a service's processes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Descriptors {
    /// Open descriptors, summed over the service's processes.
    pub used: u64,
    /// Used over the soft limit, of the process nearest to its own limit; 0 to 1.
    pub worst_ratio: f64,
}

/// A socket that no service owns, and why.
#[derive(Clone, Debug)]
pub struct Unattributed {
    pub socket: Socket,
    pub why: NoOwner,
}

/// Who owns a socket, or why nobody is known to.
#[derive(Clone, Debug, PartialEq)]
pub enum Owner {
    Service(ServiceName),
    Nobody(NoOwner),
}

/// Why a socket has no owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, strum::Display, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum NoOwner {
    /// The cgroup is no service (a login session, the root) and no configured service claims the socket.
    NotAService,
    /// The cgroup has been removed since, or cannot be read.
    CgroupGone,
    /// The kernel tells no cgroup, no process that could be looked into holds it, and some could not: another
    /// user's, which CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH would show, or one that /proc does not list here.
    HolderUnseen,
    /// The kernel tells no cgroup, and the search for its holder has not been through all processes yet.
    NotLookedAt,
    /// All processes were looked into and none holds it: it is being passed on, or is the kernel's own.
    NoHolder,
    /// Processes of several services hold it.
    Shared,
    /// The cgroup hierarchies name different services for its holder.
    Contradicted,
}

/// The snapshot, joined with its owners.
#[derive(Clone, Debug)]
pub struct Census {
    pub at: Timestamp,
    /// Since boot.
    pub monotonic: Duration,
    pub services: BTreeMap<ServiceName, ServiceCensus>,
    pub unattributed: Vec<Unattributed>,
    pub quality: Quality,
}

impl Census {
    /// All CLOSE_WAIT sockets of the host, owned or not: what Zabbix's `system close_wait` shows.
    pub fn host_close_wait(&self) -> usize {
        self.services.values().map(|s| s.sockets.len()).sum::<usize>() + self.unattributed.len()
    }
}
