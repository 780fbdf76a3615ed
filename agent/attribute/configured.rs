//! Sockets of the services that the configuration names by port, process or pid file, or whose main process a
//! supervisor knows.
//!
//! Only the processes of cgroups that hold sockets in CLOSE_WAIT, those of the cgroup of a configured port's
//! listener, and the family of a main process are looked at, and for a name all processes where a socket's cgroup is not
//! told; of these, only the descriptors of those that
//! may be meant. Nothing at all is read where no such service is configured, or nothing is in CLOSE_WAIT; but once in a while
//! ([`Reach::Everyone`]) each of these services is looked for, whatever it holds. What
//! could not be looked at is said so: whose the rest of such a cgroup is, is not guessed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::model::{Listener, ServiceName, Snapshot};

use super::ServiceMatch;
use super::cgroup::Cgroups;
use super::processes::{Budget, ProcRoot, Process, ProcessKey, Unseen};

const MOST_GENERATIONS: usize = 32; // of a main process; a pre-forking server has two or three
const CLOCK_SLACK: f64 = 10.0; // seconds that a clock may have been stepped by since a pid file was written

/// How far is looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Where something is in CLOSE_WAIT.
    Leaking,
    /// And among all processes, for who holds none.
    Everyone,
}

/// The findings of one look.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Socket inodes with the service whose process holds them; the first in the config's order where several do.
    pub held: HashMap<u64, ServiceName>,
    /// Cgroups in which a process that may be meant could not be looked into.
    pub unseen: HashSet<u64>,
    /// The same of the sockets of which the kernel tells no cgroup.
    pub unseen_where_untold: bool,
    pub processes: BTreeMap<ServiceName, BTreeSet<ProcessKey>>,
}

/// `paths` are those of the snapshot's cgroups.
pub(super) fn claims(
    reach: Reach,
    matches: &[ServiceMatch],
    mains: &BTreeMap<ServiceName, ProcessKey>,
    snapshot: &Snapshot,
    paths: &HashMap<u64, String>,
    cgroups: &Cgroups,
    proc: &ProcRoot,
) -> Claims {
    let mut search = Search::new(matches, snapshot);
    if !matches.iter().any(is_by_holder) || (reach == Reach::Leaking && search.leaking.is_empty()) {
        return search.claims;
    }
    let mut budget = match reach {
        Reach::Leaking => Budget::of_a_tick(),
        Reach::Everyone => Budget::of_a_slow_search(),
    };
    for service in matches {
        let by_pid_file = service.pid_file.as_deref().and_then(|file| main_process(file, snapshot, proc));
        let told = mains.get(&service.service).filter(|_| service.supervised);
        let main = by_pid_file.or_else(|| proc.reopen(*told?).ok());
        if let Some(main) = main {
            search.family(service, &main, paths, proc, &mut budget);
        }
    }
    let by_name = matches.iter().any(|m| m.process.is_some());
    let leaking: BTreeSet<u64> = snapshot.groups.iter().filter_map(|group| group.cgroup_id).collect();
    let listening = search.listening_cgroups(snapshot);
    // Names are looked for where something leaks; a port's holders where it is listened on.
    let mut places = listening.clone();
    places.extend(leaking.iter().filter(|_| by_name));
    for id in places {
        let Some(directory) = paths.get(&id).and_then(|path| cgroups.directory(path)) else { continue };
        let by_port = listening.contains(&id);
        let mut all_seen = true;
        let complete = proc.members(&directory, &mut HashSet::new(), &mut budget, &mut |process, budget| {
            all_seen &= search.process(process, by_port, budget);
        });
        if !(complete && all_seen) {
            search.claims.unseen.insert(id);
        }
    }
    // Where the kernel tells no cgroup, a name is looked for among all processes.
    let is_untold = snapshot.groups.iter().any(|group| group.cgroup_id.is_none());
    if by_name && (is_untold || reach == Reach::Everyone) {
        let mut all_seen = true;
        let complete = proc.all(&mut budget, &mut |process, budget| {
            all_seen &= search.process(process, false, budget);
        });
        search.claims.unseen_where_untold = is_untold && !(complete && all_seen);
    }
    search.claims
}

struct Search<'a> {
    matches: &'a [ServiceMatch],
    /// Inodes of the sockets in CLOSE_WAIT.
    leaking: HashSet<u64>,
    /// Inodes of all listeners, with the service whose configured port they listen on.
    listeners: HashMap<u64, Option<&'a ServiceName>>,
    claims: Claims,
}

impl<'a> Search<'a> {
    fn new(matches: &'a [ServiceMatch], snapshot: &Snapshot) -> Self {
        // A port is configured as one of our own namespace's.
        let by_port = |l: &Listener| {
            let is_meant = |m: &&ServiceMatch| l.namespace == snapshot.own && m.ports.contains(&l.local.port());
            matches.iter().find(is_meant).map(|m| &m.service)
        };
        Self {
            matches,
            leaking: leaking(matches, snapshot),
            listeners: snapshot.listeners.iter().map(|l| (l.inode, by_port(l))).collect(),
            claims: Claims::default(),
        }
    }

    fn listening_cgroups(&self, snapshot: &Snapshot) -> BTreeSet<u64> {
        let configured = |inode| self.listeners.get(&inode).is_some_and(|service| service.is_some());
        snapshot.listeners.iter().filter(|l| configured(l.inode)).filter_map(|l| l.cgroup_id).collect()
    }

    /// One process: is it meant by name, or by the listener that it holds? False where what may be meant could not be
    /// looked into.
    fn process(&mut self, process: &Process, by_port: bool, budget: &mut Budget) -> bool {
        let is_called =
            |m: &&ServiceMatch| m.process.as_deref().is_some_and(|name| process.is_called(name) == Ok(true));
        let by_name = self.matches.iter().find(is_called).map(|m| &m.service);
        if by_name.is_none() && !by_port {
            return true;
        }
        match self.sockets(process, budget) {
            Ok(inodes) => {
                let listens = || inodes.iter().find_map(|inode| self.listeners.get(inode).copied().flatten());
                if let Some(service) = by_name.or_else(listens) {
                    self.claim(service, process, inodes);
                }
                true
            }
            Err(unseen) => unseen == Unseen::Ended,
        }
    }

    fn family(
        &mut self,
        service: &'a ServiceMatch,
        main: &Process,
        paths: &HashMap<u64, String>,
        proc: &ProcRoot,
        budget: &mut Budget,
    ) {
        let mut hidden_in = Vec::new();
        let complete =
            proc.family(main, MOST_GENERATIONS, budget, &mut |process, budget| match self.sockets(process, budget) {
                Ok(inodes) => self.claim(&service.service, process, inodes),
                Err(Unseen::Ended) => {}
                Err(Unseen::Hidden) => hidden_in.extend(process.cgroup()),
            });
        if !complete {
            hidden_in.extend(main.cgroup());
        }
        let hidden = paths.iter().filter(|(_, path)| hidden_in.contains(path)).map(|(id, _)| *id);
        self.claims.unseen.extend(hidden);
    }

    /// The inodes of a process' sockets that are in CLOSE_WAIT or listen.
    fn sockets(&self, process: &Process, budget: &mut Budget) -> Result<Vec<u64>, Unseen> {
        let mut inodes = Vec::new();
        process.sockets(budget, |inode| {
            if self.leaking.contains(&inode) || self.listeners.contains_key(&inode) {
                inodes.push(inode);
            }
        })?;
        Ok(inodes)
    }

    fn claim(&mut self, service: &ServiceName, process: &Process, inodes: Vec<u64>) {
        let rank = |name: &ServiceName| self.matches.iter().position(|m| m.service == *name);
        for inode in inodes {
            let holder = self.claims.held.entry(inode).or_insert_with(|| service.clone());
            if rank(service) < rank(holder) {
                *holder = service.clone();
            }
        }
        if let Ok(seen) = process.seen() {
            self.claims.processes.entry(service.clone()).or_default().insert(seen);
        }
    }
}

/// Is it told by what its processes hold?
fn is_by_holder(found: &ServiceMatch) -> bool {
    !found.ports.is_empty() || found.process.is_some() || found.pid_file.is_some() || found.supervised
}

/// The inodes of the sockets in CLOSE_WAIT, where a service is configured that is told by what it holds.
fn leaking(matches: &[ServiceMatch], snapshot: &Snapshot) -> HashSet<u64> {
    let groups = if matches.iter().any(is_by_holder) { &snapshot.groups[..] } else { &[] };
    let inodes = groups.iter().flat_map(|group| &group.sockets).map(|socket| u64::from(socket.inode));
    inodes.filter(|inode| *inode != 0).collect()
}

pub(super) fn named_by(pid_file: &Path) -> Option<u32> {
    std::fs::read_to_string(pid_file).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// The init, of which all else descends, or a thread of the kernel: no service's main process. A program that is the
/// first of its pid namespace writes so into its pid file.
pub(super) fn is_the_hosts_own(process: &Process) -> bool {
    process.pid == 1 || process.is_the_kernels() == Ok(true)
}

/// The process that a pid file names; none where that process began after the file was written, since then the
/// file is an old one and the pid has gone to another, and none where it is the host's own.
fn main_process(file: &Path, snapshot: &Snapshot, proc: &ProcRoot) -> Option<Process> {
    let written = std::fs::metadata(file).ok()?.mtime();
    let process = proc.open(named_by(file)?).ok().filter(|process| !is_the_hosts_own(process))?;
    let process_age = snapshot.monotonic.saturating_sub(process.started().ok()?);
    let file_age = Duration::from_secs(u64::try_from(snapshot.at.as_second() - written).unwrap_or(0));
    (process_age.as_secs_f64() + CLOCK_SLACK >= file_age.as_secs_f64()).then_some(process)
}
