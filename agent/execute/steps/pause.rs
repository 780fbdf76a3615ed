//! `pause`: lets time pass, and holds the drain meanwhile.

use std::time::Duration;

use super::{Done, Failure, hold};
use crate::execute::saga::Saga;
use crate::execute::world::World;
use crate::model::duration;

const LOOK_EVERY: Duration = Duration::from_secs(1);

pub async fn apply(saga: &Saga, length: Duration, world: &World) -> Result<Done, Failure> {
    let end = world.pace.elapsed() + length;
    loop {
        hold(saga, world).await;
        let left = end.saturating_sub(world.pace.elapsed());
        if left.is_zero() {
            return Ok(Done::saying(format!("{} have passed", duration::format(length))));
        }
        world.pace.wait(LOOK_EVERY.min(left)).await;
    }
}
