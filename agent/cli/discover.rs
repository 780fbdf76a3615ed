//! `unwait discover`: which instance of a registry each service of this host is, as the section `services:` to paste.

use clap::Args;
use serde_json::json;

use super::{ConfigArguments, Failure, Outcome, open, render};
use crate::wiring::discover;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    place: ConfigArguments,
    /// Ask each port that is registered for a Redis PING as well. Without it nothing is sent to any service.
    #[arg(long)]
    probe: bool,
}

pub async fn discover(arguments: Arguments) -> Outcome {
    let wiring = open::wiring(open::config(&arguments.place)?)?;
    if wiring.ports.registries.is_empty() {
        return Err(Failure::Usage("agent.yaml names no registry to compare with: add `registries:` to it".into()));
    }
    let found = discover::discover(&wiring, arguments.probe).await;
    let found = found.map_err(|error| Failure::Unreachable(error.to_string()))?;
    match arguments.place.json {
        true => render::json(&json!(found)),
        false => print!("{}", discover::yaml(&found)),
    }
    match found.not_asked.is_empty() {
        true => Ok(()),
        // What could not be asked stands in what was printed.
        false => Err(Failure::Unreachable(String::new())),
    }
}
