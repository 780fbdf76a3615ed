//! `wait_drained`: until few enough inbound connections are left. Outbound pools never drain and are not counted.

use std::time::Duration;

use super::{Done, Failure, drain};
use crate::execute::saga::Saga;
use crate::execute::world::World;
use crate::model::runbook::OnTimeout;
use crate::model::{Reason, duration};

const LOOK_EVERY: Duration = Duration::from_secs(1);

pub async fn apply(
    saga: &Saga,
    inbound_at_most: u64,
    timeout: Duration,
    on_timeout: OnTimeout,
    world: &World,
) -> Result<Done, Failure> {
    let deadline = world.pace.elapsed() + timeout;
    loop {
        hold(saga, world).await;
        let left = world.measure.inbound(saga.plan()).await;
        let said = match &left {
            Ok(count) if *count <= inbound_at_most => {
                return Ok(Done::saying(format!("{count} inbound connections are left")));
            }
            Ok(count) => format!("{count} inbound connections are left after {}", duration::format(timeout)),
            Err(error) => format!("the inbound connections could not be counted: {error}"),
        };
        if world.pace.elapsed() >= deadline {
            return match on_timeout {
                OnTimeout::Proceed => Ok(Done::saying(format!("{said}; going on"))),
                OnTimeout::Unwind => Err(Failure::new(Reason::DrainTimedOut, said)),
            };
        }
        world.pace.wait(LOOK_EVERY).await;
    }
}

/// Holds the drain; a registry that does not answer now is asked again at the next look.
async fn hold(saga: &Saga, world: &World) {
    if let Err(error) = drain::hold(saga, world).await {
        tracing::warn!(%error, incident = %saga.plan().incident, "the drain could not be looked at");
    }
}
