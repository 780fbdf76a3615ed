//! Against the real kernel: sockets that are made to leak, and what each source says of them.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::*;
use crate::clock::SystemClock;

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

fn only(source: &'static [Source]) -> Collector {
    Collector { sources: source, ..Collector::new().unwrap() }
}

fn look(collector: &mut Collector) -> Snapshot {
    collector.snapshot(&SystemClock, Ask::default()).unwrap()
}

fn find<'a>(snapshot: &'a Snapshot, held: &TcpStream) -> &'a Socket {
    let (local, remote) = (held.local_addr().unwrap(), held.peer_addr().unwrap());
    snapshot
        .close_wait
        .iter()
        .find(|s| s.local == local && s.remote == remote)
        .unwrap_or_else(|| panic!("{local} -> {remote} is not in the snapshot"))
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
    assert_eq!((first.quality.clone(), first.source), (Quality::Complete, "sock_diag"));
    let seen = find(&first, &outbound.held);
    assert_eq!(seen.inode, inode(&outbound.held));
    assert_eq!(seen.uid, nix::unistd::geteuid().as_raw());
    assert_eq!((seen.recv_q, seen.send_q), (1, 0), "the FIN alone is unread");
    assert_eq!(find(&first, &unread.held).recv_q, 6, "five bytes and the FIN are unread");
    assert!(seen.cgroup_id.is_some() && seen.cookie != 0);
    let listens = first.listeners.iter().find(|l| l.local == outbound.listens_on).unwrap();
    assert_eq!(listens.inode, inode(&outbound._listener));

    std::thread::sleep(Duration::from_millis(60)); // time passes in the kernel, which no clock of ours can play
    let second = look(&mut collector);
    let again = find(&second, &outbound.held);
    assert_eq!((again.cookie, again.inode), (seen.cookie, seen.inode));
    let grown = again.last_ack_received.unwrap() - seen.last_ack_received.unwrap();
    assert!((Duration::from_millis(50)..Duration::from_secs(5)).contains(&grown), "the age grew by {grown:?}");
    assert!(second.monotonic > first.monotonic && second.at > first.at);
}

#[test]
fn a_connection_that_was_never_accepted_has_no_inode() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let from = client.local_addr().unwrap();
    drop(client);
    let snapshot = look(&mut Collector::new().unwrap());
    let waiting = snapshot.close_wait.iter().find(|s| s.remote == from).unwrap();
    assert_eq!((waiting.inode, waiting.local), (0, listener.local_addr().unwrap()));
}

#[test]
fn the_three_sources_give_the_same_sockets() {
    let leaks = [
        leak("127.0.0.1:0", "127.0.0.1", Closes::Server, b""),
        leak("127.0.0.1:0", "127.0.0.1", Closes::Client, b"abc"),
        leak("[::1]:0", "::1", Closes::Server, b""),
        leak("[::]:0", "127.0.0.1", Closes::Client, b""), // an IPv4-mapped socket
    ];
    let ours = |snapshot: &Snapshot| {
        let of_ours = |local: &SocketAddr| leaks.iter().any(|l| l.listens_on.port() == local.port());
        let mut listening: Vec<_> =
            snapshot.listeners.iter().filter(|l| of_ours(&l.local)).map(|l| (l.local, l.inode)).collect();
        let held = leaks.iter().map(|leak| find(snapshot, &leak.held));
        let sockets: Vec<_> = held.map(|s| (s.local, s.remote, s.inode, s.uid, s.recv_q, s.send_q)).collect();
        listening.sort();
        (sockets, listening)
    };
    let one_walk = look(&mut only(&[Source::OneWalk]));
    let by_family = look(&mut only(&[Source::ByFamily]));
    let proc = look(&mut only(&[Source::Proc]));
    assert_eq!(ours(&one_walk), ours(&by_family));
    assert_eq!(ours(&one_walk), ours(&proc));
    assert_eq!(ours(&one_walk).1.len(), leaks.len());
    assert_eq!((one_walk.source, by_family.source, proc.source), ("sock_diag", "sock_diag", "procfs"));
    for leak in &leaks {
        let (a, b, c) = (find(&one_walk, &leak.held), find(&by_family, &leak.held), find(&proc, &leak.held));
        assert_eq!((a.cookie, a.cgroup_id), (b.cookie, b.cgroup_id));
        assert!(b.last_ack_received >= a.last_ack_received && a.last_ack_received.is_some());
        assert_eq!((c.cookie, c.cgroup_id, c.last_ack_received), (0, None, None), "/proc cannot tell");
    }
    assert!(leaks[3].held.local_addr().unwrap().to_string().contains("[::ffff:127.0.0.1]"), "kept as it is");
}

#[test]
fn established_sockets_are_counted_only_when_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut collector = Collector::new().unwrap();
    assert_eq!(look(&mut collector).established, None);
    let counted = collector.snapshot(&SystemClock, Ask { established: true }).unwrap().established.unwrap();
    assert!(counted.values().sum::<u64>() >= 2, "both ends: {counted:?}");
    let proc = only(&[Source::Proc]).snapshot(&SystemClock, Ask { established: true }).unwrap();
    assert_eq!(proc.established, None, "/proc tells no cgroups");
}

#[test]
fn the_table_holds_every_state_alike_from_every_source() {
    let leaked = leak("127.0.0.1:0", "127.0.0.1", Closes::Server, b"");
    let port = leaked.listens_on.port();
    for source in [&[Source::OneWalk][..], &[Source::ByFamily], &[Source::Proc]] {
        let rows = only(source).table().unwrap();
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
    assert!(error.to_string().starts_with("no source gives the TCP table"), "{error}");
}
