//! `unwait act SERVICE`: start the plan by hand. The running agent does it, under the same guards.

use clap::Args;

use super::{ConfigArguments, Failure, Outcome, open, order};
use crate::model::ServiceName;
use crate::view::request::Request;

#[derive(Debug, Args)]
pub struct Arguments {
    /// NAME.service, container:NAME, program:NAME or process:NAME.
    service: String,
    /// Default: the first policy, by name, that selects the service.
    #[arg(long)]
    policy: Option<String>,
    /// Decide everything, do nothing, and say what would have been done.
    #[arg(long)]
    dry_run: bool,
    /// Why, for whoever finds it later.
    #[arg(long, value_parser = order::reason)]
    why: Option<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn act(arguments: Arguments) -> Outcome {
    ServiceName::parse(&arguments.service).map_err(Failure::Usage)?;
    let state = open::state(&arguments.place)?;
    let Arguments { service, policy, dry_run, why, place } = arguments;
    order::give(&state, Request::Act { service, policy, dry_run }, why, place.json).await
}
