//! `unwait pause` and `unwait resume`: the kill switch. Written to the store itself, so that it works on an agent that
//! does not answer, and outlives a reboot.

use clap::Args;
use serde_json::json;

use super::{Failure, Outcome, Place, open, render};
use crate::clock::{Clock, SystemClock};
use crate::model::duration;
use crate::store::{Pause, StateDir, Store};

#[derive(Debug, Args)]
pub struct PauseArguments {
    /// Why, for whoever finds it later.
    #[arg(long)]
    why: String,
    /// For how long, such as 2h. Default: until `unwait resume`.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse)]
    lasting: Option<std::time::Duration>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub struct ResumeArguments {
    #[command(flatten)]
    place: Place,
}

pub fn pause(arguments: PauseArguments) -> Outcome {
    let now = SystemClock.now();
    let until = match arguments.lasting {
        None => None,
        Some(lasting) => Some(now.checked_add(lasting).map_err(|error| Failure::Usage(error.to_string()))?),
    };
    let pause = Pause { who: who(), why: arguments.why, since: now, until };
    let store = opened(&arguments.place)?;
    store.pause(&pause).map_err(|error| Failure::Unreachable(error.to_string()))?;
    match (arguments.place.json, until) {
        (true, _) => render::json(&pause),
        (_, Some(until)) => println!("Paused until {}.", render::time(until)),
        (_, None) => println!("Paused until `unwait resume`."),
    }
    Ok(())
}

pub fn resume(arguments: ResumeArguments) -> Outcome {
    let store = opened(&arguments.place)?;
    let was = store.resume().map_err(|error| Failure::Unreachable(error.to_string()))?;
    match (arguments.place.json, was) {
        (true, was) => render::json(&json!({ "was_paused": was })),
        (_, true) => println!("The pause is over."),
        (_, false) => println!("It was not paused."),
    }
    Ok(())
}

/// A host can be paused before the agent has run there for the first time.
pub(super) fn opened(place: &Place) -> Result<Store, Failure> {
    let unreachable = |error: &dyn std::fmt::Display| Failure::Unreachable(error.to_string());
    let state = open::state(place)?;
    if !open::has_run(&state)? {
        StateDir::accept(&state).map_err(|error| unreachable(&error))?;
    }
    let path = StateDir::database_of(&state);
    Store::open_with(&path, std::sync::Arc::new(SystemClock)).map_err(|error| unreachable(&error))
}

/// The person behind sudo, where there is one.
pub(super) fn who() -> String {
    std::env::var("SUDO_USER").ok().unwrap_or_else(|| {
        let uid = nix::unistd::getuid();
        nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name)
    })
}
