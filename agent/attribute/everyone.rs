//! The present holders of given sockets: one whole look through the descriptors of all processes, for the end of an
//! incident. Called by the sensor, on a thread that may take seconds; no look of a tick waits for it.
//!
//! A descriptor may stand where no `fd` directory shows it: in the table of an io_uring's registered files, which `fdinfo`
//! lists (`UserFiles`), or in a message under way over a unix socket, which nothing lists.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use super::cgroup::Cgroups;
use super::processes::{Budget, ProcRoot, Process, Unseen};
use crate::clock::Clock;
use crate::model::ServiceName;
use crate::model::census::NoOwner;

/// The findings of one look.
#[derive(Debug)]
pub struct Found {
    /// Most first.
    pub by: Vec<HeldBy>,
    /// Processes that could not be looked into (CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, a security module).
    pub hidden: usize,
    /// Why others may be left out, where some may.
    pub unlisted: Option<String>,
}

/// One process, and which of the sockets it holds, by their inodes.
#[derive(Debug)]
pub struct HeldBy {
    pub pid: u32,
    pub comm: String,
    /// The path in the cgroup v2 tree, else in systemd's hierarchy; empty where there is none.
    pub cgroup: String,
    pub inodes: BTreeSet<u64>,
}

/// All processes of the host.
#[derive(Clone, Debug)]
pub struct Everyone(pub(super) ProcRoot);

impl Everyone {
    /// Who holds these sockets (by their inodes); may take up to `within`.
    pub fn held_by(&self, inodes: &HashSet<u64>, clock: &dyn Clock, within: Duration) -> Found {
        held(&self.0, inodes, clock, within)
    }
}

/// Who of all processes holds which, some 3 µs a descriptor. A user other than root judges by
/// the processes of their own: they see no others, and could act on none.
pub(super) fn held(proc: &ProcRoot, wanted: &HashSet<u64>, clock: &dyn Clock, within: Duration) -> Found {
    let began = clock.monotonic();
    let until = Some((clock, began + within));
    let mut budget = Budget { processes: usize::MAX, descriptors: usize::MAX, until };
    let own = nix::unistd::geteuid();
    let is_root = own.is_root();
    let mut found: BTreeMap<u32, HeldBy> = BTreeMap::new();
    let mut hidden = 0;
    let complete = proc.all(&mut budget, &mut |process, budget| {
        let mut here = BTreeSet::new();
        let mut see = |inode: u64| {
            if wanted.contains(&inode) {
                here.insert(inode);
            }
        };
        let read = process.sockets(budget, &mut see).and_then(|()| process.registered(&mut see));
        let is_hidden = read == Err(Unseen::Hidden) && (is_root || process.owner().is_ok_and(|uid| uid == own));
        hidden += usize::from(is_hidden);
        if !here.is_empty() {
            found.extend(named(process, here).map(|by| (process.pid, by)));
        }
    });
    // Under hidepid not even process 1 is listed.
    let complete = complete && proc.open(1).is_ok();
    let is_late = clock.monotonic() >= began + within;
    let unlisted =
        (!complete || is_late).then(|| "some processes cannot be listed, or could not be read in time".into());
    let mut by: Vec<HeldBy> = found.into_values().collect();
    by.sort_by_key(|held| std::cmp::Reverse(held.inodes.len()));
    Found { by, hidden, unlisted }
}

/// In a pid namespace of our own, /proc lists no process of the host's others, though their cgroups may be seen: then why what
/// is not found is not gone. `service` tells whose a cgroup's path is.
pub(super) fn beyond(
    proc: &ProcRoot,
    cgroups: &Cgroups,
    service: &dyn Fn(&str) -> Result<ServiceName, NoOwner>,
) -> Option<String> {
    if proc.is_the_hosts() {
        return None;
    }
    let others = cgroups.all().find_map(|(path, directory)| {
        // 0 stands for a process that our pid namespace does not have.
        let members = std::fs::read_to_string(directory.join("cgroup.procs")).ok()?;
        members.lines().any(|pid| pid == "0").then(|| service(&path).ok()).flatten()
    })?;
    Some(format!(
        "the agent runs in a pid namespace that hides some processes, such as those of {others}; run it in the host's \
         (`--pid=host`, `hostPID: true`)"
    ))
}

/// `None` where it has ended meanwhile: then it holds nothing.
fn named(process: &Process, inodes: BTreeSet<u64>) -> Option<HeldBy> {
    let told = |read: Result<String, Unseen>| match read {
        Ok(text) => Some(text),
        Err(Unseen::Hidden) => Some(String::new()),
        Err(Unseen::Ended) => None,
    };
    let (comm, cgroups) = (told(process.comm())?, told(process.cgroups())?);
    let path = ["::", ":name=systemd:"].iter().find_map(|tree| {
        let path = cgroups.lines().find_map(|line| line.split_once(tree));
        path.map(|(_, path)| path).filter(|path| *path != "/")
    });
    Some(HeldBy { pid: process.pid, comm, cgroup: path.unwrap_or_default().to_owned(), inodes })
}

#[cfg(test)]
mod tests {
    use super::super::unit::place;
    use super::*;

    #[test]
    fn in_another_pid_namespace_a_service_whose_processes_are_not_listed_keeps_what_is_not_found_from_being_gone() {
        let tree = tempfile::tempdir().unwrap();
        let [v2, of_systemd, proc] = ["unified", "systemd", "proc"].map(|name| tree.path().join(name));
        std::fs::create_dir_all(proc.join("self/ns")).unwrap();
        std::fs::write(proc.join("self/ns/pid"), "").unwrap();
        let lists = |cgroup: &str, members: &str| {
            std::fs::create_dir_all(v2.join(cgroup)).unwrap();
            std::fs::write(v2.join(cgroup).join("cgroup.procs"), members).unwrap();
        };
        let says = |proc: &ProcRoot| {
            let service = |path: &str| place(path).map(|place| place.service);
            beyond(proc, &Cgroups::hybrid(&v2, &of_systemd), &service)
        };
        let contained = ProcRoot(proc.clone());
        lists("system.slice/seen.service", "7\n");
        lists("no-service", "0\n");
        assert_eq!(says(&contained), None);
        lists("system.slice/unseen.service/below", "7\n0\n");
        assert!(says(&contained).unwrap().contains("such as those of unseen.service"));
        // Where this machine is a host.
        if ProcRoot("/proc".into()).is_the_hosts() {
            assert_eq!(says(&ProcRoot("/proc".into())), None);
        }
    }
}
