//! A service in several registries: drained in all of them when it is restarted, or in none of them afterwards.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::run::all_kept;
use crate::execute::driver::{Driven, drive};
use crate::execute::fakes::{self, Fake, Fault, HOST, Scene, Shape};
use crate::execute::journal::Journal;
use crate::execute::resolve;
use crate::execute::saga::{Event, Saga};
use crate::execute::steps::{self, drain};
use crate::execute::world::World;
use crate::model::incident::Ending;
use crate::model::plan::{Binding, Restart};
use crate::model::{Incarnation, Marker, Outcome, Plan, Reason, RedisLayout, RedisProfile, Step};
use crate::ports::User;
use crate::ports::registry::consul::Consul;
use crate::ports::registry::fake::FakeRegistry;
use crate::ports::registry::redis::Redis;
use crate::ports::registry::{
    FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange,
};
use crate::ports::restarter::{Before, Liveness, RestartError, Restarted, Restarter, Revival};
use crate::ports::testing_consul::TestConsul;
use crate::ports::testing_redis::TestRedis;

mod breaks;

/// What becomes of the n-th call to any of the registries.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fails {
    Unreachable,
    Refused,
    /// It is carried out, and the answer is lost.
    AnswerLost,
}

/// The calls to all registries of one run, counted together.
struct Calls {
    count: AtomicU64,
    fails: Fails,
    at: u64,
    /// So many calls to the same registry fail from that one on.
    times: u64,
}

struct Faulty {
    name: String,
    real: Arc<FakeRegistry>,
    calls: Arc<Calls>,
    broken: AtomicU64,
}

impl Faulty {
    async fn call<T>(&self, call: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
        if self.calls.count.fetch_add(1, Ordering::Relaxed) == self.calls.at {
            self.broken.store(self.calls.times, Ordering::Relaxed);
        }
        let left = self.broken.load(Ordering::Relaxed);
        self.broken.store(left.saturating_sub(1), Ordering::Relaxed);
        let fails = left > 0;
        let (registry, detail) = (self.name.clone(), "by the test".to_owned());
        match (fails, self.calls.fails) {
            (false, _) => call.await,
            (true, Fails::Unreachable) => Err(RegistryError::Unreachable { registry, detail }),
            (true, Fails::Refused) => Err(RegistryError::Refused { registry, detail }),
            (true, Fails::AnswerLost) => {
                call.await?;
                Err(RegistryError::Unreachable { registry, detail })
            }
        }
    }
}

#[async_trait]
impl Registry for Faulty {
    async fn would(&self, _: TrafficChange, _: &str, _: &Marker) -> Result<Vec<String>, RegistryError> {
        Ok(Vec::new())
    }

    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.call(self.real.observe(id)).await
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.call(self.real.drain(id, marker)).await
    }

    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        self.call(self.real.takes_writes(id, marker)).await
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &Value) -> Result<Restored, RegistryError> {
        self.call(self.real.restore(id, marker, record)).await
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        self.call(self.real.others(id)).await
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        self.real.markers().await
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        self.real.names().await
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        crate::ports::registry::found_by_record(self, id).await
    }

    fn clients_follow(&self) -> Duration {
        Duration::ZERO
    }
}

/// The scene's restarter, at which every registry is looked at.
struct AtThePivot {
    fake: Fake,
    registries: Vec<(Arc<dyn Registry>, String)>,
}

#[async_trait]
impl Restarter for AtThePivot {
    async fn would(&self, _: Revival, _: &Restart) -> Result<String, RestartError> {
        Ok(String::new())
    }

    async fn observe(&self, target: &Restart) -> Result<Liveness, RestartError> {
        Restarter::observe(&self.fake, target).await
    }

    async fn restart(&self, target: &Restart, deadline: Duration) -> Result<Restarted, RestartError> {
        for (registry, id) in &self.registries {
            let traffic = registry.observe(id).await.unwrap().traffic;
            assert!(matches!(traffic, Traffic::DrainedBy(_)), "restarted while {id} is {traffic:?}");
        }
        self.fake.restart(target, deadline).await
    }

    async fn start(&self, target: &Restart, before: &Before, deadline: Duration) -> Result<Incarnation, RestartError> {
        self.fake.start(target, before, deadline).await
    }

    async fn own_deadline(&self, target: &Restart) -> Result<Duration, RestartError> {
        self.fake.own_deadline(target).await
    }

    async fn dependents(&self, target: &Restart) -> Result<Vec<String>, RestartError> {
        self.fake.dependents(target).await
    }

    async fn settles_within(&self, _target: &Restart) -> Result<Duration, RestartError> {
        Ok(Duration::ZERO)
    }
}

/// A binding in a registry as the saga meets it, and as it really is.
struct Bound {
    binding: Binding,
    asked: Arc<dyn Registry>,
    real: Arc<dyn Registry>,
}

struct Run {
    scene: Arc<Scene>,
    world: World,
    plan: Plan,
}

impl Run {
    /// A service with these bindings; what is asked at the pivot never fails.
    fn new(registries: Vec<Bound>) -> Self {
        let scene = Scene::new(Fault::Nothing);
        let mut world = fakes::world(&scene);
        let mut plan = fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing));
        plan.target.bindings = registries.iter().map(|bound| bound.binding.clone()).collect();
        let fake = Fake(Arc::clone(&scene));
        let watched = registries.iter().map(|bound| (Arc::clone(&bound.real), bound.binding.id.clone())).collect();
        world.ports.restarters.systemd = Arc::new(AtThePivot { fake, registries: watched });
        world.ports.registries = registries.into_iter().map(|bound| (bound.binding.registry, bound.asked)).collect();
        let start = world.teller(&plan).start(Vec::new());
        world.store.begin_incident(&plan, world.clock.now(), &world.audience, &[start]).unwrap();
        Self { scene, world, plan }
    }

    async fn rests(&self) -> Ending {
        let stop = self.scene.trip.stop.subscribe();
        match drive(Saga::new(self.plan.clone()), Journal::new(), &self.world, stop).await {
            Driven::Rested(ending) => ending,
            Driven::Left => panic!("nobody told it to leave"),
        }
    }

    fn is_latched(&self) -> bool {
        self.world.store.latch(&self.plan.target.service).unwrap().is_some()
    }
}

fn sweep(registries: usize, fails: Fails, times: u64) -> u64 {
    for at in 0.. {
        let calls = Arc::new(Calls { count: AtomicU64::new(0), fails, at, times });
        let names: Vec<String> = (0..registries).map(|at| format!("registry-{at}")).collect();
        let reals: Vec<Arc<FakeRegistry>> = names.iter().map(|name| Arc::new(FakeRegistry::new(name))).collect();
        let all = names.iter().zip(&reals).map(|(name, real)| {
            let id = format!("{name}-1");
            real.register(&id, "rpc-order", "127.0.0.1:7801");
            real.register("rpc-order-2", "rpc-order", "10.0.0.2:7801");
            let (real, calls) = (Arc::clone(real), Arc::clone(&calls));
            let faulty = Faulty { name: name.clone(), real: Arc::clone(&real), calls, broken: 0.into() };
            Bound { binding: Binding::new(name.clone(), id), asked: Arc::new(faulty), real }
        });
        let run = Run::new(all.collect());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let ending = runtime.block_on(run.rests());
        let what = format!("{registries} registries, {fails:?} at {at}, {times} times: {ending:?}");
        let traffic: Vec<Traffic> =
            reals.iter().zip(&names).map(|(real, name)| real.traffic(&format!("{name}-1")).unwrap()).collect();
        let back = traffic.iter().all(|traffic| *traffic == Traffic::Passing);
        assert_eq!(run.is_latched(), ending.outcome == Outcome::Stuck, "{what}: {traffic:?}");
        // Calls that are not answered, at whatever moment, leave nobody out.
        assert!(back || ending.outcome == Outcome::Stuck && fails == Fails::Refused, "{what}: {traffic:?}");
        if calls.count.load(Ordering::Relaxed) <= at {
            return at;
        }
    }
    unreachable!("a saga ends")
}

#[test]
fn each_call_to_each_of_several_registries_fails_and_all_are_drained_or_none() {
    let mut count = 0;
    for registries in [2, 3] {
        for fails in [Fails::Unreachable, Fails::Refused, Fails::AnswerLost] {
            for times in [1, 20] {
                count += sweep(registries, fails, times);
            }
        }
    }
    all_kept(count, "a call to one of several registries failed");
    assert!(count > 150, "{count}");
}

const IN_REDIS: &str = "rpc-order/127.0.0.1:7801";

/// Consul for real, and Redis for real as this user.
async fn in_both(consul: &TestConsul, redis: &TestRedis, user: Option<User>) -> Run {
    let layout =
        RedisLayout { profile: RedisProfile::Hash, key: "rpc:{service}".into(), hold_every: Duration::from_secs(60) };
    let of_redis = |user| Arc::new(Redis::new("redis", redis.access(user), layout.clone(), HOST));
    let of_consul = Arc::new(Consul::new("consul", &consul.url, None, HOST).unwrap());
    let binding = |registry: &str, id: &str| Binding::new(registry, id);
    Run::new(vec![
        Bound { binding: binding("consul", "rpc-order-1"), asked: of_consul.clone(), real: of_consul },
        Bound { binding: binding("redis", IN_REDIS), asked: of_redis(user), real: of_redis(None) },
    ])
}

#[tokio::test]
async fn drained_in_a_real_consul_and_a_real_redis_or_in_neither() {
    let (consul, redis) = (TestConsul::start().await, TestRedis::start().await);
    consul.register("rpc-order-1", "rpc-order", 7801).await;
    redis.ask(&["HSET", "rpc:rpc-order", "127.0.0.1:7801", "up"]).await;
    let passing = async |run: &Run| {
        for (name, id) in [("consul", "rpc-order-1"), ("redis", IN_REDIS)] {
            let traffic = run.world.ports.registries[name].observe(id).await.unwrap().traffic;
            assert_eq!(traffic, Traffic::Passing, "{name}");
        }
    };
    let run = in_both(&consul, &redis, None).await;
    let ending = run.rests().await;
    assert_eq!((ending.outcome, run.scene.service().restarts), (Outcome::Completed, 1), "{}", ending.detail);
    passing(&run).await;

    // Redis lets this user look, and take nothing out: Consul's drain is taken back.
    let rights = ["~*", "+@read", "+info", "+eval", "+time", "+exists", "+hget", "+pttl"];
    redis.ask(&[&["ACL", "SETUSER", "looks", "on", ">hush"][..], &rights].concat()).await;
    let user = User { name: "looks".into(), password: "hush".to_owned().into() };
    let run = in_both(&consul, &redis, Some(user)).await;
    let ending = run.rests().await;
    assert_eq!((ending.outcome, run.scene.service().restarts), (Outcome::Unwound, 0), "{}", ending.detail);
    assert!(ending.detail.contains("redis"), "{}", ending.detail);
    passing(&run).await;
    assert!(!run.is_latched());
}

/// A framework ends its registration at the stop, and registers some time after it answers. What is found in traffic then
/// stays there, whichever way it was put back.
#[tokio::test]
async fn a_service_that_registered_itself_anew_before_it_was_put_back_stays_in_traffic() {
    let consul = TestConsul::start().await;
    let mut runs = Vec::new();
    for (id, port) in [("by-restore", 7801), ("by-undo", 7802), ("by-resolve", 7803)] {
        consul.register(id, id, port).await;
        let adapter = Arc::new(Consul::new("consul", &consul.url, None, HOST).unwrap());
        let binding = Binding::new("consul", id);
        let run = Run::new(vec![Bound { binding, asked: adapter.clone(), real: adapter.clone() }]);
        let preimage = drain::preimage(&run.plan, &run.world).await.unwrap();
        adapter.drain(id, &drain::marker(&run.plan, &run.world)).await.unwrap();
        // As a rule sooner than the adapter looks.
        consul.put(&format!("/v1/agent/service/deregister/{id}"), "").await;
        consul.register(id, id, port).await;
        match id {
            "by-restore" => {
                let mut saga = Saga::new(run.plan.clone());
                let steps = run.plan.steps.clone();
                let restore = steps.iter().position(|step| matches!(step.step, Step::Restore { .. })).unwrap();
                for step in 0..restore {
                    saga.apply(Event::Intended { step, preimage: preimage.clone() }).unwrap();
                    saga.apply(Event::Done { step, detail: String::new(), helped: None, note: None }).unwrap();
                }
                steps::apply(&saga, restore, None, &run.world).await.unwrap();
            }
            "by-undo" => drop(drain::undo(&run.plan, &preimage, &run.world).await.unwrap()),
            _ => drop(resolve::restore(&run.plan, Some(&preimage), &run.world).await.unwrap()),
        }
        runs.push((id, adapter));
    }
    // Each adapter has had its looks.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for (id, adapter) in runs {
        assert_eq!(adapter.observe(id).await.unwrap().traffic, Traffic::Passing, "{id}");
    }
}

/// A registry in which something happens once the service was put back: at the n-th question from then on.
struct Later {
    real: Arc<FakeRegistry>,
    asked: AtomicU64,
    happens: fn(&FakeRegistry, u64),
}

impl Later {
    fn ask(&self) {
        if self.asked.load(Ordering::Relaxed) > 0 {
            (self.happens)(&self.real, self.asked.fetch_add(1, Ordering::Relaxed));
        }
    }
}

#[async_trait]
impl Registry for Later {
    async fn would(&self, _: TrafficChange, _: &str, _: &Marker) -> Result<Vec<String>, RegistryError> {
        Ok(Vec::new())
    }

    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.ask();
        self.real.observe(id).await
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.ask();
        self.real.drain(id, marker).await
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &Value) -> Result<Restored, RegistryError> {
        let restored = self.real.restore(id, marker, record).await;
        self.asked.store(1, Ordering::Relaxed);
        restored
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        self.real.others(id).await
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        self.real.markers().await
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        self.real.names().await
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

/// How it ends, and what stands in each of the registries then.
fn ends_where(all: &[fn(&FakeRegistry, u64)]) -> (Ending, Vec<Option<Traffic>>) {
    let reals: Vec<Arc<FakeRegistry>> =
        (0..all.len()).map(|at| Arc::new(FakeRegistry::new(&format!("registry-{at}")))).collect();
    let bound = all.iter().zip(&reals).enumerate().map(|(at, (happens, real))| {
        real.register(ONE, "rpc-order", "127.0.0.1:7801");
        real.register("rpc-order-2", "rpc-order", "10.0.0.2:7801");
        let later = Later { real: Arc::clone(real), asked: 0.into(), happens: *happens };
        let binding = Binding::new(format!("registry-{at}"), ONE);
        Bound { binding, asked: Arc::new(later), real: real.clone() }
    });
    let run = Run::new(bound.collect());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let ending = runtime.block_on(run.rests());
    assert_eq!(run.is_latched(), ending.outcome == Outcome::Stuck, "{ending:?}");
    (ending, reals.iter().map(|real| real.traffic(ONE)).collect())
}

const ONE: &str = "rpc-order-1";

#[test]
fn a_service_that_is_not_registered_any_more_after_its_restore_is_not_called_healthy() {
    let goes = |real: &FakeRegistry, n: u64| {
        if n == 1 {
            real.deregister(ONE);
        }
    };
    let (ending, traffic) = ends_where(&[goes, |_, _| {}]);
    assert_eq!((ending.outcome, ending.reason), (Outcome::Stuck, Reason::UnhealthyAfterRestore), "{}", ending.detail);
    assert!(ending.detail.contains("registry-0/rpc-order-1 is not registered any more"), "{}", ending.detail);
    // It is taken out of the other one as well.
    assert!(matches!(&traffic[..], [None, Some(Traffic::DrainedBy(_))]), "{traffic:?}");

    let goes_for_a_while = |real: &FakeRegistry, n: u64| match n {
        1 => real.deregister(ONE),
        5 => real.register(ONE, "rpc-order", "127.0.0.1:7801"),
        _ => {}
    };
    let (ending, traffic) = ends_where(&[goes_for_a_while]);
    assert_eq!(ending.outcome, Outcome::Completed, "{}", ending.detail);
    assert_eq!(traffic, [Some(Traffic::Passing)]);
}

#[test]
fn a_registry_that_is_away_does_not_hide_what_another_says() {
    let away = |real: &FakeRegistry, n: u64| real.set_unreachable(n == 1);
    let (ending, traffic) = ends_where(&[away, |real, _| real.set_healthy(ONE, false)]);
    assert_eq!((ending.outcome, ending.reason), (Outcome::Stuck, Reason::UnhealthyAfterRestore), "{}", ending.detail);
    assert!(traffic.iter().all(|traffic| matches!(traffic, Some(Traffic::DrainedBy(_)))), "{traffic:?}");
}

#[test]
fn a_service_that_somebody_takes_out_while_it_is_verified_is_theirs_and_is_told() {
    let taken_out = |real: &FakeRegistry, n: u64| {
        if n == 1 {
            real.isolate(ONE, Some("deploy of release 41"));
        }
    };
    let (ending, traffic) = ends_where(&[|_, _| {}, taken_out]);
    assert_eq!((ending.outcome, ending.reason), (Outcome::Stuck, Reason::RecordChanged), "{}", ending.detail);
    assert!(ending.detail.contains("registry-1/rpc-order-1 was put back, and taken out"), "{}", ending.detail);
    assert!(ending.detail.contains("deploy of release 41"), "{}", ending.detail);
    assert!(matches!(&traffic[..], [Some(Traffic::Passing), Some(Traffic::Isolated { .. })]), "{traffic:?}");
}
