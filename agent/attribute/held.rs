//! How many of some sockets one service's own processes hold: for the evidence, and to confirm before an action that
//! what is counted as a service's is indeed held by it. Called by the attributor, for each of these processes.

use std::collections::{BTreeMap, HashSet};

use super::processes::{Budget, Process, Unseen};

/// Which of some sockets the processes of one service hold themselves: filled by a visit to each of them.
#[derive(Debug)]
pub(super) struct HeldSockets {
    wanted: HashSet<u64>,
    pub sockets: HashSet<u64>,
    /// How many each process holds; those that hold none are left out.
    pub by_process: BTreeMap<u32, usize>,
    /// No process was hidden or left when the budget ended: what is not among them, they do not hold.
    pub complete: bool,
}

impl HeldSockets {
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

    /// Those that they certainly do not hold: none where something was left out.
    pub fn not_held(&self) -> HashSet<u64> {
        if self.complete { self.wanted.difference(&self.sockets).copied().collect() } else { HashSet::new() }
    }
}
