//! `unwait history SERVICE --signals`: what was measured, as a line of bars for each signal; as JSON a line a step. It
//! reads the store, once the running agent has written what it still had in memory.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;

use super::{ConfigArguments, Failure, Outcome, open, order, render};
use crate::clock::{Clock, SystemClock};
use crate::model::{Reading, Readings, Sample, ServiceName, Signal, duration};
use crate::view::request::Request;

/// For what the agent still has in memory.
const WRITTEN_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Bars in a line: with the figures beside them it fits a terminal of 120 columns.
const BARS: usize = 48;

pub async fn signals(service: &ServiceName, since: &str, only: &[String], place: &ConfigArguments) -> Outcome {
    let since = duration::parse(since).map_err(|error| Failure::Usage(format!("--since: {error}")))?;
    let only: BTreeSet<Signal> = only
        .iter()
        .map(|name| Signal::parse(name))
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::Usage(format!("--signal: {error}")))?;
    let until = SystemClock.now();
    let from = until
        .checked_sub(since)
        .map_err(|_| Failure::Usage("--since: that is before all time; the history is a month long".into()))?;
    let unreachable = |error: crate::store::StoreError| Failure::Unreachable(error.to_string());
    let state = open::state(place)?;
    written(&state).await;
    let store = open::store_to_read(&state).await?;
    let known = store.services_with_samples().map_err(unreachable)?;
    if !known.iter().any(|name| name == service.as_str()) {
        let those = if known.is_empty() { "none yet".into() } else { known.join(", ") };
        return Err(Failure::Wrong(format!(
            "{service} has held no socket in CLOSE_WAIT within the history; those that have: {those}."
        )));
    }
    let mut samples = store.samples(service, from, until).map_err(unreachable)?;
    if !only.is_empty() {
        samples.iter_mut().for_each(|sample| keep_only(sample, &only));
    }
    if place.json {
        for sample in &samples {
            println!("{}", serde_json::to_string(sample).expect("a sample is plain data"));
        }
        return Ok(());
    }
    let Some(first) = samples.first() else {
        let since = duration::format(since);
        println!("Nothing of {service} was measured in the last {since}.");
        return Ok(());
    };
    let from = from.max(first.at);
    println!("{service}, {} to {}", render::time(from), render::time(until));
    println!("The peak of each moment; a blank: the agent did not look; ?: it could not measure.\n");
    render::table(&["SIGNAL", "", ">LEAST", ">MOST", ">LAST"], &rows(&samples, from, until));
    for signal in only.difference(&measured(&samples)) {
        println!("{signal}: not measured then; it is where a policy asks for it.");
    }
    Ok(())
}

/// The running agent has written what it measured last; one that hangs, or is of another version, is behind by five
/// minutes at the most.
pub async fn written(state: &Path) {
    let _ = tokio::time::timeout(WRITTEN_WITHIN, order::call(state, Request::WriteSamples, None)).await;
}

fn keep_only(sample: &mut Sample, only: &BTreeSet<Signal>) {
    let keep = |readings: &mut Readings| {
        let mut kept = Readings::default();
        readings.iter().filter(|(signal, _)| only.contains(signal)).for_each(|(signal, value)| kept.set(signal, value));
        *readings = kept;
    };
    keep(&mut sample.readings);
    if let Some(spread) = &mut sample.spread {
        keep(&mut spread.least);
        keep(&mut spread.most);
    }
}

/// A row for each signal that was known at least once.
fn rows(samples: &[Sample], from: Timestamp, until: Timestamp) -> Vec<Vec<String>> {
    let row = |signal: Signal| {
        let known = |of: fn(&Sample) -> &Readings| samples.iter().filter_map(move |sample| value(of(sample), signal));
        let least = known(least).reduce(f64::min);
        let most = known(most).reduce(f64::max);
        let last = samples.last().and_then(|sample| value(&sample.readings, signal));
        let show = |value: Option<f64>| value.map_or(Reading::Unknown, Reading::Known).show(signal);
        vec![signal.to_string(), bars(samples, signal, from, until), show(least), show(most), show(last)]
    };
    measured(samples).into_iter().map(row).collect()
}

fn measured(samples: &[Sample]) -> BTreeSet<Signal> {
    samples.iter().flat_map(|sample| sample.readings.iter().map(|(signal, _)| signal)).collect()
}

fn least(sample: &Sample) -> &Readings {
    sample.spread.as_ref().map_or(&sample.readings, |spread| &spread.least)
}

fn most(sample: &Sample) -> &Readings {
    sample.spread.as_ref().map_or(&sample.readings, |spread| &spread.most)
}

fn value(readings: &Readings, signal: Signal) -> Option<f64> {
    match readings.get(signal) {
        Reading::Known(value) => Some(value),
        Reading::Unknown => None,
    }
}

/// Peaks, from zero (or the lowest, below it) to the highest of them.
fn bars(samples: &[Sample], signal: Signal, from: Timestamp, until: Timestamp) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (from, until) = (from.as_millisecond(), until.as_millisecond());
    let width = (until - from).max(1);
    let bar_of = |at: i64| ((at - from) * BARS as i64 / width).clamp(0, BARS as i64 - 1) as usize;
    // `None`: nobody looked. `Some(None)`: not known.
    let mut peaks: [Option<Option<f64>>; BARS] = [None; BARS];
    for sample in samples {
        let peak = value(most(sample), signal);
        let (first, last) = (bar_of(sample.at.as_millisecond()), bar_of(sample.until().as_millisecond() - 1));
        for bar in &mut peaks[first..=last] {
            *bar = Some([bar.flatten(), peak].into_iter().flatten().reduce(f64::max));
        }
    }
    let known = || peaks.iter().flatten().flatten().copied();
    let (low, high) = (known().fold(0.0, f64::min), known().fold(0.0, f64::max));
    let height = |peak: f64| {
        let share = if high > low { (peak - low) / (high - low) } else { 0.0 };
        HEIGHTS[(share * (HEIGHTS.len() - 1) as f64).round() as usize]
    };
    peaks
        .iter()
        .map(|peak| match peak {
            None => ' ',
            Some(None) => '?',
            Some(Some(peak)) => height(*peak),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Spread;

    fn sample(minute: i64, last: Option<f64>, most: Option<f64>) -> Sample {
        let of = |value: Option<f64>| {
            let mut readings = Readings::default();
            value.into_iter().for_each(|value| readings.set(Signal::CloseWait, value));
            readings
        };
        let spread = Spread { step: Duration::from_secs(60), least: of(last), most: of(most) };
        Sample { at: Timestamp::from_second(minute * 60).unwrap(), readings: of(last), spread: Some(spread) }
    }

    #[test]
    fn a_line_shows_peaks_gaps_and_what_was_not_known() {
        let samples = [
            sample(0, Some(0.0), Some(0.0)),
            sample(1, Some(7.0), Some(14.0)),
            sample(2, None, None),
            sample(4, Some(10.0), Some(10.0)),
        ];
        let (from, until) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(6 * 60).unwrap());
        let rows = rows(&samples, from, until);
        let each = |bar: &str| bar.repeat(BARS / 6);
        let line = ["▁", "█", "?", " ", "▆", " "].map(each).concat();
        assert_eq!(rows, [["close_wait", &line, "0", "14", "10"].map(String::from)]);
        assert!(super::rows(&[sample(0, None, None)], from, until).is_empty());
    }

    #[test]
    fn a_line_of_one_moment_or_of_one_height_is_a_line_all_the_same() {
        let at = Timestamp::UNIX_EPOCH;
        let of = |value| bars(&[sample(0, Some(value), Some(value))], Signal::CloseWait, at, at);
        assert_eq!((of(0.0).trim_end(), of(5.0).trim_end()), (&*"▁".repeat(BARS), &*"█".repeat(BARS)));
    }
}
