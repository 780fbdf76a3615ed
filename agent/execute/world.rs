//! What the steps may reach: the ports, and the few things of the agent itself that a step needs, as traits.
//! Dry-run is another set of these, put together by the wiring.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Clock;
use crate::model::plan::{Binding, Health};
use crate::model::runbook::Recycle;
use crate::model::{Blame, Incarnation, Leaked, Marker, Message, Plan, Readings, Reason, Remaining, Truth, Worker};
use crate::ports::probe::ProbeFailure;
use crate::ports::registry::{Registry, RegistryError};
use crate::ports::{Ports, registry};
use crate::store::{Audience, Store};

use super::saga::{Event, Saga};
use super::seen::{LastSeen, Look};
use super::tell::{MessageBuilder, TrafficState};

/// Waiting, and how much of it has gone by. In dry-run the time passes at once.
#[async_trait]
pub trait Pace: Send + Sync {
    /// Since some fixed moment; what deadlines of steps are counted in.
    fn elapsed(&self) -> Duration;
    async fn wait(&self, duration: Duration);
}

/// The operator's own commands.
#[async_trait]
pub trait Commands: Send + Sync {
    /// Runs argv so that it outlives the agent; an error says how it ended, with the tail of its output.
    async fn run(&self, argv: &[String], deadline: Duration) -> Result<String, String>;
}

/// What is told of what a saga does.
#[async_trait]
pub trait Account: Send + Sync {
    /// The event as it is journaled and told: what happened, or in dry-run what would.
    async fn of(&self, saga: &Saga, event: Event, world: &World) -> Event;
}

/// Tells what happened.
#[derive(Debug)]
pub struct Plainly;

#[async_trait]
impl Account for Plainly {
    async fn of(&self, _saga: &Saga, event: Event, _world: &World) -> Event {
        event
    }
}

/// Keeping the evidence.
#[async_trait]
pub trait Keeper: Send + Sync {
    /// Keeps the bundle of this plan's incident, synced; answers where it lies and what it says in a line.
    async fn keep(&self, plan: &Plan, commands: &[Vec<String>], deadline: Duration) -> Result<Kept, String>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub dir: Option<PathBuf>,
    pub says: String,
    pub blame: Blame,
}

/// Measuring afresh.
#[async_trait]
pub trait Measure: Send + Sync {
    /// The plan's service, measured now; an error where the measurement is stale, partial or failed.
    async fn now(&self, plan: &Plan) -> Result<Readings, String>;
    /// Inbound connections that somebody still uses; what merely leaks is not counted. Active are those by which data
    /// came or went less than `quiet` ago.
    async fn inbound(&self, plan: &Plan, quiet: Duration) -> Result<Inbound, String>;
    /// The service's new inbound connections since they are counted. An error says why they cannot be: then they are known
    /// by [`Self::talks`] alone, and only those that live from one look to the next.
    async fn arrivals(&self, plan: &Plan) -> Result<Arrivals, String>;
    /// The service's inbound connections that somebody still uses.
    async fn talks(&self, plan: &Plan) -> Result<Vec<Talk>, String>;
    /// The service's worker processes now, those first that hold most of its sockets that have been in CLOSE_WAIT for so
    /// long; and who of them was asked to end before. All of them, or an error.
    async fn workers(&self, plan: &Plan, older_than: Duration) -> Result<Vec<Worker>, String>;
    /// Does the process that a pid file names hold any of the service's leaked sockets, or one that descends from it? True
    /// where nothing is leaked now. An error where that cannot be seen.
    async fn ends_a_holder(&self, plan: &Plan) -> Result<bool, String>;
    /// The service's sockets that have been in CLOSE_WAIT for at least so long, each by its identity; all of them where none
    /// has.
    async fn leaked(&self, plan: &Plan, at_least: Duration) -> Result<Leaked, String>;
    /// What became of these sockets: all tables and all processes' descriptors are looked through.
    async fn remaining(&self, plan: &Plan, leaked: &Leaked) -> Result<Remaining, String>;
    /// Whether the plan's breach is over, measured now.
    async fn is_over(&self, plan: &Plan) -> Result<Truth, String>;
    /// Whether the expectation holds at the end of a verification.
    async fn expectation(&self, plan: &Plan, expect: &crate::model::Comparison) -> Result<Truth, String>;
}

/// New connections to the ports that a service listens on, counted by the kernel, however short they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrivals {
    pub count: u64,
    /// For how long they have been counted.
    pub over: Duration,
}

/// One inbound connection that somebody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Talk {
    /// The kernel's own number for the socket.
    pub cookie: u64,
    pub peer: IpAddr,
    /// That went either way so far; 0 where it is not told.
    pub bytes: u64,
}

/// Inbound connections, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound {
    pub left: u64,
    pub active: u64,
}

/// What is done to single processes and sockets of a service, by the kernel.
#[async_trait]
pub trait Kernel: Send + Sync {
    /// Asks these workers to end, once it is stored that they are asked, and waits until they have ended; those that have
    /// not in time. One whose pid is another
    /// process's by now, or the child of another, is not touched, and counts as ended.
    async fn end(&self, workers: &[Worker], how: &Recycle) -> Result<Vec<Worker>, String>;

    /// Closes the service's sockets that have been in CLOSE_WAIT for so long, each by its exact identity, and looks again.
    async fn close_sockets(&self, plan: &Plan, older_than: Duration, at_most: u64) -> Result<Closed, String>;
}

/// What came of closing sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// That were old enough.
    pub found: u64,
    pub closed: u64,
    /// Of the closed ones: descriptors that the service's processes keep open all the same. `None`: not known.
    pub leaked: Option<u64>,
}

/// Asking everything again, just before a change.
#[async_trait]
pub trait Recheck: Send + Sync {
    /// Is the plan still wanted: the condition true on a fresh measurement, the incarnation the same, and no guard
    /// against it? Our own saga does not count against itself.
    async fn still_wanted(&self, plan: &Plan) -> Result<(), (Reason, String)>;
    /// Are enough others healthy, where each that works on the service now counts as out? Asked once the fleet knows
    /// that this host works on it, just before its first change.
    async fn enough_beside_others(&self, plan: &Plan) -> Result<(), (Reason, String)>;
}

/// Everything a saga may reach.
#[derive(Clone)]
pub struct World {
    pub host: String,
    /// The host's labels, as `key=value`.
    pub labels: Vec<String>,
    pub ports: Ports,
    pub pace: Arc<dyn Pace>,
    pub commands: Arc<dyn Commands>,
    pub account: Arc<dyn Account>,
    pub keeper: Arc<dyn Keeper>,
    pub measure: Arc<dyn Measure>,
    pub kernel: Arc<dyn Kernel>,
    pub recheck: Arc<dyn Recheck>,
    pub store: Arc<Store>,
    pub audience: Arc<Audience>,
    pub clock: Arc<dyn Clock>,
    /// Where the service was seen last.
    pub seen: LastSeen,
    /// Sees every message as it is told; the demo's timeline and the log.
    pub on_message: Arc<dyn Fn(&Message) + Send + Sync>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("host", &self.host).finish_non_exhaustive()
    }
}

impl World {
    pub fn teller<'a>(&'a self, plan: &'a Plan) -> MessageBuilder<'a> {
        MessageBuilder { plan, host: &self.host, labels: &self.labels, at: self.clock.now() }
    }

    /// Something is tried longer than it should take: people are told, and it is shown beside the incident until that goes on.
    pub fn tell_still_trying(&self, plan: &Plan, what: &str, error: &str, place: TrafficState) {
        let message = self.teller(plan).still_trying(what, error, place, self.last_look(plan));
        (self.on_message)(&message);
        let waits_for = format!("{what} is still being tried: {}", message.lines.join("; "));
        self.store.tell(&self.audience, &[message]);
        if let Err(error) = self.store.set_waits_for(&plan.incident, &waits_for) {
            tracing::warn!(
                %error,
                incident = %plan.incident,
                "cannot store why incident {} waits: {error}; `unwait status` does not show it",
                plan.incident,
            );
        }
    }

    /// What was drained is put back, and clients do not find it all the same: told, since the incident ends.
    pub fn tell_not_found(&self, plan: &Plan, not_yet: &str) {
        let message = self.teller(plan).not_found(not_yet);
        (self.on_message)(&message);
        self.store.tell(&self.audience, &[message]);
    }

    pub fn registry(&self, binding: &Binding) -> Result<&dyn Registry, RegistryError> {
        self.ports.registries.get(&binding.registry).map(Arc::as_ref).ok_or_else(|| RegistryError::Refused {
            registry: binding.registry.clone(),
            detail: "the host's file does not name this registry any more; name it again to end the incident".into(),
        })
    }

    /// What its registry says of one binding.
    pub async fn observe(&self, binding: &Binding) -> Result<registry::Registration, RegistryError> {
        let answer = self.registry(binding)?.observe(&binding.id).await;
        self.seen.answered(binding, &answer, self.pace.elapsed());
        answer
    }

    /// Takes one binding out of traffic, and returns once that is read back.
    pub async fn drain(&self, binding: &Binding, marker: &Marker) -> Result<(), RegistryError> {
        self.registry(binding)?.drain(&binding.id, marker).await?;
        self.seen.read_back(binding, true, self.pace.elapsed());
        Ok(())
    }

    /// Takes one binding out again that others have put back. True where they had.
    pub async fn hold(&self, binding: &Binding, marker: &Marker) -> Result<bool, RegistryError> {
        let again = self.registry(binding)?.hold(&binding.id, marker).await?;
        if again {
            self.seen.read_back(binding, true, self.pace.elapsed());
        }
        Ok(again)
    }

    /// Writes the drain of one binding once more as it stands. False where it does not stand there.
    pub async fn takes_writes(&self, binding: &Binding, marker: &Marker) -> Result<bool, RegistryError> {
        self.registry(binding)?.takes_writes(&binding.id, marker).await
    }

    /// Where the service was seen last, and how long ago; `None` where this agent has not seen it yet.
    pub fn last_look(&self, plan: &Plan) -> Option<Look> {
        self.seen.last(&plan.target.bindings, self.pace.elapsed())
    }

    /// What every registry says of the service, in the order of its bindings.
    pub async fn registrations(&self, plan: &Plan) -> Result<Vec<(Binding, registry::Registration)>, RegistryError> {
        let mut all = Vec::new();
        for binding in &plan.target.bindings {
            all.push((binding.clone(), self.observe(binding).await?));
        }
        Ok(all)
    }

    /// The present lifetime of the service; `None` where nothing runs. An error while somebody is at work on it: that
    /// passes.
    pub async fn settled_incarnation(&self, plan: &Plan) -> Result<Option<Incarnation>, String> {
        use crate::ports::restarter::{RestartError, RunState};
        let Some(restart) = &plan.target.restart else { return Ok(None) };
        let liveness = match self.ports.restarter(restart).observe(restart).await {
            Ok(liveness) => liveness,
            // Its unit was removed or renamed: nothing of that name runs any more.
            Err(RestartError::Unknown { .. }) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        match liveness.state {
            RunState::Active => Ok(liveness.incarnation),
            RunState::Frozen => Err("the service is frozen".into()),
            RunState::Changing => Err("the service is starting, stopping, or has a job under way".into()),
            RunState::Inactive | RunState::Failed => Ok(None),
        }
    }

    /// Asks the service's probe once; `Ok` where it has none.
    pub async fn probe(&self, health: Option<&Health>, deadline: Duration) -> Result<(), ProbeFailure> {
        match health {
            Some(health) => self.ports.probe.ask(health, deadline).await,
            None => Ok(()),
        }
    }
}

/// Between two tries of what must succeed in the end: doubled from the first to the second.
pub const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A step's pre-images by registry and instance.
pub type ByBinding<T> = BTreeMap<String, T>;
