//! The last resort: the TCP tables of /proc, where netlink is not to be had, or not in that namespace.
//!
//! Slower by an order of magnitude, and it tells less: no cookie, no cgroup, no ages, no MPTCP. Needs no privilege,
//! for any namespace that a readable /proc/PID/net shows. Called by the collector alone.

use std::collections::HashSet;
use std::path::Path;

use procfs::net::{TcpNetEntries, TcpNetEntry, TcpState};
use procfs::{FromReadSI, ProcError};

use super::wire::{Entry, Identity};

/// Every TCP socket of one network namespace, whose `net` directory is given: `/proc/net` for the own one.
pub(super) fn walk(net: &Path) -> Result<impl Iterator<Item = Entry> + use<>, ProcError> {
    let table = |name| TcpNetEntries::from_file(net.join(name), procfs::current_system_info()).map(|rows| rows.0);
    let v4 = table("tcp")?;
    let v6 = match table("tcp6") {
        // A kernel without IPv6 has no such file.
        Err(ProcError::NotFound(_)) => Vec::new(),
        other => other?,
    };
    // The file is read in pieces, and a table that changes between two of them shows a socket twice.
    let mut seen = HashSet::new();
    let first = move |entry: &Entry| seen.insert((entry.identity, entry.inode));
    Ok(v4.into_iter().chain(v6).map(|row| entry(&row)).filter(first))
}

fn entry(row: &TcpNetEntry) -> Entry {
    Entry {
        state: state_number(&row.state),
        identity: Identity::without_cookie(row.local_address, row.remote_address),
        recv_q: row.rx_queue,
        send_q: row.tx_queue,
        uid: row.uid,
        // The file prints the same 32-bit number that sock_diag carries (sock_i_ino).
        inode: u32::try_from(row.inode).unwrap_or(0),
        cgroup_id: None,
        last_ack_received: None,
        last_data_sent: None,
        last_data_received: None,
        keepalive: false,
        bytes: 0,
    }
}

/// The kernel's number of a state. Requests under way (NEW_SYN_RECV) are SYN_RECV to sock_diag.
fn state_number(state: &TcpState) -> u8 {
    match state {
        TcpState::Established => 1,
        TcpState::SynSent => 2,
        TcpState::SynRecv | TcpState::NewSynRecv => 3,
        TcpState::FinWait1 => 4,
        TcpState::FinWait2 => 5,
        TcpState::TimeWait => 6,
        TcpState::Close => 7,
        TcpState::CloseWait => 8,
        TcpState::LastAck => 9,
        TcpState::Listen => 10,
        TcpState::Closing => 11,
    }
}
