//! The slope of a series that a few wrong samples do not bend: the estimator of Theil and Sen, the median of the
//! slopes of all pairs (P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", J. Am. Stat.
//! Assoc. 63, 1968). Up to 29% of the points may be anything at all before it follows them.
//!
//! Pure: samples in, a slope out. Called by growth and by the forecast, which know what their samples mean.

use std::time::Duration;

/// The fewest points of which one may be wrong: of the ten pairs of five, six are without it.
pub const FEWEST: usize = 5;

/// More points than these are thinned first.
const MOST: usize = 32; // 496 pairs: 4 KiB, some 15 µs

/// How fast a quantity changes, in its own unit a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope {
    /// The median slope of all pairs.
    pub per_second: f64,
    /// The first and the third quartile of these slopes.
    ///
    /// At 10 points they are the bounds that Sen gives for 95% confidence by ranks, where each point errs by itself;
    /// with more they are wider (4 sigma at 32). That is on purpose: a count wanders, so that neighbours err
    /// alike, and his interval would be too narrow for it.
    pub low: f64,
    pub high: f64,
    /// The points that it was taken from, after thinning.
    pub points: usize,
}

/// The slope of finite samples, each with its time, in any order; `None` with fewer than [`FEWEST`] points at
/// different times.
///
/// Of more than 32 samples, those of each 32nd part of the time are first taken together: the median of their times
/// with the median of their values, as in Tukey's resistant line. A spike goes in its part, and a line stays the
/// line. Whoever wants to bend the slope now needs half of the samples in 29% of the parts.
pub fn slope(samples: &[(Duration, f64)]) -> Option<Slope> {
    let mut points: Vec<(f64, f64)> = samples.iter().map(|(at, value)| (at.as_secs_f64(), *value)).collect();
    points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    if points.len() > MOST {
        points = thinned(&points)?;
    }
    let times = points.chunk_by(|a, b| a.0 == b.0).count();
    if times < FEWEST {
        return None;
    }
    let mut slopes = Vec::with_capacity(points.len() * (points.len() - 1) / 2);
    for (index, early) in points.iter().enumerate() {
        let later = points[index + 1..].iter().filter(|late| late.0 > early.0);
        slopes.extend(later.map(|late| (late.1 - early.1) / (late.0 - early.0)));
    }
    slopes.sort_unstable_by(f64::total_cmp);
    let quarter = (slopes.len() - 1) / 4;
    Some(Slope {
        per_second: middle(&slopes),
        low: slopes[quarter],
        high: slopes[slopes.len() - 1 - quarter],
        points: points.len(),
    })
}

/// One point for each of [`MOST`] equal spans of time that holds any; `None` where all are at one time.
fn thinned(points: &[(f64, f64)]) -> Option<Vec<(f64, f64)>> {
    let (from, to) = (points.first()?.0, points.last()?.0);
    let span = (to - from) / MOST as f64;
    if span <= 0.0 {
        return None;
    }
    // The last moment belongs to the last span.
    let part = |point: &(f64, f64)| (((point.0 - from) / span) as usize).min(MOST - 1);
    let (mut times, mut values) = (Vec::new(), Vec::new());
    let medians = points.chunk_by(|a, b| part(a) == part(b)).map(|together| {
        times.clear();
        values.clear();
        times.extend(together.iter().map(|point| point.0));
        values.extend(together.iter().map(|point| point.1));
        values.sort_unstable_by(f64::total_cmp);
        (middle(&times), middle(&values))
    });
    Some(medians.collect())
}

/// The median of what is sorted and not empty.
fn middle(sorted: &[f64]) -> f64 {
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    low + (high - low) / 2.0
}

#[cfg(test)]
#[path = "slope_tests.rs"]
mod tests;
