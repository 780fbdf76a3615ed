//! A service whose registration is gone when it is to be put back: one that registers itself only a while after it
//! answers, and one that never does.

use std::time::Duration;

use super::run::{Life, Run};
use crate::execute::driver::{BACKOFF, drive};
use crate::execute::fakes::{self, Fault, ID, Shape};
use crate::execute::journal::Journal;
use crate::execute::saga::{Event, Saga};
use crate::model::incident::Ending;
use crate::model::{EventKind, Outcome, Reason, Step};
use crate::ports::registry::Traffic;

fn isolated(fault: Fault, restore_within: Duration) -> Run {
    let mut steps = fakes::steps(Shape::IsolateRestartRecover, fault);
    for step in &mut steps {
        if let Step::Restore { deadline } = step {
            *deadline = restore_within;
        }
    }
    Run::of(format!("{fault:?}"), steps, fault)
}

fn rests(run: &Run) -> Ending {
    let life = run.first_life();
    run.keeps_the_promise();
    let Life::Rested(ending) = life else { panic!("{}: {life:?}", run.what) };
    ending
}

/// What the restore said when it was done.
fn restored(run: &Run) -> String {
    let rows = run.world.store.journal(&run.plan.incident).unwrap();
    let done = rows.iter().find_map(|row| match serde_json::from_str(&row.event).unwrap() {
        Event::Done { step, detail, .. } if run.plan.steps[step].step.name() == "restore" => Some(detail),
        _ => None,
    });
    done.expect("it was restored")
}

#[test]
fn registered_a_while_after_it_answers_with_the_drain_standing_is_restored() {
    let run = isolated(Fault::RegistersLate, Duration::from_secs(2));
    assert_eq!(rests(&run).outcome, Outcome::Completed);
    assert_eq!((restored(&run), run.traffic()), ("back in traffic: fake/rpc-order-1".into(), Some(Traffic::Passing)));
}

#[test]
fn registered_a_while_after_it_answers_with_the_drain_gone_is_found_in_traffic() {
    let run = isolated(Fault::RegistersLateInTraffic, Duration::from_secs(2));
    assert_eq!(rests(&run).outcome, Outcome::Completed);
    let said = "fake/rpc-order-1 left as it is: in traffic and passing, isolated by nobody";
    assert_eq!((restored(&run), run.traffic()), (said.into(), Some(Traffic::Passing)));
}

#[test]
fn never_registered_again_is_stuck_and_told_after_the_restores_deadline() {
    let took = |restore_within: Duration| {
        let run = isolated(Fault::DeregisteredWhileDrained, restore_within);
        let ending = rests(&run);
        assert_eq!((ending.outcome, ending.reason), (Outcome::Stuck, Reason::RecordChanged), "{}", ending.detail);
        assert!(ending.detail.contains("is not registered any more"), "{}", ending.detail);
        assert!(run.is_told(EventKind::Stuck));
        run.world.pace.elapsed()
    };
    let waited = took(Duration::from_secs(600)) - took(Duration::ZERO);
    assert!(waited >= Duration::from_secs(600), "{waited:?}");
    assert!(waited <= Duration::from_secs(600) + BACKOFF.1, "{waited:?}");
}

#[test]
fn not_registered_any_more_before_the_pivot_refuses_the_undo_at_once() {
    let mut run = isolated(Fault::DeregisteredWhileDrained, Duration::from_secs(600));
    // Nothing restarts it: so the drain is taken back.
    run.plan.target.restart = None;
    let stop = run.scene.trip.stop.subscribe();
    let life = run.live(async || {
        let began = tokio::time::Instant::now();
        let driven = drive(Saga::new(run.plan.clone()), Journal::new(), &run.world, stop).await;
        assert!(began.elapsed() < BACKOFF.0, "it was tried again");
        driven
    });
    run.keeps_the_promise();
    let Life::Rested(ending) = life else { panic!("{life:?}") };
    assert_eq!((ending.outcome, ending.reason), (Outcome::Stuck, Reason::RecordChanged), "{}", ending.detail);
    assert_eq!((run.scene.service().restarts, run.scene.registry.traffic(ID)), (0, None));
    assert!(run.is_told(EventKind::Stuck));
}
