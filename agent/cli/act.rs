//! `unwait act SERVICE`: start the plan by hand. The running agent does it, under the same guards.

use clap::Args;

use super::{ConfigArguments, Failure, Outcome, open, render};
use crate::daemon::control;
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
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn act(arguments: Arguments) -> Outcome {
    ServiceName::parse(&arguments.service).map_err(Failure::Usage)?;
    let state = open::state(&arguments.place)?;
    let request = Request::Act {
        service: arguments.service,
        policy: arguments.policy,
        dry_run: arguments.dry_run,
        who: String::new(),
    };
    ask(&state, &request, arguments.place.json).await
}

/// Asks the running agent, and says what it answered.
pub async fn ask(state: &std::path::Path, request: &Request, json: bool) -> Outcome {
    let reply = control::call(state, request).await;
    let reply = reply.map_err(|error| Failure::Unreachable(error.to_string()))?;
    let Some(reply) = reply else {
        return Err(Failure::Unreachable(format!("no agent runs on {}; start it with `unwait run`", state.display())));
    };
    if json {
        render::json(&reply);
    } else if reply.ok {
        println!("{}", reply.text);
    }
    match reply.ok {
        true => Ok(()),
        false => Err(Failure::Wrong(if json { String::new() } else { reply.text })),
    }
}
