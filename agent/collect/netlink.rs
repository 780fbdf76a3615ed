//! One NETLINK_SOCK_DIAG socket: a dump over it from request to `NLMSG_DONE`, and single sockets by their identity.
//!
//! Keeps nothing between requests but the socket and its buffer. A socket on which a request has failed is closed: what
//! the kernel still had to say on it belongs to nobody. Called by the collector alone.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recvmsg, send,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;

use super::wire::{Entry, Expect, Identity, ParseError, Progress, Request, parse, parse_acknowledgement, parse_answer};

const BUFFER_BYTES: usize = 64 * 1024; // the kernel fills at most 32 KiB at a time (af_netlink.c, netlink_dump)
/// The answers wait in the socket's receive buffer (net.core.rmem_default, 208 KiB), at up to 2 KiB each.
const GETS_AT_A_TIME: usize = 32;
const RECEIVE_TIMEOUT: TimeVal = TimeVal::new(2, 0); // a walk of 300k sockets takes 0.1 s

/// Why a dump gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DumpError {
    #[error("cannot open a NETLINK_SOCK_DIAG socket: {0}")]
    Open(Errno),
    #[error(
        "the netlink socket of another network namespace was closed after a failure; the next look opens a new one"
    )]
    Closed,
    #[error("cannot send a sock_diag request: {0}")]
    Send(Errno),
    /// ENOBUFS here means that the kernel dropped replies.
    #[error("cannot receive a sock_diag reply: {0}")]
    Receive(Errno),
    #[error("no sock_diag reply within 2 seconds")]
    TimedOut,
    #[error("a sock_diag reply of {length} bytes, more than the buffer of {BUFFER_BYTES}")]
    Oversized { length: usize },
    #[error(transparent)]
    Parse(#[from] ParseError),
}

impl DumpError {
    /// The kernel (or a sandbox) does not do this kind of request at all: another source may serve. Everything
    /// else is a failure of this one dump, which no other source makes good.
    pub fn is_refusal(self) -> bool {
        let errno = match self {
            Self::Open(errno) | Self::Send(errno) => errno,
            Self::Parse(ParseError::Kernel(number)) => Errno::from_raw(number),
            _ => return false,
        };
        matches!(
            errno,
            Errno::ENOENT
                | Errno::EINVAL
                | Errno::EPERM
                | Errno::EACCES
                | Errno::EOPNOTSUPP
                | Errno::EPROTONOSUPPORT
                | Errno::ESOCKTNOSUPPORT
                | Errno::EAFNOSUPPORT
                | Errno::ECONNREFUSED
        )
    }
}

/// The socket while it is open, and the buffer that every reply is read into.
///
/// It sees the network namespace of the thread that opened its socket, also from other threads, and keeps that
/// namespace alive while it lives.
#[derive(Debug)]
pub(super) struct Diag {
    open: Option<(OwnedFd, u32)>,
    /// True where the next request may open a closed socket again; false where that would open one of another
    /// namespace.
    reopens: bool,
    seq: u32,
    buffer: Box<[u8]>,
    requests: Vec<u8>,
}

impl Diag {
    /// For the namespace of whoever asks first. The socket is opened then, and again after a failure.
    pub fn new() -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self { open: None, reopens: true, seq: 0, buffer, requests: Vec::new() }
    }

    /// For the namespace of the calling thread, and for no other: after a failure it answers
    /// [`DumpError::Closed`], since whoever asks again may be at home elsewhere.
    pub fn here() -> Result<Self, DumpError> {
        Ok(Self { open: Some(open().map_err(DumpError::Open)?), reopens: false, ..Self::new() })
    }

    /// Runs one dump to its end. Returns whether the kernel said that the table changed under it.
    /// After an error, what was visited is not the table and must be thrown away.
    pub fn dump(&mut self, request: Request, mut visit: impl FnMut(&Entry)) -> Result<bool, DumpError> {
        let (socket, port) = self.take()?;
        self.seq = self.seq.wrapping_add(1);
        let expect = Expect { walk: request.walk, seq: self.seq, port };
        send(socket.as_raw_fd(), &request.encode(self.seq, port), MsgFlags::empty()).map_err(DumpError::Send)?;
        let mut interrupted = false;
        loop {
            let Some(length) = receive(&socket, &mut self.buffer)? else { continue };
            let Progress { done, interrupted: now } = parse(&self.buffer[..length], &expect, &mut visit)?;
            interrupted |= now;
            if done {
                self.open = Some((socket, port));
                return Ok(interrupted);
            }
        }
    }

    /// Asks for each of these TCP sockets by itself, and hands on its place in `of` and what the kernel says of it
    /// now: `None` where it is gone. In the order of `of`. It takes each socket's lock for a moment.
    /// After an error, what was handed on before it is so.
    pub fn infos(&mut self, of: &[Identity], mut visit: impl FnMut(usize, Option<Entry>)) -> Result<(), DumpError> {
        for (batch, identities) in of.chunks(GETS_AT_A_TIME).enumerate() {
            let (socket, port) = self.take()?;
            let first = self.seq.wrapping_add(1);
            let numbered = identities.iter().zip(0..).map(|(identity, n)| (identity, first.wrapping_add(n)));
            self.requests.clear();
            for (identity, seq) in numbered.clone() {
                identity.encode_get(&mut self.requests, seq, port);
                self.seq = seq;
            }
            send(socket.as_raw_fd(), &self.requests, MsgFlags::empty()).map_err(DumpError::Send)?;
            // The kernel answers one after the other, each in a datagram of its own, before `send` returns.
            for (n, (identity, seq)) in numbered.enumerate() {
                let length = loop {
                    if let Some(length) = receive(&socket, &mut self.buffer)? {
                        break length;
                    }
                };
                visit(batch * GETS_AT_A_TIME + n, parse_answer(&self.buffer[..length], identity, seq, port)?);
            }
            self.open = Some((socket, port));
        }
        Ok(())
    }

    /// Destroys one TCP socket of whatever state (tcp_abort): its peer gets a reset, its application an error, and the
    /// descriptor stays open. False where it is gone. Needs CAP_NET_ADMIN over its network namespace.
    pub fn destroy(&mut self, of: &Identity) -> Result<bool, DumpError> {
        let (socket, port) = self.take()?;
        self.seq = self.seq.wrapping_add(1);
        self.requests.clear();
        of.encode_destroy(&mut self.requests, self.seq, port);
        send(socket.as_raw_fd(), &self.requests, MsgFlags::empty()).map_err(DumpError::Send)?;
        let length = loop {
            if let Some(length) = receive(&socket, &mut self.buffer)? {
                break length;
            }
        };
        let destroyed = parse_acknowledgement(&self.buffer[..length], self.seq, port)?;
        self.open = Some((socket, port));
        Ok(destroyed)
    }

    /// The socket, which goes back when nothing is left unread on it.
    fn take(&mut self) -> Result<(OwnedFd, u32), DumpError> {
        match self.open.take() {
            Some(open) => Ok(open),
            None if self.reopens => open().map_err(DumpError::Open),
            None => Err(DumpError::Closed),
        }
    }
}

fn open() -> Result<(OwnedFd, u32), Errno> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&fd, ReceiveTimeout, &RECEIVE_TIMEOUT)?;
    let own: NetlinkAddr = getsockname(fd.as_raw_fd())?;
    Ok((fd, own.pid()))
}

/// Reads one datagram; `None` for one that did not come from the kernel, or where a signal came first.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<usize>, DumpError> {
    let room = buffer.len();
    let mut slices = [IoSliceMut::new(buffer)];
    // With MSG_TRUNC the kernel tells the datagram's true length, also where it did not fit.
    match recvmsg::<NetlinkAddr>(socket.as_raw_fd(), &mut slices, None, MsgFlags::MSG_TRUNC) {
        Ok(message) if message.address.is_none_or(|from| from.pid() != 0) => Ok(None),
        Ok(message) if message.bytes > room => Err(DumpError::Oversized { length: message.bytes }),
        Ok(message) => Ok(Some(message.bytes)),
        Err(Errno::EINTR) => Ok(None),
        Err(Errno::EAGAIN) => Err(DumpError::TimedOut),
        Err(errno) => Err(DumpError::Receive(errno)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::FromRawFd;

    use super::super::proc_table;
    use super::super::wire::{ALL_STATES, CLOSE_WAIT, ESTABLISHED, LISTEN, Walk};
    use super::*;

    /// A connection whose client has closed; the server's end, in CLOSE_WAIT.
    fn leak(listener: &TcpListener) -> TcpStream {
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        listener.accept().unwrap().0
    }

    fn dump(diag: &mut Diag, walk: Walk, states: u32) -> Vec<Entry> {
        let mut entries = Vec::new();
        diag.dump(Request { walk, states, info: false }, |entry| entries.push(*entry)).unwrap();
        entries
    }

    fn identity(diag: &mut Diag, of: &TcpStream) -> Identity {
        let addresses = (of.local_addr().unwrap(), of.peer_addr().unwrap());
        let entries = dump(diag, Walk::Both, ALL_STATES);
        entries.iter().map(|e| e.identity).find(|id| (id.local(), id.remote()) == addresses).expect("it is there")
    }

    fn infos(diag: &mut Diag, of: &[Identity]) -> Vec<Option<Entry>> {
        let mut answers = Vec::new();
        diag.infos(of, |index, info| {
            assert_eq!(index, answers.len());
            answers.push(info);
        })
        .unwrap();
        answers
    }

    #[test]
    fn one_socket_is_asked_for_by_itself_until_it_is_gone() {
        let mut diag = Diag::new();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let (held, other) = (leak(&listener), leak(&listener));
            let (first, second) = (identity(&mut diag, &held), identity(&mut diag, &other));
            std::thread::sleep(std::time::Duration::from_millis(30)); // ages are the kernel's
            let answers = infos(&mut diag, &[first, second]);
            for info in answers {
                let info = info.expect("both are there");
                assert_eq!(info.state, CLOSE_WAIT);
                assert!(info.last_ack_received.unwrap().as_millis() >= 20, "in jiffies of up to 10 ms: {info:?}");
                assert_eq!(info.last_data_sent, None, "nothing was ever sent");
            }
            drop(held);
            let answers = infos(&mut diag, &[first, second]);
            assert!(answers[0].is_none_or(|info| info.state != CLOSE_WAIT), "{answers:?}");
            assert_eq!(answers[1].map(|info| info.state), Some(CLOSE_WAIT), "the one beside it is answered");
        }
    }

    #[test]
    fn that_data_was_sent_is_told_of_a_socket_that_has_sent_some() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut server, b"an answer").unwrap();
        std::io::Read::read_exact(&mut client, &mut [0; 9]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        std::io::copy(&mut server, &mut std::io::sink()).unwrap(); // the end of file has come
        let mut diag = Diag::new();
        let of = identity(&mut diag, &server);
        let sent = infos(&mut diag, &[of])[0].expect("it is there").last_data_sent.expect("it has sent");
        assert!(sent < std::time::Duration::from_secs(10), "{sent:?}");
    }

    #[test]
    fn another_socket_on_the_same_addresses_is_not_taken_for_the_one_that_was_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (held, mut diag) = (leak(&listener), Diag::new());
        let is = identity(&mut diag, &held);
        let mut was = is;
        was.set_cookie(is.cookie() + 1_000_000);
        assert_eq!(infos(&mut diag, &[was, is]).iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn more_sockets_than_fit_a_batch_are_answered_in_their_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut held: Vec<_> = (0..2 * GETS_AT_A_TIME + 1).map(|_| leak(&listener)).collect();
        let mut diag = Diag::new();
        let port = listener.local_addr().unwrap().port();
        let of: Vec<_> = dump(&mut diag, Walk::V4, 1 << CLOSE_WAIT)
            .iter()
            .map(|entry| entry.identity)
            .filter(|identity| identity.local().port() == port)
            .collect();
        assert_eq!(of.len(), held.len());
        assert!(infos(&mut diag, &of).iter().all(|info| info.is_some_and(|info| info.state == CLOSE_WAIT)));
        // Every third goes; its reset takes it out of the table at once.
        let mut gone = Vec::new();
        for index in (0..held.len()).rev().step_by(3) {
            let stream = held.swap_remove(index);
            gone.push(stream.peer_addr().unwrap());
            reset_on_close(&stream);
        }
        for (identity, info) in of.iter().zip(infos(&mut diag, &of)) {
            assert_eq!(info.is_none(), gone.contains(&identity.remote()), "{identity:?}: {info:?}");
        }
    }

    /// Closing it then sends a reset, and leaves nothing behind.
    pub fn reset_on_close(stream: &TcpStream) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
    }

    #[test]
    fn every_source_gives_the_same_sockets_in_every_state() {
        let listeners = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::]:0").unwrap()];
        let _held: Vec<_> = listeners.iter().flat_map(|l| [leak(l), leak(l)]).collect();
        let _established = TcpStream::connect(listeners[1].local_addr().unwrap()).unwrap();
        let _mapped = TcpStream::connect(("127.0.0.1", listeners[1].local_addr().unwrap().port())).unwrap();
        let ports = listeners.each_ref().map(|l| l.local_addr().unwrap().port());
        let ours = |entries: Vec<Entry>| {
            let mut seen: Vec<_> = entries
                .iter()
                // A listener's send_q is its backlog, which /proc does not tell.
                .map(|e| (e, if e.state == LISTEN { 0 } else { e.send_q }))
                .map(|(e, send_q)| (e.identity.local(), e.identity.remote(), e.state, e.inode, e.uid, e.recv_q, send_q))
                // The ends that have closed change their state by themselves.
                .filter(|(local, _, state, ..)| ports.contains(&local.port()) || *state == ESTABLISHED)
                .filter(|(local, remote, ..)| ports.contains(&local.port()) || ports.contains(&remote.port()))
                .collect();
            seen.sort();
            seen
        };
        let mut diag = Diag::new();
        let one_walk = ours(dump(&mut diag, Walk::Both, ALL_STATES));
        let by_family = [Walk::V4, Walk::V6].map(|walk| dump(&mut diag, walk, ALL_STATES)).concat();
        let from_proc = proc_table::walk("/proc/net".as_ref()).unwrap().collect();
        assert_eq!(one_walk.len(), 2 + 4 + 2 + 2, "{one_walk:?}");
        assert_eq!(one_walk, ours(by_family));
        assert_eq!(one_walk, ours(from_proc));
    }

    #[test]
    fn a_connection_of_mptcp_is_in_close_wait_only_to_who_asks_for_mptcp() {
        for (walk, other, family) in
            [(Walk::MptcpV4, Walk::MptcpV6, libc::AF_INET), (Walk::MptcpV6, Walk::MptcpV4, libc::AF_INET6)]
        {
            let Some((client, accepted)) = mptcp_pair(family) else {
                eprintln!("skipped: this kernel has no MPTCP, or it is switched off");
                return;
            };
            let (local, remote) = (accepted.local_addr().unwrap(), accepted.peer_addr().unwrap());
            drop(client);
            let mut diag = Diag::new();
            let find = |diag: &mut Diag, walk| {
                let mut found = dump(diag, walk, 1 << CLOSE_WAIT);
                found.retain(|e| (e.identity.local(), e.identity.remote()) == (local, remote));
                found
            };
            let deadline = std::time::Duration::from_secs(10);
            let mut waited = std::time::Duration::ZERO;
            let mut found = find(&mut diag, walk);
            while found.is_empty() && waited < deadline {
                std::thread::sleep(std::time::Duration::from_millis(10));
                waited += std::time::Duration::from_millis(10);
                found = find(&mut diag, walk);
            }
            let inode = nix::sys::stat::fstat(&accepted).unwrap().st_ino;
            assert_eq!(found.iter().map(|e| u64::from(e.inode)).collect::<Vec<_>>(), [inode]);
            assert!(found[0].cgroup_id.is_some() && found[0].identity.cookie() != 0);
            assert_eq!(found[0].last_ack_received, None, "its info is another struct");
            assert_eq!(find(&mut diag, other), [], "the other family's walk");
        }
    }

    /// Both ends of a connection over the loopback that MPTCP carries; `None` where the kernel makes none.
    pub fn mptcp_pair(family: i32) -> Option<(TcpStream, TcpStream)> {
        // SAFETY: no memory is passed; the descriptor is new and ours.
        let socket = || unsafe {
            let fd = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_MPTCP);
            (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
        };
        let (listening, connecting) = (socket()?, socket()?);
        // Without a bind, the kernel chooses a port.
        nix::sys::socket::listen(&listening, nix::sys::socket::Backlog::new(8).unwrap()).unwrap();
        let listener = TcpListener::from(listening);
        let port = listener.local_addr().unwrap().port().to_be();
        // SAFETY: plain data, all zeros are valid.
        let (mut v4, mut v6): (libc::sockaddr_in, libc::sockaddr_in6) = unsafe { std::mem::zeroed() };
        v4.sin_family = libc::AF_INET as u16;
        v4.sin_port = port;
        v4.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        v6.sin6_family = libc::AF_INET6 as u16;
        v6.sin6_port = port;
        v6.sin6_addr.s6_addr = std::net::Ipv6Addr::LOCALHOST.octets();
        // SAFETY: the address outlives the call, and its own size is passed.
        let connected = unsafe {
            let fd = connecting.as_raw_fd();
            if family == libc::AF_INET {
                libc::connect(fd, (&raw const v4).cast(), size_of_val(&v4) as u32)
            } else {
                libc::connect(fd, (&raw const v6).cast(), size_of_val(&v6) as u32)
            }
        };
        assert_eq!(connected, 0, "{}", std::io::Error::last_os_error());
        Some((TcpStream::from(connecting), listener.accept().unwrap().0))
    }

    #[test]
    fn a_socket_of_another_namespace_is_never_opened_again_in_this_one() {
        let mut diag = Diag::here().unwrap();
        dump(&mut diag, Walk::Both, ALL_STATES);
        diag.open = None; // as after a failure
        let request = Request { walk: Walk::Both, states: ALL_STATES, info: false };
        assert_eq!(diag.dump(request, |_| {}), Err(DumpError::Closed));
    }
}
