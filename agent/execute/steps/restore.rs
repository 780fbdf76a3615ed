//! `restore`: put back exactly what the drain took away, after one more passing probe.

use std::time::Duration;

use super::clients::{self, Shown};
use super::preimage::Preimage;
use super::{Done, Failing, Failure, PROBE_DEADLINE, UndoError, drain};
use crate::execute::saga::Saga;
use crate::execute::tell::TrafficState;
use crate::execute::world::{BACKOFF, World};
use crate::model::{Plan, Reason, duration};

/// Probes before a restore: a service that is found unhealthy is not put back.
const TRIES: u32 = 10;
const BETWEEN: Duration = Duration::from_secs(1);

pub async fn apply(saga: &Saga, deadline: Duration, world: &World) -> Result<Done, Failure> {
    let plan = saga.plan();
    let Some(preimage) = saga.drain_preimage() else {
        return Err(Failure::new(Reason::StepFailed, "nothing was drained"));
    };
    let preimage: Preimage = serde_json::from_value(preimage.clone())
        .map_err(|error| Failure::new(Reason::RecordChanged, format!("the journaled registration: {error}")))?;

    let told_at = world.pace.elapsed() + deadline;
    let mut told = false;
    let mut gone_since = None;
    let mut pause = BACKOFF.0;
    loop {
        // Minutes may have passed since the last try, or the agent may have died: nothing goes into traffic
        // on an old answer.
        passes(saga, world).await?;
        let put_back = match drain::still_ours(plan, world).await {
            Ok(_) => drain::put_back(plan, &preimage.registrations, world).await,
            Err(error) => Err(error),
        };
        let needs_a_person = matches!(put_back, Err(UndoError::NeedsPerson(_)));
        match put_back {
            Ok(said) => return found(plan, said, deadline, world).await,
            Err(UndoError::Refused { reason, detail }) => return Err(Failure { reason, detail }),
            // Some register themselves only a while after they answer, and are in traffic or drained from then on; and a
            // registry that was away knows nobody at first.
            Err(UndoError::Unregistered(detail)) => {
                let since = *gone_since.get_or_insert(world.pace.elapsed());
                if world.pace.elapsed() - since >= clients::gone_after(plan, &world.ports) {
                    return Err(Failure { reason: Reason::RecordChanged, detail });
                }
                tracing::info!(
                    incident = %plan.incident,
                    detail,
                    "{} is not registered yet ({detail}): waiting for it to register itself",
                    plan.target.service,
                );
            }
            Err(UndoError::Later(error) | UndoError::NeedsPerson(error)) => {
                gone_since = None;
                tracing::warn!(
                    incident = %plan.incident,
                    error,
                    "cannot restore {}: {error}; retrying in {}",
                    plan.target.service,
                    duration::format(pause),
                );
                if !told && (needs_a_person || world.pace.elapsed() >= told_at) {
                    told = true;
                    world.tell_still_trying(plan, "putting the service back", &error, TrafficState::OutOfTraffic);
                }
            }
        }
        world.pace.wait(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// It is put back, by the registry's record: until clients find it, and the slowest has had the time to follow. Where the
/// view does not show it in time, the verification judges. A service that falls ill meanwhile is not waited for.
async fn found(plan: &Plan, put_back: String, deadline: Duration, world: &World) -> Result<Done, Failure> {
    let follow = clients::follow_within(plan, &world.ports);
    let since = world.pace.elapsed();
    let mut failing = Failing::default();
    let shown = loop {
        failing.ask(plan, world).await?;
        if let Some(shown) = clients::look(Shown::In, plan, since, deadline + follow, world).await {
            break shown;
        }
    };
    while world.pace.elapsed() < since + follow {
        failing.ask(plan, world).await?;
        world.pace.wait(PROBE_EVERY.min((since + follow).saturating_sub(world.pace.elapsed()))).await;
    }
    Ok(Done::saying(match shown {
        Err(not_yet) => format!("{put_back}; {not_yet}"),
        Ok(()) if follow.is_zero() => format!("{put_back}; clients find it"),
        Ok(()) => {
            format!("{put_back}; waited {} for clients to follow", duration::format(world.pace.elapsed() - since))
        }
    }))
}

const PROBE_EVERY: Duration = Duration::from_secs(2);

async fn passes(saga: &Saga, world: &World) -> Result<(), Failure> {
    let mut tries = 0;
    loop {
        match world.probe(saga.plan().target.health.as_ref(), PROBE_DEADLINE).await {
            Ok(()) => return Ok(()),
            Err(failure) => {
                tries += 1;
                if tries == TRIES {
                    // A former try, of this agent or of one that died, may have put it back where it is registered besides.
                    let reason = match drain::is_out(saga.plan(), world).await {
                        true => Reason::Unhealthy,
                        false => Reason::UnhealthyAfterRestore,
                    };
                    return Err(Failure::new(reason, format!("just before the restore: {failure}")));
                }
            }
        }
        world.pace.wait(BETWEEN).await;
    }
}
