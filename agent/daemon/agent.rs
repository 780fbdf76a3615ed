//! The loop of `unwait run`: a tick, a decision, a saga; and what comes in from outside between ticks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::board::Board;
use super::control::{self, Reply, Request};
use super::duties::breaches::{self, Published};
use super::duties::held::{self, Held};
use super::duties::{approvals, breaker, delivery, messages, remind, resolve, sweep, unowned};
use super::run::RunError;
use super::{explain, history, last_good};
use crate::config;
use crate::decide::detector::{Change, Detector, Watch};
use crate::decide::guards::{Question, Refusal};
use crate::execute::driver::{self, Driven};
use crate::execute::journal::Journal;
use crate::execute::saga::Saga;
use crate::execute::world::World;
use crate::model::{IncidentId, Message, Mode, Plan, Policy, Readings, Reason, Runbook, ServiceName, Trigger, Truth};
use crate::ports::fleet::KEPT_EVERY;
use crate::sense::attention::Attention;
use crate::sense::pacing::every;
use crate::sense::sensor::cautions::DISCOVER_EVERY;
use crate::sense::sensor::{Effort, Look};
use crate::store::Store;
use crate::wiring::plans::{self, Proposal};
use crate::wiring::{Wiring, supervised};

/// What the running agent is asked from outside.
#[derive(Debug)]
pub struct Inbox {
    pub requests: mpsc::Receiver<(Request, oneshot::Sender<Reply>)>,
    /// A new configuration is to be read.
    pub reload: mpsc::Receiver<()>,
    /// Turns true when the agent is asked to end.
    pub stop: watch::Receiver<bool>,
}

/// How often each registry is asked for drains of ours that no incident knows of.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Where one of them did not answer: after a reboot the agent is often there before its registry is.
const SWEEP_AGAIN: Duration = Duration::from_secs(10);
/// How often slots that are to be given back are.
const RELEASE_EVERY: Duration = Duration::from_secs(30);

/// A saga that came to rest, or was left for the next start.
pub(crate) struct Ended {
    pub plan: Plan,
    pub driven: Driven,
}

/// The running agent.
pub struct Agent {
    config_dir: PathBuf,
    pub(crate) wiring: Wiring,
    pub(crate) store: Arc<Store>,
    pub(crate) started: Duration,
    pub(crate) detector: Detector,
    pub(crate) held: BTreeMap<(String, ServiceName), Held>,
    pub(crate) last: Option<Look>,
    pub(crate) last_failure: Option<String>,
    pub(crate) attention: Attention,
    pub(crate) board: Board,
    /// By what the configuration in force names.
    delivery: delivery::Delivery,
    pub(crate) sagas: JoinSet<Ended>,
    pub(crate) stop: watch::Receiver<bool>,
    /// What the fleet was told of this host's breaches.
    published: Published,
    /// When the registries are to be asked again for drains of ours that no incident knows of.
    sweep_due: Duration,
    released: Duration,
    retained: Duration,
    keeping: Option<JoinHandle<()>>,
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
        let board = Board::new(wiring.host.clock.now());
        let delivery = delivery::Delivery::start(delivery::of(&wiring, &store));
        let mut agent = Self {
            config_dir: config_dir.into(),
            wiring,
            store,
            started: now,
            detector: Detector::default(),
            held: BTreeMap::new(),
            last: None,
            last_failure: None,
            attention,
            board,
            delivery,
            sagas: JoinSet::new(),
            stop,
            published: Published::default(),
            sweep_due: Duration::ZERO,
            released: Duration::ZERO,
            retained: Duration::ZERO,
            keeping: None,
            told_of_unowned: None,
        };
        agent.wiring.follow_fleet(&agent.store, true);
        remind::of_lost_memory(&agent.wiring, &agent.store);
        approvals::withdraw(&agent.wiring, &agent.store);
        agent.recover()?;
        Ok(agent)
    }

    /// What the plan's saga may reach.
    pub(crate) fn world_of(&self, plan: &Plan) -> World {
        match plan.dry_run {
            true => self.wiring.dry_world(&self.store, self.started),
            false => self.wiring.world(&self.store, self.started),
        }
    }

    /// Runs until it is asked to stop; then sagas before their pivot unwind, and later ones are left to the next
    /// start.
    pub async fn run(mut self, mut inbox: Inbox) -> Result<(), RunError> {
        let mut ticks = every(self.wiring.config.host.interval);
        let mut discoveries = every(DISCOVER_EVERY);
        // The sensor has just been made, and has looked for them.
        discoveries.reset();
        let mut keeps = every(KEPT_EVERY);
        self.open_board();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let begun = self.wiring.host.clock.monotonic();
                    self.tick().await;
                    self.board.ticked(begun, self.wiring.host.clock.monotonic());
                    self.post();
                    if self.attention.is_lengthened() {
                        ticks.reset_after(self.attention.period());
                    }
                }
                _ = keeps.tick() => self.keep_slots(),
                _ = discoveries.tick() => self.wiring.sensor.free().await.discover(),
                Some(ended) = self.sagas.join_next() => {
                    self.ended(ended);
                    self.post();
                }
                Some((request, reply)) = inbox.requests.recv() => {
                    let answer = self.answer(request).await;
                    // Whoever asked may have gone away; the answer is in the log all the same.
                    let _ = reply.send(answer);
                }
                Some(()) = inbox.reload.recv() => {
                    if self.reload() {
                        self.delivery = delivery::Delivery::start(delivery::of(&self.wiring, &self.store));
                        if self.wiring.config.host.interval != ticks.period() {
                            ticks = every(self.wiring.config.host.interval);
                        }
                    }
                }
                _ = inbox.stop.wait_for(|stop| *stop) => break,
            }
        }
        tracing::info!("asked to stop");
        while let Some(ended) = self.sagas.join_next().await {
            self.ended(ended);
        }
        self.store.write_samples();
        self.release_slots().await;
        self.delivery.end().await;
        Ok(())
    }

    /// Collect, attribute, measure, decide; then begin what may begin.
    async fn tick(&mut self) {
        if self.store.health() == crate::store::Health::Failing {
            // A later synced write ends observe-only by itself.
            let _ = self.store.test_write(self.wiring.host.clock.now());
        }
        supervised::tell(&self.wiring).await;
        let quiet = self.detector.is_quiet() && self.sagas.is_empty();
        let looked = {
            let mut sensor = self.wiring.sensor.free().await;
            let looked = self.attention.look(&self.wiring.config, self.wiring.host.clock.as_ref(), &mut sensor, quiet);
            if let Ok(look) = &looked {
                self.board.looked(&self.wiring, look, sensor.meter());
            }
            looked
        };
        match looked {
            Ok(look) => {
                self.last_failure = look.measurements.untrusted.clone();
                if let Some(why) = &look.measurements.untrusted {
                    tracing::warn!(why, "a partial snapshot is not acted on");
                }
                history::record(&self.store, &look);
                self.decide(&look).await;
                self.last = Some(look);
            }
            Err(error) => {
                tracing::warn!(%error, "no snapshot at this tick");
                self.board.not_looked();
                self.last_failure = Some(error.to_string());
            }
        }
        remind::of_all(&self.wiring, &self.store);
        unowned::remind(&self.wiring, &self.store, self.attention.unowned(), &mut self.told_of_unowned);
        let now = self.wiring.host.clock.monotonic();
        if now >= self.sweep_due {
            let every = if sweep::orphans(&self.wiring, &self.store).await { SWEEP_EVERY } else { SWEEP_AGAIN };
            self.sweep_due = now + every;
        }
        if now.saturating_sub(self.released) >= RELEASE_EVERY {
            self.released = now;
            self.release_slots().await;
        }
        if now.saturating_sub(self.retained) >= SWEEP_EVERY {
            self.retained = now;
            sweep::retain_evidence(&self.wiring, &self.store);
        }
    }

    /// Looks at the slots of this host, beside the loop.
    fn keep_slots(&mut self) {
        if self.keeping.as_ref().is_none_or(JoinHandle::is_finished) {
            let (ports, store) = (self.wiring.ports.clone(), Arc::clone(&self.store));
            self.keeping = Some(tokio::spawn(async move { sweep::keep_slots(&ports, &store).await }));
        }
    }

    async fn release_slots(&mut self) {
        sweep::release_slots(&self.wiring.ports, &self.store, self.wiring.host.clock.now()).await;
        self.wiring.follow_fleet(&self.store, self.sagas.is_empty());
    }

    async fn decide(&mut self, look: &Look) {
        let wiring = self.wiring.clone();
        let measured = &look.measurements;
        let seen: BTreeSet<ServiceName> =
            measured.services().map(|(service, _)| service.clone()).chain(self.detector.watched().cloned()).collect();
        let mut wanted: Vec<(Policy, ServiceName)> = Vec::new();
        for policy in &wiring.config.policies {
            for service in &seen {
                if wiring.config.selects(policy, service).is_none() {
                    continue;
                }
                let readings = measured.of(service);
                match self.detector.tick(policy, service, &readings, measured.monotonic, self.attention.spacing()) {
                    Some(Change::Breach) => {
                        self.board.breached(policy);
                        self.tell(messages::breach(&wiring, policy, service, &readings));
                    }
                    Some(Change::Cleared) => {
                        self.held.remove(&(policy.name.clone(), service.clone()));
                        self.tell(messages::recovered(&wiring, policy, service));
                    }
                    None => {}
                }
                let breached = matches!(self.detector.watch(&policy.name, service), Watch::Breached { .. });
                if breached && policy.mode != Mode::Observe && policy.when.truth(&readings) == Truth::True {
                    wanted.push((policy.clone(), service.clone()));
                }
            }
        }
        self.published.follow(&wiring, &self.detector).await;
        let under_way = self.under_way();
        self.count_arrivals(&wiring, &under_way).await;
        // What an incident under way is about needs no second decision, and is not held either.
        wanted.retain(|(_, service)| !under_way.contains(service));
        for (policy, service) in wanted {
            self.consider(&policy, &service, &measured.of(&service)).await;
        }
    }

    /// New connections are counted of whatever may be drained soon, or is.
    async fn count_arrivals(&self, wiring: &Wiring, under_way: &BTreeSet<ServiceName>) {
        let mut counted = under_way.clone();
        for policy in wiring.config.policies.iter().filter(|policy| policy.mode.acts()) {
            if policy.rungs().any(Runbook::drains) {
                counted.extend(self.detector.held_or_breached(&policy.name).cloned());
            }
        }
        if counted.is_empty() {
            return wiring.arrivals.end();
        }
        let mut sensor = wiring.sensor.free().await;
        wiring.arrivals.only(&counted, &mut sensor, wiring.host.clock.as_ref());
    }

    /// The services that a saga works on now.
    fn under_way(&self) -> BTreeSet<ServiceName> {
        match self.store.open_incidents() {
            Ok(open) => open.into_iter().map(|open| open.plan.target.service).collect(),
            // The guards ask the store again, and an error there is a deny.
            Err(error) => {
                tracing::error!(%error, "the open incidents cannot be read");
                BTreeSet::new()
            }
        }
    }

    /// A breach stands: begin the plan, or say why not.
    async fn consider(&mut self, policy: &Policy, service: &ServiceName, readings: &Readings) {
        let dry_run = plans::is_dry(policy) || breaker::is_open(&self.wiring, &self.store, policy, service);
        let proposal = plans::propose(&self.wiring, &self.store, policy, service, Trigger::Breach, dry_run).await;
        let proposal = Proposal { breached: self.detector.breached_since(&policy.name, service), ..proposal };
        if let Err(refusal) = self.begin(proposal.clone(), policy, readings).await {
            if refusal.reason == Reason::NeedsApproval {
                let why = messages::why(policy, readings);
                approvals::ask(&self.wiring, &self.store, policy, &proposal.plan, why);
            }
            let key = (policy.name.clone(), service.clone());
            let now = self.wiring.host.clock.now();
            let before = self.held.get(&key);
            let again = held::is_due(before, &refusal, now);
            let told = if again { Some(now) } else { before.and_then(|before| before.told) };
            if again && refusal.reason == Reason::CommonCause && !breaches::speaks(&self.wiring, service).await {
                tracing::warn!(%service, policy = policy.name, %refusal, "held; another host tells of it");
            } else if again {
                let labels = self.wiring.labels();
                let host = &self.wiring.host.name;
                let teller = crate::execute::tell::Teller { plan: &proposal.plan, host, labels: &labels, at: now };
                self.tell(teller.held(&refusal, refusal.reason));
            }
            self.held.insert(key, Held { refusal, told });
        }
    }

    /// Asks the guards, commits the incident, and sets its saga off.
    pub(crate) async fn begin(
        &mut self,
        proposal: Proposal,
        policy: &Policy,
        readings: &Readings,
    ) -> Result<IncidentId, Refusal> {
        let world = self.world_of(&proposal.plan);
        let gate = self.wiring.gate(&self.store, &world.ports, self.started);
        gate.ask(&Question { take_slot: true, ..proposal.question() }).await?;
        let plan = proposal.plan;

        let why = messages::why(policy, readings);
        let start = world.teller(&plan).start(why);
        let now = self.wiring.host.clock.now();
        if let Err(error) = self.store.begin_incident(&plan, now, &self.wiring.audience, std::slice::from_ref(&start)) {
            return Err(Refusal {
                guard: crate::decide::guards::Guard::Trust,
                reason: Reason::JournalNotWritable,
                detail: error.to_string(),
                until: None,
            });
        }
        (self.wiring.host.on_message)(&start);
        self.held.remove(&(policy.name.clone(), plan.target.service.clone()));
        let incident = plan.incident.clone();
        self.spawn(Saga::new(plan), Journal::new(), world);
        Ok(incident)
    }

    fn spawn(&mut self, saga: Saga, journal: Journal, world: World) {
        let stop = self.stop.clone();
        self.sagas.spawn(async move {
            let plan = saga.plan().clone();
            let driven = driver::drive(saga, journal, &world, stop).await;
            Ended { plan, driven }
        });
    }

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        let Ended { plan, driven } = match ended {
            Ok(ended) => ended,
            // A defect of ours must not be outlived: the next start goes on from the journal.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.detector.rearm(&plan.target.service);
        self.released = Duration::ZERO;
        // A registry that gave an old answer may hold a drain that the saga believes to be undone.
        self.sweep_due = Duration::ZERO;
        if let Some(policy) = self.wiring.config.policies.iter().find(|policy| policy.name == plan.policy)
            && policy.mode.acts()
        {
            breaker::is_open(&self.wiring, &self.store, policy, &plan.target.service);
        }
        match driven {
            Driven::Rested(ending) => {
                tracing::info!(incident = %plan.incident, outcome = %ending.outcome, reason = %ending.reason, "incident ended");
            }
            Driven::Left => {
                tracing::warn!(incident = %plan.incident, "left under way: the next start goes on with it");
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
        self.release_slots().await;
        self.delivery.end().await;
    }

    /// Loads the configuration anew, whole or not at all. True where the new one is in force.
    fn reload(&mut self) -> bool {
        let config = match config::load(&self.config_dir) {
            Ok(config) => config,
            Err(diagnostics) => {
                tracing::error!("the configuration cannot be read; the one in force stays:\n{diagnostics}");
                return false;
            }
        };
        if config.host.state != self.wiring.config.host.state {
            tracing::error!("`state` cannot be changed while the agent runs; the configuration in force stays");
            return false;
        }
        match Wiring::new(config, self.wiring.host.clone(), Some(&self.wiring)) {
            Ok(mut wiring) => {
                wiring.tally = Arc::clone(&self.wiring.tally);
                self.detector.keep_unchanged(&self.wiring.config.policies, &wiring.config.policies);
                self.attention = Attention::new(&wiring.config);
                self.wiring = wiring;
                self.wiring.follow_fleet(&self.store, self.sagas.is_empty());
                self.open_board();
                approvals::withdraw(&self.wiring, &self.store);
                // New adapters hold the drains that they find.
                self.sweep_due = Duration::ZERO;
                self.held.clear();
                last_good::keep(&self.config_dir, &self.wiring.config.host.state);
                tracing::info!(policies = self.wiring.config.policies.len(), "a new configuration is in force");
                true
            }
            Err(error) => {
                tracing::error!(%error, "the configuration cannot be put in force; the one before stays");
                false
            }
        }
    }

    fn tell(&self, message: Message) {
        (self.wiring.host.on_message)(&message);
        self.store.tell(&self.wiring.audience, &[message]);
    }

    async fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Status => control::status(self),
            Request::Explain { service } => explain::of_agent(self, &service).await,
            Request::Act { service, policy, dry_run, who } => self.act(&service, policy.as_deref(), dry_run, who).await,
            Request::Approve { id, who } => approvals::decide(&self.wiring, &self.store, &id, true, &who, None),
            Request::Deny { id, why, who } => {
                approvals::decide(&self.wiring, &self.store, &id, false, &who, why.as_deref())
            }
            Request::Resolve { service, how } => {
                let world = self.wiring.world(&self.store, self.started);
                let reply = resolve::resolve(&self.store, &world, &service, how).await;
                self.release_slots().await;
                reply
            }
        }
    }

    async fn act(&mut self, service: &str, policy: Option<&str>, dry_run: bool, who: String) -> Reply {
        let chosen = ServiceName::parse(service).and_then(|service| {
            let policy = explain::choose(&self.wiring.config, &service, policy)?;
            Ok((service, policy))
        });
        let (service, policy) = match chosen {
            Ok(chosen) => chosen,
            Err(error) => return Reply::refused(error),
        };
        let proposal =
            plans::propose(&self.wiring, &self.store, &policy, &service, Trigger::Person { who }, dry_run).await;
        let look = self.wiring.sensor.free().await.look(Effort::Afresh);
        let readings = look.map(|look| look.measurements.of(&service)).unwrap_or_default();
        match self.begin(proposal, &policy, &readings).await {
            Ok(incident) => Reply::done(format!("incident {incident} has begun; `unwait show {incident}` follows it")),
            Err(refusal) => Reply::refused(refusal.to_string()),
        }
    }
}
