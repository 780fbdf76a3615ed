//! `unwait explain SERVICE`: why something is, or is not, being done.

use std::time::Duration;

use clap::Args;

use super::{ConfigArguments, Failure, Outcome, open, order, render};
use crate::daemon::explain::Asking;
use crate::decide::guards::Refusal;
use crate::model::{Mode, Reason, ServiceName};
use crate::sense::sensor::Effort;
use crate::view::explanation::Explanation;
use crate::view::request::Request;
use crate::wiring::supervised;

#[derive(Debug, Args)]
pub struct Arguments {
    /// NAME.service, container:NAME, program:NAME or process:NAME.
    service: String,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn explain(arguments: Arguments) -> Outcome {
    let service = ServiceName::parse(&arguments.service).map_err(Failure::Usage)?;
    let state = open::state(&arguments.place)?;
    let request = Request::Explain { service: service.to_string() };
    let explanation = match order::call(&state, request, None).await? {
        Some(reply) if reply.ok => reply.carries().map_err(Failure::Unreachable)?,
        Some(reply) => return Err(Failure::Wrong(reply.text)),
        None => {
            let store = open::store_or_empty(&state).await?;
            let wiring = open::wiring(open::config(&arguments.place)?)?;
            supervised::tell(&wiring).await;
            let look = wiring
                .sensor
                .acquire()
                .await
                .look(Effort::Afresh)
                .map_err(|error| Failure::Unreachable(error.to_string()))?;
            let readings = look.measurements.of(&service);
            let asking = Asking { wiring: &wiring, store: &store, started: Duration::ZERO };
            asking.explain(&service, readings, None).await
        }
    };
    if arguments.place.json {
        render::json(&explanation)
    } else {
        say(&explanation)
    }
    Ok(())
}

fn say(explanation: &Explanation) {
    println!("{}", explanation.service);
    if explanation.one_look {
        println!("  no agent runs on this state directory: this is one look");
    }
    for (signal, value) in explanation.signals.written() {
        println!("  {:<28} {value}", signal.to_string());
    }
    if explanation.policies.is_empty() {
        println!();
        say_nothing_is_done(explanation.nothing_is_done);
    }
    if let Some(incident) = &explanation.under_way {
        println!("\n  under way: {incident}; unwait show {incident}");
    }
    let mut above: &[Refusal] = &[];
    for policy in &explanation.policies {
        let since = policy.held_since.map(|at| format!(", since {}", render::time(at))).unwrap_or_default();
        let mode = policy.held_mode.as_ref().map_or_else(|| policy.mode.clone(), |held| format!("mode {held}"));
        println!("\n{} ({mode}): {}{since}", policy.policy, policy.standing);
        for line in &policy.when {
            let indent = "  ".repeat(1 + line.depth);
            let now = if line.now.is_empty() { String::new() } else { format!("   now {}", line.now) };
            println!("{indent}{:<7} {}{now}", line.holds, line.text);
        }
        if let Some(breaker) = &policy.breaker {
            println!("  back in dry-run since {}: {} was not seen to help", breaker.since, breaker.runbook);
            println!("  unwait show {}; unwait rearm {}", breaker.incident, breaker.policy);
        }
        if let Some(rung) = &policy.rung {
            println!("  {}: {rung}", policy.runbook.as_deref().unwrap_or_default());
        }
        say_nothing_is_done(policy.nothing_is_done);
        let held_by = policy.held_by.as_slice();
        if held_by.is_empty() && policy.mode != Mode::Observe.to_string() {
            println!("  no guard is against acting");
        } else if !held_by.is_empty() && above == held_by {
            println!("  held as above");
        } else {
            held_by.iter().for_each(say_refusal);
        }
        above = held_by;
    }
}

/// By its code, which the metrics and the log have as well.
fn say_nothing_is_done(reason: Option<Reason>) {
    if let Some(reason) = reason {
        println!("  nothing is done: {reason}: {}", reason.says());
    }
}

fn say_refusal(refusal: &Refusal) {
    let until = refusal.until.map(|until| format!(" (until {until})")).unwrap_or_default();
    println!("  held by {}: {refusal}{until}", refusal.guard);
}
