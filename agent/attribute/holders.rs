//! The holders of a socket whose cgroup names no service: a bounded search through the descriptors of all processes,
//! and what it found before.
//!
//! For sockets without a cgroup id (kernels before 5.8, the /proc fallback), with the root's (v1-only and hybrid
//! hosts), of a cgroup that has been removed, of a `.socket` unit or init.scope, and for those that their own
//! service's processes turn out not to hold: a descriptor can be passed on. Called by the attributor, once a look.
//!
//! A look takes no longer than its budget, and the next one goes on where it stopped, also in the middle of one
//! process' descriptors: any host is covered after some looks. A look
//! 1. checks the holders that it knows: the process is still the same, at each look, and the descriptor still leads to the
//!    socket, every ten seconds;
//! 2. searches the likely ones: former holders, their parents and these parents' other children (pre-forked workers);
//! 3. goes on with its pass over /proc, or begins one: at once for a socket that no pass has looked for, and otherwise
//!    every two minutes, to notice a second holder.
//!
//! The search never guesses. A socket's owner is the service whose process was seen to hold it; held by processes of
//! several services it is [`Whose::Shared`]; held by none that was seen, it is nobody's, with the reason. That no process
//! holds it (it waits in a unix socket's queue, the kernel owns it, or a thread that shares no descriptors with its
//! process) is said after one whole pass; one that is passed on meanwhile is found by the next.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::CStr;
use std::io::Write;
use std::time::Duration;

use crate::clock::Clock;
use crate::model::census::NoOwner;
use crate::model::{Owner, ServiceName};

use super::membership::Membership;
use super::numbers::{Numbers, socket_inode};
use super::processes::{Budget, ProcRoot, Process, ProcessKey, Unseen};
use super::unit::ServiceCgroup;

/// A known holder is checked again in every look, but not sooner than this: 0.7 µs a socket.
const CHECK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// A new pass, though every socket has been looked for: at 100,000 descriptors 0.1 s of CPU in these two minutes.
const PASS_AGAIN_AFTER: Duration = Duration::from_secs(120);

/// The owner of a socket by its holders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Processes of this service hold it, and no other service's that was seen.
    Service(ServiceName),
    /// Processes of several services hold it: closing it takes all of them.
    Shared(BTreeSet<ServiceName>),
    Nobody(NoOwner),
}

impl From<Whose> for Owner {
    fn from(whose: Whose) -> Self {
        match whose {
            Whose::Service(service) => Self::Service(service),
            Whose::Shared(_) => Self::Nobody(NoOwner::Shared),
            Whose::Nobody(why) => Self::Nobody(why),
        }
    }
}

/// How far the search has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Wanted sockets that no known process holds and for which no whole pass was made yet.
    pub not_looked_at: usize,
    /// Processes that the pass under way, or else the last one, has looked at.
    pub looked_at: usize,
    /// Processes that the last whole pass looked at; `None` before the first.
    pub of: Option<usize>,
    /// Processes of them that could not be looked into, and at least 1 where some cannot even be listed (a /proc
    /// mounted with hidepid, a pid namespace of our own). CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH would show them.
    pub hidden: usize,
}

/// The search, and what it has found.
#[derive(Debug)]
pub(super) struct Holders {
    proc: ProcRoot,
    sockets: HashMap<u64, Wanted>,
    processes: BTreeMap<u32, Known>,
    pass: Pass,
}

/// A socket that is looked for.
#[derive(Debug)]
struct Wanted {
    /// The number of the last pass that had begun before it was asked for: only a later one covers it.
    asked_in: u64,
    /// Keys of `processes`: one for each cgroup that holds it.
    held_by: Vec<u32>,
}

/// A process that holds wanted sockets, or lately did.
#[derive(Debug)]
struct Known {
    seen: ProcessKey,
    cgroup: Membership,
    /// Descriptors with the wanted sockets that they lead to.
    holds: BTreeMap<u32, u64>,
    /// Zero: not since it was found, and so in the next look.
    checked: Duration,
    /// The descriptor that the check goes on from; 0 where none is under way.
    check_from: u32,
    /// The number of the pass in which it was last seen to hold one.
    held_in: u64,
}

/// The pass over /proc.
#[derive(Debug, Default)]
struct Pass {
    begun: u64,
    done: u64,
    began_at: Duration,
    /// `None` between two passes.
    pids: Option<Numbers>,
    under_way: Option<Reading>,
    looked_at: usize,
    hidden: usize,
    /// Looked at and hidden, of the last whole pass.
    last: Option<(usize, usize)>,
}

/// A process whose descriptors are being read.
#[derive(Debug)]
struct Reading {
    process: Process,
    descriptors: Numbers,
    /// True where the process is known, with its present cgroup.
    known: bool,
}

impl Reading {
    fn begin(process: Process) -> Result<Self, Unseen> {
        Ok(Self { descriptors: process.descriptors()?, process, known: false })
    }
}

impl Holders {
    pub fn new(proc: ProcRoot) -> Self {
        Self { proc, sockets: HashMap::new(), processes: BTreeMap::new(), pass: Pass::default() }
    }

    /// One look for the holders of the wanted sockets (inodes of sockfs, not 0), within `budget`. What is wanted no
    /// longer is forgotten; what was found before is kept for as long as it is true.
    pub fn find(&mut self, wanted: &HashSet<u64>, clock: &dyn Clock, budget: Duration) -> Progress {
        let now = clock.monotonic();
        self.want(wanted);
        if self.sockets.is_empty() {
            self.pass.rest();
            return Progress::default();
        }
        // A quarter for the check and a quarter for the likely ones, at most: the pass always gets on.
        let quarters = |n: u32| Budget {
            processes: usize::MAX,
            descriptors: usize::MAX,
            until: Some((clock, now + budget * n / 4)),
        };
        self.forget_the_ended();
        self.check(now, &mut quarters(1));
        self.search_likely(&mut quarters(2));
        self.go_on(now, &mut quarters(4));
        self.progress()
    }

    /// The processes that are known to hold a socket: of one cgroup's the first that was found stands for all.
    #[cfg(test)]
    pub fn holders(&self, inode: u64) -> Vec<u32> {
        self.sockets.get(&inode).map_or(Vec::new(), |socket| socket.held_by.clone())
    }

    /// Whose each wanted socket is; `place` tells the service of a single cgroup's path.
    pub fn owners(&self, place: &impl Fn(&str) -> Result<ServiceCgroup, NoOwner>) -> HashMap<u64, Whose> {
        let services: BTreeMap<u32, Result<ServiceName, NoOwner>> = self
            .processes
            .iter()
            .map(|(pid, known)| (*pid, known.cgroup.place(place).map(|found| found.service)))
            .collect();
        let whose = |socket: &Wanted| {
            if socket.held_by.is_empty() {
                return Whose::Nobody(self.why_nobody(socket));
            }
            let mut named = BTreeSet::new();
            for pid in &socket.held_by {
                match services.get(pid) {
                    Some(Ok(service)) => _ = named.insert(service),
                    Some(Err(NoOwner::Contradicted)) => return Whose::Nobody(NoOwner::Contradicted),
                    // Held by a login or systemd itself as well: it is no other service's.
                    Some(Err(_)) | None => {}
                }
            }
            match (named.pop_first(), named.is_empty()) {
                (None, _) => Whose::Nobody(NoOwner::NotAService),
                (Some(one), true) => Whose::Service(one.clone()),
                (Some(first), false) => Whose::Shared(named.into_iter().chain([first]).cloned().collect()),
            }
        };
        self.sockets.iter().map(|(inode, socket)| (*inode, whose(socket))).collect()
    }

    /// Where the services lie whose processes hold wanted sockets.
    pub fn places(
        &self,
        place: &impl Fn(&str) -> Result<ServiceCgroup, NoOwner>,
    ) -> impl Iterator<Item = ServiceCgroup> {
        let holding = self.processes.values().filter(|known| !known.holds.is_empty());
        holding.filter_map(|known| known.cgroup.place(place).ok())
    }

    /// The processes that hold sockets which are no service's, and how many of them each; only of those that `counts`.
    pub fn of_no_service(
        &self,
        place: &impl Fn(&str) -> Result<ServiceCgroup, NoOwner>,
        counts: impl Fn(u64) -> bool,
    ) -> Vec<(ProcessKey, u64)> {
        let owners = self.owners(place);
        let stray = |inode: &u64| counts(*inode) && owners.get(inode) == Some(&Whose::Nobody(NoOwner::NotAService));
        let held =
            |known: &Known| known.holds.values().filter(|inode| stray(inode)).collect::<BTreeSet<_>>().len() as u64;
        self.processes.values().map(|known| (known.seen, held(known))).filter(|(_, held)| *held > 0).collect()
    }

    fn why_nobody(&self, socket: &Wanted) -> NoOwner {
        match self.pass.last {
            Some((_, hidden)) if self.pass.covers(socket) => {
                if hidden > 0 {
                    NoOwner::HolderUnseen
                } else {
                    NoOwner::NoHolder
                }
            }
            _ => NoOwner::NotLookedAt,
        }
    }

    fn progress(&self) -> Progress {
        let Pass { pids, looked_at, hidden, last, .. } = &self.pass;
        let (last_looked_at, last_hidden) = last.unzip();
        let under_way = pids.is_some();
        Progress {
            not_looked_at: self.sockets.values().filter(|socket| self.pass.must_look_for(socket)).count(),
            looked_at: if under_way { *looked_at } else { last_looked_at.unwrap_or(0) },
            of: last_looked_at,
            hidden: last_hidden.unwrap_or(*hidden),
        }
    }

    fn want(&mut self, wanted: &HashSet<u64>) {
        let dropped = self.sockets.extract_if(|inode, _| !wanted.contains(inode)).flat_map(|(_, s)| s.held_by);
        for pid in dropped.collect::<BTreeSet<u32>>() {
            if let Some(known) = self.processes.get_mut(&pid) {
                known.holds.retain(|_, inode| wanted.contains(inode));
            }
        }
        let asked_in = self.pass.begun;
        for inode in wanted.iter().filter(|inode| **inode != 0) {
            self.sockets.entry(*inode).or_insert(Wanted { asked_in, held_by: Vec::new() });
        }
        // A process that has held nothing for two passes is no likelier than another.
        self.processes.retain(|_, known| !known.holds.is_empty() || known.held_in + 2 >= self.pass.begun);
    }

    /// What a process held that has ended, or whose pid is another's by now, is believed no longer: in every look.
    fn forget_the_ended(&mut self) {
        let ended = |known: &&Known| self.proc.reopen(known.seen).is_err();
        let ended: Vec<u32> = self.processes.values().filter(ended).map(|known| known.seen.pid).collect();
        ended.into_iter().for_each(|pid| self.forget(pid));
    }

    /// Checks the known holders, the longest unchecked first.
    fn check(&mut self, now: Duration, budget: &mut Budget) {
        let is_due = |known: &&Known| now.saturating_sub(known.checked) >= CHECK_AGAIN_AFTER;
        let mut due: Vec<_> = self.processes.values().filter(is_due).map(|known| (known.checked, known.seen)).collect();
        due.sort_unstable();
        for (_, seen) in due {
            if !budget.spend_process() {
                return;
            }
            match self.check_one(seen, budget) {
                Ok(true) => {
                    if let Some(known) = self.processes.get_mut(&seen.pid) {
                        (known.checked, known.check_from) = (now, 0);
                    }
                }
                Ok(false) => return,
                // Ended, or no longer to be looked into: nothing is known of what it holds.
                Err(_) => self.forget(seen.pid),
            }
        }
    }

    /// False where the budget ended first.
    fn check_one(&mut self, seen: ProcessKey, budget: &mut Budget) -> Result<bool, Unseen> {
        let process = self.proc.reopen(seen)?;
        let cgroup = process.membership()?;
        let directory = process.descriptor_directory()?;
        let Some(known) = self.processes.get_mut(&seen.pid) else { return Ok(true) };
        known.cgroup = cgroup;
        let mut passed_on = Vec::new();
        let mut late = None;
        for (descriptor, inode) in known.holds.range(known.check_from..) {
            if !budget.spend_descriptor() {
                late = Some(*descriptor);
                break;
            }
            let mut name = [0u8; 11]; // ten digits and the NUL
            let fits = write!(&mut name[..10], "{descriptor}").is_ok();
            let leads_to = CStr::from_bytes_until_nul(&name).ok().filter(|_| fits);
            if leads_to.and_then(|name| socket_inode(&directory, name).ok().flatten()) != Some(*inode) {
                passed_on.push(*descriptor);
            }
        }
        known.check_from = late.unwrap_or(0);
        for descriptor in passed_on {
            if let Some(inode) = known.holds.remove(&descriptor) {
                lost(&mut self.sockets, inode, seen.pid, self.pass.begun);
            }
        }
        Ok(late.is_none())
    }

    fn forget(&mut self, pid: u32) {
        for inode in self.processes.remove(&pid).into_iter().flat_map(|known| known.holds.into_values()) {
            lost(&mut self.sockets, inode, pid, self.pass.begun);
        }
    }

    /// Looks through former holders, their parents and their siblings, for what no pass has been made for yet.
    fn search_likely(&mut self, budget: &mut Budget) {
        let unheld = |sockets: &HashMap<u64, Wanted>, pass: &Pass| sockets.values().any(|s| pass.must_look_for(s));
        let mut parents = BTreeSet::new();
        let mut likely: BTreeSet<u32> = BTreeSet::new();
        if !unheld(&self.sockets, &self.pass) {
            return;
        }
        for known in self.processes.values() {
            if !budget.spend_process() {
                return;
            }
            likely.insert(known.seen.pid);
            parents.extend(self.proc.open(known.seen.pid).and_then(|process| process.parent()).ok());
        }
        for parent in parents.into_iter().filter(|pid| *pid > 1) {
            if !budget.spend_process() {
                return;
            }
            likely.insert(parent);
            likely.extend(self.proc.open(parent).and_then(|process| process.children()).unwrap_or_default());
        }
        for pid in likely {
            if !budget.spend_process() || !unheld(&self.sockets, &self.pass) {
                return;
            }
            if let Ok(mut reading) = self.proc.open(pid).and_then(Reading::begin) {
                // What cannot be read here is met again by the pass, which counts it.
                let _ = self.read_on(&mut reading, budget);
            }
        }
    }

    /// Goes on with the pass over all processes, or begins one that is due.
    fn go_on(&mut self, now: Duration, budget: &mut Budget) {
        while budget.spend_process() {
            if self.pass.pids.is_none() {
                let at_once = self.sockets.values().any(|socket| self.pass.must_look_for(socket));
                if !at_once && now.saturating_sub(self.pass.began_at) < PASS_AGAIN_AFTER {
                    return;
                }
                let Ok(pids) = self.proc.pids() else { return };
                let hidden = usize::from(!self.lists_all());
                let Pass { begun, done, last, .. } = self.pass;
                let fresh = Pass { begun: begun + 1, done, last, ..Pass::default() };
                self.pass = Pass { began_at: now, pids: Some(pids), hidden, ..fresh };
            }
            if let Some(mut reading) = self.pass.under_way.take() {
                match self.read_on(&mut reading, budget) {
                    Ok(true) | Err(Unseen::Ended) => {}
                    Ok(false) => {
                        self.pass.under_way = Some(reading);
                        return;
                    }
                    Err(Unseen::Hidden) => self.pass.hidden += 1,
                }
            }
            match self.pass.pids.as_mut().map(Numbers::next) {
                Some(Ok(Some(pid))) => {
                    self.pass.looked_at += 1;
                    match self.proc.open(pid).and_then(Reading::begin) {
                        Ok(reading) => self.pass.under_way = Some(reading),
                        Err(Unseen::Hidden) => self.pass.hidden += 1,
                        Err(Unseen::Ended) => {}
                    }
                }
                Some(Ok(None)) => self.pass.end(),
                Some(Err(_)) | None => return self.pass.rest(),
            }
        }
    }

    /// Does /proc list the host's processes? Process 1 always lives; it is missing under hidepid.
    fn lists_all(&self) -> bool {
        self.proc.open(1).is_ok() && self.proc.is_the_hosts()
    }

    /// Reads on where it stopped; false where the budget ended first.
    fn read_on(&mut self, reading: &mut Reading, budget: &mut Budget) -> Result<bool, Unseen> {
        loop {
            if !budget.spend_descriptor() {
                return Ok(false);
            }
            match reading.descriptors.next_descriptor()? {
                Some((descriptor, Some(inode))) if self.sockets.contains_key(&inode) => {
                    self.record(reading, descriptor, inode)?;
                }
                Some(_) => {}
                None => return Ok(true),
            }
        }
    }

    fn record(&mut self, reading: &mut Reading, descriptor: u32, inode: u64) -> Result<(), Unseen> {
        let pid = reading.process.pid;
        if !reading.known || !self.processes.contains_key(&pid) {
            let (seen, cgroup) = (reading.process.seen()?, reading.process.membership()?);
            match self.processes.get_mut(&pid).filter(|known| known.seen == seen) {
                Some(known) => known.cgroup = cgroup,
                None => {
                    self.forget(pid); // its pid has been given to another
                    let (holds, checked) = (BTreeMap::new(), Duration::ZERO);
                    self.processes.insert(pid, Known { seen, cgroup, holds, checked, check_from: 0, held_in: 0 });
                }
            }
            reading.known = true;
        }
        let (Some(socket), Some(known)) = (self.sockets.get_mut(&inode), self.processes.get(&pid)) else {
            return Ok(());
        };
        let same_cgroup = |other: &u32| self.processes.get(other).is_some_and(|other| other.cgroup == known.cgroup);
        let is_represented = socket.held_by.iter().any(|other| *other == pid || same_cgroup(other));
        if let Some(known) = self.processes.get_mut(&pid) {
            known.held_in = self.pass.begun;
            if !is_represented {
                known.holds.insert(descriptor, inode);
                socket.held_by.push(pid);
            }
        }
        Ok(())
    }
}

/// The process was seen to hold it no longer: where it was the only one known, a new pass is needed.
fn lost(sockets: &mut HashMap<u64, Wanted>, inode: u64, pid: u32, begun: u64) {
    if let Some(socket) = sockets.get_mut(&inode) {
        socket.held_by.retain(|holder| *holder != pid);
        if socket.held_by.is_empty() {
            socket.asked_in = begun;
        }
    }
}

impl Pass {
    /// Has a whole pass been made since the socket was asked for?
    fn covers(&self, socket: &Wanted) -> bool {
        self.done > socket.asked_in
    }

    fn must_look_for(&self, socket: &Wanted) -> bool {
        socket.held_by.is_empty() && !self.covers(socket)
    }

    fn end(&mut self) {
        self.done = self.begun;
        self.last = Some((self.looked_at, self.hidden));
        self.rest();
    }

    /// Keeps nothing open.
    fn rest(&mut self) {
        self.pids = None;
        self.under_way = None;
    }
}

#[cfg(test)]
#[path = "holders_tests.rs"]
mod tests;
