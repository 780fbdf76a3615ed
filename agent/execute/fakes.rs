//! A small world in memory for the saga's tests: one service in one registry, everything that may go wrong with
//! them, and a [`Trip`] that ends the agent, or fills its disk, at any moment of a run.
//!
//! Each fake moves the trip on before and after its effect, and so does the clock, which the journal asks for each
//! row: so a sweep over the trip's counts meets every boundary between an intent, its effect and its outcome. A call
//! whose moment is told to fail is refused before its effect, or has its answer lost after it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use super::world::{Closed, Commands, Inbound, Keeper, Kept, Kernel, Measure, Pace, Recheck, World};
use crate::clock::Clock;
use crate::model::plan::{self, Binding, Health, Restart, Target};
use crate::model::policy::{GuardSettings, Limits, Operator};
use crate::model::runbook::{Floor, OnTimeout, Recycle, RunEffect, StopSignal};
use crate::model::{
    Comparison, Condition, EventKind, Incarnation, IncidentId, Marker, Plan, PlannedStep, Readings, Reason,
    ServiceName, Signal, Step, Trigger, Truth, Worker,
};
use crate::ports::Ports;
use crate::ports::probe::{Probe, ProbeFailure};
use crate::ports::registry::fake::FakeRegistry;
use crate::ports::registry::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic};
use crate::ports::restarter::{Before, Liveness, RestartError, Restarted, Restarter, RunState};
use crate::store::{Audience, Store};

pub const HOST: &str = "bj1-03";
pub const ID: &str = "rpc-order-1";
pub const REGISTRY: &str = "fake";

/// What the agent dies of, in a test.
#[derive(Debug)]
pub struct Crash;

const NEVER: u64 = u64::MAX;

/// Counts the moments of a run, and lets happen at one of them what the test asks for.
#[derive(Debug)]
pub struct Trip {
    count: AtomicU64,
    crash_at: AtomicU64,
    full_at: AtomicU64,
    stop_at: AtomicU64,
    /// The first moment that fails, and the first that does not any more.
    failing: Mutex<std::ops::Range<u64>>,
    store: Mutex<Weak<Store>>,
    pub stop: watch::Sender<bool>,
}

impl Trip {
    fn new() -> Self {
        let never = || AtomicU64::new(NEVER);
        Self {
            count: AtomicU64::new(0),
            crash_at: never(),
            full_at: never(),
            stop_at: never(),
            failing: Mutex::new(NEVER..NEVER),
            store: Mutex::default(),
            stop: watch::Sender::new(false),
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// From here on the moments are counted anew, and nothing is asked for.
    pub fn reset(&self) {
        for counter in [&self.crash_at, &self.full_at, &self.stop_at] {
            counter.store(NEVER, Ordering::Relaxed);
        }
        self.count.store(0, Ordering::Relaxed);
        *self.failing.lock().unwrap() = NEVER..NEVER;
        self.stop.send_replace(false);
    }

    pub fn crash_at(&self, at: u64) {
        self.crash_at.store(at, Ordering::Relaxed);
    }

    pub fn fill_the_disk_at(&self, at: u64) {
        self.full_at.store(at, Ordering::Relaxed);
    }

    pub fn stop_at(&self, at: u64) {
        self.stop_at.store(at, Ordering::Relaxed);
    }

    /// Each call to the outside fails at these moments.
    pub fn fail_at(&self, moments: std::ops::Range<u64>) {
        *self.failing.lock().unwrap() = moments;
    }

    /// True where what is done at this moment fails.
    fn pass(&self) -> bool {
        let now = self.count.fetch_add(1, Ordering::Relaxed);
        if now == self.full_at.load(Ordering::Relaxed)
            && let Some(store) = self.store.lock().unwrap().upgrade()
        {
            store.refuse_writes(true);
        }
        if now == self.stop_at.load(Ordering::Relaxed) {
            self.stop.send_replace(true);
        }
        if now == self.crash_at.load(Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new(Crash));
        }
        self.failing.lock().unwrap().contains(&now)
    }
}

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
pub enum Fault {
    Nothing,
    EvidenceNotKept,
    /// Asked again before its n-th change, a guard refuses.
    RefusedAtFirst,
    RefusedAtSecond,
    /// The registry does not take the drain.
    DrainRefused,
    /// It took the drain, and the answer was lost.
    DrainAnswerLost,
    /// Somebody isolated the service before us.
    IsolatedBefore,
    /// Inbound connections idle from the beginning on and never end, and the runbook unwinds.
    NeverEmpty,
    /// The restart is refused before anything happens.
    RestartRefused,
    StartLimit,
    /// The restart ends the service, and nothing comes up.
    RestartDies,
    /// The manager does not answer, and nothing happened.
    RestartUnheard,
    /// The manager's answer is lost, and a new incarnation runs.
    RestartAnswerLost,
    /// The manager can only stop and start.
    TwoHalves,
    UnhealthyAfterRestart,
    /// It registers itself anew at its start: our drain is gone.
    RegistersItself,
    /// The restart ends its registration, and it registers itself only a while after it answers: our drain still stands.
    RegistersLate,
    /// The same, and our drain is gone.
    RegistersLateInTraffic,
    /// Somebody else restarts the service while it is drained.
    RestartedWhileDrained,
    /// It falls ill while it is drained, and the restart is refused.
    IllWhileDrained,
    /// A person isolates it while we hold it drained.
    IsolatedWhileDrained,
    /// It leaves the registry while it is drained.
    DeregisteredWhileDrained,
    /// The registry does not answer the first three tries to put it back.
    RegistryAwayAtRestore,
    /// The registry does not answer the first tries of an undo.
    RegistryAwayAtUndo,
    /// It falls ill once it is back in traffic.
    IllInTraffic,
    /// Ill once back in traffic, and the registry takes no second drain.
    IllInTrafficAndHeld,
    NotHelped,
    CannotBeMeasuredAtTheEnd,
    /// The service goes on as it was.
    ReloadFails,
    ReloadAnswerLost,
    ReloadDies,
    /// A worker ignores the signal.
    WorkerStays,
    /// The master starts no new workers.
    NoneStarted,
    /// The master ends with its workers, and is started anew.
    MasterDies,
    CloseRefused,
    /// The program keeps the descriptors of the sockets that were closed.
    DescriptorsStay,
    /// It falls ill of a gentler step.
    IllOfIt,
}

impl Fault {
    /// Happens in the gentler steps alone.
    pub fn is_of_a_gentle_step(self) -> bool {
        use Fault::*;
        let breaks = matches!(self, ReloadFails | ReloadAnswerLost | ReloadDies | CloseRefused | DescriptorsStay);
        breaks || matches!(self, WorkerStays | NoneStarted | MasterDies | IllOfIt)
    }
}

/// Workers of the service; the first four hold leaked sockets.
pub const WORKERS: usize = 6;
/// How long after its start a service registers itself, where the fault says so: once it answers, and while it is tried to
/// be put back, in a runbook with [`steps`]'s times.
const REGISTERS_AFTER: Duration = Duration::from_secs(5);

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
    pub drained_once: bool,
    pub reloads: u32,
    pub workers: Vec<Worker>,
    /// Workers that were ended, and times that sockets were closed.
    pub ended: u32,
    pub closed: u32,
    away: u32,
    rechecks: u32,
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
                drained_once: false,
                reloads: 0,
                workers: (0..WORKERS).map(|n| worker(n, if n < 4 { 3 } else { 0 })).collect(),
                ended: 0,
                closed: 0,
                away: 3,
                rechecks: 0,
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

    /// Its registration ends with its lifetime.
    fn leaves(&self) {
        let traffic = self.registry.traffic(ID).filter(|_| self.fault == Fault::RegistersLate);
        self.registry.deregister(ID);
        self.service().registers = Some((*self.elapsed.lock().unwrap() + REGISTERS_AFTER, traffic));
    }

    async fn registers_itself(&self) {
        let now = *self.elapsed.lock().unwrap();
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
    Worker { pid: 100 + number as u32, began: 7, parent: 99, holds }
}

/// The fakes: each is the scene, seen through one door.
#[derive(Clone, Debug)]
pub struct Fake(pub Arc<Scene>);

#[async_trait]
impl Registry for Fake {
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

    async fn restore(&self, id: &str, marker: &Marker, record: &serde_json::Value) -> Result<Restored, RegistryError> {
        if self.0.trip.pass() {
            return Err(Scene::unreachable());
        }
        let fault = self.0.fault;
        if matches!(fault, Fault::RegistryAwayAtRestore | Fault::RegistryAwayAtUndo) && self.0.is_away() {
            return Err(Scene::unreachable());
        }
        let restored = self.0.registry.restore(id, marker, record).await?;
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

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        self.0.registry.markers().await
    }

    async fn names(&self) -> Result<std::collections::HashMap<std::net::SocketAddr, String>, RegistryError> {
        self.0.registry.names().await
    }
}

#[async_trait]
impl Restarter for Fake {
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
            _ => {}
        }
        if self.0.trip.pass() || fault == Fault::RestartAnswerLost {
            return Err(Scene::silent());
        }
        Ok(Restarted::Anew(self.0.service().incarnation()))
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

    async fn own_deadline(&self, _target: &plan::Restart) -> Result<Duration, RestartError> {
        if self.0.trip.pass() {
            return Err(Scene::silent());
        }
        Ok(Duration::from_secs(100))
    }

    async fn dependents(&self, _target: &plan::Restart) -> Result<Vec<String>, RestartError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Probe for Fake {
    async fn ask(&self, _health: &Health, _deadline: Duration) -> Result<(), ProbeFailure> {
        if self.0.trip.pass() {
            return Err(ProbeFailure { asked: "PING".into(), answer: "no answer in time".into() });
        }
        match self.0.service().healthy {
            true => Ok(()),
            false => Err(ProbeFailure { asked: "PING".into(), answer: "connection refused".into() }),
        }
    }
}

#[async_trait]
impl Pace for Fake {
    fn elapsed(&self) -> Duration {
        *self.0.elapsed.lock().unwrap()
    }

    async fn wait(&self, duration: Duration) {
        self.0.trip.pass();
        *self.0.elapsed.lock().unwrap() += duration;
        tokio::task::yield_now().await;
    }
}

#[async_trait]
impl Keeper for Fake {
    async fn keep(&self, _plan: &Plan, _commands: &[Vec<String>], _deadline: Duration) -> Result<Kept, String> {
        if self.0.trip.pass() {
            return Err("input/output error".into());
        }
        match self.0.fault {
            Fault::EvidenceNotKept => Err("no space left on device".into()),
            _ => Ok(Kept { dir: Some("/evidence".into()), says: "288 sockets in CLOSE_WAIT".into() }),
        }
    }
}

#[async_trait]
impl Measure for Fake {
    async fn now(&self, _plan: &Plan) -> Result<Readings, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        Ok(Readings::default())
    }

    async fn inbound(&self, _plan: &Plan, quiet: Duration) -> Result<Inbound, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        let left = if self.0.fault == Fault::NeverEmpty { 7 } else { 0 };
        Ok(Inbound { left, active: if self.elapsed() < quiet { left } else { 0 } })
    }

    async fn workers(&self, _plan: &Plan, _older_than: Duration) -> Result<Vec<Worker>, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        self.0.start_workers();
        Ok(self.0.service().workers.clone())
    }

    async fn expectation(&self, _plan: &Plan, _expect: &Comparison) -> Result<Truth, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        match self.0.fault {
            Fault::NotHelped => Ok(Truth::False),
            Fault::CannotBeMeasuredAtTheEnd => Err("the dump was interrupted".into()),
            _ => Ok(Truth::True),
        }
    }
}

#[async_trait]
impl Recheck for Fake {
    async fn still_wanted(&self, plan: &Plan) -> Result<(), (Reason, String)> {
        if self.0.trip.pass() {
            return Err((Reason::GuardRefused, "a guard could not be asked".into()));
        }
        let mut service = self.0.service();
        service.rechecks += 1;
        match (self.0.fault, service.rechecks) {
            (Fault::RefusedAtFirst, 1) | (Fault::RefusedAtSecond, 2) => {
                return Err((Reason::GuardRefused, "paused: by hand".into()));
            }
            _ => {}
        }
        match plan.incarnation.as_ref() == Some(&service.incarnation()) {
            true => Ok(()),
            false => Err((Reason::IncarnationChanged, "it is not the lifetime that was measured".into())),
        }
    }

    async fn enough_beside_others(&self, _plan: &Plan) -> Result<(), (Reason, String)> {
        Ok(())
    }
}

#[async_trait]
impl Commands for Fake {
    async fn run(&self, argv: &[String], _deadline: Duration) -> Result<String, String> {
        let fails = || format!("{}: killed at its deadline", argv[0]);
        if self.0.trip.pass() {
            return Err(fails());
        }
        self.0.service().commands.push(argv[0].clone());
        if self.0.trip.pass() {
            return Err(fails());
        }
        Ok(format!("{}: ended with 0", argv[0]))
    }
}

#[async_trait]
impl Kernel for Fake {
    async fn end(&self, workers: &[Worker], how: &Recycle) -> Result<Vec<Worker>, String> {
        if self.0.trip.pass() {
            return Err("operation not permitted".into());
        }
        assert!(workers.iter().all(|worker| worker.holds > 0), "a worker that holds nothing is ended: {workers:?}");
        let left = self.0.service().workers.len() - workers.len();
        assert!(left >= how.floor.of(WORKERS), "below the floor {}: {left} are left", how.floor);
        if self.0.fault == Fault::WorkerStays {
            return Ok(workers.to_vec());
        }
        {
            let mut service = self.0.service();
            service.workers.retain(|living| !workers.iter().any(|ended| ended.is(living)));
            service.ended += workers.len() as u32;
        }
        match self.0.fault {
            Fault::MasterDies => self.0.begin_anew(true),
            Fault::IllOfIt => self.0.fall_ill(),
            _ => {}
        }
        if self.0.trip.pass() {
            return Err("input/output error".into());
        }
        Ok(Vec::new())
    }

    async fn close_sockets(&self, _plan: &Plan, _older_than: Duration, _at_most: u64) -> Result<Closed, String> {
        if self.0.trip.pass() || self.0.fault == Fault::CloseRefused {
            return Err("it needs CAP_NET_ADMIN".into());
        }
        self.0.service().closed += 1;
        if self.0.fault == Fault::IllOfIt {
            self.0.fall_ill();
        }
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        Ok(Closed { found: 12, closed: 12, leaked: Some(if self.0.fault == Fault::DescriptorsStay { 12 } else { 0 }) })
    }
}

impl Clock for Fake {
    fn now(&self) -> Timestamp {
        self.0.trip.pass();
        "2026-11-22T18:43:29Z".parse::<Timestamp>().unwrap() + self.elapsed()
    }

    fn monotonic(&self) -> Duration {
        self.elapsed()
    }
}

/// The shipped runbooks' shapes, with short times; and one with commands of the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
pub enum Shape {
    IsolateRestartRecover,
    RestartInPlace,
    EvidenceOnly,
    /// Besides, a command with an undo before the pivot and one that may be repeated after it.
    WithCommands,
    /// Commands that declare nothing, and so must never be run twice: one before the restart, one behind it.
    WithPivots,
    Reload,
    RecycleWorkers,
    CloseSockets,
    IsolateAndCall,
    /// A gentler step in a drained service.
    IsolateAndRecycle,
}

pub fn steps(shape: Shape, fault: Fault) -> Vec<Step> {
    let seconds = Duration::from_secs;
    let snapshot = Step::Snapshot { deadline: seconds(20), required: true, commands: Vec::new() };
    let drain = Step::Drain { settle: seconds(5), deadline: seconds(30) };
    let wait = Step::WaitDrained {
        inbound_at_most: 0,
        idle_for: None,
        timeout: seconds(3),
        on_timeout: if fault == Fault::NeverEmpty { OnTimeout::Unwind } else { OnTimeout::Proceed },
    };
    let restart = Step::Restart { deadline: None };
    let health = Step::HealthCheck { timeout: seconds(10), successes: 3, interval: seconds(2) };
    let restore = Step::Restore { deadline: seconds(2) };
    let expect = Comparison {
        signal: Signal::CloseWaitAged(Duration::from_secs(60)),
        operator: Operator::Below,
        threshold: 20.0,
    };
    let verify = Step::Verify { soak: seconds(6), expect: vec![expect] };
    let recycle = Step::RecycleWorkers(Recycle {
        older_than: seconds(60),
        batch: 3,
        floor: Floor::Share(0.6),
        signal: StopSignal::Term,
        wait: seconds(3),
        kill_after: None,
    });
    let close = Step::CloseSockets { older_than: seconds(600), at_most: 1_000 };
    let pause = Step::Pause { length: seconds(2) };
    let run = |program: &str, effect| Step::Run { argv: vec![program.into()], effect, deadline: seconds(5) };
    let undone = RunEffect::Compensable { undo: vec!["/bin/unquiet".into()] };
    match shape {
        Shape::IsolateRestartRecover => vec![snapshot, drain, wait, restart, health, restore, verify],
        Shape::RestartInPlace => vec![snapshot, restart, health, verify],
        Shape::EvidenceOnly => vec![snapshot],
        Shape::WithCommands => vec![
            snapshot,
            run("/bin/quiet", undone),
            drain,
            restart,
            run("/bin/warm", RunEffect::Retryable),
            health,
            restore,
            verify,
            Step::Notify { text: "done".into() },
        ],
        Shape::Reload => vec![snapshot, Step::Reload { deadline: seconds(90) }, health, verify],
        Shape::RecycleWorkers => vec![snapshot, recycle, health, verify],
        Shape::CloseSockets => vec![snapshot, close, health, verify],
        Shape::IsolateAndCall => vec![snapshot, drain, wait, Step::Call { text: String::new() }],
        Shape::IsolateAndRecycle => vec![snapshot, drain, pause, recycle, health, restore, verify],
        Shape::WithPivots => vec![
            snapshot,
            drain,
            run("/bin/once-before", RunEffect::Pivot),
            restart,
            health,
            run("/bin/once-behind", RunEffect::Pivot),
            restore,
            verify,
        ],
    }
}

pub fn plan(steps: Vec<Step>) -> Plan {
    let drains = steps.iter().any(|step| matches!(step, Step::Drain { .. }));
    let binding = Binding { registry: REGISTRY.into(), id: ID.into() };
    Plan {
        incident: IncidentId("20261122T184329Z-rpc-order-1f3a".into()),
        trigger: Trigger::Breach,
        policy: "close-wait-leak".into(),
        dry_run: false,
        runbook: "under-test".into(),
        target: Target {
            service: ServiceName::parse("rpc-order.service").unwrap(),
            bindings: if drains { vec![binding] } else { Vec::new() },
            health: Some(Health::RedisPing("127.0.0.1:7801".parse().unwrap())),
            restart: Some(Restart::Systemd { unit: "rpc-order.service".into(), with_dependents: false }),
        },
        incarnation: Some(Incarnation("lifetime-1".into())),
        when: Condition::Compare(Comparison { signal: Signal::CloseWait, operator: Operator::Above, threshold: 200.0 }),
        rung: None,
        limits: Limits::default(),
        guards: GuardSettings::default(),
        fleet_scope: None,
        steps: steps.into_iter().map(|step| PlannedStep { effect: step.effect(), step }).collect(),
    }
}

pub fn ports(scene: &Arc<Scene>) -> Ports {
    let fake = Arc::new(Fake(Arc::clone(scene)));
    Ports {
        registries: [(REGISTRY.to_string(), fake.clone() as Arc<dyn Registry>)].into(),
        systemd: fake.clone(),
        process: fake.clone(),
        docker: fake.clone(),
        supervisord: fake.clone(),
        supervise: fake.clone(),
        probe: fake,
        fleet: None,
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
        keeper: fake.clone(),
        measure: fake.clone(),
        kernel: fake.clone(),
        recheck: fake.clone(),
        store,
        audience: Arc::new(Audience(vec![("chat".into(), events)])),
        clock: fake,
        on_message: Arc::new(|_| {}),
    }
}
