//! What one failure means, step by step: what is given up, what is tried again, and what people hear of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::run::{Life, Run};
use crate::execute::driver::drive;
use crate::execute::fakes::{self, Fault, ID, Scene, Shape};
use crate::execute::journal::Journal;
use crate::execute::saga::Saga;
use crate::execute::steps::{self, drain};
use crate::execute::world::Commands;
use crate::model::incident::Ending;
use crate::model::plan::{Binding, Health};
use crate::model::{EventKind, Outcome, Reason, Step};
use crate::ports::probe::{Probe, ProbeFailure};
use crate::ports::registry::Traffic;
use crate::ports::registry::fake::FakeRegistry;
use crate::ports::restarter::RunState;
use crate::store::{Pause, Store};

fn rests(run: &Run) -> Ending {
    let life = run.first_life();
    run.keeps_the_promise();
    let Life::Rested(ending) = life else { panic!("{}: {life:?}", run.what) };
    ending
}

/// Fails so often, and passes from then on.
struct FailsAtFirst(AtomicU32);

#[async_trait]
impl Probe for FailsAtFirst {
    async fn ask(&self, _health: &Health, _deadline: Duration) -> Result<(), ProbeFailure> {
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => Err(ProbeFailure { asked: "PING".into(), answer: "no answer in time".into(), is_an_answer: true }),
            Err(_) => Ok(()),
        }
    }
}

#[tokio::test]
async fn three_probes_that_fail_in_a_row_are_ill_and_two_are_not() {
    for (failing, ill) in [(1, false), (2, false), (3, true)] {
        let mut world = fakes::world(&Scene::new(Fault::Nothing));
        world.ports.probe = Arc::new(FailsAtFirst(failing.into()));
        let saga = Saga::new(fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing)));
        let last = saga.plan().steps.len() - 1;
        let verified = steps::apply(&saga, last, None, &world).await.err().map(|failure| failure.reason);
        assert_eq!(verified, ill.then_some(Reason::UnhealthyAfterRestore), "{failing} in a row");
    }
}

#[test]
fn a_service_that_failed_its_check_is_put_back_as_it_was_found_and_nobody_waits_for_clients() {
    let run = Run::new(Shape::IsolateRestartRecover, Fault::RestartRefused);
    run.scene.registry.set_healthy(ID, false);
    let ending = rests(&run);
    assert_eq!((ending.outcome, ending.reason), (Outcome::Unwound, Reason::RestartFailed), "{}", ending.detail);
    assert_eq!(run.traffic(), Some(Traffic::Failing));
    let told = run.outbox();
    assert!(!told.iter().any(|told| told.message.lines.iter().any(|line| line.contains("do not find"))), "{told:?}");
}

#[test]
fn evidence_that_is_not_required_holds_nothing_up() {
    let mut steps = fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing);
    let Some(Step::Snapshot { required, .. }) = steps.first_mut() else { panic!("the evidence comes first") };
    *required = false;
    let run = Run::of("evidence that is not required".into(), steps, Fault::EvidenceNotKept);
    assert_eq!(rests(&run).reason, Reason::Recovered);
}

#[test]
fn a_service_that_does_not_run_is_not_reloaded() {
    let run = Run::of("stopped".into(), fakes::steps(Shape::Reload, Fault::Nothing), Fault::Nothing);
    run.scene.service().state = RunState::Inactive;
    let life = run.first_life();
    assert!(matches!(&life, Life::Rested(ending) if ending.reason == Reason::NotActive), "{life:?}");
    assert_eq!(run.scene.service().reloads, 0);
}

#[test]
fn a_command_is_taken_back_by_its_undo() {
    let steps = fakes::steps(Shape::WithCommands, Fault::RestartRefused);
    let run = Run::of("a command with an undo".into(), steps, Fault::RestartRefused);
    assert_eq!(rests(&run).outcome, Outcome::Unwound);
    assert_eq!(run.scene.service().commands, ["/bin/quiet", "/bin/unquiet"]);
}

#[test]
fn ill_just_before_it_is_put_back_it_is_left_out_and_not_taken_out_again() {
    let mut steps = fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing);
    steps.retain(|step| !matches!(step, Step::HealthCheck { .. }));
    let run = Run::of("no health check".into(), steps, Fault::UnhealthyAfterRestart);
    let ending = rests(&run);
    assert_eq!((ending.outcome, ending.reason), (Outcome::Stuck, Reason::Unhealthy), "{}", ending.detail);
    assert!(matches!(run.traffic(), Some(Traffic::DrainedBy(_))), "{:?}", run.traffic());
}

#[test]
fn ill_in_traffic_it_is_taken_out_once_the_registry_answers_again() {
    let steps = fakes::steps(Shape::IsolateRestartRecover, Fault::IllInTraffic);
    let run = Run::of("ill, and the registry away".into(), steps, Fault::IllInTraffic);
    let stop = run.scene.trip.stop.subscribe();
    let life = run.live(async || {
        let driven = drive(Saga::new(run.plan.clone()), Journal::new(), &run.world, stop);
        let away = async {
            while run.scene.service().healthy {
                tokio::task::yield_now().await;
            }
            run.scene.registry.set_unreachable(true);
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert!(run.is_told(EventKind::Stuck), "a minute, and nobody was told");
            run.scene.registry.set_unreachable(false);
        };
        tokio::join!(driven, away).0
    });
    run.keeps_the_promise();
    assert!(matches!(&life, Life::Rested(ending) if ending.reason == Reason::UnhealthyAfterRestore), "{life:?}");
    assert!(matches!(run.traffic(), Some(Traffic::DrainedBy(_))), "{:?}", run.traffic());
}

#[test]
fn a_certificate_in_the_way_of_an_undo_is_told_at_the_first_try_and_tried_again_until_it_is_renewed() {
    let run = Run::new(Shape::IsolateRestartRecover, Fault::RestartRefused);
    let stop = run.scene.trip.stop.subscribe();
    let life = run.live(async || {
        let driven = drive(Saga::new(run.plan.clone()), Journal::new(), &run.world, stop);
        let ended = async {
            while !matches!(run.scene.registry.traffic(ID), Some(Traffic::DrainedBy(_))) {
                tokio::task::yield_now().await;
            }
            run.scene.registry.set_distrusted(true);
            // A registry that is away is told of after some fifteen seconds.
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(run.is_told(EventKind::Stuck), "five seconds, and nobody was told");
            let told = run.outbox().pop().unwrap().message;
            assert!(told.lines.iter().any(|line| line.contains("expired at 2026-11-29T00:00:00Z")), "{told:?}");
            run.scene.registry.set_distrusted(false);
        };
        tokio::join!(driven, ended).0
    });
    assert!(matches!(&life, Life::Rested(ending) if ending.outcome == Outcome::Unwound), "{life:?}");
    assert_eq!(run.traffic(), Some(Traffic::Passing));
}

#[tokio::test]
async fn of_two_registries_the_one_that_may_answer_later_decides_that_it_is_tried_again() {
    let scene = Scene::new(Fault::DrainRefused);
    let mut world = fakes::world(&scene);
    let away = Arc::new(FakeRegistry::new("away"));
    away.set_unreachable(true);
    world.ports.registries.insert("away".into(), away);
    let mut plan = fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing));
    plan.target.bindings.insert(0, Binding::new("away", ID));
    for _ in 0..2 {
        let error = drain::again(&Saga::new(plan.clone()), &world).await.unwrap_err();
        assert!(error.is_passing(), "{error}");
        plan.target.bindings.reverse();
    }
}

#[test]
fn while_it_is_tried_to_put_it_back_what_is_in_the_way_stands_beside_the_incident() {
    for (fault, what) in [
        (Fault::RegistryAwayAtRestore, "putting the service back is still being tried: "),
        (Fault::RegistryAwayAtUndo, "undoing drain is still being tried: "),
    ] {
        // As whoever looks while it goes on.
        let shown = (0..).find_map(|at| {
            let run = Run::new(Shape::IsolateRestartRecover, fault);
            run.scene.service().away = 20;
            run.scene.trip.crash_at(at);
            match run.first_life() {
                Life::Crashed => run.world.store.open_incidents().unwrap().pop().and_then(|open| open.waits_for),
                other => Some(format!("it was never shown: {other:?}")),
            }
        });
        let shown = shown.unwrap();
        assert!(shown.starts_with(what) && shown.contains("OUT OF TRAFFIC when last seen, "), "{fault:?}: {shown}");
    }
}

/// A person pauses the agent while this program runs, which takes ten minutes then.
struct PausedDuring(&'static str, Arc<Store>);

#[async_trait]
impl Commands for PausedDuring {
    async fn run(&self, argv: &[String], _deadline: Duration) -> Result<String, String> {
        if argv[0] == self.0 {
            let since = "2026-11-22T18:43:29Z".parse().unwrap();
            self.1.pause(&Pause { who: "ann".into(), why: "stop it".into(), since, until: None }).unwrap();
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
        Ok(format!("{}: ended with 0", argv[0]))
    }
}

#[test]
fn a_pause_reaches_a_long_step_before_the_pivot_and_none_behind_it() {
    for (during, outcome, reason) in
        [("/bin/quiet", Outcome::Unwound, Reason::Paused), ("/bin/warm", Outcome::Completed, Reason::Recovered)]
    {
        let mut run = Run::new(Shape::WithCommands, Fault::Nothing);
        run.world.commands = Arc::new(PausedDuring(during, Arc::clone(&run.world.store)));
        let ending = rests(&run);
        assert_eq!((ending.outcome, ending.reason), (outcome, reason), "{during}: {}", ending.detail);
        assert!(reason != Reason::Paused || ending.detail.contains("paused by ann: stop it"), "{}", ending.detail);
    }
}
