//! After a crash: from the journaled plan alone, by asking what is so.

use std::time::Duration;

use crate::model::{Effect, Reason, Step};
use crate::ports::restarter::RunState;

use super::journal::{Journal, JournalError};
use super::saga::{Event, Saga, State};
use super::steps::restart;
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

/// What became of a pivot that failed or whose end nobody saw. The same lifetime, active, and no job under way: it did
/// not begin. A new lifetime: it took place. Anything else is not known, and never tried again.
pub async fn doubtful_pivot(saga: &Saga, step: usize, reason: Reason, detail: String, world: &World) -> Event {
    let failed = |reason: Reason, untouched: bool, detail: String| Event::Failed { step, reason, detail, untouched };
    let (Step::Restart { .. }, Some(restart)) = (&saga.plan().steps[step].step, &saga.plan().target.restart) else {
        let reason = if reason == Reason::AgentRestarted { Reason::RestartUnknown } else { reason };
        return failed(reason, false, detail);
    };
    let before = restart::before(saga, step);
    // By the time and not by looks: a restarter that hangs takes a minute for each, and people are to be told.
    let until = world.pace.elapsed() + SETTLE;
    loop {
        let is_over = world.pace.elapsed() >= until;
        match world.ports.restarter(restart).observe(restart).await {
            Ok(now) if now.state == RunState::Changing && !is_over => {}
            Ok(now) if now.state == RunState::Active && now.incarnation.is_some() && now.incarnation == before => {
                return failed(reason, true, format!("{detail}; the service runs on as it did"));
            }
            Ok(now) if now.state == RunState::Active && now.incarnation.is_some() => {
                let detail = format!("{detail}; a new incarnation runs all the same");
                return Event::Done { step, detail, helped: None };
            }
            Ok(now) => {
                let reason = if reason == Reason::AgentRestarted { Reason::RestartUnknown } else { reason };
                return failed(reason, false, format!("{detail}; the service is {}", now.state));
            }
            Err(error) if is_over => {
                return failed(Reason::RestartUnknown, false, format!("{detail}; {error}"));
            }
            Err(error) => tracing::warn!(%error, "the restarter does not answer yet"),
        }
        world.pace.wait(LOOK_EVERY).await;
    }
}
