//! The join, by tables of sockets and of what is known of owners.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::join::*;
use crate::model::census::NoOwner;
use crate::model::socket::{Quality, accepts};
use crate::model::{Brief, Census, Group, Listener, NetNs, Owner, ServiceName, Snapshot};

const RPC: u64 = 10;
const GATE: u64 = 11;
const SESSION: u64 = 12;
const REMOVED: u64 = 13;

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

fn listener(inode: u64, cgroup_id: Option<u64>, local: &str) -> Listener {
    Listener { namespace: NetNs(1), local: local.parse().unwrap(), inode, cgroup_id }
}

/// A socket: inode, cgroup, local address.
type Row<'a> = (u32, Option<u64>, &'a str);

/// A snapshot of these, each in a group of its own, as the collector makes them with port 9001 told apart.
fn snapshot(rows: &[Row], listeners: Vec<Listener>) -> Snapshot {
    let group = |(inode, cgroup_id, local): &Row| {
        let local: SocketAddr = local.parse().unwrap();
        let accepting = || (0..listeners.len()).filter(|at| accepts(listeners[*at].local, local));
        let via = accepting().find(|at| listeners[*at].cgroup_id == *cgroup_id).or(accepting().next());
        let sockets = vec![Brief::new(*inode, Duration::ZERO, false, false)];
        let port = Some(local.port()).filter(|port| *port == 9001);
        Group { namespace: NetNs(1), cgroup_id: *cgroup_id, via, accepted: false, port, sockets }
    };
    Snapshot {
        at: jiff::Timestamp::UNIX_EPOCH,
        monotonic: Default::default(),
        own: NetNs(1),
        groups: rows.iter().map(group).collect(),
        listeners,
        established: None,
        passed_over: Default::default(),
        quality: Quality::Complete,
        source: "sock_diag",
        blind_spots: vec![],
    }
}

/// rpc.service, gate.service and a login session; process:legacy is configured with port 9001.
fn owners() -> Owners {
    let unit = |text| Owner::Service(name(text));
    Owners {
        configured: vec![name("process:legacy")],
        ports: [(9001, name("process:legacy"))].into(),
        cgroups: [
            (RPC, unit("rpc.service")),
            (GATE, unit("gate.service")),
            (SESSION, Owner::Nobody(NoOwner::NotAService)),
            (REMOVED, Owner::Nobody(NoOwner::CgroupGone)),
        ]
        .into(),
        ..Owners::default()
    }
}

/// `rpc.service in`, or the reason why nobody's; with how many.
fn verdicts(census: &Census) -> Vec<(String, u64)> {
    let owned = census.services.iter().flat_map(|(name, service)| {
        let counts = [("in", service.inbound.len()), ("out", service.outbound.len())];
        counts.map(|(word, count)| (format!("{name} {word}"), count as u64))
    });
    let nobody = census.unattributed.iter().map(|(why, count)| (why.to_string(), *count));
    owned.chain(nobody).filter(|(_, count)| *count > 0).collect()
}

#[test]
fn each_socket_goes_to_its_most_specific_owner_with_its_direction() {
    let listeners = vec![
        listener(901, Some(RPC), "10.0.0.1:80"),
        listener(902, Some(GATE), "[::]:8080"),
        listener(903, Some(SESSION), "0.0.0.0:9001"),
        listener(904, Some(RPC), "0.0.0.0:7000"),
    ];
    let known = Owners { held: [31, 32].map(|inode| (inode, name("process:legacy"))).into(), ..owners() };
    for (what, socket, verdict) in [
        ("its unit's listener", (1, Some(RPC), "10.0.0.1:80"), "rpc.service in"),
        ("another address of that port", (1, Some(RPC), "10.0.0.2:80"), "rpc.service out"),
        ("another unit's listener", (1, Some(RPC), "10.0.0.1:8080"), "rpc.service out"),
        ("an IPv6 wildcard takes IPv4", (1, Some(GATE), "10.0.0.1:8080"), "gate.service in"),
        ("an IPv4-mapped address is IPv4", (1, Some(RPC), "[::ffff:10.0.0.1]:80"), "rpc.service in"),
        ("an IPv4 wildcard takes no IPv6", (1, Some(RPC), "[fd00::1]:7000"), "rpc.service out"),
        ("a port of no listener", (1, Some(RPC), "10.0.0.1:51000"), "rpc.service out"),
        ("a configured port beats the unit", (1, Some(GATE), "10.0.0.1:9001"), "process:legacy in"),
        ("a configured holder beats the unit", (31, Some(GATE), "10.0.0.1:51000"), "process:legacy out"),
        ("by a listener of its cgroup", (32, Some(RPC), "10.0.0.1:80"), "process:legacy in"),
        ("in the accept queue: its listener's", (0, Some(SESSION), "10.0.0.1:9001"), "process:legacy in"),
        ("in the accept queue of a unit", (0, Some(RPC), "10.0.0.1:80"), "rpc.service in"),
        ("a login session's", (1, Some(SESSION), "10.0.0.1:51000"), "not_a_service"),
        ("a removed cgroup's", (1, Some(REMOVED), "10.0.0.1:51000"), "cgroup_gone"),
        ("an unheard-of cgroup's", (1, Some(99), "10.0.0.1:51000"), "cgroup_gone"),
        ("no cgroup told", (1, None, "10.0.0.1:51000"), "holder_unseen"),
    ] {
        let census = join(snapshot(&[socket], listeners.clone()), &known);
        assert_eq!(verdicts(&census), [(verdict.to_owned(), 1)], "{what}");
        let of_no_service = if verdict == "not_a_service" { BTreeMap::from([(SESSION, 1)]) } else { BTreeMap::new() };
        assert_eq!(census.of_no_service, of_no_service, "{what}");
    }
}

#[test]
fn where_a_configured_process_could_not_be_looked_into_the_cgroup_is_nobodys() {
    let known = Owners { unseen: [GATE].into(), held: [(31, name("process:legacy"))].into(), ..owners() };
    let sockets = [(1, Some(GATE), "10.0.0.1:51000"), (31, Some(GATE), "10.0.0.1:51001")];
    let census = join(snapshot(&sockets, vec![]), &known);
    assert_eq!(verdicts(&census), [("process:legacy out".to_owned(), 1), ("holder_unseen".to_owned(), 1)]);
}

#[test]
fn services_that_hold_nothing_are_known_to_hold_nothing() {
    let census = join(snapshot(&[], vec![listener(901, Some(RPC), "10.0.0.1:80")]), &owners());
    let names: Vec<_> = census.services.keys().map(ServiceName::as_str).collect();
    assert_eq!(names, ["process:legacy", "rpc.service"]);
    assert_eq!(census.host_close_wait(), 0);
}

#[test]
fn established_connections_are_a_units_only_where_its_cgroup_is_its_own() {
    let mut snapshot = snapshot(&[], vec![listener(903, Some(GATE), "0.0.0.0:9001")]);
    snapshot.established = Some([(RPC, 5), (GATE, 7), (SESSION, 3)].into());
    let of = |census: &Census, text: &str| census.services.get(&name(text)).and_then(|s| s.established);
    let census = join(snapshot.clone(), &owners());
    assert_eq!(of(&census, "rpc.service"), Some(5));
    assert_eq!(of(&census, "gate.service"), None, "process:legacy listens in its cgroup");
    assert_eq!(of(&census, "process:legacy"), None);
    snapshot.listeners.clear();
    assert_eq!(of(&join(snapshot, &owners()), "gate.service"), Some(7));
}

proptest! {
    #[test]
    fn no_socket_is_lost_and_none_is_counted_twice(
        rows in proptest::collection::vec((0u32..40, 8u64..16, any::<bool>(), prop::sample::select(vec![80u16, 9001, 51_000])), 0..60),
        held in proptest::collection::hash_set(0u64..40, 0..10),
        unseen in proptest::collection::hash_set(8u64..16, 0..3),
    ) {
        let addresses: Vec<String> = rows.iter().map(|(_, _, _, port)| format!("10.0.0.1:{port}")).collect();
        let sockets: Vec<Row> = rows
            .iter()
            .zip(&addresses)
            .map(|((inode, cgroup, told, _), local)| (*inode, told.then_some(*cgroup), local.as_str()))
            .collect();
        let held = held.into_iter().map(|inode| (inode, name("process:legacy"))).collect();
        let known = Owners { held, unseen, ..owners() };
        let mut snapshot = snapshot(&sockets, vec![listener(901, Some(RPC), "0.0.0.0:80")]);
        // Groups of several sockets are taken apart by what holds each.
        let mut merged: Vec<Group> = Vec::new();
        for group in snapshot.groups {
            let alike = |other: &&mut Group| (other.cgroup_id, other.via, other.port) == (group.cgroup_id, group.via, group.port);
            match merged.iter_mut().find(alike) {
                Some(other) => other.sockets.extend(group.sockets),
                None => merged.push(group),
            }
        }
        snapshot.groups = merged;
        let alone: Vec<_> = sockets.iter().map(|row| join(self::snapshot(&[*row], snapshot.listeners.clone()), &known)).collect();
        let mut expected = BTreeMap::new();
        for (verdict, count) in alone.iter().flat_map(verdicts) {
            *expected.entry(verdict).or_insert(0) += count;
        }
        let census = join(snapshot, &known);
        prop_assert_eq!(census.host_close_wait(), sockets.len() as u64);
        prop_assert_eq!(verdicts(&census).into_iter().collect::<BTreeMap<_, _>>(), expected);
    }
}
