//! `unwait show INCIDENT`: its steps, its outcome, its evidence, and what people did about it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{ConfigArguments, Failure, Outcome, history, open, render, show_share, signals};
use crate::model::IncidentId;
use crate::report::incident::{self, Material};
use crate::store::{StateDir, Store};
use crate::view::incident::{IncidentShown, outcome_of};

#[derive(Debug, Args)]
pub struct Arguments {
    /// As `history` names it.
    incident: String,
    /// Print it as one HTML page that fetches nothing, with its evidence and a diagnosis.
    #[arg(long, conflicts_with = "json")]
    html: bool,
    /// Write it with its evidence into this new folder, to hand on: hosts and addresses have pseudonyms, the same in all files.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["json", "html"])]
    share: Option<PathBuf>,
    /// With --share: the name of another host, to be replaced as well; may be repeated.
    #[arg(long, value_name = "NAME", requires = "share")]
    hide: Vec<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn show(arguments: Arguments) -> Outcome {
    let state = open::state(&arguments.place)?;
    let store = open::store(&state).await?;
    let id = IncidentId(arguments.incident);
    if let Some(into) = &arguments.share {
        signals::written(&state).await;
        return show_share::share(&state, &store, &id, into, &arguments.hide);
    }
    if arguments.html {
        return page(&state, &store, &id).await;
    }
    match IncidentShown::of(&store, &id).map_err(|error| Failure::Unreachable(error.to_string()))? {
        None => return Err(unknown(&id)),
        Some(shown) if arguments.place.json => render::json(&shown),
        Some(shown) => say(&shown),
    }
    Ok(())
}

pub(super) fn unknown(id: &IncidentId) -> Failure {
    Failure::Wrong(format!("no incident `{id}`; `unwait history` names them"))
}

async fn page(state: &Path, store: &Store, id: &IncidentId) -> Outcome {
    signals::written(state).await;
    match Material::of(store, &StateDir::evidence_of(state), id)
        .map_err(|error| Failure::Unreachable(error.to_string()))?
    {
        None => Err(unknown(id)),
        Some(material) => {
            print!("{}", incident::page(&material));
            Ok(())
        }
    }
}

fn say(shown: &IncidentShown) {
    let (row, plan) = (&shown.incident, &shown.plan);
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
            let (outcome, reason) = outcome_of(row);
            println!(
                "  ended     {}: {outcome}{}{reason}",
                render::time(ended),
                if reason.is_empty() { "" } else { ", " }
            );
            if !reason.is_empty() || row.dry_run {
                println!("            {}", row.detail.as_deref().unwrap_or_default());
            }
        }
        None => {
            println!("  under way {}", row.step.as_deref().unwrap_or_default());
            if let Some(waits_for) = &row.detail {
                println!("            {waits_for}");
            }
        }
    }
    if let Some(evidence) = &row.evidence {
        println!("  evidence  {}", evidence.display());
    }
    println!();
    let steps = shown.steps().into_iter();
    let rows: Vec<Vec<String>> =
        steps.map(|step| vec![render::time(step.at), step.step, step.outcome, step.detail]).collect();
    render::table(&["AT", "STEP", "OUTCOME", "DETAIL"], &rows);
    if !shown.audit.is_empty() {
        println!();
        history::say_audit(&shown.audit);
    }
}
