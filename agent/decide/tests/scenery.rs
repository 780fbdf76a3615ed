//! One service in one registry, a fleet, a store and a clock: where every guard allows, until a test says otherwise.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::Timestamp;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::decide::guards::{Gate, Guard, Question, Refusal};
use crate::execute::fakes::{self, Fault, HOST, REGISTRY, Scene, Shape};
use crate::model::incident::Ending;
use crate::model::policy::MinHealthy;
use crate::model::{IncidentId, Outcome, Plan, Reason, ServiceName};
use crate::ports::alerts::fake::FakeAlerts;
use crate::ports::fleet::{Acquired, Fleet, FleetError, Slot};
use crate::ports::veto::fake::FakeVetoes;
use crate::store::{Audience, Implied, JournalRow, Silence, Store};

/// A fleet with as many holders as the test says; it counts how often it was asked for a slot.
#[derive(Default)]
pub struct FakeFleet {
    pub held: Mutex<Vec<Slot>>,
    pub asked: Mutex<u32>,
    pub broken: Mutex<bool>,
    /// The hosts in breach.
    pub breaching: Mutex<Vec<String>>,
}

impl FakeFleet {
    fn answer(&self) -> Result<Vec<Slot>, FleetError> {
        match *self.broken.lock().unwrap() {
            true => Err(FleetError::Unreachable("nobody answers".into())),
            false => Ok(self.held.lock().unwrap().clone()),
        }
    }
}

#[async_trait]
impl Fleet for FakeFleet {
    async fn acquire(&self, _service: &str, _incident: &str, slots: u32) -> Result<Acquired, FleetError> {
        *self.asked.lock().unwrap() += 1;
        let held = self.answer()?;
        Ok(if held.len() < slots as usize {
            Acquired::Yes { until: Duration::MAX }
        } else {
            Acquired::No { held, says: None }
        })
    }

    async fn would_take(&self, _: &str, _: &str, _: u32) -> Result<Option<String>, FleetError> {
        unreachable!("guards tell no calls")
    }

    async fn begin(&self, _service: &str, _incident: &str) -> Result<Duration, FleetError> {
        Ok(Duration::MAX)
    }

    async fn release(&self, _service: &str, _incident: &str) -> Result<(), FleetError> {
        Ok(())
    }

    async fn blocked_by(&self, _service: &str, _incident: &str, slots: u32) -> Result<Vec<Slot>, FleetError> {
        self.answer().map(|held| if held.len() < slots as usize { Vec::new() } else { held })
    }

    async fn holders(&self, _service: &str) -> Result<Vec<Slot>, FleetError> {
        self.answer()
    }

    async fn breaches(&self, _service: &str) -> Result<Vec<String>, FleetError> {
        self.answer().map(|_| self.breaching.lock().unwrap().clone())
    }

    async fn release_host(&self, _service: &str, _host: &str) -> Result<Vec<Slot>, FleetError> {
        Ok(self.held.lock().unwrap().drain(..).collect())
    }

    async fn keep(&self, _needed: &[(String, String)]) -> Result<Vec<(String, Slot)>, FleetError> {
        Ok(Vec::new())
    }
}

pub struct Scenery {
    pub scene: Arc<Scene>,
    pub clock: Arc<ManualClock>,
    pub store: Arc<Store>,
    pub fleet: Arc<FakeFleet>,
    pub vetoes: Arc<FakeVetoes>,
    pub alerts: Arc<FakeAlerts>,
    pub gate: Gate,
    pub plan: Plan,
    pub lacks: Vec<String>,
    pub protected: Option<&'static str>,
    pub named_in_full: bool,
    pub jitter: Duration,
    pub breached: Option<Duration>,
    pub rungs_spent: Option<Timestamp>,
    pub needs_approval: bool,
    pub take_slot: bool,
    pub own_saga: bool,
}

/// Where every guard allows.
pub fn scenery() -> Scenery {
    let scene = Scene::new(Fault::Nothing);
    let clock = Arc::new(ManualClock::new("2026-11-22T18:43:29Z".parse().unwrap()));
    let store = Arc::new(Store::open(std::path::Path::new(":memory:")).unwrap());
    let fleet = Arc::new(FakeFleet::default());
    let vetoes = Arc::new(FakeVetoes::default());
    let mut ports = fakes::ports(&scene);
    ports.vetoes = vetoes.clone();
    let alerts = Arc::new(FakeAlerts::default());
    ports.alerts = Some(alerts.clone());
    ports.fleet = Some(fleet.clone());
    let started = clock.monotonic();
    let gate = Gate {
        host: HOST.into(),
        store: store.clone(),
        ports,
        clock: clock.clone(),
        started,
        warm_up: seconds(60),
        max_parallel: 1,
        mode_at_most: None,
        tally: Arc::default(),
        possession: Arc::new(fakes::Fake(Arc::clone(&scene))),
    };
    clock.advance(seconds(60));
    let mut plan = fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing));
    plan.guards =
        GuardSettings { min_healthy: Some(MinHealthy::Count(1)), fleet_slots: Some(1), ..GuardSettings::default() };
    plan.fleet_scope = Some("rpc-order".into());
    Scenery {
        scene,
        clock,
        store,
        fleet,
        vetoes,
        alerts,
        gate,
        plan,
        lacks: Vec::new(),
        protected: None,
        named_in_full: false,
        jitter: Duration::ZERO,
        breached: None,
        rungs_spent: None,
        needs_approval: false,
        take_slot: true,
        own_saga: false,
    }
}

impl Scenery {
    pub fn question(&self) -> Question<'_> {
        Question {
            plan: &self.plan,
            named_in_full: self.named_in_full,
            protected: self.protected,
            lacks: &self.lacks,
            grace: seconds(300),
            jitter: self.jitter,
            breached: self.breached,
            rungs_spent: self.rungs_spent,
            needs_approval: self.needs_approval,
            unnamed: None,
            take_slot: self.take_slot,
            own_saga: self.own_saga,
        }
    }

    pub fn block<T>(&self, asked: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(asked)
    }

    pub fn ask(&self) -> Result<(), Refusal> {
        self.block(self.gate.ask(&self.question()))
    }

    pub fn all(&self) -> Vec<Refusal> {
        self.block(self.gate.ask_all(&self.question()))
    }

    pub fn allows(&self) {
        assert_eq!(self.ask(), Ok(()));
    }

    /// The first refusal is this, and nothing else is against it.
    pub fn refuses(&self, guard: Guard, reason: Reason) -> Refusal {
        let refusal = self.ask().unwrap_err();
        assert_eq!((refusal.guard, refusal.reason), (guard, reason), "{refusal}");
        assert_eq!(refusal.to_string(), format!("{reason}: {}", refusal.detail), "what people read of it");
        let all = self.all();
        assert_eq!(all.iter().map(|refusal| refusal.guard).collect::<Vec<_>>(), [guard], "{all:?}");
        refusal
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn silence(&self, service: Option<&str>, lasting: Duration) {
        let service = service.map(Into::into);
        let (since, until) = (self.now(), self.now() + lasting);
        self.store
            .silence(&Silence { service, who: "ann".into(), why: "migration".into(), since, until, until_clear: false })
            .unwrap();
    }

    /// An incident that begins now and, where it is to, ends now.
    pub fn incident(&self, id: &str, service: &str, dry_run: bool, changed: bool, ends: Option<Outcome>) {
        let mut plan = self.plan.clone();
        plan.incident = IncidentId(id.into());
        plan.target.service = ServiceName::parse(service).unwrap();
        plan.dry_run = dry_run;
        let audience = Audience::default();
        self.store.begin_incident(&plan, self.now(), &audience, &[]).unwrap();
        let ending = ends.map(|outcome| Ending { outcome, reason: Reason::Recovered, detail: String::new() });
        let latch = ending.as_ref().filter(|ending| ending.outcome == Outcome::Stuck);
        let implied = Implied {
            step: "restart",
            changed,
            ending: ending.as_ref(),
            latch: latch.map(|ending| (&plan.target.service, ending)),
            audience: &audience,
            messages: &[],
        };
        let row = JournalRow { seq: 0, at: self.now(), event: String::new() };
        self.store.append(&plan.incident, &[row], &implied).unwrap();
    }
}

#[test]
fn a_registry_by_its_binding() {
    // The fake's own name and the plan's binding agree; otherwise every test of a guard would pass for nothing.
    assert_eq!(scenery().plan.target.bindings[0].registry, REGISTRY);
}
