//! The steps, one a file: what each does, and how it is taken back.

pub mod call;
pub mod clients;
mod close_sockets;
pub mod drain;
mod health_check;
mod pause;
pub mod preimage;
pub mod recycle_workers;
mod reload;
pub mod restart;
mod restore;
mod run;
mod snapshot;
pub mod traffic;
mod verify;
mod wait_drained;

use std::time::Duration;

use serde_json::{Value, json};

use crate::model::{EventKind, Incarnation, Plan, Reason, Step};
use crate::ports::registry::RegistryError;

use super::saga::{Helped, Saga};
use super::world::World;
use traffic::Before;

/// A step that was carried out: what to tell, and whether a verification found help.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    pub detail: String,
    pub helped: Option<Helped>,
    /// Only the first half of a restart: to be journaled, and then applied again for the second.
    pub stopped: bool,
    /// What the incident's end must say besides.
    pub note: Option<String>,
}

impl Done {
    fn saying(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), helped: None, stopped: false, note: None }
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
    /// The same, and a person must do something about it; it is tried again all the same.
    NeedsPerson(String),
    /// Nothing stands where the record stood. A service that registers itself may do so yet.
    Unregistered(String),
    /// It must not be, or cannot be: a person is needed.
    Refused { reason: Reason, detail: String },
}

impl UndoError {
    /// By an error that [may pass](RegistryError::is_passing).
    fn later(error: &RegistryError) -> Self {
        if error.needs_a_person() { Self::NeedsPerson(error.to_string()) } else { Self::Later(error.to_string()) }
    }
}

/// One question to a probe.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// Probes of a service in traffic: it counts as unhealthy once so many in a row have failed.
#[derive(Debug, Default)]
struct Failing(u32);

impl Failing {
    const AT_MOST: u32 = 3;

    /// Asks once. False where it failed, but not often enough to count.
    async fn ask(&mut self, plan: &Plan, world: &World) -> Result<bool, Failure> {
        match world.probe(plan.target.health.as_ref(), PROBE_DEADLINE).await {
            Ok(()) => self.0 = 0,
            Err(failure) => {
                self.0 += 1;
                if self.0 >= Self::AT_MOST {
                    return Err(Failure::new(Reason::UnhealthyAfterRestore, failure));
                }
            }
        }
        Ok(self.0 == 0)
    }
}

/// What is there before the step takes effect; read just before its intent is committed.
pub async fn preimage(saga: &Saga, step: usize, world: &World) -> Result<Value, Failure> {
    match &saga.plan().steps[step].step {
        Step::Drain { .. } => drain::preimage(saga.plan(), world).await,
        Step::Restart { .. } => {
            let Some(incarnation) = running(saga.plan(), Reason::RestartFailed, world).await? else {
                return Err(Failure::new(Reason::RestartFailed, "the service declares no restart"));
            };
            restart::preimage(saga.plan(), incarnation, world).await
        }
        Step::Reload { .. } => Ok(json!({ "incarnation": running(saga.plan(), Reason::ReloadFailed, world).await? })),
        Step::CloseSockets { .. } => {
            Ok(json!({ "incarnation": running(saga.plan(), Reason::CloseFailed, world).await? }))
        }
        Step::RecycleWorkers(how) => {
            let incarnation = running(saga.plan(), Reason::RecycleFailed, world).await?;
            recycle_workers::preimage(saga.plan(), incarnation, how, world).await
        }
        _ => Ok(Value::Null),
    }
}

/// The lifetime that is about to be acted on; `None` where nothing is known that could tell.
async fn running(plan: &Plan, failed: Reason, world: &World) -> Result<Option<Incarnation>, Failure> {
    let incarnation = world.settled_incarnation(plan).await.map_err(|error| Failure::new(failed, error))?;
    match incarnation {
        None if plan.target.restart.is_some() => {
            Err(Failure::new(Reason::NotActive, "the service is not running, or is starting or stopping"))
        }
        incarnation => Ok(incarnation),
    }
}

/// The lifetime that the step set out to act on, by its pre-image.
pub fn before(saga: &Saga, step: usize) -> Option<Incarnation> {
    serde_json::from_value(saga.preimage(step)?.get("incarnation")?.clone()).ok()
}

/// What a step that must not end the lifetime ends with: it has not.
async fn same_lifetime(saga: &Saga, step: usize, failed: Reason, world: &World) -> Result<(), Failure> {
    let now = world.settled_incarnation(saga.plan()).await.map_err(|error| Failure::new(failed, error))?;
    if now == before(saga, step) {
        return Ok(());
    }
    let now = now.map_or("none that is settled".into(), |now| now.to_string());
    Err(Failure::new(Reason::IncarnationChanged, format!("the process was replaced: now runs {now}")))
}

/// Holds the drain while a step waits. False where others had put it back, and it was drained again. A registry that does not
/// answer now is asked again at the next look.
async fn hold(saga: &Saga, world: &World) -> bool {
    match drain::hold(saga, world).await {
        Ok(again) => again.is_none(),
        Err(error) => {
            tracing::warn!(
                %error,
                incident = %saga.plan().incident,
                "cannot read the drain of {}: {error}; retrying",
                saga.plan().target.service,
            );
            true
        }
    }
}

/// What takes its time to measure before the step, and so before everything is asked for the last time.
pub async fn measured_before(saga: &Saga, step: usize, world: &World) -> Option<Before> {
    match saga.plan().steps[step].step {
        Step::Drain { .. } => Some(Before::measured(saga.plan(), world).await),
        _ => None,
    }
}

/// Carries the step out. Repeating it after a crash is harmless, except for a pivot, which is never repeated.
pub async fn apply(saga: &Saga, step: usize, before: Option<Before>, world: &World) -> Result<Done, Failure> {
    let plan = saga.plan();
    match &plan.steps[step].step {
        Step::Snapshot { deadline, required, commands } => {
            snapshot::apply(plan, commands, *deadline, *required, world).await
        }
        Step::Drain { settle, deadline, on_busy } => {
            drain::apply(saga, *settle, *deadline, *on_busy, before, world).await
        }
        Step::WaitDrained { inbound_at_most, idle_for, timeout, on_timeout } => {
            wait_drained::apply(saga, *inbound_at_most, *idle_for, *timeout, *on_timeout, world).await
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
        Step::Reload { deadline } => reload::apply(saga, step, *deadline, world).await,
        Step::RecycleWorkers(how) => recycle_workers::apply(saga, step, how, world).await,
        Step::CloseSockets { older_than, at_most } => {
            close_sockets::apply(saga, step, *older_than, *at_most, world).await
        }
        Step::Pause { length } => pause::apply(saga, *length, world).await,
        Step::Call { text } => Err(call::failure(text)),
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
