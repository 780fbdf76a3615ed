//! `restart`: the pivot. Ends the present lifetime of the service and proves a new one.

use std::time::Duration;

use super::{Done, Failure};
use crate::execute::world::World;
use crate::model::{Plan, Reason};
use crate::ports::restarter::RestartError;

pub async fn apply(plan: &Plan, deadline: Option<Duration>, world: &World) -> Result<Done, Failure> {
    let failed = |error: RestartError| {
        let reason = match error {
            RestartError::StartLimit { .. } => Reason::StartLimitHit,
            _ => Reason::RestartFailed,
        };
        Failure::new(reason, error)
    };
    let Some(restart) = &plan.target.restart else {
        return Err(Failure::new(Reason::RestartFailed, "nothing is known that restarts this service"));
    };
    let restarter = world.ports.restarter(restart);
    let deadline = match deadline {
        Some(deadline) => deadline,
        None => restarter.own_deadline(restart).await.map_err(failed)?,
    };
    let incarnation = restarter.restart(restart, deadline).await.map_err(failed)?;
    Ok(Done::saying(format!("a new incarnation runs: {incarnation}")))
}
