//! A small world in memory for the saga's tests: one service in one registry, everything that may go wrong with
//! them, and a [`Trip`] that ends the agent, or fills its disk, at any moment of a run.
//!
//! Each fake moves the trip on before and after its effect, and so does the clock, which the journal asks for each
//! row: so a sweep over the trip's counts meets every boundary between an intent, its effect and its outcome. A call
//! whose moment is told to fail is refused before its effect, or has its answer lost after it.

mod fault;
mod host;
mod observed;
mod outside;
mod plans;
mod trip;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub use self::fault::Fault;
pub(crate) use self::observed::{Hanging, Observed, Shows};
pub use self::plans::{Shape, plan, steps};
pub use self::trip::{Crash, Trip};
use super::seen::LastSeen;
use super::world::{Arrivals, Plainly, World};
use crate::model::{EventKind, Incarnation, Worker};
use crate::ports::registry::fake::FakeRegistry;
use crate::ports::registry::{Registry, RegistryError, Traffic};
use crate::ports::restarter::{RestartError, RunState};
use crate::ports::veto::fake::FakeVetoes;
use crate::ports::{Ports, Restarters};
use crate::store::{Audience, Store};

pub const HOST: &str = "bj1-03";
pub const ID: &str = "rpc-order-1";
pub const REGISTRY: &str = "fake";

/// Workers of the service; the first four hold leaked sockets.
pub const WORKERS: usize = 6;
/// How long after its start a service registers itself, where the fault says so: once it answers, and while it is tried to
/// be put back, in a runbook with [`steps`]'s times.
const REGISTERS_AFTER: Duration = Duration::from_secs(5);
const PUT_BACK_AFTER: Duration = Duration::from_secs(3);

/// How late the view is that clients read, and how late the last of them, where the fault says so.
pub const VIEW_LAGS: Duration = Duration::from_secs(20);
pub const CLIENTS_FOLLOW: Duration = Duration::from_secs(95);

/// The service, as it really is.
#[derive(Clone, Debug)]
pub struct Service {
    pub lifetime: u32,
    pub state: RunState,
    pub healthy: bool,
    pub restarts: u32,
    /// The operator's commands that were run, in order.
    pub commands: Vec<String>,
    pub up_for: Option<Duration>,
    /// Why it would not start again.
    pub would_not_start: Option<String>,
    pub drained_once: bool,
    pub reloads: u32,
    pub workers: Vec<Worker>,
    /// Workers that were ended, and times that sockets were closed.
    pub ended: u32,
    pub closed: u32,
    /// So many calls more are not answered, where the fault says so.
    pub away: u32,
    /// Since when the registry's record is what it is now.
    changed: Duration,
    /// Another controller has put it back.
    put_back: bool,
    rechecks: u32,
    /// How often an expectation was looked at.
    expected: u32,
    /// From when on it is registered again, and as what.
    registers: Option<(Duration, Option<Traffic>)>,
}

impl Service {
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(format!("lifetime-{}", self.lifetime))
    }
}

/// What every fake holds on to.
#[derive(Debug)]
pub struct Scene {
    pub trip: Trip,
    pub fault: Fault,
    pub service: Mutex<Service>,
    pub registry: FakeRegistry,
    elapsed: Mutex<Duration>,
}

impl Scene {
    pub fn new(fault: Fault) -> Arc<Self> {
        let registry = FakeRegistry::new(REGISTRY);
        registry.register(ID, "rpc-order", "127.0.0.1:7801");
        registry.register("rpc-order-2", "rpc-order", "10.0.0.2:7801");
        if fault == Fault::FailsItsCheck {
            registry.set_healthy(ID, false);
        }
        if fault == Fault::IsolatedBefore {
            registry.isolate(ID, Some("deploy of release 41"));
        }
        Arc::new(Self {
            trip: Trip::new(),
            fault,
            service: Mutex::new(Service {
                lifetime: 1,
                state: RunState::Active,
                healthy: true,
                restarts: 0,
                commands: Vec::new(),
                up_for: Some(Duration::from_secs(86_400)),
                would_not_start: None,
                drained_once: false,
                reloads: 0,
                workers: (0..WORKERS).map(|n| worker(n, if n < 4 { 3 } else { 0 })).collect(),
                ended: 0,
                closed: 0,
                away: 3,
                changed: Duration::ZERO,
                put_back: false,
                rechecks: 0,
                expected: 0,
                registers: None,
            }),
            registry,
            elapsed: Mutex::new(Duration::ZERO),
        })
    }

    pub fn service(&self) -> MutexGuard<'_, Service> {
        self.service.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The master does so whatever becomes of the agent.
    fn start_workers(&self) {
        let mut service = self.service();
        if self.fault != Fault::NoneStarted && service.workers.len() < WORKERS {
            let number = WORKERS + service.ended as usize + service.workers.len();
            service.workers.push(worker(number, 0));
        }
    }

    fn fall_ill(&self) {
        self.service().healthy = false;
        self.registry_sees(false);
    }

    fn begin_anew(&self, healthy: bool) {
        {
            let mut service = self.service();
            service.lifetime += 1;
            service.state = RunState::Active;
            service.healthy = healthy;
        }
        self.registry_sees(healthy);
    }

    fn registry_sees(&self, healthy: bool) {
        if self.registry.traffic(ID).is_some() {
            self.registry.set_healthy(ID, healthy);
        }
    }

    /// Clients come forty times a second, where they stay whatever happens.
    fn arrivals(&self) -> Arrivals {
        let over = *self.elapsed.lock().unwrap() + Duration::from_secs(60);
        let count = if self.fault == Fault::ClientsStay { 40 * over.as_secs() } else { 0 };
        Arrivals { count, over }
    }

    /// What clients find, where their view lags behind the record.
    fn shown(&self, in_traffic: bool) -> bool {
        let since = self.elapsed.lock().unwrap().saturating_sub(self.service().changed);
        if self.fault == Fault::ClientsNeverFind {
            return false;
        }
        in_traffic != (self.fault == Fault::ClientsSlow && since < VIEW_LAGS)
    }

    fn changes(&self) {
        self.service().changed = *self.elapsed.lock().unwrap();
    }

    /// Its registration ends with its lifetime.
    fn leaves(&self) {
        let traffic = self.registry.traffic(ID).filter(|_| self.fault == Fault::RegistersLate);
        self.registry.deregister(ID);
        self.service().registers = Some((*self.elapsed.lock().unwrap() + REGISTERS_AFTER, traffic));
    }

    async fn registers_itself(&self) {
        let now = *self.elapsed.lock().unwrap();
        let drained = self.service().drained_once && now >= self.service().changed + PUT_BACK_AFTER;
        if self.fault == Fault::PutBackWhileDrained && drained && !std::mem::replace(&mut self.service().put_back, true)
        {
            self.registry.isolate(ID, None);
        }
        let due = self.service().registers.take_if(|(at, _)| now >= *at);
        if let Some((_, traffic)) = due {
            self.registry.register(ID, "rpc-order", "127.0.0.1:7801");
            if let Some(Traffic::DrainedBy(marker)) = traffic {
                self.registry.drain(ID, &marker).await.unwrap();
            }
        }
    }

    fn unreachable() -> RegistryError {
        RegistryError::Unreachable { registry: REGISTRY.into(), detail: "nobody answers".into() }
    }

    fn silent() -> RestartError {
        RestartError::Unreachable { service: "rpc-order.service".into(), detail: "no answer in time".into() }
    }

    /// Counts down the tries that nobody answers.
    fn is_away(&self) -> bool {
        let mut service = self.service();
        service.away = service.away.saturating_sub(1);
        service.away > 0
    }
}

fn worker(number: usize, holds: usize) -> Worker {
    Worker { pid: 100 + number as u32, began: 7, parent: 99, holds, asked: false }
}

/// The fakes: each is the scene, seen through one door.
#[derive(Clone, Debug)]
pub struct Fake(pub Arc<Scene>);

pub fn ports(scene: &Arc<Scene>) -> Ports {
    let fake = Arc::new(Fake(Arc::clone(scene)));
    Ports {
        registries: [(REGISTRY.to_string(), fake.clone() as Arc<dyn Registry>)].into(),
        restarters: Restarters::all(fake.clone()),
        probe: fake,
        fleet: None,
        vetoes: Arc::new(FakeVetoes::default()),
        alerts: None,
    }
}

/// A world over the scene, with a store in memory.
pub fn world(scene: &Arc<Scene>) -> World {
    let store = Arc::new(Store::open(std::path::Path::new(":memory:")).unwrap());
    *scene.trip.store.lock().unwrap() = Arc::downgrade(&store);
    let fake = Arc::new(Fake(Arc::clone(scene)));
    let events = vec![EventKind::Start, EventKind::End, EventKind::Stuck];
    World {
        host: HOST.into(),
        labels: Vec::new(),
        ports: ports(scene),
        pace: fake.clone(),
        commands: fake.clone(),
        account: Arc::new(Plainly),
        keeper: fake.clone(),
        measure: fake.clone(),
        kernel: fake.clone(),
        recheck: fake.clone(),
        store,
        audience: Arc::new(Audience::of(vec![("chat".into(), events)])),
        clock: fake,
        seen: LastSeen::default(),
        on_message: Arc::new(|_| {}),
    }
}
