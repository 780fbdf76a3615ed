//! Policies over a recorded history: when each would have breached. Pure.
//!
//! A down-sampled step tells the least and the most of a signal. A comparison holds over a step where it holds at both; where
//! at one alone it held at some moments, and counts as unknown, which is never a breach. So a replay finds no breach that was
//! none; it may miss one that is shorter than two steps. Samples of one moment each, from dumps or a CSV file, tell nothing of the
//! time between them: what holds at two that follow one another at their usual distance counts as held all the while.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::detector::{Change, Course, Judged};
use crate::model::{Condition, Policy, Reading, Sample, ServiceName, Signal, Truth};

/// One policy over one service's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    pub policy: String,
    pub service: ServiceName,
    /// Samples that there were.
    pub samples: usize,
    /// Where the history ends: what stands then is known up to there.
    pub until: Timestamp,
    pub breaches: Vec<ReplayedBreach>,
    /// Signals of its condition that were measured at none of them.
    pub not_recorded: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayedBreach {
    /// Within the step that ends then.
    pub at: Timestamp,
    /// `None`: it stood at the end of the history.
    pub over: Option<Timestamp>,
}

/// `samples` in the order of their times.
pub fn replay(policy: &Policy, service: &ServiceName, samples: &[Sample]) -> Replayed {
    let mut course = Course::default();
    let mut breaches: Vec<ReplayedBreach> = Vec::new();
    let first = samples.first().map_or(Timestamp::UNIX_EPOCH, |sample| sample.at);
    let between = usual_distance(samples);
    for sample in samples {
        let when = over_a_step(&policy.when, sample);
        let is_over = match &policy.clear {
            Some(clear) => over_a_step(clear, sample) == Truth::True,
            None => when == Truth::False,
        };
        let judged = Judged { when, is_over, hold: policy.hold };
        let step = sample.spread.as_ref().map_or(Duration::ZERO, |spread| spread.step);
        let at_once = sample.at;
        // What holds over a step holds at its begin and at its end.
        let end = Some(sample.until()).filter(|end| *end != at_once);
        for at in [at_once].into_iter().chain(end) {
            let now = Duration::try_from(at.duration_since(first)).unwrap_or_default();
            match course.judge(judged, now, step.max(between)) {
                Some(Change::Breach) => breaches.push(ReplayedBreach { at, over: None }),
                Some(Change::Cleared) => breaches.iter_mut().rev().take(1).for_each(|last| last.over = Some(sample.at)),
                Some(Change::StillBreached) | None => {}
            }
        }
    }
    let is_recorded = |signal: &Signal| samples.iter().any(|sample| sample.readings.get(*signal) != Reading::Unknown);
    let asked: BTreeSet<Signal> = policy.when.comparisons().iter().map(|comparison| comparison.signal).collect();
    let not_recorded = asked.iter().filter(|signal| !is_recorded(signal)).map(ToString::to_string).collect();
    let until = samples.last().map_or(Timestamp::UNIX_EPOCH, Sample::until);
    Replayed {
        policy: policy.name.clone(),
        service: service.clone(),
        samples: samples.len(),
        until,
        breaches,
        not_recorded,
    }
}

/// Of samples of one moment each: the distance that half of them have, at most, of the first thousand; a second at least.
fn usual_distance(samples: &[Sample]) -> Duration {
    let pairs = samples.windows(2).take(1_000).filter(|pair| pair.iter().all(|sample| sample.spread.is_none()));
    let of = |pair: &[Sample]| Duration::try_from(pair[1].at.duration_since(pair[0].at)).unwrap_or_default();
    let mut distances: Vec<Duration> = pairs.map(of).collect();
    let middle = distances.len() / 2;
    let usual = if distances.is_empty() { Duration::ZERO } else { *distances.select_nth_unstable(middle).1 };
    usual.max(Duration::from_secs(1))
}

/// Two policies over the same history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// Breaches of the one while which the other stood as well.
    pub both: usize,
    pub only_one: usize,
    pub only_other: usize,
    /// Of those of both: does the one begin first, and by how much, at the median?
    pub lead: Option<(bool, Duration)>,
}

pub fn beside(one: &Replayed, other: &Replayed) -> Beside {
    let until = one.until.max(other.until);
    let ends = |breach: &ReplayedBreach| breach.over.unwrap_or(until);
    let meet = |a: &ReplayedBreach, b: &ReplayedBreach| a.at <= ends(b) && b.at <= ends(a);
    let met = |breach: &ReplayedBreach, all: &Replayed| all.breaches.iter().find(|other| meet(breach, other)).copied();
    let mut leads: Vec<SignedDuration> =
        one.breaches.iter().filter_map(|breach| Some(met(breach, other)?.at.duration_since(breach.at))).collect();
    leads.sort();
    let both = leads.len();
    let lead = leads.get(both / 2).map(|lead| (lead.is_positive(), lead.unsigned_abs()));
    let only_other = other.breaches.iter().filter(|breach| met(breach, one).is_none()).count();
    Beside { both, only_one: one.breaches.len() - both, only_other, lead }
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
    fn moments_that_follow_one_another_count_as_one_time_and_a_gap_is_a_break() {
        let moment = |minute: i64, value| Sample { spread: None, ..sample(minute, 0, value, value) };
        let every_five: Vec<Sample> =
            (0..9).map(|n| moment(5 * n, if (2..6).contains(&n) { 288.0 } else { 0.0 })).collect();
        assert_eq!(replayed(&every_five), [(15, Some(30))]);
        let mut with_a_gap = every_five;
        with_a_gap.drain(3..5);
        assert_eq!(replayed(&with_a_gap), [], "from minute 10 to 25 nobody looked");
    }

    #[test]
    fn two_policies_beside_each_other_are_told_by_what_both_find_and_which_is_first() {
        let breaches = |times: &[(i64, Option<i64>)]| Replayed {
            policy: "p".into(),
            service: ServiceName::parse("rpc-order.service").unwrap(),
            samples: 0,
            until: at(100),
            breaches: times.iter().map(|(from, over)| ReplayedBreach { at: at(*from), over: over.map(at) }).collect(),
            not_recorded: Vec::new(),
        };
        let one = breaches(&[(10, Some(20)), (40, Some(50)), (90, None)]);
        let other = breaches(&[(13, Some(25)), (60, Some(61)), (95, None)]);
        let lead = Some((true, Duration::from_secs(300)));
        assert_eq!(beside(&one, &other), Beside { both: 2, only_one: 1, only_other: 1, lead });
        let lead = Some((false, Duration::from_secs(180)));
        assert_eq!(beside(&other, &one), Beside { both: 2, only_one: 1, only_other: 1, lead });
        assert_eq!(beside(&one, &breaches(&[])), Beside { both: 0, only_one: 3, only_other: 0, lead: None });
    }

    #[test]
    fn what_was_not_recorded_is_named() {
        let service = ServiceName::parse("rpc-order.service").unwrap();
        let blank = Sample::moment(at(0), Readings::default());
        let found = replay(&policy_above(200.0), &service, &[blank]);
        assert_eq!((found.not_recorded, found.breaches.len()), (vec!["close_wait".to_owned()], 0));
    }
}
