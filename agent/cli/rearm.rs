//! `unwait rearm POLICY`: closes the breakers of a policy. Written to the store itself; the running agent reads it at its
//! next look.

use clap::Args;
use serde_json::json;

use super::{ConfigArguments, Failure, Outcome, open, order, render};
use crate::clock::{Clock, SystemClock};
use crate::model::ServiceName;

#[derive(Debug, Args)]
pub struct Arguments {
    /// As `status` names it.
    policy: String,
    /// Only for this service. Default: for every service.
    #[arg(long)]
    service: Option<String>,
    /// Why, for whoever finds it later.
    #[arg(long, value_parser = order::reason)]
    why: Option<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn rearm(arguments: Arguments) -> Outcome {
    let service = arguments.service.as_deref().map(ServiceName::parse).transpose().map_err(Failure::Usage)?;
    let store = open::store(&open::state(&arguments.place)?).await?;
    let rearmed = store.rearm(&arguments.policy, service.as_ref(), &order::person(arguments.why), SystemClock.now());
    let rearmed = rearmed.map_err(|error| Failure::Unreachable(error.to_string()))?;
    if arguments.place.json {
        render::json(&json!({ "policy": arguments.policy, "rearmed": rearmed }));
    } else if !rearmed.is_empty() {
        println!("{} acts again on {}.", arguments.policy, rearmed.join(", "));
    }
    match rearmed.is_empty() {
        false => Ok(()),
        true if arguments.place.json => Err(Failure::Wrong(String::new())),
        true => {
            let of = service.map(|service| format!(" for {service}")).unwrap_or_default();
            Err(Failure::Wrong(format!("no breaker of {}{of} is open; `unwait status` shows them", arguments.policy)))
        }
    }
}
