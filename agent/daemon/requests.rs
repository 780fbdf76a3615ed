//! What people ask of the running agent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::agent::Agent;
use super::beside::Kind;
use super::control::Incoming;
use super::duties::orders::Order;
use super::duties::{approvals, resolve};
use super::event::Event;
use super::{check, explain};
use crate::store::{AuditRow, OrderVerb};
use crate::view::request::{How, Reply, Request};
use crate::view::status::{AgentNow, HeldNow};

/// For the slots that a decision gives back.
const RETURNED_WITHIN: Duration = Duration::from_secs(5);

const ENDING: &str = "the agent is ending";

impl Agent {
    /// What is known is answered at once; who must ask somebody answers when that one has.
    pub(super) fn answer(&mut self, incoming: Incoming, stopping: bool) {
        let Incoming { request, by, reply } = incoming;
        // Whoever asked may have gone away.
        let say = |reply: oneshot::Sender<Reply>, answer| drop(reply.send(answer));
        let now = self.wiring.host.clock.now();
        let store = Arc::clone(&self.store);
        let order = |verb, service: Option<&str>, reply| {
            Order::begin(&store, AuditRow::new(verb, &by, now).of(service), Some(reply))
        };
        match request {
            Request::Status => say(reply, Reply { text: "running".into(), ..Reply::with(&self.now()) }),
            Request::Explain { service } => {
                let explained = explain::of_agent(self, service);
                self.beside_a_person(async move {
                    say(reply, explained.await);
                    Event::Over
                });
            }
            Request::Plan { service, policy } => {
                let planned = explain::plan_of_agent(self, service, policy);
                self.beside_a_person(async move {
                    say(reply, planned.await);
                    Event::Over
                });
            }
            Request::Check { directory, ask } => {
                let host = self.wiring.host.clone();
                self.beside_a_person(async move {
                    let checked = check::check(&directory, ask, host).await;
                    say(reply, checked.map_or_else(|why| Reply::refused(why.to_string()), |seen| Reply::with(&seen)));
                    Event::Over
                });
            }
            Request::WriteSamples => {
                self.store.write_samples();
                say(reply, Reply::done("written"));
            }
            Request::Approve { id } => {
                let order = order(OrderVerb::Approve, None, reply);
                approvals::decide(&self.wiring, &self.store, &id, true, &by, order);
            }
            Request::Deny { id } => {
                let order = order(OrderVerb::Deny, None, reply);
                approvals::decide(&self.wiring, &self.store, &id, false, &by, order);
            }
            Request::Act { service, policy, dry_run } => {
                let order = order(OrderVerb::Act, Some(&service), reply);
                match stopping {
                    true => order.answer(Reply::refused(ENDING)),
                    false => self.act(&service, policy.as_deref(), dry_run, by.who, order),
                }
            }
            Request::Reload => {
                let order = order(OrderVerb::Reload, None, reply);
                match stopping {
                    true => order.answer(Reply::refused(ENDING)),
                    false => self.reload(order),
                }
            }
            Request::Resolve { service, how } => {
                let order = order(OrderVerb::Resolve, Some(&service), reply);
                match stopping {
                    true => order.answer(Reply::refused(ENDING)),
                    false => self.resolve(service, how, order),
                }
            }
        }
    }

    fn resolve(&mut self, service: String, how: How, order: Order) {
        let world = self.wiring.world(&self.store, self.started);
        let (store, one) = (Arc::clone(&self.store), Arc::clone(&self.resolving));
        let returned = self.slots_returned();
        self.requests += 1;
        self.beside.start(Kind::Resolve(self.requests), async move {
            let _one = one.lock().await;
            let order = order.about(resolve::incident_of(&store, &service));
            let answer = resolve::resolve(&store, &world, &service, how).await;
            // What a store does not take back by then is tried again beside.
            let _ = tokio::time::timeout(RETURNED_WITHIN, returned).await;
            order.answer(answer);
            Event::SlotsReturned
        });
    }

    /// What only the running agent knows of itself; the rest of `status` is read from the store.
    fn now(&self) -> AgentNow {
        let config = &self.wiring.config;
        let held = self.held.iter().map(|((policy, service), held)| HeldNow {
            policy: policy.clone(),
            service: service.clone(),
            reason: held.refusal.reason,
            detail: held.refusal.detail.clone(),
            until: held.refusal.until,
        });
        let last = self.last.as_ref();
        AgentNow {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            observe_only: self.store.health() == crate::store::Health::Failing,
            policies: config.policies.len(),
            held_modes: config.held_modes().map(|(policy, held)| (policy.to_owned(), held.clone())).collect(),
            interval: config.host.interval,
            last_snapshot: last.map(|look| look.measurements.at),
            last_failure: self.last_failure.clone(),
            host_close_wait: last.map(|look| look.host_close_wait),
            passed_over_at_most: last.map(|look| look.passed_over.at_most),
            looks_every: self.attention.period(),
            cautions: self.attention.cautions().iter().map(ToString::to_string).collect(),
            of_no_service: self.attention.unowned().map(ToString::to_string),
            not_seen: self.attention.not_seen().iter().map(ToString::to_string).collect(),
            held: held.collect(),
            rejected_configuration: self.reloads.rejected.clone(),
        }
    }

    /// Does what a person waits for.
    pub(super) fn beside_a_person(&mut self, work: impl Future<Output = Event> + Send + 'static) {
        self.requests += 1;
        self.beside.start(Kind::Request(self.requests), work);
    }
}
