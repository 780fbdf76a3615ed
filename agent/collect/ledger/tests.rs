//! Sockets that open, age, write and go, and what the ledger says of them.

use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn acked(ago: Duration) -> Option<Heard> {
    Some(Heard { last_ack_received: Some(ago), ..Heard::default() })
}

fn sent(ago: Duration) -> Option<Heard> {
    Some(Heard { last_data_sent: Some(ago), ..Heard::default() })
}

fn walk(ledger: &mut Ledger, now: Duration, sockets: &[(u64, u32, Option<Heard>)]) -> Vec<Standing> {
    ledger.begin();
    let standings =
        sockets.iter().map(|(name, unacked, heard)| ledger.meet(*name, now, *unacked, *heard, true).1).collect();
    ledger.end();
    standings
}

/// A walk that meets one socket, asks nothing, and then asks it by itself.
fn walk_and_ask(ledger: &mut Ledger, now: Duration, name: u64, heard: Heard) -> [Standing; 2] {
    ledger.begin();
    let (place, met) = ledger.meet(name, now, 0, None, true);
    let told = ledger.hear(place, now, 0, heard);
    ledger.end();
    [met, told]
}

#[test]
fn a_socket_older_than_the_agent_has_its_age_at_once_and_keeps_it() {
    let mut ledger = Ledger::default();
    let first = walk(&mut ledger, 1_000 * SECOND, &[(1, 0, acked(600 * SECOND))]);
    assert_eq!((first[0].age, first[0].unasked), (600 * SECOND, false));
    // Asked once is enough, also when a keepalive is answered meanwhile.
    let later = walk(&mut ledger, 1_015 * SECOND, &[(1, 0, None)]);
    assert_eq!((later[0].age, later[0].unasked), (615 * SECOND, false));
    let answered = walk(&mut ledger, 1_030 * SECOND, &[(1, 0, acked(SECOND))]);
    assert_eq!(answered[0].age, 630 * SECOND);
}

#[test]
fn a_socket_that_could_not_be_asked_is_young_until_it_is() {
    let mut ledger = Ledger::default();
    let heard = Heard { last_data_sent: Some(95 * SECOND), ..acked(90 * SECOND).unwrap() };
    let [first, told] = walk_and_ask(&mut ledger, 1_000 * SECOND, 1, heard);
    assert_eq!((first.age, first.unasked), (Duration::ZERO, true));
    assert_eq!((told.age, told.sending, told.unasked), (90 * SECOND, false, false));
}

#[test]
fn one_that_was_gone_is_young_again() {
    let mut ledger = Ledger::default();
    walk(&mut ledger, 10 * SECOND, &[(1, 0, None)]);
    walk(&mut ledger, 20 * SECOND, &[]);
    assert!(ledger.is_empty());
    assert_eq!(walk(&mut ledger, 30 * SECOND, &[(1, 0, None)])[0].age, Duration::ZERO);
}

#[test]
fn an_interrupted_walk_forgets_nothing() {
    let mut ledger = Ledger::default();
    walk(&mut ledger, 10 * SECOND, &[(1, 0, None), (2, 0, None)]);
    ledger.begin();
    ledger.meet(1, 20 * SECOND, 0, None, true);
    // No end: it was cut.
    assert_eq!(walk(&mut ledger, 30 * SECOND, &[(2, 0, None)])[0].age, 20 * SECOND);
}

#[test]
fn data_that_leaves_is_seen_by_what_is_unacknowledged_or_was_sent_just_now() {
    for (what, unacked, heard, sending) in [
        ("nothing told", 0, None, false),
        ("unacknowledged data", 9, None, true),
        ("sent 9 s ago", 0, sent(9 * SECOND), true),
        ("sent 10 s ago", 0, sent(10 * SECOND), false),
        ("unacknowledged data, long ago", 9, sent(60 * SECOND), true),
    ] {
        let mut ledger = Ledger::default();
        assert_eq!(walk(&mut ledger, 99 * SECOND, &[(1, unacked, heard)])[0].sending, sending, "{what}");
    }
    // It is asked again until it has stopped.
    let mut ledger = Ledger::default();
    walk(&mut ledger, 99 * SECOND, &[(1, 0, sent(SECOND))]);
    let heard = sent(16 * SECOND).unwrap();
    let [again, told] = walk_and_ask(&mut ledger, 114 * SECOND, 1, heard);
    assert_eq!((again.sending, again.unasked, told.sending), (true, true, false));
    assert!(!walk(&mut ledger, 129 * SECOND, &[(1, 0, None)])[0].unasked);
}

#[test]
fn what_a_burst_took_is_given_back() {
    let mut ledger = Ledger::default();
    let many: Vec<_> = (0..50_000).map(|name| (name, 0, None)).collect();
    walk(&mut ledger, SECOND, &many);
    assert!(std::mem::size_of::<LedgerEntry>() == 16);
    walk(&mut ledger, 2 * SECOND, &many[..10]);
    assert!(ledger.seen.capacity() < 100 && ledger.new.capacity() == 0, "{}", ledger.seen.capacity());
}

/// What the ledger remembers, without an order: when each socket was first met.
#[derive(Default)]
struct Model(std::collections::BTreeMap<u64, Duration>);

impl Model {
    fn walk(&mut self, now: Duration, names: &[u64], cut: bool) -> Vec<Duration> {
        let met = names.iter().map(|name| now - *self.0.entry(*name).or_insert(now)).collect();
        self.0.retain(|name, _| cut || names.contains(name));
        met
    }
}

/// A socket of the model: when its FIN came, when it is gone, and how often the application writes.
#[derive(Clone, Debug)]
struct Life {
    fin: u64,
    gone: u64,
    writes_every: Option<u64>,
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let life = (0u64..1_200_000, 0u64..900_000, proptest::option::of(1_000u64..200_000));
    let life = life.prop_map(|(fin, lasts, writes_every)| Life { fin, gone: fin + lasts, writes_every });
    proptest::collection::vec(life, 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// In whatever order the sockets come, and some of them twice: by another way to the table, or in a table
    /// that changes under the walk.
    #[test]
    fn a_socket_is_known_again_wherever_it_comes(
        walks in proptest::collection::vec((proptest::collection::vec(1u64..60, 0..80), any::<bool>()), 1..12),
    ) {
        let (mut ledger, mut model) = (Ledger::default(), Model::default());
        for ((names, cut), now) in walks.iter().zip(1..) {
            let now = now * SECOND;
            ledger.begin();
            let ages: Vec<_> = names.iter().map(|name| ledger.meet(*name, now, 0, None, true).1.age).collect();
            prop_assert_eq!(ages, model.walk(now, names, *cut));
            if !*cut {
                ledger.end();
            }
        }
    }

    /// As the kernel's table changes: some go, some come in between, and the others keep their order.
    #[test]
    fn what_stays_keeps_its_age_while_others_come_and_go(
        changes in proptest::collection::vec((0usize..200, 0usize..60, any::<bool>()), 1..30),
    ) {
        let (mut ledger, mut model) = (Ledger::default(), Model::default());
        let mut table: Vec<u64> = (1_000..1_100).collect();
        let mut last = 2_000;
        for ((at, gone, older), now) in changes.into_iter().zip(1..) {
            let now = now * SECOND;
            let at = at.min(table.len());
            table.drain(at..(at + gone).min(table.len()));
            last += 1;
            // Each CPU gives out cookies from a range of its own.
            table.insert(at, if older { 1_000_000 - last } else { last });
            ledger.begin();
            let ages: Vec<_> = table.iter().map(|name| ledger.meet(*name, now, 0, None, true).1.age).collect();
            ledger.end();
            prop_assert_eq!(ages, model.walk(now, &table, false));
            prop_assert_eq!(ledger.seen.iter().map(|seen| seen.name).collect::<Vec<_>>(), table.clone());
        }
    }

    /// Sockets open, age, write and go; walks come at any times, are cut, ask or do not ask.
    #[test]
    fn ages_are_never_overstated_where_they_count_and_right_within_a_walk_where_the_service_does_not_write(
        lives in lives(),
        walks in proptest::collection::vec((1u64..40_000, any::<bool>(), any::<bool>()), 1..80),
    ) {
        const COUNTS: Duration = Duration::from_secs(60);
        let mut ledger = Ledger::default();
        ledger.count_at(&[COUNTS]);
        let mut first_met = std::collections::BTreeMap::new();
        // Was silent at its last question as old as that, and has not been seen to send: only then is it believed unasked.
        let mut believed = std::collections::BTreeSet::new();
        let mut now = 0;
        for (gap, asks, cut) in walks {
            now += gap;
            let at = Duration::from_millis(now);
            ledger.begin();
            for (name, life) in lives.iter().enumerate() {
                let name = name as u64;
                if now < life.fin || life.gone <= now {
                    first_met.remove(&name);
                    believed.remove(&name);
                    continue;
                }
                let closed = Duration::from_millis(now - life.fin);
                let quiet = life.writes_every.map_or(now - life.fin, |every| (now - life.fin) % every);
                let stuck = Duration::from_millis(quiet);
                let heard = Heard { last_data_sent: Some(stuck), ..acked(stuck).unwrap() };
                let (place, met) = ledger.meet(name, at, 0, asks.then_some(heard), true);
                prop_assert_eq!(met.unasked && asks, false);
                prop_assert!(met.age < COUNTS || asks || believed.contains(&name), "counts as old, and was not asked");
                // Whoever is unasked is asked by itself.
                let standing = if met.unasked { ledger.hear(place, at, 0, heard) } else { met };
                prop_assert!(standing.age <= closed, "overstated: {:?} of {:?}", standing.age, closed);
                if asks || met.unasked {
                    prop_assert!(standing.age <= stuck, "overstated: {:?} of {:?}", standing.age, stuck);
                    if stuck >= COUNTS { believed.insert(name) } else { believed.remove(&name) };
                }
                let watched = Duration::from_millis(now - *first_met.entry(name).or_insert(now));
                let least = if life.writes_every.is_none() { closed } else { watched.min(stuck) };
                prop_assert!(standing.age + 2 * TENTH > least, "{:?} of {:?}", standing.age, least);
            }
            if !cut {
                ledger.end();
            }
        }
    }
}

/// An event stream whose client has shut down its side: the server sends one every 30 s.
#[test]
fn who_still_sends_now_and_then_is_never_as_old_as_what_counts() {
    let mut ledger = Ledger::default();
    ledger.count_at(&[60 * SECOND]);
    let mut asked = 0;
    for tick in 0..40u32 {
        let now = 1_000 * SECOND + 15 * SECOND * tick;
        let event = Duration::from_secs(u64::from(tick * 15 % 30));
        let heard = Heard { last_data_sent: Some(event), ..acked(event).unwrap() };
        ledger.begin();
        let (place, mut standing) = ledger.meet(1, now, 0, None, true);
        assert!(standing.age < 60 * SECOND, "{standing:?}");
        if standing.unasked {
            asked += 1;
            standing = ledger.hear(place, now, 0, heard);
        }
        ledger.end();
        assert!(standing.age <= 45 * SECOND, "{standing:?}");
    }
    assert!(asked < 40, "nor is it asked in each walk: {asked}");
}

#[test]
fn what_was_silent_when_it_came_to_an_age_that_counts_is_asked_once_for_each() {
    let mut ledger = Ledger::default();
    ledger.count_at(&[300 * SECOND, 60 * SECOND]);
    let mut asked = Vec::new();
    for tick in 0..40u32 {
        let fin = 15 * SECOND * tick;
        ledger.begin();
        let (place, standing) = ledger.meet(1, 1_000 * SECOND + fin, 0, None, true);
        if standing.unasked {
            asked.push(fin.as_secs());
            assert_eq!(ledger.hear(place, 1_000 * SECOND + fin, 0, acked(fin).unwrap()).age, fin);
        }
        ledger.end();
    }
    assert_eq!(asked, [0, 60, 300]);
}

#[test]
fn what_cannot_be_asked_grows_old_without() {
    let mut ledger = Ledger::default();
    ledger.count_at(&[60 * SECOND]);
    for (now, age) in [(1_000, 0), (1_100, 100)] {
        ledger.begin();
        let (_, standing) = ledger.meet(1, now * SECOND, 0, None, false);
        ledger.end();
        assert_eq!((standing.age, standing.at_least, standing.unasked), (age * SECOND, true, false));
    }
}

#[test]
fn an_age_is_a_lower_bound_where_a_keepalive_may_have_been_answered_since_the_fin() {
    let heard = |acknowledged, received, keepalive| Heard {
        last_data_received: received,
        keepalive,
        ..acked(acknowledged).unwrap()
    };
    for (what, heard, at_least) in [
        ("no keepalive", heard(11 * SECOND, Some(57 * SECOND), false), false),
        ("a keepalive", heard(11 * SECOND, Some(57 * SECOND), true), true),
        ("a keepalive, and the last data came with the FIN", heard(11 * SECOND, Some(11 * SECOND), true), false),
        ("an older kernel, which tells less", heard(11 * SECOND, None, false), true),
        (
            "it sent after the last that is known of it",
            Heard { last_data_sent: Some(SECOND), ..heard(11 * SECOND, Some(57 * SECOND), true) },
            false,
        ),
    ] {
        let mut ledger = Ledger::default();
        assert_eq!(walk(&mut ledger, 99 * SECOND, &[(1, 0, Some(heard))])[0].at_least, at_least, "{what}");
        assert_eq!(walk(&mut ledger, 109 * SECOND, &[(1, 0, None)])[0].at_least, at_least, "{what}, later");
    }
}
