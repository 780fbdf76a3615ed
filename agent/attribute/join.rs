//! The join: a snapshot and what is known of owners become a census. Pure; called by the attributor.
//!
//! Every socket of the snapshot comes out once: with a service, or unattributed with the reason. The most specific
//! word wins: a configured process that holds it, a configured port, a configured cgroup, the container, the unit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::model::census::NoOwner;
use crate::model::socket::Direction;
use crate::model::{Brief, Census, Group, Listener, Owner, ServiceCensus, ServiceName, Snapshot};

/// The knowledge about owners besides the snapshot itself.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// Services that the config names: in the census also where they hold nothing.
    pub configured: Vec<ServiceName>,
    /// Local ports that the config gives to a service.
    pub ports: HashMap<u16, ServiceName>,
    /// Socket inodes that a configured service's process was seen to hold.
    pub held: HashMap<u64, ServiceName>,
    /// Cgroups in which a configured service's process could not be looked into: what it holds is not known, and
    /// so whose the rest is neither.
    pub unseen: HashSet<u64>,
    /// The same of the sockets of which no cgroup is told.
    pub unseen_where_untold: bool,
    /// The owners of sockets whose cgroup names no service, by the processes that hold them.
    pub searched: HashMap<u64, Owner>,
    /// The owner of each cgroup of the snapshot.
    pub cgroups: HashMap<u64, Owner>,
}

impl Owners {
    /// The most specific word: what a configured service's process was seen to hold, and then its port.
    pub fn by_configuration(&self, inode: u64, local_port: Option<u16>) -> Option<&ServiceName> {
        let held = (inode != 0).then(|| self.held.get(&inode)).flatten();
        held.or_else(|| local_port.and_then(|port| self.ports.get(&port)))
    }
}

pub(super) fn join(mut snapshot: Snapshot, owners: &Owners) -> Census {
    let groups = std::mem::take(&mut snapshot.groups);
    let whose = Whose::new(&snapshot, owners);
    let mut services: BTreeMap<ServiceName, ServiceCensus> =
        owners.configured.iter().cloned().map(|name| (name, ServiceCensus::default())).collect();
    let mut unowned_listeners = 0;
    for (listener, owner) in snapshot.listeners.iter().zip(&whose.listeners) {
        match owner {
            Owner::Service(name) => {
                let service = services.entry(name.clone()).or_default();
                service.listening.push((listener.namespace, listener.local));
                service.cgroups.extend(listener.cgroup_id);
            }
            Owner::Nobody(NoOwner::NotAService) => {}
            Owner::Nobody(_) => unowned_listeners += 1,
        }
    }
    let (mut unattributed, mut of_no_service) = (BTreeMap::new(), BTreeMap::new());
    // Cgroups of which a configured service has taken a part: their counts are no longer one service's.
    let mut shared = BTreeSet::new();
    for mut group in groups {
        let sockets = std::mem::take(&mut group.sockets);
        for (owner, mut sockets) in whose.parts(&group, sockets) {
            let name = match owner {
                Owner::Service(name) => name,
                Owner::Nobody(why) => {
                    let count = sockets.len() as u64;
                    *unattributed.entry(why).or_default() += count;
                    if let (NoOwner::NotAService, Some(cgroup)) = (why, group.cgroup_id) {
                        *of_no_service.entry(cgroup).or_default() += count;
                    }
                    continue;
                }
            };
            let direction = whose.direction(&group, &name);
            let of_its_own = |id: &u64| matches!(owners.cgroups.get(id), Some(Owner::Service(owner)) if *owner == name);
            shared.extend(group.cgroup_id.filter(|id| !of_its_own(id)));
            let service = services.entry(name).or_default();
            service.cgroups.extend(group.cgroup_id);
            service.namespaces.insert(group.namespace);
            let held = match direction {
                Direction::Inbound => &mut service.inbound,
                Direction::Outbound => &mut service.outbound,
            };
            // Most services have one group: it is moved, not copied.
            if held.is_empty() { *held = sockets } else { held.append(&mut sockets) }
        }
    }
    if let Some(counts) = &snapshot.established {
        shared.extend(owners.unseen.iter().copied());
        shared.extend(whose.taken());
        for (name, count) in established(counts, owners, &shared) {
            services.entry(name).or_default().established = count;
        }
    }
    let Snapshot { at, monotonic, passed_over, quality, .. } = snapshot;
    Census { at, monotonic, services, unattributed, of_no_service, unowned_listeners, passed_over, quality }
}

/// Answers whose a socket of the snapshot is.
pub(super) struct Whose<'a> {
    snapshot: &'a Snapshot,
    owners: &'a Owners,
    /// The owner of each listener.
    listeners: Vec<Owner>,
}

impl<'a> Whose<'a> {
    pub fn new(snapshot: &'a Snapshot, owners: &'a Owners) -> Self {
        // A port is configured as one of our own namespace's.
        let port = |l: &Listener| Some(l.local.port()).filter(|_| l.namespace == snapshot.own);
        let owned = |l: &Listener| known(l.inode, port(l), l.cgroup_id, owners);
        Self { snapshot, owners, listeners: snapshot.listeners.iter().map(owned).collect() }
    }

    /// The owner of one socket of a group, by its inode.
    pub fn socket(&self, group: &Group, inode: u64) -> Owner {
        // In the accept queue no process has it yet: it is its listener's.
        if inode == 0
            && let Some((listener, owner @ Owner::Service(_))) = self.via(group)
            && listener.cgroup_id == group.cgroup_id
        {
            return owner.clone();
        }
        known(inode, group.port, group.cgroup_id, self.owners)
    }

    /// The sockets of a group by their owners: one, but for the accept queue and what is known to be held.
    fn parts(&self, group: &Group, sockets: Vec<Brief>) -> Vec<(Owner, Vec<Brief>)> {
        if self.owners.held.is_empty() && self.owners.searched.is_empty() {
            let alike = sockets.iter().all(|socket| socket.inode != 0);
            let (queued, accepted) = match alike {
                true => (Vec::new(), sockets),
                false => sockets.into_iter().partition(|socket| socket.inode == 0),
            };
            let part = |sockets: Vec<Brief>| Some((self.socket(group, sockets.first()?.inode.into()), sockets));
            return [queued, accepted].into_iter().filter_map(part).collect();
        }
        let mut parts: HashMap<Owner, Vec<Brief>> = HashMap::new();
        for socket in sockets {
            parts.entry(self.socket(group, socket.inode.into())).or_default().push(socket);
        }
        parts.into_iter().collect()
    }

    /// Inbound: the local address is one that the service, or a socket of the same cgroup, listens on, or did.
    pub fn direction(&self, group: &Group, service: &ServiceName) -> Direction {
        // A configured port is the service's even while its listener is closed.
        let configured = group.port.is_some_and(|port| self.owners.ports.get(&port) == Some(service));
        let listened = self.via(group).is_some_and(|(listener, owner)| {
            let same_cgroup = listener.cgroup_id.is_some() && listener.cgroup_id == group.cgroup_id;
            same_cgroup || matches!(owner, Owner::Service(name) if name == service)
        });
        if configured || listened || group.accepted { Direction::Inbound } else { Direction::Outbound }
    }

    fn via(&self, group: &Group) -> Option<(&Listener, &Owner)> {
        group.via.map(|index| (&self.snapshot.listeners[index], &self.listeners[index]))
    }

    /// The cgroups of which a configured service has taken a listener.
    fn taken(&self) -> impl Iterator<Item = u64> {
        self.snapshot.listeners.iter().zip(&self.listeners).filter_map(|(listener, owner)| {
            let id = listener.cgroup_id?;
            (matches!(owner, Owner::Service(_)) && self.owners.cgroups.get(&id) != Some(owner)).then_some(id)
        })
    }
}

/// The owner by the precedence of the words that are known.
fn known(inode: u64, local_port: Option<u16>, cgroup_id: Option<u64>, owners: &Owners) -> Owner {
    if let Some(name) = owners.by_configuration(inode, local_port) {
        return Owner::Service(name.clone());
    }
    if cgroup_id.is_none() && owners.unseen_where_untold {
        return Owner::Nobody(NoOwner::HolderUnseen);
    }
    if let Some(owner) = owners.searched.get(&inode) {
        return owner.clone();
    }
    match cgroup_id {
        None => Owner::Nobody(NoOwner::HolderUnseen),
        Some(id) if owners.unseen.contains(&id) => Owner::Nobody(NoOwner::HolderUnseen),
        Some(id) => owners.cgroups.get(&id).cloned().unwrap_or(Owner::Nobody(NoOwner::CgroupGone)),
    }
}

/// The established connections of each service that has cgroups of its own; unknown where one is shared.
fn established(
    counts: &BTreeMap<u64, u64>,
    owners: &Owners,
    shared: &BTreeSet<u64>,
) -> BTreeMap<ServiceName, Option<u64>> {
    let mut by_service = BTreeMap::new();
    for (id, owner) in &owners.cgroups {
        if let Owner::Service(name) = owner {
            let sum = by_service.entry(name.clone()).or_insert(Some(0u64));
            let count = counts.get(id).copied().unwrap_or(0);
            *sum = if shared.contains(id) { None } else { sum.map(|sum| sum + count) };
        }
    }
    by_service
}
