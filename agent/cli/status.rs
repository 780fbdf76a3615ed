//! `unwait status`: one screen. Is the agent running; what is latched, paused, under way, undelivered.

use clap::Args;

use super::{ConfigArguments, Failure, Outcome, open, order, render};
use crate::clock::{Clock, SystemClock};
use crate::model::duration;
use crate::model::plan::short_hash;
use crate::store::{Approval, ApprovalState, Breaker, Latch, Silence, UnreturnedSlot};
use crate::view::request::Request;
use crate::view::status::{AgentNow, HeldNow, IncidentNow, RejectedConfiguration, Status};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn status(arguments: Arguments) -> Outcome {
    let state = open::state(&arguments.place)?;
    let unreachable = |error: &dyn std::fmt::Display| Failure::Unreachable(error.to_string());
    let status = match order::call(&state, Request::Status, None).await? {
        // The file is not touched: its disk may hang, and who waits for that cannot be ended.
        Some(reply) => reply.carries().map_err(Failure::Unreachable)?,
        None => {
            Status::of(&*open::store(&state).await?, None, SystemClock.now()).map_err(|error| unreachable(&error))?
        }
    };
    match arguments.place.json {
        true => render::json(&status),
        false => say(&status),
    }
    match (&status.agent, status.wants_a_person()) {
        (None, _) => Err(Failure::Unreachable(String::new())),
        (Some(_), true) => Err(Failure::Wrong(String::new())),
        (Some(_), false) => Ok(()),
    }
}

fn say(status: &Status) {
    match &status.agent {
        Some(agent) => say_agent(agent),
        None => println!("NOT RUNNING: no agent listens here"),
    }
    if let Some(why) = &status.store_unread {
        println!("STATE UNREADABLE: {why}; what is paused, locked, under way or undelivered is not known");
    }
    if let Some(pause) = &status.paused {
        let until = pause.until.map_or("`unwait resume`".into(), render::time);
        println!("PAUSED by {} since {} until {until}: {}", pause.who, render::time(pause.since), pause.why);
    }
    for Silence { service, who, until, why, until_clear, .. } in &status.silences {
        let service = service.as_deref().unwrap_or("the host");
        let until = match until_clear {
            true => format!("its condition is over, at the latest {}", render::time(*until)),
            false => render::time(*until),
        };
        println!("SILENCED {service} by {who} until {until}: {why}");
    }
    status.approvals.iter().for_each(say_approval);
    for Breaker { policy, service, since, runbook, incident } in &status.breakers {
        println!("DRY-RUN AGAIN {policy} for {service} since {}: {runbook} was not seen to help", render::time(*since));
        println!("        unwait show {incident}; unwait rearm {policy}");
    }
    for Latch { service, since, reason, detail, incident, .. } in &status.latches {
        println!("LATCHED {service} since {}: {reason} ({detail})", render::time(*since));
        println!("        unwait show {incident}; unwait resolve {service} --restore | --leave");
    }
    for IncidentNow { incident, service, runbook, step, waits_for, .. } in &status.open {
        println!("UNDER WAY {service}: {runbook}, {step} ({incident})");
        if let Some(what) = waits_for {
            println!("        {what}");
        }
    }
    for UnreturnedSlot { service, error, since, .. } in &status.unreturned_slots {
        println!("SLOT NOT GIVEN BACK {service}, tried since {}: {error}", render::time(*since));
        println!("        the other hosts wait for it: unwait slot --service {service}");
    }
    for one in &status.undelivered {
        let error = one.error.as_deref().unwrap_or("not tried yet");
        println!("UNDELIVERED to {}: {} ({error})", one.destination, one.title);
    }
}

fn say_approval(approval: &Approval) {
    let Approval { id, policy, service, runbook, expires, hash, .. } = approval;
    let hash = short_hash(hash);
    let expires = render::time(*expires);
    match (approval.state, &approval.who) {
        (ApprovalState::Approved, Some(who)) => {
            println!("APPROVED by {who}, to begin before {expires}: {service}: {runbook} ({policy})");
            println!("        unwait deny {id}");
        }
        _ => {
            println!("TO BE APPROVED before {expires}: {service}: {runbook} ({policy})");
            println!("        unwait plan {service} --policy {policy}; unwait approve {id} {hash} | unwait deny {id}");
        }
    }
}

fn say_agent(agent: &AgentNow) {
    let beside = match agent.passed_over_at_most {
        None | Some(0) => String::new(),
        Some(passed_over) => format!(" and at most {passed_over} more"),
    };
    let sockets = agent.host_close_wait.map_or("unknown".into(), |count| count.to_string());
    println!(
        "running: pid {}, {} policies, every {}, {sockets} sockets{beside} in CLOSE_WAIT on the host at {}",
        agent.pid,
        agent.policies,
        duration::format(agent.interval),
        agent.last_snapshot.map_or("(no look yet)".into(), |at| at.to_string()),
    );
    if agent.looks_every != agent.interval {
        println!("LOOKING LESS OFTEN: every {}, as `cpu_budget` allows", duration::format(agent.looks_every));
    }
    if agent.observe_only {
        let why = agent.disk_hangs.as_deref().unwrap_or("the state directory cannot be written");
        println!("OBSERVE-ONLY: {why}");
    }
    for (policy, held) in &agent.held_modes {
        println!("HELD MODE of {policy}: {held}");
    }
    if let Some(failure) = &agent.last_failure {
        println!("NOT MEASURING: {failure}");
    }
    if let Some(unowned) = &agent.of_no_service {
        println!("NO OWNER: {unowned}");
    }
    if let Some(RejectedConfiguration { at, why, in_force_since }) = &agent.rejected_configuration {
        println!("CONFIGURATION REJECTED at {}: {why}", render::time(*at));
        println!(
            "        the agent works with the one of {}: unwait check; unwait reload",
            render::time(*in_force_since)
        );
    }
    for caution in &agent.cautions {
        println!("NOTE: {caution}");
    }
    for spot in &agent.not_seen {
        println!("NOT SEEN: {spot}");
    }
    for HeldNow { policy, service, reason, detail, .. } in &agent.held {
        println!("HELD {service} by {policy}: {reason}: {detail}");
    }
}
