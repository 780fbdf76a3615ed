//! `unwait notify test`: one message to every destination, now, and what each of them answered.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{ConfigArguments, Failure, Outcome, open, render};
use crate::model::message::Letter;
use crate::model::{EventKind, Message};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Send one message to every destination and show what each answered.
    Test(Arguments),
}

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    place: ConfigArguments,
}

const DEADLINE: Duration = Duration::from_secs(15);

pub async fn notify(verb: Verb) -> Outcome {
    let Verb::Test(arguments) = verb;
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
