//! `unwait resolve SERVICE`: decide what becomes of a service that rests stuck. The running agent does it; where none
//! runs, this process does, under the agent's lock.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{ConfigArguments, Failure, Outcome, open, order};
use crate::clock::{Clock, SystemClock};
use crate::daemon::duties::orders::Order;
use crate::daemon::duties::resolve::{incident_of, resolve as decide};
use crate::daemon::duties::sweep;
use crate::model::ServiceName;
use crate::store::{AuditRow, OrderVerb, StateDir, Store};
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
    /// Why, for whoever finds it later.
    #[arg(long, value_parser = order::reason)]
    why: Option<String>,
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
    let Arguments { service, why, place, .. } = arguments;
    let request = Request::Resolve { service: service.clone(), how };
    let unreachable = |error: &dyn std::fmt::Display| Failure::Unreachable(error.to_string());
    if let Some(reply) = order::call(&state, request.clone(), why.clone()).await? {
        return order::say(reply, place.json);
    }
    let taken = StateDir::take(&state).map_err(|error| unreachable(&error))?;
    let store =
        Arc::new(Store::open_with(&taken.database(), Arc::new(SystemClock)).map_err(|error| unreachable(&error))?);
    let mut wiring = open::wiring(config)?;
    open::former_fleet(&mut wiring, &store)?;
    let world = wiring.world(&store, Duration::ZERO);
    let row = AuditRow::new(OrderVerb::Resolve, &order::person(why), SystemClock.now()).of(Some(&service));
    let mut order = Order::begin(&store, row, None).about(incident_of(&store, &service));
    let reply = decide(&store, &world, &service, how).await;
    order.note(&reply);
    sweep::release_slots(&wiring.ports, &store, SystemClock.now()).await;
    order::say(reply, place.json)
}
