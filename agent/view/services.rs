//! What `unwait top` shows: all services that hold such sockets, by their signals; and one service's sockets.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::sockets::{CountedBy, SocketsRow, SocketsShown};
use crate::model::policy::Operator;
use crate::model::socket::{SocketSeen, canonical};
use crate::model::{Policy, Reading, Readings, Reason, ServiceName, Signal, duration};

/// Sockets that are listed one by one.
pub const MOST_SOCKETS: usize = 500;
/// Services that are listed.
pub const MOST_LISTED: usize = 1_000;
/// Names that one address is given: several services may be registered at one host.
const MOST_NAMES: usize = 3;

/// The services as a look at everything saw them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServicesNow {
    /// `None`: there was no such look yet.
    pub at: Option<Timestamp>,
    pub host: String,
    #[serde(rename = "host.close_wait")]
    pub host_close_wait: Option<u64>,
    /// The lowest limit that a policy sets to that.
    pub host_limit: Option<HostLimit>,
    /// How many policies are in each mode.
    pub modes: BTreeMap<String, usize>,
    /// Sockets without an owner, by the reason.
    pub unattributed: BTreeMap<String, u64>,
    pub services: Vec<ServiceRow>,
    /// Services beyond those that are listed.
    pub left_out: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostLimit {
    pub policy: String,
    pub above: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceRow {
    pub service: ServiceName,
    pub signals: Readings,
    /// Its sockets in CLOSE_WAIT at the last looks, oldest first.
    pub counts: Vec<u64>,
    /// From the first of these looks to the last.
    #[serde(with = "duration::as_text")]
    pub over: Duration,
    /// By each policy that selects it, why nothing is being done.
    pub policies: Vec<PolicyStands>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStands {
    pub policy: String,
    /// `None`: it is about to act.
    pub reason: Option<Reason>,
}

/// One service's sockets in CLOSE_WAIT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SocketsOfService {
    pub at: Timestamp,
    pub service: ServiceName,
    /// Oldest first, [`MOST_SOCKETS`] at the most.
    pub sockets: Vec<SocketNow>,
    /// How many there are.
    pub of: usize,
    pub peers: Vec<SocketsRow>,
    pub processes: Vec<SocketsRow>,
    /// What the registries call the peers, where they were asked; by the peer's row.
    pub names: BTreeMap<String, String>,
    /// Why some sockets, or holders, may be missing.
    pub not_seen: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketNow {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub inbound: bool,
    /// `None`: not known.
    #[serde(with = "duration::as_optional_text")]
    pub age: Option<Duration>,
    /// The age is a lower bound.
    pub at_least: bool,
    /// Bytes that the service has not read; the peer's end counts as one.
    pub unread: u32,
    /// Bytes that the peer has not acknowledged.
    pub unsent: u32,
    pub holders: Vec<String>,
}

impl HostLimit {
    /// The lowest of all policies'.
    pub fn of<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Option<Self> {
        let limits = policies.into_iter().flat_map(|policy| {
            let of_the_host = policy.when.comparisons().into_iter().filter(|compared| {
                compared.signal == Signal::HostCloseWait
                    && matches!(compared.operator, Operator::Above | Operator::AtLeast)
            });
            of_the_host.map(|compared| Self { policy: policy.name.clone(), above: compared.threshold })
        });
        limits.min_by(|a, b| a.above.total_cmp(&b.above))
    }
}

impl ServicesNow {
    /// First those with the most sockets; what is beyond the bound is counted.
    pub fn list(mut self, mut services: Vec<ServiceRow>) -> Self {
        let count = |service: &ServiceRow| service.known(Signal::CloseWait).unwrap_or_default();
        services.sort_by(|a, b| count(b).total_cmp(&count(a)).then_with(|| a.service.cmp(&b.service)));
        self.left_out = services.len().saturating_sub(MOST_LISTED);
        services.truncate(MOST_LISTED);
        Self { services, ..self }
    }
}

impl ServiceRow {
    /// `ticks`: the last looks, oldest first. `None` where it neither holds such sockets nor did.
    pub fn of(service: &ServiceName, signals: &Readings, ticks: &[(Timestamp, Readings)]) -> Option<Self> {
        let leaks = |signal| matches!(signals.get(signal), Reading::Known(count) if count > 0.0);
        if ticks.is_empty() && !leaks(Signal::CloseWait) && !leaks(Signal::FdClosed) {
            return None;
        }
        let counted: Vec<(Timestamp, u64)> = ticks
            .iter()
            .filter_map(|(at, readings)| match readings.get(Signal::CloseWait) {
                Reading::Known(count) => Some((*at, count as u64)),
                Reading::Unknown => None,
            })
            .collect();
        let over = counted.first().zip(counted.last()).map(|((from, _), (to, _))| to.duration_since(*from));
        Some(Self {
            service: service.clone(),
            signals: signals.clone(),
            counts: counted.into_iter().map(|(_, count)| count).collect(),
            over: over.and_then(|over| Duration::try_from(over).ok()).unwrap_or_default(),
            policies: Vec::new(),
        })
    }

    pub fn known(&self, signal: Signal) -> Option<f64> {
        match self.signals.get(signal) {
            Reading::Known(value) => Some(value),
            Reading::Unknown => None,
        }
    }
}

impl SocketsOfService {
    /// `names`: what registries call addresses, where they were asked.
    pub fn of(
        at: Timestamp,
        service: ServiceName,
        mut seen: Vec<SocketSeen>,
        names: &HashMap<SocketAddr, String>,
        not_seen: Vec<String>,
    ) -> Self {
        let rows = |by| SocketsShown::count(at, by, &seen, |uid| uid.to_string(), Vec::new()).rows;
        let (mut peers, mut processes) = (rows(CountedBy::Peer), rows(CountedBy::Process));
        let names = seen.iter().filter_map(|one| Some((one.peer(), named(one, names)?))).collect();
        let of = seen.len();
        seen.sort_by_key(|one| std::cmp::Reverse(one.socket.age));
        for rows in [&mut peers, &mut processes] {
            rows.truncate(MOST_SOCKETS);
        }
        let now = |SocketSeen { socket, inbound, holders }| SocketNow {
            local: canonical(socket.local),
            peer: canonical(socket.remote),
            inbound,
            age: socket.age.map(|age| Duration::from_secs(age.as_secs())),
            at_least: socket.at_least,
            unread: socket.recv_q,
            unsent: socket.send_q,
            holders,
        };
        let sockets = seen.into_iter().take(MOST_SOCKETS).map(now).collect();
        Self { at, service, sockets, of, peers, processes, names, not_seen }
    }
}

/// Of a server its own name; of a client its host alone is known, and everything that is registered there.
fn named(one: &SocketSeen, names: &HashMap<SocketAddr, String>) -> Option<String> {
    let peer = canonical(one.socket.remote);
    let is_it = |address: &SocketAddr| match one.inbound {
        true => address.ip().to_canonical() == peer.ip(),
        false => canonical(*address) == peer,
    };
    let mut found: Vec<&str> =
        names.iter().filter(|(address, _)| is_it(address)).map(|(_, name)| name.as_str()).collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(MOST_NAMES);
    let host = if one.inbound { "the host of " } else { "" };
    (!found.is_empty()).then(|| format!("{host}{}", found.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::socket::Socket;

    fn seen(remote: &str, inbound: bool, age: u64) -> SocketSeen {
        let socket = Socket {
            cookie: 1,
            local: "10.0.0.1:7801".parse().unwrap(),
            remote: remote.parse().unwrap(),
            inode: 7,
            uid: 0,
            recv_q: 1,
            send_q: 0,
            age: Some(Duration::from_millis(age * 1_000 + 7)),
            at_least: inbound,
            idle: None,
        };
        SocketSeen { socket, inbound, holders: vec!["pid 7 (rpc)".into()] }
    }

    #[test]
    fn sockets_of_a_service_are_listed_oldest_first_and_peers_named_by_the_registry() {
        let names = [("10.0.0.9:6379", "redis-session"), ("10.0.0.5:80", "web"), ("10.0.0.5:81", "cron")];
        let names = names.map(|(address, name)| (address.parse().unwrap(), name.to_owned())).into();
        let all = vec![seen("[::ffff:10.0.0.9]:6379", false, 60), seen("10.0.0.5:51000", true, 300)];
        let service = ServiceName::parse("rpc.service").unwrap();
        let shown = SocketsOfService::of(Timestamp::UNIX_EPOCH, service, all, &names, Vec::new());
        let sockets: Vec<String> =
            shown.sockets.iter().map(|one| format!("{} {:?} {}", one.peer, one.age.unwrap(), one.at_least)).collect();
        assert_eq!(sockets, ["10.0.0.5:51000 300s true", "10.0.0.9:6379 60s false"]);
        let of = |row: &SocketsRow| format!("{} {:?}", row.what, shown.names.get(&row.what));
        assert_eq!(
            shown.peers.iter().map(of).collect::<Vec<_>>(),
            [r#"clients at 10.0.0.5 Some("the host of cron, web")"#, r#"10.0.0.9:6379 Some("redis-session")"#]
        );
        assert_eq!((shown.of, shown.processes[0].sockets), (2, 2));
        let text = serde_json::to_string(&shown).unwrap();
        assert_eq!(serde_json::from_str::<SocketsOfService>(&text).unwrap(), shown);
    }

    #[test]
    fn a_service_that_never_leaked_is_not_listed_and_counts_come_with_their_time() {
        let service = ServiceName::parse("rpc.service").unwrap();
        let of = |count: f64| {
            let mut readings = Readings::default();
            readings.set(Signal::CloseWait, count);
            readings
        };
        assert_eq!(ServiceRow::of(&service, &of(0.0), &[]), None);
        let at = |second| Timestamp::from_second(second).unwrap();
        let ticks = [(at(0), of(3.0)), (at(15), Readings::default()), (at(30), of(5.0))];
        let now = ServiceRow::of(&service, &of(5.0), &ticks).unwrap();
        assert_eq!((now.counts, now.over), (vec![3, 5], Duration::from_secs(30)));
    }
}
