//! What people ask of the running agent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::agent::Agent;
use super::beside::Kind;
use super::duties::{approvals, resolve};
use super::event::Event;
use super::explain;
use crate::view::request::{Reply, Request};
use crate::view::status::{AgentNow, HeldNow};

/// For the slots that a decision gives back.
const RETURNED_WITHIN: Duration = Duration::from_secs(5);

impl Agent {
    /// What is known is answered at once; who must ask somebody answers when that one has.
    pub(super) fn answer(&mut self, request: Request, reply: oneshot::Sender<Reply>, stopping: bool) {
        let decide = |id: &str, approved, who: &str, why: Option<&str>| {
            approvals::decide(&self.wiring, &self.store, id, approved, who, why)
        };
        // Whoever asked may have gone away; the answer is in the log all the same.
        let say = |reply: oneshot::Sender<Reply>, answer| drop(reply.send(answer));
        match request {
            Request::Status => say(reply, Reply { text: "running".into(), ..Reply::with(&self.now()) }),
            Request::Approve { id, who } => say(reply, decide(&id, true, &who, None)),
            Request::Deny { id, why, who } => say(reply, decide(&id, false, &who, why.as_deref())),
            Request::Act { .. } | Request::Resolve { .. } if stopping => {
                say(reply, Reply::refused("the agent is ending"))
            }
            Request::Act { service, policy, dry_run, who } => {
                self.act(&service, policy.as_deref(), dry_run, who, reply);
            }
            Request::Explain { service } => {
                let explained = explain::of_agent(self, service);
                self.beside_a_person(async move {
                    say(reply, explained.await);
                    Event::Over
                });
            }
            Request::Resolve { service, how } => {
                let world = self.wiring.world(&self.store, self.started);
                let (store, one) = (Arc::clone(&self.store), Arc::clone(&self.resolving));
                let returned = self.slots_returned();
                self.requests += 1;
                self.beside.start(Kind::Resolve(self.requests), async move {
                    let _one = one.lock().await;
                    let answer = resolve::resolve(&store, &world, &service, how).await;
                    // What a store does not take back by then is tried again beside.
                    let _ = tokio::time::timeout(RETURNED_WITHIN, returned).await;
                    say(reply, answer);
                    Event::SlotsReturned
                });
            }
        }
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
        }
    }

    /// Does what a person waits for.
    pub(super) fn beside_a_person(&mut self, work: impl Future<Output = Event> + Send + 'static) {
        self.requests += 1;
        self.beside.start(Kind::Request(self.requests), work);
    }
}
