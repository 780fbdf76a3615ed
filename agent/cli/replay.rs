//! `unwait replay`: when policies would have breached, over what the agent has recorded.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::{ConfigArguments, Failure, Outcome, open, render, signals};
use crate::clock::{Clock, SystemClock};
use crate::decide::replay::{Replayed, replay as replayed};
use crate::model::{Policy, ServiceName, duration};
use crate::store::StoreError;
use crate::view::reckoning::about;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Only this service, with each of its breaches.
    service: Option<String>,
    /// Only this policy; may be repeated, to have two beside each other. A policy that is only to be tried stands in a copy of
    /// the configuration: `--config DIR`, with the `state` of the agent that recorded.
    #[arg(long, value_name = "NAME")]
    policy: Vec<String>,
    /// How far back: a minute a step is recorded for a day, ten minutes for a month.
    #[arg(long, value_name = "DURATION", default_value = "31d")]
    since: String,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn replay(arguments: Arguments) -> Outcome {
    let Arguments { service, policy: only, since, place } = arguments;
    let service = service.as_deref().map(ServiceName::parse).transpose().map_err(Failure::Usage)?;
    let since = duration::parse(&since).map_err(|error| Failure::Usage(format!("--since: {error}")))?;
    let config = open::config(&place)?;
    if let Some(unknown) = only.iter().find(|name| !config.policies.iter().any(|policy| policy.name == **name)) {
        return Err(Failure::Wrong(format!("no policy `{unknown}` in {}", place.config.display())));
    }
    let is_wanted = |policy: &&Policy| only.is_empty() || only.contains(&policy.name);
    let until = SystemClock.now();
    let from = until.checked_sub(since).unwrap_or(Timestamp::MIN);
    let unreachable = |error: StoreError| Failure::Unreachable(error.to_string());
    signals::written(&config.host.state).await;
    let store = open::store_to_read(&config.host.state).await?;
    let mut all: Vec<Replayed> = Vec::new();
    for name in store.services_with_samples().map_err(unreachable)? {
        let Ok(name) = ServiceName::parse(&name) else { continue };
        let policies: Vec<&Policy> = config.selecting(&name).into_iter().filter(is_wanted).collect();
        if policies.is_empty() || service.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let samples = store.samples(&name, from, until).map_err(unreachable)?;
        all.extend(policies.into_iter().map(|policy| replayed(policy, &name, &samples)));
    }
    match place.json {
        true => render::json(&all),
        false if all.is_empty() => println!("Nothing is recorded of a service that these policies select."),
        false => say(&all, service.is_some(), until),
    }
    Ok(())
}

fn say(all: &[Replayed], each: bool, until: Timestamp) {
    let lasted = |one: &Replayed| -> Duration {
        let ends = one.breaches.iter().map(|breach| breach.over.unwrap_or(until).duration_since(breach.at));
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
        println!(
            "{} of {}: {signals} was not recorded, since no policy in force asked for it.",
            one.service, one.policy
        );
    }
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
