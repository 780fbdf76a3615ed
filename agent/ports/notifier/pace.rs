//! When each destination takes the next message: its pace, and what it asked for itself. Outlives the adapters, so that another
//! configuration begins nothing anew.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Doubled from one try in vain to the next up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub struct Paces(Mutex<BTreeMap<String, Standing>>);

/// Times are since boot.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    /// Its pace allows the next message from then on.
    next: Duration,
    /// It took none, and is asked again from then on.
    closed_until: Duration,
    in_vain: u32,
}

impl Paces {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Standing>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn of(&self, destination: &str) -> Standing {
        self.all().get(destination).copied().unwrap_or_default()
    }

    /// It did not take the last message, and its pause is not over.
    pub fn is_closed(&self, destination: &str, now: Duration) -> bool {
        self.of(destination).closed_until > now
    }

    /// Until its pace allows the next message.
    pub fn wait(&self, destination: &str, now: Duration) -> Duration {
        self.of(destination).next.saturating_sub(now)
    }

    /// A message was sent, whatever came of it.
    pub fn sent(&self, destination: &str, now: Duration, every: Duration) {
        self.all().entry(destination.into()).or_default().next = now + every;
    }

    /// It answered for a message, and takes the next.
    pub fn opened(&self, destination: &str) {
        let mut all = self.all();
        let standing = all.entry(destination.into()).or_default();
        (standing.closed_until, standing.in_vain) = (Duration::ZERO, 0);
    }

    /// It takes none for as long as it said, or for longer each time.
    pub fn closed(&self, destination: &str, now: Duration, after: Option<Duration>) {
        let mut all = self.all();
        let standing = all.entry(destination.into()).or_default();
        standing.closed_until = now + after.unwrap_or_else(|| pause(standing.in_vain));
        standing.in_vain += 1;
    }
}

/// After so many tries in vain before this one.
pub fn pause(in_vain: u32) -> Duration {
    Duration::from_secs(1 << in_vain.min(9)).min(LONGEST_PAUSE)
}
