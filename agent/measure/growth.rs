//! Growth over a window: the robust slope of a count, per minute; unknown rather than wrong.
//!
//! A slope is of one run. What a restart parts is two, and a line through both would call a leak that
//! begins anew a fall. A run begins
//! - with the service's oldest process, where that is known: what was counted before it began is forgotten;
//! - and where a count of ten or more falls to a tenth of it or less from one sample to the next: what held the sockets
//!   has let go of all of them at once, by a restart or by itself. That is all that can be seen while
//!   descriptors are not counted. Smaller counts that come and go are the ordinary life of a service; taking
//!   each zero for a restart would leave it without a growth for ever.

use std::time::Duration;

use super::series::Series;
use super::slope::slope;

/// A count below this never ends a run.
const WORTH_A_RUN: f64 = 10.0;
/// The rest of a count after its holder has released the sockets.
const LET_GO: f64 = 0.1;

/// The counts of one service over the longest window that anybody asks for.
#[derive(Debug, Default)]
pub struct Growth {
    counts: Series,
}

impl Growth {
    /// Adds a count at `now`, and drops what a window of `longest` needs no more. `incarnation`: when the service's
    /// oldest process began, where it is known. Both since boot.
    pub fn see(&mut self, now: Duration, count: f64, incarnation: Option<Duration>, longest: Duration) {
        if let Some(began) = incarnation {
            self.counts.forget_before(began);
        }
        if self.counts.newest().is_some_and(|last| last >= WORTH_A_RUN && count <= last * LET_GO) {
            self.counts = Series::default();
        }
        self.counts.push(now, count, longest);
    }

    /// Per minute over the window, at the last sample. `None` until the run has been watched for the whole of it,
    /// with fewer than five samples in it, and where nothing was seen for more than a third of it.
    pub fn per_minute(&self, window: Duration) -> Option<f64> {
        Some(slope(&self.counts.over(window)?)?.per_second * 60.0)
    }
}

#[cfg(test)]
#[path = "growth_tests.rs"]
mod tests;
