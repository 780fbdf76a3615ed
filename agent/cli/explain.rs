//! `unwait explain SERVICE`: why something is, or is not, being done.

use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::{Failure, Outcome, Place, open, render};
use crate::daemon::control::{self, Request};
use crate::daemon::explain::Asking;
use crate::model::signal::AT_LEAST;
use crate::model::{Reason, ServiceName};
use crate::sense::sensor::Effort;
use crate::wiring::supervised;

#[derive(Debug, Args)]
pub struct Arguments {
    /// NAME.service, container:NAME, program:NAME or process:NAME.
    service: String,
    #[command(flatten)]
    place: Place,
}

pub async fn explain(arguments: Arguments) -> Outcome {
    let service = ServiceName::parse(&arguments.service).map_err(Failure::Usage)?;
    let config = open::config(&arguments.place)?;
    let state = config.host.state.clone();
    let asked = control::call(&state, &Request::Explain { service: service.to_string() }).await;
    let explanation = match asked.map_err(|error| Failure::Unreachable(format!("the agent: {error}")))? {
        Some(reply) if reply.ok => reply.detail,
        Some(reply) => return Err(Failure::Wrong(reply.text)),
        None => {
            let store = open::store_or_empty(&state)?;
            let wiring = open::wiring(config)?;
            supervised::tell(&wiring).await;
            let look = wiring
                .sensor
                .free()
                .await
                .look(Effort::Afresh)
                .map_err(|error| Failure::Unreachable(error.to_string()))?;
            let readings = look.measurements.of(&service);
            let asking = Asking { wiring: &wiring, store: &store, started: Duration::ZERO };
            serde_json::to_value(asking.explain(&service, readings, None).await).unwrap_or_default()
        }
    };
    if arguments.place.json {
        render::json(&explanation)
    } else {
        say(&explanation)
    }
    Ok(())
}

fn say(explanation: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    println!("{}", text(&explanation["service"]));
    if explanation["one_look"] == true {
        println!("  no agent runs on this state directory: this is one look");
    }
    let signals = &explanation["signals"];
    for (signal, value) in signals.as_object().into_iter().flatten().filter(|(name, _)| !name.ends_with(AT_LEAST)) {
        let bound = if signals[format!("{signal}{AT_LEAST}")] == true { ">= " } else { "" };
        println!("  {signal:<28} {bound}{value}");
    }
    let policies = explanation["policies"].as_array().map(Vec::as_slice).unwrap_or_default();
    if policies.is_empty() {
        println!();
        say_nothing_is_done(&explanation["nothing_is_done"]);
    }
    if let Some(incident) = explanation["under_way"].as_str() {
        println!("\n  under way: {incident}; unwait show {incident}");
    }
    let mut above: &[Value] = &[];
    for policy in policies {
        println!("\n{} ({}): {}", text(&policy["policy"]), text(&policy["mode"]), text(&policy["standing"]));
        for line in policy["when"].as_array().into_iter().flatten() {
            let indent = "  ".repeat(1 + line["depth"].as_u64().unwrap_or(0) as usize);
            let now = text(&line["now"]);
            let now = if now.is_empty() { now } else { format!("   now {now}") };
            println!("{indent}{:<7} {}{now}", text(&line["holds"]), text(&line["text"]));
        }
        if let Some(breaker) = policy["breaker"].as_object() {
            let of = |key: &str| breaker.get(key).and_then(Value::as_str).unwrap_or_default();
            println!("  back in dry-run since {}: {} was not seen to help", of("since"), of("runbook"));
            println!("  unwait show {}; unwait rearm {}", of("incident"), of("policy"));
        }
        if let Some(rung) = policy["rung"].as_str() {
            println!("  {}: {rung}", text(&policy["runbook"]));
        }
        say_nothing_is_done(&policy["nothing_is_done"]);
        let held_by = policy["held_by"].as_array().map(Vec::as_slice).unwrap_or_default();
        if held_by.is_empty() && policy["mode"] != "observe" {
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
fn say_nothing_is_done(reason: &Value) {
    if let Ok(reason) = Reason::deserialize(reason) {
        println!("  nothing is done: {reason}: {}", reason.says());
    }
}

fn say_refusal(refusal: &Value) {
    let text = |key: &str| refusal[key].as_str().unwrap_or_default();
    let until = refusal["until"].as_str().map(|until| format!(" (until {until})")).unwrap_or_default();
    println!("  held by {}: {}: {}{until}", text("guard"), text("reason"), text("detail"));
}
