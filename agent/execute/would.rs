//! What the steps of a plan would do, in the future tense: what `unwait plan` shows, and what a dry incident says in the place
//! of what came of its steps. Asks the outside as the guards do; changes nothing.

use crate::model::plan::Health;
use crate::model::runbook::{OnTimeout, RunEffect};
use crate::model::{Plan, Step, duration};
use crate::ports::probe::{ProbeFailure, asked};

use super::saga::{Event, Helped, Saga};
use super::seen::key;
use super::steps::drain;
use super::steps::preimage::failed_its_check;
use super::world::World;
use crate::ports::registry::TrafficChange;
use crate::ports::restarter::Revival;

/// What a probe answers before anything is done; `None` where nobody asked, since it is a command.
pub type Now = Option<Result<(), ProbeFailure>>;

/// What the step would do. `now`: what the service's probe answers.
pub async fn step(plan: &Plan, step: &Step, now: &Now, world: &World) -> String {
    let time = duration::format;
    let bindings = || plan.target.bindings.iter().map(key).collect::<Vec<_>>().join(", ");
    match step {
        Step::Snapshot { required, .. } => match required {
            true => "would keep the evidence; without it nothing would be touched".into(),
            false => "would keep the evidence".into(),
        },
        Step::Drain { settle, .. } => {
            let settle = if settle.is_zero() { String::new() } else { format!(", and {} more", time(*settle)) };
            let calls = traffic_calls(plan, TrafficChange::Drain, world).await;
            format!("would take {} out of traffic: {calls}; then wait until clients have followed{settle}", bindings())
        }
        Step::WaitDrained { inbound_at_most, idle_for, timeout, on_timeout } => {
            let which = match idle_for {
                Some(idle) => format!(" with traffic within {}", time(*idle)),
                None => String::new(),
            };
            let then = match on_timeout {
                OnTimeout::Proceed => "then go on",
                OnTimeout::Unwind => "then put it back",
            };
            format!(
                "would wait until at most {inbound_at_most} inbound connections{which} are left, {} at most, {then}",
                time(*timeout)
            )
        }
        Step::Restart { .. } => {
            format!("would restart {}: {}", plan.restarted(), revival_call(plan, Revival::Restart, world).await)
        }
        Step::Reload { .. } => {
            format!("would reload {}: {}", plan.restarted(), revival_call(plan, Revival::Reload, world).await)
        }
        Step::RecycleWorkers(how) => {
            let who = match world.measure.workers(plan, how.older_than).await {
                Ok(workers) => {
                    let pids: Vec<String> =
                        workers.iter().filter(|of| of.holds > 0).map(|of| of.pid.to_string()).collect();
                    if pids.is_empty() { "none now".into() } else { format!("now pid {}", pids.join(", ")) }
                }
                Err(error) => format!("not known now: {error}"),
            };
            let worker = "its workers that hold sockets in CLOSE_WAIT";
            let kill = match how.kill_after {
                Some(after) => format!(", and SIGKILL {} later to those that live on", time(after)),
                None => String::new(),
            };
            let (signal, batch, floor) = (how.signal, how.batch, how.floor);
            format!(
                "would send SIG{signal} to {worker} for {} or longer ({who}), {batch} at a time while {floor} of all \
                 workers serve{kill}",
                time(how.older_than)
            )
        }
        Step::CloseSockets { older_than, at_most } => format!(
            "would have the kernel close at most {at_most} sockets that have been in CLOSE_WAIT for {} (SOCK_DESTROY)",
            time(*older_than)
        ),
        Step::HealthCheck { timeout, successes, interval } => format!(
            "would ask the probe every {} until {successes} answers in a row pass, {} at most: {}",
            time(*interval),
            time(*timeout),
            probed(plan, now)
        ),
        Step::Restore { .. } => {
            let calls = traffic_calls(plan, TrafficChange::Restore, world).await;
            format!("would put {} back into traffic once the probe passes: {calls}", bindings())
        }
        Step::Verify { soak, expect } => {
            let expect: Vec<String> = expect.iter().map(ToString::to_string).collect();
            let expect = if expect.is_empty() { String::new() } else { format!(", then expect {}", expect.join(", ")) };
            format!(
                "would watch the service in traffic for {}, and take it out again if it fell ill{expect}",
                time(*soak)
            )
        }
        Step::Run { argv, .. } => format!("would run {}", command(argv)),
        Step::Notify { text } => format!("would tell: {text}"),
        Step::Pause { length } => format!("would wait {}", time(*length)),
        Step::Call { text } if text.is_empty() => "would stop there, and call a person".into(),
        Step::Call { text } => format!("would stop there, and call a person: {text}"),
    }
}

/// How the plan would take its slot of the fleet; `None` where it needs none.
pub async fn slot(plan: &Plan, world: &World) -> Option<String> {
    let (Some(scope), Some(slots), Some(fleet)) = (&plan.fleet_scope, plan.guards.fleet_slots, &world.ports.fleet)
    else {
        return None;
    };
    let call = match fleet.would_take(scope, &plan.incident.0, slots).await {
        Ok(Some(call)) => call,
        Ok(None) => "(no call now: other incidents hold them)".into(),
        Err(error) => format!("(its call is not known: {error})"),
    };
    Some(format!("would take a fleet slot of {scope} before the first change, and give it back at the end: {call}"))
}

/// What would be sent to each registry of the service; of one that cannot tell now, why.
async fn traffic_calls(plan: &Plan, change: TrafficChange, world: &World) -> String {
    let marker = drain::marker(plan, world);
    let mut calls = Vec::new();
    for binding in &plan.target.bindings {
        match world.registry(binding) {
            Ok(registry) => match registry.would(change, &binding.id, &marker).await {
                Ok(of_it) => calls.extend(of_it),
                Err(error) => calls.push(format!("(its call is not known: {error})")),
            },
            Err(error) => calls.push(format!("(its call is not known: {error})")),
        }
    }
    calls.join("; ")
}

async fn revival_call(plan: &Plan, revival: Revival, world: &World) -> String {
    let Some(restart) = &plan.target.restart else { return "the service declares no restart".into() };
    let call = world.ports.restarter(restart).would(revival, restart).await;
    call.unwrap_or_else(|error| format!("(its call is not known: {error})"))
}

/// An argument may be a secret.
fn command(argv: &[String]) -> String {
    let program = argv.first().map(String::as_str).unwrap_or_default();
    match argv.len().saturating_sub(1) {
        0 => program.into(),
        1 => format!("{program} with 1 argument"),
        more => format!("{program} with {more} arguments"),
    }
}

/// What is asked, and what it answers now.
fn probed(plan: &Plan, now: &Now) -> String {
    match (&plan.target.health, now) {
        (None, _) => "the service has none".into(),
        (Some(health @ Health::Exec(_)), _) => format!("{}, which a dry run does not run", asked(health)),
        (Some(_), Some(Err(failure))) => failing(plan, failure),
        (Some(health), _) => format!("{}, which passes now", asked(health)),
    }
}

/// What a probe that fails before anything is done says of the plan.
fn failing(plan: &Plan, failure: &ProbeFailure) -> String {
    let Some(pivot) = plan.pivot() else { return format!("the probe FAILS NOW ({failure})") };
    let pivot = plan.steps[pivot].step.name();
    format!(
        "the probe FAILS NOW ({failure}); whether the step {pivot} mends it is not known; a failure after it would end stuck"
    )
}

/// What a dry saga tells in the place of what its adapters have pretended.
pub async fn told(saga: &Saga, event: Event, now: &Now, world: &World) -> Event {
    let plan = saga.plan();
    match event {
        Event::Done { step: at, detail, helped, note } => {
            let planned = &plan.steps[at].step;
            let detail = match planned {
                // Kept, and told, for real.
                Step::Snapshot { commands, .. } if commands.is_empty() => detail,
                Step::Snapshot { .. } => format!("{detail}; a dry run does not run the evidence's commands"),
                Step::Notify { .. } => detail,
                // What was seen of the host speaks against it already.
                planned if helped == Some(Helped::No) => {
                    format!("{}; by what is there now: {detail}", step(plan, planned, now, world).await)
                }
                planned => step(plan, planned, now, world).await,
            };
            Event::Done { step: at, detail, helped, note }
        }
        Event::Undone { step: at, .. } => {
            let detail = match &plan.steps[at].step {
                Step::Run { effect: RunEffect::Compensable { undo }, .. } => format!("would run {}", command(undo)),
                _ => {
                    let bindings: Vec<String> = plan.target.bindings.iter().map(key).collect();
                    let calls = traffic_calls(plan, TrafficChange::Restore, world).await;
                    format!("would put {} back into traffic: {calls}", bindings.join(", "))
                }
            };
            Event::Undone { step: at, detail }
        }
        Event::Judged { helped, .. } => {
            let mut detail = "nothing was changed, so whether it would help is not known".to_owned();
            if let Some(Err(failure)) = now.as_ref().filter(|_| probes(plan)) {
                detail = format!("{detail}; {}", failing(plan, failure));
            }
            if saga.drain_preimage().is_some_and(failed_its_check) {
                detail.push_str("; the service FAILS its registry's check now; whether that is mended is not known");
            }
            Event::Judged { helped: helped.max(Helped::Unknown), detail }
        }
        other => other,
    }
}

/// Does any of the steps ask the probe?
fn probes(plan: &Plan) -> bool {
    let asks = |step: &Step| matches!(step, Step::HealthCheck { .. } | Step::Restore { .. } | Step::Verify { .. });
    plan.steps.iter().any(|planned| asks(&planned.step))
}
