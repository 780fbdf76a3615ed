//! A service whose registration is gone when it is to be put back: one that registers itself only a while after it
//! answers, and one that never does.

use std::time::Duration;

use super::run::{Life, Run};
use crate::execute::driver::drive;
use crate::execute::fakes::{self, Fault, ID, Shape};
use crate::execute::journal::Journal;
use crate::execute::saga::{Event, Saga};
use crate::execute::world::BACKOFF;
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
    assert_eq!(
        (restored(&run), run.traffic()),
        ("put back: fake/rpc-order-1; clients find it".into(), Some(Traffic::Passing))
    );
}

#[test]
fn registered_a_while_after_it_answers_with_the_drain_gone_is_found_in_traffic() {
    let run = isolated(Fault::RegistersLateInTraffic, Duration::from_secs(2));
    assert_eq!(rests(&run).outcome, Outcome::Completed);
    let said = "fake/rpc-order-1 was not changed: in traffic and passing, isolated by nobody; clients find it";
    assert_eq!((restored(&run), run.traffic()), (said.into(), Some(Traffic::Passing)));
}

#[test]
fn never_registered_again_is_stuck_and_told_once_the_registry_has_said_so_for_long_enough() {
    let took = |restore_within: Duration| {
        let run = isolated(Fault::NeverRegistersAgain, restore_within);
        let ending = rests(&run);
        assert_eq!((ending.outcome, ending.reason), (Outcome::Stuck, Reason::RecordChanged), "{}", ending.detail);
        assert!(ending.detail.contains("is not registered any more"), "{}", ending.detail);
        assert!(run.is_told(EventKind::Stuck));
        run.world.pace.elapsed()
    };
    let gone_after = Duration::from_secs(60);
    assert!(took(Duration::ZERO) >= gone_after);
    assert_eq!(took(Duration::ZERO), took(Duration::from_secs(600)), "the step's deadline is another's");
}

#[test]
fn not_registered_any_more_before_the_pivot_refuses_the_undo_once_the_registry_has_said_so_for_long_enough() {
    let run = isolated(Fault::DeregisteredWhileDrained, Duration::from_secs(600));
    let stop = run.scene.trip.stop.subscribe();
    let life = run.live(async || {
        let began = tokio::time::Instant::now();
        let driven = drive(Saga::new(run.plan.clone()), Journal::new(), &run.world, stop).await;
        let gone_after = Duration::from_secs(60);
        assert!((gone_after..gone_after + 2 * BACKOFF.1).contains(&began.elapsed()), "{:?}", began.elapsed());
        driven
    });
    run.keeps_the_promise();
    let Life::Rested(ending) = life else { panic!("{life:?}") };
    assert_eq!((ending.outcome, ending.reason), (Outcome::Stuck, Reason::RecordChanged), "{}", ending.detail);
    assert_eq!((run.scene.service().restarts, run.scene.registry.traffic(ID)), (0, None));
    assert!(run.is_told(EventKind::Stuck));
}
