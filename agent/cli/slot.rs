//! `unwait slot`: who holds the fleet's slots, since when, in which phase; and giving one back for a host that is gone.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Failure, Outcome, Place, open, render};
use crate::app::Wiring;
use crate::clock::{Clock, SystemClock};
use crate::model::IncidentId;
use crate::ports::fleet::{Fleet, FleetError, Phase, Slot};
use crate::store::{StateDir, Store};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only the slots of this service, by the name that hosts contend under (`unwait plan` shows it).
    #[arg(long)]
    service: Option<String>,
    #[command(flatten)]
    place: Place,
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
    #[command(flatten)]
    place: Place,
}

pub async fn slot(arguments: Arguments) -> Outcome {
    match arguments.verb {
        None => list(&arguments.place, arguments.service).await,
        Some(Verb::Release(release)) => give_back(release).await,
    }
}

fn wired(place: &Place) -> Result<Wiring, Failure> {
    let wiring = open::wiring(open::config(place)?)?;
    match wiring.ports.fleet {
        Some(_) => Ok(wiring),
        None => Err(Failure::Usage("agent.yaml names no `fleet`: the hosts share no slots".into())),
    }
}

fn fleet_of(wiring: &Wiring) -> &dyn Fleet {
    wiring.ports.fleet.as_deref().expect("wired only where there is a fleet")
}

fn failed(error: FleetError) -> Failure {
    match error {
        FleetError::Unreachable(_) => Failure::Unreachable(error.to_string()),
        FleetError::Refused(_) | FleetError::Lost(_) | FleetError::Cannot(_) => Failure::Wrong(error.to_string()),
    }
}

async fn list(place: &Place, service: Option<String>) -> Outcome {
    let wiring = wired(place)?;
    let fleet = fleet_of(&wiring);
    let services = match service {
        Some(service) => vec![service],
        None => fleet.services().await.map_err(failed)?,
    };
    let mut held = Vec::new();
    let mut unreadable = Vec::new();
    for service in services {
        match fleet.holders(&service).await {
            Ok(slots) => held.extend(slots.into_iter().map(|slot| (service.clone(), slot))),
            Err(error @ FleetError::Refused(_)) => unreadable.push((service, error.to_string())),
            Err(error) => return Err(failed(error)),
        }
    }
    if place.json {
        render::json(&json!({
            "slots": held.iter().map(|(service, slot)| as_json(service, slot)).collect::<Vec<_>>(),
            "unreadable": unreadable.iter().map(|(service, error)| json!({ "service": service, "error": error })).collect::<Vec<_>>(),
        }));
    } else if held.is_empty() && unreadable.is_empty() {
        println!("no slot is held");
    } else if !held.is_empty() {
        let rows: Vec<Vec<String>> = held
            .iter()
            .map(|(service, slot)| {
                vec![service.clone(), slot.holder.clone(), phase(slot), render::time(slot.since), slot.incident.clone()]
            })
            .collect();
        render::table(&["SERVICE", "HOST", "PHASE", "SINCE", "INCIDENT"], &rows);
    }
    match unreadable.is_empty() {
        true => Ok(()),
        false if place.json => Err(Failure::Wrong(String::new())),
        false => {
            let errors: Vec<String> = unreadable.into_iter().map(|(_, error)| error).collect();
            Err(Failure::Wrong(errors.join("\n")))
        }
    }
}

fn as_json(service: &str, slot: &Slot) -> Value {
    let (phase, until) = match slot.phase {
        Phase::Waiting { until } => ("waiting", Some(until.to_string())),
        Phase::Changing => ("changing", None),
    };
    json!({
        "service": service, "holder": slot.holder, "phase": phase, "until": until,
        "since": slot.since.to_string(), "incident": slot.incident,
    })
}

fn phase(slot: &Slot) -> String {
    match slot.phase {
        Phase::Waiting { until } if slot.counts(SystemClock.now()) => format!("waiting until {}", render::time(until)),
        Phase::Waiting { .. } => "waited, and has lost it".into(),
        Phase::Changing => "changing".into(),
    }
}

async fn give_back(arguments: ReleaseArguments) -> Outcome {
    let ReleaseArguments { host, service, place } = arguments;
    let wiring = wired(&place)?;
    let fleet = fleet_of(&wiring);
    let services = match service {
        Some(service) => vec![service],
        None => match fleet.services().await {
            Ok(services) => services,
            Err(error @ FleetError::Cannot(_)) => {
                return Err(Failure::Usage(format!("{error}: say which one with --service")));
            }
            Err(error) => return Err(failed(error)),
        },
    };
    if host == wiring.host.name {
        refuse_if_at_work(&wiring, &services)?;
    }
    let mut given_back = Vec::new();
    let mut errors = Vec::new();
    // A store that does not say who holds what does not say what it took back, either.
    let mut untold = false;
    for service in services {
        match fleet.release_host(&service, &host).await {
            Ok(slots) => given_back.extend(slots.into_iter().map(|slot| (service.clone(), slot))),
            Err(error) => {
                errors.push(error);
                continue;
            }
        }
        untold |= matches!(fleet.holders(&service).await, Err(FleetError::Cannot(_)));
    }
    if given_back.is_empty() && !untold {
        let nothing = || Failure::Wrong(format!("{host} holds no slot; `unwait slot` shows who does"));
        return Err(errors.into_iter().next().map_or_else(nothing, failed));
    }
    if place.json {
        let slots: Vec<Value> = given_back.iter().map(|(service, slot)| as_json(service, slot)).collect();
        render::json(&json!({ "holder": host, "given_back": slots }));
    } else {
        say_given_back(&host, &given_back);
    }
    match errors.into_iter().next() {
        None => Ok(()),
        Some(error) => Err(failed(error)),
    }
}

fn say_given_back(host: &str, given_back: &[(String, Slot)]) {
    for (service, slot) in given_back {
        let (since, phase, incident) = (render::time(slot.since), phase(slot), &slot.incident);
        println!("given back: {service}, held by {host} since {since} ({phase}, incident {incident})");
    }
    if given_back.is_empty() {
        println!("the server took back what {host} held, if it held it");
    }
    println!(
        "Another host may work on it now. Where {host} is not gone, it stops before its next change, but what it has \
         begun stands: look there with `unwait status`, and at its registration, before the next host acts."
    );
}

/// What this host itself is at work on, or rests stuck on, is not given away under it.
fn refuse_if_at_work(wiring: &Wiring, services: &[String]) -> Result<(), Failure> {
    let state = &wiring.config.host.state;
    if !StateDir::database_of(state).exists() {
        return Ok(());
    }
    let store = open::store(state)?;
    match at_work(&store, services).map_err(|error| Failure::Unreachable(error.to_string()))? {
        None => Ok(()),
        Some((incident, service)) => Err(Failure::Wrong(format!(
            "this host itself holds the slot of {service} for incident {incident}, which is not over: it gives it back \
             when it has ended; see `unwait status`, and `unwait resolve` where it is latched"
        ))),
    }
}

/// An incident of this host that is open or latched, and contends for one of these.
fn at_work(store: &Store, services: &[String]) -> Result<Option<(IncidentId, String)>, crate::store::StoreError> {
    let open = store.open_incidents()?.into_iter().map(|open| open.plan);
    let mut plans: Vec<_> = open.collect();
    for latch in store.latches()? {
        plans.extend(store.plan(&IncidentId(latch.incident))?);
    }
    let contends = plans.into_iter().find_map(|plan| {
        let scope = plan.fleet_scope.filter(|scope| services.contains(scope))?;
        Some((plan.incident, scope))
    });
    Ok(contends)
}
