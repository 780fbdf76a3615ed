//! `health_check`: until enough probes in a row have passed. `timeout` is a maximum that ends early on success.
//! The drain is held meanwhile: a service that registers itself at its start is taken out again.

use std::time::Duration;

use super::{Done, Failure, PROBE_DEADLINE, drain};
use crate::execute::saga::Saga;
use crate::execute::world::World;
use crate::model::{Reason, duration};

pub async fn apply(
    saga: &Saga,
    timeout: Duration,
    successes: u32,
    interval: Duration,
    world: &World,
) -> Result<Done, Failure> {
    let deadline = world.pace.elapsed() + timeout;
    let mut passed = 0;
    let mut notes = Vec::new();
    loop {
        match drain::hold(saga, world).await {
            Ok(said) => notes.extend(said),
            Err(error) => tracing::warn!(
                %error,
                incident = %saga.plan().incident,
                "cannot read the drain of {}: {error}; retrying",
                saga.plan().target.service,
            ),
        }
        let answer = world.probe(saga.plan().target.health.as_ref(), PROBE_DEADLINE).await;
        passed = if answer.is_ok() { passed + 1 } else { 0 };
        if passed >= successes {
            notes.insert(0, format!("{passed} probes in a row passed"));
            return Ok(Done::saying(notes.join("; ")));
        }
        if world.pace.elapsed() >= deadline {
            let last = match answer {
                Ok(()) => format!("only {passed} of {successes} probes in a row passed"),
                Err(failure) => failure.to_string(),
            };
            let detail = format!("not healthy within {}{}: {last}", duration::format(timeout), after(saga));
            return Err(Failure::new(Reason::Unhealthy, detail));
        }
        world.pace.wait(interval).await;
    }
}

/// What was done to it that it is not healthy after.
fn after(saga: &Saga) -> String {
    let pivot = saga.plan().pivot().filter(|_| saga.past_pivot());
    pivot.map_or(String::new(), |pivot| format!(" after the step {}", saga.plan().steps[pivot].step.name()))
}
