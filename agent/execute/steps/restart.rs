//! `restart`: the pivot. Ends the present lifetime of the service and proves a new one; in two halves, with the journal
//! between them, where the service's manager can only stop and start.

use std::time::Duration;

use serde_json::Value;

use super::{Done, Failure};
use crate::execute::saga::Saga;
use crate::execute::world::World;
use crate::model::{Incarnation, Plan, Reason, plan};
use crate::ports::restarter::{Before, RestartError, Restarted};

/// `deadline` is that of each half.
pub async fn apply(saga: &Saga, step: usize, deadline: Option<Duration>, world: &World) -> Result<Done, Failure> {
    let failed = |error: RestartError| {
        let reason = match error {
            RestartError::StartLimit { .. } => Reason::StartLimitHit,
            _ => Reason::RestartFailed,
        };
        Failure::new(reason, error)
    };
    let Some(restart) = &saga.plan().target.restart else {
        return Err(Failure::new(Reason::RestartFailed, "the service declares no restart"));
    };
    let restarter = world.ports.restarter(restart);
    let deadline = match deadline {
        Some(deadline) => deadline,
        None => restarter.own_deadline(restart).await.map_err(failed)?,
    };
    let incarnation = if saga.has_stopped_the_service() {
        let Some(before) = before(saga, step) else {
            return Err(Failure::new(Reason::RestartFailed, "the journal does not say which process was stopped"));
        };
        restarter.start(restart, &before, deadline).await.map_err(failed)?
    } else {
        match restarter.restart(restart, deadline).await.map_err(failed)? {
            Restarted::NewIncarnation(same) if super::before(saga, step).as_ref() == Some(&same) => {
                let detail = format!("a restart was reported, and the same process still runs: {same}");
                return Err(Failure::new(Reason::RestartFailed, detail));
            }
            Restarted::NewIncarnation(incarnation) => incarnation,
            Restarted::Stopping => return Ok(Done { stopped: true, ..Done::saying("the service is being stopped") }),
        }
    };
    Ok(Done::saying(format!("a new process runs: {incarnation}")))
}

/// The lifetime that is about to be ended, and what its successor needs to know of it.
pub async fn preimage(plan: &Plan, incarnation: Incarnation, world: &World) -> Result<Value, Failure> {
    if let Some(plan::Restart::Process(process)) = &plan.target.restart {
        match world.measure.ends_a_holder(plan).await {
            Ok(true) => {}
            // A pid file may be older than the process that has its number by now.
            Ok(false) => {
                let detail = format!(
                    "the process {incarnation} that {} names, and its children hold none of the leaked sockets: the \
                     pid may belong to another service now, and is not ended",
                    process.pid_file.display()
                );
                return Err(Failure::new(Reason::RestartFailed, detail));
            }
            Err(error) => {
                tracing::warn!(
                    incident = %plan.incident,
                    error,
                    "cannot check that the process in {} ({}) holds the leaked sockets: {error}; unwait relies on the pid file \
                     and goes on",
                    process.pid_file.display(),
                    incarnation.says(),
                )
            }
        }
    }
    let kept = match &plan.target.restart {
        Some(restart) => world.ports.restarter(restart).remember(restart, &incarnation).await,
        None => Ok(Value::Null),
    };
    let kept = kept.map_err(|error| Failure::new(Reason::RestartFailed, error))?;
    Ok(serde_json::to_value(Before { incarnation, kept }).expect("plain data"))
}

/// The lifetime that the step set out to end.
fn before(saga: &Saga, step: usize) -> Option<Before> {
    serde_json::from_value(saga.preimage(step)?.clone()).ok()
}
