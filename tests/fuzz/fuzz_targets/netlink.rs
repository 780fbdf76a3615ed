//! The parser of sock_diag replies, against any bytes: see README.md.
//!
//! The first byte of an input chooses the walk that the rest is an answer to; the sequence number and the port that
//! are expected are those of its first message, so that most inputs get past them.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The parser alone, which is pure: the agent's other dependencies need not be built for it.
#[path = "../../../agent/collect/wire.rs"]
#[expect(dead_code, reason = "requests and names are not parsed")]
mod wire;

use wire::{Expect, ParseError, Progress, Walk};

const WALKS: [Walk; 5] = [Walk::Both, Walk::V4, Walk::V6, Walk::MptcpV4, Walk::MptcpV6];
const HEADER: usize = 16;
const SOCKET: usize = 72;

fuzz_target!(|input: &[u8]| {
    let Some((choice, datagram)) = input.split_first() else { return };
    let walk = WALKS[usize::from(*choice) % WALKS.len()];
    let word = |at| datagram.get(at..at + 4).map_or(0, |bytes| u32::from_ne_bytes(bytes.try_into().expect("four")));
    let expect = Expect { walk, seq: word(8), port: word(12) };

    let mut sockets = 0;
    let mut last = None;
    let progress = wire::parse(datagram, &expect, |entry| {
        let (local, remote) = (entry.identity.local(), entry.identity.remote());
        assert_eq!(local.is_ipv4(), remote.is_ipv4(), "{entry:?}");
        sockets += 1;
        last = Some(entry.identity);
    });
    assert!(sockets <= datagram.len() / (HEADER + SOCKET), "more sockets than there is room for");
    assert_eq!(progress, wire::parse(datagram, &expect, |_| {}), "it depends on more than the bytes");

    if let Ok(Progress { done, .. }) = progress {
        assert_eq!(count(datagram, done), Some(sockets), "a reply that is taken has each of its sockets");
    }
    // What is cut off is never a whole dump of fewer sockets.
    if progress == Ok(Progress { done: true, interrupted: false }) {
        for cut in [datagram.len() / 2, datagram.len().saturating_sub(1)] {
            let mut fewer = 0;
            let shorter = wire::parse(&datagram[..cut], &expect, |_| fewer += 1);
            assert!(!matches!(shorter, Ok(Progress { done: true, .. })) || fewer == sockets, "{shorter:?}");
        }
    }
    // Any other dump's reply is not ours.
    let other = Expect { seq: expect.seq.wrapping_add(1), ..expect };
    if progress.is_ok() {
        let (seq, port) = (expect.seq, expect.port);
        assert_eq!(wire::parse(datagram, &other, |_| {}), Err(ParseError::Foreign { seq, port }));
    }
    if let Some(identity) = last {
        // An answer for one socket is read from the same bytes.
        _ = wire::parse_answer(datagram, &identity, expect.seq, expect.port);
    }
    // No socket and no other answer reads as the word that one was destroyed.
    if wire::parse_acknowledgement(datagram, expect.seq, expect.port) == Ok(true) {
        let kind = u16::from_ne_bytes(datagram[4..6].try_into().expect("two"));
        assert_eq!((kind, word(16)), (2, 0), "an NLMSG_ERROR of zero");
    }
});

/// How many sockets a reply holds, counted in another way than the parser does: by the headers alone. Those behind
/// the end of the dump are no part of it.
fn count(datagram: &[u8], done: bool) -> Option<usize> {
    let (mut at, mut sockets) = (0, 0);
    while at < datagram.len() {
        let length = u32::from_ne_bytes(datagram.get(at..at + 4)?.try_into().ok()?) as usize;
        match u16::from_ne_bytes(datagram.get(at + 4..at + 6)?.try_into().ok()?) {
            3 => return done.then_some(sockets),
            18 | 20 => sockets += 1,
            _ => {}
        }
        at += length.div_ceil(4) * 4;
    }
    (!done).then_some(sockets)
}
