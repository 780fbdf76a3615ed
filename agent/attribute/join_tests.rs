//! The join, by tables of sockets and of what is known of owners.

use proptest::prelude::*;

use super::join::*;
use crate::model::census::NoOwner;
use crate::model::socket::{Direction, Quality};
use crate::model::{Census, Listener, Owner, ServiceName, Snapshot, Socket};

const RPC: u64 = 10;
const GATE: u64 = 11;
const SESSION: u64 = 12;
const REMOVED: u64 = 13;

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

fn socket(inode: u64, cgroup_id: Option<u64>, local: &str) -> Socket {
    Socket {
        cookie: inode,
        local: local.parse().unwrap(),
        remote: "10.9.9.9:6379".parse().unwrap(),
        inode,
        uid: 0,
        cgroup_id,
        recv_q: 1,
        send_q: 0,
        last_ack_received: None,
        last_data_sent: None,
    }
}

fn listener(inode: u64, cgroup_id: Option<u64>, local: &str) -> Listener {
    Listener { local: local.parse().unwrap(), inode, cgroup_id }
}

fn snapshot(close_wait: Vec<Socket>, listeners: Vec<Listener>) -> Snapshot {
    Snapshot {
        at: jiff::Timestamp::UNIX_EPOCH,
        monotonic: Default::default(),
        took: Default::default(),
        close_wait,
        listeners,
        established: None,
        quality: Quality::Complete,
        source: "sock_diag",
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

/// `rpc.service inbound`, or the reason why nobody's.
fn verdicts(census: &Census) -> Vec<(u64, String)> {
    let owned = census.services.iter().flat_map(|(name, service)| {
        let word = |d| if d == Direction::Inbound { "in" } else { "out" };
        service.sockets.iter().map(move |o| (o.socket.cookie, format!("{name} {}", word(o.direction))))
    });
    let nobody = census.unattributed.iter().map(|u| (u.socket.cookie, u.why.to_string()));
    let mut all: Vec<_> = owned.chain(nobody).collect();
    all.sort();
    all
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
        ("its unit's listener", socket(1, Some(RPC), "10.0.0.1:80"), "rpc.service in"),
        ("another address of that port", socket(1, Some(RPC), "10.0.0.2:80"), "rpc.service out"),
        ("another unit's listener", socket(1, Some(RPC), "10.0.0.1:8080"), "rpc.service out"),
        ("an IPv6 wildcard takes IPv4", socket(1, Some(GATE), "10.0.0.1:8080"), "gate.service in"),
        ("an IPv4-mapped address is IPv4", socket(1, Some(RPC), "[::ffff:10.0.0.1]:80"), "rpc.service in"),
        ("an IPv4 wildcard takes no IPv6", socket(1, Some(RPC), "[fd00::1]:7000"), "rpc.service out"),
        ("a port of no listener", socket(1, Some(RPC), "10.0.0.1:51000"), "rpc.service out"),
        ("a configured port beats the unit", socket(1, Some(GATE), "10.0.0.1:9001"), "process:legacy in"),
        ("a configured holder beats the unit", socket(31, Some(GATE), "10.0.0.1:51000"), "process:legacy out"),
        ("by a listener of its cgroup", socket(32, Some(RPC), "10.0.0.1:80"), "process:legacy in"),
        ("in the accept queue: its listener's", socket(0, Some(SESSION), "10.0.0.1:9001"), "process:legacy in"),
        ("in the accept queue of a unit", socket(0, Some(RPC), "10.0.0.1:80"), "rpc.service in"),
        ("a login session's", socket(1, Some(SESSION), "10.0.0.1:51000"), "not_a_service"),
        ("a removed cgroup's", socket(1, Some(REMOVED), "10.0.0.1:51000"), "cgroup_gone"),
        ("an unheard-of cgroup's", socket(1, Some(99), "10.0.0.1:51000"), "cgroup_gone"),
        ("no cgroup told", socket(1, None, "10.0.0.1:51000"), "holder_unseen"),
    ] {
        let cookie = socket.cookie;
        let census = join(&snapshot(vec![socket], listeners.clone()), &known);
        assert_eq!(verdicts(&census), [(cookie, verdict.to_owned())], "{what}");
    }
}

#[test]
fn where_a_configured_process_could_not_be_looked_into_the_cgroup_is_nobodys() {
    let known = Owners { unseen: [GATE].into(), held: [(31, name("process:legacy"))].into(), ..owners() };
    let sockets = vec![socket(1, Some(GATE), "10.0.0.1:51000"), socket(31, Some(GATE), "10.0.0.1:51001")];
    let census = join(&snapshot(sockets, vec![]), &known);
    assert_eq!(verdicts(&census), [(1, "holder_unseen".to_owned()), (31, "process:legacy out".to_owned())]);
}

#[test]
fn services_that_hold_nothing_are_known_to_hold_nothing() {
    let census = join(&snapshot(vec![], vec![listener(901, Some(RPC), "10.0.0.1:80")]), &owners());
    let names: Vec<_> = census.services.keys().map(ServiceName::as_str).collect();
    assert_eq!(names, ["process:legacy", "rpc.service"]);
    assert_eq!(census.host_close_wait(), 0);
}

#[test]
fn established_connections_are_a_units_only_where_its_cgroup_is_its_own() {
    let mut snapshot = snapshot(vec![], vec![listener(903, Some(GATE), "0.0.0.0:9001")]);
    snapshot.established = Some([(RPC, 5), (GATE, 7), (SESSION, 3)].into());
    let of = |census: &Census, text: &str| census.services.get(&name(text)).and_then(|s| s.established);
    let census = join(&snapshot, &owners());
    assert_eq!(of(&census, "rpc.service"), Some(5));
    assert_eq!(of(&census, "gate.service"), None, "process:legacy listens in its cgroup");
    assert_eq!(of(&census, "process:legacy"), None);
    snapshot.listeners.clear();
    assert_eq!(of(&join(&snapshot, &owners()), "gate.service"), Some(7));
}

proptest! {
    #[test]
    fn no_socket_is_lost_and_none_is_counted_twice(
        rows in proptest::collection::vec((0u64..40, 8u64..16, any::<bool>(), prop::sample::select(vec![80u16, 9001, 51_000])), 0..60),
        held in proptest::collection::hash_set(0u64..40, 0..10),
        unseen in proptest::collection::hash_set(8u64..16, 0..3),
    ) {
        let sockets: Vec<_> = rows.iter().enumerate().map(|(cookie, (inode, cgroup, told, port))| Socket {
            cookie: cookie as u64,
            ..socket(*inode, told.then_some(*cgroup), &format!("10.0.0.1:{port}"))
        }).collect();
        let held = held.into_iter().map(|inode| (inode, name("process:legacy"))).collect();
        let known = Owners { held, unseen, ..owners() };
        let census = join(&snapshot(sockets.clone(), vec![listener(901, Some(RPC), "0.0.0.0:80")]), &known);
        prop_assert_eq!(census.host_close_wait(), sockets.len());
        let cookies: Vec<_> = verdicts(&census).into_iter().map(|(cookie, _)| cookie).collect();
        prop_assert_eq!(cookies, (0..sockets.len() as u64).collect::<Vec<_>>());
    }
}
