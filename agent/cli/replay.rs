//! `unwait replay`: when policies would have breached, over what the agent has recorded, or over dumps and CSV files.

mod sources;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use self::sources::History;
use super::{ConfigArguments, Failure, Outcome, open, render};
use crate::clock::{Clock, SystemClock};
use crate::decide::replay::{Beside, Replayed, beside, replay as replayed};
use crate::model::{Policy, ServiceName, duration};
use crate::view::reckoning::about;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Only this service, with each of its breaches. With `--ss`, and a CSV file without a `service` column: whose sockets these
    /// are; without it each policy is tried as if it selected them.
    service: Option<String>,
    /// Only this policy; two of them are compared with each other. A policy that is only to be tried stands in a copy of the
    /// configuration: `--config DIR`, with the `state` of the agent that recorded.
    #[arg(long, value_name = "NAME")]
    policy: Vec<String>,
    /// How far back: a minute a step is recorded for a day, ten minutes for a month.
    #[arg(long, value_name = "DURATION", default_value = "31d", conflicts_with_all = ["ss", "csv"])]
    since: String,
    /// What `ss -tan` printed, in place of the recorded history; may be repeated. A file may hold several tables, a line with
    /// the time before each (`date -Iseconds; ss -tan`); one table alone is as old as its file.
    #[arg(long, value_name = "FILE", conflicts_with = "csv")]
    ss: Vec<PathBuf>,
    /// A CSV file in place of it: the columns `time`, `service` where it is of several, and one for each signal, by its name.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn replay(arguments: Arguments) -> Outcome {
    let Arguments { service, policy: only, since, ss, csv, place } = arguments;
    let service = service.as_deref().map(ServiceName::parse).transpose().map_err(Failure::Usage)?;
    let since = duration::parse(&since).map_err(|error| Failure::Usage(format!("--since: {error}")))?;
    let config = open::config(&place)?;
    if let Some(unknown) = only.iter().find(|name| !config.policies.iter().any(|policy| policy.name == **name)) {
        return Err(Failure::Wrong(format!("no policy `{unknown}` in {}", place.config.display())));
    }
    let is_wanted = |policy: &Policy| only.is_empty() || only.contains(&policy.name);
    let now = SystemClock.now();
    let histories = match (&csv, ss.as_slice()) {
        (Some(file), _) => sources::csv(&config, service.as_ref(), is_wanted, file)?,
        (None, []) => {
            let from = now.checked_sub(since).unwrap_or(Timestamp::MIN);
            sources::recorded(&config, service.as_ref(), is_wanted, (from, now)).await?
        }
        (None, files) => sources::dumps(&config, service.as_ref(), is_wanted, files)?,
    };
    let of = |history: &History<'_>| -> Vec<Replayed> {
        history.policies.iter().map(|policy| replayed(policy, &history.service, &history.samples)).collect()
    };
    let all: Vec<Replayed> = histories.iter().flat_map(of).collect();
    match place.json {
        true => render::json(&all),
        false if all.is_empty() => println!("Nothing is recorded of a service that these policies select."),
        false => say(&all, service.is_some() || !ss.is_empty()),
    }
    Ok(())
}

fn say(all: &[Replayed], each: bool) {
    let lasted = |one: &Replayed| -> Duration {
        let ends = one.breaches.iter().map(|breach| breach.over.unwrap_or(one.until).duration_since(breach.at));
        ends.map(|lasted| Duration::try_from(lasted).unwrap_or_default()).sum()
    };
    let row = |one: &Replayed| {
        let time = |at: Option<Timestamp>| at.map(render::time).unwrap_or_default();
        vec![
            one.service.to_string(),
            one.policy.clone(),
            one.breaches.len().to_string(),
            about(lasted(one)),
            time(one.breaches.first().map(|breach| breach.at)),
            time(one.breaches.last().map(|breach| breach.at)),
        ]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    render::table(&["SERVICE", "POLICY", ">BREACHES", ">IN BREACH", "FIRST", "LAST"], &rows);
    for one in all.iter().filter(|one| !one.not_recorded.is_empty()) {
        let signals = one.not_recorded.join(", ");
        println!("{} of {}: {signals} is in none of the samples.", one.service, one.policy);
    }
    all.chunk_by(|one, other| one.service == other.service).for_each(|of| {
        if let [one, other] = of {
            println!("{}", compared(one, other, &beside(one, other)));
        }
    });
    if each {
        let row = |one: &Replayed, at: Timestamp, over: Option<Timestamp>| {
            vec![one.policy.clone(), render::time(at), over.map_or_else(|| "stands".into(), render::time)]
        };
        let rows: Vec<Vec<String>> = all
            .iter()
            .flat_map(|one| one.breaches.iter().map(move |breach| row(one, breach.at, breach.over)))
            .collect();
        println!();
        render::table(&["POLICY", "BREACH", "OVER"], &rows);
    }
}

/// Two policies of one service, in a line.
fn compared(one: &Replayed, other: &Replayed, beside: &Beside) -> String {
    let Beside { both, only_one, only_other, lead } = beside;
    let (a, b) = (&one.policy, &other.policy);
    let first = match lead {
        Some((_, by)) if by.is_zero() => "; both begin at the same time".to_owned(),
        Some((is_one, by)) => {
            format!("; there {} begins {} earlier, at the median", if *is_one { a } else { b }, about(*by))
        }
        None => String::new(),
    };
    format!("{}: both policies breach {both} times{first}; {a} alone {only_one}, {b} alone {only_other}.", one.service)
}
