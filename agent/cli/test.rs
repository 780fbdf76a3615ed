//! `unwait test`: the policies' own tests. No network and no root.

use clap::Args;
use serde_json::json;

use super::{ConfigArguments, Failure, Outcome, open, render};
use crate::decide::rehearse::{Rehearsal, rehearse};
use crate::report::junit::{self, TestCase};

#[derive(Debug, Args)]
pub struct Arguments {
    /// JUnit's XML instead of text, for CI: a suite for each policy.
    #[arg(long, conflicts_with = "json")]
    junit: bool,
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
    if arguments.junit {
        let case = |one: Rehearsal| TestCase { suite: one.policy, name: one.name, failure: one.failure };
        let cases: Vec<TestCase> = rehearsals.into_iter().map(case).collect();
        print!("{}", junit::of(&cases));
    } else if arguments.place.json {
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
