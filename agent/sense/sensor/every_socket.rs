//! Every socket of the host in CLOSE_WAIT, in full, with who holds it: for a person who looks once. Takes seconds on a busy host.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use jiff::Timestamp;

use super::identity::LOOK_WITHIN;
use super::{CollectError, Sensor};
use crate::model::NetNs;
use crate::model::socket::{Quality, Socket, accepts};

/// What one such look has found.
#[derive(Debug)]
pub struct EverySocket {
    pub at: Timestamp,
    /// Each with whether it was accepted here: somebody listens on its port.
    pub sockets: Vec<(Socket, bool)>,
    /// `pid 7 (nginx)`, and the inodes of the sockets that it holds.
    pub holders: Vec<(String, BTreeSet<u64>)>,
    /// Why some sockets, or some holders, may be missing.
    pub not_seen: Vec<String>,
}

impl Sensor {
    pub fn every_socket(&mut self) -> Result<EverySocket, CollectError> {
        let detail = self.collector.detail(self.clock.as_ref())?;
        let snapshot = detail.snapshot;
        let listening: BTreeSet<(NetNs, SocketAddr)> =
            snapshot.listeners.iter().map(|listener| (listener.namespace, listener.local)).collect();
        let is_accepted = |namespace: NetNs, local: SocketAddr| {
            listening.iter().any(|(at, bound)| *at == namespace && accepts(*bound, local))
        };
        let sockets: Vec<(Socket, bool)> = detail
            .sockets
            .into_iter()
            .map(|(group, socket)| {
                let inbound = is_accepted(snapshot.groups[group].namespace, socket.local);
                (socket, inbound)
            })
            .collect();
        let inodes = sockets.iter().map(|(socket, _)| socket.inode).filter(|inode| *inode != 0).collect();
        let found = self.attributor.everyone().held_by(&inodes, self.clock.as_ref(), LOOK_WITHIN);
        let mut not_seen: Vec<String> = snapshot.blind_spots.iter().map(ToString::to_string).collect();
        if let Quality::Partial { why } = snapshot.quality {
            not_seen.push(format!("some sockets: {why}"));
        }
        not_seen.extend(found.unlisted);
        if found.hidden > 0 {
            not_seen.push(format!("the descriptors of {} processes, which may not be read", found.hidden));
        }
        let named = found.by.into_iter().map(|by| (format!("pid {} ({})", by.pid, by.comm.escape_debug()), by.inodes));
        Ok(EverySocket { at: snapshot.at, sockets, holders: named.collect(), not_seen })
    }
}
