//! Sweeps, not samples: each fault, and in each run with it a crash, a full disk and a stop at every moment.
//!
//! Whatever happens, a run ends with the service in traffic and healthy, or stuck, latched and told; it is restarted
//! once at most; and no drain is left without a latch. The fake registry panics where an unhealthy service is put
//! into traffic.

use std::time::Duration;

use strum::IntoEnumIterator;

use super::run::{Life, PATIENCE, Run, all_kept};
use crate::execute::driver::drive;
use crate::execute::fakes::{Fault, ID, Shape};
use crate::execute::journal::Journal;
use crate::execute::saga::{Event, Saga};
use crate::execute::steps::{self, UndoError};
use crate::model::{EventKind, Outcome, Reason};
use crate::ports::registry::{Registry, Traffic};
use crate::ports::restarter::RunState;

fn cases() -> impl Iterator<Item = (Shape, Fault)> {
    let all = Shape::iter().flat_map(|shape| Fault::iter().map(move |fault| (shape, fault)));
    all.filter(|(shape, fault)| meets(*shape, *fault))
}

const GENTLE: [Shape; 5] =
    [Shape::Reload, Shape::RecycleWorkers, Shape::CloseSockets, Shape::IsolateAndCall, Shape::IsolateAndRecycle];

/// The gentler runbooks meet what may happen in them, and of the rest what goes other ways for them; the others meet all of
/// the rest, or, where nothing is drained, what may happen without.
fn meets(shape: Shape, fault: Fault) -> bool {
    use Fault::*;
    let here = match shape {
        Shape::Reload => &[ReloadFails, ReloadAnswerLost, ReloadDies, IllOfIt][..],
        Shape::RecycleWorkers => &[WorkerStays, NoneStarted, MasterDies, IllOfIt],
        Shape::IsolateAndRecycle => {
            &[WorkerStays, NoneStarted, RestartedWhileDrained, RegistryAwayAtUndo, IllInTraffic]
        }
        Shape::CloseSockets => &[CloseRefused, DescriptorsStay, IllOfIt],
        Shape::IsolateAndCall => &[DrainRefused, DrainAnswerLost, NeverEmpty, IsolatedWhileDrained, RefusedAtSecond],
        Shape::EvidenceOnly => &[],
        Shape::RestartInPlace => &[
            RefusedAtSecond,
            RestartRefused,
            StartLimit,
            RestartDies,
            RestartUnheard,
            RestartAnswerLost,
            TwoHalves,
            UnhealthyAfterRestart,
            CannotBeMeasuredAtTheEnd,
        ],
        _ => return !fault.is_of_a_gentle_step(),
    };
    here.contains(&fault) || matches!(fault, Nothing | EvidenceNotKept | RefusedAtFirst | NotHelped)
}

#[test]
fn each_fault_ends_as_it_should() {
    use Fault::*;
    use Outcome::*;
    let expected = |fault: Fault| match fault {
        Nothing | RegistersItself | RegistryAwayAtRestore | RestartAnswerLost | TwoHalves => {
            (Completed, Reason::Recovered)
        }
        RegistersLate | RegistersLateInTraffic | FailsItsCheck | PassesThrough => (Completed, Reason::Recovered),
        PutBackWhileDrained | ClientsSlow => (Completed, Reason::Recovered),
        NotHelped => (Completed, Reason::NotHelped),
        CannotBeMeasuredAtTheEnd => (Completed, Reason::Unverified),
        EvidenceNotKept => (Unwound, Reason::EvidenceNotKept),
        RefusedAtFirst | RefusedAtSecond => (Unwound, Reason::GuardRefused),
        DrainRefused | DrainAnswerLost | FullOnceDrained => (Unwound, Reason::DrainFailed),
        IsolatedBefore => (Unwound, Reason::OutOfTraffic),
        ClientsStay => (Unwound, Reason::DrainIneffective),
        NeverEmpty => (Unwound, Reason::DrainTimedOut),
        RestartRefused | RestartUnheard | RegistryAwayAtUndo => (Unwound, Reason::RestartFailed),
        StartLimit => (Unwound, Reason::StartLimitHit),
        RestartDies => (Stuck, Reason::RestartFailed),
        UnhealthyAfterRestart => (Stuck, Reason::Unhealthy),
        RestartedWhileDrained => (Stuck, Reason::GoneWhileDrained),
        IllWhileDrained => (Stuck, Reason::UnhealthierThanDrained),
        // It is not ours to put back any more; but it was restarted, and is watched to its end.
        IsolatedWhileDrained => (Stuck, Reason::RecordChanged),
        DeregisteredWhileDrained | NeverRegistersAgain => (Stuck, Reason::RecordChanged),
        IllInTraffic | IllInTrafficAndHeld | ClientsNeverFind => (Stuck, Reason::UnhealthyAfterRestore),
        gentle => unreachable!("{gentle:?} happens in the gentler steps"),
    };
    for fault in Fault::iter().filter(|fault| !fault.is_of_a_gentle_step()) {
        let run = Run::new(Shape::IsolateRestartRecover, fault);
        let Life::Rested(ending) = run.first_life() else { panic!("{} did not rest", run.what) };
        assert_eq!((ending.outcome, ending.reason), expected(fault), "{}: {}", run.what, ending.detail);
        assert_eq!(run.is_told(EventKind::Stuck), ending.outcome == Stuck, "a person is called: {}", run.what);
        run.keeps_the_promise();
    }
    // What no registry knows is neither drained nor taken out.
    for (fault, outcome, reason) in [
        (Nothing, Completed, Reason::Recovered),
        (NotHelped, Completed, Reason::NotHelped),
        (EvidenceNotKept, Unwound, Reason::EvidenceNotKept),
        (RestartRefused, Unwound, Reason::RestartFailed),
        (RestartDies, Stuck, Reason::RestartFailed),
        (UnhealthyAfterRestart, Stuck, Reason::Unhealthy),
    ] {
        let run = Run::new(Shape::RestartInPlace, fault);
        let Life::Rested(ending) = run.first_life() else { panic!("{} did not rest", run.what) };
        assert_eq!((ending.outcome, ending.reason), (outcome, reason), "{}", run.what);
        run.keeps_the_promise();
    }
    let run = Run::new(Shape::EvidenceOnly, Nothing);
    let Life::Rested(ending) = run.first_life() else { panic!("{} did not rest", run.what) };
    assert_eq!((ending.outcome, ending.reason), (Completed, Reason::EvidenceKept));
    run.keeps_the_promise();
}

#[test]
fn each_fault_of_a_gentler_step_leaves_the_service_as_it_was_or_to_a_person() {
    use Fault::*;
    use Outcome::*;
    for (shape, fault, outcome, reason) in [
        (Shape::Reload, Nothing, Completed, Reason::Recovered),
        (Shape::Reload, NotHelped, Completed, Reason::NotHelped),
        (Shape::Reload, ReloadFails, Unwound, Reason::ReloadFailed),
        (Shape::Reload, ReloadAnswerLost, Unwound, Reason::ReloadFailed),
        (Shape::Reload, ReloadDies, Stuck, Reason::ReloadFailed),
        (Shape::Reload, IllOfIt, Stuck, Reason::Unhealthy),
        (Shape::RecycleWorkers, Nothing, Completed, Reason::Recovered),
        (Shape::RecycleWorkers, RefusedAtFirst, Unwound, Reason::GuardRefused),
        (Shape::RecycleWorkers, WorkerStays, Stuck, Reason::RecycleFailed),
        (Shape::RecycleWorkers, NoneStarted, Stuck, Reason::RecycleFailed),
        (Shape::RecycleWorkers, MasterDies, Stuck, Reason::IncarnationChanged),
        (Shape::RecycleWorkers, IllOfIt, Stuck, Reason::Unhealthy),
        (Shape::IsolateAndRecycle, Nothing, Completed, Reason::Recovered),
        (Shape::IsolateAndRecycle, WorkerStays, Stuck, Reason::RecycleFailed),
        (Shape::IsolateAndRecycle, NoneStarted, Stuck, Reason::RecycleFailed),
        (Shape::CloseSockets, Nothing, Completed, Reason::Recovered),
        (Shape::CloseSockets, DescriptorsStay, Completed, Reason::NotHelped),
        (Shape::CloseSockets, CloseRefused, Unwound, Reason::CloseFailed),
        (Shape::CloseSockets, IllOfIt, Stuck, Reason::Unhealthy),
        (Shape::IsolateAndCall, Nothing, Stuck, Reason::NeedsPerson),
        (Shape::IsolateAndCall, RefusedAtSecond, Unwound, Reason::GuardRefused),
    ] {
        let run = Run::new(shape, fault);
        let Life::Rested(ending) = run.first_life() else { panic!("{} did not rest", run.what) };
        assert_eq!((ending.outcome, ending.reason), (outcome, reason), "{}: {}", run.what, ending.detail);
        run.keeps_the_promise();
        let service = run.scene.service().clone();
        let holding = service.workers.iter().filter(|worker| worker.holds > 0).count();
        match (shape, fault) {
            (Shape::RecycleWorkers | Shape::IsolateAndRecycle, Nothing) => assert_eq!((service.ended, holding), (4, 0)),
            (_, NoneStarted) => assert_eq!(service.ended, 2, "it stops after the first batch"),
            (Shape::IsolateAndCall, Nothing) => {
                assert!(matches!(run.traffic(), Some(Traffic::DrainedBy(_))), "{:?}", run.traffic());
                let told: Vec<String> = run.outbox().iter().map(|outgoing| outgoing.message.to_string()).collect();
                assert!(told.iter().any(|said| said.contains("needs a person: needs_person")), "{told:?}");
            }
            _ => {}
        }
    }
}

#[test]
fn agent_killed_at_any_moment_of_a_gentler_runbook_goes_on_at_the_next_start() {
    kill(&GENTLE);
}

#[test]
fn agent_killed_at_any_moment_of_an_isolation_goes_on_at_the_next_start() {
    kill(&[Shape::IsolateRestartRecover, Shape::RestartInPlace, Shape::EvidenceOnly]);
}

#[test]
fn agent_killed_at_any_moment_with_commands_in_the_runbook_goes_on_at_the_next_start() {
    kill(&[Shape::WithCommands, Shape::WithPivots]);
}

fn kill(shapes: &[Shape]) {
    let mut count = 0;
    for (shape, fault) in cases().filter(|(shape, _)| shapes.contains(shape)) {
        for at in 0.. {
            let mut run = Run::new(shape, fault);
            run.what = format!("{}, killed at {at}", run.what);
            run.scene.trip.crash_at(at);
            if run.first_life() != Life::Crashed {
                break;
            }
            run.recover();
            run.keeps_the_promise();
            // Nobody saw how a command ended that must not be run twice; a call is for a person.
            let is_for_a_person = matches!(shape, Shape::WithPivots | Shape::IsolateAndCall);
            if fault == Fault::Nothing && !is_for_a_person {
                let outcome = run.outcome();
                let expected: &[&str] =
                    if run.scene.service().restarts > 0 { &["completed"] } else { &["completed", "unwound"] };
                assert!(expected.contains(&outcome.as_str()), "{}: nothing but the agent died: {outcome}", run.what);
            }
            count += 1;
        }
    }
    all_kept(count, format_args!("killed at any moment, {shapes:?}"));
    assert!(count > 1_000, "{count}");
}

#[test]
fn agent_killed_again_during_recovery_goes_on_all_the_same() {
    let mut count = 0;
    for fault in
        [Fault::Nothing, Fault::RestartDies, Fault::RestartRefused, Fault::IllInTraffic, Fault::RegistersItself]
    {
        for first in 0.. {
            let run = Run::new(Shape::IsolateRestartRecover, fault);
            run.scene.trip.crash_at(first);
            if run.first_life() != Life::Crashed {
                break;
            }
            for second in 0.. {
                let mut run = Run::new(Shape::IsolateRestartRecover, fault);
                run.what = format!("{}, killed at {first} and then at {second}", run.what);
                run.scene.trip.crash_at(first);
                run.first_life();
                run.scene.trip.reset();
                run.scene.trip.crash_at(second);
                if run.next_life() != Some(Life::Crashed) {
                    break;
                }
                run.recover();
                run.keeps_the_promise();
                count += 1;
            }
        }
    }
    all_kept(count, "killed at any moment, and again while recovering");
    assert!(count > 1_000, "{count}");
}

#[test]
fn disk_full_from_any_moment_on_leaves_an_isolated_service_in_traffic_or_a_person_told() {
    fill_the_disk(&[Shape::IsolateRestartRecover]);
}

#[test]
fn disk_full_from_any_moment_on_with_commands_in_the_runbook() {
    fill_the_disk(&[Shape::WithCommands]);
}

#[test]
fn disk_full_from_any_moment_on_with_pivots_and_in_place() {
    fill_the_disk(&[Shape::WithPivots, Shape::RestartInPlace, Shape::EvidenceOnly]);
}

fn fill_the_disk(shapes: &[Shape]) {
    let mut count = 0;
    for (shape, fault) in cases().filter(|(shape, _)| shapes.contains(shape)) {
        let whole = Run::new(shape, fault);
        whole.first_life();
        for at in 0..whole.scene.trip.count() {
            let mut run = Run::new(shape, fault);
            run.what = format!("{}, disk full from {at} on", run.what);
            run.scene.trip.fill_the_disk_at(at);
            let life = run.first_life();
            let service = run.scene.service().clone();
            let drained = matches!(run.traffic(), Some(Traffic::DrainedBy(_)));
            let what = format!("{}: {life:?}, {service:?}, {:?}", run.what, run.traffic());
            assert!(matches!(life, Life::Waits | Life::Rested(_)), "{what}");
            if drained || !service.healthy {
                assert!(run.is_told(EventKind::Stuck), "nobody was told: {what}");
            }
            // The agent dies with what it could not write, and finds a disk that is well.
            run.forget_memory();
            run.recover();
            run.keeps_the_promise();
            count += 1;
        }
    }
    all_kept(count, format_args!("the disk full from any moment on, {shapes:?}"));
    assert!(count > 500, "{count}");
}

#[test]
fn disk_full_from_any_moment_on_of_a_gentler_runbook() {
    fill_the_disk(&GENTLE);
}

#[test]
fn disk_that_is_freed_again_ends_the_incident_by_itself() {
    let mut count = 0;
    for fault in Fault::iter().filter(|fault| !fault.is_of_a_gentle_step()) {
        let whole = Run::new(Shape::IsolateRestartRecover, fault);
        whole.first_life();
        for at in 0..whole.scene.trip.count() {
            let mut run = Run::new(Shape::IsolateRestartRecover, fault);
            run.what = format!("{}, disk full from {at} on, then free", run.what);
            run.scene.trip.fill_the_disk_at(at);
            let stop = run.scene.trip.stop.subscribe();
            let life = run.live(async || {
                let driven = drive(Saga::new(run.plan.clone()), Journal::new(), &run.world, stop);
                let freed = async {
                    tokio::time::sleep(PATIENCE / 2).await;
                    run.world.store.refuse_writes(false);
                };
                tokio::join!(driven, freed).0
            });
            assert!(matches!(life, Life::Rested(_)), "{}: {life:?}", run.what);
            run.world.store.refuse_writes(false);
            run.keeps_the_promise();
            let rows = run.world.store.journal(&run.plan.incident).unwrap();
            let mut again = Saga::new(run.plan.clone());
            Journal::replay(&rows, &mut again).expect("what waited was written in order");
            count += 1;
        }
    }
    all_kept(count, "the disk full from any moment on, and freed again");
}

#[test]
fn asked_to_stop_at_any_moment_it_unwinds_or_is_gone_on_with() {
    let mut count = 0;
    for (shape, fault) in cases() {
        let whole = Run::new(shape, fault);
        whole.first_life();
        for at in 0..whole.scene.trip.count() {
            let mut run = Run::new(shape, fault);
            run.what = format!("{}, stopped at {at}", run.what);
            run.scene.trip.stop_at(at);
            let life = run.first_life();
            assert!(matches!(life, Life::Rested(_) | Life::Left), "{}: {life:?}", run.what);
            if life == Life::Left {
                let service = run.scene.service().clone();
                let gently = service.reloads + service.ended + service.closed > 0;
                let past = gently || service.restarts > 0 || !service.commands.is_empty();
                // What its registry does not know now may come back: its undo is the next start's.
                let past = past || fault == Fault::DeregisteredWhileDrained;
                assert!(past, "{}: left before the pivot, with nothing in the way", run.what);
                assert_eq!(service.state, RunState::Active, "{}: left stopped", run.what);
                if matches!(run.traffic(), Some(Traffic::DrainedBy(_))) {
                    assert!(run.is_told(EventKind::Stuck), "{}: left drained, and nobody was told", run.what);
                }
            }
            run.recover();
            run.keeps_the_promise();
            count += 1;
        }
    }
    all_kept(count, "asked to stop at any moment");
    assert!(count > 1_000, "{count}");
}

#[test]
fn agent_killed_with_the_service_stopped_at_its_word_starts_it_at_the_next_start() {
    let whole = Run::new(Shape::RestartInPlace, Fault::TwoHalves);
    whole.first_life();
    let mut found_stopped = 0;
    for at in 0..whole.scene.trip.count() {
        let run = Run::new(Shape::RestartInPlace, Fault::TwoHalves);
        run.scene.trip.crash_at(at);
        run.first_life();
        let is_stopped = run.scene.service().state == RunState::Inactive;
        let journaled = run.world.store.open_incidents().unwrap().pop().is_some_and(|open| {
            let last: Option<Event> = open.journal.last().and_then(|row| serde_json::from_str(&row.event).ok());
            matches!(last, Some(Event::Stopped { .. }))
        });
        run.scene.trip.reset();
        let life = run.next_life();
        match (is_stopped, journaled) {
            (true, true) => {
                found_stopped += 1;
                let Some(Life::Rested(ending)) = life else { panic!("at {at}: {life:?}") };
                assert_eq!(ending.reason, Reason::Recovered, "at {at}: {}", ending.detail);
            }
            // Whether it was us or a person who stopped it is not known.
            (true, false) => {
                let Some(Life::Rested(ending)) = life else { panic!("at {at}: {life:?}") };
                assert_eq!(ending.reason, Reason::RestartUnknown, "at {at}: {}", ending.detail);
            }
            (false, _) => {}
        }
    }
    assert!(found_stopped > 0);
}

#[test]
fn an_undo_that_only_the_registry_blocks_is_tried_for_ever_and_told() {
    let run = Run::new(Shape::IsolateRestartRecover, Fault::RestartRefused);
    let stop = run.scene.trip.stop.subscribe();
    let life = run.live(async || {
        let driven = drive(Saga::new(run.plan.clone()), Journal::new(), &run.world, stop);
        let away = async {
            // The restart is refused within the first moments, so the undo meets a registry that is away.
            while !matches!(run.scene.registry.observe(ID).await.map(|found| found.traffic), Ok(Traffic::DrainedBy(_)))
            {
                tokio::task::yield_now().await;
            }
            run.scene.registry.set_unreachable(true);
            tokio::time::sleep(Duration::from_secs(600)).await;
            assert!(run.is_told(EventKind::Stuck), "ten minutes, and nobody was told");
            run.scene.registry.set_unreachable(false);
        };
        tokio::join!(driven, away).0
    });
    assert!(matches!(&life, Life::Rested(ending) if ending.outcome == Outcome::Unwound), "{life:?}");
    assert_eq!(run.traffic(), Some(Traffic::Passing));
}

#[test]
fn what_is_told_of_traffic_is_so() {
    for (shape, fault) in cases() {
        let run = Run::new(shape, fault);
        run.first_life();
        let drained = matches!(run.traffic(), Some(Traffic::DrainedBy(_)));
        for told in run.outbox().into_iter().map(|outgoing| outgoing.message.to_string()) {
            let what = format!("{}: {told}", run.what);
            assert!(!told.contains("may get traffic") || !drained, "{what}");
            assert!(!told.contains("OUT OF TRAFFIC") || run.traffic() != Some(Traffic::Passing), "{what}");
        }
    }
}

#[test]
fn what_a_person_took_out_meanwhile_is_not_put_back() {
    for fault in [Fault::IsolatedBefore, Fault::IsolatedWhileDrained] {
        let run = Run::new(Shape::IsolateRestartRecover, fault);
        run.first_life();
        assert!(matches!(run.traffic(), Some(Traffic::Isolated { .. })), "{}", run.what);
    }
}

#[test]
fn a_damaged_journal_is_an_error_and_not_a_guess() {
    let run = Run::new(Shape::IsolateRestartRecover, Fault::Nothing);
    run.first_life();
    let rows = run.world.store.journal(&run.plan.incident).unwrap();
    for (index, row) in rows.iter().enumerate() {
        for damaged in [row.event.replace('{', ""), r#"{"event":"no_such"}"#.into()] {
            let mut rows = rows.clone();
            rows[index].event = damaged;
            Journal::replay(&rows, &mut Saga::new(run.plan.clone())).unwrap_err();
        }
        // A row that is lost cannot be guessed either.
        let mut rows = rows.clone();
        rows.remove(index);
        let lost = Journal::replay(&rows, &mut Saga::new(run.plan.clone()));
        assert!(lost.is_err() || index + 1 == run.world.store.journal(&run.plan.incident).unwrap().len());
    }
}

#[test]
fn an_undo_of_a_lifetime_that_is_gone_is_refused() {
    let run = Run::new(Shape::IsolateRestartRecover, Fault::RestartedWhileDrained);
    run.runtime.block_on(async {
        let saga = Saga::new(run.plan.clone());
        let preimage = steps::preimage(&saga, 1, &run.world).await.unwrap();
        steps::apply(&saga, 1, None, &run.world).await.unwrap();
        let refused = steps::undo(&saga, 1, &preimage, &run.world).await.unwrap_err();
        assert!(matches!(&refused, UndoError::Refused { reason: Reason::GoneWhileDrained, .. }), "{refused:?}");
    });
}
