//! What people ask of the running agent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::agent::Agent;
use super::beside::Kind;
use super::control::Incoming;
use super::duties::orders::OrderToBegin;
use super::duties::{approvals, resolve};
use super::event::Event;
use super::{check, explain, route, services};
use crate::store::{AuditRow, Health, OrderVerb, Person, Word};
use crate::view::request::{How, Reply, Request};
use crate::view::status::{AgentNow, HeldNow, Status};

/// For the slots that a decision gives back.
const RETURNED_WITHIN: Duration = Duration::from_secs(5);

/// For what `status` shows of the store: it has answered within milliseconds, or its disk hangs.
const STORE_WITHIN: Duration = Duration::from_secs(1);

pub(super) const ENDING: &str = "the agent is ending";

impl Agent {
    /// What is known is answered at once; who must ask somebody answers when that one has.
    pub(super) fn answer(&mut self, incoming: Incoming, stopping: bool) {
        let Incoming { request, by, reply } = incoming;
        // Whoever asked may have gone away.
        let say = |reply: oneshot::Sender<Reply>, answer| drop(reply.send(answer));
        let now = self.wiring.host.clock.now();
        let store = Arc::clone(&self.store);
        let order = |verb, service: Option<&str>, reply| {
            let row = AuditRow::new(verb, &by, now).of(service);
            OrderToBegin { row, reply: Some(reply) }
        };
        match request {
            Request::Status => {
                let alone = self.now();
                let agent = Some(alone.clone());
                let store_says = tokio::spawn(async move { Status::of(&store, agent, now) });
                self.beside_a_person(async move {
                    let status = match tokio::time::timeout(STORE_WITHIN, store_says).await {
                        Ok(Ok(Ok(status))) => status,
                        Ok(Ok(Err(error))) => Status::without_store(alone, error.to_string()),
                        Ok(Err(defect)) => std::panic::resume_unwind(defect.into_panic()),
                        Err(_) => Status::without_store(alone, "the disk does not answer".into()),
                    };
                    say(reply, Reply { text: "running".into(), ..Reply::with(&status) });
                    Event::Over
                });
            }
            Request::Services => {
                let services = services::now(self);
                self.beside_a_person(async move {
                    say(reply, services.await);
                    Event::Over
                });
            }
            Request::Sockets { service, names } => {
                let sockets = services::sockets(self, service, names);
                self.beside_a_person(async move {
                    say(reply, sockets.await);
                    Event::Over
                });
            }
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
            Request::Route { service, event, policy } => {
                let routes = route::routes(&self.wiring, &service, event, policy.as_deref());
                say(reply, routes.map_or_else(Reply::refused, |routes| Reply::with(&routes)));
            }
            Request::Check { directory, ask } => {
                let (host, reads) = (self.wiring.host.clone(), self.config_dir.clone());
                self.beside_a_person(async move {
                    let checked = check::check(&directory, ask, host, Some(reads)).await;
                    say(reply, checked.map_or_else(|why| Reply::refused(why.to_string()), |seen| Reply::with(&seen)));
                    Event::Over
                });
            }
            Request::WriteSamples => self.beside_a_person(async move {
                store.write_samples();
                say(reply, Reply::done("written"));
                Event::Over
            }),
            Request::Approve { id, hash } => {
                self.decide_approval(id, true, hash, order(OrderVerb::Approve, None, reply))
            }
            Request::Deny { id } => self.decide_approval(id, false, None, order(OrderVerb::Deny, None, reply)),
            Request::Act { service, policy, dry_run } => {
                let order = order(OrderVerb::Act, Some(&service), reply);
                match stopping {
                    true => self.refuse_order(order),
                    false => self.act(service, policy, dry_run, order),
                }
            }
            Request::Reload => {
                let order = order(OrderVerb::Reload, None, reply);
                match stopping {
                    true => self.refuse_order(order),
                    false => self.begin_reload(order),
                }
            }
            Request::Resolve { service, how } => {
                let order = order(OrderVerb::Resolve, Some(&service), reply);
                match stopping {
                    true => self.refuse_order(order),
                    false => self.resolve(service, how, order),
                }
            }
        }
    }

    fn refuse_order(&self, order: OrderToBegin) {
        let store = Arc::clone(&self.store);
        self.scribe.write(move |_| order.begin(&store).answer(Reply::refused(ENDING)));
    }

    fn decide_approval(&mut self, id: String, approved: bool, hash: Option<String>, order: OrderToBegin) {
        let (wiring, store) = (self.wiring.clone(), Arc::clone(&self.store));
        self.beside_a_person(async move {
            let by = Person { who: order.row.who.clone(), why: order.row.why.clone() };
            let word = Word {
                approved,
                hash: hash.as_deref(),
                who: &by.who,
                why: by.why.as_deref(),
                at: wiring.host.clock.now(),
            };
            approvals::decide(&store, &id, &word, order.begin(&store));
            Event::Over
        });
    }

    fn resolve(&mut self, service: String, how: How, order: OrderToBegin) {
        let world = self.wiring.world(&self.store, self.started);
        let (store, one) = (Arc::clone(&self.store), Arc::clone(&self.resolving));
        let returned = self.slots_returned();
        self.requests += 1;
        self.beside.start(Kind::Resolve(self.requests), async move {
            let _one = one.lock().await;
            let order = order.begin(&store).about(resolve::incident_of(&store, &service));
            let answer = resolve::resolve(&store, &world, &service, how).await;
            // What a store does not take back by then is tried again beside.
            let _ = tokio::time::timeout(RETURNED_WITHIN, returned).await;
            order.answer(answer);
            Event::SlotsReturned
        });
    }

    /// What only the running agent knows of itself; the rest of `status` is read from the store.
    pub(super) fn now(&self) -> AgentNow {
        let config = &self.wiring.config;
        let held = self.held.iter().map(|((policy, service), held)| HeldNow {
            policy: policy.clone(),
            service: service.clone(),
            reason: held.refusal.reason,
            detail: held.refusal.detail.clone(),
            until: held.refusal.until,
        });
        let (last, health) = (self.last.as_ref(), self.store.health());
        AgentNow {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            observe_only: !health.is_sound(),
            disk_hangs: health.says().filter(|_| matches!(health, Health::Hanging(_))),
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
