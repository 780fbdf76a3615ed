//! `unwait pause` and `unwait resume`: the kill switch. Written to the store itself, so that it works on an agent that
//! does not answer, and outlives a reboot.

use clap::Args;
use serde_json::json;

use super::{ConfigArguments, Failure, Outcome, open, order, render};
use crate::clock::{Clock, SystemClock};
use crate::model::duration;
use crate::store::{Pause, Store, UnderWay};

#[derive(Debug, Args)]
pub struct PauseArguments {
    /// Why, for whoever finds it later.
    #[arg(long, value_parser = order::reason)]
    why: String,
    /// For how long, such as 2h. Default: until `unwait resume`. A pause that lasts longer already is not shortened.
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting, allow_hyphen_values = true)]
    lasting: Option<std::time::Duration>,
    #[command(flatten)]
    place: ConfigArguments,
}

#[derive(Debug, Args)]
pub struct ResumeArguments {
    /// Why, for whoever finds it later.
    #[arg(long, value_parser = order::reason)]
    why: Option<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

fn lasting(text: &str) -> Result<std::time::Duration, String> {
    match duration::parse(text)? {
        std::time::Duration::ZERO => Err("a pause lasts for some time; `unwait resume` ends one".into()),
        lasting => Ok(lasting),
    }
}

pub async fn pause(arguments: PauseArguments) -> Outcome {
    let now = SystemClock.now();
    let until = match arguments.lasting {
        None => None,
        Some(lasting) => Some(now.checked_add(lasting).map_err(|error| Failure::Usage(error.to_string()))?),
    };
    let pause = Pause { who: order::who(), why: arguments.why, since: now, until };
    let store = open::store_or_new(&open::state(&arguments.place)?).await?;
    let stands = store.pause(&pause).map_err(|error| Failure::Unreachable(error.to_string()))?;
    match (arguments.place.json, stands) {
        (true, stands) => render::json(&stands.unwrap_or(pause)),
        (_, Some(stands)) => println!(
            "Paused already until {}, by {}: {}. That is no sooner, and stands.",
            ends(stands.until),
            stands.who,
            stands.why
        ),
        (_, None) => println!("Paused until {}.", ends(until)),
    }
    if !arguments.place.json {
        say_under_way(&store)?;
    }
    Ok(())
}

/// What a pause does to an incident that has begun, which is not to stop in the middle.
fn say_under_way(store: &Store) -> Outcome {
    for UnderWay { plan, step, .. } in store.under_way().map_err(|e| Failure::Unreachable(e.to_string()))? {
        println!(
            "Under way: {}: {}, {step} ({}). Before its restart it is taken back, within seconds; behind it it goes on, to \
             put the service back.",
            plan.target.service, plan.runbook, plan.incident
        );
    }
    Ok(())
}

fn ends(until: Option<jiff::Timestamp>) -> String {
    until.map_or("`unwait resume`".into(), render::time)
}

pub async fn resume(arguments: ResumeArguments) -> Outcome {
    let store = open::store_or_new(&open::state(&arguments.place)?).await?;
    let was = store
        .resume(&order::person(arguments.why), SystemClock.now())
        .map_err(|error| Failure::Unreachable(error.to_string()))?;
    match (arguments.place.json, was) {
        (true, was) => render::json(&json!({ "was_paused": was })),
        (_, true) => println!("The pause is over."),
        (_, false) => println!("It was not paused."),
    }
    Ok(())
}
