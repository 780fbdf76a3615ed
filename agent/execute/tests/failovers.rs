//! Two hosts whose registry and fleet are one Redis with sentinels, whose master is killed, paused or replaced as planned just
//! before one of the calls that a saga makes of it: never are both out of traffic, none stays out, and both come to an end.
//!
//! Some calls, others in each run; all with `UNWAIT_FAILOVERS=all`, one alone with `UNWAIT_FAILOVERS='Redis Killed 7'`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::sync::Notify;

use super::run::all_kept;
use crate::clock::{Clock, SystemClock};
use crate::execute::driver::{Driven, drive};
use crate::execute::fakes::{self, Fault, Scene, Shape};
use crate::execute::journal::Journal;
use crate::execute::saga::Saga;
use crate::execute::world::Pace;
use crate::model::plan::Binding;
use crate::model::{IncidentId, Marker, Outcome, RedisLayout, RedisProfile, Step};
use crate::ports::fleet::{self, Acquired, Fleet, FleetError, Slot};
use crate::ports::registry::redis::Redis;
use crate::ports::registry::{
    FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange,
};
use crate::ports::testing_consul::wait_for;
use crate::ports::testing_redis::{Goes, Make, TestSentinels};

const SERVICE: &str = "rpc-order";
const KEY: &str = "rpc:rpc-order";

/// Steps wait so many times shorter; Redis and its sentinels do not.
const FASTER: u32 = 20;

/// The host whose first saga is counted; the other one begins behind it.
const FIRST: &str = "a";

/// What one saga asks of the registry and the fleet at least, from its slot to the slot's release.
const CALLS: u32 = 25;

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
    /// What the first saga has asked of the registry and the fleet.
    calls: AtomicU32,
    /// The master goes just before this call, and the call is made once it has gone.
    at: u32,
    gone: Notify,
    /// Sagas.
    ended: AtomicU32,
    stop: AtomicBool,
}

impl Shared {
    async fn called(&self, host: &str) {
        let is_first = host == FIRST && self.ended.load(Ordering::Relaxed) == 0;
        if is_first && self.calls.fetch_add(1, Ordering::Relaxed) == self.at {
            self.gone.notified().await;
        }
    }
}

/// Registry and fleet of one host, with their calls counted.
struct Counted<T: ?Sized> {
    host: &'static str,
    shared: Arc<Shared>,
    is_out: AtomicBool,
    real: Arc<T>,
}

impl<T: ?Sized> Counted<T> {
    fn new(host: &'static str, shared: &Arc<Shared>, real: Arc<T>) -> Arc<Self> {
        Arc::new(Self { host, shared: Arc::clone(shared), is_out: AtomicBool::new(false), real })
    }

    async fn called(&self) {
        self.shared.called(self.host).await;
    }
}

#[async_trait]
impl Fleet for Counted<dyn Fleet> {
    async fn acquire(&self, service: &str, incident: &str, slots: u32) -> Result<Acquired, FleetError> {
        self.called().await;
        self.real.acquire(service, incident, slots).await
    }

    async fn would_take(&self, service: &str, incident: &str, slots: u32) -> Result<Option<String>, FleetError> {
        self.real.would_take(service, incident, slots).await
    }

    async fn begin(&self, service: &str, incident: &str) -> Result<Duration, FleetError> {
        self.called().await;
        self.real.begin(service, incident).await
    }

    async fn drained(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        self.called().await;
        self.real.drained(service, incident).await
    }

    async fn release(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        self.called().await;
        self.real.release(service, incident).await
    }

    async fn keep(&self, needed: &[(String, String)]) -> Result<Vec<(String, Slot)>, FleetError> {
        self.real.keep(needed).await
    }

    async fn blocked_by(&self, service: &str, incident: &str, slots: u32) -> Result<Vec<Slot>, FleetError> {
        self.real.blocked_by(service, incident, slots).await
    }

    async fn release_host(&self, service: &str, host: &str) -> Result<Vec<Slot>, FleetError> {
        self.real.release_host(service, host).await
    }
}

#[async_trait]
impl Registry for Counted<Redis> {
    async fn would(&self, _: TrafficChange, _: &str, _: &Marker) -> Result<Vec<String>, RegistryError> {
        Ok(Vec::new())
    }

    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.called().await;
        self.real.observe(id).await
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.called().await;
        if !self.is_out.swap(true, Ordering::Relaxed) {
            assert_eq!(self.shared.out.fetch_add(1, Ordering::Relaxed), 0, "two at work");
        }
        self.real.drain(id, marker).await
    }

    async fn hold(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        self.called().await;
        self.real.hold(id, marker).await
    }

    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        self.called().await;
        self.real.takes_writes(id, marker).await
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &Value) -> Result<Restored, RegistryError> {
        self.called().await;
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

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        crate::ports::registry::found_by_record(self, id).await
    }

    fn clients_follow(&self) -> Duration {
        Duration::ZERO
    }
}

/// The incidents of one host.
#[derive(Default)]
struct Own {
    /// The one at work, with its service.
    needed: Vec<(String, String)>,
    over: Vec<String>,
}

impl Own {
    fn ends(&mut self, incident: &str) {
        self.needed.clear();
        self.over.push(incident.to_owned());
    }
}

/// One host: a saga after the other, until the story is over. Says how many completed.
async fn host(name: &'static str, set_up: &TestSentinels, shared: Arc<Shared>) -> u32 {
    while name != FIRST && shared.calls.load(Ordering::Relaxed) < 2 && !shared.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let layout = RedisLayout {
        profile: RedisProfile::Hash,
        key: "rpc:{service}".into(),
        hold_every: Duration::from_millis(200),
    };
    let real = Arc::new(Redis::new("redis", set_up.access(), layout, name));
    let counted = Counted::new(name, &shared, real);
    let fleet: Arc<dyn Fleet> =
        Counted::<dyn Fleet>::new(name, &shared, fleet::redis::redis(set_up.access(), name, Arc::new(SystemClock)));
    // As the agent does beside its loop: what a failover lost is written again, and what it brought back is given back.
    let own: Arc<Mutex<Own>> = Arc::default();
    let keeping = tokio::spawn({
        let (fleet, own) = (Arc::clone(&fleet), Arc::clone(&own));
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let needed = own.lock().unwrap().needed.clone();
                for (service, slot) in fleet.keep(&needed).await.unwrap_or_default() {
                    if own.lock().unwrap().over.contains(&slot.incident) {
                        let _ = fleet.release(&service, &slot.incident).await;
                    }
                }
            }
        }
    });
    let (mut ended, mut completed) = (0, 0);
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
        own.lock().unwrap().needed = vec![(SERVICE.to_owned(), incident.clone())];
        let stop = scene.trip.stop.subscribe();
        let Driven::Rested(ending) = drive(Saga::new(plan), Journal::new(), &world, stop).await else {
            panic!("nobody told it to leave");
        };
        let fits = matches!(ending.outcome, Outcome::Completed | Outcome::Unwound);
        assert!(fits, "{incident}: {:?} {}", ending.outcome, ending.detail);
        if counted.is_out.swap(false, Ordering::Relaxed) {
            shared.out.fetch_sub(1, Ordering::Relaxed);
        }
        own.lock().unwrap().ends(&incident);
        while fleet.release(SERVICE, &incident).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        completed += u32::from(ending.outcome == Outcome::Completed);
        ended += 1;
        shared.ended.fetch_add(1, Ordering::Relaxed);
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
    completed
}

/// After a failover hosts wait for so long here, in place of 70 s.
const SHORTLY: &str = "
local now = redis.call('TIME')[1] * 1000
local since = tonumber(redis.call('HGET', KEYS[1], 'since'))
if since and now - since > 8000 then redis.call('HSET', KEYS[1], 'since', 1) end
";

/// The master goes just before the call `at` of the first saga; of [`CALLS`], once that has ended.
async fn story(make: Make, how: Goes, at: u32) {
    let set_up = TestSentinels::start(make).await;
    let master = set_up.master().await;
    master.known_for_long().await;
    master.ask(&["HSET", KEY, "a", "up", "b", "up"]).await;
    let shared = Arc::new(Shared {
        out: AtomicU32::new(0),
        calls: AtomicU32::new(0),
        at,
        gone: Notify::new(),
        ended: AtomicU32::new(0),
        stop: AtomicBool::new(false),
    });
    let ended = || shared.ended.load(Ordering::Relaxed);
    let failover = async {
        let calls = || shared.calls.load(Ordering::Relaxed);
        wait_for("the call", async || calls() > at || ended() > 0).await;
        // One that is slow may be read back once more.
        assert!(calls() >= CALLS.min(at + 1), "a saga asks less than it did: {} and not {CALLS}, see `CALLS`", calls());
        let former = set_up.go(how).await;
        shared.gone.notify_one();
        let master = set_up.replaced(former).await;
        if matches!(how, Goes::Paused) {
            former.signal(Signal::SIGCONT);
        }
        // The saga that was at work, where it goes on, and one after it, by whichever host.
        let before = ended();
        wait_for("two sagas to end", async || {
            let _ = master.try_ask(&["EVAL", SHORTLY, "1", "unwait:line:{unwait:slots}"]).await;
            ended() >= before + 2
        })
        .await;
        shared.stop.store(true, Ordering::Relaxed);
    };
    let (a, b) = (host("a", &set_up, Arc::clone(&shared)), host("b", &set_up, Arc::clone(&shared)));
    let ((), a, b) = tokio::join!(failover, a, b);
    all_kept(a + b, format_args!("a master of {make:?} {how:?} {at}"));
    assert!(a + b > 0, "{make:?} {how:?} {at}");
}

const WAYS: [Goes; 3] = [Goes::Killed, Goes::Paused, Goes::Planned];

async fn swept(make: Make) {
    let all = (0..=CALLS).flat_map(|at| WAYS.map(|how| (how, at)));
    let told: Vec<(Goes, u32)> = match std::env::var("UNWAIT_FAILOVERS") {
        Ok(how) if how == "all" => all.collect(),
        Ok(one) => all.filter(|(how, at)| format!("{make:?} {how:?} {at}") == one).collect(),
        // Two that lie half a saga apart, others in each run, and the end.
        Err(_) => {
            let now = SystemClock.now().as_second() as u32;
            let way = |nth: u32| WAYS[((now + nth) % 3) as usize];
            vec![(way(0), now % CALLS), (way(1), (now + CALLS / 2) % CALLS), (way(2), CALLS)]
        }
    };
    let (count, left) = (told.len(), RefCell::new(told));
    let plays = async || {
        loop {
            let Some((how, at)) = left.borrow_mut().pop() else { return };
            println!("UNWAIT_FAILOVERS='{make:?} {how:?} {at}' plays it alone");
            story(make, how, at).await;
        }
    };
    tokio::join!(plays(), plays(), plays(), plays());
    println!("{count} failovers of {make:?}");
}

#[tokio::test]
async fn a_master_of_redis_goes_at_a_call_of_a_saga() {
    swept(Make::Redis).await;
}

#[tokio::test]
async fn a_master_of_valkey_goes_at_a_call_of_a_saga() {
    swept(Make::Valkey).await;
}
