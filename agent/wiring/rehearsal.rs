//! What a dry saga may reach: the real world is read, what only an action would have brought about counts as brought about,
//! and what is told is what would be done (`execute::would`). One is made for each proposal and its saga: its adapters
//! remember what they only pretended, and what the service's probe answered.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::Wiring;
use super::kernel::DryKernel;
use super::saga_world::{self, FreshMeasure, GuardRecheck, RealKeeper};
use crate::execute::saga::{Event, Saga};
use crate::execute::steps::PROBE_DEADLINE;
use crate::execute::world::{Account, Arrivals, Commands, Inbound, Measure, Pace, Talk, World};
use crate::execute::would::{self, Now};
use crate::model::{Comparison, Leaked, Plan, Readings, Remaining, Truth, Worker};
use crate::ports::Ports;
use crate::ports::fleet::{Fleet, dry::DryFleet};
use crate::ports::probe::dry::DryProbe;
use crate::ports::registry::{Registry, dry::DryRegistry};
use crate::ports::restarter::dry::DryRestarter;
use crate::store::Store;

/// A dry world, and what it says of a plan before a saga plays in it.
#[derive(Debug)]
pub struct Rehearsal {
    pub world: World,
    probe: Arc<DryProbe>,
}

impl Rehearsal {
    /// How the plan would take its slot of the fleet; `None` where it needs none.
    pub async fn slot(&self, plan: &Plan) -> Option<String> {
        would::slot(plan, &self.world).await
    }

    /// What each step of the plan would do, one after another.
    pub async fn steps(&self, plan: &Plan) -> Vec<String> {
        let now = now(&self.probe, plan).await;
        let mut steps = Vec::new();
        for planned in &plan.steps {
            steps.push(would::step(plan, &planned.step, &now, &self.world).await);
        }
        steps
    }
}

pub fn dry(wiring: &Wiring, store: &Arc<Store>, started: Duration) -> Rehearsal {
    let probe = Arc::new(DryProbe::new(Arc::clone(&wiring.ports.probe)));
    let ports = dry_ports(wiring, Arc::clone(&probe));
    let measure = Arc::new(FreshMeasure(wiring.clone(), Arc::clone(store)));
    let world = World {
        pace: Arc::new(NoPace::default()),
        commands: Arc::new(NoCommands),
        account: Arc::new(Rehearsed { probe: Arc::clone(&probe) }),
        keeper: Arc::new(RealKeeper { wiring: wiring.clone(), store: Arc::clone(store), commands: false }),
        recheck: Arc::new(GuardRecheck { gate: wiring.gate(store, &ports, started), measure: measure.clone() }),
        measure: Arc::new(DryMeasure(FreshMeasure(wiring.clone(), Arc::clone(store)))),
        kernel: Arc::new(DryKernel(wiring.clone())),
        ports,
        ..saga_world::real(wiring, store, started)
    };
    Rehearsal { world, probe }
}

/// What the service's probe answers before anything is done.
async fn now(probe: &DryProbe, plan: &Plan) -> Now {
    match &plan.target.health {
        Some(health) => probe.now(health, PROBE_DEADLINE).await,
        None => None,
    }
}

/// The same doors, but nothing goes out.
fn dry_ports(wiring: &Wiring, probe: Arc<DryProbe>) -> Ports {
    let real = &wiring.ports;
    let registry = |real: &Arc<dyn Registry>| Arc::new(DryRegistry::new(Arc::clone(real))) as Arc<dyn Registry>;
    let fleet = |real: &Arc<dyn Fleet>| {
        Arc::new(DryFleet::new(Arc::clone(real), Arc::clone(&wiring.host.clock))) as Arc<dyn Fleet>
    };
    Ports {
        registries: real.registries.iter().map(|(name, real)| (name.clone(), registry(real))).collect(),
        restarters: real.restarters.wrapped(DryRestarter::new),
        probe,
        fleet: real.fleet.as_ref().map(fleet),
        // A question, and the dry run is about its answer as well.
        vetoes: Arc::clone(&real.vetoes),
        alerts: real.alerts.clone(),
    }
}

/// Tells what would be done.
struct Rehearsed {
    probe: Arc<DryProbe>,
}

#[async_trait]
impl Account for Rehearsed {
    async fn of(&self, saga: &Saga, event: Event, world: &World) -> Event {
        would::told(saga, event, &now(&self.probe, saga.plan()).await, world).await
    }
}

/// Time that passes at once.
#[derive(Default)]
struct NoPace(Mutex<Duration>);

#[async_trait]
impl Pace for NoPace {
    fn elapsed(&self) -> Duration {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn wait(&self, duration: Duration) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += duration;
    }
}

struct NoCommands;

#[async_trait]
impl Commands for NoCommands {
    async fn run(&self, argv: &[String], _deadline: Duration) -> Result<String, String> {
        Ok(format!("{}: not run", argv.first().map(String::as_str).unwrap_or_default()))
    }
}

/// What a drain would have made of it is not known.
const NO_TRAFFIC: &str = "a dry run drains nothing";

/// Reads are real; what only an action would have brought about counts as brought about.
struct DryMeasure(FreshMeasure);

#[async_trait]
impl Measure for DryMeasure {
    async fn now(&self, plan: &Plan) -> Result<Readings, String> {
        self.0.now(plan).await
    }

    async fn inbound(&self, _plan: &Plan, _quiet: Duration) -> Result<Inbound, String> {
        Ok(Inbound { left: 0, active: 0 })
    }

    async fn arrivals(&self, _plan: &Plan) -> Result<Arrivals, String> {
        Err(NO_TRAFFIC.into())
    }

    async fn talks(&self, _plan: &Plan) -> Result<Vec<Talk>, String> {
        Err(NO_TRAFFIC.into())
    }

    async fn workers(&self, plan: &Plan, older_than: Duration) -> Result<Vec<Worker>, String> {
        self.0.workers(plan, older_than).await
    }

    async fn ends_a_holder(&self, plan: &Plan) -> Result<bool, String> {
        self.0.ends_a_holder(plan).await
    }

    async fn leaked(&self, plan: &Plan, at_least: Duration) -> Result<Leaked, String> {
        self.0.leaked(plan, at_least).await
    }

    async fn remaining(&self, _plan: &Plan, leaked: &Leaked) -> Result<Remaining, String> {
        Ok(Remaining { of: leaked.sockets.len(), ..Remaining::default() })
    }

    async fn is_over(&self, _plan: &Plan) -> Result<Truth, String> {
        Ok(Truth::True)
    }

    async fn expectation(&self, _plan: &Plan, _expect: &Comparison) -> Result<Truth, String> {
        Ok(Truth::True)
    }
}
