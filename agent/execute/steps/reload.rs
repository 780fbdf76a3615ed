//! `reload`: the service's own reload. It cannot be taken back, and what of it was done is not told; but the lifetime goes
//! on, so that a service which is as it was, after one that failed or that nobody saw end, is simply left alone.

use std::time::Duration;

use super::{Done, Failure, same_lifetime};
use crate::execute::saga::Saga;
use crate::execute::world::World;
use crate::model::Reason;

pub async fn apply(saga: &Saga, step: usize, deadline: Duration, world: &World) -> Result<Done, Failure> {
    let Some(restart) = &saga.plan().target.restart else {
        return Err(Failure::new(Reason::ReloadFailed, "the service has no reload"));
    };
    let reloaded = world.ports.restarter(restart).reload(restart, deadline).await;
    reloaded.map_err(|error| Failure::new(Reason::ReloadFailed, error))?;
    same_lifetime(saga, step, Reason::ReloadFailed, world).await?;
    Ok(Done::saying("reloaded; the same process runs on"))
}
