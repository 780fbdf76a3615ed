//! A drain, and what takes it back, are done when clients see it; and clients that stay have the last word.

use std::time::Duration;

use super::run::{Life, Run};
use crate::execute::driver::drive;
use crate::execute::fakes::{self, CLIENTS_FOLLOW, Fault, ID, Shape, VIEW_LAGS};
use crate::execute::journal::Journal;
use crate::execute::saga::{Event, Saga};
use crate::model::incident::Ending;
use crate::model::runbook::OnTimeout;
use crate::model::{EventKind, Outcome, Reason, Step};
use crate::ports::registry::Traffic;

fn rests(run: &Run) -> Ending {
    let life = run.first_life();
    run.keeps_the_promise();
    let Life::Rested(ending) = life else { panic!("{}: {life:?}", run.what) };
    ending
}

/// What a step said, and when it was done, since the run began.
fn done(run: &Run, name: &str) -> (String, Duration) {
    let began = run.world.store.incident(&run.plan.incident).unwrap().unwrap().began;
    let rows = run.world.store.journal(&run.plan.incident).unwrap();
    let said = rows.iter().find_map(|row| match serde_json::from_str(&row.event).unwrap() {
        Event::Done { step, detail, .. } if run.plan.steps[step].step.name() == name => {
            Some((detail, row.at.duration_since(began).unsigned_abs()))
        }
        _ => None,
    });
    said.unwrap_or_else(|| panic!("{}: no {name} was done", run.what))
}

#[test]
fn a_drain_and_a_restore_end_when_the_slowest_client_has_followed() {
    let run = Run::new(Shape::IsolateRestartRecover, Fault::ClientsSlow);
    assert_eq!(rests(&run).outcome, Outcome::Completed);
    let (drain, drained) = done(&run, "drain");
    assert!(drain.contains("waited 1m35s for clients to follow"), "{drain}");
    let (_, checked) = done(&run, "health_check");
    let (restore, restored) = done(&run, "restore");
    assert!(restore.ends_with("waited 1m35s for clients to follow"), "{restore}");
    assert!(
        drained >= CLIENTS_FOLLOW && restored - checked >= CLIENTS_FOLLOW,
        "{drained:?}, {checked:?}, {restored:?}"
    );
}

/// Nothing restarts it: so its drain is taken back.
fn taken_back(fault: Fault) -> Run {
    let mut run = Run::new(Shape::IsolateRestartRecover, fault);
    run.plan.target.restart = None;
    let stop = run.scene.trip.stop.subscribe();
    let (plan, world) = (run.plan.clone(), &run.world);
    let life = run.live(async || drive(Saga::new(plan), Journal::new(), world, stop).await);
    assert!(matches!(&life, Life::Rested(ending) if ending.outcome == Outcome::Unwound), "{life:?}");
    run
}

#[test]
fn what_is_taken_back_before_its_restart_ends_when_clients_find_it_again() {
    let run = taken_back(Fault::ClientsSlow);
    let rows = run.world.store.journal(&run.plan.incident).unwrap();
    let at =
        |is: fn(&Event) -> bool| rows.iter().find(|row| is(&serde_json::from_str(&row.event).unwrap())).unwrap().at;
    let (failed, undone) = (at(|e| matches!(e, Event::Failed { .. })), at(|e| matches!(e, Event::Undone { .. })));
    assert!(undone.duration_since(failed).unsigned_abs() >= CLIENTS_FOLLOW, "{failed} {undone}");
    assert!(VIEW_LAGS < CLIENTS_FOLLOW);
}

#[test]
fn what_is_taken_back_and_is_not_found_by_clients_is_told() {
    let run = taken_back(Fault::ClientsNeverFind);
    let told = run.outbox().into_iter().any(|outgoing| outgoing.message.title.ends_with("clients do not find it"));
    assert!(told && run.is_told(EventKind::Stuck));
}

#[test]
fn clients_that_stay_have_the_drain_taken_back_and_nothing_restarted() {
    let run = Run::new(Shape::IsolateRestartRecover, Fault::ClientsStay);
    let ending = rests(&run);
    assert_eq!((ending.outcome, ending.reason), (Outcome::Unwound, Reason::DrainIneffective), "{}", ending.detail);
    let says = "the drain is ineffective, clients go on coming: 40.0 new connections/s before the drain, 40.0 new \
                connections/s after it";
    assert!(ending.detail.starts_with(says), "{}", ending.detail);
    assert_eq!((run.scene.service().restarts, run.traffic()), (0, Some(Traffic::Passing)));
}

#[test]
fn clients_that_stay_are_restarted_under_where_that_is_said() {
    let mut steps = fakes::steps(Shape::IsolateRestartRecover, Fault::ClientsStay);
    for step in &mut steps {
        if let Step::Drain { on_busy, .. } = step {
            *on_busy = OnTimeout::Proceed;
        }
    }
    let run = Run::of("on_busy: proceed".into(), steps, Fault::ClientsStay);
    assert_eq!(rests(&run).outcome, Outcome::Completed);
    let (drain, _) = done(&run, "drain");
    assert!(drain.contains("40.0 new connections/s before the drain, 40.0 new connections/s after it"), "{drain}");
}

#[test]
fn what_another_puts_back_while_clients_follow_is_drained_again_before_it_is_restarted() {
    let run = Run::new(Shape::IsolateRestartRecover, Fault::PutBackWhileDrained);
    assert_eq!(rests(&run).outcome, Outcome::Completed);
    let (_, drained) = done(&run, "drain");
    // Settled twice.
    assert!(drained >= Duration::from_secs(10), "{drained:?}");
    assert_eq!((run.scene.service().restarts, run.scene.registry.traffic(ID)), (1, Some(Traffic::Passing)));
}
