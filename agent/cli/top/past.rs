//! A moment of the recorded past, as the table shows it.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::cli::{Failure, open, signals};
use crate::model::{Reading, Sample, ServiceName, Signal};
use crate::sense::sensor::on_blocking_thread;
use crate::view::services::{ServiceRow, ServicesNow};

/// The bars show so much of the time before.
const BEFORE: Duration = Duration::from_secs(3_600);
/// The finest step that is recorded.
const STEP: Duration = Duration::from_secs(60);

/// What was recorded of this moment. What the running agent still has in memory is written first, where it may be of it.
pub async fn at(state: &Path, at: Timestamp) -> Result<ServicesNow, String> {
    let said = |failure: Failure| format!("the past cannot be read: {}", failure.text());
    signals::written(state).await;
    let store = open::store_to_read(state).await.map_err(said)?;
    on_blocking_thread(move || {
        let unread = |error: crate::store::StoreError| format!("the past cannot be read: {error}");
        let (from, until) = (before(at, BEFORE), at.checked_add(STEP).unwrap_or(at));
        let mut all = Vec::new();
        for name in store.services_with_samples().map_err(unread)? {
            let Ok(name) = ServiceName::parse(&name) else { continue };
            let samples = store.samples(&name, from, until).map_err(unread)?;
            all.push((name, samples));
        }
        moment(at, all)
    })
    .await
}

fn before(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}

/// The services that held something at this moment, or in the time before that the bars show.
fn moment(at: Timestamp, all: Vec<(ServiceName, Vec<Sample>)>) -> Result<ServicesNow, String> {
    let (mut services, mut host, mut looked) = (Vec::new(), None, false);
    for (name, samples) in all {
        let ticks: Vec<_> = samples.iter().map(|sample| (sample.at, sample.readings.clone())).collect();
        let held = |(_, readings): &(Timestamp, crate::model::Readings)| matches!(readings.get(Signal::CloseWait), Reading::Known(count) if count > 0.0);
        let Some(then) = samples.iter().find(|sample| sample.at <= at && at < sample.until()) else { continue };
        looked = true;
        if let Reading::Known(count) = then.readings.get(Signal::HostCloseWait) {
            host = Some(count as u64);
        }
        let ticks = if ticks.iter().any(held) { ticks } else { Vec::new() };
        services.extend(ServiceRow::of(&name, &then.readings, &ticks));
    }
    match looked {
        true => Ok(ServicesNow { at: Some(at), host_close_wait: host, ..ServicesNow::default() }.list(services)),
        false => Err("nothing is recorded of that moment: the agent did not look, or no service held anything".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Readings, Spread};

    #[test]
    fn a_moment_shows_who_held_something_in_the_hour_before_and_a_gap_is_said() {
        let at = |minute: i64| Timestamp::from_second(minute * 60).unwrap();
        let sample = |minute: i64, count: f64| {
            let mut readings = Readings::default();
            readings.set(Signal::CloseWait, count);
            readings.set(Signal::HostCloseWait, 12.0);
            let spread = Spread { step: STEP, least: readings.clone(), most: readings.clone() };
            Sample { at: at(minute), readings, spread: Some(spread) }
        };
        let all = || {
            let name = |name: &str| ServiceName::parse(name).unwrap();
            vec![
                (name("was.service"), vec![sample(1, 5.0), sample(2, 0.0)]),
                (name("is.service"), vec![sample(1, 2.0), sample(2, 7.0)]),
                (name("never.service"), vec![sample(1, 0.0), sample(2, 0.0)]),
                (name("gone.service"), vec![sample(1, 3.0)]),
            ]
        };
        let seen = moment(at(2), all()).unwrap();
        let shown: Vec<String> =
            seen.services.iter().map(|one| format!("{} {:?} {:?}", one.service, one.counts, one.over)).collect();
        assert_eq!(shown, ["is.service [2, 7] 60s", "was.service [5, 0] 60s"]);
        assert_eq!(seen.host_close_wait, Some(12));
        assert!(moment(at(3), all()).unwrap_err().contains("nothing is recorded"));
    }
}
