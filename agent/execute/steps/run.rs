//! `run`: a command of the operator's, argv and never a shell.

use std::time::Duration;

use super::{Done, Failure, UndoError};
use crate::execute::world::World;
use crate::model::Reason;
use crate::model::runbook::RunEffect;

pub async fn apply(argv: &[String], deadline: Duration, world: &World) -> Result<Done, Failure> {
    match world.commands.run(argv, deadline).await {
        Ok(said) => Ok(Done::saying(said)),
        Err(error) => Err(Failure::new(Reason::StepFailed, error)),
    }
}

pub async fn undo(effect: &RunEffect, deadline: Duration, world: &World) -> Result<String, UndoError> {
    let RunEffect::Compensable { undo } = effect else {
        return Err(UndoError::Refused { reason: Reason::StepFailed, detail: "the command declares no undo".into() });
    };
    world
        .commands
        .run(undo, deadline)
        .await
        .map_err(|error| UndoError::Refused { reason: Reason::StepFailed, detail: format!("undo: {error}") })
}
