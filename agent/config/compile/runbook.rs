//! Runbooks: the defaults of each step, and the order that keeps a service from being stranded.

use super::order::order;
use super::{Compiling, hours, items, minutes, secs};
use crate::config::place::Place;
use crate::config::spec::runbook::{RecycleWorkersSpec, RunSpec, RunbookSpec, StepSpec};
use crate::config::spec::scalar::{Declared, Typed};
use crate::model::duration;
use crate::model::runbook::{Floor, OnTimeout, Recycle, RunEffect, Runbook, Step, StopSignal};

/// Compiles one runbook; `None` where it has no name. Whether it was sound is seen by what was said.
pub fn compile(spec: RunbookSpec, to: &mut Compiling) -> Option<Runbook> {
    let root = Place::root();
    let name = to.required(&root, "runbook", spec.runbook, "isolate-restart-recover");
    if let Some(Typed(name)) = &name {
        to.name(&root.key("runbook"), name);
    }
    let place = root.key("steps");
    if spec.steps.is_empty() && !to.said(&place) {
        to.wrong_key(&root, "a runbook needs `steps:` with at least one step");
    }
    let whole = !to.said(&place);
    let steps: Vec<(Place, Step)> = items(&place, spec.steps)
        .filter_map(|(place, step)| compile_step(step, &place, to).map(|step| (place, step)))
        .collect();
    // With a step missing, whatever would be said of the order is noise.
    if whole {
        order(&steps, to);
    }
    Some(Runbook {
        name: name?.0,
        description: spec.description.map(|Typed(text)| text).unwrap_or_default(),
        steps: steps.into_iter().map(|(_, step)| step).collect(),
    })
}

fn compile_step(spec: StepSpec, place: &Place, to: &mut Compiling) -> Option<Step> {
    Some(match spec {
        StepSpec::Snapshot(spec) => {
            let at = |key: &str| place.key("snapshot").key(key);
            Step::Snapshot {
                deadline: to.duration(&at("deadline"), spec.deadline, secs(20), secs(1)..=minutes(10)),
                required: spec.required.unwrap_or(true),
                commands: items(&at("commands"), spec.commands).map(|(place, argv)| to.argv(&place, argv)).collect(),
            }
        }
        StepSpec::Drain(spec) => {
            let at = |key: &str| place.key("drain").key(key);
            Step::Drain {
                settle: to.duration(&at("settle"), spec.settle, secs(5), secs(0)..=minutes(10)),
                deadline: to.duration(&at("deadline"), spec.deadline, secs(30), secs(1)..=minutes(10)),
                on_busy: spec.on_busy.map_or(OnTimeout::Unwind, |Typed(way)| way),
            }
        }
        StepSpec::WaitDrained(spec) => {
            let at = |key: &str| place.key("wait_drained").key(key);
            Step::WaitDrained {
                inbound_at_most: spec.inbound_at_most.unwrap_or(0),
                // A long answer looks like an idle connection until it comes: that those do not count must be said.
                idle_for: spec
                    .idle_for
                    .map(|idle| to.duration(&at("idle_for"), Some(idle), secs(0), secs(1)..=hours(1))),
                timeout: to.duration(&at("timeout"), spec.timeout, secs(60), secs(1)..=hours(1)),
                // Cutting connections off must have been said.
                on_timeout: spec.on_timeout.map_or(OnTimeout::Unwind, |Typed(way)| way),
            }
        }
        StepSpec::Restart(spec) => {
            let at = place.key("restart").key("deadline");
            let deadline = spec.deadline.map(|deadline| to.duration(&at, Some(deadline), secs(0), secs(1)..=hours(1)));
            Step::Restart { deadline }
        }
        StepSpec::HealthCheck(spec) => {
            let at = |key: &str| place.key("health_check").key(key);
            Step::HealthCheck {
                timeout: to.duration(&at("timeout"), spec.timeout, minutes(2), secs(1)..=hours(1)),
                successes: to.count(&at("successes"), spec.successes, 3, 1..=100),
                interval: to.duration(
                    &at("interval"),
                    spec.interval,
                    secs(2),
                    std::time::Duration::from_millis(100)..=minutes(5),
                ),
            }
        }
        StepSpec::Restore(spec) => {
            let at = place.key("restore").key("deadline");
            Step::Restore { deadline: to.duration(&at, spec.deadline, secs(30), secs(1)..=minutes(10)) }
        }
        StepSpec::Verify(spec) => {
            let at = |key: &str| place.key("verify").key(key);
            let soak = to.duration(&at("soak"), spec.soak, minutes(2), secs(0)..=hours(24));
            let mut expect = Vec::new();
            for (place, Typed(comparison)) in items(&at("expect"), spec.expect) {
                if let Some(long) = comparison.signal.watched_for().filter(|long| *long > soak) {
                    let what = format!(
                        "{} needs {} of looks after the restart, and the soak of {} ends earlier: set `soak: {}`, or \
                         expect another signal",
                        comparison.signal,
                        duration::format(long),
                        duration::format(soak),
                        duration::format(long),
                    );
                    to.wrong(&place, what);
                }
                expect.push(comparison);
            }
            Step::Verify { soak, expect }
        }
        StepSpec::Run(spec) => compile_run(spec, &place.key("run"), to)?,
        StepSpec::Notify(spec) => {
            let within = place.key("notify");
            let Typed(text) = to.required(&within, "text", spec.text, "\"what to tell\"")?;
            Step::Notify { text }
        }
        StepSpec::Reload(spec) => {
            let at = place.key("reload").key("deadline");
            Step::Reload { deadline: to.duration(&at, spec.deadline, secs(90), secs(1)..=hours(1)) }
        }
        StepSpec::RecycleWorkers(spec) => {
            Step::RecycleWorkers(compile_recycle(spec, &place.key("recycle_workers"), to))
        }
        StepSpec::CloseSockets(spec) => {
            let at = |key: &str| place.key("close_sockets").key(key);
            Step::CloseSockets {
                older_than: to.duration(&at("older_than"), spec.older_than, minutes(10), secs(0)..=hours(24)),
                at_most: to.count(&at("at_most"), spec.at_most, 1_000, 1..=1_000_000),
            }
        }
        StepSpec::Pause(spec) => {
            let within = place.key("pause");
            let length = to.required(&within, "for", spec.length, "30s")?;
            Step::Pause { length: to.duration(&within.key("for"), Some(length), secs(0), secs(0)..=hours(1)) }
        }
        StepSpec::Call(spec) => Step::Call { text: spec.text.map(|Typed(text)| text).unwrap_or_default() },
    })
}

fn compile_recycle(spec: RecycleWorkersSpec, place: &Place, to: &mut Compiling) -> Recycle {
    let at = |key: &str| place.key(key);
    let wait = to.duration(&at("wait"), spec.wait, secs(45), secs(1)..=minutes(10));
    let kill_after =
        spec.kill_after.map(|kill| to.duration(&at("kill_after"), Some(kill), secs(0), secs(1)..=minutes(10)));
    if kill_after.is_some_and(|kill| kill >= wait) {
        to.wrong(&at("kill_after"), "`kill_after` must be shorter than `wait`, or the step ends before it");
    }
    Recycle {
        older_than: to.duration(&at("older_than"), spec.older_than, minutes(1), secs(0)..=hours(24)),
        batch: to.count(&at("batch"), spec.batch, 4, 1..=1_000),
        floor: spec.floor.map_or(Floor::Share(0.5), |Typed(floor)| floor),
        signal: spec.signal.map_or(StopSignal::Term, |Typed(signal)| signal),
        wait,
        kill_after,
    }
}

fn compile_run(spec: RunSpec, place: &Place, to: &mut Compiling) -> Option<Step> {
    let argv = to.argv(&place.key("argv"), spec.argv);
    let undo = spec.undo.map(|undo| to.argv(&place.key("undo"), undo));
    // Undeclared, it may have done anything: no way back, and never repeated.
    let declared = spec.effect.map_or(Declared::Pivot, |Typed(declared)| declared);
    if declared != Declared::Compensable && undo.is_some() && !to.said(&place.key("effect")) {
        to.wrong_key(&place.key("undo"), "`undo` needs `effect: compensable`: add that, or remove `undo`");
    }
    let effect = match declared {
        Declared::ReadOnly => RunEffect::ReadOnly,
        Declared::Pivot => RunEffect::Pivot,
        Declared::Retryable => RunEffect::Retryable,
        Declared::Compensable => {
            RunEffect::Compensable { undo: to.required(place, "undo", undo, "[/full/path, argument]")? }
        }
    };
    let deadline = to.duration(&place.key("deadline"), spec.deadline, secs(60), secs(1)..=hours(1));
    Some(Step::Run { argv, effect, deadline })
}
