//! How long each socket of one network namespace has been in CLOSE_WAIT. Never overstated.
//!
//! The kernel keeps no such time. Two lower bounds exist, and the greater one is taken: since the socket was first
//! seen in CLOSE_WAIT here, and since the last acknowledgement arrived (`tcpi_last_ack_recv`: the FIN came no later
//! than that, so it is exact until the application writes or a keepalive is answered). The second one is asked
//! once, when the socket is first seen; from then on time alone goes by.
//!
//! A walk gives the sockets in the order of the kernel's table, which is the same from one walk to the next but for what
//! has come and gone. So what is known of them is kept in that order, and the walk goes along it: the next socket is
//! mostly the next entry, and memory is read in one sweep. One that is not where it is looked for is looked up by its name.
//!
//! Pure: it is fed by the collector and knows no clock. 16 bytes a socket.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::FixedState;

use super::wire::Entry;

/// Data that left within this time means that the socket is still being sent on.
const SENDING_WITHIN: Duration = Duration::from_secs(10);
/// So many entries are looked through for the next socket, where some before it are gone; then all are indexed.
const LOOKED_THROUGH: usize = 8;
/// An eighth more than is needed may stay allocated.
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

impl Standing {
    /// Of a socket that nothing tells apart.
    pub const UNKNOWN: Self = Self { age: Duration::ZERO, sending: false, unasked: false };
}

/// Where a socket stands in the ledger until its walk ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Known(usize),
    New(usize),
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// In the order of the last walks.
    seen: Vec<Seen>,
    generation: u8,
    /// Of the walk under way: where its next socket is looked for.
    next: usize,
    /// How many of `seen` it has met.
    met: usize,
    /// What it has met that is not in `seen`, each with the entry that it came before.
    new: Vec<(u32, Seen)>,
    /// The greatest name in `seen`: cookies count up, so that a new socket's is mostly beyond it.
    greatest: u64,
    /// All of `seen` by name; made by a walk that needs it.
    index: Option<HashMap<u64, u32, FixedState>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    name: u64,
    /// Tenths of a second since boot, rounded up so that no age is overstated; 13 years.
    since: u32,
    generation: u8,
    sending: bool,
    asked: bool,
}

impl Ledger {
    /// Begins a walk.
    pub fn begin(&mut self) {
        // A walk that was cut has ended nothing: what it had met is known, and nothing is forgotten.
        self.settle(self.seen.len(), |_| true);
        self.generation = self.generation.wrapping_add(1);
        (self.next, self.met) = (0, 0);
    }

    /// One socket of the walk, at `now` since boot. `name` is its cookie, or what else tells it apart.
    ///
    /// What was heard says how long ago something was: `now` must not be before it was said, or ages are overstated.
    #[inline]
    pub fn meet(&mut self, name: u64, now: Duration, unacknowledged: u32, heard: Option<Heard>) -> (Place, Standing) {
        let place = match self.seen.get(self.next) {
            Some(seen) if seen.name == name => Place::Known(self.next),
            _ => self.look_up(name, now),
        };
        if let Place::Known(at) = place {
            let seen = &mut self.seen[at];
            self.met += usize::from(seen.generation != self.generation);
            seen.generation = self.generation;
            self.next = at + 1;
        }
        (place, self.hear(place, now, unacknowledged, heard))
    }

    /// The same socket again, where it was asked by itself before the walk has ended.
    #[inline]
    pub fn hear(&mut self, place: Place, now: Duration, unacknowledged: u32, heard: Option<Heard>) -> Standing {
        let seen = match place {
            Place::Known(at) => &mut self.seen[at],
            Place::New(at) => &mut self.new[at].1,
        };
        seen.hear(now, heard);
        seen.sending = unacknowledged > 0 || if heard.is_some() { sends(heard) } else { seen.sending };
        seen.standing(now, heard.is_none())
    }

    /// One that is not the next: some before it are gone, it is new, or the order is another.
    #[cold]
    fn look_up(&mut self, name: u64, now: Duration) -> Place {
        let ahead = self.seen.get(self.next..).unwrap_or_default();
        if let Some(gone) = ahead.iter().take(LOOKED_THROUGH).position(|seen| seen.name == name) {
            return Place::Known(self.next + gone);
        }
        if name <= self.greatest {
            let seen = &self.seen;
            let index = self.index.get_or_insert_with(|| seen.iter().map(|seen| seen.name).zip(0..).collect());
            if let Some(at) = index.get(&name) {
                return Place::Known(*at as usize);
            }
        }
        let seen = Seen { name, since: tenths(now), generation: self.generation, sending: false, asked: false };
        self.new.push((self.next as u32, seen));
        Place::New(self.new.len() - 1)
    }

    /// Ends a whole walk: what was not in it is forgotten.
    pub fn end(&mut self) {
        let generation = self.generation;
        self.settle(self.met, |seen| seen.generation == generation);
    }

    /// Puts what is new in its place among the known, of which `kept` are kept.
    fn settle(&mut self, kept: usize, is_kept: impl Fn(&Seen) -> bool) {
        self.index = None;
        let (known, new) = (self.seen.len(), std::mem::take(&mut self.new));
        if let Some((_, any)) = new.first() {
            // From the end, each entry moves once, and no second ledger is made beside this one.
            self.seen.reserve_exact(new.len());
            self.seen.resize(known + new.len(), *any);
            let (mut from, mut to) = (known, self.seen.len());
            for (before, new) in new.iter().rev() {
                let before = from.min(*before as usize);
                to -= from - before;
                self.seen.copy_within(before..from, to);
                from = before;
                to -= 1;
                self.seen[to] = *new;
            }
        }
        if kept < known {
            self.seen.retain(is_kept);
        }
        if self.seen.capacity() > self.seen.len() + self.seen.len() / ROOM {
            self.seen.shrink_to_fit();
        }
        if kept < known || !new.is_empty() {
            self.greatest = self.seen.iter().map(|seen| seen.name).max().unwrap_or(0);
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
    // The last nanosecond counts as well.
    let tenths = since_boot.as_secs() * 10 + u64::from(since_boot.subsec_nanos().div_ceil(100_000_000));
    u32::try_from(tenths).unwrap_or(u32::MAX)
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
            sockets.iter().map(|(name, unacked, heard)| ledger.meet(*name, now, *unacked, *heard).1).collect();
        ledger.end();
        standings
    }

    /// A walk that meets one socket, asks nothing, and then asks it by itself.
    fn walk_and_ask(ledger: &mut Ledger, now: Duration, name: u64, heard: Heard) -> [Standing; 2] {
        ledger.begin();
        let (place, met) = ledger.meet(name, now, 0, None);
        let told = ledger.hear(place, now, 0, Some(heard));
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
        let heard = Heard { last_ack_received: Some(90 * SECOND), last_data_sent: Some(95 * SECOND) };
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
        let heard = Heard { last_ack_received: None, last_data_sent: Some(16 * SECOND) };
        let [again, told] = walk_and_ask(&mut ledger, 114 * SECOND, 1, heard);
        assert_eq!((again.sending, again.unasked, told.sending), (true, true, false));
        assert!(!walk(&mut ledger, 129 * SECOND, &[(1, 0, None)])[0].unasked);
    }

    #[test]
    fn what_a_burst_took_is_given_back() {
        let mut ledger = Ledger::default();
        let many: Vec<_> = (0..50_000).map(|name| (name, 0, None)).collect();
        walk(&mut ledger, SECOND, &many);
        assert!(std::mem::size_of::<Seen>() == 16);
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
                let ages: Vec<_> = names.iter().map(|name| ledger.meet(*name, now, 0, None).1.age).collect();
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
                let ages: Vec<_> = table.iter().map(|name| ledger.meet(*name, now, 0, None).1.age).collect();
                ledger.end();
                prop_assert_eq!(ages, model.walk(now, &table, false));
                prop_assert_eq!(ledger.seen.iter().map(|seen| seen.name).collect::<Vec<_>>(), table.clone());
            }
        }

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
                    let (place, met) = ledger.meet(name, at, 0, asks.then_some(heard));
                    prop_assert_eq!(met.unasked && asks, false);
                    // Whoever is unasked is asked by itself.
                    let standing = if met.unasked { ledger.hear(place, at, 0, Some(heard)) } else { met };
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
