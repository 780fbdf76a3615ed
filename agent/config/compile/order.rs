//! The order of a runbook's steps: what must come before what, so that whatever fails, the service can be put back or is
//! left for a person.

use super::Compiling;
use crate::config::place::Place;
use crate::model::runbook::{Effect, Step};

/// Says what stands where it must not.
pub fn order(steps: &[(Place, Step)], to: &mut Compiling) {
    let find = |name: &str| steps.iter().position(|(_, step)| step.name() == name);
    for name in ["drain", "restart", "reload", "recycle_workers", "close_sockets", "restore"] {
        for (place, _) in steps.iter().filter(|(_, step)| step.name() == name).skip(1) {
            to.wrong(place, format!("`{name}` is listed a second time: a runbook has one at most"));
        }
    }
    let (drain, restore) = (find("drain"), find("restore"));
    // A call is an end: what stands behind it would never be done.
    let call = find("call");
    if let Some((place, _)) = call.and_then(|call| steps.get(call + 1)) {
        to.wrong(place, "no step runs after a `call`, which hands over to a person: `call` comes last");
    }
    match (drain, restore) {
        (Some(_), None) if call.is_some() => {}
        (Some(drain), None) => {
            to.wrong(
                &steps[drain].0,
                "the service would stay out of traffic: a `drain` needs a later `restore`, or a last `call`",
            );
        }
        (None, Some(restore)) => {
            to.wrong(&steps[restore].0, "the service is not out of traffic: a `restore` needs an earlier `drain`");
        }
        (Some(drain), Some(restore)) if restore < drain => {
            to.wrong(&steps[restore].0, "`restore` comes before `drain`: move `restore` behind it");
        }
        (Some(_), Some(restore)) => {
            // Also one in front of the drain: what it left is not known to be well either.
            let pivot = (0..restore).rev().find(|at| steps[*at].1.effect() == Effect::Pivot);
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
        // A second one of the same name is said above; an operator's command is the operator's to judge.
        let pivot = steps[..at].iter().find(|(_, earlier)| earlier.effect() == Effect::Pivot);
        if let Some((_, pivot)) = pivot
            && step.effect() == Effect::Pivot
            && !matches!(step, Step::Run { .. } | Step::Call { .. })
            && pivot.name() != step.name()
        {
            let (name, pivot) = (step.name(), said(pivot));
            to.wrong(
                place,
                format!(
                    "{pivot} cannot be undone, and guards are not checked after it, so `{name}` must not follow: write \
                     a runbook for each, and list both under `escalate` of the policy"
                ),
            );
        }
        let change = steps[..at].iter().find(|(_, earlier)| earlier.effect() != Effect::ReadOnly);
        match step {
            Step::Snapshot { .. } => {
                if let Some((_, change)) = change {
                    to.wrong(
                        place,
                        format!(
                            "evidence is taken before the first change: move `snapshot` before `{}`",
                            change.name()
                        ),
                    );
                }
            }
            Step::WaitDrained { .. } if drain.is_none_or(|drain| drain > at) => {
                to.wrong(place, "the service is not drained yet: `wait_drained` comes behind `drain`");
            }
            Step::RecycleWorkers(_)
                if restore.is_none() && !steps[at..].iter().any(|(_, later)| later.name() == "health_check") =>
            {
                to.wrong(
                    place,
                    "the service's health afterwards would be unknown: add a `health_check` behind this step",
                );
            }
            Step::Verify { .. } | Step::Run { .. } | Step::Notify { .. } | Step::Pause { .. } => {}
            // A second one of these is said above.
            Step::Drain { .. } | Step::Restore { .. } => {}
            _ if restore.is_some_and(|restore| restore < at) => {
                to.wrong(
                    place,
                    format!(
                        "`{}` must not follow `restore`, since the service is back in traffic: only verify, run, \
                         notify and pause may",
                        step.name()
                    ),
                );
            }
            _ => {}
        }
    }
}

/// A pivot, and how a `run` comes to be one.
fn said(pivot: &Step) -> String {
    match pivot {
        Step::Run { .. } => "a `run` with `effect: pivot` (the default of `effect`)".into(),
        other => format!("`{}`", other.name()),
    }
}
