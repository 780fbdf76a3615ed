//! `unwait notify test`: one message to every destination, now, and what each of them answered. `unwait notify route`: who
//! would be told of an event, and why.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{ConfigArguments, Failure, Outcome, open, order, render};
use crate::daemon::route::routes;
use crate::model::message::Letter;
use crate::model::{EventKind, Message};
use crate::view::request::Request;
use crate::view::route::{RouteNow, Routes};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Send one message to every destination and show what each answered.
    Test(Arguments),
    /// Show who would be told of an event of a service, who would not, and why.
    Route(RouteArguments),
}

#[derive(Debug, Args)]
pub struct RouteArguments {
    /// NAME.service, container:NAME, program:NAME or process:NAME.
    service: String,
    /// breach, held, approval, start, step, end, stuck, recovered, operator or review.
    #[arg(value_parser = event)]
    event: EventKind,
    /// Of this policy alone.
    #[arg(long)]
    policy: Option<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

fn event(text: &str) -> Result<EventKind, String> {
    serde_json::from_value(json!(text)).map_err(|_| format!("`{text}` is no event"))
}

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    place: ConfigArguments,
}

const DEADLINE: Duration = Duration::from_secs(15);

pub async fn notify(verb: Verb) -> Outcome {
    match verb {
        Verb::Test(arguments) => test(arguments).await,
        Verb::Route(arguments) => route(arguments).await,
    }
}

async fn route(arguments: RouteArguments) -> Outcome {
    let RouteArguments { service, event, policy, place } = arguments;
    let request = Request::Route { service: service.clone(), event, policy: policy.clone() };
    let routes: Routes = match order::call(&open::state(&place)?, request, None).await? {
        Some(reply) if reply.ok => reply.carries().map_err(Failure::Unreachable)?,
        Some(reply) => return Err(Failure::Wrong(reply.text)),
        None => {
            let wiring = open::wiring(open::config(&place)?)?;
            routes(&wiring, &service, event, policy.as_deref()).map_err(Failure::Wrong)?
        }
    };
    if place.json {
        render::json(&routes);
        return Ok(());
    }
    let row = |row: &RouteNow| {
        let told = if row.is_told { "yes" } else { "no" };
        vec![row.destination.clone(), row.policy.clone().unwrap_or_default(), told.into(), row.why.clone()]
    };
    render::table(&["DESTINATION", "POLICY", "TOLD", "WHY"], &routes.rows.iter().map(row).collect::<Vec<_>>());
    if routes.rows.is_empty() {
        println!("the host's file names no destination under `notify`");
    }
    Ok(())
}

async fn test(arguments: Arguments) -> Outcome {
    let wiring = open::wiring(open::config(&arguments.place)?)?;
    if wiring.notifiers.is_empty() {
        return Err(Failure::Wrong("the host's file names no destination under `notify`".into()));
    }
    let message = Message {
        labels: wiring.labels(),
        lines: vec!["Messages of this host reach you.".into()],
        ..Message::new(
            EventKind::Test,
            &wiring.host.name,
            wiring.host.clock.now(),
            format!("unwait on {}: this is a test", wiring.host.name),
        )
    };
    let id = format!("test-{}", message.at.as_millisecond());
    let mut answers = Vec::new();
    for (name, notifier) in &wiring.notifiers {
        let answer = match tokio::time::timeout(DEADLINE, notifier.deliver(Letter::new(&id, &message))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_string()),
        };
        answers.push((name, answer));
    }
    if arguments.place.json {
        let all: Vec<_> = answers
            .iter()
            .map(|(name, answer)| json!({ "destination": name, "ok": answer.is_ok(), "error": answer.as_ref().err() }))
            .collect();
        render::json(&all);
    } else {
        for (name, answer) in &answers {
            match answer {
                Ok(()) => println!("{name}: taken"),
                Err(error) => println!("{name}: {error}"),
            }
        }
    }
    match answers.iter().all(|(_, answer)| answer.is_ok()) {
        true => Ok(()),
        false => Err(Failure::Wrong(String::new())),
    }
}
