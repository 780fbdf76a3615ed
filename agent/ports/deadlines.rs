//! No call to a port outlasts its deadline, also where an adapter would wait for ever.
//!
//! Each adapter ends its calls by deadlines of its own, sooner and with a better word. These deadlines are for what they did not
//! think of: a call that has not ended by then is an error of that call, and the saga goes on from there. Who has not
//! answered is asked one question at a time ([`super::silence`]); what is to be written is tried all the same. Put on by
//! the wiring, once, around every adapter.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;

use super::Ports;
use super::fleet::{self, Acquired, Fleet, FleetError, Slot, Told};
use super::probe::{Probe, ProbeFailure};
use super::registry::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, TrafficChange};
use super::restarter::{Before, Liveness, RestartError, Restarted, Restarter, Revival};
use super::silence::{Silences, patient};
use crate::model::plan::{Health, Restart};
use crate::model::{HostStatus, Incarnation, Marker, duration};

/// For a question to a restarter: a few calls of 10 s.
const RESTARTER: Duration = Duration::from_secs(60);
/// What a restart or a probe may take beyond the deadline that it is given, and a restarter's own overtime.
const BEYOND: Duration = Duration::from_secs(15);
/// For a fleet's store: its own deadline is to come first.
const FLEET: Duration = Duration::from_secs(fleet::DEADLINE.as_secs() + 8);

/// The same ports, each call ending by its deadline.
pub fn with_deadlines(ports: Ports) -> Ports {
    Ports {
        registries: ports
            .registries
            .into_iter()
            .map(|(name, inner)| (name.clone(), Arc::new(WithDeadline::new(&name, inner)) as Arc<dyn Registry>))
            .collect(),
        restarters: ports.restarters.wrapped(|inner| WithDeadline::new("", inner)),
        probe: Arc::new(WithDeadline::new("probe", ports.probe)),
        fleet: ports.fleet.map(around_fleet),
        // The others have deadlines of their own, and know the patience of who asks.
        ..ports
    }
}

/// Around the fleet's store alone.
pub fn around_fleet(inner: Arc<dyn Fleet>) -> Arc<dyn Fleet> {
    Arc::new(WithDeadline::new("fleet", inner))
}

struct WithDeadline<T: ?Sized> {
    name: String,
    inner: Arc<T>,
    silences: Silences,
}

impl<T: ?Sized> WithDeadline<T> {
    fn new(name: &str, inner: Arc<T>) -> Self {
        Self { name: name.into(), inner, silences: Silences::default() }
    }
}

/// What is only read may be asked again: a leader changes, a connection is reset, while a question is under way. Once, and
/// only where the failure came at once: a party that is silent is not waited for twice.
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(250);
const AT_ONCE: Duration = Duration::from_secs(2);

async fn twice<T: Send, E: Send, F>(ask: impl Fn() -> F + Send, may_pass: impl Fn(&E) -> bool + Send) -> Result<T, E>
where
    F: Future<Output = Result<T, E>> + Send,
{
    let began = tokio::time::Instant::now();
    let answer = ask().await;
    let again = answer.as_ref().is_err_and(may_pass) && began.elapsed() < AT_ONCE;
    if !again {
        return answer;
    }
    drop(answer);
    tokio::time::sleep(ASKED_AGAIN_AFTER).await;
    ask().await
}

/// The answer, or what is said where there is none by the deadline.
async fn by<T, E>(
    deadline: Duration,
    call: impl Future<Output = Result<T, E>> + Send,
    late: impl FnOnce(String) -> E,
) -> Result<T, E> {
    let deadline = patient(deadline);
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => answer,
        Err(_) => Err(late(format!("no answer within {}", duration::format(deadline)))),
    }
}

impl WithDeadline<dyn Registry> {
    async fn by<T>(&self, call: impl Future<Output = Result<T, RegistryError>> + Send) -> Result<T, RegistryError> {
        by(self.inner.ends_within(), call, |detail| RegistryError::Unreachable { registry: self.name.clone(), detail })
            .await
    }

    async fn read<T: Send, F>(&self, ask: impl Fn() -> F + Send) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>> + Send,
    {
        let registry = &self.name;
        let asked = self.silences.ask(registry).map_err(|silent| RegistryError::Unreachable {
            registry: registry.clone(),
            detail: format!("registry {registry} {silent}"),
        })?;
        let is_silence = |error: &_| matches!(error, RegistryError::Unreachable { .. });
        let late = |detail| RegistryError::Unreachable { registry: registry.clone(), detail };
        asked.answer(self.inner.ends_within(), twice(ask, RegistryError::is_passing), is_silence, late).await
    }
}

#[async_trait]
impl Registry for WithDeadline<dyn Registry> {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.read(|| self.inner.observe(id)).await
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.by(self.inner.drain(id, marker)).await
    }

    async fn hold(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        self.by(self.inner.hold(id, marker)).await
    }

    /// What is written is what stands there, so it may be asked again like a read.
    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        self.read(|| self.inner.takes_writes(id, marker)).await
    }

    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError> {
        self.read(|| self.inner.would(change, id, marker)).await
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &Value) -> Result<Restored, RegistryError> {
        self.by(self.inner.restore(id, marker, record)).await
    }

    async fn forget(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.by(self.inner.forget(id, marker)).await
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        self.read(|| self.inner.others(id)).await
    }

    fn counts(&self) -> bool {
        self.inner.counts()
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        self.read(|| self.inner.markers()).await
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        self.read(|| self.inner.names()).await
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        self.read(|| self.inner.instances()).await
    }

    async fn health_url(&self, id: &str) -> Result<Option<String>, RegistryError> {
        self.read(|| self.inner.health_url(id)).await
    }

    async fn server(&self) -> Result<Option<String>, RegistryError> {
        self.read(|| self.inner.server()).await
    }

    fn ends_within(&self) -> Duration {
        self.inner.ends_within()
    }

    fn drains_within(&self) -> Duration {
        self.inner.drains_within()
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        self.read(|| self.inner.clients_find(id)).await
    }

    fn clients_follow(&self) -> Duration {
        self.inner.clients_follow()
    }

    fn clients_leave(&self) -> bool {
        self.inner.clients_leave()
    }

    fn gone_after(&self) -> Duration {
        self.inner.gone_after()
    }

    fn caveats(&self) -> &'static [&'static str] {
        self.inner.caveats()
    }
}

impl WithDeadline<dyn Restarter> {
    async fn by<T>(
        &self,
        deadline: Duration,
        target: &Restart,
        call: impl Future<Output = Result<T, RestartError>> + Send,
    ) -> Result<T, RestartError> {
        by(deadline, call, |detail| RestartError::Unreachable { service: super::restarter::named(target), detail })
            .await
    }

    /// Of each service by itself: a daemon that hangs over one container answers for the others.
    async fn read<T>(
        &self,
        target: &Restart,
        call: impl Future<Output = Result<T, RestartError>> + Send,
    ) -> Result<T, RestartError> {
        let service = super::restarter::named(target);
        let asked = self.silences.ask(&service).map_err(|silent| RestartError::Unreachable {
            detail: format!("the restarter {silent}"),
            service: service.clone(),
        })?;
        let is_silence = |error: &_| matches!(error, RestartError::Unreachable { .. });
        let late = |detail| RestartError::Unreachable { service: service.clone(), detail };
        asked.answer(RESTARTER, call, is_silence, late).await
    }
}

#[async_trait]
impl Restarter for WithDeadline<dyn Restarter> {
    async fn observe(&self, target: &Restart) -> Result<Liveness, RestartError> {
        self.read(target, self.inner.observe(target)).await
    }

    async fn remember(&self, target: &Restart, incarnation: &Incarnation) -> Result<Value, RestartError> {
        self.by(RESTARTER, target, self.inner.remember(target, incarnation)).await
    }

    async fn would(&self, revival: Revival, target: &Restart) -> Result<String, RestartError> {
        self.read(target, self.inner.would(revival, target)).await
    }

    async fn restart(&self, target: &Restart, deadline: Duration) -> Result<Restarted, RestartError> {
        self.by(deadline + self.overtime(target) + BEYOND, target, self.inner.restart(target, deadline)).await
    }

    async fn start(&self, target: &Restart, before: &Before, deadline: Duration) -> Result<Incarnation, RestartError> {
        self.by(deadline + self.overtime(target) + BEYOND, target, self.inner.start(target, before, deadline)).await
    }

    async fn container_id(&self, target: &Restart) -> Result<Option<String>, RestartError> {
        self.read(target, self.inner.container_id(target)).await
    }

    async fn settles_within(&self, target: &Restart) -> Result<Duration, RestartError> {
        self.read(target, self.inner.settles_within(target)).await
    }

    async fn own_deadline(&self, target: &Restart) -> Result<Duration, RestartError> {
        self.read(target, self.inner.own_deadline(target)).await
    }

    fn overtime(&self, target: &Restart) -> Duration {
        self.inner.overtime(target)
    }

    async fn no_reload(&self, target: &Restart) -> Result<Option<String>, RestartError> {
        self.read(target, self.inner.no_reload(target)).await
    }

    async fn reload(&self, target: &Restart, deadline: Duration) -> Result<(), RestartError> {
        self.by(deadline + BEYOND, target, self.inner.reload(target, deadline)).await
    }

    async fn dependents(&self, target: &Restart) -> Result<Vec<String>, RestartError> {
        self.read(target, self.inner.dependents(target)).await
    }

    async fn unfit(&self, target: &Restart) -> Result<Option<String>, RestartError> {
        self.read(target, self.inner.unfit(target)).await
    }

    async fn would_not_start(&self, target: &Restart) -> Result<Option<String>, RestartError> {
        self.read(target, self.inner.would_not_start(target)).await
    }

    async fn caveats(&self, target: &Restart) -> Vec<String> {
        tokio::time::timeout(RESTARTER, self.inner.caveats(target)).await.unwrap_or_default()
    }
}

#[async_trait]
impl Probe for WithDeadline<dyn Probe> {
    async fn ask(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure> {
        let late = |answer| ProbeFailure { asked: self.name.clone(), answer, is_an_answer: true };
        by(deadline + BEYOND, self.inner.ask(health, deadline), late).await
    }

    async fn can_be_asked(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure> {
        // Whoever is silent can be asked.
        let asked = tokio::time::timeout(deadline + BEYOND, self.inner.can_be_asked(health, deadline)).await;
        asked.unwrap_or(Ok(()))
    }
}

impl WithDeadline<dyn Fleet> {
    async fn by<T>(&self, call: impl Future<Output = Result<T, FleetError>> + Send) -> Result<T, FleetError> {
        by(FLEET, call, FleetError::Unreachable).await
    }

    async fn read<T: Send, F>(&self, ask: impl Fn() -> F + Send) -> Result<T, FleetError>
    where
        F: Future<Output = Result<T, FleetError>> + Send,
    {
        self.once(twice(ask, FleetError::is_passing)).await
    }

    /// A question, or what may be left for later as well.
    async fn once<T>(&self, ask: impl Future<Output = Result<T, FleetError>> + Send) -> Result<T, FleetError> {
        let asked = self.silences.ask(&self.name);
        let asked = asked.map_err(|silent| FleetError::NotAsked(format!("the fleet's store {silent}")))?;
        asked.answer(FLEET, ask, |error| matches!(error, FleetError::Unreachable(_)), FleetError::Unreachable).await
    }
}

#[async_trait]
impl Fleet for WithDeadline<dyn Fleet> {
    async fn acquire(&self, service: &str, incident: &str, slots: u32) -> Result<Acquired, FleetError> {
        self.once(self.inner.acquire(service, incident, slots)).await
    }

    async fn would_take(&self, service: &str, incident: &str, slots: u32) -> Result<Option<String>, FleetError> {
        self.read(|| self.inner.would_take(service, incident, slots)).await
    }

    async fn begin(&self, service: &str, incident: &str) -> Result<Duration, FleetError> {
        self.by(self.inner.begin(service, incident)).await
    }

    async fn drained(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        self.by(self.inner.drained(service, incident)).await
    }

    async fn release(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        self.by(self.inner.release(service, incident)).await
    }

    async fn keep(&self, needed: &[(String, String)]) -> Result<Vec<(String, Slot)>, FleetError> {
        self.once(self.inner.keep(needed)).await
    }

    async fn blocked_by(&self, service: &str, incident: &str, slots: u32) -> Result<Vec<Slot>, FleetError> {
        self.read(|| self.inner.blocked_by(service, incident, slots)).await
    }

    async fn release_host(&self, service: &str, host: &str) -> Result<Vec<Slot>, FleetError> {
        self.by(self.inner.release_host(service, host)).await
    }

    async fn services(&self) -> Result<Vec<String>, FleetError> {
        self.read(|| self.inner.services()).await
    }

    async fn holders(&self, service: &str) -> Result<Vec<Slot>, FleetError> {
        self.read(|| self.inner.holders(service)).await
    }

    async fn publish_breach(&self, service: &str, until: Timestamp) -> Result<(), FleetError> {
        self.read(|| self.inner.publish_breach(service, until)).await
    }

    async fn breaches(&self, service: &str) -> Result<Vec<String>, FleetError> {
        self.read(|| self.inner.breaches(service)).await
    }

    async fn publish_status(&self, status: &HostStatus, until: Timestamp) -> Result<(), FleetError> {
        self.read(|| self.inner.publish_status(status, until)).await
    }

    async fn statuses(&self) -> Result<Vec<(String, Result<Told, String>)>, FleetError> {
        self.read(|| self.inner.statuses()).await
    }

    async fn server(&self) -> Result<Option<String>, FleetError> {
        self.read(|| self.inner.server()).await
    }

    fn caveats(&self) -> &'static [&'static str] {
        self.inner.caveats()
    }
}

#[cfg(test)]
#[path = "deadlines_tests.rs"]
mod tests;
