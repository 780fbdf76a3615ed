//! For how long each socket of one network namespace has been stuck in CLOSE_WAIT. Never overstated at an age that counts.
//!
//! A socket is stuck since its FIN came, or since its service last sent data after that: who still sends has not
//! forgotten it. The kernel keeps the time of the last data sent (`tcpi_last_data_sent`), and not that of the FIN. For it two
//! lower bounds exist, and the greater one is taken: since the socket was first seen in CLOSE_WAIT here, and since the last
//! acknowledgement arrived (`tcpi_last_ack_recv`: the FIN came no later than that, so it is exact until the application
//! writes or a keepalive is answered). Where a keepalive may have been answered, the age says that it is a lower bound.
//!
//! A socket is asked when it is first seen. From then on time alone goes by, until the age reaches one that counts (that of
//! a `close_wait.aged(5m)`): then it is asked again, since its service may have sent meanwhile, and until it has answered it
//! does not count as so old. One that was seen to send after its FIN is asked in each walk as long as it is as old as that;
//! one that was silent till then is asked by the walks that ask all, once a minute and before anything is done about it.
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

/// An age that is exact to this is no lower bound.
const EXACT_TO: Duration = Duration::from_secs(1);
/// The shortest step of an age.
const TENTH: Duration = Duration::from_millis(100);

/// The fields of a socket's `tcp_info` that are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub last_ack_received: Option<Duration>,
    pub last_data_sent: Option<Duration>,
    /// The FIN came no earlier.
    pub last_data_received: Option<Duration>,
    /// Keepalives are sent, whose answers are acknowledgements.
    pub keepalive: bool,
}

impl Heard {
    /// The socket's `tcp_info`; `None` where it was not requested, or has no times.
    pub fn of(entry: &Entry) -> Option<Self> {
        let Entry { last_ack_received, last_data_sent, last_data_received, keepalive, .. } = *entry;
        let heard = Self { last_ack_received, last_data_sent, last_data_received, keepalive };
        (last_ack_received.is_some() || last_data_sent.is_some()).then_some(heard)
    }

    /// The acknowledgement may be of a keepalive, and the FIN have come before it.
    fn is_a_lower_bound(&self) -> bool {
        let (Some(acknowledged), Some(received)) = (self.last_ack_received, self.last_data_received) else {
            return true;
        };
        self.keepalive && received > acknowledged + EXACT_TO
    }
}

/// The present knowledge about a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub age: Duration,
    /// The age is a lower bound.
    pub at_least: bool,
    pub sending: bool,
    /// True where a single request to the kernel is due: for the age at the first look or before the socket counts as
    /// old, or for a late send.
    pub unasked: bool,
}

impl Standing {
    /// The verdict on a socket that has no identity of its own.
    pub const UNKNOWN: Self = Self { age: Duration::ZERO, at_least: true, sending: false, unasked: false };
}

/// Where a socket stands in the ledger until its walk ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum EntryIndex {
    Known(usize),
    New(usize),
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// In the order of the last walks.
    seen: Vec<LedgerEntry>,
    generation: u8,
    /// The place where the present walk looks for its next socket.
    next: usize,
    /// How many of `seen` it has met.
    met: usize,
    /// What it has met that is not in `seen`, each with the entry that it came before.
    new: Vec<(u32, LedgerEntry)>,
    /// The greatest name in `seen`: cookies count up, so that a new socket's is mostly beyond it.
    greatest: u64,
    /// All of `seen` by name; made by a walk that needs it.
    index: Option<HashMap<u64, u32, FixedState>>,
    /// The ages that count, the least first.
    ages: Vec<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct LedgerEntry {
    name: u64,
    /// Tenths of a second since boot, rounded up so that no age is overstated; 13 years.
    since: u32,
    generation: u8,
    /// How many of the ages that count it had reached when it was last asked.
    confirmed: u8,
    /// Of [`SENDING`] and those beside it.
    is: u8,
}

const SENDING: u8 = 1;
const ASKED: u8 = 1 << 1;
/// The socket was seen to send after the peer's FIN.
const TALKS: u8 = 1 << 2;
/// Since earlier, maybe.
const AT_LEAST: u8 = 1 << 3;

impl Ledger {
    /// At these ages a socket begins to count as old: it is asked again when it comes to one.
    pub fn count_at(&mut self, ages: &[Duration]) {
        // As many as can be counted in a byte.
        let ages = &ages[..ages.len().min(u8::MAX.into())];
        if self.ages != ages {
            self.ages = ages.to_vec();
            self.ages.sort_unstable();
            self.seen.iter_mut().for_each(|seen| seen.confirmed = 0);
        }
    }

    /// Begins a walk.
    pub fn begin(&mut self) {
        // A walk that was cut has ended nothing: what it had met is known, and nothing is forgotten.
        self.settle(self.seen.len(), |_| true);
        self.generation = self.generation.wrapping_add(1);
        (self.next, self.met) = (0, 0);
    }

    /// One socket of the walk, at `now` since boot. `name` is its cookie, or what else tells it apart; `askable`: it can be
    /// asked by itself.
    ///
    /// What was heard says how long ago something was: `now` must not be before it was said, or ages are overstated.
    #[inline]
    pub fn meet(
        &mut self,
        name: u64,
        now: Duration,
        unacknowledged: u32,
        heard: Option<Heard>,
        askable: bool,
    ) -> (EntryIndex, Standing) {
        let place = match self.seen.get(self.next) {
            Some(seen) if seen.name == name => EntryIndex::Known(self.next),
            _ => self.look_up(name, now),
        };
        if let EntryIndex::Known(at) = place {
            let seen = &mut self.seen[at];
            self.met += usize::from(seen.generation != self.generation);
            seen.generation = self.generation;
            self.next = at + 1;
        }
        (place, self.stand(place, now, unacknowledged, heard, askable && heard.is_none()))
    }

    /// The same socket again, where it was asked by itself before the walk has ended.
    #[inline]
    pub fn hear(&mut self, place: EntryIndex, now: Duration, unacknowledged: u32, heard: Heard) -> Standing {
        self.stand(place, now, unacknowledged, Some(heard), false)
    }

    #[inline]
    fn stand(
        &mut self,
        place: EntryIndex,
        now: Duration,
        unacknowledged: u32,
        heard: Option<Heard>,
        to_be_asked: bool,
    ) -> Standing {
        let seen = match place {
            EntryIndex::Known(at) => &mut self.seen[at],
            EntryIndex::New(at) => &mut self.new[at].1,
        };
        if let Some(heard) = heard {
            seen.hear(now, heard, &self.ages);
        }
        let sends = unacknowledged > 0 || if heard.is_some() { sends(heard) } else { seen.is(SENDING) };
        seen.set(SENDING, sends);
        seen.standing(now, &self.ages, to_be_asked)
    }

    /// One that is not the next: some before it are gone, it is new, or the order is another.
    #[cold]
    fn look_up(&mut self, name: u64, now: Duration) -> EntryIndex {
        let ahead = self.seen.get(self.next..).unwrap_or_default();
        if let Some(gone) = ahead.iter().take(LOOKED_THROUGH).position(|seen| seen.name == name) {
            return EntryIndex::Known(self.next + gone);
        }
        if name <= self.greatest {
            let seen = &self.seen;
            let index = self.index.get_or_insert_with(|| seen.iter().map(|seen| seen.name).zip(0..).collect());
            if let Some(at) = index.get(&name) {
                return EntryIndex::Known(*at as usize);
            }
        }
        let seen = LedgerEntry { name, since: tenths(now), generation: self.generation, confirmed: 0, is: AT_LEAST };
        self.new.push((self.next as u32, seen));
        EntryIndex::New(self.new.len() - 1)
    }

    /// Ends a whole walk: what was not in it is forgotten.
    pub fn end(&mut self) {
        let generation = self.generation;
        self.settle(self.met, |seen| seen.generation == generation);
    }

    /// Puts what is new in its place among the known, of which `kept` are kept.
    fn settle(&mut self, kept: usize, is_kept: impl Fn(&LedgerEntry) -> bool) {
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

impl LedgerEntry {
    fn is(&self, flag: u8) -> bool {
        self.is & flag != 0
    }

    fn set(&mut self, flag: u8, to: bool) {
        self.is = if to { self.is | flag } else { self.is & !flag };
    }

    fn hear(&mut self, now: Duration, heard: Heard, ages: &[Duration]) {
        let ago = |ago: Duration| tenths(now.saturating_sub(ago));
        let acknowledged = heard.last_ack_received.map(ago);
        let before = self.since;
        if !self.is(ASKED) || acknowledged.is_some_and(|at| at < before) {
            self.since = acknowledged.map_or(before, |at| at.min(before));
            self.set(AT_LEAST, heard.is_a_lower_bound());
        }
        if let Some(sent) = heard.last_data_sent.map(ago).filter(|sent| *sent > self.since) {
            self.since = sent;
            self.is |= TALKS;
            self.set(AT_LEAST, false);
        }
        self.is |= ASKED;
        self.confirmed = reached(self.age(now), ages);
    }

    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(TENTH * self.since)
    }

    #[inline]
    fn standing(&self, now: Duration, ages: &[Duration], to_be_asked: bool) -> Standing {
        let mut age = self.age(now);
        let confirmed = if self.is(TALKS) { 0 } else { self.confirmed };
        let is_due = to_be_asked && reached(age, ages) > confirmed;
        if is_due {
            age = age.min(ages[usize::from(confirmed)].saturating_sub(TENTH));
        }
        let (sending, at_least) = (self.is(SENDING), self.is(AT_LEAST) || is_due);
        Standing { age, at_least, sending, unasked: to_be_asked && (!self.is(ASKED) || sending || is_due) }
    }
}

/// How many of these ages it has.
#[inline]
fn reached(age: Duration, ages: &[Duration]) -> u8 {
    ages.iter().take_while(|counts| age >= **counts).count() as u8
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
mod tests;
