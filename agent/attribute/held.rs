//! How many of some sockets one service's own processes hold: for the evidence, and to confirm before an action that
//! what is counted as a service's is indeed held by it. Called by the attributor, for each of these processes.

use std::collections::{BTreeMap, HashSet};

use super::processes::{Budget, Process, Unseen};

/// How many of the sockets that are counted as a service's its own processes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    pub held: usize,
    /// How many there are; those in an accept queue, which no process holds, are not among them.
    pub of: usize,
    /// False: some processes could not be looked at, and may hold more.
    pub complete: bool,
}

/// Which of some sockets the processes of one service hold themselves: filled by a visit to each of them.
#[derive(Debug)]
pub(super) struct Held {
    wanted: HashSet<u64>,
    sockets: HashSet<u64>,
    /// How many each process holds; those that hold none are left out.
    pub by_process: BTreeMap<u32, usize>,
    /// No process was hidden or left when the budget ended: what is not among them, they do not hold.
    pub complete: bool,
}

impl Held {
    pub fn of(wanted: HashSet<u64>) -> Self {
        Self { wanted, sockets: HashSet::new(), by_process: BTreeMap::new(), complete: true }
    }

    pub fn look(&mut self, process: &Process, budget: &mut Budget) {
        // One socket under two descriptors is one socket.
        let mut here = HashSet::new();
        let read = process.sockets(budget, |inode| {
            if self.wanted.contains(&inode) {
                here.insert(inode);
            }
        });
        // What was seen before the time was up, or the process ended, is still true.
        self.complete &= read != Err(Unseen::Hidden);
        if !here.is_empty() {
            self.by_process.insert(process.pid, here.len());
            self.sockets.extend(here);
        }
    }

    pub fn confirmed(&self) -> Confirmed {
        Confirmed { held: self.sockets.len(), of: self.wanted.len(), complete: self.complete }
    }
}
