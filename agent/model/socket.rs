//! A snapshot: what the kernel said at one moment, with nothing inferred.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;

/// The address by which sockets are compared and shown: IPv4-mapped IPv6 (`[::ffff:10.0.0.1]:80`) becomes IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Does a listener on `bound` accept connections to `local`? An IPv6 wildcard takes IPv4 as well.
pub fn accepts(bound: SocketAddr, local: SocketAddr) -> bool {
    let (bound, local) = (canonical(bound), canonical(local));
    bound.port() == local.port()
        && (bound.ip() == local.ip() || bound.ip().is_unspecified() && (bound.is_ipv6() || local.is_ipv4()))
}

/// A network namespace: the inode number of its file `/proc/PID/ns/net`, which is its own while it lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetNs(pub u64);

impl std::fmt::Display for NetNs {
    /// As the kernel writes it: `net:[4026531840]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "net:[{}]", self.0)
    }
}

/// One socket in CLOSE_WAIT as a tick keeps it: 12 bytes, since there may be hundreds of thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    /// Inode in sockfs; 0 while the connection waits in the accept queue, where no process has it.
    pub inode: u32,
    age_ms: u32,
    /// Data besides the FIN waits unread.
    pub unread: bool,
    /// Half-closed by the peer while data still leaves: no leak.
    pub sending: bool,
    /// The age is a lower bound.
    pub at_least: bool,
}

impl Brief {
    pub fn new(inode: u32, age: Duration, unread: bool, sending: bool) -> Self {
        Self { inode, age_ms: u32::try_from(age.as_millis()).unwrap_or(u32::MAX), unread, sending, at_least: false }
    }

    /// The same, where its age may be a lower bound.
    pub fn at_least(self, at_least: bool) -> Self {
        Self { at_least, ..self }
    }

    /// For how long it has been stuck, at the snapshot's moment: since the FIN came, or since the service last sent data
    /// after it. Never overstated; to the millisecond, rounded down, and no more than 49 days.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.age_ms.into())
    }
}

/// Sockets in CLOSE_WAIT that have in common what tells whose they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub namespace: NetNs,
    /// `INET_DIAG_CGROUP_ID`: the inode number of the cgroup v2 directory; `None` on kernels before 5.8.
    pub cgroup_id: Option<u64>,
    /// The listener that accepts connections to their local address: its index in the snapshot. Where several do,
    /// one of the same cgroup.
    pub via: Option<usize>,
    /// No listener is there any more that accepted them; one was, or they are as many on one local port as only a listener
    /// gets.
    pub accepted: bool,
    /// Their local port, where it was asked for by number.
    pub port: Option<u16>,
    pub sockets: Vec<Brief>,
}

/// A listening TCP socket.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub namespace: NetNs,
    pub local: SocketAddr,
    pub inode: u64,
    pub cgroup_id: Option<u64>,
}

/// Where a socket points: does the service listen on its local port?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The service accepted it: the local port is one that the service listens on.
    Inbound,
    /// The service opened it.
    Outbound,
}

/// How much a snapshot may be trusted.
#[derive(Clone, Debug, PartialEq)]
pub enum Quality {
    Complete,
    /// Shown, never acted on: the dump was interrupted, cut, or carried an error.
    Partial {
        why: String,
    },
}

/// The kernel's TCP table at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub at: Timestamp,
    /// Since boot, for ages and windows; never steps.
    pub monotonic: Duration,
    /// Our own network namespace: the one in which configured ports are meant.
    pub own: NetNs,
    pub groups: Vec<Group>,
    pub listeners: Vec<Listener>,
    /// Established sockets counted by cgroup id, when they were asked for.
    pub established: Option<std::collections::BTreeMap<u64, u64>>,
    /// Network namespaces whose own counters say that nothing in them can matter, and which were not walked; with the
    /// most sockets in CLOSE_WAIT that they may hold together.
    pub passed_over: PassedOver,
    pub quality: Quality,
    /// `sock_diag`, or `procfs` where netlink is not to be had.
    pub source: &'static str,
    /// The parts of the host that could not be seen.
    pub blind_spots: Vec<BlindSpot>,
}

/// Something that a look could not see, for want of a right or of a facility of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlindSpot {
    /// So many network namespaces may not be entered: their sockets are read from /proc, which tells neither cgroups
    /// nor ages.
    NotEntered(usize),
    /// So many network namespaces may not be entered, and no process is known by which /proc would show them.
    NotRead(usize),
    /// The network namespaces of so many processes may not be known.
    HiddenProcesses(u64),
    /// So many directories or mounts of network namespaces may not be read.
    HiddenMounts(usize),
    /// The kernel's socket diagnostics are not to be had: /proc tells neither cgroups nor ages.
    NoDiagnostics,
    /// So many network namespaces hold sockets of Multipath TCP, as the kernel counts them, which it does not show.
    NoMptcp(usize),
    /// The descriptors of so many services could not be copied, so that what they never closed is not known.
    ClosedDescriptors(usize),
}

impl std::fmt::Display for BlindSpot {
    /// The part that is not visible, and the capability or module that would show it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotEntered(count) => write!(
                f,
                "network namespaces that cannot be entered: {count}; their sockets' ages count from when unwait first \
                 saw them, and their services are known only where /proc/PID/fd can be read (grant CAP_SYS_ADMIN)"
            ),
            Self::NotRead(count) => write!(
                f,
                "network namespaces that can be neither entered nor read: {count}; their sockets are not counted \
                 (grant CAP_SYS_ADMIN)"
            ),
            Self::HiddenProcesses(count) => write!(
                f,
                "processes whose network namespace cannot be read: {count}; sockets inside containers are not counted \
                 (grant CAP_SYS_PTRACE and CAP_SYS_ADMIN)"
            ),
            Self::HiddenMounts(count) => write!(
                f,
                "mounts of network namespaces that cannot be read: {count}; their sockets are not counted (grant \
                 CAP_DAC_READ_SEARCH and CAP_SYS_ADMIN)"
            ),
            Self::NoDiagnostics => f.write_str(
                "the kernel's socket diagnostics are unavailable: owners and ages of sockets are unknown (allow \
                 AF_NETLINK sockets, load tcp_diag and inet_diag)",
            ),
            Self::NoMptcp(count) => write!(
                f,
                "network namespaces whose Multipath TCP sockets cannot be listed: {count}; those in CLOSE_WAIT are not \
                 counted (load mptcp_diag)"
            ),
            Self::ClosedDescriptors(count) => write!(
                f,
                "services whose descriptors cannot be copied: {count}; their `fd.closed` is unknown (grant \
                 CAP_SYS_PTRACE, and allow pidfd_getfd in the sandbox)"
            ),
        }
    }
}

/// Network namespaces that were not walked, because their counters said that it was needless.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassedOver {
    pub namespaces: usize,
    /// Sockets in CLOSE_WAIT that they hold together, at most.
    pub at_most: u64,
}

/// One TCP socket in CLOSE_WAIT with all that is told of it; for the evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Socket {
    /// The kernel's own name for the socket; unique since boot, stable across dumps (`sock_gen_cookie`).
    /// Zero where the source cannot tell (the /proc fallback).
    pub cookie: u64,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub inode: u64,
    pub uid: u32,
    /// Bytes the application has not read; the FIN counts as one, so 1 means "only the FIN is unread".
    pub recv_q: u32,
    /// Bytes the peer has not acknowledged.
    pub send_q: u32,
    /// For how long it has been stuck, as [`Brief::age`]; `None`: not known.
    pub age: Option<Duration>,
    /// The age is a lower bound.
    pub at_least: bool,
    /// For how long no data had come or gone when the peer closed; `None` where that moment is not known.
    pub idle: Option<Duration>,
}

/// One socket, and what its connection is.
#[derive(Clone, Debug, PartialEq)]
pub struct SocketSeen {
    pub socket: Socket,
    /// A client connected to this host.
    pub inbound: bool,
    /// Who holds it: `pid 7 (nginx)`; none that can be seen.
    pub holders: Vec<String>,
}

/// A snapshot in which each socket in CLOSE_WAIT is told in full, with the index of its group.
#[derive(Clone, Debug)]
pub struct Detail {
    pub snapshot: Snapshot,
    pub sockets: Vec<(usize, Socket)>,
}

/// A connection by which data may still come or go.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The kernel's own number for the socket; 0 where it is not told (the /proc fallback).
    pub cookie: u64,
    /// Acknowledged by the peer and received from it, together; 0 where it is not told.
    pub bytes: u64,
    /// The peer has not closed its side.
    pub established: bool,
    /// Bytes the peer has not acknowledged.
    pub send_q: u32,
    /// For how long no data has come or gone; `None` where it is not told (the /proc fallback).
    pub idle: Option<Duration>,
}

/// One row of the host's whole TCP table, of any state; kept as evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRow {
    /// As `ss` spells it: `ESTAB`, `CLOSE-WAIT`, `LISTEN`, …
    pub state: &'static str,
    pub recv_q: u32,
    pub send_q: u32,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub inode: u64,
    pub cookie: u64,
    pub cgroup_id: Option<u64>,
}
