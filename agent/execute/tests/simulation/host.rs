//! One host: its service, which is there whoever watches it; its ways to the registry and to the fleet's store; and what
//! ends and starts its agent. An agent that ends takes along what waits in memory, and nothing else: its store, a restart
//! under way and what has arrived in a registry stay.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::agent;
use super::dice::Dice;
use super::observer::Observer;
use super::scenario::{CHAOS_ENDS, End, Fate, Happening, Party, Release, Scenario, USUAL_MS};
use crate::ports::fleet::fake::FakeStore;
use crate::ports::registry::fake::FakeRegistry;
use crate::ports::restarter::RunState;
use crate::store::Store;

pub const NAME: &str = "rpc-order";
/// A question that nobody answers is given up after this.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How long an agent that is asked to end may take; then it is killed.
const STOP_GRACE: Duration = Duration::from_secs(90);

/// What is broken on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::EnumIter)]
pub enum Broken {
    #[default]
    Nothing,
    /// The fleet's store gives a slot to everybody.
    Slots,
    /// The guard of the healthy others is left out.
    MinHealthy,
    /// Every probe passes.
    Probe,
    /// An agent that starts has forgotten what was under way.
    Journal,
    /// What recovery finds under way is done again.
    Recovery,
    /// What rests stuck gives its slot back.
    StuckSlot,
}

/// What the hosts share.
#[derive(Debug)]
pub struct Shared {
    pub scenario: Scenario,
    pub broken: Broken,
    pub registry: FakeRegistry,
    pub fleet: FakeStore,
    observer: Mutex<Observer>,
    origin: Instant,
}

impl Shared {
    pub fn new(scenario: Scenario, broken: Broken) -> Self {
        Self {
            registry: FakeRegistry::new("fake"),
            fleet: FakeStore::default(),
            observer: Mutex::new(Observer::new(&scenario)),
            origin: Instant::now(),
            scenario,
            broken,
        }
    }

    /// Virtual time since the beginning.
    pub fn at(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Chance still works against the fleet.
    pub fn is_troubled(&self) -> bool {
        self.at() < CHAOS_ENDS
    }

    pub fn observer(&self) -> MutexGuard<'_, Observer> {
        self.observer.lock().unwrap()
    }
}

/// The service, as it really is.
#[derive(Clone, Debug)]
pub struct Service {
    pub lifetime: u32,
    pub state: RunState,
    pub healthy: bool,
    pub leaking: bool,
    /// Ill for good.
    pub doomed: bool,
    pub since: Duration,
}

#[derive(Debug)]
pub struct Host {
    pub index: usize,
    pub name: String,
    /// Of its instance.
    pub id: String,
    pub fate: Fate,
    pub shared: Arc<Shared>,
    store: Mutex<Arc<Store>>,
    service: Mutex<Service>,
    pub dice: Mutex<Dice>,
    pub incidents: AtomicU64,
    /// A saga is under way: only then do crossings count.
    pub at_work: AtomicBool,
    crossings: AtomicU64,
    end: Mutex<Option<End>>,
    ending: Notify,
    gone: watch::Sender<bool>,
}

/// Ends when it is so.
pub async fn turns_true(what: &mut watch::Receiver<bool>) {
    let _ = what.wait_for(|so| *so).await;
}

fn empty() -> Arc<Store> {
    Arc::new(Store::open(std::path::Path::new(":memory:")).unwrap())
}

impl Host {
    pub fn new(shared: &Arc<Shared>, index: usize) -> Arc<Self> {
        let host = Self {
            index,
            name: format!("bj1-{index:03}"),
            id: format!("{NAME}-{index}"),
            fate: shared.scenario.fates[index].clone(),
            shared: Arc::clone(shared),
            store: Mutex::new(empty()),
            service: Mutex::new(Service {
                lifetime: 1,
                state: RunState::Active,
                healthy: true,
                leaking: false,
                doomed: false,
                since: Duration::ZERO,
            }),
            dice: Mutex::new(Dice::new(shared.scenario.seed, 1_000_000 + index as u64)),
            incidents: AtomicU64::new(0),
            at_work: AtomicBool::new(false),
            crossings: AtomicU64::new(0),
            end: Mutex::default(),
            ending: Notify::new(),
            gone: watch::Sender::new(false),
        };
        shared.registry.register(&host.id, NAME, &format!("10.0.{}.{}:7801", index / 250, 1 + index % 250));
        Arc::new(host)
    }

    pub fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store.lock().unwrap())
    }

    pub fn service(&self) -> MutexGuard<'_, Service> {
        self.service.lock().unwrap()
    }

    pub fn dice(&self) -> MutexGuard<'_, Dice> {
        self.dice.lock().unwrap()
    }

    pub fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    pub fn note(&self, what: impl std::fmt::Display) {
        self.shared.observer().note(self.shared.at(), self.index, what);
    }

    /// A moment of the agent's; it may be its last.
    pub async fn step(&self) {
        if !self.at_work.load(Ordering::Relaxed) || !self.shared.is_troubled() {
            return;
        }
        let now = self.crossings.fetch_add(1, Ordering::Relaxed);
        let Some((_, end)) = self.fate.ends.iter().find(|(at, _)| *at == now) else { return };
        self.end_agent(*end).await;
    }

    /// A killed agent takes no further step; one that is asked to end goes on meanwhile.
    pub async fn end_agent(&self, end: End) {
        *self.end.lock().unwrap() = Some(end);
        self.ending.notify_one();
        if end == End::Killed {
            std::future::pending::<()>().await;
        }
    }

    /// One way between the agent and a party: a question, or (`back`) its answer. An error says that it did not arrive.
    pub async fn cross(&self, party: Party, back: bool) -> Result<(), String> {
        self.step().await;
        let (delay, lost) = {
            let troubled = self.shared.is_troubled();
            let mut dice = self.dice();
            let slowest = if troubled { self.fate.slowest_ms } else { USUAL_MS };
            (dice.millis(1, slowest), dice.percent(self.fate.lost_percent) && back && troubled)
        };
        sleep(delay).await;
        let now = self.shared.at();
        let outage =
            self.fate.outages.iter().find(|outage| outage.party == party && (outage.from..outage.until).contains(&now));
        match outage {
            Some(outage) if !outage.silent && !back => Err("connection refused".into()),
            None if !lost => Ok(()),
            _ => {
                sleep(CALL_DEADLINE).await;
                Err("no answer within the deadline".into())
            }
        }
    }

    /// The service is healthy from now on, or it is not; its registry sees an illness some seconds later.
    fn becomes(self: &Arc<Self>, healthy: bool) {
        self.service().healthy = healthy;
        self.shared.observer().health(self.shared.at(), self.index, healthy);
        if healthy {
            return self.shared.registry.set_healthy(&self.id, true);
        }
        let since = self.shared.observer().hosts[self.index].ill;
        let lag = self.dice().seconds(7, 9);
        let host = Arc::clone(self);
        tokio::spawn(async move {
            sleep(lag).await;
            // Another illness since then is seen in its own time.
            if host.shared.observer().hosts[host.index].ill == since {
                host.shared.registry.set_healthy(&host.id, false);
            }
        });
    }

    /// What the service manager does when it is asked to; it outlives who asked.
    pub async fn restart(self: Arc<Self>) {
        self.shared.observer().restart_begins(self.shared.at(), self.index);
        self.service().state = RunState::Changing;
        self.becomes(false);
        let (takes, withers_after) = {
            let mut dice = self.dice();
            (dice.millis(300, 3_000), dice.seconds(1, 20))
        };
        sleep(takes).await;
        if self.is_gone() {
            return;
        }
        let release = self.fate.release;
        let healthy = matches!(release, Release::Good | Release::Withers);
        {
            let mut service = self.service();
            service.lifetime += 1;
            service.leaking = false;
            service.state = if release == Release::Dead { RunState::Failed } else { RunState::Active };
            service.since = self.shared.at();
            service.doomed = !healthy;
        }
        if healthy {
            self.becomes(true);
        }
        self.shared.observer().restart_ends(self.shared.at(), self.index, healthy);
        let later = |after: Duration, what: fn(&Arc<Self>)| {
            let (host, lifetime) = (Arc::clone(&self), self.service().lifetime);
            tokio::spawn(async move {
                sleep(after).await;
                let same = host.service().lifetime == lifetime;
                if same && !host.is_gone() {
                    what(&host);
                }
            });
        };
        if release == Release::Withers {
            later(withers_after, |host| {
                host.service().doomed = true;
                host.becomes(false);
                host.note("withers");
            });
        }
        if let Some(after) = self.fate.leaks_again {
            later(after, |host| {
                if host.shared.is_troubled() {
                    host.service().leaking = true;
                    host.note("leaks again");
                }
            });
        }
    }

    fn happens(self: &Arc<Self>, what: Happening) {
        self.note(format_args!("{what:?}"));
        match what {
            Happening::Leaks => self.service().leaking = true,
            Happening::FallsIll => self.becomes(false),
            Happening::IsWell => {
                let service = self.service().clone();
                if !service.doomed && service.state == RunState::Active {
                    self.becomes(true);
                }
            }
            Happening::Vanishes => {
                self.service().state = RunState::Failed;
                self.becomes(false);
                self.gone.send_replace(true);
                self.shared.observer().counts.vanished += 1;
            }
        }
    }

    /// What befalls the host, in time.
    pub async fn fortune(self: Arc<Self>) {
        for (at, what) in self.fate.happenings.clone() {
            sleep_until(self.shared.origin + at).await;
            if self.is_gone() {
                return;
            }
            self.happens(what);
        }
    }

    /// The agent, started again whenever it has ended.
    pub async fn power(self: Arc<Self>) {
        let mut gone = self.gone.subscribe();
        loop {
            let stop = watch::Sender::new(false);
            let mut life = tokio::spawn(agent::live(Arc::clone(&self), stop.subscribe()));
            let mut kill_at = None;
            let ended = loop {
                tokio::select! {
                    biased;
                    ended = &mut life => break ended,
                    () = turns_true(&mut gone) => {
                        life.abort();
                        let _ = (&mut life).await;
                        return;
                    }
                    () = self.ending.notified() => match self.end.lock().unwrap().take() {
                        Some(End::Killed) => life.abort(),
                        Some(End::Stopped) => {
                            stop.send_replace(true);
                            kill_at = Some(Instant::now() + STOP_GRACE);
                        }
                        None => {}
                    },
                    () = sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                        kill_at = None;
                        life.abort();
                    }
                }
            };
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
            self.note("the agent has ended");
            self.shared.observer().counts.ends += 1;
            self.at_work.store(false, Ordering::Relaxed);
            // What waited in its memory is lost with it.
            self.store().forget_spilled();
            if self.shared.broken == Broken::Journal {
                *self.store.lock().unwrap() = empty();
            }
            let down = self.dice().seconds(3, 60);
            sleep(down).await;
            self.note("the agent starts");
        }
    }
}
