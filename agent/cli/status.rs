//! `unwait status`: one screen. Is the agent running; what is latched, paused, under way, undelivered.

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, Outcome, Place, open, render};
use crate::clock::{Clock, SystemClock};
use crate::daemon::control::{self, Request};
use crate::execute::tell;
use crate::store::{Approval, ApprovalState};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    place: Place,
}

/// Undelivered messages that are shown.
const MESSAGES: usize = 20;

pub async fn status(arguments: Arguments) -> Outcome {
    let state = open::state(&arguments.place)?;
    let unreachable = |error: &dyn std::fmt::Display| Failure::Unreachable(error.to_string());
    let agent = control::call(&state, &Request::Status).await.map_err(|error| unreachable(&error))?;
    let agent = agent.map(|reply| reply.detail);
    let store = open::store(&state)?;
    let paused = store.paused(SystemClock.now()).map_err(|error| unreachable(&error))?;
    let silences = store.silences(SystemClock.now()).map_err(|error| unreachable(&error))?;
    let approvals = store.open_approvals(SystemClock.now()).map_err(|error| unreachable(&error))?;
    let breakers = store.breakers().map_err(|error| unreachable(&error))?;
    let latches = store.latches().map_err(|error| unreachable(&error))?;
    let open = store.open_incidents().map_err(|error| unreachable(&error))?;
    let unreturned = store.unreturned_slots().map_err(|error| unreachable(&error))?;
    let undelivered = store.undelivered(MESSAGES).map_err(|error| unreachable(&error))?;
    if arguments.place.json {
        render::json(&json!({
            "agent": agent,
            "paused": paused,
            "silences": silences,
            "approvals": approvals,
            "breakers": breakers,
            "latches": latches,
            "open": open.iter().map(|open| json!({
                "incident": open.plan.incident, "service": open.plan.target.service, "runbook": open.plan.runbook,
                "step": tell::under_way(&open.plan, &open.journal), "in_the_way": open.in_the_way,
            })).collect::<Vec<_>>(),
            "unreturned_slots": unreturned,
            "undelivered": undelivered.iter().map(|one| json!({
                "destination": one.destination, "title": one.message.title, "attempts": one.attempts, "error": one.error,
            })).collect::<Vec<_>>(),
        }));
    } else {
        say_agent(agent.as_ref());
        if let Some(pause) = &paused {
            let until = pause.until.map_or("`unwait resume`".into(), render::time);
            println!("PAUSED by {} since {} until {until}: {}", pause.who, render::time(pause.since), pause.why);
        }
        for silence in &silences {
            println!(
                "SILENCED {} by {} until {}: {}",
                silence.service.as_deref().unwrap_or("the host"),
                silence.who,
                render::time(silence.until),
                silence.why
            );
        }
        for approval in &approvals {
            say_approval(approval);
        }
        for breaker in &breakers {
            println!(
                "DRY-RUN AGAIN {} for {} since {}: {} was not seen to help",
                breaker.policy,
                breaker.service,
                render::time(breaker.since),
                breaker.runbook
            );
            println!("        unwait show {}; unwait rearm {}", breaker.incident, breaker.policy);
        }
        for latch in &latches {
            println!(
                "LATCHED {} since {}: {} ({})",
                latch.service,
                render::time(latch.since),
                latch.reason,
                latch.detail
            );
            println!("        unwait show {}; unwait resolve {} --restore | --leave", latch.incident, latch.service);
        }
        for open in &open {
            let (plan, step) = (&open.plan, tell::under_way(&open.plan, &open.journal));
            println!("UNDER WAY {}: {}, {step} ({})", plan.target.service, plan.runbook, plan.incident);
            if let Some(what) = &open.in_the_way {
                println!("        {what}");
            }
        }
        for slot in &unreturned {
            let (service, since) = (&slot.service, render::time(slot.since));
            println!("SLOT NOT GIVEN BACK {service}, tried since {since}: {}", slot.error);
            println!("        the other hosts wait for it: unwait slot --service {service}");
        }
        for one in &undelivered {
            let error = one.error.as_deref().unwrap_or("not tried yet");
            println!("UNDELIVERED to {}: {} ({error})", one.destination, one.message.title);
        }
    }
    let Some(agent) = agent else { return Err(Failure::Unreachable(String::new())) };
    let not_delivered = undelivered.iter().any(|one| one.error.is_some());
    let in_the_way = open.iter().any(|open| open.in_the_way.is_some());
    let stands = !latches.is_empty() || !unreturned.is_empty() || !breakers.is_empty() || in_the_way || not_delivered;
    match stands || agent["observe_only"] == true || agent["last_failure"].is_string() {
        true => Err(Failure::Wrong(String::new())),
        false => Ok(()),
    }
}

fn say_approval(approval: &Approval) {
    let Approval { id, policy, service, runbook, expires, .. } = approval;
    let expires = render::time(*expires);
    match (approval.state, &approval.who) {
        (ApprovalState::Approved, Some(who)) => {
            println!("APPROVED by {who}, to begin before {expires}: {service}: {runbook} ({policy})");
            println!("        unwait deny {id}");
        }
        _ => {
            println!("TO BE APPROVED before {expires}: {service}: {runbook} ({policy})");
            println!("        unwait plan {service} --policy {policy}; unwait approve {id} | unwait deny {id}");
        }
    }
}

fn say_agent(agent: Option<&Value>) {
    let Some(agent) = agent else {
        println!("NOT RUNNING: no agent listens here");
        return;
    };
    let passed_over = agent["passed_over_at_most"].as_u64().unwrap_or(0);
    let beside = if passed_over > 0 { format!(" and at most {passed_over} more") } else { String::new() };
    println!(
        "running: pid {}, {} policies, every {}, {} sockets{beside} in CLOSE_WAIT on the host at {}",
        agent["pid"],
        agent["policies"],
        agent["interval"].as_str().unwrap_or("?"),
        agent["host.close_wait"],
        agent["last_snapshot"].as_str().unwrap_or("(no look yet)"),
    );
    if agent["looks_every"] != agent["interval"] {
        println!("LOOKING LESS OFTEN: every {}, as `cpu_budget` allows", agent["looks_every"].as_str().unwrap_or("?"));
    }
    if agent["observe_only"] == true {
        println!("OBSERVE-ONLY: the state directory cannot be written");
    }
    if let Some(failure) = agent["last_failure"].as_str() {
        println!("NOT MEASURING: {failure}");
    }
    if let Some(unowned) = agent["of_no_service"].as_str() {
        println!("NO OWNER: {unowned}");
    }
    for caution in agent["cautions"].as_array().into_iter().flatten() {
        println!("MIND: {}", caution.as_str().unwrap_or_default());
    }
    for spot in agent["not_seen"].as_array().into_iter().flatten() {
        println!("NOT SEEN: {}", spot.as_str().unwrap_or_default());
    }
    for held in agent["held"].as_array().into_iter().flatten() {
        println!(
            "HELD {} by {}: {}: {}",
            held["service"].as_str().unwrap_or_default(),
            held["policy"].as_str().unwrap_or_default(),
            held["reason"].as_str().unwrap_or_default(),
            held["detail"].as_str().unwrap_or_default(),
        );
    }
}
