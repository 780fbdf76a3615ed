//! `recycle_workers`: only the worker processes that hold leaked sockets are asked to end, a few at a time and never below a
//! floor; each time the master must have started as many new ones before the next are asked. The master, and a worker
//! that holds none, are never touched.
//!
//! It cannot be taken back, and is not repeated after a crash: whether the service is whole again is looked at then, as
//! after a failure (`execute::recovery`). For pools of a fixed size: one that shrinks when it has less to do looks like a
//! master that does not start new workers.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Done, Failure, hold, same_lifetime};
use crate::execute::saga::{Helped, Saga};
use crate::execute::world::World;
use crate::model::runbook::Recycle;
use crate::model::{Incarnation, Plan, Reason, Worker, duration};

const LOOK_EVERY: Duration = Duration::from_millis(500);

pub async fn preimage(
    plan: &Plan,
    incarnation: Option<Incarnation>,
    how: &Recycle,
    world: &World,
) -> Result<Value, Failure> {
    Ok(json!({ "incarnation": incarnation, "workers": look(plan, how, world).await?.len() }))
}

/// How many workers there were before any was asked to end.
pub fn workers_before(saga: &Saga, step: usize) -> Option<usize> {
    serde_json::from_value(saga.preimage(step)?.get("workers")?.clone()).ok()
}

async fn look(plan: &Plan, how: &Recycle, world: &World) -> Result<Vec<Worker>, Failure> {
    let seen = world.measure.workers(plan, how.older_than).await;
    seen.map_err(|error| Failure::new(Reason::RecycleFailed, format!("the workers could not be looked at: {error}")))
}

pub async fn apply(saga: &Saga, step: usize, how: &Recycle, world: &World) -> Result<Done, Failure> {
    let plan = saga.plan();
    let not_helped = |detail: String| Ok(Done { helped: Some(Helped::No), ..Done::saying(detail) });
    let first = look(plan, how, world).await?;
    let before = workers_before(saga, step).unwrap_or(first.len()).max(first.len());
    let mut left: Vec<Worker> = first.iter().filter(|worker| worker.holds > 0).copied().collect();
    if left.is_empty() {
        let detail = format!("none of its {} workers holds a leaked socket", first.len());
        return Err(Failure::new(Reason::NothingToDo, detail));
    }
    let floor = how.floor.of(before);
    let (mut ended, mut sockets) = (0, 0);
    loop {
        let now = look(plan, how, world).await?;
        // Who has let go of them meanwhile, or ended by itself, is left alone.
        left.retain(|worker| now.iter().any(|seen| seen.is(worker) && seen.holds > 0));
        let room = now.len().saturating_sub(floor);
        let batch: Vec<Worker> = left.drain(..left.len().min(how.batch as usize).min(room)).collect();
        match (batch.is_empty(), left.is_empty()) {
            (true, true) => break,
            (true, false) => {
                return not_helped(format!(
                    "{} of {} workers still leak; {floor} must stay up (`floor: {}`), so only {ended} were ended",
                    left.len(),
                    now.len(),
                    how.floor
                ));
            }
            (false, _) => {}
        }
        sockets += batch.iter().map(|worker| worker.holds).sum::<usize>();
        let stayed = world.kernel.end(&batch, how).await.map_err(|error| failed(ended, error))?;
        if !stayed.is_empty() {
            let pids: Vec<String> = stayed.iter().map(|worker| worker.pid.to_string()).collect();
            let (pids, wait) = (pids.join(", "), duration::format(how.wait));
            return Err(failed(ended, format!("pid {pids} did not end of SIG{} within {wait}", how.signal)));
        }
        ended += batch.len();
        replaced(saga, how, before, ended, world).await?;
        same_lifetime(saga, step, Reason::RecycleFailed, world).await?;
    }
    Ok(Done::saying(format!(
        "{ended} of {before} workers, which held {sockets} leaked sockets, were ended, and as many live as before"
    )))
}

/// Waits until there are as many workers as before.
async fn replaced(saga: &Saga, how: &Recycle, before: usize, ended: usize, world: &World) -> Result<(), Failure> {
    let deadline = world.pace.elapsed() + how.wait;
    loop {
        hold(saga, world).await;
        let now = look(saga.plan(), how, world).await?.len();
        if now >= before {
            return Ok(());
        }
        if world.pace.elapsed() >= deadline {
            let wait = duration::format(how.wait);
            return Err(failed(ended, format!("after {wait} there are {now} workers where there were {before}")));
        }
        world.pace.wait(LOOK_EVERY).await;
    }
}

fn failed(ended: usize, detail: String) -> Failure {
    Failure::new(Reason::RecycleFailed, format!("{detail}; it stopped there, after it had ended {ended} workers"))
}
