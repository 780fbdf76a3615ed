//! Another configuration, put in force while the agent runs.

use std::path::Path;
use std::sync::Arc;

use super::agent::Agent;
use super::beside::Kind;
use super::deciding::ANOTHER;
use super::duties::orders::{self, Order, OrderToBegin};
use super::duties::{approvals, delivery, messages, review};
use super::event::{Event, refuse};
use super::last_good;
use super::reloads::Rejection;
use super::requests::ENDING;
use crate::config;
use crate::model::{Message, ServiceName};
use crate::sense::attention::Attention;
use crate::sense::sensor::on_blocking_thread;
use crate::store::{AuditRow, OrderVerb, Person};
use crate::view::request::Reply;
use crate::view::status::RejectedConfiguration;
use crate::wiring::Wiring;

impl Agent {
    /// Loads the configuration anew, whole or not at all.
    pub(super) fn reload(&mut self, order: Order) {
        if *self.stop.borrow() {
            return refuse(&self.scribe, Some(order), || ENDING.into());
        }
        self.reloads.next.push(order);
        self.read_anew();
    }

    /// SIGHUP does not say who sent it.
    pub(super) fn reload_by_signal(&mut self) {
        let by = Person { who: "SIGHUP".into(), why: None };
        let row = AuditRow::new(OrderVerb::Reload, &by, self.wiring.host.clock.now());
        self.begin_reload(OrderToBegin { row, reply: None });
    }

    /// Once the order is written down.
    pub(super) fn begin_reload(&mut self, order: OrderToBegin) {
        let store = Arc::clone(&self.store);
        self.beside_a_person(async move { Event::ToReload(order.begin(&store)) });
    }

    fn read_anew(&mut self) {
        if self.reloads.next.is_empty() || self.beside.is_under_way(&Kind::Reload) {
            return;
        }
        self.reloads.under_way = std::mem::take(&mut self.reloads.next);
        self.manager.reloading();
        let (dir, former) = (self.config_dir.clone(), self.wiring.clone());
        let reloaded = on_blocking_thread(move || reloaded(&dir, &former));
        self.beside.start(Kind::Reload, async { Event::Reloaded(Box::new(reloaded.await)) });
    }

    pub(super) fn reloaded(&mut self, reloaded: Result<Wiring, Rejection>) {
        let by: Vec<String> = self.reloads.under_way.iter().map(Order::giver).collect();
        let (reply, message) = match reloaded {
            Ok(wiring) => {
                let message = self.reloads.rejected.take().map(|_| messages::accepted(&wiring, &by));
                self.waits = Some(wiring);
                self.put_in_force_what_waits();
                let reply = match self.waits {
                    None => Reply::done(format!("in force: {} policies", self.wiring.config.policies.len())),
                    Some(_) => Reply::done("accepted; in force once what is being begun has begun"),
                };
                (reply, message)
            }
            Err(rejection) => {
                let (reply, message) = self.rejected(rejection, &by);
                (reply, Some(message))
            }
        };
        self.manager.ready();
        let event = message.as_ref().map(|message| message.event);
        message.into_iter().for_each(|message| self.tell(message));
        let (orders, wiring) = (std::mem::take(&mut self.reloads.under_way), self.wiring.clone());
        self.scribe.write(move |store| {
            orders.into_iter().for_each(|order| order.answer(reply.clone()));
            orders::tell_beside(&wiring, store, event);
        });
        self.read_anew();
    }

    fn rejected(&mut self, Rejection { what, in_full }: Rejection, by: &[String]) -> (Reply, Message) {
        let (at, in_force_since) = (self.wiring.host.clock.now(), self.reloads.since);
        let rejected = RejectedConfiguration { at, why: what, in_force_since };
        let message = messages::rejected(&self.wiring, &rejected, &in_full, by);
        let said = format!("{}; the configuration of {in_force_since:.0} stays in force", rejected.why);
        self.reloads.rejected = Some(rejected);
        self.post();
        (Reply::refused([said, in_full].join("\n\n").trim_end()), message)
    }

    /// Not while something is being begun: it takes its slot by the configuration that it was considered by.
    pub(super) fn put_in_force_what_waits(&mut self) {
        if !self.begins_anything()
            && let Some(wiring) = self.waits.take()
        {
            self.put_in_force(wiring);
        }
    }

    /// Nobody watches a breach of which the configuration in force does not speak.
    pub(super) fn keep_log(&mut self) {
        let config = &self.wiring.config;
        let selects = |policy: &str, service: &ServiceName| {
            config.policies.iter().any(|one| one.name == policy && config.selects(one, service).is_some())
        };
        self.log.keep(&self.detector, selects, self.wiring.host.clock.now());
    }

    fn put_in_force(&mut self, mut wiring: Wiring) {
        wiring.tally = Arc::clone(&self.wiring.tally);
        let (before, config) = (&self.wiring.config.policies, Arc::clone(&wiring.config));
        self.detector
            .keep_unchanged(before, &config.policies, |policy, service| config.selects(policy, service).is_some());
        self.attention = Attention::new(&wiring.config);
        wiring.keep_fleet_of(&self.wiring);
        self.wiring = wiring;
        self.keep_log();
        self.write_breaches();
        self.configuration += 1;
        self.reloads.since = self.wiring.host.clock.now();
        self.wiring.follow_fleet(&self.store, self.sagas.is_empty());
        self.delivery = delivery::Delivery::start(delivery::of(&self.wiring, &self.store));
        self.open_board();
        let wiring = self.wiring.clone();
        self.scribe.write(move |store| {
            review::note_policies(&wiring, store);
            approvals::withdraw(&wiring, store);
        });
        // New adapters hold the drains that they find.
        self.sweep_due = std::time::Duration::ZERO;
        self.held.clear();
        // What the former one asked for is considered anew at the next look.
        self.put_off_what_waits(ANOTHER);
        self.keep_last_good();
        tracing::info!(
            policies = self.wiring.config.policies.len(),
            "a new configuration is in force; policies: {}",
            self.wiring.config.policies.len(),
        );
    }

    /// Where one is being kept, its end begins the next.
    pub(super) fn keep_last_good(&mut self) {
        let (dir, state) = (self.config_dir.clone(), self.wiring.config.host.state.clone());
        let (configuration, kept) = (self.configuration, on_blocking_thread(move || last_good::keep(&dir, &state)));
        self.beside.start(Kind::LastGood, async move {
            kept.await;
            Event::Kept(configuration)
        });
    }
}

/// The configuration as its files have it now, with its adapters.
fn reloaded(dir: &Path, former: &Wiring) -> Result<Wiring, Rejection> {
    let config = config::load(dir)?;
    if config.host.state != former.config.host.state {
        return Err(Rejection::from("`state` cannot be changed while the agent runs; restart it".to_owned()));
    }
    Wiring::new(config, former.host.clone(), Some(former)).map_err(|error| Rejection::from(error.to_string()))
}
