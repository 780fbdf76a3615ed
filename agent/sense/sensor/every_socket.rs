//! Sockets in CLOSE_WAIT in full, each with who holds it, for a person who looks: every one of the host, or one service's. Takes
//! seconds on a busy host.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::identity::LOOK_WITHIN;
use super::{CollectError, Sensor, SharedSensor};
use crate::attribute::Everyone;
use crate::clock::Clock;
use crate::model::socket::{Quality, Snapshot, Socket, SocketSeen, accepts};
use crate::model::{Direction, NetNs, ServiceName};

/// What one such look has found.
#[derive(Debug)]
pub struct SocketsFound {
    pub at: Timestamp,
    pub sockets: Vec<SocketSeen>,
    /// Why some sockets, or some holders, may be missing.
    pub not_seen: Vec<String>,
}

/// What the tables say; nobody has looked for the holders yet.
struct InTables {
    at: Timestamp,
    /// Each with whether it was accepted here.
    sockets: Vec<(Socket, bool)>,
    not_seen: Vec<String>,
    everyone: Everyone,
    clock: Arc<dyn Clock>,
}

impl Sensor {
    /// A socket is inbound where somebody listens on its port.
    pub fn every_socket(&mut self) -> Result<SocketsFound, CollectError> {
        let detail = self.collector.detail(self.clock.as_ref())?;
        let snapshot = detail.snapshot;
        let listening: BTreeSet<(NetNs, SocketAddr)> =
            snapshot.listeners.iter().map(|listener| (listener.namespace, listener.local)).collect();
        let is_accepted = |namespace: NetNs, local: SocketAddr| {
            listening.iter().any(|(at, bound)| *at == namespace && accepts(*bound, local))
        };
        let with_direction = |(group, socket): (usize, Socket)| {
            let inbound = is_accepted(snapshot.groups[group].namespace, socket.local);
            (socket, inbound)
        };
        let sockets = detail.sockets.into_iter().map(with_direction).collect();
        let (at, not_seen) = (snapshot.at, not_seen(&snapshot, &snapshot.quality));
        Ok(self.in_tables(at, sockets, not_seen).with_holders())
    }

    /// The service's own.
    fn tables_of(&mut self, service: &ServiceName) -> Result<InTables, CollectError> {
        let detail = self.collector.detail(self.clock.as_ref())?;
        let mut not_seen = not_seen(&detail.snapshot, &Quality::Complete);
        let (census, owned) = self.attributor.owned(detail, service, self.clock.as_ref());
        not_seen.extend(why_partial(&census.quality));
        let sockets = owned.into_iter().map(|owned| (owned.socket, owned.direction == Direction::Inbound)).collect();
        Ok(self.in_tables(census.at, sockets, not_seen))
    }

    fn in_tables(&self, at: Timestamp, sockets: Vec<(Socket, bool)>, not_seen: Vec<String>) -> InTables {
        InTables { at, sockets, not_seen, everyone: self.attributor.everyone(), clock: Arc::clone(&self.clock) }
    }
}

impl SharedSensor {
    /// One service's sockets. The tables are read under the lock; the search for the holders, which may take seconds, is not:
    /// looks go on meanwhile.
    pub fn sockets_of(&self, service: &ServiceName) -> Result<SocketsFound, CollectError> {
        let in_tables = self.lock().tables_of(service)?;
        Ok(in_tables.with_holders())
    }
}

impl InTables {
    fn with_holders(self) -> SocketsFound {
        let Self { at, sockets, mut not_seen, everyone, clock } = self;
        let inodes = sockets.iter().map(|(socket, _)| socket.inode).filter(|inode| *inode != 0).collect();
        let found = everyone.held_by(&inodes, clock.as_ref(), LOOK_WITHIN);
        not_seen.extend(found.unlisted);
        if found.hidden > 0 {
            not_seen.push(format!("the descriptors of {} processes, which may not be read", found.hidden));
        }
        let name = |pid: u32, comm: &str| format!("pid {pid} ({})", comm.escape_debug());
        let holders: Vec<_> = found.by.into_iter().map(|by| (name(by.pid, &by.comm), by.inodes)).collect();
        let seen = |(socket, inbound): (Socket, bool)| {
            let holds = holders.iter().filter(|(_, inodes)| inodes.contains(&socket.inode));
            SocketSeen { holders: holds.map(|(who, _)| who.clone()).collect(), inbound, socket }
        };
        SocketsFound { at, sockets: sockets.into_iter().map(seen).collect(), not_seen }
    }
}

fn not_seen(snapshot: &Snapshot, quality: &Quality) -> Vec<String> {
    snapshot.blind_spots.iter().map(ToString::to_string).chain(why_partial(quality)).collect()
}

fn why_partial(quality: &Quality) -> Option<String> {
    match quality {
        Quality::Complete => None,
        Quality::Partial { why } => Some(format!("some sockets: {why}")),
    }
}
