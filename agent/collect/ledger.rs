//! How long each socket of one network namespace has been in CLOSE_WAIT. Never overstated.
//!
//! The kernel keeps no such time. Two lower bounds exist, and the greater one is taken: since the socket was first
//! seen in CLOSE_WAIT here, and since the last acknowledgement arrived (`tcpi_last_ack_recv`: the FIN came no later
//! than that, so it is exact until the application writes or a keepalive is answered). The second one is asked
//! once, when the socket is first seen; from then on time alone goes by.
//!
//! Pure: it is fed by the collector and knows no clock. 16 bytes a socket, and one of the table itself.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::FixedState;

use super::wire::Entry;

/// Data that left within this time means that the socket is still being sent on.
const SENDING_WITHIN: Duration = Duration::from_secs(10);
/// Capacity that is kept for a socket: a table that a burst has left behind is given back.
const ROOM: usize = 8;

/// What `tcp_info` says of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub last_ack_received: Option<Duration>,
    pub last_data_sent: Option<Duration>,
}

impl Heard {
    /// What a walk that asked for `tcp_info` was told; `None` of one that did not ask, or was told nothing.
    pub fn of(entry: &Entry) -> Option<Self> {
        let Entry { last_ack_received, last_data_sent, .. } = *entry;
        (last_ack_received.is_some() || last_data_sent.is_some()).then_some(Self { last_ack_received, last_data_sent })
    }
}

/// What is known of a socket now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// At least.
    pub age: Duration,
    pub sending: bool,
    /// What it needs has not been asked: its age when it was first seen, or whether it still sends.
    pub unasked: bool,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    seen: HashMap<u64, Seen, FixedState>,
    generation: u8,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Tenths of a second since boot, rounded up so that no age is overstated; 13 years.
    since: u32,
    generation: u8,
    sending: bool,
    asked: bool,
}

impl Ledger {
    /// Begins a walk.
    pub fn begin(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// One socket of the walk, at `now` since boot; again, where it was asked by itself meanwhile. `name` is its
    /// cookie, or what else tells it apart.
    ///
    /// What was heard says how long ago something was: `now` must not be before it was said, or ages are overstated.
    pub fn meet(&mut self, name: u64, now: Duration, unacknowledged: u32, heard: Option<Heard>) -> Standing {
        let seen =
            self.seen.entry(name).or_insert(Seen { since: tenths(now), generation: 0, sending: false, asked: false });
        seen.generation = self.generation;
        seen.hear(now, heard);
        seen.sending = unacknowledged > 0 || if heard.is_some() { sends(heard) } else { seen.sending };
        seen.standing(now, heard.is_none())
    }

    /// Ends a whole walk: what was not in it is forgotten.
    pub fn end(&mut self) {
        let generation = self.generation;
        self.seen.retain(|_, seen| seen.generation == generation);
        if self.seen.len() < self.seen.capacity() / ROOM {
            self.seen.shrink_to(self.seen.len() * 2);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

impl Seen {
    fn hear(&mut self, now: Duration, heard: Option<Heard>) {
        let Some(heard) = heard else { return };
        self.asked = true;
        if let Some(ago) = heard.last_ack_received {
            self.since = self.since.min(tenths(now.saturating_sub(ago)));
        }
    }

    fn standing(&self, now: Duration, silent: bool) -> Standing {
        let age = now.saturating_sub(Duration::from_millis(u64::from(self.since) * 100));
        Standing { age, sending: self.sending, unasked: silent && (!self.asked || self.sending) }
    }
}

fn sends(heard: Option<Heard>) -> bool {
    heard.and_then(|heard| heard.last_data_sent).is_some_and(|ago| ago < SENDING_WITHIN)
}

fn tenths(since_boot: Duration) -> u32 {
    u32::try_from(since_boot.as_millis().div_ceil(100)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn acked(ago: Duration) -> Option<Heard> {
        Some(Heard { last_ack_received: Some(ago), last_data_sent: None })
    }

    fn sent(ago: Duration) -> Option<Heard> {
        Some(Heard { last_ack_received: None, last_data_sent: Some(ago) })
    }

    fn walk(ledger: &mut Ledger, now: Duration, sockets: &[(u64, u32, Option<Heard>)]) -> Vec<Standing> {
        ledger.begin();
        let standings =
            sockets.iter().map(|(name, unacked, heard)| ledger.meet(*name, now, *unacked, *heard)).collect();
        ledger.end();
        standings
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
        let first = walk(&mut ledger, 1_000 * SECOND, &[(1, 0, None)]);
        assert_eq!((first[0].age, first[0].unasked), (Duration::ZERO, true));
        let heard = Heard { last_ack_received: Some(90 * SECOND), last_data_sent: Some(95 * SECOND) };
        let told = ledger.meet(1, 1_000 * SECOND, 0, Some(heard));
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
        ledger.meet(1, 20 * SECOND, 0, None);
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
        let again = walk(&mut ledger, 114 * SECOND, &[(1, 0, None)])[0];
        assert_eq!((again.sending, again.unasked), (true, true));
        let heard = Heard { last_ack_received: None, last_data_sent: Some(16 * SECOND) };
        assert!(!ledger.meet(1, 114 * SECOND, 0, Some(heard)).sending);
        assert!(!walk(&mut ledger, 129 * SECOND, &[(1, 0, None)])[0].unasked);
    }

    #[test]
    fn what_a_burst_took_is_given_back() {
        let mut ledger = Ledger::default();
        let many: Vec<_> = (0..50_000).map(|name| (name, 0, None)).collect();
        walk(&mut ledger, SECOND, &many);
        assert!(std::mem::size_of::<(u64, Seen)>() == 16);
        walk(&mut ledger, 2 * SECOND, &many[..10]);
        assert!(ledger.seen.capacity() < 100, "{}", ledger.seen.capacity());
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

        /// Sockets open, age, write and go; walks come at any times, are cut, ask or do not ask.
        #[test]
        fn ages_are_never_overstated_and_right_within_a_walk_where_the_service_does_not_write(
            lives in lives(),
            walks in proptest::collection::vec((1u64..40_000, any::<bool>(), any::<bool>()), 1..80),
        ) {
            let mut ledger = Ledger::default();
            let mut first_met = std::collections::BTreeMap::new();
            let mut now = 0;
            for (gap, asks, cut) in walks {
                now += gap;
                let at = Duration::from_millis(now);
                ledger.begin();
                for (name, life) in lives.iter().enumerate() {
                    let name = name as u64;
                    if now < life.fin || life.gone <= now {
                        first_met.remove(&name);
                        continue;
                    }
                    let truth = Duration::from_millis(now - life.fin);
                    let quiet = life.writes_every.map_or(now - life.fin, |every| (now - life.fin) % every);
                    let heard = Heard {
                        last_ack_received: Some(Duration::from_millis(quiet)),
                        last_data_sent: Some(Duration::from_millis(quiet)),
                    };
                    let met = ledger.meet(name, at, 0, asks.then_some(heard));
                    prop_assert_eq!(met.unasked && asks, false);
                    // Whoever is unasked is asked by itself.
                    let standing = if met.unasked { ledger.meet(name, at, 0, Some(heard)) } else { met };
                    prop_assert!(standing.age <= truth, "overstated: {:?} of {:?}", standing.age, truth);
                    let watched = Duration::from_millis(now - *first_met.entry(name).or_insert(now));
                    let least = if life.writes_every.is_none() { truth } else { watched };
                    prop_assert!(standing.age + Duration::from_millis(100) > least, "{:?} of {:?}", standing.age, least);
                }
                if !cut {
                    ledger.end();
                }
            }
        }
    }
}
