//! One quantity of one service over time, in bounded memory: what slopes are taken from.
//!
//! The newest samples are kept as they came; older ones are thinned. Of three old ones the median time and the median
//! value go on as one, and of three such again (the remedian of Rousseeuw and Bassett, J. Am. Stat. Assoc. 85,
//! 1990): a spike is dropped on the way, a line stays the line, and a gap stays as wide as it was. Samples of age
//! A lie at most A / 20 apart, so that windows of a minute and of a day find enough of them in one series.
//!
//! A series never interpolates over gaps: a window that it does not cover has no samples.

use std::collections::VecDeque;
use std::time::Duration;

/// Samples of a level; of 61 to 64, the three oldest go on as one to the next, which covers three times as long.
const LEVEL: usize = 64; // 16 B each; a day of one-second ticks is 8 levels: 8 KiB

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Nanoseconds since boot; 64 bits hold 584 years.
    at: u64,
    value: f64,
}

/// The samples since the last gap, the newest at the end.
#[derive(Debug, Default)]
pub struct Series {
    /// The first level as it came, each in time order; what is in a later level is older.
    levels: Vec<VecDeque<Sample>>,
    /// When the watching began, in nanoseconds since boot.
    since: Option<u64>,
}

impl Series {
    /// Adds a sample at `now` (since boot), and drops what a window of `longest` needs no more. A sample that is
    /// older than the newest is left out.
    pub fn push(&mut self, now: Duration, value: f64, longest: Duration) {
        let now = nanos(now);
        if self.samples().next_back().is_some_and(|newest| newest.at > now) {
            return;
        }
        self.since.get_or_insert(now);
        let mut sample = Sample { at: now, value };
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(VecDeque::new());
            }
            let kept = &mut self.levels[level];
            let goes_on = (kept.len() == LEVEL).then(|| median(kept));
            kept.push_back(sample);
            match goes_on {
                Some(older) => sample = older,
                None => break,
            }
        }
        // One at or before the window's beginning stays, so that all of the window is covered.
        let begins = now.saturating_sub(nanos(longest));
        while self.samples().nth(1).is_some_and(|second| second.at <= begins) {
            self.drop_oldest();
        }
    }

    /// Forgets what was seen before `start` (since boot): it was of something else.
    pub fn forget_before(&mut self, start: Duration) {
        let start = nanos(start);
        while self.oldest().is_some_and(|oldest| oldest < start) {
            self.drop_oldest();
        }
        if self.since.is_some_and(|since| since < start) {
            self.since = self.oldest();
        }
    }

    pub fn newest(&self) -> Option<f64> {
        self.samples().next_back().map(|sample| sample.value)
    }

    /// The samples of the window that ends with the newest, and the one at or just before its beginning, oldest first.
    /// `None` where the watching began later than the window, or nothing was seen for more than a third of it.
    pub fn over(&self, window: Duration) -> Option<Vec<(Duration, f64)>> {
        let begins = self.samples().next_back()?.at.checked_sub(nanos(window))?;
        if self.since? > begins {
            return None;
        }
        let before = self.samples().take_while(|sample| sample.at <= begins).count().saturating_sub(1);
        let longest_gap = nanos(window / 3);
        let mut last = begins;
        let mut samples = Vec::new();
        for sample in self.samples().skip(before) {
            // The first may lie before the beginning, and is then where the first gap is counted from.
            if sample.at.saturating_sub(last) > longest_gap {
                return None;
            }
            last = sample.at;
            samples.push((Duration::from_nanos(sample.at), sample.value));
        }
        Some(samples)
    }

    /// Oldest first.
    fn samples(&self) -> impl DoubleEndedIterator<Item = &Sample> {
        self.levels.iter().rev().flatten()
    }

    fn oldest(&self) -> Option<u64> {
        self.samples().next().map(|sample| sample.at)
    }

    fn drop_oldest(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.pop_front();
            if level.is_empty() {
                self.levels.pop();
            }
        }
    }
}

/// Takes the three oldest out, and gives their median in time and in value.
fn median(level: &mut VecDeque<Sample>) -> Sample {
    let mut three: Vec<Sample> = level.drain(..3).collect();
    let at = three[1].at;
    three.sort_unstable_by(|a, b| a.value.total_cmp(&b.value));
    Sample { at, value: three[1].value }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DAY: Duration = Duration::from_secs(86_400);

    /// One sample a second for `ticks`, of what `value` says.
    fn every_second(ticks: u64, value: impl Fn(u64) -> f64) -> Series {
        let mut series = Series::default();
        for tick in 0..ticks {
            series.push(SECOND * (1_000 + tick as u32), value(tick), DAY);
        }
        series
    }

    #[test]
    fn a_day_of_seconds_is_kept_in_few_samples_with_what_each_window_needs() {
        assert_eq!(size_of::<Sample>(), 16);
        let series = every_second(3 * 86_400, |tick| tick as f64);
        assert!(series.samples().count() <= 8 * LEVEL, "{}", series.samples().count());
        assert!(series.levels.iter().all(|level| level.capacity() <= LEVEL));
        for minutes in [1, 10, 60, 24 * 60] {
            let window = Duration::from_secs(minutes * 60);
            let samples = series.over(window).unwrap();
            assert!((38..=512).contains(&samples.len()), "{window:?}: {}", samples.len());
            let (first, last) = (samples[0].0, samples[samples.len() - 1].0);
            assert!(last - first >= window && last - first <= window + window / 20, "{window:?}: {:?}", last - first);
            for pair in samples.windows(2) {
                let (apart, age) = (pair[1].0 - pair[0].0, last - pair[0].0);
                assert!(apart <= SECOND.max(age / 20), "{apart:?} apart at the age of {age:?}");
                assert_eq!(pair[1].1 - pair[0].1, apart.as_secs_f64(), "a line stays the line");
            }
        }
    }

    #[test]
    fn a_spike_is_dropped_with_age_and_a_gap_stays_as_wide() {
        let series = every_second(10_000, |tick| if tick % 50 == 0 { 1e9 } else { 7.0 });
        let old: Vec<f64> = series.levels[1..].iter().flatten().map(|sample| sample.value).collect();
        assert!(old.len() > 100 && old.iter().all(|value| *value == 7.0));

        for begins in 5_000..5_030 {
            let mut series = every_second(begins, |_| 7.0);
            for tick in begins + 100..begins + 2_000 {
                series.push(SECOND * (1_000 + tick as u32), 7.0, DAY);
            }
            let samples: Vec<u64> = series.samples().map(|sample| sample.at).collect();
            let widest = samples.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert!(Duration::from_nanos(widest) >= 101 * SECOND, "{begins}: {widest}");
        }
    }

    #[test]
    fn a_sample_from_before_the_newest_is_left_out() {
        let mut series = every_second(10, |_| 1.0);
        series.push(SECOND, 5.0, DAY);
        assert_eq!((series.newest(), series.samples().count()), (Some(1.0), 10));
    }
}
