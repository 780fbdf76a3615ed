//! The moments of a run: at any of them the agent ends, its disk fills up, or a call fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Weak};

use tokio::sync::watch;

use crate::store::Store;

/// What the agent dies of, in a test.
#[derive(Debug)]
pub struct Crash;

const NEVER: u64 = u64::MAX;

/// Counts the moments of a run, and lets happen at one of them what the test asks for.
#[derive(Debug)]
pub struct Trip {
    count: AtomicU64,
    crash_at: AtomicU64,
    full_at: AtomicU64,
    stop_at: AtomicU64,
    /// The first moment that fails, and the first that does not any more.
    failing: Mutex<std::ops::Range<u64>>,
    pub(super) store: Mutex<Weak<Store>>,
    pub stop: watch::Sender<bool>,
}

impl Trip {
    pub(super) fn new() -> Self {
        let never = || AtomicU64::new(NEVER);
        Self {
            count: AtomicU64::new(0),
            crash_at: never(),
            full_at: never(),
            stop_at: never(),
            failing: Mutex::new(NEVER..NEVER),
            store: Mutex::default(),
            stop: watch::Sender::new(false),
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// From here on the moments are counted anew, and nothing is asked for.
    pub fn reset(&self) {
        for counter in [&self.crash_at, &self.full_at, &self.stop_at] {
            counter.store(NEVER, Ordering::Relaxed);
        }
        self.count.store(0, Ordering::Relaxed);
        *self.failing.lock().unwrap() = NEVER..NEVER;
        self.stop.send_replace(false);
    }

    pub fn crash_at(&self, at: u64) {
        self.crash_at.store(at, Ordering::Relaxed);
    }

    pub fn fill_the_disk_at(&self, at: u64) {
        self.full_at.store(at, Ordering::Relaxed);
    }

    pub fn stop_at(&self, at: u64) {
        self.stop_at.store(at, Ordering::Relaxed);
    }

    /// Each call to the outside fails at these moments.
    pub fn fail_at(&self, moments: std::ops::Range<u64>) {
        *self.failing.lock().unwrap() = moments;
    }

    /// True where what is done at this moment fails.
    pub(super) fn pass(&self) -> bool {
        let now = self.count.fetch_add(1, Ordering::Relaxed);
        if now == self.full_at.load(Ordering::Relaxed)
            && let Some(store) = self.store.lock().unwrap().upgrade()
        {
            store.refuse_writes(true);
        }
        if now == self.stop_at.load(Ordering::Relaxed) {
            self.stop.send_replace(true);
        }
        if now == self.crash_at.load(Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new(Crash));
        }
        self.failing.lock().unwrap().contains(&now)
    }
}
