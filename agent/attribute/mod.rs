#![doc = include_str!("README.md")]

mod cgroup;
mod configured;
mod held;
pub mod holders;
mod join;
#[cfg(test)]
mod join_tests;
mod membership;
mod numbers;
mod processes;
#[cfg(test)]
mod tests;
mod unit;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use globset::GlobMatcher;

use crate::clock::Clock;
use crate::model::census::{Descriptors, NoOwner, Owned};
use crate::model::{Census, Owner, ServiceName, Snapshot};

use cgroup::Cgroups;
use configured::{Claims, claims};
pub use held::Confirmed;
use held::Held;
use join::{Owners, join};
use processes::{Budget, ProcRoot, Process, Seen, Unseen};

const MOST_SUBCGROUPS: usize = 1024; // of one service

/// How the config says that a service is found. Each word that is given counts by itself; a unit or container
/// that needs none of them is found without being named.
#[derive(Clone, Debug)]
pub struct ServiceMatch {
    pub service: ServiceName,
    /// Local ports: what came in by them is the service's at once; what else the processes hold that hold the
    /// listening socket is the service's too.
    pub ports: Vec<u16>,
    /// Matched against the cgroup's path below the mount (`/legacy/gate`), and the paths above it.
    pub cgroup: Option<GlobMatcher>,
    /// `comm`, or the last component of the executable's path; with a slash, the whole of that path.
    pub process: Option<String>,
    /// Holds the pid of the main process; its descendants count too.
    pub pid_file: Option<PathBuf>,
}

/// Whether to count the open descriptors of the services that hold sockets in CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorAsk {
    Skip,
    Count,
}

/// Finds owners.
#[derive(Debug)]
pub struct Attributor {
    matches: Vec<ServiceMatch>,
    cgroups: Cgroups,
    proc: ProcRoot,
    /// The processes of the services that were found by port, process or pid file, in the last snapshot.
    processes: BTreeMap<ServiceName, BTreeSet<Seen>>,
}

impl Attributor {
    /// `matches` are the services that the config says how to find, in its order.
    pub fn new(matches: Vec<ServiceMatch>) -> Self {
        let proc = ProcRoot("/proc".into());
        Self { matches, cgroups: Cgroups::find(), proc, processes: BTreeMap::new() }
    }

    /// Joins the snapshot with its owners. The configured services are in the census also where they hold
    /// nothing, and so is every service that listens; a service that is in neither, and holds nothing, is not.
    pub fn attribute(&mut self, snapshot: &Snapshot, ask: DescriptorAsk) -> Census {
        let leaking = snapshot.close_wait.iter().filter_map(|socket| socket.cgroup_id);
        let listening = snapshot.listeners.iter().filter_map(|listener| listener.cgroup_id);
        let established = snapshot.established.iter().flat_map(|counts| counts.keys().copied());
        let ids: HashSet<u64> = leaking.chain(listening).chain(established).collect();
        self.cgroups.begin(&ids);
        let paths: HashMap<u64, String> =
            ids.iter().filter_map(|id| Some((*id, self.cgroups.path(*id)?.to_owned()))).collect();
        let owner = |id: &u64| paths.get(id).map_or(Owner::Nobody(NoOwner::CgroupGone), |path| self.owner(path).0);

        let Claims { held, unseen, processes } = claims(&self.matches, snapshot, &paths, &self.cgroups, &self.proc);
        let ports = self.matches.iter().flat_map(|m| m.ports.iter().map(|port| (*port, m.service.clone())));
        let owners = Owners {
            configured: self.matches.iter().map(|m| m.service.clone()).collect(),
            ports: ports.collect(),
            held,
            unseen,
            cgroups: ids.iter().map(|id| (*id, owner(id))).collect(),
        };
        let mut census = join(snapshot, &owners);
        self.processes = processes;
        if ask == DescriptorAsk::Count {
            let mut budget = Budget::of_a_tick();
            for (name, service) in census.services.iter_mut().filter(|(_, service)| !service.sockets.is_empty()) {
                service.descriptors = self.descriptors(name, &service.sockets, &mut budget);
            }
        }
        census
    }

    /// Which of the service's processes hold how many of the given sockets; those that hold none are left out.
    ///
    /// Looks through the descriptors of the processes of the service's cgroup, or of those that the last
    /// attribution found. Gives up after `budget`, with what was found until then. Needs the same user or
    /// CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH; what may not be read is left out.
    pub fn holders(
        &mut self,
        service: &ServiceName,
        sockets: &[Owned],
        clock: &dyn Clock,
        budget: Duration,
    ) -> BTreeMap<u32, usize> {
        self.held(service, sockets, clock, budget).by_process
    }

    /// How many of the given sockets the service's own processes hold, asked before an action on their account: a
    /// socket's cgroup tells who made it, not who holds it now. Looks, and is bounded, as [`Self::holders`].
    pub fn confirm(
        &mut self,
        service: &ServiceName,
        sockets: &[Owned],
        clock: &dyn Clock,
        budget: Duration,
    ) -> Confirmed {
        self.held(service, sockets, clock, budget).confirmed()
    }

    fn held(&mut self, service: &ServiceName, sockets: &[Owned], clock: &dyn Clock, budget: Duration) -> Held {
        let wanted = sockets.iter().map(|s| s.socket.inode).filter(|inode| *inode != 0);
        let until = Some((clock, clock.monotonic() + budget));
        let mut budget = Budget { processes: usize::MAX, descriptors: usize::MAX, until };
        let mut held = Held::of(wanted.collect());
        let looked =
            self.each_process(service, sockets, &mut budget, &mut |process, budget| held.look(process, budget));
        held.complete &= looked;
        held
    }

    /// The owner of a cgroup's path, and the path of the whole service's cgroup.
    fn owner(&self, path: &str) -> (Owner, Option<String>) {
        let mut upward = std::iter::successors(Some(path), |p| p.rsplit_once('/').map(|(up, _)| up));
        let configured = upward.find_map(|part| {
            let matching = |m: &&ServiceMatch| m.cgroup.as_ref().is_some_and(|glob| glob.is_match(part));
            self.matches.iter().find(matching).map(|m| (Owner::Service(m.service.clone()), Some(part.to_owned())))
        });
        configured.unwrap_or_else(|| match unit::place(path) {
            Ok(unit::Place { service, root }) => (Owner::Service(service), Some(root)),
            Err(why) => (Owner::Nobody(why), None),
        })
    }

    /// Counts the descriptors; `None` where a process of the service could not be read, since a part of a count is
    /// not the count.
    fn descriptors(&mut self, name: &ServiceName, sockets: &[Owned], budget: &mut Budget) -> Option<Descriptors> {
        let mut sum = None;
        let mut all_read = true;
        let complete = self.each_process(name, sockets, budget, &mut |process, _| {
            let read = || -> Result<(u64, f64), Unseen> {
                let used = process.open_descriptors()?;
                let ratio = process.descriptor_limit()?.map_or(0.0, |limit| used as f64 / limit.max(1) as f64);
                Ok((used, ratio.min(1.0)))
            };
            match read() {
                Ok((used, ratio)) => {
                    let so_far = sum.get_or_insert(Descriptors { used: 0, worst_ratio: 0.0 });
                    so_far.used += used;
                    so_far.worst_ratio = so_far.worst_ratio.max(ratio);
                }
                Err(Unseen::Ended) => {}
                Err(Unseen::Hidden) => all_read = false,
            }
        });
        sum.filter(|_| complete && all_read)
    }

    /// Visits the service's processes: those that were found by the config's words, or else all of its cgroups.
    /// False where some could not be looked at.
    fn each_process(
        &mut self,
        name: &ServiceName,
        sockets: &[Owned],
        budget: &mut Budget,
        visit: &mut impl FnMut(&Process, &mut Budget),
    ) -> bool {
        let mut complete = true;
        if let Some(found) = self.processes.get(name) {
            for seen in found {
                if !budget.spend_process() {
                    return false;
                }
                match self.proc.reopen(*seen) {
                    Ok(process) => visit(&process, budget),
                    Err(unseen) => complete &= unseen == Unseen::Ended,
                }
            }
            return complete;
        }
        let ids: BTreeSet<u64> = sockets.iter().filter_map(|owned| owned.socket.cgroup_id).collect();
        let mut roots = BTreeSet::new();
        for id in ids {
            let Some(path) = self.cgroups.path(id).map(str::to_owned) else { continue };
            if let (Owner::Service(owner), Some(root)) = self.owner(&path)
                && owner == *name
            {
                roots.insert(root);
            }
        }
        for directory in roots.iter().filter_map(|root| self.cgroups.directory(root)) {
            let mut ahead = vec![directory];
            let mut walked = 0;
            while let Some(directory) = ahead.pop() {
                complete &= self.proc.members(&directory, budget, visit);
                walked += 1;
                let below = std::fs::read_dir(&directory).into_iter().flatten().flatten();
                ahead.extend(below.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
                if walked + ahead.len() > MOST_SUBCGROUPS {
                    return false;
                }
            }
        }
        complete
    }
}
