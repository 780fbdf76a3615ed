//! `explain` and `plan`: what a service's signals are, what each policy makes of them, and what is against acting.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::agent::Agent;
use super::duties::breaker;
use crate::decide::detector::Detector;
use crate::decide::inaction::{self, Standing};
use crate::execute::steps::clients;
use crate::model::{Mode, Plan, Policy, Readings, Reason, ServiceName, Trigger};
use crate::ports::sharing;
use crate::sense::sensor::{Effort, on_blocking_thread};
use crate::store::{Breaker, Store};
use crate::view::explanation::{Clients, Explanation, Planned, PolicyExplained, explained, standing, truth};
use crate::view::request::Reply;
use crate::wiring::Wiring;
use crate::wiring::plans::{self, Proposal};

/// For each party that is asked: whoever has not answered by then is shown as silent.
const PATIENCE: Duration = Duration::from_secs(1);
/// For a look of its own.
const FRESH_WITHIN: Duration = Duration::from_millis(250);

/// As the agent stands now; the guards' questions are asked beside it.
pub(super) fn of_agent(agent: &Agent, service: String) -> impl Future<Output = Reply> + Send + 'static {
    let (wiring, store, started) = (agent.wiring.clone(), Arc::clone(&agent.store), agent.started);
    let detector = agent.detector.clone();
    let service = ServiceName::parse(&service);
    let last = service.as_ref().ok().zip(agent.last.as_ref()).map(|(service, last)| last.measurements.of(service));
    async move {
        let service = match service {
            Ok(service) => service,
            Err(error) => return Reply::refused(error),
        };
        let sensor = wiring.sensor.clone();
        let look = on_blocking_thread(move || sensor.lock().look(Effort::Afresh));
        let readings = match tokio::time::timeout(FRESH_WITHIN, look).await {
            Ok(Ok(look)) => look.measurements.of(&service),
            Ok(Err(error)) => return Reply::refused(error.to_string()),
            // Somebody else looks, for long: what the last look saw is at most an interval old.
            Err(_) => last.unwrap_or_default(),
        };
        let now = wiring.host.clock.monotonic();
        let asking = Asking { wiring: &wiring, store: &store, started };
        let explanation = asking.explain(&service, readings, Some((&detector, now)));
        let explanation = sharing(Some(PATIENCE), explanation).await;
        Reply::with(&explanation)
    }
}

/// The plan that a person would start now, by what the agent has and knows.
pub(super) fn plan_of_agent(
    agent: &Agent,
    service: String,
    policy: Option<String>,
) -> impl Future<Output = Reply> + Send + 'static {
    let (wiring, store, started) = (agent.wiring.clone(), Arc::clone(&agent.store), agent.started);
    async move {
        let chosen = ServiceName::parse(&service).and_then(|service| {
            let policy = wiring.config.choose(&service, policy.as_deref())?.clone();
            Ok((service, policy))
        });
        let (service, policy) = match chosen {
            Ok(chosen) => chosen,
            Err(error) => return Reply::refused(error),
        };
        let asking = Asking { wiring: &wiring, store: &store, started };
        let trigger = Trigger::Person { who: "plan".into() };
        let planned = asking.plan(&policy, &service, trigger);
        // By the parties' own deadlines: what is too slow for a screen is not too slow for an action.
        Reply::with(&sharing(None, planned).await)
    }
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
        let open = self.store.open_plans().unwrap_or_default();
        let mut under_way = open.into_iter().filter(|plan| plan.target.service == *service);
        let under_way = under_way.next().map(|plan| plan.incident);
        for policy in self.wiring.config.selecting(service) {
            let watch = detector.map(|(detector, _)| detector.watch(&policy.name, service));
            let standing = match watch.zip(detector) {
                Some((watch, (_, now))) => standing(watch, policy, now),
                None => "one look: how long it has held is not known".into(),
            };
            let held_since = detector.and_then(|(detector, now)| {
                let since = detector.held_since(&policy.name, service)?;
                Some(self.wiring.host.clock.now() - now.saturating_sub(since))
            });
            let breached = detector.and_then(|(detector, _)| detector.breached_since(&policy.name, service));
            let breaker = self.breaker(policy, service);
            let dry_run = plans::is_dry(policy) || breaker.is_some();
            let (runbook, rung, held_by) = match policy.mode {
                Mode::Observe => (None, None, Vec::new()),
                _ => {
                    let trigger = Trigger::Breach;
                    let proposal = plans::propose(self.wiring, self.store, policy, service, trigger, dry_run).await;
                    let proposal = Proposal { breached, ..proposal };
                    let gate = self.wiring.gate(self.store, &self.wiring.ports, self.started);
                    let held_by = gate.ask_all(&proposal.question()).await;
                    (Some(proposal.plan.runbook), proposal.plan.rung, held_by)
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
                held_mode: policy.held_mode.clone(),
                when: explained(&policy.when, &readings, 0),
                holds: truth(policy.when.truth(&readings)).into(),
                standing,
                held_since,
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
        let (sensor, service) = (self.wiring.sensor.clone(), plan.target.service.clone());
        match on_blocking_thread(move || sensor.lock().talks(&service)).await {
            Ok(talks) => {
                let addresses: BTreeSet<IpAddr> = talks.iter().map(|talk| talk.peer).collect();
                let (connections, addresses) = (Some(talks.len()), Some(addresses.len()));
                Clients { follow_within, connections, addresses, unknown: None }
            }
            Err(why) => Clients { follow_within, connections: None, addresses: None, unknown: Some(why) },
        }
    }

    /// The plan as it would be made now, with every refusal, and what each step would do. Takes no slot.
    pub async fn plan(&self, policy: &Policy, service: &ServiceName, trigger: Trigger) -> Planned {
        let proposal = plans::propose(self.wiring, self.store, policy, service, trigger, false).await;
        let rehearsal = self.wiring.rehearsal(self.store, self.started);
        let gate = self.wiring.gate(self.store, &rehearsal.world.ports, self.started);
        let blocked_by = gate.ask_all(&proposal.question()).await;
        let plan = proposal.plan;
        let mut cannot_promise = if plan.drains() { self.cannot_promise(&plan) } else { vec![] };
        if let Some(restart) = plan.target.restart.as_ref().filter(|_| policy.runbook.restarts()) {
            let caveats = self.wiring.ports.restarter(restart).caveats(restart).await;
            cannot_promise.extend(caveats.into_iter().map(|caveat| format!("restart: {caveat}")));
        }
        let steps: Vec<_> = plan.steps.iter().map(|planned| &planned.step).collect();
        cannot_promise.extend(plans::short_deadlines(self.wiring, steps, &plan.target).await);
        let clients = if plan.drains() { Some(self.clients(&plan).await) } else { None };
        let would = rehearsal.steps(&plan).await;
        let slot = rehearsal.slot(&plan).await;
        Planned { mode: policy.mode_says(), plan, slot, would, blocked_by, cannot_promise, clients }
    }
}
