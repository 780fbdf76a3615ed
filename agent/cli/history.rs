//! `unwait history`: past incidents, newest first; with `--signals` what was measured of a service.

use clap::Args;

use super::{ConfigArguments, Failure, Outcome, open, render, signals};
use crate::model::ServiceName;
use crate::view::incident::outcome_of;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Only this service.
    service: Option<String>,
    /// How many at the most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// What was measured of the service, instead of its incidents. With --json a line for each step.
    #[arg(long, requires = "service")]
    signals: bool,
    /// How far back the signals are shown: a minute a step for a day, ten minutes for a month.
    #[arg(long, value_name = "DURATION", default_value = "24h", requires = "signals")]
    since: String,
    /// Only this signal; may be repeated.
    #[arg(long, value_name = "NAME", requires = "signals")]
    signal: Vec<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

pub fn history(arguments: Arguments) -> Outcome {
    let service = arguments.service.as_deref().map(ServiceName::parse).transpose().map_err(Failure::Usage)?;
    if let Some(service) = service.as_ref().filter(|_| arguments.signals) {
        return signals::signals(service, &arguments.since, &arguments.signal, &arguments.place);
    }
    let store = open::store(&open::state(&arguments.place)?)?;
    let rows = store
        .history(service.as_ref(), arguments.limit as usize)
        .map_err(|error| Failure::Unreachable(error.to_string()))?;
    if arguments.place.json {
        render::json(&rows);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| {
            let (outcome, reason) = outcome_of(&row);
            let mode = if row.dry_run { "dry-run" } else { "real" };
            let by = row.by_hand.map_or_else(|| "policy".into(), |who| format!("by hand, {who}"));
            vec![render::time(row.began), row.service, row.policy, by, mode.into(), outcome, reason, row.incident]
        })
        .collect();
    if rows.is_empty() {
        println!("No incident yet.");
    } else {
        render::table(&["BEGAN", "SERVICE", "POLICY", "BY", "MODE", "OUTCOME", "REASON", "INCIDENT"], &rows);
    }
    Ok(())
}
