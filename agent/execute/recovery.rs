//! After a crash: from the journaled plan alone, by asking what is so.

use std::time::Duration;

use crate::model::{Effect, Incarnation, Reason, Step, duration, plan};
use crate::ports::restarter::{Liveness, RestartError, RunState};

use super::journal::{Journal, JournalError};
use super::saga::{Event, Saga, State};
use super::steps::{self, Failure, PROBE_DEADLINE, call, recycle_workers};
use super::world::World;
use crate::store::OpenIncident;

/// A saga that a former agent left, ready to be driven on.
pub async fn resume(open: OpenIncident, world: &World) -> Result<(Saga, Journal), JournalError> {
    let mut saga = Saga::new(open.plan);
    let mut journal = Journal::replay(&open.journal, &mut saga)?;
    let event = match saga.state() {
        // Only its second half is left, which may be repeated.
        State::Acting { .. } if saga.has_stopped_the_service() => None,
        // Each pivot, and not only the first: none is ever repeated.
        State::Acting { step } if saga.plan().steps[*step].effect == Effect::Pivot => {
            let step = *step;
            let detail = "the agent died while it was under way".to_string();
            Some(doubtful_pivot(&saga, step, Reason::AgentRestarted, detail, world).await)
        }
        State::Ready { .. } | State::Acting { .. } if !saga.past_pivot() => {
            let reason = Reason::AgentRestarted;
            Some(Event::Interrupted { reason, detail: reason.says().into() })
        }
        _ => None,
    };
    if let Some(event) = event {
        journal.record(&mut saga, event, world);
    }
    Ok((saga, journal))
}

/// How long a service may go on changing, or its restarter say nothing, before a doubtful pivot is called unknown.
const SETTLE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What became of a pivot that failed or whose end nobody saw. The same lifetime, active, and no job under way, for
/// longer than it may take to end: it did not begin. A new lifetime: it took place. Anything else is not known, and
/// never tried again.
pub async fn doubtful_pivot(saga: &Saga, step: usize, reason: Reason, detail: String, world: &World) -> Event {
    match &saga.plan().steps[step].step {
        Step::Reload { .. } | Step::RecycleWorkers(_) | Step::CloseSockets { .. } => {
            return doubtful_gentle(saga, step, reason, detail, world).await;
        }
        Step::Call { text } => {
            let Failure { reason, detail } = call::failure(text);
            return Event::Failed { step, reason, detail, untouched: false };
        }
        _ => {}
    }
    let failed = |reason: Reason, untouched: bool, detail: String| Event::Failed { step, reason, detail, untouched };
    let (Step::Restart { .. }, Some(restart)) = (&saga.plan().steps[step].step, &saga.plan().target.restart) else {
        let reason = if reason == Reason::AgentRestarted { Reason::RestartUnknown } else { reason };
        return failed(reason, false, detail);
    };
    let before = steps::before(saga, step);
    // By the time and not by looks: a restarter that hangs takes a minute for each, and people are to be told.
    let began = world.pace.elapsed();
    loop {
        // Counted from before the look: a lifetime that is seen now has lasted for so long.
        let lasted = world.pace.elapsed() - began;
        let seen = look(restart, &before, world).await;
        let is_over = world.pace.elapsed() - began >= SETTLE;
        match seen {
            Ok((now, _)) if now.state == RunState::Changing && !is_over => {}
            Ok((now, Some(patience))) if now.state == RunState::Active => match lasted >= patience {
                true => return failed(reason, true, format!("{detail}; the service runs on as it did")),
                false if !is_over => {}
                false => {
                    let reason = if reason == Reason::AgentRestarted { Reason::RestartUnknown } else { reason };
                    let patience = duration::format(patience);
                    let detail = format!("{detail}; the same process still runs, and may take {patience} to end");
                    return failed(reason, false, detail);
                }
            },
            Ok((now, _)) if now.state == RunState::Active && now.incarnation.is_some() => {
                let detail = format!("{detail}; a new process runs all the same");
                return Event::Done { step, detail, helped: None, note: None };
            }
            Ok((now, _)) => {
                let reason = if reason == Reason::AgentRestarted { Reason::RestartUnknown } else { reason };
                return failed(reason, false, format!("{detail}; the service is {}", now.state));
            }
            // What its manager does not know any more will not be known later either.
            Err(error) if is_over || matches!(error, RestartError::Unknown { .. }) => {
                return failed(Reason::RestartUnknown, false, format!("{detail}; {error}"));
            }
            Err(error) => tracing::warn!(
                %error,
                "cannot read the state of the service after its restart: {error}; retrying in {}",
                duration::format(LOOK_EVERY),
            ),
        }
        world.pace.wait(LOOK_EVERY).await;
    }
}

/// What is so now; and where it is the lifetime from before, for how long it may look untouched though it was asked to end.
async fn look(
    restart: &plan::Restart,
    before: &Option<Incarnation>,
    world: &World,
) -> Result<(Liveness, Option<Duration>), RestartError> {
    let restarter = world.ports.restarter(restart);
    let now = restarter.observe(restart).await?;
    let same = now.incarnation.is_some() && now.incarnation == *before;
    let patience = if same { Some(restarter.settles_within(restart).await?) } else { None };
    Ok((now, patience))
}

/// How long a service may take to be as it was after a gentler step, once nobody is at work on it: a master starts its
/// workers within moments.
const GENTLE_SETTLE: Duration = Duration::from_secs(15);
/// Looks in a row that must find it so.
const IN_A_ROW: u32 = 3;

/// How a service is not as it was.
enum Otherwise {
    /// Nobody will make it so again by itself.
    ForGood(String),
    /// Somebody is at work on it.
    Changing(String),
    /// It may be so in a moment.
    Perhaps(String),
}

/// What became of a step that was to leave the lifetime alone, and failed, or whose end nobody saw. The same lifetime,
/// active, healthy, with as many workers that serve as before: there is nothing to take back, so it unwinds. Anything else is a
/// person's. It is not begun again.
async fn doubtful_gentle(saga: &Saga, step: usize, reason: Reason, detail: String, world: &World) -> Event {
    // By the time and not by looks, as above.
    let began = world.pace.elapsed();
    let (mut changed, mut in_a_row) = (began, 0);
    loop {
        let looked = world.pace.elapsed();
        let (is_over, otherwise) = match as_it_was(saga, step, world).await {
            Ok(()) => {
                in_a_row += 1;
                if in_a_row == IN_A_ROW {
                    let detail = format!("{detail}; the service runs on unchanged");
                    return Event::Failed { step, reason, detail, untouched: true };
                }
                world.pace.wait(LOOK_EVERY).await;
                continue;
            }
            Err(Otherwise::ForGood(how)) => (true, how),
            Err(Otherwise::Changing(how)) => {
                changed = looked;
                (looked - began >= SETTLE, how)
            }
            Err(Otherwise::Perhaps(how)) => (looked - changed >= GENTLE_SETTLE, how),
        };
        in_a_row = 0;
        if is_over {
            let reason = if reason == Reason::AgentRestarted { Reason::NotAsBefore } else { reason };
            return Event::Failed { step, reason, detail: format!("{detail}; {otherwise}"), untouched: false };
        }
        world.pace.wait(LOOK_EVERY).await;
    }
}

async fn as_it_was(saga: &Saga, step: usize, world: &World) -> Result<(), Otherwise> {
    let plan = saga.plan();
    if let Some(restart) = &plan.target.restart {
        let now = world.ports.restarter(restart).observe(restart).await;
        let now = now.map_err(|error| Otherwise::Perhaps(error.to_string()))?;
        match now.state {
            RunState::Active if now.incarnation == steps::before(saga, step) => {}
            RunState::Active => return Err(Otherwise::ForGood("another process runs than before".into())),
            state @ RunState::Changing => return Err(Otherwise::Changing(format!("the service is {state}"))),
            state => return Err(Otherwise::ForGood(format!("the service is {state}"))),
        }
    }
    if let Step::RecycleWorkers(how) = &plan.steps[step].step {
        let now = world.measure.workers(plan, how.older_than).await.map_err(Otherwise::Perhaps)?;
        if let Some(fewer) = recycle_workers::fewer(saga, step, &now) {
            return Err(Otherwise::Perhaps(fewer));
        }
    }
    let healthy = world.probe(plan.target.health.as_ref(), PROBE_DEADLINE).await;
    healthy.map_err(|failure| Otherwise::Perhaps(failure.to_string()))
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
