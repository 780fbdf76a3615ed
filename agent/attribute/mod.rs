#![doc = include_str!("README.md")]

mod cgroup;
pub mod closed;
mod configured;
mod descriptors;
mod elsewhere;
mod everyone;
mod held;
mod holders;
mod join;
#[cfg(test)]
mod join_tests;
mod membership;
mod numbers;
mod processes;
mod survey;
#[cfg(test)]
mod tests;
mod unit;
pub mod workers;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use globset::GlobMatcher;

use crate::clock::Clock;
use crate::model::census::{NoOwner, Owned};
use crate::model::socket::Quality;
use crate::model::{Census, Detail, Group, Owner, ServiceCensus, ServiceName, Snapshot};

use cgroup::Cgroups;
use closed::Counts;
use configured::{Claims, Reach, claims};
use held::HeldSockets;
use holders::Holders;
use join::{Owners, Whose, join};
use processes::{Budget, ProcRoot, Process, ProcessKey, Unseen};

pub use elsewhere::{Elsewhere, elsewhere};
pub use everyone::{Everyone, Found, HeldBy};
pub use survey::Proxy;
pub use unit::by_id as container_by_id;

const MOST_SUBCGROUPS: usize = 1024; // of one service
/// For the search for holders, in one look; the next goes on where it stopped.
const SEARCH_WITHIN: Duration = Duration::from_millis(20);

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
    /// A supervisor knows its main process, which [`Attributor::supervised`] is told; its descendants count too.
    pub supervised: bool,
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
    processes: BTreeMap<ServiceName, BTreeSet<ProcessKey>>,
    /// The same, as [`Self::attribute_quiet_too`] found them last: for those that no snapshot since has led to.
    quiet: BTreeMap<ServiceName, BTreeSet<ProcessKey>>,
    /// The main processes that supervisors told of last.
    mains: BTreeMap<ServiceName, ProcessKey>,
    /// Containers by the names that the config calls them by, with what their cgroups call them.
    containers: BTreeMap<ServiceName, ServiceName>,
    searched: Holders,
    /// The listeners among the sockets that were searched for: whose they are tells whose others are.
    searched_listeners: HashSet<u64>,
    /// Where the processes of the services lie that were found by a holder.
    searched_roots: BTreeMap<ServiceName, BTreeSet<String>>,
    /// Inodes of sockets that the processes of their cgroup turned out not to hold.
    doubted: HashSet<u64>,
    /// For one look's search.
    search_within: Duration,
    /// The service at which the count of descriptors ran out of its budget: the next one begins there.
    uncounted: Option<ServiceName>,
    /// Descriptors that were never closed, as counted last.
    closed: Counts,
}

impl Attributor {
    /// `matches` are the services that the config says how to find, in its order.
    pub fn new(matches: Vec<ServiceMatch>) -> Self {
        let proc = ProcRoot("/proc".into());
        Self {
            matches,
            cgroups: Cgroups::find(),
            searched: Holders::new(proc.clone()),
            proc,
            processes: BTreeMap::new(),
            quiet: BTreeMap::new(),
            mains: BTreeMap::new(),
            containers: BTreeMap::new(),
            searched_listeners: HashSet::new(),
            searched_roots: BTreeMap::new(),
            doubted: HashSet::new(),
            search_within: SEARCH_WITHIN,
            uncounted: None,
            closed: Counts::default(),
        }
    }

    /// For whoever looks only once: the search for holders may take so long. Returns how long it might before.
    pub fn search_within(&mut self, budget: Duration) -> Duration {
        std::mem::replace(&mut self.search_within, budget)
    }

    /// The main processes of supervised services, as their supervisors told them a moment ago. A service that is not
    /// among them (its supervisor did not answer) keeps the one that it had, for as long as that process lives.
    pub fn supervised(&mut self, mains: impl IntoIterator<Item = (ServiceName, u32)>) {
        let seen = |pid| self.proc.open(pid).and_then(|process| process.seen());
        let told: Vec<_> = mains.into_iter().filter_map(|(service, pid)| Some((service, seen(pid).ok()?))).collect();
        self.mains.extend(told);
    }

    /// The containers that bear these names now, as their daemon told it a moment ago: each name with
    /// [`container_by_id`]. What lies in their cgroups stands under the name. One that is not among them (its daemon did
    /// not answer) keeps what it had.
    pub fn containers(&mut self, told: impl IntoIterator<Item = (ServiceName, ServiceName)>) {
        self.containers.extend(told);
    }

    /// Joins the snapshot with its owners. The configured services are in the census also where they hold
    /// nothing, and so is every service that listens; a service that is in neither, and holds nothing, is not.
    pub fn attribute(&mut self, snapshot: Snapshot, ask: DescriptorAsk, clock: &dyn Clock) -> Census {
        self.attributed(Reach::Leaking, snapshot, ask, clock)
    }

    /// The same, and the processes of the services that the configuration names are looked for also where they hold nothing
    /// in CLOSE_WAIT, among all processes: some 10 µs each. They are known until the next such search.
    pub fn attribute_quiet_too(&mut self, snapshot: Snapshot, ask: DescriptorAsk, clock: &dyn Clock) -> Census {
        self.attributed(Reach::Everyone, snapshot, ask, clock)
    }

    fn attributed(&mut self, reach: Reach, snapshot: Snapshot, ask: DescriptorAsk, clock: &dyn Clock) -> Census {
        let owners = self.owners(reach, &snapshot, clock);
        let mut census = self.census(snapshot, &owners);
        self.closed.recall(&mut census.services, &self.proc);
        if ask == DescriptorAsk::Count {
            self.count_descriptors(&mut census.services, &mut Budget::of_a_tick());
        }
        census
    }

    fn census(&self, snapshot: Snapshot, owners: &Owners) -> Census {
        let mut census = join(snapshot, owners);
        if let Some(errno) = self.cgroups.failed {
            census.quality = Quality::Partial { why: format!("cannot read the cgroups: {errno}") };
        }
        census
    }

    /// Joins a detailed snapshot with its owners, and tells the sockets of one service, each in full.
    pub fn owned(&mut self, detail: Detail, service: &ServiceName, clock: &dyn Clock) -> (Census, Vec<Owned>) {
        let owners = self.owners(Reach::Leaking, &detail.snapshot, clock);
        let whose = Whose::new(&detail.snapshot, &owners);
        let mut owned = Vec::new();
        for (group, socket) in detail.sockets {
            let group = &detail.snapshot.groups[group];
            if matches!(whose.socket(group, socket.inode), Owner::Service(name) if name == *service) {
                let (namespace, direction) = (group.namespace, whose.direction(group, service));
                owned.push(Owned { namespace, direction, socket });
            }
        }
        (self.census(detail.snapshot, &owners), owned)
    }

    /// All that is known of owners at the moment of the snapshot.
    fn owners(&mut self, reach: Reach, snapshot: &Snapshot, clock: &dyn Clock) -> Owners {
        let leaking: HashSet<u64> = snapshot.groups.iter().filter_map(|group| group.cgroup_id).collect();
        let listening = snapshot.listeners.iter().filter_map(|listener| listener.cgroup_id);
        let established = snapshot.established.iter().flat_map(|counts| counts.keys().copied());
        let ids: HashSet<u64> = leaking.iter().copied().chain(listening).chain(established).collect();
        self.cgroups.begin(&ids);
        let mut paths: HashMap<u64, String> = HashMap::with_capacity(ids.len());
        for id in &ids {
            // Only what decides on a socket in CLOSE_WAIT has to stand at this very moment.
            let path = if leaking.contains(id) { self.cgroups.path(*id) } else { self.cgroups.remembered(*id) };
            paths.extend(path.map(|path| (*id, path.to_owned())));
        }
        let Claims { held, unseen, unseen_where_untold, processes } =
            claims(reach, &self.matches, &self.mains, snapshot, &paths, &self.cgroups, &self.proc);
        if reach == Reach::Everyone {
            self.quiet.clone_from(&processes);
        }
        self.processes = processes;
        for (service, found) in &self.quiet {
            self.processes.entry(service.clone()).or_insert_with(|| found.clone());
        }
        let owner = |id: &u64| paths.get(id).map_or(Owner::Nobody(NoOwner::CgroupGone), |path| self.owner(path).0);
        let ports = self.matches.iter().flat_map(|m| m.ports.iter().map(|port| (*port, m.service.clone())));
        let mut owners = Owners {
            configured: self.matches.iter().map(|m| m.service.clone()).collect(),
            ports: ports.collect(),
            held,
            unseen,
            unseen_where_untold,
            searched: HashMap::new(),
            cgroups: ids.iter().map(|id| (*id, owner(id))).collect(),
        };
        owners.searched = self.search(snapshot, &paths, &owners, clock);
        owners
    }

    /// Searches for the holders of the sockets whose cgroup does not tell whose they are, nor the configuration.
    fn search(
        &mut self,
        snapshot: &Snapshot,
        paths: &HashMap<u64, String>,
        owners: &Owners,
        clock: &dyn Clock,
    ) -> HashMap<u64, Owner> {
        let path_of = |group: &Group| group.cgroup_id.and_then(|id| paths.get(&id)).map(String::as_str);
        let (mut wanted, mut listeners) = (HashSet::new(), HashSet::new());
        for group in &snapshot.groups {
            let told = path_of(group).is_some_and(unit::tells);
            // Where no cgroup is told, who holds the listener tells the direction, and whose is what still waits in
            // its accept queue.
            let via = group.via.filter(|_| group.cgroup_id.is_none()).map(|index| snapshot.listeners[index].inode);
            listeners.extend(via);
            for socket in &group.sockets {
                let inode = u64::from(socket.inode);
                let untold = inode != 0 && (!told || self.doubted.contains(&inode));
                if untold && owners.by_configuration(inode, group.port).is_none() {
                    wanted.insert(inode);
                }
            }
            // Whether they came in is told by whose the listener is.
            let listener = group.via.and_then(|via| snapshot.listeners.get(via));
            listeners.extend(listener.map(|listener| listener.inode).filter(|_| !told));
        }
        wanted.extend(&listeners);
        self.searched_listeners = listeners;
        self.doubted.retain(|inode| wanted.contains(inode));
        self.searched.find(&wanted, clock, self.search_within);
        let place = |path: &str| self.place(path);
        let found = self.searched.owners(&place).into_iter().map(|(inode, whose)| (inode, Owner::from(whose)));
        // What the processes of its cgroup do not hold is another service's where that one holds it. Otherwise it stays with
        // the cgroup that made it, and that lives: a descriptor need not be seen to be held.
        let stays = |inode: &u64, owner: &Owner| self.doubted.contains(inode) && matches!(owner, Owner::Nobody(_));
        let found: HashMap<u64, Owner> = found.filter(|(inode, owner)| !stays(inode, owner)).collect();
        let mut roots: BTreeMap<ServiceName, BTreeSet<String>> = BTreeMap::new();
        for unit::ServiceCgroup { service, root } in self.searched.places(&place) {
            roots.entry(service).or_default().insert(root);
        }
        self.searched_roots = roots;
        found
    }

    fn place(&self, path: &str) -> Result<unit::ServiceCgroup, NoOwner> {
        match self.owner(path) {
            (Owner::Service(service), Some(root)) => Ok(unit::ServiceCgroup { service, root }),
            (Owner::Nobody(why), _) => Err(why),
            (Owner::Service(_), None) => Err(NoOwner::NotAService),
        }
    }

    /// Which of the service's processes hold how many of the given sockets; those that hold none are left out.
    ///
    /// Looks through the descriptors of the processes of the service's cgroup, or of those that the last
    /// attribution found. Gives up after `budget`, with what was found until then. Needs the same user or
    /// CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH; what may not be read is left out.
    pub fn holders(
        &mut self,
        service: &ServiceName,
        held: &ServiceCensus,
        clock: &dyn Clock,
        budget: Duration,
    ) -> BTreeMap<u32, usize> {
        self.held(service, held, clock, budget).by_process
    }

    /// Looks whether the service's own processes hold the sockets that are counted as its: asked before an action on
    /// their account, since a socket's cgroup tells who made it, not who holds it now. From then on the holders of
    /// those that they do not hold are searched for. Returns how many came into doubt.
    ///
    /// Looks, and is bounded, as [`Self::holders`]; where not all of the processes could be looked into, nothing
    /// comes into doubt.
    pub fn confirm(
        &mut self,
        service: &ServiceName,
        held: &ServiceCensus,
        clock: &dyn Clock,
        budget: Duration,
    ) -> usize {
        let doubted = self.held(service, held, clock, budget).not_held();
        self.doubted.extend(&doubted);
        doubted.len()
    }

    fn held(
        &mut self,
        service: &ServiceName,
        held: &ServiceCensus,
        clock: &dyn Clock,
        budget: Duration,
    ) -> HeldSockets {
        let wanted = held.sockets().map(|socket| u64::from(socket.inode)).filter(|inode| *inode != 0);
        self.look_for(service, held, wanted.collect(), clock, budget)
    }

    fn look_for(
        &mut self,
        service: &ServiceName,
        held: &ServiceCensus,
        wanted: HashSet<u64>,
        clock: &dyn Clock,
        budget: Duration,
    ) -> HeldSockets {
        let until = Some((clock, clock.monotonic() + budget));
        let mut budget = Budget { processes: usize::MAX, descriptors: usize::MAX, until };
        let mut found = HeldSockets::of(wanted);
        let looked = self.each_process(service, held, &mut budget, &mut |process, budget| found.look(process, budget));
        found.complete &= looked;
        found
    }

    /// Which of these sockets (by their inodes) the service's own processes hold; `None` where not all of them could be
    /// looked into. Looks, and is bounded, as [`Self::holders`].
    pub fn held_of(
        &mut self,
        service: &ServiceName,
        held: &ServiceCensus,
        inodes: HashSet<u64>,
        clock: &dyn Clock,
        budget: Duration,
    ) -> Option<HashSet<u64>> {
        let found = self.look_for(service, held, inodes, clock, budget);
        found.complete.then_some(found.sockets)
    }

    /// All processes, to be searched by whoever must not keep the attribution from others meanwhile.
    pub fn everyone(&self) -> Everyone {
        Everyone(self.proc.clone())
    }

    /// Why some processes cannot have been among them, where that is so.
    pub fn beyond(&self) -> Option<String> {
        everyone::beyond(&self.proc, &self.cgroups, &|path| self.place(path).map(|place| place.service))
    }

    /// Does this process, in this cgroup, belong to the service?
    pub fn is_of(&self, by: &HeldBy, service: &ServiceName) -> bool {
        let found = self.processes.get(service).is_some_and(|found| found.iter().any(|seen| seen.pid == by.pid));
        found || matches!(self.owner(&by.cgroup), (Owner::Service(owner), _) if owner == *service)
    }

    /// The owner of a cgroup's path, and the path of the whole service's cgroup.
    fn owner(&self, path: &str) -> (Owner, Option<String>) {
        let mut upward = std::iter::successors(Some(path), |p| p.rsplit_once('/').map(|(up, _)| up));
        let configured = upward.find_map(|part| {
            let matching = |m: &&ServiceMatch| m.cgroup.as_ref().is_some_and(|glob| glob.is_match(part));
            self.matches.iter().find(matching).map(|m| (Owner::Service(m.service.clone()), Some(part.to_owned())))
        });
        configured.unwrap_or_else(|| match unit::place(path) {
            Ok(unit::ServiceCgroup { service, root }) => {
                let called = self.containers.iter().find(|(_, by_id)| **by_id == service).map(|(name, _)| name.clone());
                (Owner::Service(called.unwrap_or(service)), Some(root))
            }
            Err(why) => (Owner::Nobody(why), None),
        })
    }

    /// Visits the service's processes: those that were found by the config's words, or else all of its cgroups.
    /// False where some could not be looked at.
    fn each_process(
        &mut self,
        name: &ServiceName,
        held: &ServiceCensus,
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
        let mut roots = BTreeSet::new();
        for id in &held.cgroups {
            let Some(path) = self.cgroups.path(*id).map(str::to_owned) else { continue };
            if let (Owner::Service(owner), Some(root)) = self.owner(&path)
                && owner == *name
            {
                roots.insert(root);
            }
        }
        roots.extend(self.searched_roots.get(name).into_iter().flatten().cloned());
        // Once each: on a hybrid host a process stands in both trees, and roots may lie below one another.
        let mut visited = HashSet::new();
        for directory in roots.iter().flat_map(|root| self.cgroups.directories(root)) {
            let mut ahead = vec![directory];
            let mut walked = 0;
            while let Some(directory) = ahead.pop() {
                complete &= self.proc.members(&directory, &mut visited, budget, visit);
                walked += 1;
                // As in any directory of kernfs, two links and one more for each directory in it.
                if std::fs::metadata(&directory).is_ok_and(|found| found.nlink() == 2) {
                    continue;
                }
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
