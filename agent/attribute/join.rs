//! The join: a snapshot and what is known of owners become a census. Pure; called by the attributor.
//!
//! Every socket of the snapshot comes out once: with a service, or unattributed with the reason. The most specific
//! word wins: a configured process that holds it, a configured port, a configured cgroup, the container, the unit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use crate::model::census::NoOwner;
use crate::model::socket::{Direction, canonical};
use crate::model::{
    Census, Listener, Owner, ServiceCensus, ServiceName, Snapshot, Socket, Unattributed, census::Owned,
};

/// What is known of owners, beside the snapshot itself.
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
    /// Whose each cgroup of the snapshot is.
    pub cgroups: HashMap<u64, Owner>,
}

pub(super) fn join(snapshot: &Snapshot, owners: &Owners) -> Census {
    let listeners = Listeners::new(&snapshot.listeners, owners);
    let mut services: BTreeMap<ServiceName, ServiceCensus> =
        owners.configured.iter().cloned().map(|name| (name, ServiceCensus::default())).collect();
    for (listener, owner) in &listeners.all {
        if let Owner::Service(name) = owner {
            services.entry(name.clone()).or_default().listening.push(listener.local);
        }
    }
    let mut unattributed = Vec::new();
    // Cgroups of which a configured service has taken a part: their counts are no longer one service's.
    let mut shared = BTreeSet::new();
    for socket in &snapshot.close_wait {
        match owner_of(socket, owners, &listeners) {
            Owner::Service(name) => {
                if let Some(id) = socket.cgroup_id
                    && owners.cgroups.get(&id) != Some(&Owner::Service(name.clone()))
                {
                    shared.insert(id);
                }
                let direction = direction(socket, &name, owners, &listeners);
                services.entry(name).or_default().sockets.push(Owned { socket: socket.clone(), direction });
            }
            Owner::Nobody(why) => unattributed.push(Unattributed { socket: socket.clone(), why }),
        }
    }
    if let Some(counts) = &snapshot.established {
        shared.extend(owners.unseen.iter().copied());
        shared.extend(listeners.taken(owners));
        for (name, count) in established(counts, owners, &shared) {
            services.entry(name).or_default().established = count;
        }
    }
    let quality = snapshot.quality.clone();
    Census { at: snapshot.at, monotonic: snapshot.monotonic, services, unattributed, quality }
}

/// The listeners by port, each with its owner.
struct Listeners<'a> {
    all: Vec<(&'a Listener, Owner)>,
    by_port: HashMap<u16, Vec<usize>>,
}

impl<'a> Listeners<'a> {
    fn new(listeners: &'a [Listener], owners: &Owners) -> Self {
        let owned = |l: &'a Listener| (l, known(l.inode, l.local.port(), l.cgroup_id, owners));
        let all: Vec<_> = listeners.iter().map(owned).collect();
        let mut by_port: HashMap<u16, Vec<usize>> = HashMap::new();
        for (index, (listener, _)) in all.iter().enumerate() {
            by_port.entry(listener.local.port()).or_default().push(index);
        }
        Self { all, by_port }
    }

    /// The listeners that a connection to this local address may have come in by.
    fn covering(&self, local: SocketAddr) -> impl Iterator<Item = &(&'a Listener, Owner)> {
        let indices = self.by_port.get(&local.port()).map_or(&[][..], Vec::as_slice);
        indices.iter().map(|index| &self.all[*index]).filter(move |(listener, _)| covers(listener.local, local))
    }

    /// The cgroups of which a configured service has taken a listener.
    fn taken<'b>(&'b self, owners: &'b Owners) -> impl Iterator<Item = u64> + 'b {
        self.all.iter().filter_map(|(listener, owner)| {
            let id = listener.cgroup_id?;
            (matches!(owner, Owner::Service(_)) && owners.cgroups.get(&id) != Some(owner)).then_some(id)
        })
    }
}

/// Does a listener on `bound` accept connections to `local`? An IPv6 wildcard takes IPv4 as well.
fn covers(bound: SocketAddr, local: SocketAddr) -> bool {
    let (bound, local) = (canonical(bound), canonical(local));
    bound.port() == local.port()
        && (bound.ip() == local.ip() || bound.ip().is_unspecified() && (bound.is_ipv6() || local.is_ipv4()))
}

fn owner_of(socket: &Socket, owners: &Owners, listeners: &Listeners) -> Owner {
    // In the accept queue no process has it yet: it is its listener's.
    if socket.inode == 0 {
        let by = listeners.covering(socket.local).find(|(listener, _)| listener.cgroup_id == socket.cgroup_id);
        if let Some((_, owner @ Owner::Service(_))) = by {
            return owner.clone();
        }
    }
    known(socket.inode, socket.local.port(), socket.cgroup_id, owners)
}

/// The owner by the precedence of the words that are known.
fn known(inode: u64, local_port: u16, cgroup_id: Option<u64>, owners: &Owners) -> Owner {
    let held = (inode != 0).then(|| owners.held.get(&inode)).flatten();
    if let Some(name) = held.or_else(|| owners.ports.get(&local_port)) {
        return Owner::Service(name.clone());
    }
    match cgroup_id {
        None => Owner::Nobody(NoOwner::HolderUnseen),
        Some(id) if owners.unseen.contains(&id) => Owner::Nobody(NoOwner::HolderUnseen),
        Some(id) => owners.cgroups.get(&id).cloned().unwrap_or(Owner::Nobody(NoOwner::CgroupGone)),
    }
}

/// Inbound: the local address is one that the service, or a socket of the same cgroup, listens on.
fn direction(socket: &Socket, service: &ServiceName, owners: &Owners, listeners: &Listeners) -> Direction {
    // A configured port is the service's even while its listener is closed.
    let configured = owners.ports.get(&socket.local.port()) == Some(service);
    let same_cgroup = |listener: &Listener| listener.cgroup_id.is_some() && listener.cgroup_id == socket.cgroup_id;
    let listened = listeners
        .covering(socket.local)
        .any(|(listener, owner)| same_cgroup(listener) || matches!(owner, Owner::Service(name) if name == service));
    if configured || listened { Direction::Inbound } else { Direction::Outbound }
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
