//! `unwait slot`: who holds the fleet's slots, since when, in which phase; and giving one back for a host that is gone.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{ConfigArguments, Failure, Outcome, open, order, render};
use crate::clock::{Clock, SystemClock};
use crate::daemon::duties::orders::Order;
use crate::daemon::duties::slots::{self, GivenBack, SlotsError};
use crate::store::{AuditRow, OrderVerb, StateDir};
use crate::view::request::Reply;
use crate::view::slots::{HeldSlot, SlotsShown};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only the slots of this service, by the name that hosts contend under (`unwait plan` shows it).
    #[arg(long)]
    service: Option<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Give back what a host holds that is gone: another may then work on the service.
    Release(ReleaseArguments),
}

#[derive(Debug, Args)]
struct ReleaseArguments {
    /// The host, as `unwait slot` shows it.
    host: String,
    /// Only its slot for this service.
    #[arg(long)]
    service: Option<String>,
    /// Why, for whoever finds it later.
    #[arg(long, value_parser = order::reason)]
    why: Option<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn slot(arguments: Arguments) -> Outcome {
    match arguments.verb {
        None => list(&arguments.place, arguments.service).await,
        Some(Verb::Release(release)) => give_back(release).await,
    }
}

pub(super) fn failed(error: SlotsError) -> Failure {
    let says = error.to_string();
    match error {
        error if error.is_passing() => Failure::Unreachable(says),
        SlotsError::NoFleet | SlotsError::ServiceNotNamed(_) => Failure::Usage(says),
        SlotsError::Store(_) => Failure::Unreachable(says),
        SlotsError::Fleet(_) | SlotsError::AtWork { .. } | SlotsError::HoldsNone(_) => Failure::Wrong(says),
    }
}

async fn list(place: &ConfigArguments, service: Option<String>) -> Outcome {
    let wiring = open::wiring(open::config(place)?)?;
    let shown = slots::held(&wiring, service).await.map_err(failed)?;
    let SlotsShown { slots, unreadable } = &shown;
    if place.json {
        render::json(&shown);
    } else if !slots.is_empty() {
        let row = |slot: &HeldSlot| {
            let (service, holder, incident) = (slot.service.clone(), slot.holder.clone(), slot.incident.clone());
            vec![service, holder, phase(slot), render::time(slot.since), incident]
        };
        render::table(&["SERVICE", "HOLDER", "PHASE", "SINCE", "INCIDENT"], &slots.iter().map(row).collect::<Vec<_>>());
    } else if unreadable.is_empty() {
        println!("no slot is held");
    }
    let errors: Vec<String> = unreadable.iter().map(|one| one.error.clone()).collect();
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Failure::Wrong(if place.json { String::new() } else { errors.join("\n") })),
    }
}

fn phase(slot: &HeldSlot) -> String {
    match slot.until {
        _ if slot.ended => "waited, and lost it".into(),
        Some(until) => format!("{} until {}", slot.phase, render::time(until)),
        None => slot.phase.to_string(),
    }
}

async fn give_back(arguments: ReleaseArguments) -> Outcome {
    let ReleaseArguments { host, service, why, place } = arguments;
    let mut wiring = open::wiring(open::config(&place)?)?;
    let state = wiring.config.host.state.clone();
    let store = if StateDir::database_of(&state).exists() { Some(open::store(&state).await?) } else { None };
    if let Some(store) = &store {
        open::former_fleet(&mut wiring, store)?;
    }
    // A host that no agent has run on has no audit.
    let order = store.as_ref().map(|store| {
        let row = AuditRow::new(OrderVerb::ReleaseSlot, &order::person(why), SystemClock.now());
        Order::begin(store, row, None)
    });
    let given_back = slots::give_back(&wiring, store.as_deref(), &host, service).await;
    if let Some(mut order) = order {
        order.note(&answer(&host, &given_back));
    }
    let given_back = given_back.map_err(failed)?;
    if place.json {
        render::json(&json!({ "holder": host, "given_back": given_back.slots }));
    } else {
        say(&host, &given_back);
    }
    given_back.failed.map_or(Ok(()), |error| Err(failed(error)))
}

/// For the audit.
fn answer(host: &str, given_back: &Result<GivenBack, SlotsError>) -> Reply {
    let of = |slot: &HeldSlot| format!("{} of {host}", slot.service);
    match given_back {
        Ok(GivenBack { failed: Some(error), .. }) | Err(error) => Reply::refused(error.to_string()),
        Ok(GivenBack { slots, .. }) if slots.is_empty() => Reply::done(format!("the slots of {host}")),
        Ok(GivenBack { slots, .. }) => Reply::done(slots.iter().map(of).collect::<Vec<_>>().join(", ")),
    }
}

fn say(host: &str, given_back: &GivenBack) {
    for slot in &given_back.slots {
        let (service, phase, since, incident) = (&slot.service, phase(slot), render::time(slot.since), &slot.incident);
        println!("given back: {service}, held by {host} since {since} ({phase}, incident {incident})");
    }
    if given_back.slots.is_empty() {
        println!("the server answers that {host} does not hold it; whether it held it before is not told");
    }
    println!(
        "Another host may work on it now. Where {host} is not gone, it stops before its next change, but what it has \
         begun stands: look there with `unwait status`, and at its registration, before the next host acts."
    );
}
