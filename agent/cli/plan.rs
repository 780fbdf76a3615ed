//! `unwait plan SERVICE`: what would be done now, filled in, and what blocks it. Touches nothing. The running agent says it,
//! by its configuration and its secrets; where none runs, this process does.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::{ConfigArguments, Failure, Outcome, open, order, render};
use crate::daemon::explain::Asking;
use crate::model::plan::short_hash;
use crate::model::{ServiceName, Step, Trigger, duration};
use crate::view::explanation::{Clients, Planned};
use crate::view::request::Request;

#[derive(Debug, Args)]
pub struct Arguments {
    /// NAME.service, container:NAME, program:NAME or process:NAME.
    service: String,
    /// Default: the first policy, by name, that selects the service.
    #[arg(long)]
    policy: Option<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn plan(arguments: Arguments) -> Outcome {
    let Arguments { service, policy, place } = arguments;
    let name = ServiceName::parse(&service).map_err(Failure::Usage)?;
    let state = open::state(&place)?;
    let request = Request::Plan { service, policy: policy.clone() };
    let planned: Planned = match order::call(&state, request, None).await? {
        Some(reply) if reply.ok => reply.carries().map_err(Failure::Unreachable)?,
        Some(reply) => return Err(Failure::Wrong(reply.text)),
        None => without_an_agent(&place, &state, &name, policy.as_deref()).await?,
    };
    if place.json {
        render::json(&planned)
    } else {
        say(&planned)
    }
    if planned.blocked_by.is_empty() { Ok(()) } else { Err(Failure::Wrong(String::new())) }
}

async fn without_an_agent(
    place: &ConfigArguments,
    state: &Path,
    service: &ServiceName,
    policy: Option<&str>,
) -> Result<Planned, Failure> {
    let config = open::config(place)?;
    let policy = config.choose(service, policy).map_err(Failure::Wrong)?.clone();
    let store = open::store_or_empty(state).await?;
    let wiring = open::wiring(config)?;
    let asking = Asking { wiring: &wiring, store: &store, started: Duration::ZERO };
    Ok(asking.plan(&policy, service, Trigger::Person { who: "plan".into() }).await)
}

fn say(planned: &Planned) {
    let plan = &planned.plan;
    println!("{} by policy {}: {}", plan.target.service, plan.policy, plan.runbook);
    if !planned.mode.is_empty() {
        println!("  mode         {}", planned.mode);
    }
    if let Some(rung) = &plan.rung {
        println!("  {rung}");
    }
    let incarnation = plan.incarnation.as_ref().map_or("not running, or not seen".into(), ToString::to_string);
    println!("  incarnation  {incarnation}");
    println!("  plan         {}", short_hash(&plan.hash()));
    for binding in &plan.target.bindings {
        println!("  registered   {}/{}", binding.registry, binding.id);
    }
    for caveat in &planned.cannot_promise {
        println!("  limit        {caveat}");
    }
    if let Some(clients) = &planned.clients {
        println!("  clients      {}", said_of(clients));
    }
    if let Some(health) = &plan.target.health {
        println!("  health       {}", serde_json::to_string(health).unwrap_or_default());
    }
    if let Some(rule) = plan.guards.min_healthy {
        println!("  min_healthy  {rule}");
    }
    if let (Some(scope), Some(slots)) = (&plan.fleet_scope, plan.guards.fleet_slots) {
        println!("  fleet        {slots} at once of {scope}");
    }
    let limits = &plan.limits;
    let cooldown = duration::format(limits.cooldown);
    println!("  limits       cooldown {cooldown}, {} per service, {} per host", limits.per_service, limits.per_host);
    println!();
    let rows: Vec<Vec<String>> = plan
        .steps
        .iter()
        .enumerate()
        .map(|(index, planned)| {
            vec![
                (index + 1).to_string(),
                planned.step.name().into(),
                planned.effect.to_string(),
                settings(&planned.step),
            ]
        })
        .collect();
    render::table(&[">", "STEP", "EFFECT", "SETTINGS"], &rows);
    println!();
    if let Some(slot) = &planned.slot {
        println!("    {slot}");
    }
    for (index, would) in planned.would.iter().enumerate() {
        println!("{:>2}. {would}", index + 1);
    }
    println!();
    match planned.blocked_by.as_slice() {
        [] => println!("Nothing blocks it now."),
        refusals => {
            println!("Blocked now by:");
            for refusal in refusals {
                let until = refusal.until.map(|until| format!(" (until {})", render::time(until))).unwrap_or_default();
                println!("  {}: {refusal}{until}", refusal.guard);
            }
        }
    }
}

fn said_of(clients: &Clients) -> String {
    let follow = match clients.follow_within {
        Duration::ZERO => "are not waited for".into(),
        within => format!("follow a drain within {}", duration::format(within)),
    };
    match (clients.connections, clients.addresses) {
        (Some(0), _) => format!("{follow}; no inbound connection in use was seen"),
        (Some(connections), Some(addresses)) => {
            format!("{follow}; {connections} inbound connections from {addresses} addresses are in use now")
        }
        _ => format!("{follow}; its connections are not known: {}", clients.unknown.as_deref().unwrap_or("")),
    }
}

/// A step's settings on one line, as the YAML has them.
fn settings(step: &Step) -> String {
    if let Step::Verify { soak, expect } = step {
        let expect: Vec<String> = expect.iter().map(ToString::to_string).collect();
        return format!("soak: {}, expect: [{}]", duration::format(*soak), expect.join(", "));
    }
    let value = serde_json::to_value(step).unwrap_or_default();
    let Some(settings) = value.as_object().and_then(|object| object.values().next()).and_then(|s| s.as_object()) else {
        return String::new();
    };
    let shown = settings.iter().filter(|(_, value)| !value.is_null() && value.as_array().is_none_or(|a| !a.is_empty()));
    shown
        .map(|(key, value)| match (value.as_str(), serde_json::from_value::<Duration>(value.clone())) {
            (Some(text), _) => format!("{key}: {text}"),
            (None, Ok(duration)) => format!("{key}: {}", duration::format(duration)),
            (None, Err(_)) => format!("{key}: {value}"),
        })
        .collect::<Vec<_>>()
        .join(", ")
}
