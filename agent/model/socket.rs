//! A snapshot: what the kernel said at one moment, with nothing inferred.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;

/// The address by which sockets are compared and shown: IPv4-mapped IPv6 (`[::ffff:10.0.0.1]:80`) becomes IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// One TCP socket in CLOSE_WAIT.
#[derive(Clone, Debug, PartialEq)]
pub struct Socket {
    /// The kernel's own name for the socket; unique since boot, stable across dumps (`sock_gen_cookie`).
    /// Zero where the source cannot tell (the /proc fallback).
    pub cookie: u64,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Inode in sockfs; 0 while the connection waits in the accept queue, where no process has it.
    pub inode: u64,
    pub uid: u32,
    /// `INET_DIAG_CGROUP_ID`: the inode number of the cgroup v2 directory; `None` on kernels before 5.8.
    pub cgroup_id: Option<u64>,
    /// Bytes the application has not read; the FIN counts as one, so 1 means "only the FIN is unread".
    pub recv_q: u32,
    /// Bytes the peer has not acknowledged.
    pub send_q: u32,
    /// Time since the last acknowledgement arrived (`tcpi_last_ack_recv`): a lower bound of the time in
    /// CLOSE_WAIT, exact until the application writes or a keepalive is answered. `None`: not told.
    pub last_ack_received: Option<Duration>,
    /// Time since data was last sent (`tcpi_last_data_sent`).
    pub last_data_sent: Option<Duration>,
}

/// A listening TCP socket.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
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

/// What the kernel said at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub at: Timestamp,
    /// Since boot, for ages and windows; never steps.
    pub monotonic: Duration,
    /// How long the collection took.
    pub took: Duration,
    pub close_wait: Vec<Socket>,
    pub listeners: Vec<Listener>,
    /// Established sockets counted by cgroup id, when they were asked for.
    pub established: Option<std::collections::BTreeMap<u64, u64>>,
    pub quality: Quality,
    /// `sock_diag`, or `procfs` where netlink is not to be had.
    pub source: &'static str,
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
