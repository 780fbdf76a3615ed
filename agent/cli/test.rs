//! `unwait test`: the policies' own tests. No network and no root.

use clap::Args;
use serde_json::json;

use super::{ConfigArguments, Failure, Outcome, open, render};
use crate::decide::rehearse::rehearse;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    place: ConfigArguments,
}

pub fn test(arguments: Arguments) -> Outcome {
    let config = open::config(&arguments.place)?;
    let mut rehearsals = Vec::new();
    for policy in &config.policies {
        let tests = config.tests.get(&policy.name).map(Vec::as_slice).unwrap_or_default();
        rehearsals.extend(tests.iter().map(|test| rehearse(policy, test)));
    }
    let failed = rehearsals.iter().filter(|rehearsal| rehearsal.failure.is_some()).count();
    let passed = rehearsals.len() - failed;
    if arguments.place.json {
        let all: Vec<_> = rehearsals
            .iter()
            .map(|one| json!({ "policy": one.policy, "test": one.name, "ok": one.failure.is_none(), "failure": one.failure }))
            .collect();
        render::json(&json!({ "passed": passed, "failed": failed, "tests": all }));
    } else {
        for one in &rehearsals {
            match &one.failure {
                None => println!("ok      {}: {}", one.policy, one.name),
                Some(failure) => println!("FAILED  {}: {}\n        {failure}", one.policy, one.name),
            }
        }
        println!("{passed} passed, {failed} failed");
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Wrong(String::new())) }
}
