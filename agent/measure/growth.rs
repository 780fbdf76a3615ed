//! Growth over a window: the change from its beginning to now, per minute.

use std::collections::VecDeque;
use std::time::Duration;

/// The counts of one service over the longest window that anybody asks for.
#[derive(Debug, Default)]
pub struct Growth {
    samples: VecDeque<(Duration, f64)>,
}

impl Growth {
    /// Adds a sample at `now` (since boot), and drops what is older than the window needs.
    pub fn see(&mut self, now: Duration, count: f64, longest: Duration) {
        self.samples.push_back((now, count));
        // One sample at or before the window's beginning is kept, so that the whole window is covered.
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= longest) {
            self.samples.pop_front();
        }
    }

    /// Per minute, from the sample that lies at or just before the window's beginning; `None` until the whole window
    /// has been watched.
    pub fn per_minute(&self, window: Duration) -> Option<f64> {
        let (now, last) = *self.samples.back()?;
        let (from, first) = *self.samples.iter().rev().find(|(at, _)| now.saturating_sub(*at) >= window)?;
        let minutes = now.saturating_sub(from).as_secs_f64() / 60.0;
        (minutes > 0.0).then(|| (last - first) / minutes)
    }
}
