//! The bytes of sock_diag: requests as the kernel wants them, replies as it sends them.
//!
//! Pure: no socket, no clock. A length in a reply is never trusted: each is checked against the bytes that are
//! there, and what does not fit is an error, because a reply cut short must never read as fewer sockets.
//! Called by `netlink` alone.
//!
//! Formats: `include/uapi/linux/netlink.h` (header), `inet_diag.h` (request, reply, attributes), `tcp.h`
//! (`struct tcp_info`). All integers are of the host's byte order; ports and addresses are of the network's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// TCP states as the kernel numbers them (`include/net/tcp_states.h`); a set of states is a mask of `1 << state`.
pub(super) const ESTABLISHED: u8 = 1;
pub(super) const CLOSE_WAIT: u8 = 8;
pub(super) const LISTEN: u8 = 10;
/// `ESTABLISHED` (1) to `CLOSING` (11).
pub(super) const ALL_STATES: u32 = 0xffe;

/// As `ss` spells them, by the kernel's number.
const STATE_NAMES: [&str; 12] = [
    "UNKNOWN",
    "ESTAB",
    "SYN-SENT",
    "SYN-RECV",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "UNCONN",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
];

/// The name that `ss` gives to a state.
pub(super) fn state_name(state: u8) -> &'static str {
    STATE_NAMES.get(usize::from(state)).copied().unwrap_or(STATE_NAMES[0])
}

const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_CGROUP_ID: u16 = 21;

const NETLINK_HEADER: usize = 16;
const SOCKID: usize = 48; // struct inet_diag_sockid: 2 + 2 + 16 + 16 + 4 + 8
const REPLY: usize = 4 + SOCKID + 20; // struct inet_diag_msg
const INFO_LAST_DATA_SENT: usize = 44; // tcpi_last_data_sent, after 8 bytes of flags and 9 u32
const INFO_LAST_ACK_RECV: usize = 56; // tcpi_last_ack_recv, three u32 later

/// Which walk is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// Both families at once: the version 1 request, which the kernel reads as `AF_UNSPEC`.
    Both,
    /// One family: the version 2 request.
    V4,
    V6,
}

impl Walk {
    fn message_type(self) -> u16 {
        match self {
            Self::Both => TCPDIAG_GETSOCK,
            Self::V4 | Self::V6 => SOCK_DIAG_BY_FAMILY,
        }
    }

    fn yields(self, family: u8) -> bool {
        let (v4, v6) = (libc::AF_INET as u8, libc::AF_INET6 as u8);
        match self {
            Self::Both => family == v4 || family == v6,
            Self::V4 => family == v4,
            Self::V6 => family == v6,
        }
    }
}

/// What one dump asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub walk: Walk,
    /// Only sockets in one of these states; the kernel filters.
    pub states: u32,
    /// Ask for `struct tcp_info`: 0.3 µs more a match, and it takes each socket's lock.
    pub info: bool,
}

impl Request {
    /// The request's bytes, header included.
    pub fn encode(self, seq: u32, port: u32) -> Vec<u8> {
        let extensions: u8 = if self.info { 1 << (INET_DIAG_INFO - 1) } else { 0 };
        let mut body = Vec::with_capacity(60);
        match self.walk {
            // struct inet_diag_req: family (ignored), src_len, dst_len, ext; sockid; states; dbs
            Walk::Both => {
                body.extend_from_slice(&[libc::AF_UNSPEC as u8, 0, 0, extensions]);
                body.extend_from_slice(&[0; SOCKID]);
                body.extend_from_slice(&self.states.to_ne_bytes());
                body.extend_from_slice(&[0; 4]);
            }
            // struct inet_diag_req_v2: family, protocol, ext, pad; states; sockid
            Walk::V4 | Walk::V6 => {
                let family = if self.walk == Walk::V4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
                body.extend_from_slice(&[family, libc::IPPROTO_TCP as u8, extensions, 0]);
                body.extend_from_slice(&self.states.to_ne_bytes());
                body.extend_from_slice(&[0; SOCKID]);
            }
        }
        let mut message = Vec::with_capacity(NETLINK_HEADER + body.len());
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        message.extend_from_slice(&((NETLINK_HEADER + body.len()) as u32).to_ne_bytes());
        message.extend_from_slice(&self.walk.message_type().to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&seq.to_ne_bytes());
        message.extend_from_slice(&port.to_ne_bytes());
        message.extend_from_slice(&body);
        message
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

/// One socket of a dump, decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Entry {
    pub state: u8,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub cookie: u64,
    pub recv_q: u32,
    pub send_q: u32,
    pub uid: u32,
    pub inode: u32,
    pub cgroup_id: Option<u64>,
    pub last_ack_received: Option<Duration>,
    pub last_data_sent: Option<Duration>,
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
pub(super) fn parse(datagram: &[u8], expect: &Expect, mut visit: impl FnMut(Entry)) -> Result<Progress, ParseError> {
    let mut progress = Progress { done: false, interrupted: false };
    let mut at = 0;
    loop {
        // At least one message must be there, and each turn goes on by at least a header.
        let rest = datagram.get(at..).unwrap_or_default();
        if at > 0 && rest.is_empty() {
            return Ok(progress);
        }
        let cut = ParseError::Truncated { at, length: datagram.len() };
        let header = rest.get(..NETLINK_HEADER).ok_or(cut)?;
        let stated = u32_at(header, 0).ok_or(cut)? as usize;
        if stated < NETLINK_HEADER || stated > rest.len() {
            return Err(ParseError::Length { at, stated });
        }
        let message_type = u16_at(header, 4).ok_or(cut)?;
        let flags = u16_at(header, 6).ok_or(cut)?;
        let (seq, port) = (u32_at(header, 8).ok_or(cut)?, u32_at(header, 12).ok_or(cut)?);
        if seq != expect.seq || port != expect.port {
            return Err(ParseError::Foreign { seq, port });
        }
        progress.interrupted |= i32::from(flags) & libc::NLM_F_DUMP_INTR != 0;
        let payload = &rest[NETLINK_HEADER..stated];
        match i32::from(message_type) {
            libc::NLMSG_NOOP => {}
            libc::NLMSG_OVERRUN => return Err(ParseError::Overrun),
            // We ask for no acknowledgement, so that an "error" of zero is none of ours to interpret.
            libc::NLMSG_ERROR => return Err(ParseError::Kernel(error_number(payload).ok_or(cut)?)),
            // The dump's errors arrive in here: one that is overlooked reads as an empty table.
            libc::NLMSG_DONE => match error_number(payload).ok_or(cut)? {
                0 => {
                    progress.done = true;
                    return Ok(progress);
                }
                error => return Err(ParseError::Kernel(error)),
            },
            _ if message_type == expect.walk.message_type() => visit(entry(payload, at, expect.walk)?),
            _ => return Err(ParseError::MessageType { found: message_type }),
        }
        at += align(stated);
    }
}

/// Messages and attributes start at multiples of four.
fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The kernel writes `-errno`; a positive count, which some kernels put into `NLMSG_DONE`, is no error.
fn error_number(payload: &[u8]) -> Option<i32> {
    u32_at(payload, 0).map(|value| (value as i32).min(0).saturating_neg())
}

/// Reads a `struct inet_diag_msg` and the attributes behind it. `at` is where its message starts.
fn entry(payload: &[u8], at: usize, walk: Walk) -> Result<Entry, ParseError> {
    let cut = ParseError::Truncated { at, length: payload.len() };
    let fixed = payload.get(..REPLY).ok_or(cut)?;
    let family = fixed[0];
    if !walk.yields(family) {
        return Err(ParseError::Family { found: family });
    }
    let word = |offset| u32_at(fixed, offset).ok_or(cut);
    let interface = word(40)?;
    let address = |port_at: usize, address_at: usize| -> Option<SocketAddr> {
        let port = u16::from_be_bytes(fixed.get(port_at..port_at + 2)?.try_into().ok()?);
        let octets: [u8; 16] = fixed.get(address_at..address_at + 16)?.try_into().ok()?;
        if family == libc::AF_INET as u8 {
            return Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3])), port));
        }
        let ip = Ipv6Addr::from(octets);
        let scope = if ip.is_unicast_link_local() { interface } else { 0 };
        Some(SocketAddrV6::new(ip, port, 0, scope).into())
    };
    let mut found = Entry {
        state: fixed[1],
        local: address(4, 8).ok_or(cut)?,
        remote: address(6, 24).ok_or(cut)?,
        cookie: u64::from(word(44)?) | u64::from(word(48)?) << 32,
        recv_q: word(56)?,
        send_q: word(60)?,
        uid: word(64)?,
        inode: word(68)?,
        cgroup_id: None,
        last_ack_received: None,
        last_data_sent: None,
    };
    let mut offset = REPLY;
    while let Some(rest) = payload.get(offset..).filter(|rest| !rest.is_empty()) {
        let stated = usize::from(u16_at(rest, 0).ok_or(cut)?);
        if stated < 4 || stated > rest.len() {
            return Err(ParseError::Length { at: at + NETLINK_HEADER + offset, stated });
        }
        let value = &rest[4..stated];
        match u16_at(rest, 2).ok_or(cut)? {
            INET_DIAG_CGROUP_ID => {
                let bytes = value.get(..8).and_then(|v| v.try_into().ok()).ok_or(cut)?;
                found.cgroup_id = Some(u64::from_ne_bytes(bytes));
            }
            // Older kernels send a shorter struct: a field that is not there is not told.
            INET_DIAG_INFO => {
                let milliseconds = |at| u32_at(value, at).map(|ms| Duration::from_millis(ms.into()));
                found.last_data_sent = milliseconds(INFO_LAST_DATA_SENT);
                found.last_ack_received = milliseconds(INFO_LAST_ACK_RECV);
            }
            _ => {}
        }
        offset += align(stated);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXPECT: Expect = Expect { walk: Walk::Both, seq: 7, port: 4242 };

    fn message(message_type: u16, flags: u16, seq: u32, port: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&((NETLINK_HEADER + payload.len()) as u32).to_ne_bytes());
        bytes.extend_from_slice(&message_type.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&seq.to_ne_bytes());
        bytes.extend_from_slice(&port.to_ne_bytes());
        bytes.extend_from_slice(payload);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    fn ours(message_type: i32, payload: &[u8]) -> Vec<u8> {
        message(message_type as u16, 0, EXPECT.seq, EXPECT.port, payload)
    }

    /// 10.0.0.1:51000 to 10.0.0.2:6379 in CLOSE_WAIT, with its attributes.
    fn socket(family: i32) -> Vec<u8> {
        let mut body = vec![family as u8, CLOSE_WAIT, 0, 0];
        body.extend_from_slice(&51_000u16.to_be_bytes());
        body.extend_from_slice(&6379u16.to_be_bytes());
        body.extend_from_slice(&[10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        body.extend_from_slice(&[10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for word in [0u32, 0x11, 0x22, 0, 1, 9, 33, 123_456] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        body.extend_from_slice(&attribute(INET_DIAG_CGROUP_ID, &77u64.to_ne_bytes()));
        let mut info = vec![0; 64];
        info[INFO_LAST_DATA_SENT..][..4].copy_from_slice(&1500u32.to_ne_bytes());
        info[INFO_LAST_ACK_RECV..][..4].copy_from_slice(&2500u32.to_ne_bytes());
        body.extend_from_slice(&attribute(INET_DIAG_INFO, &info));
        body
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    fn read(datagram: &[u8]) -> (Vec<Entry>, Result<Progress, ParseError>) {
        let mut entries = Vec::new();
        let progress = parse(datagram, &EXPECT, |entry| entries.push(entry));
        (entries, progress)
    }

    #[test]
    fn a_socket_is_decoded_field_by_field() {
        let datagram = [ours(18, &socket(libc::AF_INET)), ours(libc::NLMSG_DONE, &[0; 4])].concat();
        let (entries, progress) = read(&datagram);
        assert_eq!(progress, Ok(Progress { done: true, interrupted: false }));
        let expected = Entry {
            state: CLOSE_WAIT,
            local: "10.0.0.1:51000".parse().unwrap(),
            remote: "10.0.0.2:6379".parse().unwrap(),
            cookie: 0x22_0000_0011,
            recv_q: 1,
            send_q: 9,
            uid: 33,
            inode: 123_456,
            cgroup_id: Some(77),
            last_ack_received: Some(Duration::from_millis(2500)),
            last_data_sent: Some(Duration::from_millis(1500)),
        };
        assert_eq!(entries, [expected]);
    }

    #[test]
    fn a_reply_that_is_not_whole_and_ours_is_an_error_and_never_a_low_count() {
        let whole = ours(18, &socket(libc::AF_INET));
        let mut oversized = whole.clone();
        oversized[..4].copy_from_slice(&100_000u32.to_ne_bytes());
        let mut lengthless = whole.clone();
        lengthless[..4].copy_from_slice(&0u32.to_ne_bytes());
        let mut long_attribute = whole.clone();
        long_attribute[NETLINK_HEADER + REPLY..][..2].copy_from_slice(&u16::MAX.to_ne_bytes());
        let mut zero_attribute = whole.clone();
        zero_attribute[NETLINK_HEADER + REPLY..][..2].copy_from_slice(&0u16.to_ne_bytes());
        let truncated = |at, length| ParseError::Truncated { at, length };
        let cases: [(&str, Vec<u8>, ParseError); 15] = [
            ("nothing at all", vec![], truncated(0, 0)),
            ("half a header", whole[..8].to_vec(), truncated(0, 8)),
            ("half a socket", whole[..60].to_vec(), ParseError::Length { at: 0, stated: whole.len() }),
            ("a header behind a message", [&whole[..], &[0; 8]].concat(), truncated(168, 176)),
            ("a length beyond the datagram", oversized, ParseError::Length { at: 0, stated: 100_000 }),
            ("a length of nothing", lengthless, ParseError::Length { at: 0, stated: 0 }),
            ("an attribute beyond its message", long_attribute, ParseError::Length { at: 88, stated: 65_535 }),
            ("an attribute of no length", zero_attribute, ParseError::Length { at: 88, stated: 0 }),
            ("a socket without its fixed part", ours(18, &[2, 8, 0, 0]), truncated(0, 4)),
            ("another request's", message(18, 0, 6, 4242, &[]), ParseError::Foreign { seq: 6, port: 4242 }),
            ("another socket's", message(3, 0, 7, 1, &[0; 4]), ParseError::Foreign { seq: 7, port: 1 }),
            ("another type", ours(20, &socket(libc::AF_INET)), ParseError::MessageType { found: 20 }),
            ("another family", ours(18, &socket(libc::AF_UNIX)), ParseError::Family { found: 1 }),
            ("a done without its error", ours(libc::NLMSG_DONE, &[]), truncated(0, 16)),
            ("an overrun", ours(libc::NLMSG_OVERRUN, &[]), ParseError::Overrun),
        ];
        for (name, datagram, error) in cases {
            assert_eq!(read(&datagram).1, Err(error), "{name}");
        }
    }

    #[test]
    fn an_error_is_found_in_its_own_message_and_inside_done() {
        for kind in [libc::NLMSG_ERROR, libc::NLMSG_DONE] {
            let payload = (-libc::ENOENT).to_ne_bytes();
            assert_eq!(read(&ours(kind, &payload)).1, Err(ParseError::Kernel(libc::ENOENT)));
        }
    }

    #[test]
    fn an_interrupted_dump_is_seen_on_any_message_of_it() {
        let flags = libc::NLM_F_DUMP_INTR as u16;
        for datagram in [
            message(18, flags, 7, 4242, &socket(libc::AF_INET6)),
            [ours(18, &socket(libc::AF_INET)), message(3, flags, 7, 4242, &[0; 4])].concat(),
        ] {
            assert!(read(&datagram).1.unwrap().interrupted);
        }
    }

    #[test]
    fn a_dump_goes_on_until_done() {
        let (entries, progress) = read(&[ours(18, &socket(2)), ours(18, &socket(2))].concat());
        assert_eq!((entries.len(), progress), (2, Ok(Progress { done: false, interrupted: false })));
    }

    proptest! {
        #[test]
        fn random_bytes_neither_panic_nor_loop(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let (entries, _) = read(&bytes);
            prop_assert!(entries.len() <= bytes.len() / NETLINK_HEADER);
        }

        #[test]
        fn a_damaged_reply_neither_panics_nor_loops(
            damage in proptest::collection::vec((0usize..360, any::<u8>()), 1..6), cut in 0usize..=360,
        ) {
            let mut bytes = [ours(18, &socket(2)), ours(18, &socket(10)), ours(libc::NLMSG_DONE, &[0; 4])].concat();
            for (at, value) in damage {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut);
            let (entries, _) = read(&bytes);
            prop_assert!(entries.len() <= 2);
        }
    }
}
