use super::*;

fn exact(count: u64, seconds: u64) -> Sample {
    let over = Duration::from_secs(seconds);
    Sample { over, exact: Some(Arrivals { count, over }), ..Sample::default() }
}

fn seen(seen: u64, seconds: u64) -> Sample {
    Sample { over: Duration::from_secs(seconds), seen, ..Sample::default() }
}

fn bytes(bytes: u64, seconds: u64) -> Sample {
    Sample { over: Duration::from_secs(seconds), bytes, ..Sample::default() }
}

#[test]
fn new_connections_decide_and_a_quiet_service_is_not_judged() {
    // (before, after, clients leave what they do not find, is the drain ineffective)
    for (before, after, leave, ineffective) in [
        // 40 a second, then 21, 20, none.
        (exact(200, 5), exact(315, 15), false, true),
        (exact(200, 5), exact(300, 15), false, false),
        (exact(200, 5), exact(0, 15), false, false),
        // Health checks each second go on.
        (exact(5, 5), exact(15, 15), false, false),
        (exact(24, 5), exact(72, 15), false, false),
        (exact(25, 5), exact(72, 15), false, true),
        // Lower bounds are compared with each other alone.
        (seen(100, 5), seen(300, 15), false, true),
        (seen(100, 5), exact(300, 15), false, false),
        (exact(200, 5), seen(0, 15), false, false),
        // Old connections decide only where clients are known to leave.
        (bytes(50_000, 5), bytes(150_000, 15), false, false),
        (bytes(50_000, 5), bytes(150_000, 15), true, true),
        (bytes(50_000, 5), bytes(75_000, 15), true, false),
        (bytes(50_000, 5), bytes(60_000, 15), true, false),
        (bytes(500, 5), bytes(1_500, 15), true, false),
    ] {
        let fell = judge(&before, &after, leave);
        assert_eq!(fell.ineffective.is_some(), ineffective, "{before:?} {after:?}: {fell:?}");
    }
}

#[test]
fn what_fell_is_said_with_both_rates_and_the_busiest_peers() {
    let mut after = exact(600, 15);
    after.peers = [("10.0.0.1", 3), ("10.0.0.2", 300), ("10.0.0.3", 7), ("10.0.0.4", 1)]
        .map(|(ip, connections)| (ip.parse().unwrap(), Came { connections, bytes: 0 }))
        .into();
    let fell = judge(&exact(200, 5), &after, false);
    assert_eq!(
        fell.ineffective.unwrap(),
        "the drain is ineffective, clients go on coming: 40.0 new connections/s before the drain, 40.0 new connections/s \
         after it (counted for 15s, once all clients should have followed); busiest peers: 10.0.0.2 (300 connections), \
         10.0.0.3 (7 connections), 10.0.0.1 (3 connections)"
    );
    // Of old connections it is their bytes that tell who is busy.
    let mut after = bytes(153_600, 15);
    after.peers = [("10.0.0.1", 15_360), ("10.0.0.2", 138_240)]
        .map(|(ip, bytes)| (ip.parse().unwrap(), Came { connections: 0, bytes }))
        .into();
    let fell = judge(&bytes(51_200, 5), &after, true);
    assert_eq!(
        fell.ineffective.unwrap(),
        "the drain is ineffective, open connections stay busy: 10.0 KiB/s before the drain, 10.0 KiB/s after it (counted for 15s, \
         once all clients should have followed); busiest peers: 10.0.0.2 (9.0 KiB/s), 10.0.0.1 (1.0 KiB/s)"
    );
    let fell = judge(&bytes(50_000, 5), &bytes(72_000, 15), false);
    assert_eq!(fell.note.unwrap(), "the restart came at 48% of the traffic before the drain");
    // What is next to nothing is not worth a word, and what came only later is no percentage that anybody could read.
    assert_eq!(judge(&bytes(50_000, 5), &bytes(600, 15), false).note, None);
    let fell = judge(&bytes(500, 5), &bytes(150_000, 15), false);
    assert_eq!(fell.note.unwrap(), "the restart came at 999% of the traffic before the drain");
    // Bytes of old connections make nobody a newcomer.
    let mut after = exact(600, 15);
    after.peers = [("10.0.0.1".parse().unwrap(), Came { connections: 0, bytes: 9 })].into();
    let says = judge(&exact(200, 5), &after, false).ineffective.unwrap();
    assert!(says.ends_with("no peer is known, since the connections are too short to be seen"), "{says}");
}

#[test]
fn a_connection_is_new_once_and_its_bytes_count_from_when_it_was_first_seen() {
    let talk = |cookie, bytes| Talk { cookie, peer: "10.0.0.1".parse().unwrap(), bytes };
    let (mut sample, mut known) = (Sample::default(), HashMap::new());
    sample.take(&mut known, vec![talk(1, 1_000), talk(2, 0)], true);
    sample.take(&mut known, vec![talk(1, 1_500), talk(3, 40)], false);
    sample.take(&mut known, vec![talk(1, 1_500), talk(3, 50)], false);
    assert_eq!((sample.seen, sample.bytes), (1, 550));
    assert_eq!(sample.peers[&"10.0.0.1".parse().unwrap()], Came { connections: 1, bytes: 550 });
}
