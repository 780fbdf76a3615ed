//! Two hosts whose registry and fleet are one Redis with sentinels, whose master is killed, paused or replaced as planned while
//! a saga is at work: never are both out of traffic, none stays out, and both come to an end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::sync::Notify;

use crate::clock::{Clock, SystemClock};
use crate::execute::driver::{Driven, drive};
use crate::execute::fakes::{self, Fault, Scene, Shape};
use crate::execute::journal::Journal;
use crate::execute::saga::Saga;
use crate::execute::world::Pace;
use crate::model::plan::Binding;
use crate::model::{IncidentId, Marker, Outcome, RedisLayout, RedisProfile, Step};
use crate::ports::fleet::{self, Acquired, Fleet};
use crate::ports::registry::redis::Redis;
use crate::ports::registry::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic};
use crate::ports::testing_consul::wait_for;
use crate::ports::testing_redis::{Goes, Make, TestSentinels};

const SERVICE: &str = "rpc-order";
const KEY: &str = "rpc:rpc-order";

/// Steps wait so many times shorter; Redis and its sentinels do not.
const FASTER: u32 = 20;

/// In traffic for so long, without a break, before the next saga.
const COOLDOWN: Duration = Duration::from_secs(4);

struct Fast(Duration);

#[async_trait]
impl Pace for Fast {
    fn elapsed(&self) -> Duration {
        (SystemClock.monotonic() - self.0) * FASTER
    }

    async fn wait(&self, duration: Duration) {
        tokio::time::sleep(duration / FASTER).await;
    }
}

/// What all hosts of a story share.
struct Shared {
    /// Hosts whose instance is drained, or may be.
    out: AtomicU32,
    calls: AtomicU32,
    /// The master goes at this call.
    at: u32,
    now: Notify,
    stop: AtomicBool,
}

/// The registry of one host; counts the calls.
struct Counted {
    real: Arc<Redis>,
    shared: Arc<Shared>,
    is_out: AtomicBool,
}

impl Counted {
    fn called(&self) {
        if self.shared.calls.fetch_add(1, Ordering::Relaxed) == self.shared.at {
            self.shared.now.notify_one();
        }
    }
}

#[async_trait]
impl Registry for Counted {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.called();
        self.real.observe(id).await
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.called();
        if !self.is_out.swap(true, Ordering::Relaxed) {
            assert_eq!(self.shared.out.fetch_add(1, Ordering::Relaxed), 0, "two at work");
        }
        self.real.drain(id, marker).await
    }

    async fn hold(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        self.called();
        self.real.hold(id, marker).await
    }

    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        self.called();
        self.real.takes_writes(id, marker).await
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &Value) -> Result<Restored, RegistryError> {
        self.called();
        self.real.restore(id, marker, record).await
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
}

/// One host: a saga after the other, until the story is over. Says how many came to an end.
async fn host(name: &'static str, set_up: &TestSentinels, shared: Arc<Shared>) -> u32 {
    let layout = RedisLayout {
        profile: RedisProfile::Hash,
        key: "rpc:{service}".into(),
        hold_every: Duration::from_millis(200),
    };
    let real = Arc::new(Redis::new("redis", set_up.access(), layout, name));
    let counted = Arc::new(Counted { real, shared: Arc::clone(&shared), is_out: AtomicBool::new(false) });
    let fleet: Arc<dyn Fleet> = fleet::redis::redis(set_up.access(), name, Arc::new(SystemClock));
    // As the agent does beside its loop: what a failover lost is written again, and what it brought back is given back.
    let needed: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let keeping = tokio::spawn({
        let (fleet, needed) = (Arc::clone(&fleet), Arc::clone(&needed));
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let now = needed.lock().unwrap().clone();
                for (service, slot) in fleet.keep(&now).await.unwrap_or_default() {
                    let _ = fleet.release(&service, &slot.incident).await;
                }
            }
        }
    });
    let mut ended = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let incident = format!("{name}-{ended}");
        let acquired = fleet.acquire(SERVICE, &incident, 1).await;
        if !matches!(acquired, Ok(Acquired::Yes { .. })) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        let scene = Scene::new(Fault::Nothing);
        let mut world = fakes::world(&scene);
        let mut plan = fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing));
        plan.incident = IncidentId(incident.clone());
        // Of the machine's time and not of the service's, which is well at once.
        for planned in &mut plan.steps {
            if let Step::HealthCheck { timeout, .. } = &mut planned.step {
                *timeout = Duration::from_secs(60) * FASTER;
            }
        }
        plan.target.bindings = vec![Binding::new("redis", format!("{SERVICE}/{name}"))];
        plan.fleet_scope = Some(SERVICE.into());
        plan.guards.fleet_slots = Some(1);
        world.host = name.into();
        world.pace = Arc::new(Fast(SystemClock.monotonic()));
        world.ports.registries = [("redis".to_owned(), Arc::clone(&counted) as Arc<dyn Registry>)].into();
        world.ports.fleet = Some(Arc::clone(&fleet));
        let start = world.teller(&plan).start(Vec::new());
        world.store.begin_incident(&plan, world.clock.now(), &world.audience, &[start]).unwrap();
        *needed.lock().unwrap() = vec![(SERVICE.to_owned(), incident.clone())];
        let stop = scene.trip.stop.subscribe();
        let Driven::Rested(ending) = drive(Saga::new(plan), Journal::new(), &world, stop).await else {
            panic!("nobody told it to leave");
        };
        let fits = matches!(ending.outcome, Outcome::Completed | Outcome::Unwound);
        assert!(fits, "{incident}: {:?} {}", ending.outcome, ending.detail);
        if counted.is_out.swap(false, Ordering::Relaxed) {
            shared.out.fetch_sub(1, Ordering::Relaxed);
        }
        needed.lock().unwrap().clear();
        while fleet.release(SERVICE, &incident).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        ended += u32::from(ending.outcome == Outcome::Completed);
        // As a cooldown does: what the new master has lost of it is put right before another begins.
        let mut since = tokio::time::Instant::now();
        while since.elapsed() < COOLDOWN {
            let seen = counted.real.observe(&format!("{SERVICE}/{name}")).await;
            if !seen.is_ok_and(|registration| registration.traffic == Traffic::Passing) {
                since = tokio::time::Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    // What was restored with a master that was replaced just then is found by the adapter itself.
    let is_in = async || {
        let master = set_up.master().await;
        master.field(KEY, name).await.is_some()
            && master.field("unwait:drained", &format!("{SERVICE}/{name}")).await.is_none()
    };
    wait_for("the instance to be in traffic", is_in).await;
    keeping.abort();
    ended
}

/// After a failover hosts wait for so long here, in place of 70 s.
const SHORTLY: &str = "
local now = redis.call('TIME')[1] * 1000
local since = tonumber(redis.call('HGET', KEYS[1], 'since'))
if since and now - since > 8000 then redis.call('HSET', KEYS[1], 'since', 1) end
";

async fn story(make: Make, how: Goes, at: u32) {
    let set_up = TestSentinels::start(make).await;
    let master = set_up.master().await;
    master.known_for_long().await;
    master.ask(&["HSET", KEY, "a", "up", "b", "up"]).await;
    let shared = Arc::new(Shared {
        out: AtomicU32::new(0),
        calls: AtomicU32::new(0),
        at,
        now: Notify::new(),
        stop: AtomicBool::new(false),
    });
    let failover = async {
        shared.now.notified().await;
        let former = set_up.go(how).await;
        let master = set_up.replaced(former).await;
        if matches!(how, Goes::Paused) {
            former.signal(Signal::SIGCONT);
        }
        let before = shared.calls.load(Ordering::Relaxed);
        // Some saga after it, by whichever host.
        while shared.calls.load(Ordering::Relaxed) < before + 40 {
            let _ = master.try_ask(&["EVAL", SHORTLY, "1", "unwait:line:{unwait:slots}"]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        shared.stop.store(true, Ordering::Relaxed);
    };
    let (a, b) = (host("a", &set_up, Arc::clone(&shared)), host("b", &set_up, Arc::clone(&shared)));
    let ((), a, b) = tokio::join!(failover, a, b);
    println!("{make:?} {how:?} at call {at}: {a} and {b} completed");
    assert!(a + b > 0, "{make:?} {how:?} {at}");
}

#[tokio::test]
async fn a_master_of_redis_goes_while_a_saga_is_at_work() {
    tokio::join!(
        story(Make::Redis, Goes::Killed, 2),
        story(Make::Redis, Goes::Paused, 6),
        story(Make::Redis, Goes::Planned, 10)
    );
}

#[tokio::test]
async fn a_master_of_valkey_goes_while_a_saga_is_at_work() {
    tokio::join!(
        story(Make::Valkey, Goes::Planned, 4),
        story(Make::Valkey, Goes::Killed, 8),
        story(Make::Valkey, Goes::Paused, 12)
    );
}
