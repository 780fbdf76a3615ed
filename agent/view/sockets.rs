//! The host's sockets in CLOSE_WAIT, counted by what they have in common: `unwait scan --by`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::duration;
use crate::model::socket::{SocketSeen, canonical};

/// What they are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum CountedBy {
    /// Who closed: a server by address and port, clients by their address alone.
    Peer,
    /// Who holds a descriptor; a socket of several processes counts for each.
    Process,
    /// The port that is served, or that of the server at the other end.
    Port,
    /// Whose socket it is.
    User,
}

/// What `unwait scan --by` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SocketsShown {
    pub at: Timestamp,
    pub by: CountedBy,
    pub sockets: usize,
    /// Most sockets first.
    pub rows: Vec<SocketsRow>,
    /// Why some may be missing.
    pub not_seen: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketsRow {
    /// The peer, process, port or user.
    pub what: String,
    pub sockets: usize,
    /// For how long the oldest has been in CLOSE_WAIT, at least; `None` where nothing tells.
    #[serde(with = "duration::as_optional_text")]
    pub oldest: Option<Duration>,
    /// Sockets with bytes besides the peer's end that the program has not read.
    pub unread: usize,
}

/// No process that can be seen holds it.
pub const NO_HOLDER: &str = "no process that can be seen";

impl SocketsShown {
    /// `user`: the name of a uid.
    pub fn count(
        at: Timestamp,
        by: CountedBy,
        seen: &[SocketSeen],
        user: impl Fn(u32) -> String,
        not_seen: Vec<String>,
    ) -> Self {
        let mut counted: BTreeMap<String, SocketsRow> = BTreeMap::new();
        for one in seen {
            for what in one.counts_for(by, &user) {
                let empty = || SocketsRow { what: what.clone(), sockets: 0, oldest: None, unread: 0 };
                let row = counted.entry(what.clone()).or_insert_with(empty);
                row.sockets += 1;
                row.oldest = row.oldest.max(one.socket.age);
                // The peer's end counts as one byte.
                row.unread += usize::from(one.socket.recv_q > 1);
            }
        }
        let mut rows: Vec<SocketsRow> = counted.into_values().collect();
        rows.sort_by(|a, b| b.sockets.cmp(&a.sockets).then(b.oldest.cmp(&a.oldest)).then(a.what.cmp(&b.what)));
        Self { at, by, sockets: seen.len(), rows, not_seen }
    }
}

impl SocketSeen {
    /// Who closed: a server by address and port, clients by their address alone.
    pub fn peer(&self) -> String {
        let peer = canonical(self.socket.remote);
        if self.inbound { format!("clients at {}", peer.ip()) } else { peer.to_string() }
    }

    fn counts_for(&self, by: CountedBy, user: impl Fn(u32) -> String) -> Vec<String> {
        let Self { socket, inbound, holders } = self;
        match by {
            CountedBy::Peer => vec![self.peer()],
            CountedBy::Port if *inbound => vec![format!("served at {}", socket.local.port())],
            CountedBy::Port => vec![format!("to {}", socket.remote.port())],
            CountedBy::User => vec![user(socket.uid)],
            CountedBy::Process if holders.is_empty() => vec![NO_HOLDER.into()],
            CountedBy::Process => holders.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::socket::Socket;

    fn seen(local: &str, remote: &str, inbound: bool, age: u64, holders: &[&str]) -> SocketSeen {
        let socket = Socket {
            cookie: 1,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            inode: 7,
            uid: u32::from(inbound),
            recv_q: age as u32,
            send_q: 0,
            age: Some(Duration::from_secs(age)),
            at_least: false,
            idle: None,
        };
        SocketSeen { socket, inbound, holders: holders.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn sockets_are_counted_by_peer_process_port_and_user_most_first() {
        let all = [
            seen("10.0.0.1:40001", "10.0.0.9:6379", false, 60, &["pid 7 (rpc)"]),
            seen("10.0.0.1:40002", "10.0.0.9:6379", false, 300, &["pid 7 (rpc)", "pid 8 (rpc)"]),
            seen("10.0.0.1:7801", "10.0.0.5:51000", true, 1, &[]),
            seen("10.0.0.1:7801", "10.0.0.5:51001", true, 1, &["pid 8 (rpc)"]),
            seen("10.0.0.1:7801", "10.0.0.6:51000", true, 1, &["pid 8 (rpc)"]),
        ];
        let rows = |by: CountedBy| {
            let shown = SocketsShown::count(Timestamp::UNIX_EPOCH, by, &all, |uid| format!("user {uid}"), Vec::new());
            let text = |row: &SocketsRow| {
                let oldest = row.oldest.map(duration::format).unwrap_or_default();
                format!("{} {} {oldest} {}", row.what, row.sockets, row.unread)
            };
            shown.rows.iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(
            rows(CountedBy::Peer),
            ["10.0.0.9:6379 2 5m 2", "clients at 10.0.0.5 2 1s 0", "clients at 10.0.0.6 1 1s 0"]
        );
        assert_eq!(rows(CountedBy::Port), ["served at 7801 3 1s 0", "to 6379 2 5m 2"]);
        assert_eq!(rows(CountedBy::User), ["user 1 3 1s 0", "user 0 2 5m 2"]);
        assert_eq!(
            rows(CountedBy::Process),
            ["pid 8 (rpc) 3 5m 1", "pid 7 (rpc) 2 5m 2", "no process that can be seen 1 1s 0"]
        );
    }
}
