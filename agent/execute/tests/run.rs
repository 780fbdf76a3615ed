//! One run of a saga over the fakes, lifetime by lifetime of the agent, and the promise that each must keep.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::execute::driver::{Driven, drive};
use crate::execute::fakes::{self, Crash, Fault, ID, Scene, Shape};
use crate::execute::journal::Journal;
use crate::execute::recovery;
use crate::execute::saga::Saga;
use crate::execute::world::World;
use crate::model::incident::Ending;
use crate::model::{EventKind, Outcome, Plan, Step};
use crate::ports::registry::{Registry, Traffic};
use crate::ports::restarter::RunState;
use crate::store::Outgoing;

/// One run: a scene, its world, and the plan that is carried out.
pub struct Run {
    pub what: String,
    pub scene: Arc<Scene>,
    pub world: World,
    pub plan: Plan,
    pub runtime: tokio::runtime::Runtime,
}

/// Says of a sweep how many runs kept the promise: all of them, since one that does not fails its test. tests/README.md
/// sums these lines up.
pub fn all_kept(runs: impl std::fmt::Display, sweep: impl std::fmt::Display) {
    println!("{runs} of {runs} kept the promise: {sweep}");
}

/// How one lifetime of the agent ended.
#[derive(Debug, PartialEq)]
pub enum Life {
    Rested(Ending),
    Left,
    Crashed,
    /// It waits for something that does not come, such as a disk that takes writes again.
    Waits,
}

/// Longer than any run with fakes takes, and shorter than for ever.
pub const PATIENCE: Duration = Duration::from_secs(3_600);

impl Run {
    pub fn new(shape: Shape, fault: Fault) -> Self {
        Self::of(format!("{shape:?}, {fault:?}"), fakes::steps(shape, fault), fault)
    }

    pub fn of(what: String, steps: Vec<Step>, fault: Fault) -> Self {
        let scene = Scene::new(fault);
        let world = fakes::world(&scene);
        let plan = fakes::plan(steps);
        let start = world.teller(&plan).start(Vec::new());
        world.store.begin_incident(&plan, world.clock.now(), &world.audience, &[start]).unwrap();
        scene.trip.reset();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        Self { what, scene, world, plan, runtime }
    }

    pub fn live(&self, life: impl AsyncFnOnce() -> Driven) -> Life {
        let driven = catch_unwind(AssertUnwindSafe(|| {
            self.runtime.block_on(async { tokio::time::timeout(PATIENCE, life()).await })
        }));
        match driven {
            Ok(Ok(Driven::Rested(ending))) => Life::Rested(ending),
            Ok(Ok(Driven::Left)) => Life::Left,
            Ok(Err(_)) => Life::Waits,
            Err(panic) if panic.is::<Crash>() => Life::Crashed,
            Err(panic) => {
                eprintln!("in: {}", self.what);
                resume_unwind(panic)
            }
        }
    }

    pub fn first_life(&self) -> Life {
        let stop = self.scene.trip.stop.subscribe();
        self.live(async || drive(Saga::new(self.plan.clone()), Journal::new(), &self.world, stop).await)
    }

    /// The agent starts again; `None` where nothing was left open.
    pub fn next_life(&self) -> Option<Life> {
        let open = self.world.store.open_incidents().unwrap().pop()?;
        Some(self.live(async || {
            let stop = self.scene.trip.stop.subscribe();
            let (saga, journal) = recovery::resume(open, &self.world).await.expect("a journal of our own is read back");
            drive(saga, journal, &self.world, stop).await
        }))
    }

    /// The machine is well again, and the agent starts until nothing is left open.
    pub fn recover(&self) {
        self.scene.trip.reset();
        self.world.store.refuse_writes(false);
        for _ in 0..3 {
            match self.next_life() {
                None => return,
                Some(Life::Rested(_)) => {}
                Some(other) => panic!("{}: nothing was in the way, and it ended with {other:?}", self.what),
            }
        }
        panic!("{}: it never comes to rest", self.what);
    }

    pub fn traffic(&self) -> Option<Traffic> {
        self.runtime.block_on(self.scene.registry.observe(ID)).ok().map(|registration| registration.traffic)
    }

    /// What waits to be told, on the disk and in memory.
    pub fn outbox(&self) -> Vec<Outgoing> {
        let mut all = self.world.store.undelivered(1_000).unwrap();
        all.extend(self.world.store.spilled());
        all
    }

    pub fn is_told(&self, event: EventKind) -> bool {
        self.outbox().iter().any(|outgoing| outgoing.message.event == event)
    }

    /// How the incident ended.
    pub fn outcome(&self) -> String {
        let row = self.world.store.incident(&self.plan.incident).unwrap().unwrap();
        row.outcome.expect("it has ended").to_string()
    }

    /// A process that dies takes with it what waits in its memory.
    pub fn forget_memory(&self) {
        self.world.store.forget_spilled();
    }

    /// The promise, once nothing is under way any more.
    pub fn keeps_the_promise(&self) {
        let service = self.scene.service().clone();
        let latched = self.world.store.latch(&self.plan.target.service).unwrap().is_some();
        let traffic = self.traffic();
        let what = format!("{}: {service:?}, {traffic:?}, latched: {latched}", self.what);
        assert!(service.restarts <= 1, "restarted more than once: {what}");
        assert!(service.reloads <= 1 && service.closed <= 1, "a gentler step was begun again: {what}");
        for pivot in ["/bin/once-before", "/bin/once-behind"] {
            let times = service.commands.iter().filter(|command| *command == pivot).count();
            assert!(times <= 1, "{pivot} was run {times} times: {what}");
        }
        assert!(self.world.store.open_incidents().unwrap().is_empty(), "left open: {what}");
        let row = self.world.store.incident(&self.plan.incident).unwrap().unwrap();
        assert_eq!(
            latched,
            row.outcome.as_ref().is_some_and(|outcome| outcome.is(Outcome::Stuck)),
            "a latch for each stuck one: {what}, {row:?}"
        );
        if latched {
            assert!(self.is_told(EventKind::Stuck), "latched and untold: {what}");
        } else {
            let drained = matches!(traffic, Some(Traffic::DrainedBy(_)));
            assert!(!drained, "a drain without a latch: {what}");
            assert!(service.healthy, "neither healthy nor latched: {what}");
            assert_eq!(service.state, RunState::Active, "neither running nor latched: {what}");
            assert_eq!(service.workers.len(), fakes::WORKERS, "neither whole nor latched: {what}");
        }
        let gently = service.reloads + service.ended + service.closed > 0;
        if gently || service.restarts > 0 || matches!(traffic, Some(Traffic::DrainedBy(_))) {
            assert!(row.changed, "what changed something counts: {what}");
        }
    }
}
