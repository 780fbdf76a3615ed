//! Leaked sockets by their identity: which they are before a remedy, and what became of each after it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Sensor, SharedSensor};
use crate::attribute::{Everyone, Found, HeldBy};
use crate::clock::Clock;
use crate::collect::CollectError;
use crate::model::census::{NoOwner, Owned};
use crate::model::socket::{BlindSpot, Detail, Quality};
use crate::model::{Holder, Leaked, NetNs, Remaining, ServiceName, SocketId};

/// How many holders are named.
pub(super) const MOST_NAMED: usize = 5;
/// For looking through the descriptors of all processes: some 3 µs each, so three million of them.
pub(super) const LOOK_WITHIN: Duration = Duration::from_secs(10);

impl Sensor {
    /// The service's sockets that have been in CLOSE_WAIT for at least so long and send no more; where none has, all of
    /// its sockets in CLOSE_WAIT. An error where the look was partial, or where others may be its own.
    pub fn identities(&mut self, service: &ServiceName, at_least: Duration) -> Result<Leaked, String> {
        let detail = self.listed()?;
        let usual = self.attributor.search_within(LOOK_WITHIN);
        let (mut census, owned) = self.attributor.owned(detail, service, self.clock.as_ref());
        self.attributor.search_within(usual);
        if let Quality::Partial { why } = census.quality {
            return Err(why);
        }
        if let Some(unsearched) = census.unattributed.get(&NoOwner::NotLookedAt) {
            return Err(not_searched(*unsearched));
        }
        let held = census.services.remove(service).unwrap_or_default();
        let sending: HashSet<u64> = held.sockets().filter(|s| s.sending).map(|s| u64::from(s.inode)).collect();
        let silent = owned.iter().filter(|o| o.socket.inode == 0 || !sending.contains(&o.socket.inode));
        let with_age = |Owned { namespace, socket, .. }: &Owned| {
            let id = SocketId { namespace: *namespace, cookie: socket.cookie, inode: socket.inode };
            (id, socket.age.unwrap_or_default())
        };
        let silent: Vec<_> = silent.map(with_age).collect();
        let (at_least, sockets) = old_enough(&silent, at_least);
        Ok(Leaked { boot: self.clock.boot(), at_least, sockets })
    }

    /// What became of these sockets: network namespaces are looked for anew, all tables are read, and the descriptors of all
    /// processes, each afresh. An error where a table could not be read whole.
    ///
    /// The tables are read under the sensor's lock; the search through the descriptors, which may take seconds, is not: looks
    /// go on meanwhile.
    pub fn remaining(sensor: &SharedSensor, service: &ServiceName, leaked: &Leaked) -> Result<Remaining, String> {
        let Some(sought) = sensor.lock().seek(leaked)? else {
            return Ok(Remaining { of: leaked.sockets.len(), ..Remaining::default() });
        };
        let Sought { leaked, listed, blind, everyone, clock } = sought;
        let inodes = leaked.sockets.iter().map(|socket| socket.inode).filter(|inode| *inode != 0).collect();
        let Found { by: held, hidden, unlisted } = everyone.held_by(&inodes, clock.as_ref(), LOOK_WITHIN);
        let sensor = sensor.lock();
        let found = became_of(&leaked, &listed, &held, |by| sensor.attributor.is_of(by, service));
        let unseen = blind.or(unlisted).or_else(|| sensor.attributor.beyond());
        Ok(Remaining { unseen, hidden, ..found })
    }

    /// How many of these sockets remain, in the cheapest way that tells: the descriptors of all processes are searched only where
    /// the tables list no more than half of the sockets. `None` where not all could be looked for.
    pub fn still_there(sensor: &SharedSensor, service: &ServiceName, leaked: &Leaked) -> Result<Option<usize>, String> {
        let Some(sought) = sensor.lock().seek(leaked)? else { return Ok(Some(0)) };
        let Sought { leaked: now, listed, .. } = sought;
        let left = now.sockets.iter().filter(|socket| listed.lists(socket)).count();
        if left * 2 > leaked.sockets.len() {
            return Ok(Some(left));
        }
        let found = Self::remaining(sensor, service, leaked)?;
        Ok(found.unseen.is_none().then_some(found.left))
    }

    /// `None` where none of them can be there any more: there were none, or the host was booted.
    fn seek(&mut self, leaked: &Leaked) -> Result<Option<Sought>, String> {
        if leaked.sockets.is_empty() || leaked.boot != self.clock.boot() {
            return Ok(None);
        }
        self.collector.discover();
        let detail = self.listed()?;
        if let Quality::Partial { why } = &detail.snapshot.quality {
            return Err(why.clone());
        }
        let listed = Listed::of(&detail);
        let leaked = listed.as_accepted(leaked);
        let blind = detail.snapshot.blind_spots.iter().find(|spot| matches!(spot, BlindSpot::NotRead(_)));
        let blind = blind.map(ToString::to_string).or_else(|| listed.cannot_tell(&leaked));
        let (everyone, clock) = (self.attributor.everyone(), Arc::clone(&self.clock));
        Ok(Some(Sought { leaked, listed, blind, everyone, clock }))
    }

    fn listed(&mut self) -> Result<Detail, String> {
        self.collector.detail(self.clock.as_ref()).map_err(|error: CollectError| error.to_string())
    }
}

/// Why it is not known what is a service's.
pub fn not_searched(sockets: u64) -> String {
    format!("the search for the holders of {sockets} sockets in CLOSE_WAIT did not end in time")
}

/// Those that are at least so old; where none is, all: with the age that they have in common.
fn old_enough(sockets: &[(SocketId, Duration)], at_least: Duration) -> (Duration, Vec<SocketId>) {
    let of = |at_least: Duration| sockets.iter().filter(move |(_, age)| *age >= at_least).map(|(id, _)| *id);
    let old: Vec<SocketId> = of(at_least).collect();
    if old.is_empty() { (Duration::ZERO, of(Duration::ZERO).collect()) } else { (at_least, old) }
}

/// The leaked sockets as they are known now, and what it takes to search for their holders.
struct Sought {
    leaked: Leaked,
    listed: Listed,
    /// Why not everything can be seen.
    blind: Option<String>,
    everyone: Everyone,
    clock: Arc<dyn Clock>,
}

pub(super) fn holder(by: &HeldBy, sockets: usize, own: bool) -> Holder {
    let HeldBy { pid, comm, cgroup, .. } = by;
    Holder { pid: *pid, comm: comm.clone(), cgroup: cgroup.clone(), sockets, own }
}

/// The sockets in CLOSE_WAIT of all tables.
#[derive(Default)]
struct Listed {
    /// The inode of each, by namespace and cookie.
    by_cookie: HashMap<(NetNs, u64), u64>,
    /// The namespace and the cookie of each, by its inode: sockfs is one for all namespaces.
    by_inode: HashMap<u64, (NetNs, u64)>,
    /// Those of which the source tells no cookies.
    without_cookies: HashSet<NetNs>,
}

impl Listed {
    fn of(detail: &Detail) -> Self {
        let mut listed = Self::default();
        for (group, socket) in &detail.sockets {
            let namespace = detail.snapshot.groups[*group].namespace;
            listed.add(SocketId { namespace, cookie: socket.cookie, inode: socket.inode });
        }
        listed
    }

    fn add(&mut self, SocketId { namespace, cookie, inode }: SocketId) {
        match cookie {
            0 => _ = self.without_cookies.insert(namespace),
            cookie => _ = self.by_cookie.insert((namespace, cookie), inode),
        }
        if inode != 0 {
            self.by_inode.insert(inode, (namespace, cookie));
        }
    }

    /// The same sockets, those that were accepted meanwhile by the inodes that they have now.
    fn as_accepted(&self, leaked: &Leaked) -> Leaked {
        let now = |socket: &SocketId| match self.by_cookie.get(&(socket.namespace, socket.cookie)) {
            Some(inode) if socket.inode == 0 => SocketId { inode: *inode, ..*socket },
            _ => *socket,
        };
        Leaked { sockets: leaked.sockets.iter().map(now).collect(), ..leaked.clone() }
    }

    /// What waited in an accept queue has its cookie alone: why it cannot be known again, where cookies are not told.
    fn cannot_tell(&self, leaked: &Leaked) -> Option<String> {
        let untold = |socket: &&SocketId| {
            let has_no_cookies = || self.without_cookies.contains(&socket.namespace);
            socket.inode == 0 && (socket.cookie == 0 || has_no_cookies())
        };
        let count = leaked.sockets.iter().filter(untold).count();
        (count > 0)
            .then(|| format!("{count} of them waited in the accept queue, where /proc does not distinguish them"))
    }

    /// Is this very socket listed? A cookie stays with it, also when it is accepted; by the inode alone where the source
    /// tells no cookies.
    fn lists(&self, socket: &SocketId) -> bool {
        match socket.cookie {
            _ if self.without_cookies.contains(&socket.namespace) => {
                self.by_inode.get(&socket.inode).is_some_and(|(namespace, _)| *namespace == socket.namespace)
            }
            0 => self.by_inode.get(&socket.inode).is_some_and(|(namespace, _)| *namespace == socket.namespace),
            cookie => self.by_cookie.contains_key(&(socket.namespace, cookie)),
        }
    }

    /// Has its inode gone to another socket?
    fn is_anothers(&self, socket: &SocketId) -> bool {
        let now = self.by_inode.get(&socket.inode);
        socket.cookie != 0 && now.is_some_and(|(_, cookie)| *cookie != 0 && *cookie != socket.cookie)
    }
}

fn became_of(leaked: &Leaked, listed: &Listed, held: &[HeldBy], is_own: impl Fn(&HeldBy) -> bool) -> Remaining {
    let mut holds: BTreeMap<u32, usize> = BTreeMap::new();
    let mut holders_of: HashMap<u64, Vec<u32>> = HashMap::new();
    for by in held {
        by.inodes.iter().for_each(|inode| holders_of.entry(*inode).or_default().push(by.pid));
    }
    let (mut left, mut unheld) = (0, 0);
    for socket in &leaked.sockets {
        let by = holders_of.get(&socket.inode).filter(|_| socket.inode != 0 && !listed.is_anothers(socket));
        match (by, listed.lists(socket)) {
            (Some(by), _) => {
                left += 1;
                by.iter().for_each(|pid| *holds.entry(*pid).or_default() += 1);
            }
            (None, true) => (left, unheld) = (left + 1, unheld + 1),
            (None, false) => {}
        }
    }
    let named = |by: &HeldBy| Some(holder(by, *holds.get(&by.pid)?, is_own(by)));
    let mut holders: Vec<Holder> = held.iter().filter_map(named).collect();
    holders.sort_by_key(|holder| (std::cmp::Reverse(holder.sockets), holder.pid));
    Remaining { of: leaked.sockets.len(), left, holders, unheld, hidden: 0, unseen: None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use crate::clock::Clock;

    use super::*;

    /// What the policy's condition asks for, in seconds.
    const OLD: u64 = 60;

    /// What happens to sockets and to those that hold them.
    #[derive(Clone, Debug)]
    enum Happens {
        /// A process opens one, and the peer closes it.
        Leaks {
            by: u32,
        },
        /// A fork, or a message over a unix socket: the other holds it as well.
        Shared {
            socket: usize,
            with: u32,
        },
        HandedOn {
            socket: usize,
            from: u32,
            to: u32,
        },
        /// Into a place that no directory of descriptors shows; the socket is listed all the same.
        Hidden {
            socket: usize,
            from: u32,
        },
        Closed {
            socket: usize,
            by: u32,
        },
        /// Keepalive, or SOCK_DESTROY: no table lists it any more.
        Reset {
            socket: usize,
        },
        /// All that the process held is closed.
        Ends {
            process: u32,
        },
        /// Time goes by.
        Ages {
            by: u64,
        },
        /// The number of one that nobody holds is given to a new one of this process.
        InodeGoes {
            socket: usize,
            to: u32,
        },
    }

    fn happens() -> impl Strategy<Value = Happens> {
        let (socket, process) = (0..40usize, 1..6u32);
        prop_oneof![
            4 => process.clone().prop_map(|by| Happens::Leaks { by }),
            2 => (socket.clone(), process.clone()).prop_map(|(socket, with)| Happens::Shared { socket, with }),
            2 => (socket.clone(), process.clone(), process.clone())
                .prop_map(|(socket, from, to)| Happens::HandedOn { socket, from, to }),
            1 => (socket.clone(), process.clone()).prop_map(|(socket, from)| Happens::Hidden { socket, from }),
            2 => (socket.clone(), process.clone()).prop_map(|(socket, by)| Happens::Closed { socket, by }),
            1 => socket.clone().prop_map(|socket| Happens::Reset { socket }),
            1 => process.clone().prop_map(|process| Happens::Ends { process }),
            2 => (1..100u64).prop_map(|by| Happens::Ages { by }),
            1 => (socket, process).prop_map(|(socket, to)| Happens::InodeGoes { socket, to }),
        ]
    }

    #[derive(Clone, Debug)]
    struct Modelled {
        id: SocketId,
        held_by: BTreeSet<u32>,
        hidden: bool,
        listed: bool,
        /// In seconds.
        age: u64,
        /// Its inode was another's before: 2^32 are given before one is given again.
        inode_again: bool,
    }

    impl Modelled {
        fn stands(&self) -> bool {
            !self.held_by.is_empty() || self.hidden
        }

        fn settle(&mut self) {
            self.listed &= self.stands();
        }

        fn is_closed_by(&mut self, process: u32) {
            self.held_by.remove(&process);
        }

        fn happens(&mut self, what: &Happens) {
            match *what {
                Happens::Shared { with, .. } if self.stands() => _ = self.held_by.insert(with),
                Happens::HandedOn { from, to, .. } if self.held_by.remove(&from) => _ = self.held_by.insert(to),
                Happens::Hidden { from, .. } if self.listed => self.hidden |= self.held_by.remove(&from),
                Happens::Closed { by, .. } => self.is_closed_by(by),
                // What nothing shows and no table lists, nobody can know of; nor that a descriptor's inode is another's by now,
                // where no table says so. Then a socket is said to stand that is gone.
                Happens::Reset { .. } if !self.hidden && !self.inode_again => self.listed = false,
                _ => {}
            }
        }
    }

    #[derive(Default)]
    struct Model {
        sockets: Vec<Modelled>,
    }

    impl Model {
        fn leaks(&mut self, by: u32, inode: Option<u64>) {
            let n = self.sockets.len() as u64 + 1;
            let id = SocketId { namespace: NetNs(n % 2), cookie: n, inode: inode.unwrap_or(1_000 + n) };
            let inode_again = inode.is_some();
            self.sockets.push(Modelled { id, held_by: [by].into(), hidden: false, listed: true, age: 0, inode_again });
        }

        fn at(&mut self, socket: usize) -> Option<&mut Modelled> {
            let count = self.sockets.len().max(1);
            self.sockets.get_mut(socket % count)
        }

        fn happens(&mut self, what: &Happens) {
            match *what {
                Happens::Leaks { by } => self.leaks(by, None),
                Happens::Ages { by } => self.sockets.iter_mut().for_each(|socket| socket.age += by),
                Happens::InodeGoes { socket, to } => {
                    let inode = self.at(socket).map(|socket| socket.id.inode);
                    let is_taken = |inode: u64| self.sockets.iter().any(|s| s.id.inode == inode && s.stands());
                    if let Some(inode) = inode.filter(|inode| !is_taken(*inode)) {
                        self.leaks(to, Some(inode));
                    }
                }
                Happens::Ends { process } => {
                    self.sockets.iter_mut().for_each(|socket| socket.is_closed_by(process));
                }
                Happens::Shared { socket, .. }
                | Happens::HandedOn { socket, .. }
                | Happens::Hidden { socket, .. }
                | Happens::Closed { socket, .. }
                | Happens::Reset { socket } => self.at(socket).into_iter().for_each(|socket| socket.happens(what)),
            }
            self.sockets.iter_mut().for_each(Modelled::settle);
        }

        fn listed(&self) -> Listed {
            let mut listed = Listed::default();
            self.sockets.iter().filter(|socket| socket.listed).for_each(|socket| listed.add(socket.id));
            listed
        }

        fn held(&self) -> Vec<HeldBy> {
            let by = |pid: u32| {
                let inodes = self.sockets.iter().filter(|s| s.held_by.contains(&pid)).map(|s| s.id.inode).collect();
                HeldBy { pid, comm: "leaky".into(), cgroup: format!("/{pid}"), inodes }
            };
            (1..6).map(by).collect()
        }
    }

    #[test]
    fn no_socket_outlives_its_boot() {
        let sensor = Sensor::new(Vec::new(), Vec::new(), Arc::new(crate::clock::SystemClock)).unwrap();
        let sensor = SharedSensor::new(sensor);
        let service = ServiceName::parse("rpc-order.service").unwrap();
        // One that this very boot has: our own process holds it.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let kept = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let inode = std::os::fd::AsFd::as_fd(&kept);
        let inode = nix::sys::stat::fstat(inode).unwrap().st_ino;
        let sockets = vec![SocketId { namespace: sensor.lock().collector.own_namespace(), cookie: 0, inode }];
        let leaked = |boot: String| Leaked { boot, at_least: Duration::ZERO, sockets: sockets.clone() };
        let left = |boot| Sensor::remaining(&sensor, &service, &leaked(boot)).unwrap().left;
        assert_eq!(left(crate::clock::SystemClock.boot()), 1);
        assert_eq!(left("another".into()), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_said_of_each_leaked_socket_at_the_end_is_what_became_of_it(
            before in proptest::collection::vec(happens(), 1..30),
            after in proptest::collection::vec(happens(), 0..40),
        ) {
            let mut model = Model::default();
            before.iter().for_each(|what| model.happens(what));
            let listed: Vec<&Modelled> = model.sockets.iter().filter(|socket| socket.listed).collect();
            let seen: Vec<_> = listed.iter().map(|socket| (socket.id, Duration::from_secs(socket.age))).collect();
            let any_is_old = listed.iter().any(|socket| socket.age >= OLD);
            let known: Vec<SocketId> =
                listed.iter().filter(|socket| !any_is_old || socket.age >= OLD).map(|socket| socket.id).collect();
            let (at_least, leaked) = old_enough(&seen, Duration::from_secs(OLD));
            prop_assert_eq!(&leaked, &known);
            prop_assert_eq!(at_least, Duration::from_secs(if any_is_old { OLD } else { 0 }));
            after.iter().for_each(|what| model.happens(what));
            let ours: Vec<&Modelled> = model.sockets.iter().filter(|socket| leaked.contains(&socket.id)).collect();

            let leaked = Leaked { boot: "b".into(), at_least: Duration::ZERO, sockets: leaked };
            let said = became_of(&leaked, &model.listed(), &model.held(), |by| by.pid == 1);

            prop_assert_eq!(said.of, ours.len());
            prop_assert_eq!(said.left, ours.iter().filter(|socket| socket.stands()).count());
            let unheld = |socket: &&&Modelled| socket.held_by.is_empty() && socket.hidden;
            prop_assert_eq!(said.unheld, ours.iter().filter(unheld).count());
            for pid in 1..6 {
                let holds = ours.iter().filter(|socket| socket.held_by.contains(&pid)).count();
                let holder = said.holders.iter().find(|holder| holder.pid == pid);
                prop_assert_eq!(holder.map_or(0, |holder| holder.sockets), holds, "pid {}", pid);
                prop_assert_eq!(holder.is_some_and(|holder| holder.own), holds > 0 && pid == 1);
            }
        }
    }
}
