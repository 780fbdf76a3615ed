//! A policy and a service become a plan, with every value filled in.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use jiff::Timestamp;

use super::{Wiring, kernel, saga_world};
use crate::attribute::{Elsewhere, elsewhere};
use crate::config::Selected;
use crate::decide::escalation::{self, BREAKER_MEMORY, Rung};
use crate::decide::guards::Question;
use crate::model::plan::{Binding, ProcessRestart, Restart};
use crate::model::policy::{GuardSettings, MinHealthy};
use crate::model::runbook::Step;
use crate::model::{IncidentId, Mode, Plan, PlannedStep, Policy, Runbook, ServiceName, Target, Trigger, duration};
use crate::ports::restarter::{Liveness, RestartError, Restarter};
use crate::store::Store;

/// A plan, and what the guards want to know of it beside.
#[derive(Clone, Debug)]
pub struct Proposal {
    pub plan: Plan,
    pub named_in_full: bool,
    /// Why the service is protected, where it is.
    pub protected: Option<&'static str>,
    /// What the runbook needs and the service does not have.
    pub lacks: Vec<String>,
    pub grace: Duration,
    pub jitter: Duration,
    /// When the breach began that asks for it, since boot; `propose` does not know.
    pub breached: Option<Duration>,
    /// Every rung was tried in vain; until the first may be tried again.
    pub rungs_spent: Option<Timestamp>,
    /// The policy acts when a person has approved the plan.
    pub needs_approval: bool,
    /// Why the name is not known that hosts contend for slots under.
    pub unnamed: Option<String>,
}

impl Proposal {
    /// What the guards are asked; without a slot being taken.
    pub fn question(&self) -> Question<'_> {
        Question {
            plan: &self.plan,
            named_in_full: self.named_in_full,
            protected: self.protected,
            lacks: &self.lacks,
            grace: self.grace,
            jitter: self.jitter,
            breached: self.breached,
            rungs_spent: self.rungs_spent,
            needs_approval: self.needs_approval,
            unnamed: self.unnamed.as_deref(),
            take_slot: false,
            own_saga: false,
        }
    }
}

/// Binds the policy's runbook to the service. Asks the restarter for the present lifetime and the registry for the
/// name that hosts contend under; where one does not answer, the guards will say so.
pub async fn propose(
    wiring: &Wiring,
    store: &Store,
    policy: &Policy,
    service: &ServiceName,
    trigger: Trigger,
    dry_run: bool,
) -> Proposal {
    let config = &wiring.config;
    let target = config.target_for(service);
    let now = wiring.host.clock.now();
    // A store that cannot be read is refused by other guards; what is kept here is only which rung comes next.
    let attempts = store.attempts(&policy.name, service, now, BREAKER_MEMORY).unwrap_or_default();
    let Rung { runbook, says, spent_until } = escalation::rung(policy, &attempts, now);
    let mut lacks = config.lacks_for(runbook, &target);
    lacks.extend(lacks_here(wiring, runbook, &target).await);
    let changes = runbook.changes_anything();

    let mut incarnation = None;
    if let Some(restart) = &target.restart {
        let restarter = wiring.ports.restarter(restart);
        match restarter.observe(restart).await {
            Ok(liveness) => {
                incarnation = liveness.incarnation;
                if runbook.restarts() && !with_dependents(restart) {
                    lacks.extend(taken_along(restarter, restart).await);
                }
                if let (true, Restart::Process(process), Some(pid)) = (runbook.restarts(), restart, liveness.main_pid) {
                    lacks.extend(holds_nothing(wiring, process, service, pid).await);
                }
            }
            Err(error) if changes => lacks.push(error.to_string()),
            Err(_) => {}
        }
    }

    let (fleet_scope, unnamed) = match policy.guards.fleet_slots {
        Some(_) if changes => match scope(wiring, service, &target.bindings).await {
            Ok(name) => (Some(config.host.fleet.as_ref().map_or(name.clone(), |fleet| fleet.scope(name))), None),
            Err(why) => (None, Some(why)),
        },
        _ => (None, None),
    };
    let min_healthy = policy.guards.min_healthy.or(runbook.drains().then_some(MinHealthy::Count(1)));
    let plan = Plan {
        incident: incident_id(now, service),
        trigger,
        policy: policy.name.clone(),
        dry_run,
        runbook: runbook.name.clone(),
        rung: says,
        target,
        incarnation,
        when: policy.when.clone(),
        clear: policy.clear.clone(),
        limits: policy.limits,
        guards: GuardSettings { min_healthy, ..policy.guards.clone() },
        fleet_scope,
        steps: PlannedStep::all_of(runbook),
    };
    Proposal {
        named_in_full: config.selects(policy, service) == Some(Selected::InFull),
        protected: crate::config::protected(service),
        lacks,
        grace: config.grace(service),
        jitter: config.jitter(policy),
        breached: None,
        rungs_spent: spent_until,
        needs_approval: policy.mode == Mode::Approve && plan.trigger == Trigger::Breach && !dry_run,
        unnamed,
        plan,
    }
}

/// What the runbook needs of the service or of the agent, and only this host can tell that it is not there. A manager that
/// does not answer says nothing: a configuration may be checked far from its host.
pub async fn lacks_here(wiring: &Wiring, runbook: &Runbook, target: &Target) -> Vec<String> {
    let mut lacks = Vec::new();
    if let Some(restart) = target.restart.as_ref().filter(|_| runbook.reloads())
        && let Ok(Some(why)) = wiring.ports.restarter(restart).no_reload(restart).await
    {
        lacks.push(format!("reload: {why}"));
    }
    if let Some(restart) = target.restart.as_ref().filter(|_| runbook.restarts()) {
        if let Ok(Some(why)) = wiring.ports.restarter(restart).unfit(restart).await {
            lacks.push(format!("restart: {why}"));
        }
        if let Restart::Process(process) = restart
            && let Ok(Liveness { main_pid: Some(pid), .. }) = wiring.ports.restarter(restart).observe(restart).await
            && let Some(why) = lives_elsewhere(process, pid)
        {
            lacks.push(format!("restart: {why}"));
        }
    }
    if runbook.closes_sockets() && !kernel::may_close_sockets() {
        lacks.push("close_sockets: the agent lacks CAP_NET_ADMIN; deploy/README.md shows how to grant it".into());
    }
    lacks
}

/// Why a process is not ended and started again by its argv: the host would run a second copy of what its container begins anew.
fn lives_elsewhere(process: &ProcessRestart, pid: u32) -> Option<String> {
    let (by, fits) = match elsewhere(pid)? {
        Elsewhere::Container(container) => {
            (container.to_string(), "name the service `container:NAME`, which its runtime restarts".to_owned())
        }
        Elsewhere::PidNamespace(Some(unit)) => {
            (format!("a pid namespace of {unit}"), format!("name the service `{unit}`"))
        }
        Elsewhere::PidNamespace(None) => {
            ("another pid namespace".into(), "name the container or the unit that it runs in".to_owned())
        }
    };
    let pid_file = process.pid_file.display();
    Some(format!(
        "pid {pid}, which {pid_file} names, lives in {by}, where `restart: {{ process }}` cannot start a process: \
         {fits}"
    ))
}

/// Deadlines of steps that are below what the service and its registries may take by their own settings.
pub async fn short_deadlines<'a>(
    wiring: &Wiring,
    steps: impl IntoIterator<Item = &'a Step>,
    target: &Target,
) -> Vec<String> {
    let shown = duration::format;
    let mut short = Vec::new();
    for step in steps {
        match (step, &target.restart) {
            (Step::Drain { deadline, .. }, _) => {
                for Binding { registry, .. } in &target.bindings {
                    let takes = wiring.ports.registries.get(registry).map(|port| port.drains_within());
                    if let Some(takes) = takes.filter(|takes| takes > deadline) {
                        let (deadline, takes) = (shown(*deadline), shown(takes));
                        short.push(format!(
                            "drain: the deadline of {deadline} is below the {takes} that {registry} may take"
                        ));
                    }
                }
            }
            (Step::Restart { deadline: Some(deadline) }, Some(restart)) => {
                // One that does not answer says nothing: a configuration may be checked far from its host.
                let takes = wiring.ports.restarter(restart).own_deadline(restart).await;
                if let Some(takes) = takes.ok().filter(|takes| takes > deadline) {
                    let (deadline, takes) = (shown(*deadline), shown(takes));
                    short.push(format!("restart: the deadline of {deadline} is below the service's own of {takes}"));
                }
            }
            _ => {}
        }
    }
    short
}

/// A pid file may be older than the process that has its number by now. What cannot be seen says nothing.
async fn holds_nothing(wiring: &Wiring, process: &ProcessRestart, service: &ServiceName, pid: u32) -> Option<String> {
    match saga_world::ends_a_holder(wiring, service, pid).await {
        Ok(false) => Some(format!(
            "restart: pid {pid}, which {} names, and its children hold none of the leaked sockets: the pid may belong \
             to another service now",
            process.pid_file.display()
        )),
        Ok(true) => None,
        Err(error) => {
            tracing::debug!(
                %service,
                error,
                "cannot see the sockets of pid {pid} of {service}: {error}; its pid file is believed",
            );
            None
        }
    }
}

/// Why a restart would not be of this service alone.
async fn taken_along(restarter: &dyn Restarter, restart: &Restart) -> Option<String> {
    match restarter.dependents(restart).await {
        Ok(dependents) if dependents.is_empty() => None,
        Ok(dependents) if matches!(restart, Restart::Docker { .. }) => Some(format!(
            "a restart would cut off {}, which share the service's network namespace",
            dependents.join(", ")
        )),
        Ok(dependents) => Some(format!(
            "a restart would also restart {}; set `with_dependents: true` of the service if that is wanted",
            dependents.join(", ")
        )),
        Err(error) => Some(error.to_string()),
    }
}

/// Instances of one registered name contend for one set of slots, and share their breaches, whatever their units are
/// called. A service that is bound to no registry goes by its own name; of one that is, an error says why its name is not
/// known now. It is never guessed: under another name, two hosts would work at once.
pub(crate) async fn scope(wiring: &Wiring, service: &ServiceName, bindings: &[Binding]) -> Result<String, String> {
    let Some(Binding { registry, id, .. }) = bindings.first() else { return Ok(service.to_string()) };
    let adapter = wiring.ports.registries.get(registry);
    let adapter = adapter.ok_or_else(|| format!("agent.yaml has no registry `{registry}`"))?;
    adapter.observe(id).await.map(|registration| registration.name).map_err(|error| error.to_string())
}

fn with_dependents(restart: &Restart) -> bool {
    match restart {
        Restart::Systemd { with_dependents, .. } => *with_dependents,
        Restart::Docker { .. } => false,
        Restart::Process(_) | Restart::Supervisord { .. } | Restart::Supervise(_) => true,
    }
}

/// What a restart of each service that the host's file names cannot promise.
pub async fn restart_caveats(wiring: &Wiring) -> BTreeMap<ServiceName, Vec<String>> {
    let mut all = BTreeMap::new();
    for service in wiring.config.host.services.keys() {
        let Some(restart) = wiring.config.target_for(service).restart else { continue };
        let caveats = wiring.ports.restarter(&restart).caveats(&restart).await;
        if !caveats.is_empty() {
            all.insert(service.clone(), caveats);
        }
    }
    all
}

/// Services whose restarter answers that there is no such thing. One that does not answer says nothing: a configuration
/// may be checked far from its host.
pub async fn unknown_services(wiring: &Wiring) -> BTreeMap<ServiceName, String> {
    let mut unknown = BTreeMap::new();
    for service in wiring.config.host.services.keys() {
        let Some(restart) = wiring.config.target_for(service).restart else { continue };
        if let Err(error @ RestartError::Unknown { .. }) = wiring.ports.restarter(&restart).observe(&restart).await {
            unknown.insert(service.clone(), error.to_string());
        }
    }
    unknown
}

/// Does the policy only say what it would do?
pub fn is_dry(policy: &Policy) -> bool {
    policy.mode == Mode::DryRun
}

/// `20261122T184329Z-rpc-order-1f3a`: time, service, and four hex digits against a second one in the same second.
pub fn incident_id(now: Timestamp, service: &ServiceName) -> IncidentId {
    let name: String = service
        .as_str()
        .trim_end_matches(".service")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' })
        .take(64)
        .collect();
    // RandomState is seeded by the operating system; nothing here needs more randomness than that.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish() as u16;
    IncidentId(format!("{}-{name}-{random:04x}", now.strftime("%Y%m%dT%H%M%SZ")))
}
