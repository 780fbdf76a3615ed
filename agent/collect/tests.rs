//! Against the real kernel: sockets that are made to leak, and what each source says of them.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::netlink::DumpError;
use super::netlink::tests::mptcp_pair;
use super::*;
use crate::clock::SystemClock;
use crate::model::socket::BlindSpot;
use crate::model::{Brief, Group, Socket};

/// A connection of which one end has closed; the other end stays in CLOSE_WAIT.
struct Leak {
    held: TcpStream,
    _listener: TcpListener,
    listens_on: SocketAddr,
}

#[derive(Clone, Copy, PartialEq)]
enum Closes {
    Client,
    Server,
}

fn leak(listen: &str, connect: &str, closes: Closes, unread: &[u8]) -> Leak {
    let listener = TcpListener::bind(listen).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = TcpStream::connect((connect.parse::<IpAddr>().unwrap(), port)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let held = if closes == Closes::Client {
        client.write_all(unread).unwrap();
        drop(client);
        server
    } else {
        server.write_all(unread).unwrap();
        drop(server);
        client
    };
    Leak { held, listens_on: listener.local_addr().unwrap(), _listener: listener }
}

/// A collector that knows these ways alone.
fn only(sources: &'static [Source]) -> Collector {
    let mut collector = Collector::new().unwrap();
    collector.own.sources = sources;
    collector
}

fn look(collector: &mut Collector) -> Detail {
    collector.detail(&SystemClock).unwrap()
}

/// The socket in full, and its group.
fn find<'a>(detail: &'a Detail, held: &TcpStream) -> (&'a Socket, &'a Group) {
    let (local, remote) = (held.local_addr().unwrap(), held.peer_addr().unwrap());
    let found = detail.sockets.iter().find(|(_, s)| s.local == local && s.remote == remote);
    let (group, socket) = found.unwrap_or_else(|| panic!("{local} -> {remote} is not in the snapshot"));
    (socket, &detail.snapshot.groups[*group])
}

fn brief(group: &Group, inode: u64) -> Brief {
    *group.sockets.iter().find(|brief| u64::from(brief.inode) == inode).unwrap()
}

fn inode(stream: &impl std::os::fd::AsFd) -> u64 {
    nix::sys::stat::fstat(stream).unwrap().st_ino
}

#[test]
fn a_leaked_socket_is_seen_as_the_kernel_holds_it() {
    let (outbound, unread) =
        (leak("127.0.0.1:0", "127.0.0.1", Closes::Server, b""), leak("[::1]:0", "::1", Closes::Client, b"five!"));
    let mut collector = Collector::new().unwrap();
    let first = look(&mut collector);
    assert_eq!((first.snapshot.quality.clone(), first.snapshot.source), (Quality::Complete, "sock_diag"));
    let (seen, group) = find(&first, &outbound.held);
    assert_eq!(seen.inode, inode(&outbound.held));
    assert_eq!(seen.uid, nix::unistd::geteuid().as_raw());
    assert_eq!((seen.recv_q, seen.send_q), (1, 0), "the FIN alone is unread");
    assert!(group.cgroup_id.is_some() && seen.cookie != 0);
    assert_eq!((group.via, brief(group, seen.inode).unread), (None, false));
    let (seen_unread, group_unread) = find(&first, &unread.held);
    assert_eq!(seen_unread.recv_q, 6, "five bytes and the FIN are unread");
    assert!(brief(group_unread, seen_unread.inode).unread);
    let listens = &first.snapshot.listeners[group_unread.via.expect("it came in by a listener")];
    assert_eq!((listens.local, listens.inode), (unread.listens_on, inode(&unread._listener)));

    std::thread::sleep(Duration::from_millis(300)); // time passes in the kernel, which no clock of ours can play
    let second = look(&mut collector);
    let (again, _) = find(&second, &outbound.held);
    assert_eq!((again.cookie, again.inode), (seen.cookie, seen.inode));
    let grown = again.age.unwrap() - seen.age.unwrap();
    assert!((Duration::from_millis(200)..Duration::from_secs(5)).contains(&grown), "the age grew by {grown:?}");
    assert!(second.snapshot.monotonic > first.snapshot.monotonic && second.snapshot.at > first.snapshot.at);
}

/// By a collector that has looked before, a new socket is asked for by itself.
#[test]
fn a_socket_that_is_older_than_the_look_that_finds_it_has_its_age_at_once() {
    let mut collector = Collector::new().unwrap();
    let _first = leak("127.0.0.1:0", "127.0.0.1", Closes::Server, b"");
    collector.snapshot(&SystemClock, Ask::default()).unwrap();
    let second = leak("127.0.0.1:0", "127.0.0.1", Closes::Server, b"");
    std::thread::sleep(Duration::from_millis(400));
    let snapshot = collector.snapshot(&SystemClock, Ask::default()).unwrap();
    let inode = inode(&second.held);
    let age = snapshot.groups.iter().flat_map(|g| &g.sockets).find(|s| u64::from(s.inode) == inode).unwrap().age();
    assert!((Duration::from_millis(290)..Duration::from_secs(10)).contains(&age), "{age:?}");
}

#[test]
fn a_connection_that_was_never_accepted_has_no_inode() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let from = client.local_addr().unwrap();
    drop(client);
    let detail = look(&mut Collector::new().unwrap());
    let (group, waiting) = detail.sockets.iter().find(|(_, s)| s.remote == from).unwrap();
    assert_eq!((waiting.inode, waiting.local), (0, listener.local_addr().unwrap()));
    let via = detail.snapshot.groups[*group].via.unwrap();
    assert_eq!(detail.snapshot.listeners[via].inode, inode(&listener));
}

#[test]
fn the_three_sources_give_the_same_sockets() {
    let leaks = [
        leak("127.0.0.1:0", "127.0.0.1", Closes::Server, b""),
        leak("127.0.0.1:0", "127.0.0.1", Closes::Client, b"abc"),
        leak("[::1]:0", "::1", Closes::Server, b""),
        leak("[::]:0", "127.0.0.1", Closes::Client, b""), // an IPv4-mapped socket
    ];
    let ours = |detail: &Detail| {
        let of_ours = |local: &SocketAddr| leaks.iter().any(|l| l.listens_on.port() == local.port());
        let listeners = &detail.snapshot.listeners;
        let mut listening: Vec<_> =
            listeners.iter().filter(|l| of_ours(&l.local)).map(|l| (l.local, l.inode)).collect();
        let held = leaks.iter().map(|leak| find(detail, &leak.held));
        let sockets: Vec<_> = held
            .map(|(s, group)| {
                let unread = brief(group, s.inode).unread;
                let via = group.via.map(|via| listeners[via].inode);
                (s.local, s.remote, s.inode, s.uid, s.recv_q, s.send_q, unread, via)
            })
            .collect();
        listening.sort();
        (sockets, listening)
    };
    let one_walk = look(&mut only(&[Source::OneWalk]));
    let by_family = look(&mut only(&[Source::ByFamily]));
    let proc = look(&mut only(&[Source::Proc]));
    assert_eq!(ours(&one_walk), ours(&by_family));
    assert_eq!(ours(&one_walk), ours(&proc));
    assert_eq!(ours(&one_walk).1.len(), leaks.len());
    let sources = [&one_walk, &by_family, &proc].map(|detail| detail.snapshot.source);
    assert_eq!(sources, ["sock_diag", "sock_diag", "procfs"]);
    assert!(proc.snapshot.blind_spots.contains(&BlindSpot::NoDiagnostics));
    for leak in &leaks {
        let [(a, a_group), (b, b_group), (c, c_group)] = [&one_walk, &by_family, &proc].map(|d| find(d, &leak.held));
        assert_eq!((a.cookie, a_group.cgroup_id), (b.cookie, b_group.cgroup_id));
        assert_eq!((c.cookie, c_group.cgroup_id), (0, None), "/proc cannot tell");
    }
    assert!(leaks[3].held.local_addr().unwrap().to_string().contains("[::ffff:127.0.0.1]"), "kept as it is");
}

#[test]
fn without_cookies_a_socket_is_known_again_by_its_inode() {
    let leak = leak("127.0.0.1:0", "127.0.0.1", Closes::Server, b"");
    let mut collector = only(&[Source::Proc]);
    let age = |collector: &mut Collector| find(&look(collector), &leak.held).0.age.unwrap();
    assert_eq!(age(&mut collector), Duration::ZERO, "/proc tells no age");
    std::thread::sleep(Duration::from_millis(300));
    assert!(age(&mut collector) >= Duration::from_millis(200));
}

#[test]
fn without_cookies_what_waits_to_be_accepted_takes_no_others_age() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut collector = only(&[Source::Proc]);
    let mut ages = || -> Vec<Duration> {
        let sockets = look(&mut collector).sockets.into_iter().map(|(_, socket)| socket);
        sockets.filter(|socket| socket.local == address).map(|socket| socket.age.unwrap()).collect()
    };
    drop(TcpStream::connect(address).unwrap());
    assert_eq!(ages(), [Duration::ZERO]);
    std::thread::sleep(Duration::from_millis(300));
    drop(TcpStream::connect(address).unwrap());
    assert_eq!(ages(), [Duration::ZERO; 2]);
}

#[test]
fn a_port_is_told_apart_where_it_was_asked_for() {
    let leak = leak("127.0.0.1:0", "127.0.0.1", Closes::Server, b"");
    let port = leak.held.local_addr().unwrap().port();
    let mut collector = Collector::new().unwrap();
    assert_eq!(find(&look(&mut collector), &leak.held).1.port, None);
    collector.tell_apart([port]);
    assert_eq!(find(&look(&mut collector), &leak.held).1.port, Some(port));
}

#[test]
fn established_sockets_are_counted_only_when_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut collector = Collector::new().unwrap();
    let asked = Ask { established: true, ..Ask::default() };
    assert_eq!(collector.snapshot(&SystemClock, Ask::default()).unwrap().established, None);
    let counted = collector.snapshot(&SystemClock, asked).unwrap().established.unwrap();
    assert!(counted.values().sum::<u64>() >= 2, "both ends: {counted:?}");
    let proc = only(&[Source::Proc]).snapshot(&SystemClock, asked).unwrap();
    assert_eq!(proc.established, None, "/proc tells no cgroups");
}

/// Its subflow is a TCP socket that may stay established.
#[test]
fn a_socket_of_multipath_tcp_is_seen_beside_those_of_tcp() {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let Some((client, accepted)) = mptcp_pair(family) else {
            eprintln!("not run: this kernel has no MPTCP");
            return;
        };
        let (local, remote) = (accepted.local_addr().unwrap(), client.local_addr().unwrap());
        drop(client);
        // The end of file has come.
        std::io::copy(&mut &accepted, &mut std::io::sink()).unwrap();
        let detail = look(&mut Collector::new().unwrap());
        let seen = detail.sockets.iter().filter(|(_, s)| s.local == local && s.remote == remote);
        let seen: Vec<&Socket> = seen.map(|(_, socket)| socket).collect();
        assert_eq!(seen.len(), 1, "{local} -> {remote}");
        assert!(seen[0].at_least, "the kernel tells no times of it: it is as old as it was seen to be");
    }
}

#[test]
fn sockets_of_multipath_tcp_that_are_counted_and_not_shown_are_said_to_be() {
    let mut collector = Collector::new().unwrap();
    collector.own.refuses_mptcp = true;
    let says = |collector: &mut Collector| {
        let snapshot = collector.snapshot(&SystemClock, Ask::default()).unwrap();
        snapshot.blind_spots.contains(&BlindSpot::NoMptcp(1))
    };
    let Some(_pair) = mptcp_pair(libc::AF_INET) else {
        eprintln!("not run: this kernel has no MPTCP");
        return;
    };
    assert!(says(&mut collector));
    collector.own.refuses_mptcp = false;
    assert!(!says(&mut collector));
}

/// Its number is given to the next one, in which cookies may begin anew.
#[test]
fn of_a_namespace_that_is_gone_nothing_is_remembered() {
    let Some(room) = super::namespaces::tests::Room::new() else { return };
    let namespace = room.found();
    let id = NetNs(namespace.inode);
    let held = namespace.inside(|| leak("127.0.0.1:0", "127.0.0.1", Closes::Server, b"")).unwrap();
    let mut collector = Collector::new().unwrap();
    look(&mut collector);
    // Asked for a moment ago, if it is remembered.
    collector.memory.get_mut(&id).unwrap().asked_all = Duration::MAX;
    // Its number is there still, by another process; what led to it has ended.
    let _other = room.joined();
    drop(room);
    collector.snapshot(&SystemClock, Ask::default()).unwrap();
    assert!(collector.memory[&id].asked_all < Duration::MAX);
    drop(held);
}

#[test]
fn a_namespace_that_cannot_matter_is_passed_over() {
    let _leak = leak("127.0.0.1:0", "127.0.0.1", Closes::Server, b"");
    let mut collector = Collector::new().unwrap();
    let all = collector.snapshot(&SystemClock, Ask::default()).unwrap();
    assert_eq!(all.passed_over.namespaces, 0);
    let matters = |service: u64, _host: u64| service > 1_000_000_000;
    let quiet = collector.snapshot(&SystemClock, Ask { matters: Some(&matters), ..Ask::default() }).unwrap();
    assert!(quiet.groups.is_empty() && quiet.passed_over.namespaces >= 1);
    let held: usize = all.groups.iter().map(|group| group.sockets.len()).sum();
    assert!(quiet.passed_over.at_most >= held as u64, "{:?}, and {held} are held", quiet.passed_over);
    let always = |_: u64, _: u64| true;
    let asked = Ask { matters: Some(&always), ..Ask::default() };
    assert!(!collector.snapshot(&SystemClock, asked).unwrap().groups.is_empty());
}

#[test]
fn the_table_holds_every_state_alike_from_every_source() {
    let leaked = leak("127.0.0.1:0", "127.0.0.1", Closes::Server, b"");
    let port = leaked.listens_on.port();
    for source in [&[Source::OneWalk][..], &[Source::ByFamily], &[Source::Proc]] {
        let mut collector = only(source);
        let own = collector.own_namespace();
        let rows = collector.table(&[own].into()).unwrap();
        let mut states: Vec<_> =
            rows.iter().filter(|r| r.local.port() == port || r.remote.port() == port).map(|r| r.state).collect();
        states.sort_unstable();
        // FIN-WAIT-1 until the delayed acknowledgement comes, -2 after it.
        assert_eq!(states.len(), 3, "{source:?}: {states:?}");
        assert!(states[1].starts_with("FIN-WAIT-"), "{source:?}: {states:?}");
        assert_eq!((states[0], states[2]), ("CLOSE-WAIT", "LISTEN"), "{source:?}");
    }
}

#[test]
fn a_refused_source_gives_way_to_the_next_and_none_is_an_error() {
    assert!(DumpError::Open(nix::errno::Errno::EAFNOSUPPORT).is_refusal());
    assert!(DumpError::Parse(wire::ParseError::Kernel(libc::ENOENT)).is_refusal());
    for failure in [
        DumpError::TimedOut,
        DumpError::Receive(nix::errno::Errno::ENOBUFS),
        DumpError::Parse(wire::ParseError::Overrun),
        DumpError::Parse(wire::ParseError::Kernel(libc::ENOMEM)),
    ] {
        assert!(!failure.is_refusal(), "{failure}");
    }
    let error = only(&[]).snapshot(&SystemClock, Ask::default()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read the TCP table"), "{error}");
}

/// A peer that has closed its side and still reads.
fn half_closed() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    std::io::copy(&mut &server, &mut std::io::sink()).unwrap();
    (client, server)
}

#[test]
fn a_socket_is_stuck_since_its_service_last_sent_data() {
    let (_client, server) = half_closed();
    let mut collector = Collector::new().unwrap();
    find(&look(&mut collector), &server);
    std::thread::sleep(Duration::from_millis(500)); // time passes in the kernel, which no clock of ours can play
    let age = |collector: &mut Collector| find(&look(collector), &server).0.age.unwrap();
    let before = age(&mut collector);
    assert!(before >= Duration::from_millis(400), "{before:?}");
    let written = SystemClock.monotonic();
    (&server).write_all(b"an event").unwrap();
    let after = age(&mut collector);
    assert!(after <= SystemClock.monotonic() - written, "{after:?}");
}

#[test]
fn where_a_keepalive_was_answered_the_age_says_that_it_is_a_lower_bound() {
    use nix::sys::socket::{setsockopt, sockopt};
    let (quiet, kept) = (half_closed(), half_closed());
    setsockopt(&kept.1, sockopt::KeepAlive, &true).unwrap();
    setsockopt(&kept.1, sockopt::TcpKeepIdle, &1).unwrap();
    setsockopt(&kept.1, sockopt::TcpKeepInterval, &1).unwrap();
    for _ in 0..600 {
        // Each looks for the first time.
        let detail = look(&mut Collector::new().unwrap());
        let [quiet, kept] = [&quiet, &kept].map(|(_, server)| find(&detail, server).0);
        assert!(!quiet.at_least);
        let (true_age, said) = (quiet.age.unwrap(), kept.age.unwrap());
        assert!(said <= true_age + Duration::from_millis(200), "never overstated: {said:?} of {true_age:?}");
        if said + Duration::from_secs(1) < true_age {
            assert!(kept.at_least, "{said:?} of {true_age:?}");
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no keepalive was answered within 30 s");
}

#[test]
fn accepted_sockets_are_told_from_opened_ones_once_their_listener_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let accept = |listener: &TcpListener| {
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        listener.accept().unwrap().0
    };
    let few = [accept(&listener), accept(&listener)];
    let many: Vec<TcpStream> = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (0..30).map(|_| accept(&listener)).collect()
    };
    let opened = leak("127.0.0.1:0", "127.0.0.1", Closes::Server, b"");
    let mut collector = Collector::new().unwrap();
    let accepted = |collector: &mut Collector, socket: &TcpStream| {
        let detail = look(collector);
        let group = find(&detail, socket).1;
        group.via.is_some() || group.accepted
    };
    assert!(accepted(&mut collector, &few[0]) && !accepted(&mut collector, &opened.held));
    drop(listener);
    // This look has seen the listener before, or there are too many for anything else.
    for socket in few.iter().chain(&many) {
        assert!(accepted(&mut collector, socket));
    }
    assert!(!accepted(&mut collector, &opened.held));
    let mut first = Collector::new().unwrap();
    assert!(accepted(&mut first, &many[0]) && accepted(&mut first, &many[29]), "at the first look");
}
