//! What a saga does to a service's single processes and sockets: signals by pidfd, and SOCK_DESTROY. In dry-run: the same
//! looks, and nothing done.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Wiring, supervised};
use crate::execute::world::{Closed, Kernel};
use crate::model::runbook::Recycle;
use crate::model::{Plan, Worker, duration};
use crate::ports::restarter::pidfd::{self, ProcessHandle};
use crate::sense::sensor::on_blocking_thread;
use crate::store::Store;

/// A program that looks at its sockets hears of their end at once; within this it has let go of them, or will not.
const LETS_GO_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const CAP_NET_ADMIN: u64 = 1 << 12; // include/uapi/linux/capability.h

/// Whether this process may close others' sockets.
pub fn may_close_sockets() -> bool {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    status.is_ok_and(|status| status.capeff & CAP_NET_ADMIN != 0)
}

/// The store keeps who was asked to end.
pub(crate) struct RealKernel(pub Wiring, pub Arc<Store>);

#[async_trait]
impl Kernel for RealKernel {
    async fn end(&self, workers: &[Worker], how: &Recycle) -> Result<Vec<Worker>, String> {
        let until = Instant::now() + how.wait;
        let refused = |worker: &Worker, error: std::io::Error| format!("pid {}: {error}", worker.pid);
        let mut held = Vec::new();
        for worker in workers {
            let (pid, parent) = (worker.pid.cast_signed(), worker.parent.cast_signed());
            match ProcessHandle::hold_child(pid, worker.began, parent) {
                Ok(Some(process)) => held.push((*worker, process)),
                // It has ended, or its pid is another's: nobody is signalled.
                Ok(None) => {}
                Err(error) => return Err(refused(worker, error)),
            }
        }
        let lives = |pid: u32, began| !matches!(pidfd::start_time(pid.cast_signed()), Ok(seen) if seen != Some(began));
        let noted = self.1.note_asked(&self.0.host.clock.boot(), workers, lives);
        noted.map_err(|error| {
            format!("no worker was signalled, because the list of workers could not be stored: {error}")
        })?;
        for (worker, process) in &held {
            process.signal(pidfd::number(how.signal)).map_err(|error| refused(worker, error))?;
        }
        if let Some(kill_after) = how.kill_after {
            for (worker, process) in still_there(&held, Instant::now() + kill_after).await {
                tracing::warn!(
                    pid = worker.pid,
                    "process {} still runs {} after SIG{}: sending SIGKILL",
                    worker.pid,
                    duration::format(kill_after),
                    how.signal,
                );
                process.signal(libc::SIGKILL).map_err(|error| refused(worker, error))?;
            }
        }
        Ok(still_there(&held, until).await.iter().map(|(worker, _)| *worker).collect())
    }

    async fn close_sockets(&self, plan: &Plan, older_than: Duration, at_most: u64) -> Result<Closed, String> {
        supervised::tell(&self.0).await;
        let (sensor, service) = (self.0.sensor.clone(), plan.target.service.clone());
        let closing = Arc::new(on_blocking_thread(move || sensor.lock().close(&service, older_than, at_most)).await?);
        let found = closing.found;
        let until = Instant::now() + LETS_GO_WITHIN;
        let leaked = loop {
            let began = Instant::now();
            let (sensor, closing) = (self.0.sensor.clone(), Arc::clone(&closing));
            match on_blocking_thread(move || sensor.lock().still_open(&closing)).await {
                Some(0) => break Some(0),
                leaked if Instant::now() >= until => break leaked,
                _ => {}
            }
            // Others want the sensor too, for as long as this one had it.
            tokio::time::sleep(LOOK_EVERY.max(began.elapsed())).await;
        };
        Ok(Closed { found, closed: closing.closed.len() as u64, leaked })
    }
}

async fn still_there(held: &[(Worker, ProcessHandle)], until: Instant) -> Vec<&(Worker, ProcessHandle)> {
    let mut left = Vec::new();
    for one in held {
        let patience = until.saturating_duration_since(Instant::now());
        if !one.1.ended_within(patience).await {
            left.push(one);
        }
    }
    left
}

#[derive(Debug)]
pub struct DryKernel(pub Wiring);

#[async_trait]
impl Kernel for DryKernel {
    async fn end(&self, _workers: &[Worker], _how: &Recycle) -> Result<Vec<Worker>, String> {
        Ok(Vec::new())
    }

    async fn close_sockets(&self, plan: &Plan, older_than: Duration, at_most: u64) -> Result<Closed, String> {
        supervised::tell(&self.0).await;
        let (sensor, service) = (self.0.sensor.clone(), plan.target.service.clone());
        let found = on_blocking_thread(move || sensor.lock().closable(&service, older_than)).await?;
        // What only an action would have brought about counts as brought about.
        Ok(Closed { found, closed: found.min(at_most), leaked: Some(0) })
    }
}
