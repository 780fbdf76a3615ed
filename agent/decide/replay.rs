//! Policies over a recorded history: when each would have breached. Pure.
//!
//! A down-sampled step tells the least and the most of a signal. A comparison holds over a step where it holds at both; where
//! at one alone it held at some moments, and counts as unknown, which is never a breach. So a replay finds no breach that was
//! none; it may miss one that is shorter than two steps.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::detector::{Change, Detector, Judged};
use crate::model::{Condition, Policy, Reading, Sample, ServiceName, Signal, Truth};

/// One policy over one service's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    pub policy: String,
    pub service: ServiceName,
    /// Samples that there were.
    pub samples: usize,
    pub breaches: Vec<ReplayedBreach>,
    /// Signals of its condition that were measured at none of them.
    pub not_recorded: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayedBreach {
    /// Within the step that ends then.
    pub at: Timestamp,
    /// `None`: it stood at the end of the history.
    pub over: Option<Timestamp>,
}

/// `samples` in the order of their times.
pub fn replay(policy: &Policy, service: &ServiceName, samples: &[Sample]) -> Replayed {
    let mut detector = Detector::default();
    let mut breaches: Vec<ReplayedBreach> = Vec::new();
    let first = samples.first().map_or(Timestamp::UNIX_EPOCH, |sample| sample.at);
    for sample in samples {
        let when = over_a_step(&policy.when, sample);
        let is_over = match &policy.clear {
            Some(clear) => over_a_step(clear, sample) == Truth::True,
            None => when == Truth::False,
        };
        let judged = Judged { when, is_over, hold: policy.hold };
        let step = sample.spread.as_ref().map_or(Duration::ZERO, |spread| spread.step);
        // What holds over a step holds at its begin and at its end.
        let ends: BTreeSet<Timestamp> = [sample.at, sample.until()].into();
        for at in ends {
            let now = Duration::try_from(at.duration_since(first)).unwrap_or_default();
            match detector.judge((&policy.name, service), judged, now, step.max(Duration::from_secs(1))) {
                Some(Change::Breach) => breaches.push(ReplayedBreach { at, over: None }),
                Some(Change::Cleared) => breaches.iter_mut().rev().take(1).for_each(|last| last.over = Some(sample.at)),
                Some(Change::StillBreached) | None => {}
            }
        }
    }
    let is_recorded = |signal: &Signal| samples.iter().any(|sample| sample.readings.get(*signal) != Reading::Unknown);
    let asked: BTreeSet<Signal> = policy.when.comparisons().iter().map(|comparison| comparison.signal).collect();
    let not_recorded = asked.iter().filter(|signal| !is_recorded(signal)).map(ToString::to_string).collect();
    Replayed { policy: policy.name.clone(), service: service.clone(), samples: samples.len(), breaches, not_recorded }
}

/// Does it hold at every moment of the step?
fn over_a_step(condition: &Condition, sample: &Sample) -> Truth {
    let Some(spread) = &sample.spread else { return condition.truth(&sample.readings) };
    condition.truth_by(&|comparison| match (comparison.truth(&spread.least), comparison.truth(&spread.most)) {
        (one, other) if one == other => one,
        _ => Truth::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::policy_above;
    use crate::model::{Readings, Spread};

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    /// `step`: in minutes.
    fn sample(minute: i64, step: u64, least: f64, most: f64) -> Sample {
        let of = |value| {
            let mut readings = Readings::default();
            readings.set(Signal::CloseWait, value);
            readings
        };
        let spread = Spread { step: Duration::from_secs(60 * step), least: of(least), most: of(most) };
        Sample { at: at(minute), readings: of(most), spread: Some(spread) }
    }

    fn replayed(samples: &[Sample]) -> Vec<(i64, Option<i64>)> {
        let service = ServiceName::parse("rpc-order.service").unwrap();
        let minutes = |time: Timestamp| (time.as_second() - 1_800_000_000) / 60;
        // More than 200 for two minutes.
        let found = replay(&policy_above(200.0), &service, samples);
        found.breaches.into_iter().map(|breach| (minutes(breach.at), breach.over.map(minutes))).collect()
    }

    #[test]
    fn what_held_over_whole_steps_is_a_breach_and_what_held_at_moments_is_none() {
        let minute = |minute, least, most| sample(minute, 1, least, most);
        // Above throughout, for two minutes; then over.
        let leak = [minute(0, 0.0, 0.0), minute(1, 210.0, 288.0), minute(2, 288.0, 288.0), minute(3, 10.0, 50.0)];
        assert_eq!(replayed(&leak), [(3, Some(3))]);
        // Peaks alone.
        let peaks = [minute(0, 0.0, 288.0), minute(1, 10.0, 288.0), minute(2, 10.0, 288.0), minute(3, 10.0, 288.0)];
        assert_eq!(replayed(&peaks), []);
        // Nobody looked for a while, so it did not hold without a break.
        let gap = [minute(0, 288.0, 288.0), minute(30, 288.0, 288.0), minute(31, 0.0, 0.0)];
        assert_eq!(replayed(&gap), []);
        // It stands at the end.
        assert_eq!(replayed(&leak[..3]), [(3, None)]);
    }

    #[test]
    fn a_step_that_is_longer_than_the_policys_for_is_a_breach_by_itself() {
        assert_eq!(replayed(&[sample(0, 10, 210.0, 288.0), sample(10, 10, 0.0, 0.0)]), [(10, Some(10))]);
        assert_eq!(replayed(&[sample(0, 10, 190.0, 288.0), sample(10, 10, 0.0, 0.0)]), []);
    }

    #[test]
    fn what_was_not_recorded_is_named() {
        let service = ServiceName::parse("rpc-order.service").unwrap();
        let blank = Sample::moment(at(0), Readings::default());
        let found = replay(&policy_above(200.0), &service, &[blank]);
        assert_eq!((found.not_recorded, found.breaches.len()), (vec!["close_wait".to_owned()], 0));
    }
}
