//! `recycle_workers`: only the worker processes that hold leaked sockets are asked to end, a few at a time and never below a
//! floor; each time the master must have started as many new ones before the next are asked. The master, and a worker
//! that holds none, are never touched.
//!
//! The floor counts workers that serve. One that was asked and lives on has mostly closed its listener, and does not: not in
//! this step, and in no later incident. Such a one is asked again only where SIGKILL follows (`kill_after`).
//!
//! It cannot be taken back, and is not repeated after a crash: whether the service is whole again is looked at then, as
//! after a failure (`execute::recovery`). For pools of a fixed size: one that shrinks when it has less to do looks like a
//! master that does not start new workers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Done, Failure, hold, same_lifetime};
use crate::execute::saga::{Helped, Saga};
use crate::execute::world::World;
use crate::model::runbook::Recycle;
use crate::model::{Incarnation, Plan, Reading, Reason, Signal, Worker, duration};

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What was there before any was asked to end.
#[derive(Serialize, Deserialize)]
struct Before {
    incarnation: Option<Incarnation>,
    workers: usize,
    /// Those of them that had not been asked to end before; not told by journals of former versions.
    serving: Option<usize>,
}

pub async fn preimage(
    plan: &Plan,
    incarnation: Option<Incarnation>,
    how: &Recycle,
    world: &World,
) -> Result<Value, Failure> {
    let workers = look(plan, how, Reason::MeasurementFailed, world).await?;
    let before = Before { incarnation, workers: workers.len(), serving: Some(serving(&workers)) };
    Ok(serde_json::to_value(before).expect("plain data"))
}

fn before(saga: &Saga, step: usize) -> Option<Before> {
    serde_json::from_value(saga.preimage(step)?.clone()).ok()
}

/// Fewer workers live, or serve, than before any was asked to end: how many, and what became of the others.
pub fn fewer(saga: &Saga, step: usize, now: &[Worker]) -> Option<String> {
    let before = before(saga, step)?;
    let (served, serve) = (before.serving.unwrap_or(before.workers), serving(now));
    let asked: Vec<&Worker> = now.iter().filter(|worker| worker.asked).collect();
    match (now.len() < before.workers, serve < served) {
        (true, _) => Some(format!("{} workers live where there were {}", now.len(), before.workers)),
        (_, true) => Some(format!(
            "only {serve} of {} workers serve, where {served} did before: pid {} got a signal to end, but did not end. Set \
             `kill_after` in the runbook, or end them by hand",
            now.len(),
            pids(asked)
        )),
        (false, false) => None,
    }
}

fn serving(workers: &[Worker]) -> usize {
    workers.iter().filter(|worker| !worker.asked).count()
}

fn pids<'a>(workers: impl IntoIterator<Item = &'a Worker>) -> String {
    let pids: Vec<String> = workers.into_iter().map(|worker| worker.pid.to_string()).collect();
    pids.join(", ")
}

async fn look(plan: &Plan, how: &Recycle, failed: Reason, world: &World) -> Result<Vec<Worker>, Failure> {
    let seen = world.measure.workers(plan, how.older_than).await;
    seen.map_err(|error| Failure::new(failed, format!("the workers could not be read: {error}")))
}

pub async fn apply(saga: &Saga, step: usize, how: &Recycle, world: &World) -> Result<Done, Failure> {
    let plan = saga.plan();
    let not_helped = |detail: String| Ok(Done { helped: Some(Helped::No), ..Done::saying(detail) });
    let first = look(plan, how, Reason::MeasurementFailed, world).await?;
    let before = before(saga, step).map_or(first.len(), |before| before.workers).max(first.len());
    let is_askable = |worker: &Worker| worker.holds > 0 && (!worker.asked || how.kill_after.is_some());
    let mut left: Vec<Worker> = first.iter().filter(|worker| is_askable(worker)).copied().collect();
    let deaf: Vec<&Worker> = first.iter().filter(|worker| worker.holds > 0 && !is_askable(worker)).collect();
    if left.is_empty() && deaf.is_empty() {
        return Err(Failure::new(Reason::NothingToDo, nothing_found(plan, how, first.len(), world).await));
    }
    let floor = how.floor.of(before);
    let (mut ended, mut sockets) = (0, 0);
    loop {
        let reason = if ended == 0 { Reason::MeasurementFailed } else { Reason::RecycleFailed };
        let now = look(plan, how, reason, world).await?;
        // Who has let go of them meanwhile, or ended by itself, is left alone.
        left.retain(|worker| now.iter().any(|seen| seen.is(worker) && seen.holds > 0));
        let batch = take_batch(&mut left, how.batch as usize, serving(&now).saturating_sub(floor));
        if batch.is_empty() {
            if left.is_empty() && deaf.is_empty() {
                break;
            }
            let leak = left.len() + deaf.len();
            let deaf = match deaf.as_slice() {
                [] => String::new(),
                [one] => format!(
                    ". Pid {} ignored an earlier signal and counts as not serving: set `kill_after` in the runbook, or end \
                     it by hand",
                    one.pid
                ),
                deaf => format!(
                    ". Pids {} ignored an earlier signal and count as not serving: set `kill_after` in the runbook, or end \
                     them by hand",
                    pids(deaf.iter().copied())
                ),
            };
            return not_helped(format!(
                "{leak} of {} workers still leak. unwait ended {ended} and may end no more: {floor} must keep serving \
                 (`floor: {}`), and {} do{deaf}",
                now.len(),
                how.floor,
                serving(&now),
            ));
        }
        sockets += batch.iter().map(|worker| worker.holds).sum::<usize>();
        let stayed = world.kernel.end(&batch, how).await.map_err(|error| failed(ended, error))?;
        if !stayed.is_empty() {
            let (pids, wait) = (pids(&stayed), duration::format(how.wait));
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

/// What is there, where no worker holds a socket that is old enough.
async fn nothing_found(plan: &Plan, how: &Recycle, workers: usize, world: &World) -> String {
    let (older_than, all) = (duration::format(how.older_than), world.measure.workers(plan, Duration::ZERO).await);
    let younger: usize = all.iter().flatten().map(|worker| worker.holds).sum();
    if younger == 0 {
        return format!("nothing to do: none of the service's {workers} workers holds a socket in CLOSE_WAIT");
    }
    let oldest = match world.measure.now(plan).await {
        Ok(readings) => readings.show(Signal::CloseWaitOldest),
        Err(_) => Reading::Unknown.show(Signal::CloseWaitOldest),
    };
    format!(
        "nothing to do yet: {younger} sockets are in CLOSE_WAIT in {workers} workers, but none of them for {older_than} \
         (`older_than`); the oldest of the service: {oldest}"
    )
}

/// Those that are asked next: so many at most, of which `room` may serve.
fn take_batch(left: &mut Vec<Worker>, at_most: usize, room: usize) -> Vec<Worker> {
    let (mut batch, mut serve) = (Vec::new(), 0);
    left.retain(|worker| {
        let fits = batch.len() < at_most && (worker.asked || serve < room);
        if fits {
            serve += usize::from(!worker.asked);
            batch.push(*worker);
        }
        !fits
    });
    batch
}

/// Waits until there are as many workers as before.
async fn replaced(saga: &Saga, how: &Recycle, before: usize, ended: usize, world: &World) -> Result<(), Failure> {
    let deadline = world.pace.elapsed() + how.wait;
    loop {
        hold(saga, world).await;
        let now = look(saga.plan(), how, Reason::RecycleFailed, world).await?.len();
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
    Failure::new(Reason::RecycleFailed, format!("{detail}; the step stopped there, after {ended} workers had ended"))
}
