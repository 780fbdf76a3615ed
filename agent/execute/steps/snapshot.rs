//! `snapshot`: keep the evidence before anything is touched.

use std::time::Duration;

use super::{Done, Failure};
use crate::execute::world::World;
use crate::model::{Plan, Reason};

pub async fn apply(
    plan: &Plan,
    commands: &[Vec<String>],
    deadline: Duration,
    required: bool,
    world: &World,
) -> Result<Done, Failure> {
    match world.keeper.keep(plan, commands, deadline).await {
        Ok(kept) => {
            if let Some(dir) = &kept.dir
                && let Err(error) = world.store.set_evidence(&plan.incident, dir, &kept.blame)
            {
                tracing::warn!(
                    %error,
                    "cannot store where the evidence of incident {} is: {error}; find it in {}",
                    plan.incident,
                    dir.display(),
                );
            }
            Ok(Done::saying(kept.says))
        }
        Err(error) if required => Err(Failure::new(Reason::EvidenceNotKept, error)),
        Err(error) => Ok(Done::saying(format!("the evidence was not kept (the runbook does not require it): {error}"))),
    }
}
