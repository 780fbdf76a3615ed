//! Each party outside falls ill in each way as each step of each shipped runbook begins, for twenty minutes, in virtual
//! time: over the guards, the saga, the slots and the outbox as they are, and the deadlines around the ports.
//!
//! At the end the service is in traffic and healthy, or latched and told; it was restarted once at most; no drain stands
//! that nobody knows of once the registry was asked for them; no slot is left held but by who is stuck.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use strum::IntoEnumIterator;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::run::all_kept;
use super::runbooks::shipped;
use crate::clock::VirtualClock;
use crate::daemon::damage_tests::Ears;
use crate::daemon::duties::{delivery, sweep};
use crate::decide::guards::Gate;
use crate::execute::driver::{Driven, drive};
use crate::execute::fakes::{self, Fake, Fault, HOST, ID, REGISTRY, Scene};
use crate::execute::journal::Journal;
use crate::execute::saga::{Event, Saga};
use crate::execute::world::World;
use crate::model::plan::{Health, Restart};
use crate::model::policy::{GuardSettings, MinHealthy};
use crate::model::{EventKind, Incarnation, IncidentId, Marker, Outcome, Plan, Step, Trigger};
use crate::ports::fleet::fake::FakeStore;
use crate::ports::fleet::{Acquired, Fleet, FleetError, Slot};
use crate::ports::notifier::{DeliveryError, Letter, Notifier, Pace, ThreadKey};
use crate::ports::probe::{Probe, ProbeFailure};
use crate::ports::registry::{
    FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange,
};
use crate::ports::restarter::{Liveness, RestartError, Restarted, Restarter, Revival, RunState};
use crate::ports::{Ports, Restarters, with_deadlines};
use crate::store::Store;
use crate::wiring::saga_world::GuardRecheck;

mod illness;

use illness::{Illness, Who};

/// How long an illness lasts.
const ILL_FOR: Duration = Duration::from_secs(20 * 60);
/// By when everything is at rest again, and more than any answer that is late is late by.
const AT_REST_WITHIN: Duration = Duration::from_secs(60 * 60);

/// One party, and since when it is ill.
struct Sick {
    who: Who,
    illness: Illness,
    step: usize,
    store: Arc<Store>,
    incident: IncidentId,
    since: OnceLock<Instant>,
    /// It is well again, also where it never was asked while it was ill.
    over: OnceLock<()>,
    wrote: OnceLock<()>,
    /// What was told and delivered, for all that can be known: a notifier took it that only pretends.
    believed: Mutex<Vec<EventKind>>,
}

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// Nothing arrives.
    Unheard,
    Pretended,
    /// As it was before.
    Old,
    /// It is done, and nobody hears of it.
    Unsaid,
}

impl Sick {
    /// As the step's intent is journaled, or, for the first, from the beginning on.
    fn is_ill(&self, who: Who) -> bool {
        if who != self.who || self.over.get().is_some() {
            return false;
        }
        if self.since.get().is_none() {
            let rows = self.store.journal(&self.incident).unwrap();
            let begun = rows.iter().filter_map(|row| match serde_json::from_str(&row.event) {
                Ok(Event::Intended { step, .. }) => Some(step),
                _ => None,
            });
            if begun.max().map_or(0, |step| step + 1) >= self.step {
                let _ = self.since.set(Instant::now());
            }
        }
        self.since.get().is_some_and(|since| since.elapsed() < ILL_FOR)
    }

    async fn fate(&self, who: Who, writes: bool) -> Fate {
        if !self.is_ill(who) {
            return Fate::Answered;
        }
        match self.illness {
            Illness::Refused | Illness::Failing => Fate::Unheard,
            Illness::Slow => {
                sleep(Duration::from_secs(30)).await;
                Fate::Answered
            }
            Illness::HalfOpen => std::future::pending().await,
            Illness::Pretending if writes => Fate::Pretended,
            Illness::Stale if !writes => Fate::Old,
            Illness::Pretending | Illness::Stale => Fate::Answered,
            Illness::DiesAfterWrite if self.wrote.get().is_some() => Fate::Unheard,
            Illness::DiesAfterWrite if writes => {
                let _ = self.wrote.set(());
                Fate::Unsaid
            }
            Illness::DiesAfterWrite => Fate::Answered,
        }
    }
}

/// A port over a party that may be ill.
struct Ill<T: ?Sized> {
    sick: Arc<Sick>,
    inner: Arc<T>,
    /// What it said of itself while it was well.
    said: Mutex<HashMap<&'static str, Box<dyn std::any::Any + Send>>>,
}

impl<T: ?Sized> Ill<T> {
    fn of(sick: &Arc<Sick>, inner: Arc<T>) -> Arc<Self> {
        Arc::new(Self { sick: Arc::clone(sick), inner, said: Mutex::default() })
    }

    async fn asked<A: Clone + Send + 'static, E>(
        &self,
        who: Who,
        what: &'static str,
        call: impl Future<Output = Result<A, E>> + Send,
        unheard: impl FnOnce() -> E + Send,
    ) -> Result<A, E> {
        match self.sick.fate(who, false).await {
            Fate::Unheard => return Err(unheard()),
            Fate::Old => {
                if let Some(said) = self.said.lock().unwrap().get(what).and_then(|said| said.downcast_ref::<A>()) {
                    return Ok(said.clone());
                }
            }
            _ => {}
        }
        let answer = call.await?;
        if !self.sick.is_ill(who) {
            self.said.lock().unwrap().insert(what, Box::new(answer.clone()));
        }
        Ok(answer)
    }

    async fn told<A, E>(
        &self,
        who: Who,
        call: impl Future<Output = Result<A, E>> + Send,
        pretended: impl FnOnce() -> A + Send,
        unheard: impl FnOnce() -> E + Send,
    ) -> Result<A, E> {
        match self.sick.fate(who, true).await {
            Fate::Answered | Fate::Old => call.await,
            Fate::Unheard => Err(unheard()),
            Fate::Pretended => Ok(pretended()),
            Fate::Unsaid => {
                let _ = call.await;
                Err(unheard())
            }
        }
    }
}

fn nobody() -> RegistryError {
    RegistryError::Unreachable { registry: REGISTRY.into(), detail: "nobody answers".into() }
}

#[async_trait]
impl Registry for Ill<dyn Registry> {
    async fn would(&self, _: TrafficChange, _: &str, _: &Marker) -> Result<Vec<String>, RegistryError> {
        Ok(Vec::new())
    }

    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.asked(Who::Registry, "observe", self.inner.observe(id), nobody).await
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.told(Who::Registry, self.inner.drain(id, marker), || (), nobody).await
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &Value) -> Result<Restored, RegistryError> {
        self.told(Who::Registry, self.inner.restore(id, marker, record), || Restored::Done, nobody).await
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        self.asked(Who::Registry, "others", self.inner.others(id), nobody).await
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        self.asked(Who::Registry, "markers", self.inner.markers(), nobody).await
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        self.asked(Who::Registry, "names", self.inner.names(), nobody).await
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

fn silent() -> RestartError {
    RestartError::Unreachable { service: "rpc-order.service".into(), detail: "nobody answers".into() }
}

#[async_trait]
impl Restarter for Ill<dyn Restarter> {
    async fn would(&self, _: Revival, _: &Restart) -> Result<String, RestartError> {
        Ok(String::new())
    }

    async fn observe(&self, target: &Restart) -> Result<Liveness, RestartError> {
        self.asked(Who::Restarter, "observe", self.inner.observe(target), silent).await
    }

    async fn restart(&self, target: &Restart, deadline: Duration) -> Result<Restarted, RestartError> {
        let same = || Restarted::NewIncarnation(Incarnation("lifetime-1".into()));
        self.told(Who::Restarter, self.inner.restart(target, deadline), same, silent).await
    }

    async fn own_deadline(&self, target: &Restart) -> Result<Duration, RestartError> {
        self.asked(Who::Restarter, "own_deadline", self.inner.own_deadline(target), silent).await
    }

    async fn dependents(&self, target: &Restart) -> Result<Vec<String>, RestartError> {
        self.asked(Who::Restarter, "dependents", self.inner.dependents(target), silent).await
    }

    async fn settles_within(&self, _target: &Restart) -> Result<Duration, RestartError> {
        Ok(Duration::ZERO)
    }
}

#[async_trait]
impl Probe for Ill<dyn Probe> {
    async fn ask(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure> {
        let none = || ProbeFailure { asked: "PING".into(), answer: "nobody answers".into(), is_an_answer: true };
        // As the real one, which gives up at its deadline.
        let asked = self.asked(Who::Probe, "ask", self.inner.ask(health, deadline), none);
        match self.sick.illness {
            Illness::HalfOpen => asked.await,
            _ => timeout(deadline, asked).await.unwrap_or_else(|_| Err(none())),
        }
    }
}

fn away() -> FleetError {
    FleetError::Unreachable("nobody answers".into())
}

#[async_trait]
impl Fleet for Ill<dyn Fleet> {
    async fn acquire(&self, service: &str, incident: &str, slots: u32) -> Result<Acquired, FleetError> {
        let until = Duration::MAX;
        self.told(Who::Fleet, self.inner.acquire(service, incident, slots), || Acquired::Yes { until }, away).await
    }

    async fn would_take(&self, service: &str, incident: &str, slots: u32) -> Result<Option<String>, FleetError> {
        self.asked(Who::Fleet, "would_take", self.inner.would_take(service, incident, slots), away).await
    }

    async fn begin(&self, service: &str, incident: &str) -> Result<Duration, FleetError> {
        self.told(Who::Fleet, self.inner.begin(service, incident), || Duration::MAX, away).await
    }

    async fn release(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        self.told(Who::Fleet, self.inner.release(service, incident), || (), away).await
    }

    async fn blocked_by(&self, service: &str, incident: &str, slots: u32) -> Result<Vec<Slot>, FleetError> {
        self.asked(Who::Fleet, "blocked_by", self.inner.blocked_by(service, incident, slots), away).await
    }

    async fn release_host(&self, service: &str, host: &str) -> Result<Vec<Slot>, FleetError> {
        self.told(Who::Fleet, self.inner.release_host(service, host), Vec::new, away).await
    }

    async fn holders(&self, service: &str) -> Result<Vec<Slot>, FleetError> {
        self.asked(Who::Fleet, "holders", self.inner.holders(service), away).await
    }

    async fn keep(&self, _needed: &[(String, String)]) -> Result<Vec<(String, Slot)>, FleetError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Notifier for Ill<dyn Notifier> {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        let later = || DeliveryError::Later { after: None, detail: "nobody answers".into() };
        let believed = || {
            self.sick.believed.lock().unwrap().push(letter.message.event);
            None
        };
        self.told(Who::Notifier, self.inner.deliver(letter), believed, later).await
    }

    fn pace(&self) -> Pace {
        self.inner.pace()
    }
}

/// One run, with all that it is judged by.
struct Case {
    what: String,
    scene: Arc<Scene>,
    fleet: FakeStore,
    world: World,
    plan: Plan,
    sick: Arc<Sick>,
    heard: Arc<Ears>,
    outbox: delivery::Outbox,
}

impl Case {
    fn new(name: &str, steps: Vec<Step>, (who, illness, step): (Who, Illness, usize)) -> Self {
        let scene = Scene::new(Fault::Nothing);
        let mut world = fakes::world(&scene);
        let mut plan = fakes::plan(steps);
        // No measurement, which is the agent's own.
        plan.trigger = Trigger::Person { who: "ann".into() };
        let drains = !plan.target.bindings.is_empty();
        if plan.changes_anything() {
            plan.fleet_scope = Some("rpc-order".into());
        }
        plan.guards = GuardSettings {
            min_healthy: drains.then_some(MinHealthy::Count(1)),
            fleet_slots: Some(1),
            ..GuardSettings::default()
        };
        let virtual_time = Arc::new(VirtualClock::start());
        let sick = Arc::new(Sick {
            who,
            illness,
            step,
            store: world.store.clone(),
            incident: plan.incident.clone(),
            since: OnceLock::new(),
            over: OnceLock::new(),
            wrote: OnceLock::new(),
            believed: Mutex::default(),
        });
        let fleet = FakeStore::default();
        let fake = Arc::new(Fake(Arc::clone(&scene)));
        let restarter = Ill::of(&sick, fake.clone() as Arc<dyn Restarter>);
        let registry = Ill::of(&sick, fake.clone() as Arc<dyn Registry>);
        world.ports = with_deadlines(Ports {
            registries: [(REGISTRY.to_string(), registry as Arc<dyn Registry>)].into(),
            restarters: Restarters::all(restarter),
            probe: Ill::of(&sick, fake as Arc<dyn Probe>),
            fleet: Some(Ill::of(&sick, fleet.host(HOST, virtual_time.clone()))),
            ..world.ports
        });
        world.clock = virtual_time.clone();
        world.pace = virtual_time.clone();
        let gate = Gate {
            host: HOST.into(),
            store: world.store.clone(),
            ports: world.ports.clone(),
            clock: virtual_time.clone(),
            started: Duration::ZERO,
            warm_up: Duration::ZERO,
            max_parallel: 1,
            mode_at_most: None,
            tally: Arc::default(),
            possession: Arc::new(Fake(Arc::clone(&scene))),
        };
        world.recheck = Arc::new(GuardRecheck { gate, measure: Arc::new(Fake(Arc::clone(&scene))) });
        let heard = Arc::new(Ears::default());
        let notifier = Ill::of(&sick, heard.clone() as Arc<dyn Notifier>);
        let outbox = delivery::Outbox {
            store: world.store.clone(),
            notifiers: [("chat".to_string(), notifier as Arc<dyn Notifier>)].into(),
            clock: virtual_time,
            paces: Arc::default(),
        };
        let what = format!("{name}: {who:?} {illness:?} at step {step}");
        Self { what, scene, fleet, world, plan, sick, heard, outbox }
    }

    fn drained(&self) -> bool {
        matches!(self.scene.registry.traffic(ID), Some(Traffic::DrainedBy(_)))
    }

    fn is_told(&self) -> bool {
        let waits = self.world.store.undelivered(1_000).unwrap().into_iter().map(|outgoing| outgoing.message.event);
        let heard: Vec<_> = self.heard.0.lock().unwrap().iter().map(|message| message.event).collect();
        let believed = self.sick.believed.lock().unwrap().clone();
        waits.chain(heard).chain(believed).any(|event| event == EventKind::Stuck)
    }

    async fn play(self) {
        let (world, plan, what) = (&self.world, &self.plan, &self.what);
        let start = world.teller(plan).start(Vec::new());
        world.store.begin_incident(plan, world.clock.now(), &world.audience, &[start]).unwrap();
        let delivery = delivery::Delivery::start(self.outbox.clone());
        let stop = self.scene.trip.stop.subscribe();
        let driven = drive(Saga::new(plan.clone()), Journal::new(), world, stop);
        let watched = async {
            // Long after every deadline and shortly before the illness ends, people know of what is out.
            loop {
                sleep(Duration::from_secs(1)).await;
                if let Some(since) = self.sick.since.get() {
                    sleep_until(*since + ILL_FOR - Duration::from_secs(60)).await;
                    assert!(!self.drained() || self.is_told(), "out of traffic, and nobody was told: {what}");
                    return std::future::pending::<()>().await;
                }
            }
        };
        let rested = tokio::select! {
            rested = timeout(AT_REST_WITHIN, driven) => rested,
            () = watched => unreachable!("it waits for ever"),
        };
        let Ok(Driven::Rested(ending)) = rested else { panic!("{what}: it never came to rest") };
        // The party is well again, and the agent looks after what is left.
        sleep(ILL_FOR).await;
        let _ = self.sick.over.set(());
        // More than the longest pause between two deliveries.
        sleep(Duration::from_secs(600)).await;
        sweep::release_slots(&world.ports, &world.store, world.clock.now()).await;
        let stuck = ending.outcome == Outcome::Stuck;
        let service = self.scene.service().clone();
        let latched = world.store.latch(&plan.target.service).unwrap().is_some();
        let found = world.ports.registries[REGISTRY].markers().await.unwrap();
        let told = self.is_told();
        let what = format!("{what}: {ending:?}, {service:?}, {:?}", self.scene.registry.traffic(ID));
        assert!(service.restarts <= 1, "restarted more than once: {what}");
        assert_eq!(latched, stuck, "{what}");
        assert!(!stuck || told, "stuck, and nobody was told: {what}");
        let calls = plan.steps.iter().any(|planned| matches!(planned.step, Step::Call { .. }));
        assert!(self.sick.who != Who::Notifier || stuck == calls, "who is told decides nothing: {what}");
        let found = found.iter().any(|found| found.marker.incident == plan.incident);
        assert_eq!(found, self.drained(), "the sweep finds what is drained: {what}");
        // An answer that was not so may have been believed; then the sweep, which follows each saga, latches it.
        let lied = matches!(self.sick.illness, Illness::Pretending | Illness::Stale) && self.sick.who == Who::Registry;
        assert!(!self.drained() || stuck || (lied && found), "a drain without a latch: {what}");
        assert!(stuck || (service.healthy && service.state == RunState::Active), "{what}");
        let held = self.fleet.get("rpc-order").is_some_and(|text| text.contains(&plan.incident.0));
        assert!(!held || stuck, "a slot is left: {what}");
        // Before the end, which tells a last time what is due.
        let waits = world.store.undelivered(1_000).unwrap();
        assert!(waits.is_empty(), "not delivered, although everybody is well: {what}: {waits:?}");
        delivery.end(delivery::LAST).await;
    }
}

#[test]
fn whoever_is_ill_in_whichever_way_at_whichever_step_nothing_is_stranded() {
    // Every third in `tests/run`, which meets every party, illness and step.
    let every = if std::env::var("UNWAIT_FAULTS").is_ok_and(|how| how == "long") { 1 } else { 3 };
    let (mut count, mut number) = (0, 0);
    for (name, steps) in shipped() {
        for (who, illness) in Who::iter().flat_map(|who| Illness::iter().map(move |illness| (who, illness))) {
            for step in 0..=steps.len() {
                number += 1;
                if number % every != 0 {
                    continue;
                }
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
                runtime.block_on(async { Case::new(&name, steps.clone(), (who, illness, step)).play().await });
                count += 1;
            }
        }
    }
    all_kept(count, "a party ill from a step on");
    assert!(count > 150, "{count}");
}
