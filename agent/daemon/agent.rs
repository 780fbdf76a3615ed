//! The loop of `unwait run`. It owns the agent's state, decides, and waits for nobody: looks, the guards' questions, sagas,
//! duties and requests are tasks that send it events ([`super::beside`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::beside::{Beside, Kind};
use super::board::{Board, Listed};
use super::control::Incoming;
use super::deciding::ANOTHER;
use super::duties::breach_log::BreachLog;
use super::duties::breaches::Published;
use super::duties::fleet_status::TellsFleet;
use super::duties::held::HeldBreach;
use super::duties::{approvals, breaker, delivery, orders, remind, report, review, sweep, unowned};
use super::event::{Beginning, Ended, Event, Looked};
use super::history;
use super::opening::RunError;
use super::reloads::Reloads;
use super::scribe::Scribe;
use super::service_manager::ServiceManager;
use crate::decide::detector::Detector;
use crate::execute::driver::Driven;
use crate::model::{Message, ServiceName};
use crate::ports::fleet::KEPT_EVERY;
use crate::sense::attention::Attention;
use crate::sense::pacing::every;
use crate::sense::sensor::cautions::DISCOVER_EVERY;
use crate::sense::sensor::{Look, on_blocking_thread};
use crate::store::{Health, Store};
use crate::view::bulletin::Bulletin;
use crate::view::slots::FleetSlots;
use crate::wiring::{Wiring, supervised};

/// What the running agent is asked from outside.
#[derive(Debug)]
pub struct Inbox {
    pub requests: mpsc::Receiver<Incoming>,
    /// A new configuration is to be read.
    pub reload: mpsc::Receiver<()>,
    /// Turns true when the agent is asked to end.
    pub stop: watch::Receiver<bool>,
    pub manager: ServiceManager,
}

/// How often each registry is asked for drains of ours that no incident knows of.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Where one of them did not answer: after a reboot the agent is often there before its registry is.
const SWEEP_AGAIN: Duration = Duration::from_secs(10);
/// How often slots that are to be given back are.
const RELEASE_EVERY: Duration = Duration::from_secs(30);

/// How often the fleet's slots are read for the status page.
const FLEET_SLOTS_EVERY: Duration = Duration::from_secs(60);

/// However many hints come, looks for them are no closer than this.
const HINTED_EVERY: Duration = Duration::from_secs(2);

/// For the supervisors' and daemons' answers: a look goes on without those that take longer.
const SUPERVISORS_WITHIN: Duration = Duration::from_millis(250);
/// How often an agent that is to end looks whether it still waits for anybody.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(250);

/// The running agent.
pub struct Agent {
    pub(super) config_dir: PathBuf,
    pub(super) wiring: Wiring,
    /// How many configurations were in force before this one.
    pub(super) configuration: u64,
    pub(super) store: Arc<Store>,
    /// Writes for the loop, which writes nothing itself.
    pub(super) scribe: Scribe,
    pub(super) started: Duration,
    pub(super) detector: Detector,
    pub(super) held: BTreeMap<(String, ServiceName), HeldBreach>,
    pub(super) log: BreachLog,
    pub(super) last: Option<Arc<Look>>,
    /// The last one at everything that could be trusted.
    pub(super) last_whole: Option<Arc<Look>>,
    pub(super) last_failure: Option<String>,
    /// As the last look left it.
    pub(super) attention: Attention,
    pub(super) board: Board,
    /// What the board shows of the store, as it was read last; and whether it has changed since.
    pub(super) stored: Bulletin,
    pub(super) is_outdated: bool,
    /// As they were read last.
    pub(super) fleet_slots: Option<FleetSlots>,
    pub(super) beside: Beside,
    /// What no guard is against; begun one after another.
    pub(super) to_begin: VecDeque<Beginning>,
    /// And needs a slot before.
    pub(super) to_take_slot: VecDeque<Beginning>,
    /// By what the configuration in force names.
    pub(super) delivery: delivery::Delivery,
    pub(super) sagas: JoinSet<Ended>,
    /// The services that those work on.
    pub(super) under_way: BTreeSet<ServiceName>,
    pub(super) stop: watch::Receiver<bool>,
    /// What the fleet was told of this host's breaches; `None` while it is being told.
    pub(super) published: Option<Published>,
    /// And of how it is; the same.
    pub(super) tells_fleet: Option<TellsFleet>,
    /// The policy and the service of what is being begun, and of what takes its slot.
    pub(super) being_begun: Option<(String, ServiceName)>,
    pub(super) takes_slot: Option<(String, ServiceName)>,
    pub(super) reloads: Reloads,
    pub(super) manager: ServiceManager,
    /// A configuration that was read while something is being begun by the one in force.
    pub(super) waits: Option<Wiring>,
    /// Held while slots are given back, and from a slot's note to its incident.
    pub(super) slots: Arc<Mutex<()>>,
    /// Held while a person's decision is carried out.
    pub(super) resolving: Arc<Mutex<()>>,
    pub(super) requests: u64,
    /// Others want a look now: who asks, and that one is due.
    hints: mpsc::Receiver<()>,
    is_hinted: bool,
    /// A tick came while a look was under way.
    missed: bool,
    /// When the registries are to be asked again for drains of ours that no incident knows of.
    pub(super) sweep_due: Duration,
    pub(super) released: Duration,
    retained: Duration,
    fleet_slots_due: Duration,
    told_of_unowned: Option<Timestamp>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("config_dir", &self.config_dir).finish_non_exhaustive()
    }
}

impl Agent {
    /// Opens the state, and goes on with what a former agent left. The caller holds the state directory's lock.
    pub async fn start(
        config_dir: &Path,
        wiring: Wiring,
        store: Arc<Store>,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, RunError> {
        let now = wiring.host.clock.monotonic();
        let attention = Attention::new(&wiring.config);
        let (look_now, hints) = mpsc::channel(1);
        let board = Board::new(wiring.host.clock.now(), look_now);
        let reloads = Reloads::new(wiring.host.clock.now());
        let delivery = delivery::Delivery::start(delivery::of(&wiring, &store));
        let mut agent = Self {
            config_dir: config_dir.into(),
            wiring,
            configuration: 0,
            scribe: Scribe::of(Arc::clone(&store)),
            store,
            started: now,
            detector: Detector::default(),
            held: BTreeMap::new(),
            log: BreachLog::default(),
            last: None,
            last_whole: None,
            last_failure: None,
            attention,
            board,
            stored: Bulletin::default(),
            is_outdated: false,
            fleet_slots: Some(FleetSlots::default()),
            beside: Beside::default(),
            to_begin: VecDeque::new(),
            to_take_slot: VecDeque::new(),
            delivery,
            sagas: JoinSet::new(),
            under_way: BTreeSet::new(),
            stop,
            published: Some(Published::default()),
            tells_fleet: Some(TellsFleet::default()),
            being_begun: None,
            takes_slot: None,
            reloads,
            manager: ServiceManager::default(),
            waits: None,
            slots: Arc::default(),
            resolving: Arc::default(),
            requests: 0,
            missed: false,
            hints,
            is_hinted: false,
            sweep_due: Duration::ZERO,
            released: Duration::ZERO,
            retained: Duration::ZERO,
            fleet_slots_due: Duration::ZERO,
            told_of_unowned: None,
        };
        agent.wiring.follow_fleet(&agent.store, true);
        remind::of_lost_memory(&agent.wiring, &agent.store);
        approvals::withdraw(&agent.wiring, &agent.store);
        orders::answer_left(&agent.store);
        agent.log = BreachLog::of(&agent.store, &agent.wiring.host.clock.boot(), now);
        agent.keep_log();
        review::note_policies(&agent.wiring, &agent.store);
        agent.recover()?;
        // What cannot be read is said at the first look.
        agent.stored = agent.to_store()().unwrap_or_default();
        Ok(agent)
    }

    /// Runs until it is asked to stop; then sagas before their pivot unwind, and later ones are left to the next
    /// start.
    pub async fn run(mut self, mut inbox: Inbox) -> Result<(), RunError> {
        let mut ticks = every(self.wiring.config.host.interval);
        let mut discoveries = every(DISCOVER_EVERY);
        // The sensor has just been made, and has looked for them.
        discoveries.reset();
        let mut keeps = every(KEPT_EVERY);
        let mut hinted = every(HINTED_EVERY);
        self.open_board();
        self.manager = inbox.manager;
        let mut alive = every(self.manager.alive_every());
        self.manager.ready();
        let mut stopping = false;
        let mut idle = true;
        // What is begun is unwound, or left, before the agent ends; people may ask meanwhile.
        while !stopping || !self.sagas.is_empty() || self.is_changing_anything() {
            tokio::select! {
                _ = ticks.tick(), if !stopping => self.tick(),
                Some(()) = self.hints.recv() => self.is_hinted = true,
                // One that looks less often, as `cpu_budget` has it, does not look sooner for a hint.
                _ = hinted.tick(), if self.is_hinted && !stopping && !self.attention.is_lengthened() => self.look(),
                _ = keeps.tick() => self.keep_slots(),
                _ = discoveries.tick() => {
                    let sensor = self.wiring.sensor.clone();
                    self.beside.start_quietly(Kind::Discovery, on_blocking_thread(move || sensor.lock().discover()));
                }
                Some(ended) = self.sagas.join_next() => {
                    self.ended(ended);
                    self.post();
                }
                event = self.beside.next() => {
                    let is_of_a_look = matches!(event, Event::Looked(_));
                    self.hear(event);
                    if is_of_a_look && self.attention.is_lengthened() {
                        ticks.reset_after(self.attention.period());
                    }
                    let interval = self.wiring.config.host.interval;
                    if interval != ticks.period() {
                        ticks = every(interval);
                    }
                }
                Some(incoming) = inbox.requests.recv() => self.answer(incoming, stopping),
                Some(()) = inbox.reload.recv(), if !stopping => self.reload_by_signal(),
                _ = alive.tick() => self.manager.alive(),
                () = tokio::time::sleep(LOOKED_AT_EVERY), if stopping => {}
                _ = inbox.stop.wait_for(|stop| *stop), if !stopping => {
                    tracing::info!("stopping: no new incident begins");
                    self.manager.stopping();
                    stopping = true;
                    idle = self.sagas.is_empty() && !self.is_changing_anything();
                    self.put_off_what_waits("the agent is ending");
                }
            }
        }
        self.log.rest(self.wiring.host.clock.now());
        self.write_breaches();
        self.end(idle).await;
        Ok(())
    }

    /// Is anything under way that is not to be cut off? What waits for a disk that hangs is the next start's.
    fn is_changing_anything(&self) -> bool {
        self.beside.is_changing_anything() && !matches!(self.store.health(), Health::Hanging(_))
    }

    /// Sets a look off, where none is under way, and what else is due.
    fn tick(&mut self) {
        self.look();
        let (wiring, store) = (self.wiring.clone(), Arc::clone(&self.store));
        self.beside.start_quietly(Kind::Reminders, async move {
            if !store.health().is_sound() {
                // A later synced write ends observe-only by itself.
                let _ = store.test_write(wiring.host.clock.now());
            }
            remind::of_all(&wiring, &store);
        });
        // In line with the answers: a reload's is told in its own way.
        let wiring = self.wiring.clone();
        self.scribe.write(move |store| orders::tell(&wiring, store));
        if let Some(message) = unowned::due(&self.wiring, self.attention.unowned(), &mut self.told_of_unowned) {
            self.tell(message);
        }
        let now = self.wiring.host.clock.monotonic();
        if now >= self.sweep_due && !self.beside.is_under_way(&Kind::Sweep) {
            // An incident that ends meanwhile asks for another one.
            self.sweep_due = Duration::MAX;
            let (wiring, store) = (self.wiring.clone(), Arc::clone(&self.store));
            self.beside.start(Kind::Sweep, async move { Event::Swept(sweep::orphans(&wiring, &store).await) });
        }
        if now.saturating_sub(self.released) >= RELEASE_EVERY {
            self.return_slots();
        }
        if now >= self.fleet_slots_due {
            self.fleet_slots_due = now + FLEET_SLOTS_EVERY;
            self.read_fleet_slots();
        }
        if now.saturating_sub(self.retained) >= SWEEP_EVERY {
            self.retained = now;
            let (wiring, store) = (self.wiring.clone(), Arc::clone(&self.store));
            let retain = move || {
                review::tell_of_dry_runs(&wiring, &store);
                sweep::retain_evidence(&wiring, &store);
            };
            self.beside.start_quietly(Kind::Evidence, on_blocking_thread(retain));
        }
    }

    fn look(&mut self) {
        self.is_hinted = false;
        // One that is late is made up for at once.
        self.missed = self.beside.is_under_way(&Kind::Look);
        if self.missed {
            return;
        }
        let (told, hears) = oneshot::channel::<()>();
        let wiring = self.wiring.clone();
        self.beside.start_quietly(Kind::Supervisors, async move {
            supervised::tell(&wiring).await;
            // A look that has gone on without it hears of it at the next one.
            let _ = told.send(());
        });
        let quiet = self.detector.is_quiet() && self.sagas.is_empty();
        let (wiring, mut attention) = (self.wiring.clone(), self.attention.clone());
        let (begun, configuration) = (wiring.host.clock.monotonic(), self.configuration);
        self.beside.start(Kind::Look, async move {
            // Where the question before is still under way, this one was dropped, and nobody is waited for.
            let _ = tokio::time::timeout(SUPERVISORS_WITHIN, hears).await;
            let looked = move || {
                let mut sensor = wiring.sensor.lock();
                let look = attention.look(&wiring.config, wiring.host.clock.as_ref(), &mut sensor, quiet);
                let listed = look.as_ref().ok().and_then(|look| Listed::of(&wiring, look, sensor.meter()));
                Looked { begun, configuration, attention, look: look.map_err(|error| error.to_string()), listed }
            };
            Event::Looked(Box::new(on_blocking_thread(looked).await))
        });
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Looked(looked) => self.looked(*looked),
            Event::Considered(considered) => self.considered(*considered),
            Event::SlotTaken(taken) => self.slot_taken(*taken),
            Event::Begun(begun) => self.begun(*begun),
            Event::FoundSockets(found) => {
                let (interval, clock) = (self.wiring.config.host.interval, Arc::clone(&self.wiring.host.clock));
                self.log.found(found, interval, (clock.now(), clock.monotonic()));
                self.write_breaches();
            }
            Event::Published(published) => self.published = Some(published),
            Event::ToldFleet(tells) => self.tells_fleet = Some(tells),
            Event::Swept(all_answered) => {
                let every = if all_answered { SWEEP_EVERY } else { SWEEP_AGAIN };
                self.sweep_due = self.sweep_due.min(self.wiring.host.clock.monotonic() + every);
            }
            Event::SlotsReturned => {
                let idle = self.sagas.is_empty() && !self.begins_anything();
                if self.wiring.follow_fleet(&self.store, idle) {
                    // What was considered would take its slot in the former store, and give it back in this one.
                    self.configuration += 1;
                    self.put_off_what_waits(ANOTHER);
                }
            }
            Event::FleetSlots(slots) => self.fleet_slots = Some(slots),
            Event::Stored(stored) => self.stored(*stored),
            Event::ToReload(order) => self.reload(order),
            Event::Reloaded(reloaded) => self.reloaded(*reloaded),
            Event::Kept(configuration) if configuration != self.configuration => self.keep_last_good(),
            Event::Kept(_) | Event::Over => {}
        }
    }

    fn looked(&mut self, looked: Looked) {
        let Looked { begun, configuration, attention, look, listed } = looked;
        if configuration == self.configuration {
            self.attention = attention;
        }
        match look {
            Ok(look) => {
                self.board.looked(&look, listed);
                self.last_failure = look.measurements.untrusted.clone();
                if let Some(why) = &look.measurements.untrusted {
                    tracing::warn!(why, "the look was partial: {why}; no policy acts on it");
                }
                let look = Arc::new(look);
                let recorded = Arc::clone(&look);
                self.scribe.write(move |store| history::record(store, &recorded));
                self.decide(&look);
                if look.passed_over.namespaces == 0 && look.measurements.untrusted.is_none() {
                    self.last_whole = Some(Arc::clone(&look));
                }
                self.last = Some(look);
            }
            Err(error) => {
                tracing::warn!(
                    error,
                    "cannot read the host's sockets: {error}; the agent decides nothing until the next look, and tries again then"
                );
                self.board.not_looked();
                self.last_failure = Some(error);
            }
        }
        self.board.ticked(begun, self.wiring.host.clock.monotonic());
        self.tell_fleet();
        self.post();
        if self.missed && !*self.stop.borrow() {
            self.look();
        }
    }

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        let Ended { plan, driven } = match ended {
            Ok(ended) => ended,
            // A defect of ours must not be outlived: the next start goes on from the journal.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.detector.rearm(&plan.target.service);
        self.under_way.remove(&plan.target.service);
        self.held.retain(|(_, service), _| *service != plan.target.service);
        self.return_slots();
        // For the case that some are being returned already.
        self.released = Duration::ZERO;
        // A registry that gave an old answer may hold a drain that the saga believes to be undone.
        self.sweep_due = Duration::ZERO;
        if let Some(policy) = self.wiring.config.policies.iter().find(|policy| policy.name == plan.policy)
            && policy.mode.acts()
        {
            let (wiring, policy, service) = (self.wiring.clone(), policy.clone(), plan.target.service.clone());
            self.scribe.write(move |store| {
                breaker::is_open(&wiring, store, &policy, &service);
            });
        }
        match driven {
            Driven::Rested(ending) => {
                let (wiring, store, id) = (self.wiring.clone(), Arc::clone(&self.store), plan.incident.clone());
                self.beside.start_quietly(
                    Kind::Report(id.clone()),
                    on_blocking_thread(move || report::put_beside_the_evidence(&wiring, &store, &id)),
                );
                let (incident, service, outcome) = (&plan.incident, &plan.target.service, &ending.outcome);
                tracing::info!(
                    %incident,
                    %service,
                    %outcome,
                    reason = %ending.reason,
                    "incident {incident} of {service} ended: {outcome} ({})",
                    ending.reason,
                );
            }
            Driven::Left => {
                tracing::warn!(
                    incident = %plan.incident,
                    "incident {} of {} is still under way: the next start of the agent goes on with it",
                    plan.incident,
                    plan.target.service,
                );
            }
        }
    }

    /// Waits for the sagas that are under way, without deciding anything new: with a configuration that cannot be read,
    /// what was begun is still ended. People still hear of it: an undo is tried for as long as its registry is away.
    pub async fn finish(mut self) {
        sweep::orphans(&self.wiring, &self.store).await;
        while let Some(ended) = self.sagas.join_next().await {
            self.ended(ended);
        }
        // As after each saga of a tick; and a registry may have come back meanwhile.
        sweep::orphans(&self.wiring, &self.store).await;
        self.slots_returned().await;
        self.scribe.written().await;
        self.delivery.end(delivery::LAST).await;
    }

    pub(super) fn tell(&self, message: Message) {
        (self.wiring.host.on_message)(&message);
        let audience = Arc::clone(&self.wiring.audience);
        self.scribe.write(move |store| store.tell(&audience, &[message]));
    }
}
