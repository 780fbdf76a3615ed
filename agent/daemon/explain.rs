//! `explain` and `plan`: what a service's signals are, what each policy makes of them, and what is against acting.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::agent::Agent;
use super::control::Reply;
use super::duties::breaker;
use crate::config::Config;
use crate::decide::detector::{Detector, Watch};
use crate::decide::guards::Refusal;
use crate::decide::inaction::{self, Standing};
use crate::execute::steps::clients;
use crate::model::{
    Condition, IncidentId, Mode, Plan, Policy, Readings, Reason, ServiceName, Trigger, Truth, duration,
};
use crate::sense::sensor::Effort;
use crate::store::{Breaker, Store};
use crate::wiring::Wiring;
use crate::wiring::plans::{self, Proposal};

/// What is so of one service now.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub service: ServiceName,
    pub signals: Readings,
    pub policies: Vec<PolicyExplained>,
    /// Why nothing is being done where no policy selects it.
    pub nothing_is_done: Option<Reason>,
    /// The incident under way.
    pub under_way: Option<IncidentId>,
    /// One look only: no agent runs, so what needs time is not known.
    pub one_look: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct PolicyExplained {
    pub policy: String,
    pub mode: String,
    /// Each comparison with the present value beside it.
    pub when: Vec<ComparisonExplained>,
    /// `true`, `false` or `unknown`.
    pub holds: String,
    /// `quiet`, `holding for 30s of 2m`, `breached`.
    pub standing: String,
    /// Why nothing is being done; `None` where the policy is about to act, or an incident is under way.
    pub nothing_is_done: Option<Reason>,
    /// Back in dry-run by itself.
    pub breaker: Option<Breaker>,
    /// What would be carried out now.
    pub runbook: Option<String>,
    /// Which rung of an escalation that is, and why.
    pub rung: Option<String>,
    /// What is against acting now, by the guards' order.
    pub held_by: Vec<Refusal>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ComparisonExplained {
    /// How deep it is nested in all / any.
    pub depth: usize,
    pub text: String,
    pub now: String,
    pub holds: String,
}

/// A plan filled in, and what is against it now.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    pub plan: Plan,
    pub blocked_by: Vec<Refusal>,
    /// What the restart, and the registries that it drains from, cannot promise, each by its name: `redis: …`; and
    /// steps whose deadlines are too short for it: `drain: …`.
    pub cannot_promise: Vec<String>,
    /// Where the plan drains: whom it takes the service from.
    pub clients: Option<Clients>,
}

/// Those who use a service now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clients {
    /// From a change in the registry until the last of them follows it.
    #[serde(with = "duration::as_text")]
    pub follow_within: Duration,
    /// Inbound connections that are in use now, and the addresses that they come from.
    pub connections: Option<usize>,
    pub addresses: Option<usize>,
    /// Why these are not known.
    pub unknown: Option<String>,
}

/// The policy that a person means. Without its name: the first that selects the service.
pub fn choose(config: &Config, service: &ServiceName, policy: Option<&str>) -> Result<Policy, String> {
    let selecting = selecting(config, service);
    let names = || selecting.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = match policy {
        None => selecting.first().copied(),
        Some(name) => selecting.iter().find(|policy| policy.name == name).copied(),
    };
    match (found, policy) {
        (Some(found), _) => Ok(found.clone()),
        (None, Some(name)) if !selecting.is_empty() => {
            Err(format!("no policy `{name}` selects {service}; these do: {}", names()))
        }
        (None, _) => Err(format!("no policy selects {service}")),
    }
}

/// The policies that select the service.
pub fn selecting<'a>(config: &'a Config, service: &ServiceName) -> Vec<&'a Policy> {
    config.policies.iter().filter(|policy| config.selects(policy, service).is_some()).collect()
}

pub async fn of_agent(agent: &Agent, service: &str) -> Reply {
    let service = match ServiceName::parse(service) {
        Ok(service) => service,
        Err(error) => return Reply::refused(error),
    };
    let look = match agent.wiring.sensor.free().await.look(Effort::Afresh) {
        Ok(look) => look,
        Err(error) => return Reply::refused(error.to_string()),
    };
    let readings = look.measurements.of(&service);
    let now = agent.wiring.host.clock.monotonic();
    let asking = Asking { wiring: &agent.wiring, store: &agent.store, started: agent.started };
    let explanation = asking.explain(&service, readings, Some((&agent.detector, now))).await;
    let mut reply = Reply::done("");
    reply.detail = serde_json::to_value(explanation).expect("an explanation is plain data");
    reply
}

/// Asks the guards without acting.
#[derive(Debug)]
pub struct Asking<'a> {
    pub wiring: &'a Wiring,
    pub store: &'a Arc<Store>,
    pub started: Duration,
}

impl Asking<'_> {
    pub async fn explain(
        &self,
        service: &ServiceName,
        readings: Readings,
        detector: Option<(&Detector, Duration)>,
    ) -> Explanation {
        let mut policies = Vec::new();
        // One that cannot be read is shown by the guards, which ask the same store.
        let open = self.store.open_incidents().unwrap_or_default();
        let mut under_way = open.into_iter().map(|open| open.plan).filter(|plan| plan.target.service == *service);
        let under_way = under_way.next().map(|plan| plan.incident);
        for policy in selecting(&self.wiring.config, service) {
            let watch = detector.map(|(detector, _)| detector.watch(&policy.name, service));
            let standing = match watch.zip(detector) {
                Some((watch, (_, now))) => standing(watch, policy, now),
                None => "one look: how long it has held is not known".into(),
            };
            let breached = detector.and_then(|(detector, _)| detector.breached_since(&policy.name, service));
            let breaker = self.breaker(policy, service);
            let dry_run = plans::is_dry(policy) || breaker.is_some();
            let (runbook, rung, held_by) = match policy.mode {
                Mode::Observe => (None, None, Vec::new()),
                _ => {
                    let planned = self.plan(policy, service, Trigger::Breach, dry_run, breached).await;
                    (Some(planned.plan.runbook), planned.plan.rung, planned.blocked_by)
                }
            };
            let nothing_is_done = inaction::reason(Standing {
                policy,
                readings: &readings,
                watch,
                refused: held_by.first().map(|refusal| refusal.reason),
                breaker_is_open: breaker.is_some(),
            });
            policies.push(PolicyExplained {
                nothing_is_done: nothing_is_done.filter(|_| under_way.is_none()),
                policy: policy.name.clone(),
                mode: policy.mode.to_string(),
                when: explained(&policy.when, &readings, 0),
                holds: truth(policy.when.truth(&readings)).into(),
                standing,
                breaker,
                runbook,
                rung,
                held_by,
            });
        }
        Explanation {
            service: service.clone(),
            signals: readings,
            nothing_is_done: policies.is_empty().then_some(Reason::NoPolicy),
            policies,
            under_way,
            one_look: detector.is_none(),
        }
    }

    /// One that cannot be read is shown by the guards, which ask the same store.
    fn breaker(&self, policy: &Policy, service: &ServiceName) -> Option<Breaker> {
        match policy.mode {
            Mode::Observe | Mode::DryRun => None,
            _ => breaker::standing(self.wiring, self.store, policy, service).ok().flatten(),
        }
    }

    fn cannot_promise(&self, plan: &Plan) -> Vec<String> {
        let names: BTreeSet<&String> = plan.target.bindings.iter().map(|binding| &binding.registry).collect();
        let registries = names.into_iter().filter_map(|name| Some((name, self.wiring.ports.registries.get(name)?)));
        registries
            .flat_map(|(name, port)| port.caveats().iter().map(move |caveat| format!("{name}: {caveat}")))
            .collect()
    }

    async fn clients(&self, plan: &Plan) -> Clients {
        let follow_within = clients::follow_within(plan, &self.wiring.ports);
        match self.wiring.sensor.free().await.talks(&plan.target.service) {
            Ok(talks) => {
                let addresses: BTreeSet<IpAddr> = talks.iter().map(|talk| talk.peer).collect();
                let (connections, addresses) = (Some(talks.len()), Some(addresses.len()));
                Clients { follow_within, connections, addresses, unknown: None }
            }
            Err(why) => Clients { follow_within, connections: None, addresses: None, unknown: Some(why) },
        }
    }

    /// The plan as it would be made now, with every refusal. Takes no slot.
    /// `breached`: since when, where a breach is what asks.
    pub async fn plan(
        &self,
        policy: &Policy,
        service: &ServiceName,
        trigger: Trigger,
        dry_run: bool,
        breached: Option<Duration>,
    ) -> Planned {
        let proposal = plans::propose(self.wiring, self.store, policy, service, trigger, dry_run).await;
        let proposal = Proposal { breached, ..proposal };
        let gate = self.wiring.gate(self.store, &self.wiring.ports, self.started);
        let blocked_by = gate.ask_all(&proposal.question()).await;
        let plan = proposal.plan;
        let mut cannot_promise = if plan.drains() { self.cannot_promise(&plan) } else { vec![] };
        if let Some(restart) = plan.target.restart.as_ref().filter(|_| policy.runbook.restarts()) {
            let caveats = self.wiring.ports.restarter(restart).caveats(restart).await;
            cannot_promise.extend(caveats.into_iter().map(|caveat| format!("restart: {caveat}")));
        }
        let steps = plan.steps.iter().map(|planned| &planned.step);
        cannot_promise.extend(plans::short_deadlines(self.wiring, steps, &plan.target).await);
        let clients = if plan.drains() { Some(self.clients(&plan).await) } else { None };
        Planned { plan, blocked_by, cannot_promise, clients }
    }
}

fn standing(watch: Watch, policy: &Policy, now: Duration) -> String {
    let seconds = |duration: Duration| duration::format(Duration::from_secs(duration.as_secs()));
    match watch {
        Watch::Quiet => "quiet".into(),
        Watch::Holding { since, .. } => {
            format!("holding for {} of {}", seconds(now.saturating_sub(since)), duration::format(policy.hold))
        }
        Watch::Breached { since } => format!("breached for {}", seconds(now.saturating_sub(since))),
    }
}

fn explained(condition: &Condition, readings: &Readings, depth: usize) -> Vec<ComparisonExplained> {
    let group = |name: &str, parts: &[Condition]| {
        let mut lines = vec![ComparisonExplained {
            depth,
            text: name.into(),
            now: String::new(),
            holds: truth(condition.truth(readings)).into(),
        }];
        lines.extend(parts.iter().flat_map(|part| explained(part, readings, depth + 1)));
        lines
    };
    match condition {
        Condition::All(parts) => group("all of", parts),
        Condition::Any(parts) => group("any of", parts),
        Condition::Compare(comparison) => vec![ComparisonExplained {
            depth,
            text: comparison.to_string(),
            now: readings.show(comparison.signal),
            holds: truth(comparison.truth(readings)).into(),
        }],
    }
}

fn truth(truth: Truth) -> &'static str {
    match truth {
        Truth::True => "true",
        Truth::False => "false",
        Truth::Unknown => "unknown",
    }
}
