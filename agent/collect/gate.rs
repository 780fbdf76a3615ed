//! Decides if a dump is needed at all: an upper bound of a namespace's sockets in CLOSE_WAIT, from counters that the
//! kernel keeps anyway.
//!
//! It never says how many there are, only how many there cannot be more than. Called by the collector alone, before
//! each scan. It reads what is cheap first, and goes on only while that does not tell enough:
//!
//! 1. `sockstat` and `sockstat6` (3 µs). `inuse` is all TCP sockets in the kernel's tables, of every state but
//!    TIME_WAIT and half-open requests (`inet_hash` and `inet_unhash`, `net/ipv4/inet_hashtables.c`); `used` is all
//!    sockets of applications, of any kind, and so those of MPTCP (`sk_alloc` and `sk_clone`, `net/core/sock.c`).
//! 2. `CurrEstab` in `snmp` (13 µs): ESTABLISHED and CLOSE_WAIT alone, but only since Linux 6.11 and where that was
//!    taken back into an older kernel (a46d0ea5c942, "tcp: count CLOSE-WAIT sockets for TCP_MIB_CURRESTAB"). Before,
//!    a socket that enters CLOSE_WAIT leaves the count, which would read as no leak at all. So it is used only after
//!    it was seen to count one, in a namespace of our own where nothing else is.
//! 3. The sockets of MPTCP in `protocols` (24 µs), since Linux 6.2, and only after one of our own was
//!    seen to be counted; before, they read as 0.
//!
//! The kernel sums a counter over its CPUs one after the other: sockets that open on one and close on another in
//! that microsecond may be missing from the sum.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{Backlog, listen};

use super::namespaces::{EnterError, Namespace};

/// Why there is no bound: the namespace must be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum GateError {
    #[error("cannot read {file} of network namespace {inode}: {source}")]
    Read { inode: u64, file: &'static str, source: io::Error },
    #[error(transparent)]
    Enter(#[from] EnterError),
}

/// Which counters can be trusted on this kernel, and the own namespace's files, kept open.
#[derive(Debug)]
pub(super) struct Gate {
    /// True where `CurrEstab` counts CLOSE_WAIT; tried at the first use.
    curr_estab: Option<bool>,
    mptcp: Mptcp,
    own: Files,
}

/// The counters that a trial has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    /// `CurrEstab` counts CLOSE_WAIT.
    curr_estab: bool,
    mptcp: Mptcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mptcp {
    /// This kernel has none.
    Absent,
    /// `protocols` counts its sockets.
    Counted,
    Uncounted,
}

impl Gate {
    /// Tries how the kernel counts MPTCP's sockets: some 0.1 ms.
    pub fn new() -> Self {
        let mptcp = try_mptcp("/proc/thread-self/net".as_ref());
        Self { curr_estab: None, mptcp, own: Files::below("/proc/self/net".as_ref()) }
    }

    /// How many sockets in CLOSE_WAIT `namespace` can hold now at most, TCP and MPTCP together. Where that is less
    /// than `enough`, a looser and cheaper bound is given.
    ///
    /// The first one tries `CurrEstab` in a namespace of our own, which takes some milliseconds. Without
    /// CAP_SYS_ADMIN and CAP_NET_ADMIN that cannot be had, and it is not used.
    pub fn bound(&mut self, namespace: &Namespace, enough: u64) -> Result<u64, GateError> {
        let curr_estab = *self.curr_estab.get_or_insert_with(try_curr_estab);
        let counters = Counters { curr_estab, mptcp: self.mptcp };
        let inode = namespace.inode;
        if namespace.own {
            return self.own.bound(counters, enough).map_err(|error| error.of(inode));
        }
        let bound = namespace.read_net(|net| Ok(Files::below(net).bound(counters, enough)))?;
        bound.map_err(|error| error.of(inode))
    }

    /// True where the namespace has an MPTCP socket: a walk of that table costs more than its count. `None`: unknown.
    pub fn speaks_mptcp(&mut self, namespace: &Namespace) -> Option<bool> {
        let count = match (self.mptcp, namespace.own) {
            (Mptcp::Absent, _) => return Some(false),
            (Mptcp::Uncounted, _) => return None,
            (Mptcp::Counted, true) => self.own.read(Name::Protocols, sockets_of_mptcp).ok(),
            (Mptcp::Counted, false) => {
                let read = |net: &Path| Ok(Files::below(net).read(Name::Protocols, sockets_of_mptcp).ok());
                namespace.read_net(read).ok().flatten()
            }
        };
        count.map(|count| count > 0)
    }
}

/// Tries if `CurrEstab` counts CLOSE_WAIT on this kernel; false where the trial failed.
fn try_curr_estab() -> bool {
    let thread = std::thread::Builder::new().name("gate".into()).spawn(try_curr_estab_in_a_namespace_of_its_own);
    thread.ok().and_then(|thread| thread.join().ok()?.ok()).unwrap_or(false)
}

/// Moves the calling thread into a new namespace, for good, where what is counted is known exactly: one connection,
/// and then one socket in CLOSE_WAIT.
fn try_curr_estab_in_a_namespace_of_its_own() -> io::Result<bool> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let snmp = Path::new("/proc/thread-self/net/snmp");
    bring_up_the_loopback()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let before = curr_estab(&std::fs::read(snmp)?);
    client.shutdown(std::net::Shutdown::Write)?;
    // The end of file has come: the server's end is in CLOSE_WAIT, the client's has left ESTABLISHED.
    io::copy(&mut server, &mut io::sink())?;
    let after = curr_estab(&std::fs::read(snmp)?);
    Ok((before, after) == (Some(2), Some(1)))
}

/// While a socket of ours listens by MPTCP, on the loopback, one at least must be counted: a kernel that does not
/// count them says 0 for ever, so that those of others do no harm.
fn try_mptcp(net: &Path) -> Mptcp {
    let count = || std::fs::read(net.join("protocols")).ok().and_then(|file| sockets_of_mptcp(&file));
    match listen_by_mptcp() {
        Ok(_listener) if count().is_some_and(|count| count > 0) => Mptcp::Counted,
        // Not built in; before Linux 5.6, no protocol has so high a number.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EINVAL)) => Mptcp::Absent,
        Ok(_) | Err(_) => Mptcp::Uncounted,
    }
}

fn listen_by_mptcp() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; the descriptor is new and ours.
    let socket = unsafe {
        match libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_MPTCP) {
            fd if fd < 0 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    // SAFETY: an address of plain data, of which the size is passed and the unset fields are zero: any port.
    let bound = unsafe {
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_addr.s_addr = u32::from(Ipv4Addr::LOCALHOST).to_be();
        let size = size_of_val(&address) as libc::socklen_t;
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size)
    };
    if bound != 0 {
        // EINVAL here is none of the protocol's.
        return Err(io::Error::other(io::Error::last_os_error()));
    }
    listen(&socket, Backlog::MAXALLOWABLE).map_err(io::Error::other)?;
    Ok(socket)
}

fn bring_up_the_loopback() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: a request of plain data, for which zeros are valid, that outlives both calls; the name is shorter
    // than its field.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A read that gives less has come to the end: the kernel fills a page with as many lines as fit (`fs/seq_file.c`), and
/// these have 200 bytes at most. To be told so by a further read would make it write all of them again.
const WHOLE_BELOW: usize = 3072;

/// One namespace's files, each open since it was first needed.
#[derive(Debug)]
struct Files {
    net: PathBuf,
    open: [Option<File>; 4],
}

#[derive(Clone, Copy)]
enum Name {
    Sockstat,
    /// Not there on a kernel without IPv6.
    Sockstat6,
    Snmp,
    Protocols,
}

/// Which file could not be read, and why.
#[derive(Debug)]
struct Unread(&'static str, io::Error);

impl Unread {
    fn of(self, inode: u64) -> GateError {
        GateError::Read { inode, file: self.0, source: self.1 }
    }
}

impl Files {
    fn below(net: &Path) -> Self {
        Self { net: net.to_owned(), open: [const { None }; 4] }
    }

    fn bound(&mut self, counters: Counters, enough: u64) -> Result<u64, Unread> {
        let (v4, used) =
            self.read(Name::Sockstat, |text| Some((after(text, "TCP:", "inuse")?, after(text, "sockets:", "used")?)))?;
        let v6 = match self.read(Name::Sockstat6, |text| after(text, "TCP6:", "inuse")) {
            Err(Unread(_, error)) if error.kind() == ErrorKind::NotFound => 0,
            other => other?,
        };
        let mut tcp = v4 + v6;
        let mut mptcp = if counters.mptcp == Mptcp::Absent { 0 } else { used };
        if tcp >= enough && counters.curr_estab {
            tcp = tcp.min(self.read(Name::Snmp, curr_estab)?);
        }
        // With as much in TCP alone, no count of the others would tell more.
        if tcp < enough && tcp + mptcp >= enough && counters.mptcp == Mptcp::Counted {
            mptcp = mptcp.min(self.read(Name::Protocols, sockets_of_mptcp)?);
        }
        Ok(tcp + mptcp)
    }

    fn read<T>(&mut self, name: Name, of: impl Fn(&[u8]) -> Option<T>) -> Result<T, Unread> {
        let named = ["sockstat", "sockstat6", "snmp", "protocols"][name as usize];
        let unread = |error| Unread(named, error);
        let file = match &mut self.open[name as usize] {
            Some(file) => file,
            closed => closed.insert(File::open(self.net.join(named)).map_err(unread)?),
        };
        let mut text = [0; 8192]; // snmp has 1.3 KiB, protocols 2.2 KiB
        let mut length = 0;
        loop {
            match file.read_at(&mut text[length..], length as u64) {
                Ok(0) => break,
                Ok(more) => {
                    length += more;
                    if more < WHOLE_BELOW {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(unread(error)),
            }
        }
        if length == text.len() {
            return Err(unread(io::Error::other("the file is longer than 8 KiB")));
        }
        of(&text[..length]).ok_or_else(|| unread(io::Error::other("the file lacks the expected counter")))
    }
}

/// The words of the lines that start with `first`.
fn lines<'a>(text: &'a [u8], first: &'a str) -> impl Iterator<Item = impl Iterator<Item = &'a str>> {
    let lines = str::from_utf8(text).unwrap_or_default().lines().map(str::split_ascii_whitespace);
    lines.filter_map(move |mut words| (words.next() == Some(first)).then_some(words))
}

/// `Tcp:` twice: a line of names, and one of values.
fn curr_estab(snmp: &[u8]) -> Option<u64> {
    let mut lines = lines(snmp, "Tcp:");
    let at = lines.next()?.position(|name| name == "CurrEstab")?;
    lines.next()?.nth(at)?.parse().ok()
}

/// `TCP: inuse 7 orphan 0 …`: the count that stands after `name` in `line`.
fn after(sockstat: &[u8], line: &str, name: &str) -> Option<u64> {
    let mut words = lines(sockstat, line).next()?;
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

/// `MPTCP SIZE SOCKETS …`, and `MPTCPv6`; `None` where there is neither.
fn sockets_of_mptcp(protocols: &[u8]) -> Option<u64> {
    let count = |protocol| lines(protocols, protocol).next()?.nth(1)?.parse::<u64>().ok();
    match (count("MPTCP"), count("MPTCPv6")) {
        (None, None) => None,
        (v4, v6) => Some(v4.unwrap_or(0) + v6.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::namespaces::tests::Room;
    use super::super::netlink::tests::{mptcp_pair, reset_on_close};
    use super::super::wire::{CLOSE_WAIT, Request, Walk};
    use super::*;

    const COUNTERS: [Counters; 4] = [
        Counters { curr_estab: false, mptcp: Mptcp::Uncounted },
        Counters { curr_estab: false, mptcp: Mptcp::Counted },
        Counters { curr_estab: true, mptcp: Mptcp::Uncounted },
        Counters { curr_estab: true, mptcp: Mptcp::Counted },
    ];

    /// What the kernel says when it is asked for each of them.
    fn in_close_wait(namespace: &Namespace) -> u64 {
        let mut diag = namespace.diag().unwrap();
        let mut count = 0;
        for walk in [Walk::Both, Walk::MptcpV4, Walk::MptcpV6] {
            let dumped = diag.dump(Request { walk, states: 1 << CLOSE_WAIT, info: false }, |_| count += 1);
            assert!(dumped.is_ok_and(|interrupted| !interrupted) || walk != Walk::Both);
        }
        count
    }

    /// Many states at once, of one family: three in CLOSE_WAIT, one of them never accepted; one established; one
    /// that has closed and waits for the other end; a listener; what is in TIME_WAIT and what was reset.
    fn a_mix(address: &str) -> Vec<OwnedFd> {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        let pair = || (TcpStream::connect(to).unwrap(), listener.accept().unwrap().0);
        let mut kept: Vec<OwnedFd> = Vec::new();
        for unread in [&b""[..], b"unread"] {
            let (mut client, server) = pair();
            client.write_all(unread).unwrap();
            kept.push(server.into());
        }
        let (client, server) = pair();
        kept.extend([client.into(), server.into()]);
        let (client, server) = pair();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        drop(server); // closed last: the client is left in TIME_WAIT
        drop(client);
        let (client, server) = pair();
        reset_on_close(&client);
        drop(client);
        kept.push(server.into());
        drop(TcpStream::connect(to).unwrap()); // in the accept queue
        kept.push(listener.into());
        kept
    }

    #[test]
    fn no_counter_bounds_below_what_is_there() {
        let Some(room) = Room::new() else { return };
        let namespace = room.found();
        let mut gate = Gate::new();
        assert_eq!(gate.bound(&namespace, 1).unwrap(), 0, "an empty namespace");
        assert!(gate.mptcp != Mptcp::Counted || gate.speaks_mptcp(&namespace) == Some(false));
        let mut kept = Vec::new();
        let trusted: Vec<_> = COUNTERS
            .into_iter()
            .filter(|counters| gate.curr_estab == Some(true) || !counters.curr_estab)
            .filter(|counters| gate.mptcp == Mptcp::Counted || counters.mptcp != Mptcp::Counted)
            .collect();
        for (round, address) in ["::1", "127.0.0.1", "::1", "127.0.0.1"].into_iter().enumerate() {
            kept.extend(namespace.inside(|| a_mix(address)).unwrap());
            if round > 1 {
                for family in [libc::AF_INET, libc::AF_INET6] {
                    // Only the accepted end stays.
                    kept.extend(namespace.inside(|| mptcp_pair(family).map(|(_, accepted)| accepted.into())).unwrap());
                }
            }
            let count = in_close_wait(&namespace);
            assert!(count >= 3 * (round as u64 + 1), "{count} in round {round}");
            assert!(round <= 1 || gate.speaks_mptcp(&namespace) != Some(false));
            for counters in &trusted {
                for enough in [0, 1, count, count + 1, u64::MAX] {
                    (gate.curr_estab, gate.mptcp) = (Some(counters.curr_estab), counters.mptcp);
                    let bound = gate.bound(&namespace, enough).unwrap();
                    assert!(bound >= count, "{counters:?}, enough {enough}: {bound} is less than {count}");
                }
            }
        }
        // It is a bound of this namespace, and of no other.
        let total = kept.len() as u64;
        (gate.curr_estab, gate.mptcp) = (Some(false), Mptcp::Uncounted);
        let bound = gate.bound(&namespace, 1).unwrap();
        assert!(bound <= 4 * total, "{bound} of {total}");
    }

    #[test]
    fn half_closed_sockets_alone_are_counted_one_by_one() {
        let Some(room) = Room::new() else { return };
        let namespace = room.found();
        let mut gate = Gate::new();
        let mut kept = Vec::new();
        for count in 1..=5 {
            kept.push(namespace.inside(|| mix_of_one("127.0.0.1")).unwrap());
            assert_eq!(in_close_wait(&namespace), count);
            let bound = gate.bound(&namespace, 1).unwrap();
            assert!(bound >= count, "{:?}, {:?}: {bound} of {count}", gate.curr_estab, gate.mptcp);
            if gate.curr_estab == Some(true) && gate.mptcp != Mptcp::Uncounted {
                assert_eq!(gate.bound(&namespace, count + 1).unwrap(), count, "no more than are there");
            }
        }
    }

    fn mix_of_one(address: &str) -> TcpStream {
        let listener = TcpListener::bind((address, 0)).unwrap();
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        listener.accept().unwrap().0
    }

    #[test]
    fn what_is_not_privileged_is_bounded_by_what_is_always_safe() {
        let mut own = super::super::namespaces::discover("/proc".as_ref(), &[]).unwrap().namespaces;
        let own = own.swap_remove(0);
        let held = mix_of_one("127.0.0.1");
        let mut gate = Gate { curr_estab: Some(false), ..Gate::new() };
        for _ in 0..2 {
            let bound = gate.bound(&own, 1).unwrap();
            assert!(bound >= in_close_wait(&own), "{bound}");
        }
        drop(held);
    }

    #[test]
    fn each_counter_is_added_where_it_is_trusted_and_read_no_further_than_needed() {
        let net = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(net.path().join(name), text).unwrap();
        let bound = |curr_estab, mptcp, enough| {
            let counters = Counters { curr_estab, mptcp };
            Files::below(net.path()).bound(counters, enough).map_err(|error| error.of(7).to_string())
        };
        write("sockstat", "sockets: used 90\nTCP: inuse 20 orphan 0\n");
        assert_eq!(bound(false, Mptcp::Absent, 1), Ok(20), "no IPv6");
        write("sockstat6", "TCP6: inuse 10\n");
        assert_eq!(bound(false, Mptcp::Absent, 1), Ok(30));
        assert_eq!(bound(true, Mptcp::Absent, 31), Ok(30), "no more is read");
        let unread = bound(true, Mptcp::Absent, 30).unwrap_err();
        assert!(unread.starts_with("cannot read snmp of network namespace 7: "), "{unread}");
        write("snmp", "Tcp: CurrEstab\nTcp: 12\n");
        assert_eq!(bound(true, Mptcp::Absent, 30), Ok(12));
        assert_eq!(bound(true, Mptcp::Uncounted, 1), Ok(12 + 90));
        assert!(bound(true, Mptcp::Counted, 13).unwrap_err().contains("protocols"));
        write("protocols", "MPTCPv6 2064 3\nMPTCP 1936 4\n");
        assert_eq!(bound(true, Mptcp::Counted, 13), Ok(12 + 7));
        assert_eq!(bound(false, Mptcp::Counted, 31), Ok(30 + 7));
        write("protocols", "TCP 1 2\n");
        assert!(bound(false, Mptcp::Counted, 31).unwrap_err().contains("lacks the expected counter"));
    }

    #[test]
    fn counters_are_read_by_their_names_and_an_absent_one_is_no_zero() {
        let snmp = b"Ip: Forwarding\nIp: 1\nTcp: RtoMin MaxConn CurrEstab InSegs\nTcp: 200 -1 7 461634\n";
        assert_eq!(curr_estab(snmp), Some(7));
        assert_eq!(curr_estab(b"Tcp: RtoMin InSegs\nTcp: 200 7\n"), None);
        assert_eq!(curr_estab(b"Tcp: CurrEstab\n"), None);
        let sockstat = b"sockets: used 16\nTCP: inuse 5 orphan 1 tw 2 alloc 9 mem 297\nUDP: inuse 3\n";
        assert_eq!(after(sockstat, "TCP:", "inuse"), Some(5));
        assert_eq!(after(sockstat, "sockets:", "used"), Some(16));
        assert_eq!(after(sockstat, "TCP6:", "inuse"), None);
        let protocols =
            b"protocol  size sockets  memory\nMPTCPv6   2064      3     297\nMPTCP     1936      4     297\n";
        assert_eq!(sockets_of_mptcp(protocols), Some(7));
        assert_eq!(sockets_of_mptcp(b"TCP 1 2 3\n"), None);
    }
}
