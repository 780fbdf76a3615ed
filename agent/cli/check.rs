//! `unwait check`: the configuration, with every error at once; and what of it will not be done, or only in part. The running
//! agent judges the files, with its secrets and its capabilities; where none runs, this process does.

use std::path::Path;

use clap::Args;

use super::{ConfigArguments, Failure, Outcome, asking, open, order, render};
use crate::daemon::check;
use crate::view::findings::{Checked, CheckedPolicy, Finding, FindingKind, Judge};
use crate::view::request::Request;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Ask each registry, the fleet's store, each probe and each webhook once: what answers, by which certificate, until
    /// when; and whether each instance is registered. Nothing is changed or posted.
    #[arg(long)]
    ask: bool,
    #[command(flatten)]
    place: ConfigArguments,
}

/// The findings, and in a sentence whose they are.
struct Judged {
    checked: Checked,
    by: String,
}

pub async fn check(arguments: Arguments) -> Outcome {
    let Arguments { ask, place } = arguments;
    let Judged { checked, by } = checked(&place, ask).await?;
    if place.json {
        render::json(&checked);
    } else {
        println!("{by}");
    }
    if checked.ok && !place.json {
        say(&checked);
    }
    match (checked.ok, place.json) {
        (true, _) => verdict(&checked.findings),
        (false, true) => Err(Failure::Usage(String::new())),
        (false, false) => Err(Failure::Usage(checked.errors.to_string())),
    }
}

async fn checked(place: &ConfigArguments, ask: bool) -> Result<Judged, Failure> {
    // As the agent, which stands elsewhere, finds it.
    let directory = place.config.canonicalize().unwrap_or_else(|_| place.config.clone());
    let not_the_agent = match by_the_agent(&directory, ask).await {
        Ok(checked) => return Ok(Judged { by: by_agent(&checked.judged_by), checked }),
        Err(why) => why,
    };
    let checked = check::check(&directory, ask, open::host()?, None).await.map_err(open::failed)?;
    let by = format!("Judged by this command, by what it may read: {not_the_agent}.");
    Ok(Judged { by, checked })
}

/// Or why it was not judged by an agent.
async fn by_the_agent(directory: &Path, ask: bool) -> Result<Checked, String> {
    let state = open::state_unchecked(directory).ok_or("the files do not tell where an agent's state lies")?;
    let request = Request::Check { directory: directory.into(), ask };
    match order::call(&state, request, None).await {
        Ok(Some(reply)) if reply.ok => reply.carries(),
        Ok(Some(reply)) => Err(format!("the agent that runs on {} refuses: {}", state.display(), reply.text)),
        Ok(None) => Err(format!("no agent runs on {}", state.display())),
        Err(failure) => Err(failure.text().into()),
    }
}

fn by_agent(Judge { pid, version, agent_reads }: &Judge) -> String {
    let reads = agent_reads.as_ref().map(|reads| format!(", which reads {}", reads.display())).unwrap_or_default();
    format!("Judged by the running agent (pid {pid}, unwait {version}){reads}.")
}

fn verdict(findings: &[Finding]) -> Outcome {
    let count = |kind| findings.iter().filter(|finding| finding.finding == kind).count();
    let say = |count: usize, one: &str, several: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {several}")),
    };
    let wrong = [
        say(count(FindingKind::NoAnswer), "party could not be asked", "parties could not be asked"),
        say(count(FindingKind::FailingTest), "test of a policy fails", "tests of policies fail"),
    ];
    match wrong.into_iter().flatten().collect::<Vec<_>>() {
        wrong if wrong.is_empty() => Ok(()),
        wrong => Err(Failure::Wrong(wrong.join("; "))),
    }
}

fn say(checked: &Checked) {
    println!(
        "{} policies, {} runbooks, {} services named: no errors.",
        checked.policies.len(),
        checked.runbooks,
        checked.services
    );
    let row = |CheckedPolicy { policy, mode, held_mode, runbooks }: &CheckedPolicy| {
        let mode = held_mode.as_ref().map_or_else(|| mode.to_string(), ToString::to_string);
        vec![policy.clone(), mode, runbooks.join(", then ")]
    };
    let rows: Vec<Vec<String>> = checked.policies.iter().map(row).collect();
    if !rows.is_empty() {
        render::table(&["POLICY", "MODE", "RUNBOOK"], &rows);
    }
    // One that did not answer is told with the others that were asked.
    for Finding { place, what, consequence, .. } in
        checked.findings.iter().filter(|finding| finding.finding != FindingKind::NoAnswer)
    {
        println!("{place}: {what}");
        if !consequence.is_empty() {
            println!("    {consequence}");
        }
    }
    checked.asked.iter().for_each(asking::say);
}
