//! The steps, one a file: what each does, and how it is taken back.

pub mod drain;
mod health_check;
pub mod restart;
mod restore;
mod run;
mod snapshot;
mod verify;
mod wait_drained;

use std::time::Duration;

use serde_json::Value;

use crate::model::{EventKind, Reason, Step};

use super::saga::Saga;
use super::world::World;

/// A step that was carried out: what to tell, and whether a verification found help.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    pub detail: String,
    pub helped: Option<bool>,
    /// Only the first half of a restart: to be journaled, and then applied again for the second.
    pub stopped: bool,
}

impl Done {
    fn saying(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), helped: None, stopped: false }
    }
}

/// A step that failed, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub reason: Reason,
    pub detail: String,
}

impl Failure {
    pub fn new(reason: Reason, detail: impl ToString) -> Self {
        Self { reason, detail: detail.to_string() }
    }
}

/// Why a step is not taken back.
#[derive(Clone, Debug, PartialEq)]
pub enum UndoError {
    /// Something that may pass is in the way.
    Later(String),
    /// It must not be, or cannot be: a person is needed.
    Refused { reason: Reason, detail: String },
}

/// One question to a probe.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// What is there before the step takes effect; read just before its intent is committed.
pub async fn preimage(saga: &Saga, step: usize, world: &World) -> Result<Value, Failure> {
    match &saga.plan().steps[step].step {
        Step::Drain { .. } => drain::preimage(saga.plan(), world).await,
        Step::Restart { .. } => {
            let incarnation = world
                .settled_incarnation(saga.plan())
                .await
                .map_err(|error| Failure::new(Reason::RestartFailed, error))?;
            let Some(incarnation) = incarnation else {
                let detail = "the service is not running, or somebody is at work on it";
                return Err(Failure::new(Reason::NotActive, detail));
            };
            restart::preimage(saga.plan(), incarnation, world).await
        }
        _ => Ok(Value::Null),
    }
}

/// Carries the step out. Repeating it after a crash is harmless, except for a pivot, which is never repeated.
pub async fn apply(saga: &Saga, step: usize, world: &World) -> Result<Done, Failure> {
    let plan = saga.plan();
    match &plan.steps[step].step {
        Step::Snapshot { deadline, required, commands } => {
            snapshot::apply(plan, commands, *deadline, *required, world).await
        }
        Step::Drain { settle, deadline } => drain::apply(saga, *settle, *deadline, world).await,
        Step::WaitDrained { inbound_at_most, timeout, on_timeout } => {
            wait_drained::apply(saga, *inbound_at_most, *timeout, *on_timeout, world).await
        }
        Step::Restart { deadline } => restart::apply(saga, step, *deadline, world).await,
        Step::HealthCheck { timeout, successes, interval } => {
            health_check::apply(saga, *timeout, *successes, *interval, world).await
        }
        Step::Restore { deadline } => restore::apply(saga, *deadline, world).await,
        Step::Verify { soak, expect } => verify::apply(saga, *soak, expect, world).await,
        Step::Run { argv, deadline, .. } => run::apply(argv, *deadline, world).await,
        Step::Notify { text } => {
            let mut message = world.teller(plan).said(text);
            message.event = EventKind::Step;
            world.store.tell(&world.audience, &[message]);
            Ok(Done::saying(text.clone()))
        }
    }
}

/// Takes back a compensable step. Asks the world what is so, so that undoing what never took place, or twice, is
/// harmless.
pub async fn undo(saga: &Saga, step: usize, preimage: &Value, world: &World) -> Result<String, UndoError> {
    match &saga.plan().steps[step].step {
        Step::Drain { .. } => drain::undo(saga.plan(), preimage, world).await,
        Step::Run { effect, deadline, .. } => run::undo(effect, *deadline, world).await,
        other => Err(UndoError::Refused {
            reason: Reason::StepFailed,
            detail: format!("{} cannot be taken back", other.name()),
        }),
    }
}
