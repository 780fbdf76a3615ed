#![doc = include_str!("README.md")]

pub mod arrivals;
pub mod destroy;
mod found;
mod gate;
mod gather;
mod ledger;
mod namespaces;
mod netlink;
mod proc_table;
mod reader;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use crate::clock::Clock;
use crate::model::socket::{PassedOver, Quality};
use crate::model::{Connection, Detail, NetNs, Snapshot, TableRow};

#[cfg(test)]
pub use namespaces::tests::with_descriptors as tests_with_descriptors;

use found::Found;
use gate::Gate;
use gather::{ByCgroup, Gather, Leaks, MOST_UNASKED};
use ledger::Ledger;
use namespaces::{Discovery, EnterError, MOUNTS, Namespace, discover};
use reader::{Reader, Source, Wanted};
use wire::{ALL_STATES, CLOSE_WAIT, ESTABLISHED, FIN_WAIT_2, LISTEN};

/// How often every socket is asked whether it still sends; between, only those that are new, or did send, or come to an age
/// that counts.
const ASK_ALL_EVERY: Duration = Duration::from_secs(60);
/// How often namespaces are looked for anew in one look, where some were gone when they were to be entered.
const VANISHED_LOOKED_FOR: usize = 3;

/// The optional contents of a snapshot besides the sockets in CLOSE_WAIT and the listeners, and the parts it may leave
/// out.
#[derive(Clone, Copy, Default)]
pub struct Ask<'a> {
    /// Count established sockets by cgroup: a second walk, about 0.5 µs for each of them.
    pub established: bool,
    /// Ask every socket anew whether it still sends: what is acted upon has to be so now.
    pub afresh: bool,
    /// Whether a namespace matters that holds at most so many sockets in CLOSE_WAIT, on a host that has at most so
    /// many; one that does not is passed over. `None`: nothing is.
    pub matters: Option<&'a dyn Fn(u64, u64) -> bool>,
}

impl std::fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { established, afresh, .. } = self;
        f.debug_struct("Ask").field("established", established).field("afresh", afresh).finish_non_exhaustive()
    }
}

/// Why the kernel could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// This dump failed; the next one may succeed.
    #[error("cannot read the kernel's TCP table: {detail}; this measurement is skipped")]
    Dump { detail: String },
    /// Sockets could not be closed.
    #[error("cannot close the sockets: {detail}")]
    Destroy { detail: String },
    /// Neither netlink nor /proc gives the table.
    #[error(
        "cannot read the TCP table: netlink: {netlink}; /proc/net/tcp: {proc}; allow AF_NETLINK sockets \
         (RestrictAddressFamilies=, seccomp), or mount /proc"
    )]
    NoSource { netlink: String, proc: String },
}

/// Asks the kernel. One is enough for a process; it holds one netlink socket and the counters of its own namespace
/// open, and nothing of the others between two snapshots.
#[derive(Debug)]
pub struct Collector {
    namespaces: Discovery,
    /// Why the last discovery failed, where it did: what was known before may no longer be all.
    undiscovered: Option<String>,
    gate: Gate,
    /// The reader of the agent's own namespace.
    own: Reader,
    /// The memory of each namespace's sockets.
    memory: BTreeMap<NetNs, Memory>,
    /// Local ports that are told apart also where nobody listens.
    ports: HashSet<u16>,
    /// The ages at which a socket counts as old.
    ages: Vec<Duration>,
}

/// The memory of one namespace's sockets between two looks.
#[derive(Debug, Default)]
struct Memory {
    ledger: Ledger,
    /// Some are still to be asked for their age: the next walk asks all.
    behind: bool,
    /// When the last walk asked all of them.
    asked_all: Duration,
    /// Local ports at which sockets were accepted that are in CLOSE_WAIT, also where nobody listens any more.
    accepted: HashSet<u16>,
}

impl Collector {
    /// Opens the netlink socket by a first, cheap dump (listeners alone, some 40 µs), so that a host where no
    /// source works is told so at start; and looks for the host's network namespaces.
    pub fn new() -> Result<Self, CollectError> {
        let mut own = Reader::of_our_own();
        own.read(Wanted { states: 1 << LISTEN, info: false }, &mut Vec::<TableRow>::new())?;
        let (memory, ports, ages) = (BTreeMap::new(), HashSet::new(), Vec::new());
        let (namespaces, undiscovered) = (Discovery::of_our_own(), None);
        let mut collector = Self { namespaces, undiscovered, gate: Gate::new(), own, memory, ports, ages };
        collector.discover();
        Ok(collector)
    }

    /// One for each way to the table, and that way alone.
    #[cfg(test)]
    pub fn one_for_each_way() -> Result<Vec<Self>, CollectError> {
        [&[Source::OneWalk][..], &[Source::ByFamily], &[Source::Proc]]
            .into_iter()
            .map(|sources| {
                let mut collector = Self::new()?;
                collector.own.sources = sources;
                Ok(collector)
            })
            .collect()
    }

    /// Looks again for the host's network namespaces: some microseconds a process, which is why no tick does it.
    pub fn discover(&mut self) {
        match discover("/proc".as_ref(), &MOUNTS.map(AsRef::as_ref)) {
            Ok(found) => (self.namespaces, self.undiscovered) = (found, None),
            Err(error) => self.undiscovered = Some(format!("/proc, by which network namespaces are found: {error}")),
        }
    }

    /// Tells sockets of these local ports apart, also where nobody listens there.
    pub fn tell_apart(&mut self, ports: impl IntoIterator<Item = u16>) {
        self.ports = ports.into_iter().collect();
    }

    /// A socket that comes to one of these ages is asked whether it still sends, before it counts as so old.
    pub fn count_at(&mut self, ages: impl IntoIterator<Item = Duration>) {
        self.ages = ages.into_iter().collect();
    }

    /// The kernel's TCP table now.
    ///
    /// Established sockets are counted by a dump of their own, a moment later. The count is `None` where the kernel
    /// tells no cgroups.
    pub fn snapshot(&mut self, clock: &dyn Clock, ask: Ask) -> Result<Snapshot, CollectError> {
        Ok(self.collect(clock, ask, false)?.snapshot)
    }

    /// As [`Self::snapshot`], with each socket in CLOSE_WAIT in full; no namespace is passed over.
    pub fn detail(&mut self, clock: &dyn Clock) -> Result<Detail, CollectError> {
        self.collect(clock, Ask { afresh: true, ..Ask::default() }, true)
    }

    fn collect(&mut self, clock: &dyn Clock, ask: Ask, in_full: bool) -> Result<Detail, CollectError> {
        let mut found = Found::begin(clock, ask, in_full);
        let mut met: HashSet<u64> = self.namespaces.namespaces.iter().map(|namespace| namespace.inode).collect();
        let wanted = self.worth_walking(ask, &mut found.passed_over);
        let mut vanished = self.walk_each(wanted, &mut found)?;
        for _ in 0..VANISHED_LOOKED_FOR {
            if vanished.is_empty() {
                break;
            }
            // All processes by which it was reached have ended; others may be in it still.
            self.discover();
            let mut again = self.namespaces.namespaces.clone();
            // What has taken its place is new, and may hold what it held.
            again.retain(|namespace| vanished.contains(&namespace.inode) || !met.contains(&namespace.inode));
            met.extend(again.iter().map(|namespace| namespace.inode));
            vanished = self.walk_each(again, &mut found)?;
        }
        for inode in vanished {
            found.partial(format!("network namespace {} could not be entered", NetNs(inode)));
        }
        if let Some(why) = &self.undiscovered {
            found.partial(why.clone());
        }
        let known: HashSet<NetNs> = self.namespaces.namespaces.iter().map(|namespace| NetNs(namespace.inode)).collect();
        self.memory.retain(|id, _| known.contains(id));
        Ok(found.into_detail(&self.namespaces))
    }

    /// Those of them that were gone when they were to be entered.
    fn walk_each(&mut self, namespaces: Vec<Namespace>, found: &mut Found<'_>) -> Result<Vec<u64>, CollectError> {
        let mut vanished = Vec::new();
        for namespace in namespaces {
            if self.walk(&namespace, found)? == Walked::Vanished {
                vanished.push(namespace.inode);
                // Its number may be another's by now, and before Linux 5.4 cookies are of one namespace: none of what
                // comes under it must inherit an age.
                self.memory.remove(&NetNs(namespace.inode));
            }
        }
        Ok(vanished)
    }

    /// The namespaces in which something may matter; counts those that are passed over.
    fn worth_walking(&mut self, ask: Ask, passed_over: &mut PassedOver) -> Vec<Namespace> {
        let namespaces = &self.namespaces.namespaces;
        if ask.matters.is_none() && namespaces.len() == 1 {
            return namespaces.clone();
        }
        // Each walk of another namespace costs as much as one of our own, since all of them share one table: one
        // without a connection is never walked.
        let matters = ask.matters.unwrap_or(&|service, _| service > 0);
        // The fewest that matter in any one namespace: below that, a cheaper bound will do.
        let enough = least(|service| matters(service, u64::MAX));
        // One whose counters cannot be read may hold anything.
        let bounds: Vec<u64> =
            namespaces.iter().map(|namespace| self.gate.bound(namespace, enough).unwrap_or(u64::MAX)).collect();
        let host = bounds.iter().copied().fold(0, u64::saturating_add);
        let mut to_walk = Vec::new();
        for (namespace, at_most) in namespaces.iter().zip(bounds) {
            if matters(at_most, host) || namespace.own && ask.matters.is_none() {
                to_walk.push(namespace.clone());
            } else if at_most > 0 {
                passed_over.namespaces += 1;
                passed_over.at_most += at_most;
            }
        }
        to_walk
    }

    /// Walks one namespace, and keeps nothing of another than our own open.
    fn walk(&mut self, namespace: &Namespace, found: &mut Found) -> Result<Walked, CollectError> {
        let id = NetNs(namespace.inode);
        let mptcp = self.gate.speaks_mptcp(namespace);
        let memory = self.memory.entry(id).or_default();
        memory.ledger.count_at(&self.ages);
        if namespace.own {
            let source = memory.read(id, &mut self.own, mptcp, &self.ports, found)?;
            found.source = found.source.max(source);
            return Ok(Walked::Whole);
        }
        let (mut reader, entered) = match namespace.diag() {
            Ok(diag) => (Reader::inside(namespace, diag), true),
            Err(EnterError::Gone { .. }) => return Ok(Walked::Vanished),
            Err(error) if error.is_refusal() && !namespace.can_be_read_from_outside() => {
                found.not_read += 1;
                return Ok(Walked::Whole);
            }
            Err(error) if error.is_refusal() => {
                found.not_entered += 1;
                (Reader::outside(namespace), false)
            }
            Err(error) => {
                found.partial(error.to_string());
                return Ok(Walked::Whole);
            }
        };
        // A port is configured as one of ours: in another namespace it is another's.
        match memory.read(id, &mut reader, mptcp, &HashSet::new(), found) {
            Ok(source) if entered => found.source = found.source.max(source),
            Ok(_) => {}
            Err(error) => found.partial(format!("network namespace {id}: {error}")),
        }
        Ok(Walked::Whole)
    }

    /// The TCP table of these namespaces, of all states: `ss -tan` as values, for the evidence. An interrupted walk is
    /// given as it is, since a picture of a moving table is still evidence.
    pub fn table(&mut self, of: &BTreeSet<NetNs>) -> Result<Vec<TableRow>, CollectError> {
        Ok(self.rows(Wanted { states: ALL_STATES, info: false }, of)?.0)
    }

    /// The connections in these namespaces by which data may still come or go: established ones, and those that the
    /// peer has half-closed. All of them, or an error.
    pub fn connections(&mut self, of: &BTreeSet<NetNs>) -> Result<Vec<Connection>, CollectError> {
        let known = |id: &NetNs| self.namespaces.namespaces.iter().any(|namespace| NetNs(namespace.inode) == *id);
        if let Some(gone) = of.iter().find(|id| !known(id)) {
            return Err(CollectError::Dump { detail: format!("network namespace {gone} has disappeared") });
        }
        match self.rows(Wanted { states: 1 << ESTABLISHED | 1 << CLOSE_WAIT, info: true }, of)? {
            (rows, Quality::Complete) => Ok(rows),
            (_, Quality::Partial { why }) => Err(CollectError::Dump { detail: why }),
        }
    }

    fn rows<T>(&mut self, wanted: Wanted, of: &BTreeSet<NetNs>) -> Result<(Vec<T>, Quality), CollectError>
    where
        Vec<T>: Gather,
    {
        let (mut all, mut quality) = (Vec::new(), Quality::Complete);
        for namespace in self.namespaces.namespaces.iter().filter(|namespace| of.contains(&NetNs(namespace.inode))) {
            let mut rows = Vec::new();
            let (_, read) = match namespace.own {
                true => self.own.read(wanted, &mut rows)?,
                false => match namespace.diag() {
                    Ok(diag) => Reader::inside(namespace, diag).read(wanted, &mut rows)?,
                    Err(_) => Reader::outside(namespace).read(wanted, &mut rows)?,
                },
            };
            if let partial @ Quality::Partial { .. } = read {
                quality = partial;
            }
            all.append(&mut rows);
        }
        Ok((all, quality))
    }

    /// The inodes of all TCP sockets of these namespaces that are in the kernel's table, and whether those of Multipath TCP
    /// are among them. All of them, or an error.
    pub fn inodes(&mut self, of: &BTreeSet<NetNs>) -> Result<(HashSet<u32>, bool), CollectError> {
        let (mut all, mut mptcp) = (HashSet::new(), true);
        let wanted = Wanted { states: ALL_STATES, info: false };
        for namespace in self.namespaces.namespaces.iter().filter(|namespace| of.contains(&NetNs(namespace.inode))) {
            let mut entered;
            let reader = match namespace.own {
                true => &mut self.own,
                false => {
                    entered =
                        namespace.diag().map_or_else(|_| Reader::outside(namespace), |d| Reader::inside(namespace, d));
                    &mut entered
                }
            };
            let (source, read) = reader.read(wanted, &mut all)?;
            let read_mptcp = if source == Source::Proc { None } else { reader.read_mptcp(wanted, &mut all)? };
            mptcp &= read_mptcp.is_some();
            for quality in [Some(read), read_mptcp].into_iter().flatten() {
                if let Quality::Partial { why } = quality {
                    return Err(CollectError::Dump { detail: why });
                }
            }
        }
        Ok((all, mptcp))
    }

    /// Sockets of our own namespace that have closed their side and wait for the peer to close its own (FIN_WAIT_2).
    pub fn waiting_for_the_peer(&mut self) -> Result<Vec<TableRow>, CollectError> {
        Ok(self.rows(Wanted { states: 1 << FIN_WAIT_2, info: false }, &[self.own_namespace()].into())?.0)
    }

    /// How many network namespaces are known beside our own.
    pub fn namespaces_beside(&self) -> usize {
        self.namespaces.namespaces.len().saturating_sub(1)
    }

    /// Every network namespace that is known.
    pub fn every_namespace(&self) -> BTreeSet<NetNs> {
        self.namespaces.namespaces.iter().map(|namespace| NetNs(namespace.inode)).collect()
    }

    /// Our own network namespace.
    pub fn own_namespace(&self) -> NetNs {
        self.namespaces.namespaces.first().map_or(NetNs::default(), |own| NetNs(own.inode))
    }
}

/// The least number for which a condition holds that, once it holds, holds for all greater ones.
fn least(holds: impl Fn(u64) -> bool) -> u64 {
    let (mut below, mut holding) = (0, u64::MAX);
    while below < holding {
        let middle = below + (holding - below) / 2;
        if holds(middle) { holding = middle } else { below = middle + 1 }
    }
    below
}

impl Memory {
    /// One walk of the namespace, gathered into `found`.
    fn read(
        &mut self,
        id: NetNs,
        reader: &mut Reader,
        mptcp: Option<bool>,
        ports: &HashSet<u16>,
        found: &mut Found,
    ) -> Result<Source, CollectError> {
        let due = found.monotonic.saturating_sub(self.asked_all) >= ASK_ALL_EVERY;
        let info = found.ask.afresh || self.behind || due || self.ledger.is_empty();
        let wanted = Wanted { states: 1 << CLOSE_WAIT | 1 << LISTEN, info };
        let mut leaks = Leaks::new(id, found.clock, found.monotonic, &mut self.ledger, ports, found.in_full);
        leaks.accepted_at(std::mem::take(&mut self.accepted));
        let (mut source, mut quality) = reader.read(wanted, &mut leaks)?;
        if !leaks.crowded.is_empty() {
            let crowded = std::mem::take(&mut leaks.crowded);
            leaks.accepted_at(crowded);
            (source, quality) = reader.read(wanted, &mut leaks)?;
        }
        let mut no_mptcp = false;
        if mptcp != Some(false) && source != Source::Proc && quality == Quality::Complete {
            match reader.add_mptcp(wanted, &mut leaks)? {
                Some(walked) => quality = walked,
                // Where it is not known that there are any, a kernel without them says the same.
                None => no_mptcp = mptcp == Some(true),
            }
        }
        reader.ask(&mut leaks);
        if quality == Quality::Complete {
            leaks.end();
        }
        self.accepted = leaks.accepted();
        let behind = leaks.unasked_in_all > MOST_UNASKED;
        found.absorb(leaks);
        found.no_mptcp += usize::from(no_mptcp);
        self.behind = behind;
        if info {
            self.asked_all = found.monotonic;
        }
        if let Quality::Partial { why } = quality {
            found.partial(why);
        }
        if found.ask.established {
            let mut counts = ByCgroup::default();
            if let (_, Quality::Partial { why }) =
                reader.read(Wanted { states: 1 << ESTABLISHED, info: false }, &mut counts)?
            {
                found.partial(why);
            }
            found.count(counts);
        }
        Ok(source)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Walked {
    Whole,
    /// Nothing leads into it any more: its processes have ended, and it with them or not.
    Vanished,
}
