//! `restore`: put back exactly what the drain took away, after one more passing probe.

use std::time::Duration;

use super::{Done, Failure, PROBE_DEADLINE, UndoError, drain};
use crate::execute::driver::BACKOFF;
use crate::execute::saga::Saga;
use crate::execute::tell::Place;
use crate::execute::world::World;
use crate::model::Reason;

/// Probes before a restore: a service that is found unhealthy is not put back.
const TRIES: u32 = 10;
const BETWEEN: Duration = Duration::from_secs(1);

pub async fn apply(saga: &Saga, deadline: Duration, world: &World) -> Result<Done, Failure> {
    let plan = saga.plan();
    let Some(preimage) = saga.drain_preimage() else {
        return Err(Failure::new(Reason::StepFailed, "nothing was drained"));
    };
    let preimage: drain::Preimage = serde_json::from_value(preimage.clone())
        .map_err(|error| Failure::new(Reason::RecordChanged, format!("the journaled registration: {error}")))?;

    let told_at = world.pace.elapsed() + deadline;
    let mut told = false;
    let mut pause = BACKOFF.0;
    loop {
        // Minutes may have passed since the last try, or the agent may have died: nothing goes into traffic
        // on an old answer.
        passes(saga, world).await?;
        let put_back = match drain::still_ours(plan, world).await {
            Ok(_) => drain::put_back(plan, &preimage.registrations, world).await,
            Err(error) => Err(error),
        };
        match put_back {
            Ok(said) => return Ok(Done::saying(said)),
            Err(UndoError::Refused { reason, detail }) => return Err(Failure { reason, detail }),
            // Some register themselves only a while after they answer, and are in traffic or drained from then on.
            Err(UndoError::Unregistered(detail)) if world.pace.elapsed() >= told_at => {
                return Err(Failure { reason: Reason::RecordChanged, detail });
            }
            Err(UndoError::Unregistered(detail)) => {
                tracing::info!(incident = %plan.incident, detail, "waiting for it to register itself");
            }
            Err(UndoError::Later(error)) => {
                tracing::warn!(incident = %plan.incident, error, "restore will be tried again");
                if !told && world.pace.elapsed() >= told_at {
                    told = true;
                    world.tell_still_trying(plan, "putting it back", &error, Place::OutOfTraffic);
                }
            }
        }
        world.pace.wait(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

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
