//! What a saga may reach: the traits of `execute::world`, joined with the other stages. For dry-run: [`super::rehearsal`].

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::kernel::RealKernel;
use super::{Wiring, supervised};
use crate::attribute::workers::{family_holds, fewer, workers};
use crate::clock::Clock;
use crate::collect::CollectError;
use crate::decide::guards::{Gate, Question, holds_now};
use crate::evidence::peers::Peers;
use crate::evidence::{Bundle, Facts};
use crate::execute::seen::LastSeen;
use crate::execute::world::{Arrivals, Commands, Inbound, Keeper, Kept, Measure, Pace, Plainly, Recheck, Talk, World};
use crate::model::census::NoOwner;
use crate::model::plan::Restart;
use crate::model::{
    Blame, Comparison, Leaked, Plan, Readings, Reason, Remaining, Sample, ServiceName, TopFew, Trigger, Truth, Worker,
};
use crate::sense::sensor::gentle::LOOK_WITHIN;
use crate::sense::sensor::identity::not_searched;
use crate::sense::sensor::{Effort, Look, Sensor, on_blocking_thread};
use crate::store::Store;
use crate::{command, evidence};

pub fn real(wiring: &Wiring, store: &Arc<Store>, started: Duration) -> World {
    let measure = Arc::new(FreshMeasure(wiring.clone(), Arc::clone(store)));
    World {
        host: wiring.host.name.clone(),
        labels: wiring.labels(),
        ports: wiring.ports.clone(),
        pace: Arc::new(RealPace::new(&wiring.host.clock)),
        commands: Arc::new(RealCommands),
        account: Arc::new(Plainly),
        keeper: Arc::new(RealKeeper { wiring: wiring.clone(), store: Arc::clone(store), commands: true }),
        recheck: Arc::new(GuardRecheck { gate: wiring.gate(store, &wiring.ports, started), measure: measure.clone() }),
        measure,
        kernel: Arc::new(RealKernel(wiring.clone(), Arc::clone(store))),
        store: Arc::clone(store),
        audience: Arc::clone(&wiring.audience),
        clock: Arc::clone(&wiring.host.clock),
        seen: LastSeen::default(),
        on_message: Arc::clone(&wiring.host.on_message),
    }
}

struct RealPace {
    clock: Arc<dyn Clock>,
    /// How many times faster than on a host: 1, but in the crash sweep, which has no minutes to wait.
    faster: u32,
}

impl RealPace {
    fn new(clock: &Arc<dyn Clock>) -> Self {
        #[cfg(feature = "crash-points")]
        let faster =
            std::env::var("UNWAIT_FASTER").ok().and_then(|times| times.parse().ok()).map_or(1, |n: u32| n.max(1));
        #[cfg(not(feature = "crash-points"))]
        let faster = 1;
        Self { clock: Arc::clone(clock), faster }
    }
}

#[async_trait]
impl Pace for RealPace {
    fn elapsed(&self) -> Duration {
        self.clock.monotonic() * self.faster
    }

    async fn wait(&self, duration: Duration) {
        tokio::time::sleep(duration / self.faster).await;
    }
}

/// The operator's commands, so that they outlive the agent.
struct RealCommands;

const OUTPUT_BYTES: usize = 16 * 1024;

#[async_trait]
impl Commands for RealCommands {
    async fn run(&self, argv: &[String], deadline: Duration) -> Result<String, String> {
        let ran = command::detached(argv, &[], deadline, OUTPUT_BYTES).await;
        let name = argv.first().map(String::as_str).unwrap_or_default();
        if ran.ended.is_success() {
            return Ok(format!("{name}: {}", ran.ended));
        }
        let said = evidence::redact::text(ran.output.trim());
        match said.lines().last().unwrap_or_default() {
            "" => Err(format!("{name}: {}", ran.ended)),
            last => Err(format!("{name}: {}: {last}", ran.ended)),
        }
    }
}

/// Between the two looks at the workers.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// Measures afresh. The store knows who was asked to end before.
pub(crate) struct FreshMeasure(pub(super) Wiring, pub(super) Arc<Store>);

/// How long the search for sockets' holders may go on at the end of an incident.
const SEARCHED_WITHIN: Duration = Duration::from_secs(10);

impl FreshMeasure {
    /// A look afresh, that can be trusted.
    async fn look(&self, plan: &Plan) -> Result<Look, String> {
        supervised::tell(&self.0).await;
        let look = self.0.sensor.acquire().await.look(Effort::Of(&plan.target.service));
        let look = look.map_err(|error| error.to_string())?;
        match look.measurements.untrusted {
            Some(why) => Err(why),
            None => Ok(look),
        }
    }
}

impl FreshMeasure {
    async fn main_pid(&self, plan: &Plan) -> Result<u32, String> {
        let restart = plan.target.restart.as_ref().ok_or("the main process of the service is unknown")?;
        let seen = self.0.ports.restarter(restart).observe(restart).await.map_err(|error| error.to_string())?;
        Ok(seen.main_pid.ok_or("the service's supervisor does not report its main process by a pid of this host")?)
    }
}

#[async_trait]
impl Measure for FreshMeasure {
    async fn now(&self, plan: &Plan) -> Result<Readings, String> {
        Ok(self.look(plan).await?.measurements.of(&plan.target.service))
    }

    async fn inbound(&self, plan: &Plan, quiet: Duration) -> Result<Inbound, String> {
        self.0.sensor.acquire().await.inbound(&plan.target.service, quiet)
    }

    async fn arrivals(&self, plan: &Plan) -> Result<Arrivals, String> {
        let mut sensor = self.0.sensor.acquire().await;
        self.0.arrivals.read(&plan.target.service, &mut sensor, self.0.host.clock.as_ref())
    }

    async fn talks(&self, plan: &Plan) -> Result<Vec<Talk>, String> {
        self.0.sensor.acquire().await.talks(&plan.target.service)
    }

    async fn workers(&self, plan: &Plan, older_than: Duration) -> Result<Vec<Worker>, String> {
        supervised::tell(&self.0).await;
        let main = self.main_pid(plan).await?;
        let leaked = self.0.sensor.acquire().await.leaked(&plan.target.service, older_than)?;
        let look = || {
            let (leaked, clock) = (leaked.clone(), Arc::clone(&self.0.host.clock));
            on_blocking_thread(move || workers(main, &leaked, clock.as_ref(), LOOK_WITHIN))
        };
        let first = look().await?;
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let mut workers = fewer(first, look().await?);
        let asked = self.1.asked(&self.0.host.clock.boot()).map_err(|error| error.to_string())?;
        for worker in &mut workers {
            worker.asked = asked.contains(&(worker.pid, worker.began));
        }
        Ok(workers)
    }

    async fn ends_a_holder(&self, plan: &Plan) -> Result<bool, String> {
        let main = self.main_pid(plan).await?;
        ends_a_holder(&self.0, &plan.target.service, main).await
    }

    async fn leaked(&self, plan: &Plan, at_least: Duration) -> Result<Leaked, String> {
        let (sensor, service) = (self.0.sensor.clone(), plan.target.service.clone());
        on_blocking_thread(move || sensor.lock().identities(&service, at_least)).await
    }

    async fn remaining(&self, plan: &Plan, leaked: &Leaked) -> Result<Remaining, String> {
        supervised::tell(&self.0).await;
        let (sensor, service, leaked) = (self.0.sensor.clone(), plan.target.service.clone(), leaked.clone());
        on_blocking_thread(move || Sensor::remaining(&sensor, &service, &leaked)).await
    }

    async fn is_over(&self, plan: &Plan) -> Result<Truth, String> {
        let until = self.0.host.clock.monotonic() + SEARCHED_WITHIN;
        loop {
            let look = self.look(plan).await?;
            let over = plan.is_over(&look.measurements.of(&plan.target.service));
            // Some may be its own.
            let unsearched = look.unattributed.get(&NoOwner::NotLookedAt).copied().unwrap_or_default();
            if over != Truth::True || unsearched == 0 {
                return Ok(over);
            }
            if self.0.host.clock.monotonic() >= until {
                return Err(not_searched(unsearched));
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    async fn expectation(&self, plan: &Plan, expect: &Comparison) -> Result<Truth, String> {
        Ok(expect.truth(&self.now(plan).await?))
    }
}

/// Does the process, or one that descends from it, hold any of the service's leaked sockets? True where nothing is leaked.
pub(crate) async fn ends_a_holder(wiring: &Wiring, service: &ServiceName, main: u32) -> Result<bool, String> {
    let leaked = wiring.sensor.acquire().await.leaked(service, Duration::ZERO)?;
    if leaked.is_empty() {
        return Ok(true);
    }
    let clock = Arc::clone(&wiring.host.clock);
    on_blocking_thread(move || family_holds(main, &leaked, clock.as_ref(), LOOK_WITHIN)).await
}

/// Asks everything again. The plan stands as it was made: a configuration that was replaced meanwhile does not
/// change it.
pub struct GuardRecheck<M> {
    pub gate: Gate,
    pub measure: Arc<M>,
}

impl<M> std::fmt::Debug for GuardRecheck<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardRecheck").field("gate", &self.gate).finish_non_exhaustive()
    }
}

#[async_trait]
impl<M: Measure> Recheck for GuardRecheck<M> {
    async fn still_wanted(&self, plan: &Plan) -> Result<(), (Reason, String)> {
        if plan.trigger == Trigger::Breach {
            let readings = self.measure.now(plan).await.map_err(|error| (Reason::MeasurementFailed, error))?;
            holds_now(plan, &readings)?;
        }
        let question = Question {
            plan,
            named_in_full: true,
            protected: None,
            lacks: &[],
            grace: Duration::ZERO,
            jitter: Duration::ZERO,
            breached: None,
            rungs_spent: None,
            needs_approval: false,
            unnamed: None,
            take_slot: true,
            own_saga: true,
        };
        self.gate.ask(&question).await.map_err(|refusal| match refusal.reason {
            Reason::IncarnationChanged => (Reason::IncarnationChanged, refusal.detail),
            _ => (Reason::GuardRefused, refusal.to_string()),
        })
    }

    async fn enough_beside_others(&self, plan: &Plan) -> Result<(), (Reason, String)> {
        let enough = self.gate.enough_beside_others(plan).await;
        enough.map_err(|refusal| (Reason::GuardRefused, refusal.to_string()))
    }
}

/// Keeps the evidence: what the kernel, the attribution and the registries say, handed to the vault.
pub(super) struct RealKeeper {
    pub wiring: Wiring,
    pub store: Arc<Store>,
    /// Dry-run runs no commands.
    pub commands: bool,
}

/// How much of the signals' history is kept with the evidence.
const HISTORY: Duration = Duration::from_secs(86_400);

impl RealKeeper {
    /// The ticks that the meter remembers, and before them what the store keeps. A history that cannot be read must
    /// not keep the rest from being kept.
    fn history(&self, service: &ServiceName, ticks: Vec<(Timestamp, Readings)>, at: Timestamp) -> Vec<Sample> {
        let first = ticks.first().map_or(at, |(first, _)| *first);
        let mut history = self.store.samples(service, at - HISTORY, first).unwrap_or_else(|error| {
            tracing::warn!(
                %service,
                %error,
                "cannot read the signal history of {service}: {error}; its evidence holds the agent's latest looks \
                 alone",
            );
            Vec::new()
        });
        // The step within which the ticks begin is told by them.
        history.retain(|sample| sample.until() <= first);
        history.extend(ticks.into_iter().map(|(at, readings)| Sample::moment(at, readings)));
        history
    }
}

/// For naming peers; a registry that is slower leaves them unnamed.
const NAMES_WITHIN: Duration = Duration::from_secs(5);

/// What the registries call addresses.
pub async fn peer_names(wiring: &Wiring, within: Duration) -> HashMap<SocketAddr, String> {
    let mut names = HashMap::new();
    for (name, registry) in &wiring.ports.registries {
        match tokio::time::timeout(within, registry.names()).await {
            Ok(Ok(known)) => names.extend(known),
            Ok(Err(error)) => tracing::warn!(
                registry = %name,
                %error,
                "registry {name} did not list its instances: {error}; these peers are shown by address alone",
            ),
            Err(_) => tracing::warn!(
                registry = %name,
                "registry {name} did not list its instances in time; these peers are shown by address alone",
            ),
        }
    }
    names
}

#[async_trait]
impl Keeper for RealKeeper {
    async fn keep(&self, plan: &Plan, commands: &[Vec<String>], deadline: Duration) -> Result<Kept, String> {
        let service = &plan.target.service;
        let names = peer_names(&self.wiring, NAMES_WITHIN.min(deadline / 4)).await;
        let (sensor, of) = (self.wiring.sensor.clone(), service.clone());
        let looked = on_blocking_thread(move || {
            let mut sensor = sensor.lock();
            Ok((sensor.closely(&of, deadline / 4)?, sensor.meter().history(&of)))
        });
        let (closely, ticks) = looked.await.map_err(|error: CollectError| error.to_string())?;
        let history = self.history(service, ticks, closely.at);
        let sockets = closely.sockets;
        let unit = match &plan.target.restart {
            Some(Restart::Systemd { unit, .. }) => Some(unit.as_str()),
            _ => None,
        };
        let request = evidence::Request {
            incident: &plan.incident,
            service,
            host: &self.wiring.host.name,
            at: closely.at,
            partial: closely.partial.as_deref(),
            sockets: &sockets,
            table: &closely.table,
            holders: &closely.holders,
            closed: closely.closed,
            names: &names,
            history: &history,
            unit,
            commands: if self.commands { commands } else { &[] },
            deadline,
        };
        let bundle = self.wiring.vault.keep(&request).await.map_err(|error| error.to_string())?;
        let ranked = evidence::peers::rank(&sockets, &names, closely.at);
        let by =
            ranked.peers.first().map(|peer| format!(", most of them closed by {}", peer.says())).unwrap_or_default();
        let says = format!("{} sockets in CLOSE_WAIT{by}; evidence in {}", sockets.len(), bundle.dir.display());
        let dir = Some(bundle.dir.clone());
        let blame = on_blocking_thread(move || blame(&ranked, &closely.holders, &bundle)).await;
        Ok(Kept { dir, says, blame })
    }
}

/// The processes by the names that they have in the evidence.
fn blame(ranked: &Peers, holders: &BTreeMap<u32, usize>, bundle: &Bundle) -> Blame {
    let facts = bundle.text("processes.jsonl").unwrap_or_default();
    let facts = facts.lines().filter_map(|line| serde_json::from_str::<Facts>(line).ok());
    let names: BTreeMap<u32, String> =
        facts.filter_map(|facts| Some((facts.pid, facts.status?.name.escape_debug().to_string()))).collect();
    let named = |(pid, count): (&u32, &usize)| match names.get(pid) {
        Some(name) => (format!("{name} (pid {pid})"), *count),
        None => (format!("pid {pid}"), *count),
    };
    let mut holding: Vec<_> = holders.iter().collect();
    holding.sort_by_key(|(pid, count)| (std::cmp::Reverse(**count), **pid));
    Blame {
        closed_by: TopFew::of(ranked.peers.iter().map(|peer| (peer.says(), peer.count)), ranked.not_listed),
        held_by: TopFew::of(holding.into_iter().map(named), 0),
    }
}
