//! `wait_drained`: until few enough inbound connections are left. Outbound pools never drain and are not counted; of an
//! inbound pool that idles, only the connections by which data came or went within `idle_for` count, where that is said.

use std::time::Duration;

use super::{Done, Failure, drain, hold};
use crate::execute::saga::Saga;
use crate::execute::world::{Inbound, World};
use crate::model::runbook::OnTimeout;
use crate::model::{Reason, duration};

const LOOK_EVERY: Duration = Duration::from_secs(1);

pub async fn apply(
    saga: &Saga,
    inbound_at_most: u64,
    idle_for: Option<Duration>,
    timeout: Duration,
    on_timeout: OnTimeout,
    world: &World,
) -> Result<Done, Failure> {
    let begun = world.pace.elapsed();
    let deadline = begun + timeout;
    loop {
        if !hold(saga, world).await && !saga.past_pivot() {
            drain::out_again(saga, world).await?;
        }
        // Without `idle_for` all of them count; which had traffic since the drain is said all the same.
        let quiet = idle_for.unwrap_or(world.pace.elapsed() - begun);
        let said = match world.measure.inbound(saga.plan(), quiet).await {
            Ok(Inbound { left, active }) => {
                let within = match idle_for {
                    Some(idle) => format!("within {}", duration::format(idle)),
                    None => "since the drain".into(),
                };
                let said = format!("{left} inbound connections are left, {active} of them with traffic {within}");
                let counted = if idle_for.is_some() { active } else { left };
                if counted <= inbound_at_most {
                    return Ok(Done::saying(format!("drained: {said}")));
                }
                said
            }
            Err(error) => format!("the inbound connections could not be counted: {error}"),
        };
        if world.pace.elapsed() >= deadline {
            let said = format!("not seen drained after {}: {said}", duration::format(timeout));
            return match on_timeout {
                OnTimeout::Proceed => Ok(Done::saying(format!("{said}; the runbook goes on (`on_timeout: proceed`)"))),
                OnTimeout::Unwind => Err(Failure::new(Reason::DrainTimedOut, said)),
            };
        }
        world.pace.wait(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::fakes::{self, Fault, Scene, Shape};

    /// Seven connections that idle from the beginning on: what is said of them, and when.
    fn wait(idle_for: Option<Duration>) -> (Result<Done, Failure>, Duration) {
        let world = fakes::world(&Scene::new(Fault::NeverEmpty));
        let saga = Saga::new(fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing)));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let minute = Duration::from_secs(60);
        let waited = runtime.block_on(apply(&saga, 0, idle_for, minute, OnTimeout::Unwind, &world));
        (waited, world.pace.elapsed())
    }

    #[test]
    fn an_idle_pool_counts_as_drained_only_where_that_is_said() {
        let (done, after) = wait(Some(Duration::from_secs(10)));
        assert_eq!(after, Duration::from_secs(10));
        assert_eq!(done.unwrap().detail, "drained: 7 inbound connections are left, 0 of them with traffic within 10s");
        let (unsaid, after) = wait(None);
        assert_eq!((unsaid.unwrap_err().reason, after), (Reason::DrainTimedOut, Duration::from_secs(60)));
    }
}
