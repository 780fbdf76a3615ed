//! Replies made by hand: what is read of them, and what is refused.

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
    let mut body = vec![family as u8, CLOSE_WAIT, TIMER_KEEPALIVE, 0];
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
    info[INFO_LAST_DATA_RECV..][..4].copy_from_slice(&500u32.to_ne_bytes());
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
    let progress = parse(datagram, &EXPECT, |entry| entries.push(*entry));
    (entries, progress)
}

#[test]
fn a_socket_is_decoded_field_by_field() {
    let datagram = [ours(18, &socket(libc::AF_INET)), ours(libc::NLMSG_DONE, &[0; 4])].concat();
    let (entries, progress) = read(&datagram);
    assert_eq!(progress, Ok(Progress { done: true, interrupted: false }));
    let expected = Entry {
        identity: entries[0].identity,
        state: CLOSE_WAIT,
        recv_q: 1,
        send_q: 9,
        uid: 33,
        inode: 123_456,
        cgroup_id: Some(77),
        last_ack_received: Some(Duration::from_millis(2500)),
        last_data_sent: Some(Duration::from_millis(1500)),
        last_data_received: Some(Duration::from_millis(500)),
        keepalive: true,
        bytes: 0,
    };
    assert_eq!(entries, [expected]);
    let identity = entries[0].identity;
    assert_eq!(format!("{identity:?}"), "10.0.0.1:51000 -> 10.0.0.2:6379 (cookie 0x2200000011)");
    assert_eq!(identity.cookie(), 0x22_0000_0011);
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
fn an_answer_is_of_one_socket_or_tells_that_it_is_gone() {
    let to = Identity::without_cookie("10.0.0.1:51000".parse().unwrap(), "10.0.0.2:6379".parse().unwrap());
    let answer = |datagram: &[u8]| parse_answer(datagram, &to, EXPECT.seq, EXPECT.port);
    let told = read(&ours(18, &socket(libc::AF_INET))).0[0];
    assert_eq!(answer(&ours(20, &socket(libc::AF_INET))), Ok(Some(told)));
    for (errno, means) in
        [(libc::ENOENT, Ok(None)), (libc::ESTALE, Ok(None)), (libc::EPERM, Err(ParseError::Kernel(libc::EPERM)))]
    {
        assert_eq!(answer(&ours(libc::NLMSG_ERROR, &(-errno).to_ne_bytes())), means);
    }
    for (datagram, error) in [
        (ours(18, &socket(libc::AF_INET)), ParseError::MessageType { found: 18 }),
        (ours(20, &socket(libc::AF_INET6)), ParseError::Family { found: 10 }),
        (ours(20, &[2, 8, 0, 0]), ParseError::Truncated { at: 0, length: 4 }),
        (ours(libc::NLMSG_DONE, &[0; 4]), ParseError::MessageType { found: 3 }),
        (message(20, 0, 8, 4242, &socket(2)), ParseError::Foreign { seq: 8, port: 4242 }),
        (vec![], ParseError::Truncated { at: 0, length: 0 }),
    ] {
        assert_eq!(answer(&datagram), Err(error));
    }
}

#[test]
fn an_identity_is_written_as_the_kernel_reads_it() {
    let v6 = Identity::without_cookie("[fe80::1%3]:80".parse().unwrap(), "[fe80::2%3]:443".parse().unwrap());
    assert_eq!((v6.local(), v6.remote()), ("[fe80::1%3]:80".parse().unwrap(), "[fe80::2%3]:443".parse().unwrap()));
    let mut bytes = Vec::new();
    v6.encode_get(&mut bytes, 5, 9);
    assert_eq!(bytes.len(), NETLINK_HEADER + 8 + SOCKID);
    assert_eq!(bytes[..6], [&72u32.to_ne_bytes()[..], &20u16.to_ne_bytes()].concat());
    assert_eq!(bytes[16..24], [10, 6, 2, 0, 0xfe, 0x0f, 0, 0], "family, protocol, INFO, states");
    assert_eq!(bytes[24..28], [0, 80, 1, 187], "the ports");
    assert_eq!(bytes[60..64], 3u32.to_ne_bytes(), "the interface");
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

#[test]
fn only_an_error_of_zero_says_that_a_socket_was_destroyed() {
    let error = |number: i32| ours(libc::NLMSG_ERROR, &[number.to_ne_bytes().as_slice(), &[0; 16]].concat());
    for (name, datagram, read) in [
        ("destroyed", error(0), Ok(true)),
        ("gone", error(-libc::ENOENT), Ok(false)),
        ("another one's addresses", error(-libc::ESTALE), Ok(false)),
        ("not allowed", error(-libc::EPERM), Err(ParseError::Kernel(libc::EPERM))),
        ("a number that is no errno", error(0x7134_3397), Err(ParseError::Kernel(0x7134_3397))),
        ("the least of them", error(i32::MIN), Err(ParseError::Kernel(i32::MAX))),
        ("a socket", ours(20, &socket(libc::AF_INET)), Err(ParseError::MessageType { found: 20 })),
        ("another's", message(2, 0, 6, 4242, &[0; 4]), Err(ParseError::Foreign { seq: 6, port: 4242 })),
        ("without its number", ours(libc::NLMSG_ERROR, &[]), Err(ParseError::Truncated { at: 0, length: 16 })),
        ("nothing at all", Vec::new(), Err(ParseError::Truncated { at: 0, length: 0 })),
    ] {
        assert_eq!(parse_acknowledgement(&datagram, EXPECT.seq, EXPECT.port), read, "{name}");
    }
}
