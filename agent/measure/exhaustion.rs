//! When a service runs out of descriptors, at the growth of the last ten minutes; unknown rather than wrong.
//!
//! The ratio is that of the process nearest to its own soft limit; its slope is the robust one, with its quartiles.
//! The forecast is known
//! - where the process is at its limit: zero;
//! - where the slope's size is known: the lower quartile is above a third of the upper, so that the forecast is good to
//!   a factor of 3;
//! - where even at the upper quartile more than a day is left, as for all that is flat or falling beyond doubt. Days are
//!   no threshold that anybody acts on, and how many they are does not matter.
//!
//! Everywhere else it is unknown: before the oldest process has been watched for ten minutes, with fewer
//! than 10 points, with a gap of more than a third of the window, after a step, in a sawtooth, and where the
//! descriptors cannot be counted now.

use std::time::Duration;

use super::series::Series;
use super::slope::slope;
use crate::model::census::Descriptors;

/// A forecast never says more: no exhaustion is in sight.
pub const HORIZON: Duration = Duration::from_secs(7 * 24 * 3600);

/// The window from which the present growth is computed.
const WINDOW: Duration = Duration::from_secs(600);
/// Below these the quartiles of a slope are narrower than what is known of it.
const FEWEST: usize = 10;
/// The upper quartile over the lower one, at most.
const KNOWN_WITHIN: f64 = 3.0;
/// Where at least this is left, the size of the slope does not matter.
const FAR: Duration = Duration::from_secs(24 * 3600);

/// The ratios of one service over the last ten minutes.
#[derive(Debug, Default)]
pub struct Exhaustion {
    ratios: Series,
    /// At the last look; `None` where it could not be counted.
    now: Option<f64>,
}

impl Exhaustion {
    /// Adds what was counted at `now` (since boot), or that it could not be counted. What was seen before the
    /// service's oldest process began is forgotten.
    pub fn see(&mut self, now: Duration, descriptors: Option<&Descriptors>) {
        self.now = descriptors.map(|counted| counted.worst_ratio);
        if let Some(counted) = descriptors {
            self.ratios.forget_before(counted.oldest);
            self.ratios.push(now, counted.worst_ratio, WINDOW);
        }
    }

    /// From the last look until a process has no descriptor left; at most [`HORIZON`].
    pub fn exhausted_in(&self) -> Option<Duration> {
        let left = 1.0 - self.now?;
        if left <= 0.0 {
            return Some(Duration::ZERO);
        }
        let growth = slope(&self.ratios.over(WINDOW)?).filter(|growth| growth.points >= FEWEST)?;
        let lasts = |per_second: f64| match per_second > 0.0 {
            true => Duration::try_from_secs_f64(left / per_second).unwrap_or(HORIZON).min(HORIZON),
            false => HORIZON,
        };
        let size_is_known = growth.low > growth.high / KNOWN_WITHIN;
        (size_is_known || lasts(growth.high) > FAR).then(|| lasts(growth.per_second))
    }
}

#[cfg(test)]
#[path = "exhaustion_tests.rs"]
mod tests;
