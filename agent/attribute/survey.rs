//! Cases in which the counts mislead: services that the configuration tells apart and the host does not, and
//! containers whose connections the kernel does not have. Called by `scan`, `check` and, every few minutes, by the agent; no tick
//! needs it: it goes once through all processes, some 10 µs each, within the budget of an attribution.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use crate::model::caution::Caution;
use crate::model::census::{Stray, StrayAt};
use crate::model::{Listener, NetNs, ServiceName};

use super::configured::{is_the_hosts_own, named_by};
use super::processes::{Budget, Process, ProcessKey};
use super::{Attributor, unit};

/// The name of the place outside of all containers.
const OUTSIDE: &str = "the host";

/// A container's userland proxy: what connects to the published port reaches the container by it.
#[derive(Debug, PartialEq, Eq)]
pub struct Proxy {
    pub container: SocketAddr,
    pub host_port: String,
}

impl Attributor {
    /// All but what needs a dump of its own; `listeners` are those of a snapshot, where one was needed
    /// ([`Self::has_ports`]), and `own` our own network namespace.
    pub fn cautions(&mut self, listeners: &[Listener], own: NetNs) -> Vec<Caution> {
        let mut cautions = self.of_pid_files();
        cautions.extend(self.elsewhere_too(listeners, own));
        cautions.extend(self.one_process(listeners, own));
        cautions.extend(self.of_processes());
        cautions
    }

    /// Where the last look found the sockets that are no service's, most first; `by_cgroup` as its census has them.
    pub fn strays(&mut self, by_cgroup: &BTreeMap<u64, u64>) -> Vec<Stray> {
        let counts = |inode: u64| !self.searched_listeners.contains(&inode);
        let searched = self.searched.of_no_service(&|path| self.place(path), counts);
        let named = |(seen, sockets): (ProcessKey, u64)| {
            let comm = self.proc.reopen(seen).and_then(|process| process.comm()).ok()?;
            Some(Stray { sockets, at: StrayAt::Process { pid: seen.pid, comm } })
        };
        let mut strays: Vec<Stray> = searched.into_iter().filter_map(named).collect();
        for (id, sockets) in by_cgroup {
            // Where the cgroup tells nothing, the search has found the processes.
            if let Some(cgroup) = self.cgroups.path(*id).filter(|path| unit::tells(path)) {
                strays.push(Stray { sockets: *sockets, at: StrayAt::Cgroup { cgroup: cgroup.into() } });
            }
        }
        strays.sort_by_key(|stray| Reverse(stray.sockets));
        strays
    }

    /// Is any service found by its ports?
    pub fn has_ports(&self) -> bool {
        self.matches.iter().any(|found| !found.ports.is_empty())
    }

    fn of_pid_files(&self) -> Vec<Caution> {
        let named = |found: &super::ServiceMatch| {
            let file = found.pid_file.as_deref()?;
            let process = self.proc.open(named_by(file)?).ok().filter(is_the_hosts_own)?;
            Some(Caution::HostsOwn { service: found.service.clone(), pid_file: file.into(), pid: process.pid })
        };
        self.matches.iter().filter_map(named).collect()
    }

    fn elsewhere_too(&self, listeners: &[Listener], own: NetNs) -> Vec<Caution> {
        let ports = self.matches.iter().flat_map(|found| found.ports.iter().map(|port| (&found.service, *port)));
        let caution = |(service, port): (&ServiceName, u16)| {
            let there = |l: &&Listener| l.namespace != own && l.local.port() == port;
            let namespaces: BTreeSet<NetNs> = listeners.iter().filter(there).map(|l| l.namespace).collect();
            let (service, namespaces) = (service.clone(), namespaces.len());
            (namespaces > 0).then_some(Caution::ElsewhereToo { service, port, namespaces })
        };
        ports.filter_map(caution).collect()
    }

    /// Processes that hold listeners of several services: each set of services once, with the first process.
    fn one_process(&mut self, listeners: &[Listener], own: NetNs) -> Vec<Caution> {
        let by_port = |l: &Listener| {
            let found = self.matches.iter().find(|found| found.ports.contains(&l.local.port()))?;
            Some((l.inode, found.service.clone()))
        };
        let ours = || listeners.iter().filter(|l| l.namespace == own);
        let owners: HashMap<u64, ServiceName> = ours().filter_map(by_port).collect();
        if owners.values().collect::<HashSet<_>>().len() < 2 {
            return Vec::new();
        }
        let mut found: BTreeMap<Vec<ServiceName>, (u32, String)> = BTreeMap::new();
        let mut look = |process: &Process, budget: &mut Budget| {
            let mut services = BTreeSet::new();
            let read = process.sockets(budget, |inode| services.extend(owners.get(&inode).cloned()));
            if read.is_ok() && services.len() > 1 {
                let comm = process.comm().unwrap_or_default();
                found.entry(services.into_iter().collect()).or_insert((process.pid, comm));
            }
        };
        let mut budget = Budget::of_a_tick();
        let cgroups: BTreeSet<Option<u64>> =
            ours().filter(|l| owners.contains_key(&l.inode)).map(|l| l.cgroup_id).collect();
        for id in cgroups {
            let directory = id.and_then(|id| self.cgroups.path(id).map(str::to_owned));
            match directory.and_then(|path| self.cgroups.directory(&path)) {
                Some(directory) => self.proc.members(&directory, &mut HashSet::new(), &mut budget, &mut look),
                None => self.proc.all(&mut budget, &mut look),
            };
        }
        found.into_iter().map(|(services, (pid, comm))| Caution::OneProcess { services, pid, comm }).collect()
    }

    /// Where the processes are that a service is found by, and which of all are a container's sandbox.
    fn of_processes(&self) -> Vec<Caution> {
        let mut places: BTreeMap<(&ServiceName, &str), BTreeSet<String>> = BTreeMap::new();
        let mut cautions = BTreeSet::new();
        self.proc.all(&mut Budget::of_a_tick(), &mut |process, _| {
            for found in &self.matches {
                if let Some(name) = found.process.as_deref().filter(|name| process.is_called(name) == Ok(true)) {
                    let place = self.container_of(process).unwrap_or_else(|| OUTSIDE.into());
                    places.entry((&found.service, name)).or_default().insert(place);
                }
            }
            if let Some(runtime) = sandbox(process) {
                let container = self.container_of(process).unwrap_or_else(|| format!("process {}", process.pid));
                cautions.insert(Caution::NotTheKernels { container, runtime });
            }
        });
        let several = places.into_iter().filter(|(_, places)| places.len() > 1);
        cautions.extend(several.map(|((service, name), places)| Caution::SeveralPlaces {
            service: service.clone(),
            name: name.into(),
            places: places.into_iter().collect(),
        }));
        cautions.into_iter().collect()
    }

    fn container_of(&self, process: &Process) -> Option<String> {
        let of_container = |path: &str| {
            let place = unit::place(path)?;
            match place.service.kind() {
                crate::model::service::ServiceKind::Container => self.place(path),
                _ => Err(crate::model::census::NoOwner::NotAService),
            }
        };
        let place = process.membership().ok()?.place(&of_container).ok();
        // A sandbox may stand outside of its container's cgroup, and says whose it is at the end of its command line.
        let last = || unit::by_id(process.argv().ok()?.last()?);
        place.map(|place| place.service).or_else(last).map(|service| service.to_string())
    }

    /// The userland proxies of containers on this host.
    pub fn proxies(&self) -> Vec<Proxy> {
        let mut proxies = Vec::new();
        self.proc.all(&mut Budget::of_a_tick(), &mut |process, _| {
            if process.comm().is_ok_and(|comm| comm == "docker-proxy") {
                proxies.extend(process.argv().ok().and_then(|argv| proxy(&argv)));
            }
        });
        proxies
    }
}

/// `docker-proxy -proto tcp -host-ip IP -host-port PORT -container-ip IP -container-port PORT …`, as dockerd starts it
/// (moby, cmd/docker-proxy).
fn proxy(argv: &[String]) -> Option<Proxy> {
    let value = |flag: &str| argv.iter().skip_while(|word| *word != flag).nth(1);
    if value("-proto")? != "tcp" {
        return None;
    }
    let (ip, port) = (value("-container-ip")?.parse::<IpAddr>().ok()?, value("-container-port")?.parse().ok()?);
    Some(Proxy { container: SocketAddr::new(ip, port), host_port: value("-host-port")?.clone() })
}

/// The runtime, where this is the process by which it runs a container with a network stack of its own.
fn sandbox(process: &Process) -> Option<&'static str> {
    // Both start themselves by /proc/self/exe, or have a name longer than the 15 bytes that the kernel keeps.
    let comm = process.comm().ok()?;
    if !["exe", "runsc", "containerd-shim"].iter().any(|start| comm.starts_with(start)) {
        return None;
    }
    runtime(&process.argv().ok()?)
}

fn runtime(argv: &[String]) -> Option<&'static str> {
    let program = argv.first()?.rsplit('/').next()?;
    let says = |word: &str| argv.iter().any(|said| said == word);
    let host_network = || says("--network=host") || says("-network=host");
    match program {
        "runsc-sandbox" if says("boot") && !host_network() => Some("gVisor"),
        "containerd-shim-kata-v2" => Some("the virtual machine of Kata Containers"),
        _ => None,
    }
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod on_this_host;

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_sandbox_is_told_by_its_command_line() {
        for (line, says) in [
            ("runsc-sandbox --root=/run/docker/runtime-runc/moby --log-fd=3 boot --bundle=/b 4f1c", Some("gVisor")),
            ("/usr/bin/runsc-sandbox --network=sandbox boot 4f1c", Some("gVisor")),
            ("runsc-sandbox --network=host boot 4f1c", None),
            ("runsc-gofer --root=/run gofer 4f1c", None),
            (
                "/opt/kata/bin/containerd-shim-kata-v2 -namespace k8s.io -id 4f1c",
                Some("the virtual machine of Kata Containers"),
            ),
            ("/usr/bin/containerd-shim-runc-v2 -namespace moby -id 4f1c", None),
            ("/proc/self/exe init", None),
        ] {
            assert_eq!(runtime(&words(line)), says, "{line}");
        }
    }

    #[test]
    fn a_proxys_command_line_tells_the_container() {
        let line = "/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 \
                    -container-port 80";
        let expected = Proxy { container: "172.17.0.2:80".parse().unwrap(), host_port: "8080".into() };
        assert_eq!(proxy(&words(line)), Some(expected));
        assert_eq!(proxy(&words(&line.replace("tcp", "udp"))), None);
        assert_eq!(proxy(&words("docker-proxy -proto tcp -container-ip")), None);
    }
}
