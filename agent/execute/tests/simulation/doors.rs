//! The doors of one host's agent: the registry that all share, its own service manager, its clocks. Each is the host, seen
//! through one door; the effect stands between the way there and the way back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;

use super::host::{Broken, Host};
use super::scenario::{End, Party};
use crate::clock::Clock;
use crate::decide::guards::Possession;
use crate::execute::world::{Arrivals, Closed, Commands, Inbound, Keeper, Kept, Kernel, Measure, Pace, Talk};
use crate::model::plan::{self, Health};
use crate::model::runbook::Recycle;
use crate::model::{
    Blame, Comparison, Incarnation, Leaked, Marker, NetNs, Plan, Readings, Remaining, Signal, SocketId, Truth, Worker,
};
use crate::ports::fleet::fake::Way;
use crate::ports::fleet::{Acquired, Fleet, FleetError, LEASE, Slot};
use crate::ports::probe::{Probe, ProbeFailure};
use crate::ports::registry::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, TrafficChange};
use crate::ports::restarter::{Liveness, RestartError, Restarted, Restarter, Revival, RunState};

#[derive(Clone, Debug)]
pub struct Door(pub Arc<Host>);

/// The local service manager and the service itself answer within this.
const LOCAL_MS: u64 = 20;

impl Door {
    async fn nearby(&self) {
        self.0.step().await;
        let delay = self.0.dice().millis(1, LOCAL_MS);
        sleep(delay).await;
    }

    async fn registry(&self, back: bool) -> Result<(), RegistryError> {
        let arrived = self.0.cross(Party::Registry, back).await;
        arrived.map_err(|detail| RegistryError::Unreachable { registry: "fake".into(), detail })
    }

    async fn fleet(&self, back: bool) -> Result<(), FleetError> {
        self.0.cross(Party::Fleet, back).await.map_err(FleetError::Unreachable)
    }
}

#[async_trait]
impl Registry for Door {
    async fn would(&self, _: TrafficChange, _: &str, _: &Marker) -> Result<Vec<String>, RegistryError> {
        Ok(Vec::new())
    }

    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.registry(false).await?;
        let seen = self.0.shared.registry.observe(id).await;
        self.registry(true).await?;
        seen
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.registry(false).await?;
        let shared = &self.0.shared;
        let healthy = self.0.service().healthy;
        if !healthy {
            // The registry would see it at its next check: it goes out as ill as it may go back.
            shared.registry.set_healthy(id, false);
        }
        let done = shared.registry.drain(id, marker).await;
        if done.is_ok() {
            shared.observer().drained(shared.at(), self.0.index, marker);
        }
        self.registry(true).await?;
        done
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &serde_json::Value) -> Result<Restored, RegistryError> {
        self.registry(false).await?;
        let shared = &self.0.shared;
        let done = shared.registry.restore(id, marker, record).await;
        if matches!(done, Ok(Restored::Done)) {
            shared.observer().restored(shared.at(), self.0.index);
        }
        self.registry(true).await?;
        done
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        self.registry(false).await?;
        let counted = self.0.shared.registry.others(id).await;
        self.registry(true).await?;
        counted
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        unreachable!("the sweep for markers is the loop's, and no part of the simulation")
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        unreachable!("evidence is kept by another fake")
    }

    async fn takes_writes(&self, _id: &str, _marker: &Marker) -> Result<bool, RegistryError> {
        Ok(true)
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        crate::ports::registry::found_by_record(self, id).await
    }

    fn clients_follow(&self) -> Duration {
        Duration::ZERO
    }
}

#[async_trait]
impl Restarter for Door {
    async fn would(&self, _: Revival, _: &plan::Restart) -> Result<String, RestartError> {
        Ok(String::new())
    }

    async fn observe(&self, _target: &plan::Restart) -> Result<Liveness, RestartError> {
        self.nearby().await;
        let service = self.0.service().clone();
        let incarnation = (service.state == RunState::Active).then(|| incarnation(service.lifetime));
        let up_for = Some(self.0.shared.at() - service.since);
        Ok(Liveness { state: service.state, incarnation, main_pid: None, up_for })
    }

    async fn restart(&self, _target: &plan::Restart, _deadline: Duration) -> Result<Restarted, RestartError> {
        self.nearby().await;
        // The service manager goes on where the agent dies.
        let restart = tokio::spawn(Arc::clone(&self.0).restart());
        let first = self.0.service().lifetime == 1;
        if self.0.fate.dies_restarting && first && self.0.shared.is_troubled() {
            self.0.end_agent(End::Killed).await;
        }
        restart.await.expect("a restart does not panic");
        self.nearby().await;
        let service = || "rpc-order.service".to_string();
        if self.0.shared.is_troubled() && self.0.dice().percent(self.0.fate.lost_percent) {
            return Err(RestartError::Unreachable { service: service(), detail: "no answer in time".into() });
        }
        let now = self.0.service().clone();
        match now.state {
            RunState::Active => Ok(Restarted::NewIncarnation(incarnation(now.lifetime))),
            _ => Err(RestartError::Failed { service: service(), detail: "exit code 1".into() }),
        }
    }

    async fn own_deadline(&self, _target: &plan::Restart) -> Result<Duration, RestartError> {
        Ok(Duration::from_secs(100))
    }

    async fn dependents(&self, _target: &plan::Restart) -> Result<Vec<String>, RestartError> {
        Ok(Vec::new())
    }

    async fn settles_within(&self, _target: &plan::Restart) -> Result<Duration, RestartError> {
        Ok(Duration::ZERO)
    }
}

fn incarnation(lifetime: u32) -> Incarnation {
    Incarnation(format!("lifetime-{lifetime}"))
}

#[async_trait]
impl Probe for Door {
    async fn ask(&self, _health: &Health, _deadline: Duration) -> Result<(), ProbeFailure> {
        self.nearby().await;
        match self.0.service().healthy || self.0.shared.broken == Broken::Probe {
            true => Ok(()),
            false => {
                Err(ProbeFailure { asked: "PING".into(), answer: "connection refused".into(), is_an_answer: true })
            }
        }
    }
}

#[async_trait]
impl Pace for Door {
    fn elapsed(&self) -> Duration {
        self.monotonic()
    }

    async fn wait(&self, duration: Duration) {
        self.0.step().await;
        sleep(duration).await;
    }
}

#[async_trait]
impl Keeper for Door {
    async fn keep(&self, _plan: &Plan, _commands: &[Vec<String>], _deadline: Duration) -> Result<Kept, String> {
        self.nearby().await;
        Ok(Kept { dir: None, says: "300 sockets in CLOSE_WAIT".into(), blame: Blame::default() })
    }
}

#[async_trait]
impl Possession for Door {
    async fn elsewhere(&self, _plan: &Plan, _afresh: bool) -> Result<Option<String>, String> {
        Ok(None)
    }
}

#[async_trait]
impl Measure for Door {
    async fn now(&self, _plan: &Plan) -> Result<Readings, String> {
        self.nearby().await;
        Ok(readings(&self.0))
    }

    async fn inbound(&self, _plan: &Plan, _quiet: Duration) -> Result<Inbound, String> {
        let left = self.0.dice().below(2);
        Ok(Inbound { left, active: left })
    }

    async fn arrivals(&self, _plan: &Plan) -> Result<Arrivals, String> {
        Ok(Arrivals { count: 0, over: Duration::MAX })
    }

    async fn talks(&self, _plan: &Plan) -> Result<Vec<Talk>, String> {
        Ok(Vec::new())
    }

    async fn workers(&self, _plan: &Plan, _older_than: Duration) -> Result<Vec<Worker>, String> {
        unreachable!("the runbook recycles no workers")
    }

    async fn ends_a_holder(&self, _plan: &Plan) -> Result<bool, String> {
        Ok(true)
    }

    async fn leaked(&self, _plan: &Plan, at_least: Duration) -> Result<Leaked, String> {
        self.nearby().await;
        let lifetime = u64::from(self.0.service().lifetime);
        let sockets = vec![SocketId { namespace: NetNs(1), cookie: lifetime, inode: lifetime }];
        Ok(Leaked { boot: self.boot(), at_least, sockets })
    }

    /// They end with their lifetime.
    async fn remaining(&self, _plan: &Plan, leaked: &Leaked) -> Result<Remaining, String> {
        self.nearby().await;
        let lifetime = u64::from(self.0.service().lifetime);
        let left = leaked.sockets.iter().filter(|socket| socket.cookie == lifetime).count();
        Ok(Remaining { of: leaked.sockets.len(), left, ..Remaining::default() })
    }

    async fn is_over(&self, plan: &Plan) -> Result<Truth, String> {
        Ok(plan.is_over(&Measure::now(self, plan).await?))
    }

    async fn expectation(&self, plan: &Plan, expect: &Comparison) -> Result<Truth, String> {
        Ok(expect.truth(&Measure::now(self, plan).await?))
    }
}

/// What the agent measures at each look.
pub fn readings(host: &Host) -> Readings {
    let mut readings = Readings::default();
    readings.set(Signal::CloseWait, if host.service().leaking { 300.0 } else { 3.0 });
    readings
}

#[async_trait]
impl Commands for Door {
    async fn run(&self, _argv: &[String], _deadline: Duration) -> Result<String, String> {
        unreachable!("the runbook runs no commands")
    }
}

#[async_trait]
impl Kernel for Door {
    async fn end(&self, _workers: &[Worker], _how: &Recycle) -> Result<Vec<Worker>, String> {
        unreachable!("the runbook recycles no workers")
    }

    async fn close_sockets(&self, _plan: &Plan, _older_than: Duration, _at_most: u64) -> Result<Closed, String> {
        unreachable!("the runbook closes no sockets")
    }
}

impl Clock for Door {
    fn now(&self) -> Timestamp {
        let began: Timestamp = "2026-11-22T18:43:29Z".parse().unwrap();
        began + self.0.shared.at() + SignedDuration::from_millis(self.0.fate.skew)
    }

    fn monotonic(&self) -> Duration {
        // Each host was booted at a time of its own.
        Duration::from_secs(1_000 * (1 + self.0.index as u64)) + self.0.shared.at()
    }
}

#[async_trait]
impl Way for Door {
    async fn there(&self) -> Result<(), FleetError> {
        self.fleet(false).await
    }

    async fn back(&self) -> Result<(), FleetError> {
        self.fleet(true).await
    }
}

/// A store whose compare-and-swap compares nothing: everybody has a slot. Broken on purpose.
#[derive(Debug)]
pub struct Everybody(pub Door);

#[async_trait]
impl Fleet for Everybody {
    async fn acquire(&self, _service: &str, _incident: &str, _slots: u32) -> Result<Acquired, FleetError> {
        self.0.fleet(false).await?;
        Ok(Acquired::Yes { until: self.0.monotonic() + LEASE })
    }

    async fn would_take(&self, _service: &str, _incident: &str, _slots: u32) -> Result<Option<String>, FleetError> {
        Ok(None)
    }

    async fn begin(&self, _service: &str, _incident: &str) -> Result<Duration, FleetError> {
        Ok(self.0.monotonic() + LEASE)
    }

    async fn release(&self, _service: &str, _incident: &str) -> Result<(), FleetError> {
        Ok(())
    }

    async fn blocked_by(&self, _service: &str, _incident: &str, _slots: u32) -> Result<Vec<Slot>, FleetError> {
        Ok(Vec::new())
    }

    async fn release_host(&self, _service: &str, _host: &str) -> Result<Vec<Slot>, FleetError> {
        Ok(Vec::new())
    }

    async fn keep(&self, _needed: &[(String, String)]) -> Result<Vec<(String, Slot)>, FleetError> {
        Ok(Vec::new())
    }
}
