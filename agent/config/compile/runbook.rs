//! Runbooks: the defaults of each step, and the order that keeps a service from being stranded.

use super::{Compiling, hours, items, minutes, secs};
use crate::config::place::Place;
use crate::config::spec::runbook::{RunSpec, RunbookSpec, StepSpec};
use crate::config::spec::scalar::{Declared, Typed};
use crate::model::runbook::{Effect, OnTimeout, RunEffect, Runbook, Step};

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
            }
        }
        StepSpec::WaitDrained(spec) => {
            let at = |key: &str| place.key("wait_drained").key(key);
            Step::WaitDrained {
                inbound_at_most: spec.inbound_at_most.unwrap_or(0),
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
            let at = place.key("verify").key("soak");
            Step::Verify {
                soak: to.duration(&at, spec.soak, minutes(2), secs(0)..=hours(24)),
                expect: spec.expect.into_iter().flatten().map(|Typed(comparison)| comparison).collect(),
            }
        }
        StepSpec::Run(spec) => compile_run(spec, &place.key("run"), to)?,
        StepSpec::Notify(spec) => {
            let within = place.key("notify");
            let Typed(text) = to.required(&within, "text", spec.text, "\"what to tell\"")?;
            Step::Notify { text }
        }
    })
}

fn compile_run(spec: RunSpec, place: &Place, to: &mut Compiling) -> Option<Step> {
    let argv = to.argv(&place.key("argv"), spec.argv);
    let undo = spec.undo.map(|undo| to.argv(&place.key("undo"), undo));
    // Undeclared, it may have done anything: no way back, and never repeated.
    let declared = spec.effect.map_or(Declared::Pivot, |Typed(declared)| declared);
    if declared != Declared::Compensable && undo.is_some() && !to.said(&place.key("effect")) {
        to.wrong_key(&place.key("undo"), "only `effect: compensable` has an undo: declare it, or remove `undo`");
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

/// What must come before what, so that whatever fails, the service can be put back or is left for a person.
fn order(steps: &[(Place, Step)], to: &mut Compiling) {
    let find = |name: &str| steps.iter().position(|(_, step)| step.name() == name);
    for name in ["drain", "restart", "restore"] {
        for (place, _) in steps.iter().filter(|(_, step)| step.name() == name).skip(1) {
            to.wrong(place, format!("`{name}` stands here a second time: a runbook has one at most"));
        }
    }
    let (drain, restore) = (find("drain"), find("restore"));
    match (drain, restore) {
        (Some(drain), None) => {
            to.wrong(&steps[drain].0, "nothing puts the service back: a `drain` needs a later `restore`");
        }
        (None, Some(restore)) => {
            to.wrong(&steps[restore].0, "there is nothing to put back: a `restore` needs an earlier `drain`");
        }
        (Some(drain), Some(restore)) if restore < drain => {
            to.wrong(
                &steps[restore].0,
                "the service is put back before it is taken out: move `restore` behind `drain`",
            );
        }
        (Some(drain), Some(restore)) => {
            let between = drain..restore;
            let pivot = between.clone().rev().find(|at| steps[*at].1.effect() == Effect::Pivot);
            if let Some(pivot) = pivot
                && !(pivot..restore).any(|at| steps[at].1.name() == "health_check")
            {
                let what = format!(
                    "an unhealthy service could be put into traffic: between `{}` and `restore`, add a `health_check`",
                    steps[pivot].1.name()
                );
                to.wrong(&steps[restore].0, what);
            }
        }
        (None, None) => {}
    }
    for (at, (place, step)) in steps.iter().enumerate() {
        let change = steps[..at].iter().find(|(_, earlier)| earlier.effect() != Effect::ReadOnly);
        match step {
            Step::Snapshot { .. } => {
                if let Some((_, change)) = change {
                    to.wrong(
                        place,
                        format!(
                            "evidence is kept before anything is touched: move `snapshot` before `{}`",
                            change.name()
                        ),
                    );
                }
            }
            Step::WaitDrained { .. } if drain.is_none_or(|drain| drain > at) => {
                to.wrong(place, "nothing was taken out of traffic yet: `wait_drained` belongs behind `drain`");
            }
            Step::Verify { .. } | Step::Run { .. } | Step::Notify { .. } => {}
            // A second one of these is said above.
            Step::Drain { .. } | Step::Restore { .. } => {}
            _ if restore.is_some_and(|restore| restore < at) => {
                to.wrong(
                    place,
                    format!("the service is back in traffic by then: only verify, run and notify come behind `restore`, not `{}`", step.name()),
                );
            }
            _ => {}
        }
    }
}
