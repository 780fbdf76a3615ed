//! The outside, as the scene has it: a registry, a manager of services and a probe.

use std::time::Duration;

use async_trait::async_trait;

use super::{CLIENTS_FOLLOW, Fake, Fault, ID, REGISTRY, Scene};
use crate::model::plan::{self, Health};
use crate::model::{Incarnation, Marker};
use crate::ports::probe::{Probe, ProbeFailure};
use crate::ports::registry::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, TrafficChange};
use crate::ports::restarter::{Before, Liveness, RestartError, Restarted, Restarter, Revival, RunState};

#[async_trait]
impl Registry for Fake {
    async fn would(&self, _: TrafficChange, _: &str, _: &Marker) -> Result<Vec<String>, RegistryError> {
        Ok(Vec::new())
    }

    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        if self.0.trip.pass() {
            return Err(Scene::unreachable());
        }
        self.0.registers_itself().await;
        self.0.registry.observe(id).await
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        if self.0.trip.pass() {
            return Err(Scene::unreachable());
        }
        let fault = self.0.fault;
        let again = self.0.service().drained_once;
        if fault == Fault::DrainRefused || (fault == Fault::IllInTrafficAndHeld && again) {
            return Err(RegistryError::Refused { registry: REGISTRY.into(), detail: "permission denied".into() });
        }
        self.0.registry.drain(id, marker).await?;
        self.0.changes();
        if self.0.trip.pass() {
            return Err(Scene::unreachable());
        }
        self.0.service().drained_once = true;
        if again {
            return Ok(());
        }
        match fault {
            Fault::DrainAnswerLost => return Err(Scene::unreachable()),
            Fault::RestartedWhileDrained => self.0.begin_anew(true),
            Fault::IllWhileDrained => self.0.fall_ill(),
            Fault::IsolatedWhileDrained => self.0.registry.isolate(id, Some("hands off")),
            Fault::DeregisteredWhileDrained => self.0.registry.deregister(id),
            _ => {}
        }
        Ok(())
    }

    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        if self.0.trip.pass() || self.0.fault == Fault::FullOnceDrained {
            return Err(Scene::unreachable());
        }
        self.0.registry.takes_writes(id, marker).await
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &serde_json::Value) -> Result<Restored, RegistryError> {
        if self.0.trip.pass() {
            return Err(Scene::unreachable());
        }
        let fault = self.0.fault;
        if matches!(fault, Fault::RegistryAwayAtRestore | Fault::RegistryAwayAtUndo) && self.0.is_away() {
            return Err(Scene::unreachable());
        }
        let restored = self.0.registry.restore(id, marker, record).await?;
        self.0.changes();
        if self.0.trip.pass() {
            return Err(Scene::unreachable());
        }
        if matches!(fault, Fault::IllInTraffic | Fault::IllInTrafficAndHeld) && self.0.service().restarts > 0 {
            self.0.fall_ill();
        }
        Ok(restored)
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        if self.0.trip.pass() {
            return Err(Scene::unreachable());
        }
        self.0.registry.others(id).await
    }

    fn counts(&self) -> bool {
        self.0.registry.counts()
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        if self.0.trip.pass() {
            return Err(Scene::unreachable());
        }
        self.0.registers_itself().await;
        Ok(self.0.shown(self.0.registry.clients_find(id).await?))
    }

    fn clients_follow(&self) -> Duration {
        if self.0.fault == Fault::ClientsSlow { CLIENTS_FOLLOW } else { Duration::ZERO }
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        self.0.registry.markers().await
    }

    async fn names(&self) -> Result<std::collections::HashMap<std::net::SocketAddr, String>, RegistryError> {
        self.0.registry.names().await
    }
}

#[async_trait]
impl Restarter for Fake {
    async fn would(&self, _: Revival, _: &plan::Restart) -> Result<String, RestartError> {
        Ok(String::new())
    }

    async fn observe(&self, _target: &plan::Restart) -> Result<Liveness, RestartError> {
        if self.0.trip.pass() {
            return Err(Scene::silent());
        }
        let service = self.0.service().clone();
        let incarnation = (service.state == RunState::Active).then(|| service.incarnation());
        Ok(Liveness { state: service.state, incarnation, main_pid: None, up_for: service.up_for })
    }

    async fn restart(&self, _target: &plan::Restart, _deadline: Duration) -> Result<Restarted, RestartError> {
        if self.0.trip.pass() {
            return Err(Scene::silent());
        }
        let service = || "rpc-order.service".to_string();
        let fault = self.0.fault;
        match fault {
            Fault::RestartRefused | Fault::IllWhileDrained | Fault::RegistryAwayAtUndo => {
                return Err(RestartError::Refused { service: service(), detail: "not allowed".into() });
            }
            Fault::StartLimit => {
                return Err(RestartError::StartLimit { service: service(), detail: "start limit hit".into() });
            }
            Fault::RestartUnheard => return Err(Scene::silent()),
            _ => {}
        }
        self.0.service().restarts += 1;
        if fault == Fault::TwoHalves {
            self.0.service().state = RunState::Inactive;
            if self.0.trip.pass() {
                return Err(Scene::silent());
            }
            return Ok(Restarted::Stopping);
        }
        if fault == Fault::RestartDies {
            self.0.fall_ill();
            self.0.service().state = RunState::Failed;
            if self.0.trip.pass() {
                return Err(Scene::silent());
            }
            return Err(RestartError::Failed { service: service(), detail: "exit code 1".into() });
        }
        self.0.begin_anew(fault != Fault::UnhealthyAfterRestart);
        match fault {
            Fault::RegistersItself => self.0.registry.isolate(ID, None),
            Fault::RegistersLate | Fault::RegistersLateInTraffic => self.0.leaves(),
            Fault::NeverRegistersAgain => self.0.registry.deregister(ID),
            _ => {}
        }
        if self.0.trip.pass() || fault == Fault::RestartAnswerLost {
            return Err(Scene::silent());
        }
        Ok(Restarted::NewIncarnation(self.0.service().incarnation()))
    }

    async fn start(
        &self,
        _target: &plan::Restart,
        before: &Before,
        _deadline: Duration,
    ) -> Result<Incarnation, RestartError> {
        if self.0.trip.pass() {
            return Err(Scene::silent());
        }
        assert_eq!(before.incarnation.0, "lifetime-1", "the lifetime that was stopped");
        if self.0.service().state == RunState::Inactive {
            self.0.begin_anew(true);
            if self.0.trip.pass() {
                return Err(Scene::silent());
            }
        }
        Ok(self.0.service().incarnation())
    }

    async fn reload(&self, target: &plan::Restart, _deadline: Duration) -> Result<(), RestartError> {
        if self.0.trip.pass() {
            return Err(Scene::silent());
        }
        let failed =
            || RestartError::NotReloaded { service: format!("{target:?}"), detail: "as the fault says".into() };
        if self.0.fault == Fault::ReloadFails {
            return Err(failed());
        }
        self.0.service().reloads += 1;
        if self.0.trip.pass() {
            return Err(Scene::silent());
        }
        match self.0.fault {
            Fault::ReloadAnswerLost => return Err(failed()),
            Fault::ReloadDies => {
                self.0.fall_ill();
                self.0.service().state = RunState::Failed;
                return Err(failed());
            }
            Fault::IllOfIt => self.0.fall_ill(),
            _ => {}
        }
        Ok(())
    }

    async fn would_not_start(&self, _target: &plan::Restart) -> Result<Option<String>, RestartError> {
        Ok(self.0.service().would_not_start.clone())
    }

    async fn own_deadline(&self, _target: &plan::Restart) -> Result<Duration, RestartError> {
        if self.0.trip.pass() {
            return Err(Scene::silent());
        }
        Ok(Duration::from_secs(100))
    }

    async fn dependents(&self, _target: &plan::Restart) -> Result<Vec<String>, RestartError> {
        Ok(Vec::new())
    }

    async fn settles_within(&self, _target: &plan::Restart) -> Result<Duration, RestartError> {
        Ok(Duration::ZERO)
    }
}

#[async_trait]
impl Probe for Fake {
    async fn ask(&self, _health: &Health, _deadline: Duration) -> Result<(), ProbeFailure> {
        if self.0.trip.pass() {
            return Err(ProbeFailure { asked: "PING".into(), answer: "no answer in time".into(), is_an_answer: true });
        }
        match self.0.service().healthy {
            true => Ok(()),
            false => {
                Err(ProbeFailure { asked: "PING".into(), answer: "connection refused".into(), is_an_answer: true })
            }
        }
    }
}
