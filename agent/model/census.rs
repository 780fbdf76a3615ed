//! The owner of each socket, the counts per service, and the sockets without an owner.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::service::ServiceName;
use super::socket::{Brief, Direction, NetNs, PassedOver, Quality, Socket};

/// The sockets and descriptors of one service at the moment of the snapshot.
#[derive(Clone, Debug, Default)]
pub struct ServiceCensus {
    pub inbound: Vec<Brief>,
    pub outbound: Vec<Brief>,
    /// Where the service listens.
    pub listening: Vec<(NetNs, SocketAddr)>,
    /// The cgroups and network namespaces of its sockets.
    pub cgroups: BTreeSet<u64>,
    pub namespaces: BTreeSet<NetNs>,
    /// Established connections, when they were asked for.
    pub established: Option<u64>,
    /// Open descriptors of the service's processes, where they could be counted.
    pub descriptors: Option<Descriptors>,
    /// The descriptors of TCP sockets that were connected once and that the kernel's table lists no more, by the last
    /// count.
    pub closed: Option<u64>,
}

impl ServiceCensus {
    /// All of its sockets in CLOSE_WAIT.
    pub fn sockets(&self) -> impl Iterator<Item = &Brief> {
        self.inbound.iter().chain(&self.outbound)
    }

    pub fn close_wait(&self) -> usize {
        self.inbound.len() + self.outbound.len()
    }

    /// True where the service holds sockets in CLOSE_WAIT, or descriptors that it should have closed.
    pub fn leaks(&self) -> bool {
        self.close_wait() > 0 || self.closed.is_some_and(|closed| closed > 0)
    }
}

/// A socket with its direction, as its owner sees it.
#[derive(Clone, Debug)]
pub struct Owned {
    pub namespace: NetNs,
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
    /// When the oldest of these processes began, since boot: the service's incarnation. A restart moves it on.
    pub oldest: Duration,
}

/// The owner of a socket, or the reason why none is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    Service(ServiceName),
    Nobody(NoOwner),
}

/// Why a socket has no owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, strum::Display, strum::IntoStaticStr)]
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
    /// Sockets without an owner, by the reason.
    pub unattributed: BTreeMap<NoOwner, u64>,
    /// The sockets that were made in a cgroup which is no service, by the cgroup's id.
    pub of_no_service: BTreeMap<u64, u64>,
    /// Listening sockets of which it is not known whose they are.
    pub unowned_listeners: usize,
    pub passed_over: PassedOver,
    pub quality: Quality,
}

impl Census {
    /// The sockets in CLOSE_WAIT that were walked, owned or not: all of the host's where nothing was passed over,
    /// which is what Zabbix's `system close_wait` shows.
    pub fn host_close_wait(&self) -> u64 {
        let owned: usize = self.services.values().map(ServiceCensus::close_wait).sum();
        owned as u64 + self.unattributed.values().sum::<u64>()
    }
}

/// Sockets that belong to no service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stray {
    pub sockets: u64,
    #[serde(flatten)]
    pub at: StrayAt,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum StrayAt {
    /// Made in it: `/user.slice/user-1000.slice/session-3.scope`.
    Cgroup { cgroup: String },
    /// Held by it; `comm` is what the kernel calls it.
    Process { pid: u32, comm: String },
}

impl std::fmt::Display for Stray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.at {
            StrayAt::Cgroup { cgroup } => write!(f, "{} in the cgroup {cgroup}", self.sockets),
            // A process may call itself anything, over several lines too.
            StrayAt::Process { pid, comm } => {
                write!(f, "{} held by process {pid} ({})", self.sockets, comm.escape_debug())
            }
        }
    }
}
