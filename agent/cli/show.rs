//! `unwait show INCIDENT`: its steps, its outcome, its evidence.

use clap::Args;
use serde_json::{Value, json};

use super::{ConfigArguments, Failure, Outcome, open, render};
use crate::execute::saga::Event;
use crate::execute::tell;
use crate::model::{IncidentId, Plan};
use crate::store::{IncidentRow, JournalRow};

#[derive(Debug, Args)]
pub struct Arguments {
    /// As `history` names it.
    incident: String,
    #[command(flatten)]
    place: ConfigArguments,
}

pub fn show(arguments: Arguments) -> Outcome {
    let store = open::store(&open::state(&arguments.place)?)?;
    let unreachable = |error: crate::store::StoreError| Failure::Unreachable(error.to_string());
    let id = IncidentId(arguments.incident);
    let (Some(row), Some(plan)) = (store.incident(&id).map_err(unreachable)?, store.plan(&id).map_err(unreachable)?)
    else {
        return Err(Failure::Wrong(format!("no incident `{id}`; `unwait history` names them")));
    };
    let journal = store.journal(&id).map_err(unreachable)?;
    if arguments.place.json {
        let events: Vec<Value> = journal
            .iter()
            .map(|row| json!({ "at": row.at, "event": serde_json::from_str::<Value>(&row.event).unwrap_or_default() }))
            .collect();
        render::json(&json!({ "incident": row, "plan": plan, "journal": events }));
    } else {
        say(&row, &plan, &journal);
    }
    Ok(())
}

fn say(row: &IncidentRow, plan: &Plan, journal: &[JournalRow]) {
    let mode = if row.dry_run { " (dry-run: nothing was changed)" } else { "" };
    println!("{}{mode}", row.incident);
    println!("  service   {}", row.service);
    println!("  policy    {}, runbook {}", row.policy, plan.runbook);
    println!("  began     {}", render::time(row.began));
    if let Some(who) = &row.by_hand {
        println!("  by hand   {who}");
    }
    match row.ended {
        Some(ended) => {
            let (outcome, reason) = tell::outcome_of(row);
            println!(
                "  ended     {}: {outcome}{}{reason}",
                render::time(ended),
                if reason.is_empty() { "" } else { ", " }
            );
            if !reason.is_empty() {
                println!("            {}", row.detail.as_deref().unwrap_or_default());
            }
        }
        None => {
            println!("  under way {}", tell::under_way(plan, journal));
            if let Some(waits_for) = &row.detail {
                println!("            {waits_for}");
            }
        }
    }
    if let Some(evidence) = &row.evidence {
        println!("  evidence  {}", evidence.display());
    }
    println!();
    let rows: Vec<Vec<String>> = journal
        .iter()
        .filter_map(|row| {
            let event: Event = serde_json::from_str(&row.event).ok()?;
            let (step, outcome, detail) = tell::step_of(plan, &event)?;
            let outcome = if plan.dry_run { format!("would be {outcome}") } else { outcome.into() };
            Some(vec![render::time(row.at), step.into(), outcome, detail.into()])
        })
        .collect();
    render::table(&["AT", "STEP", "OUTCOME", "DETAIL"], &rows);
}
