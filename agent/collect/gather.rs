//! Gathers the sockets of one walk into groups, counts, or rows.
//!
//! The tick's gathering is the hot path: it makes no allocation a socket, and keeps 12 bytes of each.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use foldhash::fast::FixedState;

use super::ledger::{EntryIndex, Heard, Ledger, Standing};
use super::wire::{CLOSE_WAIT, ESTABLISHED, Entry, Identity, LISTEN};
use crate::clock::Clock;
use crate::model::socket::accepts;
use crate::model::{Brief, Connection, Group, Listener, NetNs, Socket, TableRow};

/// The result of a walk over sockets.
pub(super) trait Gather {
    /// Before each attempt: forgets what a broken one left.
    fn begin(&mut self);
    fn take(&mut self, entry: &Entry);
}

/// The properties that sockets of one group share.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    cgroup_id: Option<u64>,
    via: Option<usize>,
    accepted: bool,
    port: Option<u16>,
}

/// A socket that is to be asked by itself, and where its brief stands.
#[derive(Clone, Debug)]
pub(super) struct Unasked {
    pub identity: Identity,
    place: EntryIndex,
    unacknowledged: u32,
    group: usize,
    socket: usize,
}

/// Sockets that are asked by themselves after one walk: 512 of 5.5 µs are 3 ms. What is beyond waits for the next
/// walk, which then asks for all.
pub(super) const MOST_UNASKED: usize = 512;

/// So many sockets on one local port, where nobody listens, were accepted there before the listener was closed. The kernel
/// gives one local port to outbound connections too, but to no two of one destination, and seldom to a second.
const CROWD: u8 = 8;

/// The sockets in CLOSE_WAIT and the listeners of one network namespace.
///
/// The kernel walks the listeners first (`inet_diag_dump_icsk`), so that those which accept connections to a socket's
/// address are known when it comes.
pub(super) struct Leaks<'a> {
    namespace: NetNs,
    clock: &'a dyn Clock,
    /// When the look began.
    now: Duration,
    ledger: &'a mut Ledger,
    /// Local ports that are told apart also where nobody listens.
    ports: &'a HashSet<u16>,
    pub groups: Vec<Group>,
    pub listeners: Vec<Listener>,
    index: HashMap<Key, usize, FixedState>,
    by_port: HashMap<u16, Vec<usize>, FixedState>,
    /// Local ports at which sockets were accepted, also where nobody listens any more.
    accepted: HashSet<u16>,
    /// Those of them at which sockets still are.
    still_accepted: HashSet<u16>,
    /// Sockets on each of the other ports, up to a crowd; empty before the first.
    others: Vec<u8>,
    /// Ports of `others` that turned out to be a listener's: the table has to be walked once more.
    pub crowded: Vec<u16>,
    /// The ports of `by_port`, of `ports` and of `accepted`: a socket with another one, as most outbound ones, needs no look at either.
    told: Ports,
    /// True where the present source answers requests for single sockets.
    pub asks: bool,
    pub unasked: Vec<Unasked>,
    /// How many there were, also beyond what `unasked` holds.
    pub unasked_in_all: usize,
    /// Each socket in full, where that is wanted.
    pub sockets: Option<Vec<(usize, Socket)>>,
}

impl<'a> Leaks<'a> {
    pub fn new(
        namespace: NetNs,
        clock: &'a dyn Clock,
        now: Duration,
        ledger: &'a mut Ledger,
        ports: &'a HashSet<u16>,
        in_full: bool,
    ) -> Self {
        Self {
            namespace,
            clock,
            now,
            ledger,
            ports,
            groups: Vec::new(),
            listeners: Vec::new(),
            index: HashMap::default(),
            by_port: HashMap::default(),
            accepted: HashSet::new(),
            still_accepted: HashSet::new(),
            others: Vec::new(),
            crowded: Vec::new(),
            told: Ports::default(),
            asks: true,
            unasked: Vec::new(),
            unasked_in_all: 0,
            sockets: in_full.then(Vec::new),
        }
    }

    /// What a socket of `unasked` answered when it was asked by itself, before the walk has ended.
    pub fn hear(&mut self, of: &Unasked, heard: Heard) {
        let now = self.clock.monotonic();
        let standing = self.ledger.hear(of.place, now, of.unacknowledged, heard);
        let brief = &mut self.groups[of.group].sockets[of.socket];
        *brief = brief_of(brief.inode, brief.unread, standing);
    }

    /// Sockets on these local ports were accepted, so the walks before it have found.
    pub fn accepted_at(&mut self, ports: impl IntoIterator<Item = u16>) {
        self.accepted.extend(ports);
    }

    /// The local ports at which this walk has found accepted sockets.
    pub fn accepted(&mut self) -> HashSet<u16> {
        let via = self.groups.iter().filter_map(|group| group.via).map(|via| self.listeners[via].local.port());
        std::mem::take(&mut self.still_accepted).into_iter().chain(via).collect()
    }

    /// Ends a whole walk.
    pub fn end(&mut self) {
        self.ledger.end();
    }

    #[inline]
    fn key(&mut self, entry: &Entry) -> Key {
        let (cgroup_id, port) = (entry.cgroup_id, entry.identity.local_port());
        if !self.told.contains(port) {
            self.count_other(port);
            return Key { cgroup_id, via: None, accepted: false, port: None };
        }
        let listeners = self.by_port.get(&port).map_or(&[][..], Vec::as_slice);
        let local = entry.identity.local();
        let mut accepting =
            listeners.iter().copied().filter(|index| accepts(self.listeners[*index].local, local)).peekable();
        let first = accepting.peek().copied();
        let via = accepting.find(|index| self.listeners[*index].cgroup_id == cgroup_id).or(first);
        let accepted = via.is_none() && self.accepted.contains(&port);
        if accepted {
            self.still_accepted.insert(port);
        }
        Key { cgroup_id, via, accepted, port: self.ports.contains(&port).then_some(port) }
    }

    #[inline]
    fn count_other(&mut self, port: u16) {
        if self.others.is_empty() {
            self.others = vec![0; 1 << 16]; // 64 KiB, of which the kernel gives what is touched
        }
        let count = &mut self.others[usize::from(port)];
        *count = count.saturating_add(1);
        if *count == CROWD {
            self.crowded.push(port);
        }
    }

    #[inline]
    fn group(&mut self, key: Key) -> usize {
        let namespace = self.namespace;
        *self.index.entry(key).or_insert_with(|| {
            let Key { cgroup_id, via, accepted, port } = key;
            self.groups.push(Group { namespace, cgroup_id, via, accepted, port, sockets: Vec::new() });
            self.groups.len() - 1
        })
    }

    #[inline]
    fn close_wait(&mut self, entry: &Entry) {
        let askable = self.asks && entry.identity.cookie() != 0;
        let met = name(entry).map(|name| {
            let heard = Heard::of(entry);
            // What was heard was said after the look began.
            let now = if heard.is_some() { self.clock.monotonic() } else { self.now };
            self.ledger.meet(name, now, entry.send_q, heard, askable)
        });
        let standing = met.map_or(Standing::UNKNOWN, |(_, standing)| standing);
        let key = self.key(entry);
        let group = self.group(key);
        let sockets = &mut self.groups[group].sockets;
        if let Some((place, Standing { unasked: true, .. })) = met {
            self.unasked_in_all += 1;
            if self.unasked.len() < MOST_UNASKED {
                let (identity, unacknowledged) = (entry.identity, entry.send_q);
                self.unasked.push(Unasked { identity, place, unacknowledged, group, socket: sockets.len() });
            }
        }
        sockets.push(brief_of(entry.inode, entry.recv_q > 1, standing));
        if let Some(all) = &mut self.sockets {
            all.push((group, in_full(entry, standing)));
        }
    }
}

/// A set of ports, a bit each: 8 KiB.
#[derive(Debug)]
struct Ports(Box<[u64; 1024]>);

impl Default for Ports {
    fn default() -> Self {
        Self(Box::new([0; 1024]))
    }
}

impl Ports {
    fn insert(&mut self, port: u16) {
        self.0[usize::from(port / 64)] |= 1 << (port % 64);
    }

    #[inline]
    fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] & 1 << (port % 64) != 0
    }
}

impl Gather for Leaks<'_> {
    fn begin(&mut self) {
        self.ledger.begin();
        self.groups.clear();
        self.listeners.clear();
        self.index.clear();
        self.by_port.clear();
        self.told = Ports::default();
        self.ports.iter().chain(&self.accepted).for_each(|port| self.told.insert(*port));
        self.others.clear();
        self.crowded.clear();
        self.still_accepted.clear();
        self.unasked.clear();
        self.unasked_in_all = 0;
        if let Some(sockets) = &mut self.sockets {
            sockets.clear();
        }
    }

    #[inline]
    fn take(&mut self, entry: &Entry) {
        match entry.state {
            CLOSE_WAIT => self.close_wait(entry),
            LISTEN => {
                let local = entry.identity.local();
                self.told.insert(local.port());
                self.by_port.entry(local.port()).or_default().push(self.listeners.len());
                let (namespace, inode) = (self.namespace, entry.inode.into());
                self.listeners.push(Listener { namespace, local, inode, cgroup_id: entry.cgroup_id });
            }
            // It left CLOSE_WAIT between the kernel's filter and its answer.
            _ => {}
        }
    }
}

/// What tells a socket apart from one walk to the next: its cookie, or its inode where none is told (/proc). Nothing
/// does in an accept queue without cookies: the next connection may have the same addresses.
fn name(entry: &Entry) -> Option<u64> {
    const NO_COOKIE: u64 = 1 << 63;
    match (entry.identity.cookie(), entry.inode) {
        (0, 0) => None,
        (0, inode) => Some(NO_COOKIE | u64::from(inode)),
        (cookie, _) => Some(cookie),
    }
}

fn in_full(entry: &Entry, standing: Standing) -> Socket {
    Socket {
        cookie: entry.identity.cookie(),
        local: entry.identity.local(),
        remote: entry.identity.remote(),
        inode: entry.inode.into(),
        uid: entry.uid,
        recv_q: entry.recv_q,
        send_q: entry.send_q,
        age: Some(standing.age),
        at_least: standing.at_least,
        idle: entry.last_data_received.filter(|_| !standing.at_least).map(|received| {
            let data = received.min(entry.last_data_sent.unwrap_or(Duration::MAX));
            data.saturating_sub(standing.age)
        }),
    }
}

#[inline]
fn brief_of(inode: u32, unread: bool, standing: Standing) -> Brief {
    Brief::new(inode, standing.age, unread, standing.sending).at_least(standing.at_least)
}

/// Sockets counted by their cgroup.
#[derive(Default)]
pub(super) struct ByCgroup {
    pub counts: BTreeMap<u64, u64>,
    /// The kernel did not tell every socket's cgroup.
    pub some_untold: bool,
}

impl Gather for ByCgroup {
    fn begin(&mut self) {
        *self = Self::default();
    }

    fn take(&mut self, entry: &Entry) {
        match entry.cgroup_id {
            Some(id) => *self.counts.entry(id).or_default() += 1,
            None => self.some_untold = true,
        }
    }
}

/// By when data last came or went, where that is told.
impl Gather for Vec<Connection> {
    fn begin(&mut self) {
        self.clear();
    }

    fn take(&mut self, entry: &Entry) {
        // What never sent anything is as idle as what it received last.
        let sent = entry.last_data_sent.unwrap_or(Duration::MAX);
        self.push(Connection {
            local: entry.identity.local(),
            remote: entry.identity.remote(),
            cookie: entry.identity.cookie(),
            bytes: entry.bytes,
            established: entry.state == ESTABLISHED,
            send_q: entry.send_q,
            idle: entry.last_data_received.map(|received| received.min(sent)),
        });
    }
}

/// Their inodes alone.
impl Gather for HashSet<u32> {
    /// The sockets that an interrupted walk has seen did exist.
    fn begin(&mut self) {}

    fn take(&mut self, entry: &Entry) {
        self.insert(entry.inode);
    }
}

/// The states as `ss` spells them, by the kernel's number.
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
fn state_name(state: u8) -> &'static str {
    STATE_NAMES.get(usize::from(state)).copied().unwrap_or(STATE_NAMES[0])
}

/// The whole table, or the part of it that was asked for.
impl Gather for Vec<TableRow> {
    fn begin(&mut self) {
        self.clear();
    }

    fn take(&mut self, entry: &Entry) {
        self.push(TableRow {
            state: state_name(entry.state),
            recv_q: entry.recv_q,
            send_q: entry.send_q,
            local: entry.identity.local(),
            remote: entry.identity.remote(),
            inode: entry.inode.into(),
            cookie: entry.identity.cookie(),
            cgroup_id: entry.cgroup_id,
        });
    }
}
