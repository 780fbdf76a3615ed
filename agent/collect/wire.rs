//! The bytes of sock_diag: requests as the kernel wants them, replies as it sends them.
//!
//! Pure: no socket, no clock. A length in a reply is never trusted: each is checked against the bytes that are
//! there, and what does not fit is an error, because a reply cut short must never read as fewer sockets.
//! Called by `netlink`, and by the fuzz target in `tests/fuzz`, which compiles this file alone.
//!
//! Formats: `include/uapi/linux/netlink.h` (header), `inet_diag.h` (request, reply, attributes), `tcp.h`
//! (`struct tcp_info`). All integers are of the host's byte order; ports and addresses are of the network's.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

/// TCP states as the kernel numbers them (`include/net/tcp_states.h`); a set of states is a mask of `1 << state`.
pub(super) const ESTABLISHED: u8 = 1;
pub(super) const FIN_WAIT_2: u8 = 5;
pub(super) const CLOSE_WAIT: u8 = 8;
pub(super) const LISTEN: u8 = 10;
/// `ESTABLISHED` (1) to `CLOSING` (11).
pub(super) const ALL_STATES: u32 = 0xffe;

const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;

const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21; // include/uapi/linux/sock_diag.h, Linux 4.5
const INET_DIAG_REQ_PROTOCOL: u16 = 3; // Linux 5.9
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_CGROUP_ID: u16 = 21; // Linux 5.8

const NETLINK_HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const SOCKID: usize = 48; // struct inet_diag_sockid: 2 + 2 + 16 + 16 + 4 + 8
const REPLY: usize = 4 + SOCKID + 20; // struct inet_diag_msg
const TIMER_KEEPALIVE: u8 = 2; // idiag_timer (inet_sk_diag_fill); in CLOSE_WAIT sk_timer is the keepalive's
const INFO_LAST_DATA_SENT: usize = 44; // tcpi_last_data_sent, after 8 bytes of flags and 9 u32
const INFO_LAST_DATA_RECV: usize = 52; // tcpi_last_data_recv
const INFO_BYTES_ACKED: usize = 120; // tcpi_bytes_acked, since Linux 4.1
const INFO_BYTES_RECEIVED: usize = 128; // tcpi_bytes_received
const INFO_DATA_SEGS_OUT: usize = 156; // tcpi_data_segs_out, since Linux 4.6
const INFO_LAST_ACK_RECV: usize = 56; // tcpi_last_ack_recv, three u32 later

/// Which walk is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// TCP, both families at once: the version 1 request, which the kernel reads as `AF_UNSPEC`.
    Both,
    /// TCP, one family: the version 2 request.
    V4,
    V6,
    /// Multipath TCP (Linux 5.9): the connections as their applications hold them. Their subflows are TCP sockets,
    /// which may stay established while the connection is in CLOSE_WAIT. There is no walk of both families: a
    /// kernel that does not know how to ask for MPTCP would answer it with its TCP sockets.
    MptcpV4,
    MptcpV6,
}

impl Walk {
    fn message_type(self) -> u16 {
        match self {
            Self::Both => TCPDIAG_GETSOCK,
            Self::V4 | Self::V6 | Self::MptcpV4 | Self::MptcpV6 => SOCK_DIAG_BY_FAMILY,
        }
    }

    /// Of one family, or of both.
    fn family(self) -> u8 {
        match self {
            Self::Both => libc::AF_UNSPEC as u8,
            Self::V4 | Self::MptcpV4 => AF_INET,
            Self::V6 | Self::MptcpV6 => AF_INET6,
        }
    }

    fn yields(self, family: u8) -> bool {
        match self {
            Self::Both => family == AF_INET || family == AF_INET6,
            _ => family == self.family(),
        }
    }

    fn is_mptcp(self) -> bool {
        matches!(self, Self::MptcpV4 | Self::MptcpV6)
    }
}

/// The request of one dump.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub walk: Walk,
    /// Only sockets in one of these states; the kernel filters.
    pub states: u32,
    /// Ask for `struct tcp_info`: 0.3 µs more a match, and it takes each socket's lock. Not read from MPTCP's replies.
    pub info: bool,
}

impl Request {
    /// The request's bytes, header included.
    pub fn encode(self, seq: u32, port: u32) -> Vec<u8> {
        let mut message = Vec::with_capacity(80);
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        let (walk, family) = (self.walk, self.walk.family());
        append(&mut message, walk.message_type(), flags, seq, port, |body| match walk {
            // struct inet_diag_req: family (ignored), src_len, dst_len, ext; sockid; states; dbs
            Walk::Both => {
                body.extend_from_slice(&[family, 0, 0, extensions(self.info)]);
                body.extend_from_slice(&[0; SOCKID]);
                body.extend_from_slice(&self.states.to_ne_bytes());
                body.extend_from_slice(&[0; 4]);
            }
            Walk::V4 | Walk::V6 => request_v2(body, family, IPPROTO_TCP, self.info, self.states, &[0; SOCKID]),
            // The number has nine bits, and goes into an attribute. The field for it then holds one that no kernel
            // serves: where the attribute is not known, the answer is ENOENT, and not other sockets.
            Walk::MptcpV4 | Walk::MptcpV6 => {
                request_v2(body, family, libc::IPPROTO_IP as u8, self.info, self.states, &[0; SOCKID]);
                body.extend_from_slice(&(ATTRIBUTE_HEADER as u16 + 4).to_ne_bytes());
                body.extend_from_slice(&INET_DIAG_REQ_PROTOCOL.to_ne_bytes());
                body.extend_from_slice(&(libc::IPPROTO_MPTCP as u32).to_ne_bytes());
            }
        });
        message
    }
}

const IPPROTO_TCP: u8 = libc::IPPROTO_TCP as u8;

fn extensions(info: bool) -> u8 {
    if info { 1 << (INET_DIAG_INFO - 1) } else { 0 }
}

/// `struct inet_diag_req_v2`: family, protocol, ext, pad; states; sockid.
fn request_v2(body: &mut Vec<u8>, family: u8, protocol: u8, info: bool, states: u32, sockid: &[u8; SOCKID]) {
    body.extend_from_slice(&[family, protocol, extensions(info), 0]);
    body.extend_from_slice(&states.to_ne_bytes());
    body.extend_from_slice(sockid);
}

/// Appends one message: its header, and what `body` writes.
fn append(to: &mut Vec<u8>, message_type: u16, flags: u16, seq: u32, port: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    to.extend_from_slice(&[0; 4]);
    to.extend_from_slice(&message_type.to_ne_bytes());
    to.extend_from_slice(&flags.to_ne_bytes());
    to.extend_from_slice(&seq.to_ne_bytes());
    to.extend_from_slice(&port.to_ne_bytes());
    body(to);
    let length = (to.len() - start) as u32;
    to[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Which socket it is: its family, addresses, ports, interface and cookie, kept as the kernel sent them, so that it
/// can be asked for again by itself. The cookie is of this boot and never given twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    family: u8,
    /// `struct inet_diag_sockid`: sport, dport, src, dst, if, cookie.
    sockid: [u8; SOCKID],
}

impl Identity {
    /// Of a socket that is known from elsewhere, where no cookie is told.
    pub fn without_cookie(local: SocketAddr, remote: SocketAddr) -> Self {
        let mut sockid = [0; SOCKID];
        sockid[..2].copy_from_slice(&local.port().to_be_bytes());
        sockid[2..4].copy_from_slice(&remote.port().to_be_bytes());
        let mut family = AF_INET;
        for (at, address) in [(4, local), (20, remote)] {
            match address {
                SocketAddr::V4(v4) => sockid[at..at + 4].copy_from_slice(&v4.ip().octets()),
                SocketAddr::V6(v6) => {
                    family = AF_INET6;
                    sockid[at..at + 16].copy_from_slice(&v6.ip().octets());
                    sockid[36..40].copy_from_slice(&v6.scope_id().to_ne_bytes());
                }
            }
        }
        Self { family, sockid }
    }

    pub fn local(&self) -> SocketAddr {
        self.address(part::<0, 2, _>(&self.sockid), part::<4, 16, _>(&self.sockid))
    }

    pub fn local_port(&self) -> u16 {
        u16::from_be_bytes(part::<0, 2, _>(&self.sockid))
    }

    pub fn remote(&self) -> SocketAddr {
        self.address(part::<2, 2, _>(&self.sockid), part::<20, 16, _>(&self.sockid))
    }

    /// 0 where it is not told (/proc).
    pub fn cookie(&self) -> u64 {
        u64::from(u32_in::<40, _>(&self.sockid)) | u64::from(u32_in::<44, _>(&self.sockid)) << 32
    }

    /// The same addresses, as another socket.
    #[cfg(test)]
    pub fn set_cookie(&mut self, cookie: u64) {
        self.sockid[40..44].copy_from_slice(&(cookie as u32).to_ne_bytes());
        self.sockid[44..].copy_from_slice(&((cookie >> 32) as u32).to_ne_bytes());
    }

    fn address(&self, port: [u8; 2], octets: [u8; 16]) -> SocketAddr {
        let port = u16::from_be_bytes(port);
        if self.family == AF_INET {
            return SocketAddrV4::new(Ipv4Addr::from(part::<0, 4, _>(&octets)), port).into();
        }
        let ip = Ipv6Addr::from(octets);
        let scope = if ip.is_unicast_link_local() { u32_in::<36, _>(&self.sockid) } else { 0 };
        SocketAddrV6::new(ip, port, 0, scope).into()
    }

    /// Appends a request for this one socket, with its `struct tcp_info`.
    pub fn encode_get(&self, to: &mut Vec<u8>, seq: u32, port: u32) {
        append(to, SOCK_DIAG_BY_FAMILY, libc::NLM_F_REQUEST as u16, seq, port, |body| {
            request_v2(body, self.family, IPPROTO_TCP, true, ALL_STATES, &self.sockid);
        });
    }

    /// Appends a request to destroy this one socket, which is acknowledged ([`parse_acknowledgement`]).
    pub fn encode_destroy(&self, to: &mut Vec<u8>, seq: u32, port: u32) {
        append(to, SOCK_DESTROY, (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16, seq, port, |body| {
            request_v2(body, self.family, IPPROTO_TCP, false, ALL_STATES, &self.sockid);
        });
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} (cookie {:#x})", self.local(), self.remote(), self.cookie())
    }
}

/// The dump that a reply must belong to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expect {
    pub walk: Walk,
    pub seq: u32,
    /// Our own netlink port, as the kernel assigned it.
    pub port: u32,
}

/// One socket, as the kernel says it is now. A field that an older kernel's shorter `struct tcp_info` lacks is not told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Entry {
    pub identity: Identity,
    pub state: u8,
    pub recv_q: u32,
    pub send_q: u32,
    pub uid: u32,
    pub inode: u32,
    pub cgroup_id: Option<u64>,
    pub last_ack_received: Option<Duration>,
    pub last_data_sent: Option<Duration>,
    pub last_data_received: Option<Duration>,
    /// Its next event is a keepalive: earlier ones may have been answered.
    pub keepalive: bool,
    /// Acknowledged and received, together; 0 where it is not told.
    pub bytes: u64,
}

/// How far a dump has come after one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// `NLMSG_DONE` was seen, without an error in it.
    pub done: bool,
    /// The kernel set `NLM_F_DUMP_INTR`: the table changed under the walk.
    pub interrupted: bool,
}

/// Why a reply was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParseError {
    #[error("the reply is cut short at byte {at} of {length}")]
    Truncated { at: usize, length: usize },
    #[error("the reply states a length of {stated} at byte {at}, which does not fit")]
    Length { at: usize, stated: usize },
    #[error("the reply belongs to another request (sequence {seq}, port {port})")]
    Foreign { seq: u32, port: u32 },
    #[error("the reply holds a message of type {found}, which was not asked for")]
    MessageType { found: u16 },
    #[error("the reply holds a socket of address family {found}, which was not asked for")]
    Family { found: u8 },
    #[error("the kernel says that messages were lost (NLMSG_OVERRUN)")]
    Overrun,
    /// From `NLMSG_ERROR`, or from inside `NLMSG_DONE`.
    #[error("the kernel answered with errno {0}")]
    Kernel(i32),
}

/// Reads one datagram of a dump, and hands each socket in it to `visit`.
///
/// Sockets that were visited before an error must be thrown away with it: a dump is whole or it is none.
pub(super) fn parse(datagram: &[u8], expect: &Expect, mut visit: impl FnMut(&Entry)) -> Result<Progress, ParseError> {
    let mut progress = Progress { done: false, interrupted: false };
    let mut at = 0;
    // At least one message must be there, and each turn goes on by at least a header.
    while at == 0 || at < datagram.len() {
        let message = Message::at(datagram, at)?;
        if message.seq != expect.seq || message.port != expect.port {
            return Err(message.foreign());
        }
        progress.interrupted |= i32::from(message.flags) & libc::NLM_F_DUMP_INTR != 0;
        match i32::from(message.kind) {
            _ if message.kind == expect.walk.message_type() => visit(&message.entry(expect.walk)?),
            libc::NLMSG_NOOP => {}
            // The dump's errors arrive in here: one that is overlooked reads as an empty table.
            // The kernel writes `-errno`; some kernels put a positive count here, which is no error.
            libc::NLMSG_DONE => match message.number()? {
                0.. => {
                    progress.done = true;
                    break;
                }
                error => return Err(ParseError::Kernel(error.saturating_neg())),
            },
            _ => return Err(message.unwanted()?),
        }
        at = at.saturating_add(align(message.stated));
    }
    Ok(progress)
}

/// Reads the answer to [`Identity::encode_get`], sent as `seq` from our netlink `port`: `None` where the socket is
/// gone, also where another one has its addresses now.
pub(super) fn parse_answer(datagram: &[u8], to: &Identity, seq: u32, port: u32) -> Result<Option<Entry>, ParseError> {
    let walk = if to.family == AF_INET { Walk::V4 } else { Walk::V6 };
    let message = Message::answer(datagram, seq, port)?;
    if message.kind == walk.message_type() {
        return Ok(Some(message.entry(walk)?));
    }
    match message.unwanted()? {
        ParseError::Kernel(libc::ENOENT | libc::ESTALE) => Ok(None),
        error => Err(error),
    }
}

/// Reads the answer to [`Identity::encode_destroy`]: false where the socket is gone, also where another one has its
/// addresses now.
pub(super) fn parse_acknowledgement(datagram: &[u8], seq: u32, port: u32) -> Result<bool, ParseError> {
    match Message::answer(datagram, seq, port)?.unwanted()? {
        ParseError::Kernel(0) => Ok(true),
        ParseError::Kernel(libc::ENOENT | libc::ESTALE) => Ok(false),
        error => Err(error),
    }
}

/// One netlink message of a datagram.
#[derive(Clone, Copy)]
struct Message<'a> {
    /// Where it starts in the datagram.
    at: usize,
    /// Its length, which was found to fit.
    stated: usize,
    kind: u16,
    flags: u16,
    seq: u32,
    port: u32,
    payload: &'a [u8],
    datagram: usize,
}

impl<'a> Message<'a> {
    fn at(datagram: &'a [u8], at: usize) -> Result<Self, ParseError> {
        let rest = datagram.get(at..).unwrap_or_default();
        let cut = ParseError::Truncated { at, length: datagram.len() };
        let header: &[u8; NETLINK_HEADER] = rest.first_chunk().ok_or(cut)?;
        let stated = u32_in::<0, _>(header) as usize;
        Ok(Self {
            at,
            stated,
            kind: u16::from_ne_bytes(part::<4, 2, _>(header)),
            flags: u16::from_ne_bytes(part::<6, 2, _>(header)),
            seq: u32_in::<8, _>(header),
            port: u32_in::<12, _>(header),
            payload: rest.get(NETLINK_HEADER..stated).ok_or(ParseError::Length { at, stated })?,
            datagram: datagram.len(),
        })
    }

    /// The only message of a datagram, which answers what was sent as `seq` from our `port`.
    fn answer(datagram: &'a [u8], seq: u32, port: u32) -> Result<Self, ParseError> {
        let message = Self::at(datagram, 0)?;
        if message.seq == seq && message.port == port { Ok(message) } else { Err(message.foreign()) }
    }

    fn foreign(self) -> ParseError {
        ParseError::Foreign { seq: self.seq, port: self.port }
    }

    /// The error of a message that is neither a socket nor the end of the dump.
    fn unwanted(self) -> Result<ParseError, ParseError> {
        Ok(match i32::from(self.kind) {
            libc::NLMSG_OVERRUN => ParseError::Overrun,
            // An "error" of zero is an acknowledgement, which is asked for only where a socket is destroyed.
            // The kernel writes `-errno`; whatever else is there is no acknowledgement.
            libc::NLMSG_ERROR => ParseError::Kernel(self.number()?.saturating_abs()),
            _ => ParseError::MessageType { found: self.kind },
        })
    }

    /// The first word behind the header: of an end and of an error, how it went.
    fn number(self) -> Result<i32, ParseError> {
        let cut = ParseError::Truncated { at: self.at, length: self.datagram };
        self.payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(cut)
    }

    /// Reads a `struct inet_diag_msg` and the attributes behind it. Once a socket: where it is a call, what it returns is
    /// copied, and the copy waits for what was just written: a third of the time that a socket takes here.
    #[inline(always)]
    fn entry(self, walk: Walk) -> Result<Entry, ParseError> {
        let cut = ParseError::Truncated { at: self.at, length: self.payload.len() };
        let (fixed, mut attributes) = self.payload.split_first_chunk::<REPLY>().ok_or(cut)?;
        let family = fixed[0];
        if !walk.yields(family) {
            return Err(ParseError::Family { found: family });
        }
        let mut found = Entry {
            identity: Identity { family, sockid: part::<4, SOCKID, _>(fixed) },
            state: fixed[1],
            recv_q: u32_in::<56, _>(fixed),
            send_q: u32_in::<60, _>(fixed),
            uid: u32_in::<64, _>(fixed),
            inode: u32_in::<68, _>(fixed),
            cgroup_id: None,
            last_ack_received: None,
            last_data_sent: None,
            last_data_received: None,
            keepalive: fixed[2] == TIMER_KEEPALIVE,
            bytes: 0,
        };
        while !attributes.is_empty() {
            let header: &[u8; ATTRIBUTE_HEADER] = attributes.first_chunk().ok_or(cut)?;
            let stated = usize::from(u16::from_ne_bytes(part::<0, 2, _>(header)));
            let value = attributes.get(ATTRIBUTE_HEADER..stated).ok_or_else(|| {
                let at = self.at + NETLINK_HEADER + self.payload.len() - attributes.len();
                ParseError::Length { at, stated }
            })?;
            match u16::from_ne_bytes(part::<2, 2, _>(header)) {
                INET_DIAG_CGROUP_ID => {
                    found.cgroup_id = Some(u64::from_ne_bytes(*value.first_chunk().ok_or(cut)?));
                }
                // MPTCP's is another struct, of which nothing is read.
                INET_DIAG_INFO if !walk.is_mptcp() => {
                    // It counts from the connection's beginning where nothing was ever sent.
                    let never = value.get(INFO_DATA_SEGS_OUT..INFO_DATA_SEGS_OUT + 4) == Some(&[0; 4]);
                    found.last_data_sent = milliseconds(value, INFO_LAST_DATA_SENT).filter(|_| !never);
                    found.last_ack_received = milliseconds(value, INFO_LAST_ACK_RECV);
                    found.last_data_received = milliseconds(value, INFO_LAST_DATA_RECV);
                    found.bytes = u64_at(value, INFO_BYTES_ACKED).saturating_add(u64_at(value, INFO_BYTES_RECEIVED));
                }
                _ => {}
            }
            attributes = attributes.get(align(stated)..).unwrap_or_default();
        }
        Ok(found)
    }
}

fn milliseconds(info: &[u8], at: usize) -> Option<Duration> {
    let bytes = info.get(at..)?.first_chunk()?;
    Some(Duration::from_millis(u32::from_ne_bytes(*bytes).into()))
}

/// 0 where an older kernel's struct ends before.
fn u64_at(info: &[u8], at: usize) -> u64 {
    info.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// Messages and attributes start at multiples of four.
fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// `N` bytes at `AT` of a fixed layout; bytes that it does not have do not compile.
#[inline]
fn part<const AT: usize, const N: usize, const LENGTH: usize>(of: &[u8; LENGTH]) -> [u8; N] {
    const { assert!(AT + N <= LENGTH) };
    let mut part = [0; N];
    part.copy_from_slice(&of[AT..AT + N]);
    part
}

#[inline]
fn u32_in<const AT: usize, const LENGTH: usize>(of: &[u8; LENGTH]) -> u32 {
    u32::from_ne_bytes(part::<AT, 4, LENGTH>(of))
}

#[cfg(test)]
mod tests;
