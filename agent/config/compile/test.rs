//! Policies' tests: `[0, 150, 210 x 12, unknown x 3]` to readings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Compiling, hours, items};
use crate::config::comparison;
use crate::config::place::Place;
use crate::config::spec::Items;
use crate::config::spec::policy::{ExpectSpec, SamplesSpec, TestSpec};
use crate::config::spec::scalar::{Typed, When};
use crate::model::{Expect, Expected, PolicyTest};
use crate::model::{Policy, Reading, Signal, duration};

/// The longest that a policy's test may last.
const LONGEST_TEST: Duration = hours(24 * 7);
/// A week of samples 15 seconds apart are 40,320.
const MOST_SAMPLES: usize = 100_000;

pub fn compile(spec: Items<TestSpec>, place: &Place, to: &mut Compiling, policy: &Policy) -> Vec<PolicyTest> {
    let signals = policy.signals();
    let mut names = BTreeSet::new();
    items(place, spec)
        .filter_map(|(place, spec)| {
            let test = compile_test(spec, &place, to, &signals)?;
            if !names.insert(test.name.clone()) {
                to.wrong(&place.key("name"), "another test of this policy has this name");
            }
            Some(test)
        })
        .collect()
}

fn compile_test(spec: TestSpec, place: &Place, to: &mut Compiling, signals: &[Signal]) -> Option<PolicyTest> {
    let name = to.required(place, "name", spec.name, "what it shows");
    let samples = to.required(place, "samples", spec.samples, "{ step: 15s, close_wait: [0, 10 x 4] }");
    let expect = to.required(place, "expect", spec.expect, "{ breach_at: 2m30s }");
    let (Typed(name), SamplesSpec { step, series }, expect) = (name?, samples?, expect?);
    let at = place.key("samples");
    let step = to.required(&at, "step", step, "15s");
    let step = to.duration(&at.key("step"), Some(step?), hours(1), Duration::from_millis(100)..=hours(1));
    if series.is_empty() && !to.said(&at) {
        to.wrong(&at, "no signal is given: add one with its samples, such as `close_wait: [0, 10 x 4]`");
    }
    let mut read: BTreeMap<Signal, Vec<Reading>> = BTreeMap::new();
    for (key, signal, spec) in series {
        let place = at.key(&key);
        if !signals.contains(&signal) {
            let known: Vec<String> = signals.iter().map(Signal::to_string).collect();
            to.wrong_key(&place, format!("the policy does not look at `{signal}`, only at {}", known.join(", ")));
        }
        let series = readings(signal, spec, &place, to);
        if read.insert(signal, series).is_some() {
            to.wrong_key(&place, format!("`{signal}` is given twice"));
        }
    }
    let ticks = read.values().map(Vec::len).max().unwrap_or(0);
    for series in read.values_mut() {
        series.resize(ticks, Reading::Unknown);
    }
    let last = step.saturating_mul(u32::try_from(ticks.saturating_sub(1)).unwrap_or(u32::MAX));
    if last > LONGEST_TEST {
        to.wrong(&at, format!("a test lasts {} at most", duration::format(LONGEST_TEST)));
    }
    let expect = expectation(expect, &place.key("expect"), to, step, last)?;
    Some(PolicyTest { name, step, series: read, expect })
}

fn readings(signal: Signal, spec: Items<Typed<String>>, place: &Place, to: &mut Compiling) -> Vec<Reading> {
    let mut series = Vec::new();
    for (place, Typed(text)) in items(place, spec) {
        let (value, count) = match text.rsplit_once(" x ") {
            Some((value, count)) => (value.trim(), count.trim().parse::<usize>().ok()),
            None => (text.trim(), Some(1)),
        };
        let room = MOST_SAMPLES - series.len();
        match (comparison::parse_reading(signal, value), count) {
            (_, None | Some(0)) => to.wrong(&place, "expected VALUE x COUNT, such as 210 x 12"),
            (_, Some(count)) if count > room => {
                to.wrong(&place, format!("more than {MOST_SAMPLES} samples"));
                return series;
            }
            (Err(why), _) => to.wrong(&place, why),
            (Ok(reading), Some(count)) => series.extend(std::iter::repeat_n(reading, count)),
        }
    }
    series
}

fn expectation(spec: ExpectSpec, place: &Place, to: &mut Compiling, step: Duration, last: Duration) -> Option<Expect> {
    let Typed(breach_at) = to.required(place, "breach_at", spec.breach_at, "2m30s (or never)")?;
    let clear_at = spec.clear_at.map(|Typed(when)| when);
    for (key, when) in [("breach_at", Some(breach_at)), ("clear_at", clear_at)] {
        let Some(When::At(time)) = when else { continue };
        if time > last {
            to.wrong(&place.key(key), format!("the samples end at {}", duration::format(last)));
        } else if time.as_millis() % step.as_millis().max(1) != 0 {
            to.wrong(&place.key(key), format!("there is no sample then: they come every {}", duration::format(step)));
        }
    }
    match (breach_at, clear_at) {
        (When::Never, Some(_)) => to.wrong_key(&place.key("clear_at"), "what never breaches never clears"),
        (When::At(breach), Some(When::At(clear))) if clear <= breach => {
            to.wrong(&place.key("clear_at"), "the breach must begin before it can clear");
        }
        _ => {}
    }
    Some(Expect {
        breach_at: match breach_at {
            When::Never => None,
            When::At(time) => Some(time),
        },
        clear_at: match clear_at {
            None => Expected::Unsaid,
            Some(When::Never) => Expected::Never,
            Some(When::At(time)) => Expected::At(time),
        },
    })
}
