//! The runbooks as they are shipped, and two of the operator's own making: each step is made to fail, each call to the
//! outside fails once and from any moment on, and each step and undo is done twice.

use strum::IntoEnumIterator;

use super::run::{Life, Run, all_kept};
use crate::config;
use crate::execute::driver::drive;
use crate::execute::fakes::{self, Fault, Shape};
use crate::execute::journal::Journal;
use crate::execute::saga::{Event, Saga, State};
use crate::execute::steps;
use crate::model::{Effect, EventKind, Reason, Step};
use crate::ports::registry::Traffic;

/// What is shipped in runbooks/, whatever that is.
pub fn shipped() -> Vec<(String, Vec<Step>)> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("agent.yaml"), "interval: 15s\n").unwrap();
    let runbooks = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("runbooks");
    std::os::unix::fs::symlink(runbooks, dir.path().join("runbooks")).unwrap();
    let config = config::load(dir.path()).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(config.runbooks.len() >= 3, "{:?}", config.runbooks.keys());
    config.runbooks.into_iter().map(|(name, runbook)| (name, runbook.steps)).collect()
}

/// And the shapes of the other sweeps: short waits, and commands of the operator's.
fn books() -> Vec<(String, Vec<Step>)> {
    let shapes = Shape::iter().map(|shape| (format!("{shape:?}"), fakes::steps(shape, Fault::Nothing)));
    shipped().into_iter().chain(shapes).collect()
}

/// What else is wrong in a run: it goes well, is unwound, or comes to its end another way. `tests/run` plays the first
/// two alone; with `UNWAIT_FAULTS=long` all of them.
fn with() -> &'static [Fault] {
    const WITH: [Fault; 5] =
        [Fault::Nothing, Fault::RestartRefused, Fault::RefusedAtSecond, Fault::IllInTraffic, Fault::TwoHalves];
    if std::env::var("UNWAIT_FAULTS").is_ok_and(|how| how == "long") { &WITH } else { &WITH[..2] }
}

#[test]
fn each_step_made_to_fail_at_each_of_its_moments_ends_in_service_or_told() {
    let (mut count, mut failed) = (0, std::collections::BTreeMap::<(String, &str), u32>::new());
    for (what, steps) in books() {
        for &fault in with() {
            for at in 0.. {
                let mut run = Run::of(format!("{what}, {fault:?}, failed at {at}"), steps.clone(), fault);
                run.scene.trip.crash_at(at);
                if run.first_life() != Life::Crashed {
                    break;
                }
                run.scene.trip.reset();
                let rows = run.world.store.journal(&run.plan.incident).unwrap();
                let mut saga = Saga::new(run.plan.clone());
                let mut journal = Journal::replay(&rows, &mut saga).unwrap();
                let State::Acting { step } = *saga.state() else { continue };
                let name = run.plan.steps[step].step.name();
                run.what = format!("{}, in {name}", run.what);
                let pivot = run.plan.steps[step].effect == Effect::Pivot;
                let service = run.scene.service().clone();
                let nothing_done = service.restarts + service.reloads + service.ended + service.closed == 0
                    && service.commands.is_empty();
                let stop = run.scene.trip.stop.subscribe();
                let life = run.live(async || {
                    let (reason, detail) = (Reason::StepFailed, "made to fail".to_string());
                    let event = Event::Failed { step, reason, detail, untouched: pivot && nothing_done };
                    journal.record(&mut saga, event, &run.world);
                    drive(saga, journal, &run.world, stop).await
                });
                assert!(matches!(life, Life::Rested(_)), "{}: {life:?}", run.what);
                run.keeps_the_promise();
                *failed.entry((what.clone(), name)).or_default() += 1;
                count += 1;
            }
        }
        for step in &steps {
            assert!(failed.contains_key(&(what.clone(), step.name())), "{what}: {} never failed", step.name());
        }
    }
    all_kept(count, format_args!("each of {} steps failed at each of its moments", failed.len()));
    assert!(count > 500, "{count}");
}

#[test]
fn each_call_that_fails_once_is_survived_whichever_it_is() {
    let mut count = 0;
    for (what, steps) in books() {
        for &fault in with() {
            for at in 0.. {
                let run = Run::of(format!("{what}, {fault:?}, call {at} failed once"), steps.clone(), fault);
                run.scene.trip.fail_at(at..at + 1);
                let life = run.first_life();
                assert!(matches!(life, Life::Rested(_)), "{}: {life:?}", run.what);
                let moments = run.scene.trip.count();
                run.recover();
                run.keeps_the_promise();
                if at >= moments {
                    break;
                }
                count += 1;
            }
        }
    }
    all_kept(count, "each call failed once");
    assert!(count > 500, "{count}");
}

#[test]
fn calls_that_fail_from_any_moment_until_the_next_start_are_told_where_they_leave_a_service_out() {
    let mut count = 0;
    for (what, steps) in books() {
        for &fault in with() {
            let whole = Run::of(what.clone(), steps.clone(), fault);
            whole.first_life();
            for at in 0..whole.scene.trip.count() {
                let run = Run::of(format!("{what}, {fault:?}, calls fail from {at} on"), steps.clone(), fault);
                // More than any run makes that ends; one that tries for ever is not to go on for ever here.
                run.scene.trip.fail_at(at..at + 2_000);
                let life = run.first_life();
                assert!(matches!(life, Life::Rested(_) | Life::Waits), "{}: {life:?}", run.what);
                let drained = matches!(run.traffic(), Some(Traffic::DrainedBy(_)));
                assert!(!drained || run.is_told(EventKind::Stuck), "nobody was told: {}: {life:?}", run.what);
                run.recover();
                run.keeps_the_promise();
                count += 1;
            }
        }
    }
    all_kept(count, "calls failed from any moment until the next start");
    assert!(count > 500, "{count}");
}

#[test]
fn each_step_applied_twice_and_each_undo_done_twice_is_as_once() {
    for (what, steps) in books() {
        let times = |name| steps.iter().filter(|step| step.name() == name).count() as u32;
        let (restarts, reloads, closed, calls) =
            (times("restart"), times("reload"), times("close_sockets"), times("call"));
        let run = Run::of(what.clone(), steps.clone(), Fault::Nothing);
        let length = run.plan.steps.len();
        run.runtime.block_on(async {
            let mut saga = Saga::new(run.plan.clone());
            for step in 0..length {
                let preimage = steps::preimage(&saga, step, &run.world).await.unwrap();
                saga.apply(Event::Intended { step, preimage: preimage.clone() }).unwrap();
                if let Step::Call { .. } = run.plan.steps[step].step {
                    // It only fails, and what is drained stays so.
                    for _ in 0..2 {
                        let failure = steps::apply(&saga, step, None, &run.world).await.unwrap_err();
                        assert_eq!(failure.reason, Reason::NeedsPerson, "{what}");
                    }
                    return;
                }
                let once = steps::apply(&saga, step, None, &run.world).await.unwrap();
                if run.plan.steps[step].effect != Effect::Pivot {
                    let twice = steps::apply(&saga, step, None, &run.world).await.unwrap();
                    assert_eq!(once.helped, twice.helped, "{} of {what}", run.plan.steps[step].step.name());
                }
                saga.apply(Event::Done { step, detail: once.detail, helped: once.helped, note: None }).unwrap();
            }
        });
        let drained = matches!(run.traffic(), Some(Traffic::DrainedBy(_)));
        assert_eq!((drained, run.traffic() == Some(Traffic::Passing)), (calls > 0, calls == 0), "{what}");
        let service = run.scene.service().clone();
        assert_eq!((service.restarts, service.reloads, service.closed), (restarts, reloads, closed), "{what}");

        let run = Run::of(what.clone(), steps, Fault::Nothing);
        run.runtime.block_on(async {
            let mut saga = Saga::new(run.plan.clone());
            for step in 0..run.plan.pivot().unwrap_or(length) {
                let preimage = steps::preimage(&saga, step, &run.world).await.unwrap();
                saga.apply(Event::Intended { step, preimage: preimage.clone() }).unwrap();
                if run.plan.steps[step].effect == Effect::Compensable {
                    for done in [false, true, true] {
                        if done {
                            steps::apply(&saga, step, None, &run.world).await.unwrap();
                        }
                        for _ in 0..2 {
                            steps::undo(&saga, step, &preimage, &run.world).await.unwrap();
                        }
                    }
                }
                saga.apply(Event::Done { step, detail: String::new(), helped: None, note: None }).unwrap();
            }
        });
        assert_eq!(run.traffic(), Some(Traffic::Passing), "{what}");
    }
}
