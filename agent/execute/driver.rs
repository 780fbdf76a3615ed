//! The driver: asks the saga what is next, does it, and feeds back what happened.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::crash;
use crate::model::incident::Ending;
use crate::model::{Effect, Reason, duration};
use crate::ports::fleet::FleetError;
use crate::store::Pause;

use super::journal::Journal;
use super::judge;
use super::recovery;
use super::saga::{Event, Saga, Task};
use super::steps::traffic::Before;
use super::steps::{self, Failure, UndoError};
use super::tell::TrafficState;
use super::world::{BACKOFF, World};

/// How driving ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Driven {
    /// The saga rests, and its journal is written.
    Rested(Ending),
    /// The agent was asked to stop past the pivot, or while something could not be undone yet: the next start
    /// goes on from the journal.
    Left,
}

/// What was found when a step was begun, for its effect.
#[derive(Default)]
struct Begun {
    /// Until when (`Clock::monotonic`) the change may take place.
    slot_until: Option<Duration>,
    before: Option<Before>,
}

/// Drives the saga until it rests. `stop` turns true when the agent is asked to end.
pub async fn drive(mut saga: Saga, mut journal: Journal, world: &World, mut stop: watch::Receiver<bool>) -> Driven {
    let mut begun = Begun::default();
    loop {
        // For the effect that is next, and not for its second half.
        let Begun { slot_until, before } = std::mem::take(&mut begun);
        journal.flush(&saga, world);
        // What we have stopped is started before we end.
        let stopping = *stop.borrow() && !saga.has_stopped_the_service();
        match saga.task() {
            Task::Rest(ending) => {
                if !journal.flush(&saga, world) {
                    if stopping {
                        return Driven::Left;
                    }
                    // A disk that stays full keeps the incident open here, and so any second saga away.
                    tokio::select! {
                        () = tokio::time::sleep(FLUSH_EVERY) => {}
                        () = asked_to_stop(&mut stop) => {}
                    }
                    continue;
                }
                return Driven::Rested(ending);
            }
            Task::Begin(_) | Task::Act(_) if stopping && !saga.past_pivot() => {
                let reason = Reason::ShuttingDown;
                let event = Event::Interrupted { reason, detail: reason.says().into() };
                journal.record(&mut saga, event, world);
            }
            // An intent of the pivot that this loop still has before it was journaled a moment ago, by itself: what
            // another agent left was looked at by recovery. So nothing has begun.
            Task::Act(step) if stopping && saga.plan().pivot() == Some(step) => {
                let reason = Reason::ShuttingDown;
                let failure = Failure { reason, detail: reason.says().into() };
                fail(&mut saga, &mut journal, step, failure, world);
            }
            Task::Begin(_) | Task::Act(_) | Task::Withdraw | Task::Judge if stopping => return leave(&saga, world),
            Task::Begin(step) if saga.plan().steps[step].effect == Effect::Pivot && saga.holds_drain() => {
                // A drain that was lost while something else was waited for may take as long to follow as the first.
                let lost = tokio::select! {
                    biased;
                    out = steps::drain::still_out(&saga, world) => out.err(),
                    () = asked_to_stop(&mut stop) => continue,
                    pause = paused(world) => {
                        let detail = format!("paused by {}: {}", pause.who, pause.why);
                        Some(Failure { reason: Reason::Paused, detail })
                    }
                };
                match lost {
                    Some(Failure { reason, detail }) if !saga.past_pivot() => {
                        journal.record(&mut saga, Event::Interrupted { reason, detail }, world);
                    }
                    _ => begun.slot_until = begin(&mut saga, &mut journal, step, world).await,
                }
            }
            Task::Begin(step) => {
                let before = tokio::select! {
                    biased;
                    before = steps::measured_before(&saga, step, world) => before,
                    () = asked_to_stop(&mut stop) => continue,
                };
                begun = Begun { slot_until: begin(&mut saga, &mut journal, step, world).await, before };
            }
            // The last look at it before the effect: the process may have been stopped at any moment before.
            Task::Act(step) if slot_until.is_some_and(|until| world.clock.monotonic() >= until) => {
                let detail = "the step began so late that the fleet slot may be another host's by now".into();
                fail(&mut saga, &mut journal, step, Failure { reason: Reason::SlotTaken, detail }, world);
            }
            Task::Act(step) => {
                // A pivot is seen to its end; anything else may be dropped half-way: undo asks the world what is
                // so, not the journal, and what comes after the pivot is gone on with at the next start. What is done at
                // that very moment is recorded. A pause reaches a long wait as well; behind the pivot it is better to go on.
                let interruptible = saga.plan().steps[step].effect != Effect::Pivot;
                tokio::select! {
                    biased;
                    event = act(&saga, step, before, world) => {
                        crash::point(saga.plan().steps[step].step.name(), "acted");
                        let event = world.account.of(&saga, event, world).await;
                        let is_drained = matches!(event, Event::Done { .. }) && saga.drain_step() == Some(step);
                        journal.record(&mut saga, event, world);
                        crash::point(saga.plan().steps[step].step.name(), "done");
                        if is_drained {
                            tell_drained(&saga, world).await;
                        }
                    }
                    () = asked_to_stop(&mut stop), if interruptible => {}
                    pause = paused(world), if interruptible && !saga.past_pivot() => {
                        let detail = format!("paused by {}: {}", pause.who, pause.why);
                        journal.record(&mut saga, Event::Interrupted { reason: Reason::Paused, detail }, world);
                    }
                }
            }
            Task::Undo { step, preimage } => {
                crash::point(saga.plan().steps[step].step.name(), "undoing");
                let undone = tokio::select! {
                    biased;
                    event = until_it_can(Back::Undo { step, preimage: &preimage }, &saga, world) => Some(event),
                    () = gave_grace(&mut stop) => None,
                };
                match undone {
                    Some(event) => {
                        if saga.drain_step() == Some(step) && matches!(event, Event::Undone { .. }) {
                            tokio::select! {
                                biased;
                                found = steps::clients::found_again(saga.plan(), &preimage, world) => {
                                    if let Err(not_yet) = found {
                                        world.tell_not_found(saga.plan(), &not_yet);
                                    }
                                }
                                // Whoever asks the agent to end waits for what is written alone.
                                () = asked_to_stop(&mut stop) => {}
                            }
                        }
                        crash::point(saga.plan().steps[step].step.name(), "undone");
                        let event = world.account.of(&saga, event, world).await;
                        journal.record(&mut saga, event, world);
                    }
                    None => return leave(&saga, world),
                }
            }
            Task::Judge => {
                tokio::select! {
                    biased;
                    event = judge::judged(&saga, world) => {
                        crash::point("judge", "judged");
                        let event = world.account.of(&saga, event, world).await;
                        journal.record(&mut saga, event, world);
                    }
                    () = asked_to_stop(&mut stop) => {}
                }
            }
            Task::Withdraw => {
                journal.record(&mut saga, Event::Withdrawing { preimage: Value::Null }, world);
                crash::point("drain", "withdrawing");
                let withdrawn = tokio::select! {
                    biased;
                    event = until_it_can(Back::Withdraw, &saga, world) => Some(event),
                    () = gave_grace(&mut stop) => None,
                };
                match withdrawn {
                    Some(event) => {
                        crash::point("drain", "withdrawn");
                        journal.record(&mut saga, event, world);
                    }
                    None => return leave(&saga, world),
                }
            }
        }
    }
}

/// How long an undo may take once the agent is asked to stop; systemd gives 90 s before it kills.
const STOP_GRACE: Duration = Duration::from_secs(60);

/// How often a rest is tried to be written that the disk does not take.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// Ends when the agent is asked to stop. A sender that is gone never asks.
async fn asked_to_stop(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// How often a step that takes its time looks whether a person has paused the agent.
const PAUSE_LOOKED_AT_EVERY: Duration = Duration::from_secs(2);

/// Ends when the agent is paused. A store that cannot be read says nothing; the next change asks all the guards.
async fn paused(world: &World) -> Pause {
    loop {
        tokio::time::sleep(PAUSE_LOOKED_AT_EVERY).await;
        if let Ok(Some(pause)) = world.store.paused(world.clock.now()) {
            return pause;
        }
    }
}

async fn gave_grace(stop: &mut watch::Receiver<bool>) {
    asked_to_stop(stop).await;
    tokio::time::sleep(STOP_GRACE).await;
}

/// The agent stops with the saga under way: nobody but a next start goes on with it, so people hear of it now.
fn leave(saga: &Saga, world: &World) -> Driven {
    let message = world.teller(saga.plan()).left(saga.holds_drain().then(|| world.last_look(saga.plan())));
    (world.on_message)(&message);
    world.store.tell(&world.audience, &[message]);
    Driven::Left
}

/// Asks everything again, reads the pre-image, and commits the intent. Says until when the change may take place.
async fn begin(saga: &mut Saga, journal: &mut Journal, step: usize, world: &World) -> Option<Duration> {
    let planned = saga.plan().steps[step].clone();
    let changes = matches!(planned.effect, Effect::Compensable | Effect::Pivot);
    let first_change = planned.effect != Effect::ReadOnly && !saga.changed_anything();
    // Past the pivot there is no way back that a guard could send it on.
    if (changes || first_change)
        && !saga.past_pivot()
        && let Err((reason, detail)) = world.recheck.still_wanted(saga.plan()).await
    {
        journal.record(saga, Event::Interrupted { reason, detail }, world);
        return None;
    }
    let mut preimage = match steps::preimage(saga, step, world).await {
        Ok(preimage) => preimage,
        Err(failure) => {
            fail(saga, journal, step, failure, world);
            return None;
        }
    };
    let mut slot_until = None;
    if (changes || first_change) && !saga.past_pivot() {
        match begin_slot(saga, world).await {
            Ok(until) => slot_until = until,
            Err(detail) => {
                journal.record(saga, Event::Interrupted { reason: Reason::SlotTaken, detail }, world);
                return None;
            }
        }
        if first_change && let Err((reason, detail)) = world.recheck.enough_beside_others(saga.plan()).await {
            journal.record(saga, Event::Interrupted { reason, detail }, world);
            return None;
        }
    }
    if saga.plan().judged_from() == Some(step) {
        judge::note_leaked(saga.plan(), &mut preimage, world).await;
    }
    let event = Event::Intended { step, preimage };
    if changes {
        crash::point(planned.step.name(), "intending");
        if let Err(error) = journal.intend(saga, event, world) {
            let failure = Failure { reason: Reason::JournalNotWritable, detail: error.to_string() };
            fail(saga, journal, step, failure, world);
            return None;
        }
    } else {
        journal.record(saga, event, world);
    }
    crash::point(planned.step.name(), "intended");
    slot_until
}

/// Until when (`Clock::monotonic`) the change may begin; `None` where no slot is needed.
async fn begin_slot(saga: &Saga, world: &World) -> Result<Option<Duration>, String> {
    match (&saga.plan().fleet_scope, &world.ports.fleet) {
        (Some(scope), Some(fleet)) => {
            crash::point("slot", "beginning");
            let until = fleet.begin(scope, &saga.plan().incident.0).await;
            crash::point("slot", "begun");
            until.map(Some).map_err(|error| error.to_string())
        }
        (Some(_), None) => Err("agent.yaml has no `fleet` any more".into()),
        (None, _) if saga.plan().guards.fleet_slots.is_some() => Err("the plan names no fleet slot".into()),
        (None, _) => Ok(None),
    }
}

/// The registries have shown the drain: others need not count this host as about to go. Where the store does not take it
/// they do, for a while.
async fn tell_drained(saga: &Saga, world: &World) {
    let (Some(scope), Some(fleet)) = (&saga.plan().fleet_scope, &world.ports.fleet) else { return };
    match fleet.drained(scope, &saga.plan().incident.0).await {
        Ok(()) | Err(FleetError::Cannot(_)) => {}
        Err(error) => tracing::warn!(
            incident = %saga.plan().incident,
            %error,
            "cannot tell the fleet's store that {scope} is drained on this host: {error}; for a while, other hosts still \
             count this host as about to drain, and may wait for that",
        ),
    }
}

fn fail(saga: &mut Saga, journal: &mut Journal, step: usize, failure: Failure, world: &World) {
    let Failure { reason, detail } = failure;
    // A step that is refused before its effect has not touched anything.
    journal.record(saga, Event::Failed { step, reason, detail, untouched: true }, world);
}

/// Carries the step out and says what happened.
async fn act(saga: &Saga, step: usize, before: Option<Before>, world: &World) -> Event {
    match steps::apply(saga, step, before, world).await {
        Ok(done) if done.stopped => Event::Stopped { step },
        Ok(done) => Event::Done { step, detail: done.detail, helped: done.helped, note: done.note },
        Err(failure) if saga.plan().steps[step].effect == Effect::Pivot => {
            recovery::doubtful_pivot(saga, step, failure.reason, failure.detail, world).await
        }
        Err(Failure { reason, detail }) => Event::Failed { step, reason, detail, untouched: false },
    }
}

/// What is tried until it succeeds or is refused: nothing else would leave the service where people expect it.
#[derive(Clone, Copy, Debug)]
enum Back<'a> {
    /// Take a step back.
    Undo { step: usize, preimage: &'a Value },
    /// Take a service that became unhealthy in traffic out again.
    Withdraw,
}

/// What is in the way of one try.
struct Hindered {
    error: String,
    /// A person must do something about it.
    needs_a_person: bool,
    /// The registry answers, and knows no such instance: what it comes to where that lasts. After a restart of the registry
    /// its clients come back one by one.
    if_it_lasts: Option<Event>,
}

impl Back<'_> {
    /// One try. An error is something that may pass.
    async fn once(self, saga: &Saga, world: &World) -> Result<Event, Hindered> {
        match self {
            Self::Undo { step, preimage } => match steps::undo(saga, step, preimage, world).await {
                Ok(detail) => Ok(Event::Undone { step, detail }),
                Err(UndoError::Refused { reason, detail }) => Ok(Event::UndoRefused { step, reason, detail }),
                Err(UndoError::Unregistered(error)) => {
                    let gone = Event::UndoRefused { step, reason: Reason::RecordChanged, detail: error.clone() };
                    Err(Hindered { error, needs_a_person: false, if_it_lasts: Some(gone) })
                }
                Err(UndoError::Later(error)) => Err(Hindered { error, needs_a_person: false, if_it_lasts: None }),
                Err(UndoError::NeedsPerson(error)) => Err(Hindered { error, needs_a_person: true, if_it_lasts: None }),
            },
            Self::Withdraw => match steps::drain::again(saga, world).await {
                Ok(detail) => Ok(Event::Withdrawn { drained: true, detail }),
                Err(error) if error.is_passing() => Err(Hindered {
                    error: error.to_string(),
                    needs_a_person: error.needs_a_person(),
                    if_it_lasts: None,
                }),
                Err(error) => {
                    let detail = format!("cannot take the service out of traffic again: {error}");
                    Ok(Event::Withdrawn { drained: false, detail })
                }
            },
        }
    }

    /// What is being tried, and where the service stands meanwhile.
    fn words(self, saga: &Saga) -> (String, TrafficState) {
        match self {
            Self::Undo { step, .. } => {
                (format!("undoing {}", saga.plan().steps[step].step.name()), TrafficState::OutOfTraffic)
            }
            Self::Withdraw => ("taking the service out of traffic again".into(), TrafficState::InTraffic),
        }
    }
}

/// What only an unreachable party blocks is tried for ever, and told once.
async fn until_it_can(back: Back<'_>, saga: &Saga, world: &World) -> Event {
    let mut pause = BACKOFF.0;
    let mut tries = 0u32;
    let mut told = false;
    // Since when the registry has answered so without a break.
    let mut gone_since = None;
    loop {
        let (error, needs_a_person) = match back.once(saga, world).await {
            Ok(event) => return event,
            Err(Hindered { error, needs_a_person, if_it_lasts: None }) => {
                gone_since = None;
                (error, needs_a_person)
            }
            Err(Hindered { error, needs_a_person, if_it_lasts: Some(event) }) => {
                let now = tokio::time::Instant::now();
                if now - *gone_since.get_or_insert(now) >= steps::clients::gone_after(saga.plan(), &world.ports) {
                    return event;
                }
                (error, needs_a_person)
            }
        };
        tries += 1;
        let (what, place) = back.words(saga);
        if !told && (needs_a_person || tries >= TOLD_AFTER) {
            told = true;
            world.tell_still_trying(saga.plan(), &what, &error, place);
        }
        let (incident, service) = (&saga.plan().incident, &saga.plan().target.service);
        tracing::warn!(
            %incident,
            %service,
            what,
            error,
            "{service}: {what} failed: {error}; retrying in {}",
            duration::format(pause),
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Tries before people are told: some fifteen seconds of backoff.
const TOLD_AFTER: u32 = 4;
