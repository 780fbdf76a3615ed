//! The workers of a pre-forking service, and who of them holds its leaked sockets: looked at afresh before some are asked
//! to end.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::Duration;

use super::processes::{Budget, ProcRoot, Process, Unseen};
use crate::clock::Clock;
use crate::model::Worker;

const MOST_GENERATIONS: usize = 8; // below the main process; most servers have one, some a supervisor between

/// The processes below the main one that have no children of their own, each with how many of the leaked sockets (by their
/// inodes) it holds; those that hold most come first. One with children is a master itself, whatever stands above it, and
/// what a master holds its workers have from it: ending one of them would free nothing, so it does not count.
///
/// Reads all of their descriptors, some 3 µs each: same user, or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH. An error where
/// one of them could not be looked into, or the budget ended first: a part of the workers is not the workers.
pub fn workers(main: u32, leaked: &HashSet<u64>, clock: &dyn Clock, budget: Duration) -> Result<Vec<Worker>, String> {
    let proc = ProcRoot("/proc".into());
    let head = proc.open(main).map_err(|_| format!("the main process, pid {main}, has ended"))?;
    let until = Some((clock, clock.monotonic() + budget));
    let mut budget = Budget { processes: usize::MAX, descriptors: usize::MAX, until };
    let (mut family, mut hidden): (Vec<Member>, _) = (Vec::new(), None);
    let complete = proc.family(&head, MOST_GENERATIONS, &mut budget, &mut |process, budget| {
        match Member::read(process, leaked, budget) {
            Ok(member) => family.push(member),
            // It has ended, or ends while it is looked at: it is no worker any more.
            Err(Unseen::Ended) => {}
            Err(Unseen::Hidden) => hidden = Some(process.pid),
        }
    });
    if let Some(pid) = hidden {
        return Err(format!(
            "the descriptors of pid {pid} could not be read in time, or the agent lacks CAP_SYS_PTRACE and \
             CAP_DAC_READ_SEARCH"
        ));
    }
    if !complete {
        return Err(format!("some children of the main process, pid {main}, could not be read"));
    }
    let parents: HashSet<u32> = family.iter().map(|member| member.parent).collect();
    let (masters, workers): (Vec<Member>, Vec<Member>) =
        family.into_iter().partition(|member| member.pid == main || parents.contains(&member.pid));
    let inherited: HashSet<u64> = masters.into_iter().flat_map(|master| master.holds).collect();
    let mut workers: Vec<Worker> = workers
        .into_iter()
        .map(|Member { pid, began, parent, holds }| Worker {
            pid,
            began,
            parent,
            holds: holds.difference(&inherited).count(),
            asked: false,
        })
        .collect();
    workers.sort_by_key(|worker| (Reverse(worker.holds), worker.pid));
    Ok(workers)
}

/// Does this process, or one that descends from it, hold any of these sockets (by their inodes)? An error where that could not
/// be seen of all of them, and none of those that were seen does.
pub fn family_holds(main: u32, sockets: &HashSet<u64>, clock: &dyn Clock, budget: Duration) -> Result<bool, String> {
    let proc = ProcRoot("/proc".into());
    let head = proc.open(main).map_err(|_| format!("pid {main} has ended"))?;
    let until = Some((clock, clock.monotonic() + budget));
    let mut budget = Budget { processes: usize::MAX, descriptors: usize::MAX, until };
    let (mut holds, mut hidden) = (false, false);
    let complete = proc.family(&head, MOST_GENERATIONS, &mut budget, &mut |process, budget| match Member::read(
        process, sockets, budget,
    ) {
        Ok(member) => holds |= !member.holds.is_empty(),
        Err(Unseen::Ended) => {}
        Err(Unseen::Hidden) => hidden = true,
    });
    match holds || complete && !hidden {
        true => Ok(holds),
        false => Err(format!("some descriptors of pid {main} and its children could not be read")),
    }
}

/// Of two looks a moment apart, the one that counts fewer: what a worker starts for a moment (the parts of a pipeline) counts
/// while it lives, and would be missed for a worker later.
pub fn fewer(first: Vec<Worker>, second: Vec<Worker>) -> Vec<Worker> {
    if first.len() < second.len() { first } else { second }
}

/// The main process, or one that descends from it.
struct Member {
    pid: u32,
    began: u64,
    parent: u32,
    /// One socket under two descriptors is one socket.
    holds: HashSet<u64>,
}

impl Member {
    fn read(process: &Process, leaked: &HashSet<u64>, budget: &mut Budget) -> Result<Self, Unseen> {
        if process.is_zombie()? {
            return Err(Unseen::Ended);
        }
        let (began, parent) = (process.began()?, process.parent()?);
        let mut holds = HashSet::new();
        process.sockets(budget, |inode| {
            if leaked.contains(&inode) {
                holds.insert(inode);
            }
        })?;
        Ok(Self { pid: process.pid, began, parent, holds })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nix::sys::wait::{Id, WaitPidFlag, waitid};

    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn one_that_has_ended_and_was_not_waited_for_is_no_worker_any_more() {
        let cat = || Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let (mut lives, mut ended) = (cat(), cat());
        let pids = || -> HashSet<u32> {
            let seen = workers(std::process::id(), &HashSet::new(), &SystemClock, Duration::from_secs(10)).unwrap();
            seen.into_iter().map(|worker| worker.pid).collect()
        };
        assert!(pids().is_superset(&[lives.id(), ended.id()].into()));
        drop(ended.stdin.take());
        let pid = nix::unistd::Pid::from_raw(ended.id().cast_signed());
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        let pids = pids();
        assert!(pids.contains(&lives.id()) && !pids.contains(&ended.id()), "{pids:?}");
        ended.wait().unwrap();
        drop(lives.stdin.take());
        lives.wait().unwrap();
    }

    #[test]
    fn a_family_holds_what_a_child_of_it_holds_and_a_stranger_holds_nothing_of_it() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let inode = std::os::fd::AsRawFd::as_raw_fd(&ours);
        let link = std::fs::read_link(format!("/proc/self/fd/{inode}")).unwrap().display().to_string();
        let inode: u64 = link.trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap();
        let sockets = HashSet::from([inode]);
        let mut stranger = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let holds = |pid| family_holds(pid, &sockets, &SystemClock, Duration::from_secs(10));
        assert_eq!((holds(std::process::id()), holds(stranger.id())), (Ok(true), Ok(false)));
        drop(stranger.stdin.take());
        stranger.wait().unwrap();
    }

    #[test]
    fn what_lives_for_a_moment_is_no_worker() {
        let seen = |pids: &[u32]| -> Vec<Worker> {
            pids.iter().map(|pid| Worker { pid: *pid, began: 7, parent: 1, holds: 0, asked: false }).collect()
        };
        // A worker is counted as a master while it has children, of which there are two.
        let (alone, with_children) = (seen(&[10, 11]), seen(&[10, 20, 21]));
        assert_eq!(fewer(with_children.clone(), alone.clone()), alone);
        assert_eq!(fewer(alone.clone(), with_children), alone);
        assert_eq!(fewer(alone.clone(), seen(&[11, 12])), seen(&[11, 12]), "the later one");
    }
}
