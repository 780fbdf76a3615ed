//! `unwait resolve SERVICE`: decide what becomes of a service that rests stuck. The running agent does it; where none
//! runs, this process does, under the agent's lock.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{ConfigArguments, Failure, Outcome, act, open, render};
use crate::clock::{Clock, SystemClock};
use crate::daemon::control;
use crate::daemon::duties::resolve::resolve as decide;
use crate::daemon::duties::sweep;
use crate::model::ServiceName;
use crate::store::{StateDir, Store};
use crate::view::request::{How, Request};

#[derive(Debug, Args)]
pub struct Arguments {
    /// NAME.service, container:NAME, program:NAME or process:NAME.
    service: String,
    /// Check its health, put it back into traffic, and unlatch it.
    #[arg(long, conflicts_with = "leave")]
    restore: bool,
    /// Leave traffic as it is, hold its drain no more, and unlatch it.
    #[arg(long)]
    leave: bool,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn resolve(arguments: Arguments) -> Outcome {
    ServiceName::parse(&arguments.service).map_err(Failure::Usage)?;
    let how = match (arguments.restore, arguments.leave) {
        (true, _) => How::Restore,
        (_, true) => How::Leave,
        _ => How::Unsaid,
    };
    let config = open::config(&arguments.place)?;
    let state = config.host.state.clone();
    let request = Request::Resolve { service: arguments.service.clone(), how };
    let unreachable = |error: &dyn std::fmt::Display| Failure::Unreachable(error.to_string());
    if control::call(&state, &Request::Status).await.map_err(|error| unreachable(&error))?.is_some() {
        return act::ask(&state, &request, arguments.place.json).await;
    }
    let taken = StateDir::take(&state).map_err(|error| unreachable(&error))?;
    let store =
        Arc::new(Store::open_with(&taken.database(), Arc::new(SystemClock)).map_err(|error| unreachable(&error))?);
    let mut wiring = open::wiring(config)?;
    open::former_fleet(&mut wiring, &store)?;
    let world = wiring.world(&store, Duration::ZERO);
    let reply = decide(&store, &world, &arguments.service, how).await;
    sweep::release_slots(&wiring.ports, &store, SystemClock.now()).await;
    if arguments.place.json {
        render::json(&reply);
    } else if reply.ok {
        println!("{}", reply.text);
    }
    match reply.ok {
        true => Ok(()),
        false => Err(Failure::Wrong(if arguments.place.json { String::new() } else { reply.text })),
    }
}
