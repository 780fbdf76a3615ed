//! `unwait history`: past incidents, newest first; with `--signals` what was measured of a service; with `--audit` what
//! people told the agent to do.

use clap::Args;

use super::{ConfigArguments, Failure, Outcome, open, render, signals};
use crate::model::ServiceName;
use crate::store::{AuditRow, StoreError};
use crate::view::incident::outcome_of;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Only this service.
    service: Option<String>,
    /// Who paused, silenced, approved, acted, …: when, on what, why, and what came of it.
    #[arg(long, conflicts_with = "signals")]
    audit: bool,
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

pub async fn history(arguments: Arguments) -> Outcome {
    let service = arguments.service.as_deref().map(ServiceName::parse).transpose().map_err(Failure::Usage)?;
    if let Some(service) = service.as_ref().filter(|_| arguments.signals) {
        return signals::signals(service, &arguments.since, &arguments.signal, &arguments.place).await;
    }
    let state = open::state(&arguments.place)?;
    let store = open::store(&state).await?;
    let unreachable = |error: StoreError| Failure::Unreachable(error.to_string());
    if arguments.audit {
        let rows = store.audit_rows(service.as_ref(), arguments.limit as usize).map_err(unreachable)?;
        match arguments.place.json {
            true => render::json(&rows),
            false if rows.is_empty() => println!("Nobody has told this agent anything yet."),
            false => say_audit(&rows),
        }
        return Ok(());
    }
    let rows = store.history(service.as_ref(), arguments.limit as usize).map_err(unreachable)?;
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

/// What people told the agent to do, as a table.
pub(super) fn say_audit(rows: &[AuditRow]) {
    let cells = |row: &AuditRow| {
        let came_of_it = match row.done {
            Some(true) => row.detail.clone(),
            Some(false) => format!("refused: {}", row.detail),
            None => "not answered yet".into(),
        };
        let on = row.service.clone().unwrap_or_else(|| "the host".into());
        let why = row.why.clone().unwrap_or_default();
        vec![render::time(row.at), row.who.clone(), row.verb.to_string(), on, why, came_of_it]
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    render::table(&["AT", "WHO", "DID", "ON", "WHY", "WHAT CAME OF IT"], &rows);
}
