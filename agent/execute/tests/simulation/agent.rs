//! One life of an agent: the loop of `daemon::agent` over the same detector, gate, saga, journal, recovery and release of
//! slots, with a service that says by itself what it leaks in place of the kernel.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::doors::{Door, Everybody, readings};
use super::host::{Broken, Host, NAME, turns_true};
use crate::clock::Clock;
use crate::daemon::duties::sweep;
use crate::decide::detector::{Detector, Watch};
use crate::decide::guards::{Gate, Question};
use crate::execute::journal::Journal;
use crate::execute::saga::Saga;
use crate::execute::seen::LastSeen;
use crate::execute::world::World;
use crate::execute::{driver, fakes, recovery};
use crate::model::plan::Binding;
use crate::model::policy::{Budget, GuardSettings, Limits, Operator};
use crate::model::runbook::{OnTimeout, Runbook};
use crate::model::{
    Comparison, Condition, EventKind, IncidentId, Mode, Plan, PlannedStep, Policy, Signal, Step, Truth,
};
use crate::ports::registry::Registry;
use crate::ports::restarter::Restarter;
use crate::ports::veto::fake::FakeVetoes;
use crate::ports::{Ports, Restarters};
use crate::store::Audience;
use crate::wiring::saga_world::GuardRecheck;

/// As shipped.
const RELEASE_EVERY: Duration = Duration::from_secs(30);
/// Shorter than shipped, so that a fleet is through in minutes.
const WARM_UP: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(5);
const JITTER: Duration = Duration::from_secs(10);
/// The shipped budget.
pub const PER_SERVICE: u32 = 2;

struct Agent {
    host: Arc<Host>,
    door: Door,
    started: Duration,
    policy: Policy,
    detector: Detector,
    sagas: JoinSet<()>,
    stop: watch::Receiver<bool>,
}

pub async fn live(host: Arc<Host>, stop: watch::Receiver<bool>) {
    let door = Door(Arc::clone(&host));
    let started = door.monotonic();
    let policy = policy(&host);
    let (detector, sagas) = (Detector::default(), JoinSet::new());
    let mut agent = Agent { host, door, started, policy, detector, sagas, stop: stop.clone() };
    agent.recover().await;
    agent.run(stop).await;
}

impl Agent {
    async fn recover(&mut self) {
        for open in self.host.store().open_incidents().unwrap() {
            self.host.at_work.store(true, Ordering::Relaxed);
            let world = self.world();
            let (saga, journal) = match self.host.shared.broken {
                Broken::Recovery => {
                    let mut saga = Saga::new(open.plan);
                    let journal = Journal::replay(&open.journal, &mut saga).unwrap();
                    (saga, journal)
                }
                _ => recovery::resume(open, &world).await.expect("a journal of our own is read back"),
            };
            self.spawn(saga, journal, world);
        }
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(self.host.shared.scenario.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut release_due = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = turns_true(&mut stop) => break,
                Some(ended) = self.sagas.join_next() => {
                    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
                    self.host.at_work.store(false, Ordering::Relaxed);
                    self.detector.rearm(&service());
                    release_due = Duration::ZERO;
                }
                _ = ticks.tick() => {
                    self.tick().await;
                    if self.door.monotonic() >= release_due {
                        release_due = self.door.monotonic() + RELEASE_EVERY;
                        self.release_slots().await;
                    }
                }
            }
        }
        while let Some(ended) = self.sagas.join_next().await {
            ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
        self.release_slots().await;
    }

    async fn tick(&mut self) {
        let readings = readings(&self.host);
        let interval = self.host.shared.scenario.interval;
        self.detector.tick(&self.policy, &service(), &readings, self.door.monotonic(), interval);
        let breached = matches!(self.detector.watch(&self.policy.name, &service()), Watch::Breached { .. });
        if !breached || self.policy.when.truth(&readings) != Truth::True {
            return;
        }
        let open = self.host.store().open_incidents().unwrap().len();
        if open > 0 {
            if open > 1 {
                self.host.shared.observer().broken.get_or_insert(format!("host {}: two sagas", self.host.index));
            }
            return;
        }
        let plan = self.propose().await;
        let world = self.world();
        let question = Question {
            plan: &plan,
            named_in_full: false,
            protected: None,
            lacks: &[],
            grace: GRACE,
            jitter: JITTER,
            breached: self.detector.breached_since(&self.policy.name, &service()),
            rungs_spent: None,
            needs_approval: false,
            unnamed: None,
            take_slot: true,
            own_saga: false,
        };
        if let Err(refusal) = self.gate(&world.ports).ask(&question).await {
            return self.host.note(format_args!("held by {}: {}", refusal.guard, refusal.reason));
        }
        let start = world.teller(&plan).start(Vec::new());
        self.host.store().begin_incident(&plan, self.door.now(), &world.audience, &[start]).unwrap();
        self.host.note(format_args!("{} begins", plan.incident));
        self.host.at_work.store(true, Ordering::Relaxed);
        self.spawn(Saga::new(plan), Journal::new(), world);
    }

    fn spawn(&mut self, saga: Saga, journal: Journal, world: World) {
        let (stop, host) = (self.stop.clone(), Arc::clone(&self.host));
        self.sagas.spawn(async move {
            let driven = driver::drive(saga, journal, &world, stop).await;
            match driven {
                driver::Driven::Rested(ending) => host.note(format_args!("{}: {}", ending.outcome, ending.reason)),
                driver::Driven::Left => host.note("left for the next start"),
            }
        });
    }

    async fn release_slots(&self) {
        let store = self.host.store();
        if self.host.shared.broken == Broken::StuckSlot
            && let Some(latch) = store.latches().unwrap().first()
            && let Some(fleet) = self.ports().fleet
        {
            let _ = fleet.release(NAME, &latch.incident).await;
        }
        sweep::release_slots(&self.ports(), &store, self.door.now()).await;
    }

    fn ports(&self) -> Ports {
        let door = Arc::new(self.door.clone());
        let fleet = match self.host.shared.broken {
            Broken::Slots => Arc::new(Everybody(self.door.clone())),
            _ => self.host.shared.fleet.host_over(&self.host.name, door.clone(), door.clone()),
        };
        Ports {
            registries: [("fake".to_string(), door.clone() as Arc<dyn Registry>)].into(),
            restarters: Restarters::all(door.clone()),
            probe: door,
            fleet: Some(fleet),
            vetoes: Arc::new(FakeVetoes::default()),
            alerts: None,
        }
    }

    fn gate(&self, ports: &Ports) -> Gate {
        Gate {
            host: self.host.name.clone(),
            store: self.host.store(),
            ports: ports.clone(),
            clock: Arc::new(self.door.clone()),
            started: self.started,
            warm_up: WARM_UP,
            max_parallel: 1,
            mode_at_most: None,
            tally: Arc::default(),
            possession: Arc::new(self.door.clone()),
        }
    }

    fn world(&self) -> World {
        let door = Arc::new(self.door.clone());
        let ports = self.ports();
        World {
            account: Arc::new(crate::execute::world::Plainly),
            host: self.host.name.clone(),
            labels: Vec::new(),
            pace: door.clone(),
            commands: door.clone(),
            keeper: door.clone(),
            measure: door.clone(),
            kernel: door.clone(),
            recheck: Arc::new(GuardRecheck { gate: self.gate(&ports), measure: door.clone() }),
            ports,
            store: self.host.store(),
            audience: Arc::new(Audience::of(vec![("chat".into(), vec![EventKind::Stuck])])),
            clock: door,
            seen: LastSeen::default(),
            on_message: Arc::new(|_| {}),
        }
    }

    /// As `wiring::plans` binds a policy to a service.
    async fn propose(&self) -> Plan {
        let mut plan = fakes::plan(self.policy.runbook.steps.clone());
        let restart = plan.target.restart.clone().expect("the fakes' service can be restarted");
        let liveness = Restarter::observe(&self.door, &restart).await.unwrap();
        let number = self.host.incidents.fetch_add(1, Ordering::Relaxed);
        plan.incident = IncidentId(format!("{}-{number}", self.host.name));
        plan.target.bindings = vec![Binding::new("fake", &self.host.id)];
        plan.incarnation = liveness.incarnation;
        plan.when = self.policy.when.clone();
        plan.limits = self.policy.limits;
        plan.guards = self.policy.guards.clone();
        plan.fleet_scope = Some(NAME.into());
        plan.steps = PlannedStep::all_of(&self.policy.runbook);
        plan
    }
}

pub fn service() -> crate::model::ServiceName {
    crate::model::ServiceName::parse("rpc-order.service").unwrap()
}

/// The shipped policy's shape, and the shipped runbook's with shorter waits.
fn policy(host: &Host) -> Policy {
    let seconds = Duration::from_secs;
    let close_wait = |operator, threshold| Comparison { signal: Signal::CloseWait, operator, threshold };
    let steps = vec![
        Step::Snapshot { deadline: seconds(20), required: true, commands: Vec::new() },
        Step::Drain { settle: seconds(1), deadline: seconds(30), on_busy: OnTimeout::Unwind },
        Step::WaitDrained { inbound_at_most: 0, idle_for: None, timeout: seconds(3), on_timeout: OnTimeout::Proceed },
        Step::Restart { deadline: None },
        Step::HealthCheck { timeout: seconds(10), successes: 2, interval: seconds(1) },
        Step::Restore { deadline: seconds(2) },
        Step::Verify { soak: seconds(4), expect: vec![close_wait(Operator::Below, 20.0)] },
    ];
    let scenario = &host.shared.scenario;
    let guarded = host.shared.broken != Broken::MinHealthy;
    Policy {
        name: "close-wait-leak".into(),
        description: String::new(),
        services: Vec::new(),
        when: Condition::Compare(close_wait(Operator::Above, 200.0)),
        hold: seconds(15),
        clear: None,
        mode: Mode::Auto,
        held_mode: None,
        runbook: Runbook { name: "isolate-restart-recover".into(), description: String::new(), steps },
        further: Vec::new(),
        limits: Limits {
            cooldown: seconds(60),
            per_service: Budget { incidents: PER_SERVICE, per: seconds(6 * 3_600) },
            ..Limits::default()
        },
        guards: GuardSettings {
            min_healthy: guarded.then_some(scenario.min_healthy),
            fleet_slots: Some(scenario.slots),
            ..GuardSettings::default()
        },
    }
}
