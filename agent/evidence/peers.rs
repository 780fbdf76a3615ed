//! Who closed on the service: its CLOSE_WAIT sockets by peer, the largest first.
//!
//! In CLOSE_WAIT it was the peer that sent the FIN. Of an outbound socket the peer is an address and port, which a
//! registry may know by name. Of an inbound one the remote port is ephemeral and says nothing: the peer is the remote
//! host, seen from the local port that it had called.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Holder;
use crate::model::census::Owned;
use crate::model::{Direction, duration};

/// Peers that are listed one by one; the rest is counted.
const LISTED: usize = 1_000;

/// Names that one remote host may be given: several services may be registered at one address.
const NAMES: usize = 8;

/// One peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub direction: Direction,
    /// `ip:port` for an outbound peer, the bare address for an inbound one.
    pub peer: String,
    /// The service's port that an inbound peer had called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u16>,
    /// What the registry calls that address; for an inbound peer, everything that is registered at that host.
    pub names: Vec<String>,
    pub count: usize,
    /// Of those, how many have data besides the FIN unread.
    pub unread: usize,
    /// For how long the oldest has been stuck, and since when that is; absent: not known.
    pub oldest_seconds: Option<u64>,
    /// It may be for longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oldest_is_at_least: bool,
    pub since: Option<Timestamp>,
}

/// All peers of a service, ranked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    pub sockets: usize,
    /// By count, then by age, the largest first.
    pub peers: Vec<Peer>,
    /// Peers that are not listed, and their sockets.
    pub not_listed: usize,
    pub not_listed_sockets: usize,
}

/// Ranks the peers of `sockets`, as seen at `at`.
pub fn rank(sockets: &[Owned], names: &HashMap<SocketAddr, String>, at: Timestamp) -> Peers {
    // A socket that listens for both families shows an IPv4 peer as ::ffff:a.b.c.d: the same host.
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let mut by_address: HashMap<SocketAddr, &str> = HashMap::new();
    let mut by_host: HashMap<IpAddr, BTreeSet<&str>> = HashMap::new();
    for (address, name) in names {
        let address = canonical(*address);
        by_address.insert(address, name);
        by_host.entry(address.ip()).or_default().insert(name);
    }

    #[derive(Default)]
    struct Group {
        count: usize,
        unread: usize,
        oldest: Option<Duration>,
        at_least: bool,
    }
    type Key = (Direction, SocketAddr, Option<u16>);
    let mut groups: BTreeMap<Key, Group> = BTreeMap::new();
    for Owned { socket, direction, .. } in sockets {
        let remote = canonical(socket.remote);
        let key = match direction {
            Direction::Outbound => (*direction, remote, None),
            Direction::Inbound => (*direction, SocketAddr::new(remote.ip(), 0), Some(socket.local.port())),
        };
        let group = groups.entry(key).or_default();
        group.count += 1;
        group.unread += usize::from(socket.recv_q > 1);
        group.oldest = group.oldest.max(socket.age);
        group.at_least |= socket.at_least;
    }

    let mut ranked: Vec<(Key, Group)> = groups.into_iter().collect();
    ranked.sort_by(|(a_key, a), (b_key, b)| (b.count, b.oldest, a_key).cmp(&(a.count, a.oldest, b_key)));
    let rest = ranked.split_off(ranked.len().min(LISTED));
    let peers = ranked.into_iter().map(|((direction, remote, local_port), group)| Peer {
        direction,
        peer: match direction {
            Direction::Outbound => remote.to_string(),
            Direction::Inbound => remote.ip().to_string(),
        },
        local_port,
        names: match direction {
            Direction::Outbound => by_address.get(&remote).map(|name| name.to_string()).into_iter().collect(),
            Direction::Inbound => {
                by_host.get(&remote.ip()).into_iter().flatten().take(NAMES).map(|name| name.to_string()).collect()
            }
        },
        count: group.count,
        unread: group.unread,
        oldest_seconds: group.oldest.map(|oldest| oldest.as_secs()),
        oldest_is_at_least: group.at_least && group.oldest.is_some(),
        since: group.oldest.and_then(|oldest| at.checked_sub(Duration::from_secs(oldest.as_secs())).ok()),
    });
    Peers {
        sockets: sockets.len(),
        peers: peers.collect(),
        not_listed: rest.len(),
        not_listed_sockets: rest.iter().map(|(_, group)| group.count).sum(),
    }
}

impl Peer {
    /// `10.0.0.2:6379 (redis-session)`, or `10.0.0.9 on port 7801 (the host of cron and web)`.
    pub fn says(&self) -> String {
        let mut text = self.peer.clone();
        if let Some(port) = self.local_port {
            text.push_str(&format!(" on port {port}"));
        }
        if !self.names.is_empty() {
            // Of an inbound peer the host alone is known: it need not be any of those.
            let host = if self.direction == Direction::Inbound { "the host of " } else { "" };
            text.push_str(&format!(" ({host}{})", listed(&self.names)));
        }
        text
    }
}

/// `a`, `a and b`, `a, b and c`.
fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [names @ .., last] => format!("{} and {last}", names.join(", ")),
    }
}

/// The lines of `summary.txt` about peers and processes: who closed on the service, how many, since when, and which
/// processes hold most.
pub(super) fn summary(peers: &Peers, holders: &[Holder], holders_in_all: usize) -> String {
    const SHOWN: usize = 10;
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    for (direction, head) in [
        (Direction::Outbound, "Peers that closed on connections which the service had opened:"),
        (Direction::Inbound, "Peers that closed on connections which the service had accepted:"),
    ] {
        let of_direction: Vec<&Peer> = peers.peers.iter().filter(|peer| peer.direction == direction).collect();
        if of_direction.is_empty() {
            continue;
        }
        line(head.into());
        for peer in of_direction.iter().take(SHOWN) {
            let age = match (peer.oldest_seconds, peer.since) {
                (Some(oldest), Some(since)) => format!(
                    ", the oldest for {}{} (since {})",
                    if peer.oldest_is_at_least { ">= " } else { "" },
                    duration::format(Duration::from_secs(oldest)),
                    since.strftime("%Y-%m-%d %H:%M:%S UTC")
                ),
                _ => ", since an unknown time".into(),
            };
            let unread = match peer.unread {
                0 => String::new(),
                unread => format!(", {unread} with data unread"),
            };
            line(format!("  {:>7}  {}{age}{unread}", peer.count, peer.says()));
        }
        if of_direction.len() > SHOWN {
            line(format!("  and {} more peers; see peers.json", of_direction.len() - SHOWN));
        }
        line(String::new());
    }
    line("Processes that hold most of them:".into());
    if holders.is_empty() {
        line("  no holder was found among the processes the agent can read".into());
    }
    for holder in holders.iter().take(SHOWN) {
        let command = match &holder.command {
            Some(command) => command.clone(),
            None => "command line unreadable".into(),
        };
        line(format!("  {:>7}  pid {}  {command}", holder.leaked, holder.pid));
    }
    if holders_in_all > SHOWN.min(holders.len()) {
        line(format!("  and {} more processes", holders_in_all - SHOWN.min(holders.len())));
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::Socket;

    /// A CLOSE_WAIT socket of so many seconds; 0: not known.
    pub(in crate::evidence) fn socket(local: &str, remote: &str, direction: Direction, age: u64) -> Owned {
        Owned {
            namespace: crate::model::NetNs::default(),
            direction,
            socket: Socket {
                cookie: age,
                local: local.parse().unwrap(),
                remote: remote.parse().unwrap(),
                inode: 100 + age,
                uid: 0,
                recv_q: 1,
                send_q: 0,
                age: (age > 0).then(|| Duration::from_secs(age)),
                at_least: false,
                idle: None,
            },
        }
    }

    fn at() -> Timestamp {
        "2026-11-22T18:43:29Z".parse().unwrap()
    }

    fn ranked() -> Peers {
        use Direction::{Inbound, Outbound};
        let mut sockets = vec![
            socket("10.0.0.1:40001", "10.0.0.2:6379", Outbound, 30),
            socket("10.0.0.1:40002", "10.0.0.2:6379", Outbound, 90),
            socket("[::ffff:10.0.0.1]:40003", "[::ffff:10.0.0.2]:6379", Outbound, 0),
            socket("10.0.0.1:40004", "10.0.0.3:6379", Outbound, 0),
            socket("10.0.0.1:7801", "10.0.0.9:51000", Inbound, 5),
            socket("10.0.0.1:7801", "10.0.0.9:51001", Inbound, 7),
            socket("10.0.0.1:7802", "10.0.0.9:51002", Inbound, 7),
        ];
        sockets[4].socket.recv_q = 2;
        let names = [("10.0.0.2:6379", "redis-session"), ("10.0.0.9:9000", "web"), ("10.0.0.9:9001", "cron")]
            .map(|(at, name)| (at.parse().unwrap(), name.to_string()));
        rank(&sockets, &names.into(), at())
    }

    #[test]
    fn peers_are_ranked_by_count_and_named_where_the_registry_knows_them() {
        let peers = ranked();
        let seen: Vec<_> =
            peers.peers.iter().map(|peer| (peer.count, peer.says(), peer.oldest_seconds, peer.unread)).collect();
        assert_eq!(
            seen,
            [
                (3, "10.0.0.2:6379 (redis-session)".to_string(), Some(90), 0),
                (2, "10.0.0.9 on port 7801 (the host of cron and web)".to_string(), Some(7), 1),
                (1, "10.0.0.9 on port 7802 (the host of cron and web)".to_string(), Some(7), 0),
                (1, "10.0.0.3:6379".to_string(), None, 0),
            ]
        );
        assert_eq!(peers.peers[0].since, Some("2026-11-22T18:41:59Z".parse().unwrap()));
        assert_eq!((peers.sockets, peers.not_listed, peers.not_listed_sockets), (7, 0, 0));
    }

    #[test]
    fn peers_beyond_the_bound_are_counted() {
        let sockets: Vec<Owned> = (0..1_500u32)
            .map(|n| {
                let remote = format!("10.{}.{}.{}:80", n >> 16, n >> 8 & 255, n & 255);
                socket("10.9.9.9:1", &remote, Direction::Outbound, 1)
            })
            .collect();
        let peers = rank(&sockets, &HashMap::new(), at());
        assert_eq!((peers.peers.len(), peers.not_listed, peers.not_listed_sockets), (1_000, 500, 500));
    }

    #[test]
    fn the_summary_says_who_how_many_since_when_and_who_holds_them() {
        let holders = [
            Holder { pid: 812, leaked: 5, command: Some("php worker.php".into()) },
            Holder { pid: 813, leaked: 2, command: None },
        ];
        assert_eq!(
            summary(&ranked(), &holders, 4),
            "Peers that closed on connections which the service had opened:\n\
             \x20       3  10.0.0.2:6379 (redis-session), the oldest for 1m30s (since 2026-11-22 18:41:59 UTC)\n\
             \x20       1  10.0.0.3:6379, since an unknown time\n\
             \n\
             Peers that closed on connections which the service had accepted:\n\
             \x20       2  10.0.0.9 on port 7801 (the host of cron and web), the oldest for 7s (since 2026-11-22 18:43:22 UTC), 1 with data unread\n\
             \x20       1  10.0.0.9 on port 7802 (the host of cron and web), the oldest for 7s (since 2026-11-22 18:43:22 UTC)\n\
             \n\
             Processes that hold most of them:\n\
             \x20       5  pid 812  php worker.php\n\
             \x20       2  pid 813  command line unreadable\n\
             \x20 and 2 more processes\n"
        );
    }
}
