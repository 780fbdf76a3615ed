//! From a look to a saga: policies are judged at once, the guards are asked beside the loop, each breach by itself; what
//! none of them is against is begun one after another, since only one at a time may take a slot.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::agent::Agent;
use super::beside::Kind;
use super::duties::held::{self, HeldBreach};
use super::duties::orders::OrderToBegin;
use super::duties::{approvals, breach_log, breaches, breaker, gone, messages};
use super::event::{Beginning, Begun, Considered, Ended, Event, SlotTaken, refuse};
use crate::decide::detector::{Change, Watch};
use crate::decide::guards::{Gate, Guard, Refusal};
use crate::execute::driver;
use crate::execute::journal::Journal;
use crate::execute::saga::Saga;
use crate::execute::tell::MessageBuilder;
use crate::execute::world::World;
use crate::execute::would;
use crate::measure::Measurements;
use crate::model::{Mode, Plan, Policy, Readings, Reason, Runbook, ServiceName, Signal, Trigger, Truth};
use crate::sense::sensor::{Effort, Look, on_blocking_thread};
use crate::store::Store;
use crate::view::request::Reply;
use crate::wiring::Wiring;
use crate::wiring::plans::{self, Proposal};

/// To who waits for what was asked of the former configuration.
pub(super) const ANOTHER: &str = "another configuration is in force by now; ask again";

impl Agent {
    /// What each policy makes of a look; what is in breach is considered.
    pub(super) fn decide(&mut self, look: &Look) {
        let wiring = self.wiring.clone();
        let measured = &look.measurements;
        let seen: BTreeSet<ServiceName> = measured
            .services()
            .map(|(service, _)| service.clone())
            .chain(self.detector.watched().cloned())
            .chain(self.log.left().cloned())
            .collect();
        let mut wanted: Vec<(Policy, ServiceName)> = Vec::new();
        for policy in &wiring.config.policies {
            for service in &seen {
                if wiring.config.selects(policy, service).is_none() {
                    continue;
                }
                let readings = measured.of(service);
                let (at, spacing) = (measured.monotonic, self.attention.spacing());
                let change = self.detector.tick(policy, service, &readings, at, spacing);
                self.log.tick(policy, service, &readings, change, measured.at);
                match change {
                    Some(Change::Breach) => {
                        self.board.breached(policy);
                        self.tell(messages::breach(&wiring, policy, service, &readings));
                    }
                    Some(Change::Cleared) => {
                        self.held.remove(&(policy.name.clone(), service.clone()));
                        self.tell(messages::recovered(&wiring, policy, service));
                    }
                    Some(Change::StillBreached) | None => {}
                }
                let breached = matches!(self.detector.watch(&policy.name, service), Watch::Breached { .. });
                if breached && policy.mode != Mode::Observe && policy.when.truth(&readings) == Truth::True {
                    wanted.push((policy.clone(), service.clone()));
                }
            }
        }
        self.end_silences(measured, &seen);
        self.write_breaches();
        self.publish_breaches();
        self.look_for_leaked(measured.monotonic);
        let under_way = self.under_way.clone();
        self.count_arrivals(&under_way);
        // What an incident under way is about needs no second decision, and is not held either.
        wanted.retain(|(_, service)| !under_way.contains(service));
        for (policy, service) in wanted {
            let readings = measured.of(&service);
            self.consider(policy, service, readings);
        }
    }

    /// Of services for which no policy's condition holds: known to be false, and no breach stands. An agent that has just started
    /// knows no socket as older than itself: it says nothing of a condition before that could have come to hold.
    pub(super) fn end_silences(&self, measured: &Measurements, seen: &BTreeSet<ServiceName>) {
        let config = &self.wiring.config;
        let watched_for = measured.monotonic.saturating_sub(self.started);
        let is_over = |policy: &Policy, service: &ServiceName| {
            let ages = policy.when.comparisons().into_iter().filter_map(|comparison| match comparison.signal {
                Signal::CloseWaitAged(age) => Some(age),
                signal => signal.watched_for(),
            });
            if watched_for < ages.max().unwrap_or_default() + policy.hold {
                return false;
            }
            let stands = matches!(self.detector.watch(&policy.name, service), Watch::Breached { .. });
            !stands && policy.when.truth(&measured.of(service)) == Truth::False
        };
        let is_clear = |service: &&ServiceName| {
            let policies = config.selecting(service);
            !policies.is_empty() && policies.into_iter().all(|policy| is_over(policy, service))
        };
        let clear: BTreeSet<ServiceName> = seen.iter().filter(is_clear).cloned().collect();
        let now = self.wiring.host.clock.now();
        self.scribe.write(move |store| {
            if let Err(error) = store.end_silences_when_clear(&clear, now) {
                tracing::error!(%error, "cannot end the silences whose condition is over: {error}; retrying at the next look");
            }
        });
    }

    fn publish_breaches(&mut self) {
        let breached = breaches::shared(&self.wiring.config, &self.detector);
        // Still being told of those before: the next look comes soon.
        let Some(mut published) = self.published.take() else { return };
        let wiring = self.wiring.clone();
        self.beside.start(Kind::Breaches, async move {
            published.follow(&wiring, &breached).await;
            Event::Published(published)
        });
    }

    /// Writes down what the review will read.
    pub(super) fn write_breaches(&mut self) {
        let notes = self.log.take();
        if !notes.is_empty() {
            self.scribe.write(move |store| breach_log::write(store, &notes));
        }
    }

    /// What became of the sockets that were leaked when a breach began.
    fn look_for_leaked(&mut self, now: Duration) {
        let sought = self.log.due(now);
        if !sought.is_empty() {
            let wiring = self.wiring.clone();
            let found = async move { Event::FoundSockets(breach_log::look(&wiring, sought).await) };
            self.beside.start(Kind::LeakedSockets, found);
        }
    }

    /// New connections are counted of whatever may be drained soon, or is.
    fn count_arrivals(&mut self, under_way: &BTreeSet<ServiceName>) {
        let mut counted = under_way.clone();
        for policy in self.wiring.config.policies.iter().filter(|policy| policy.mode.acts()) {
            if policy.rungs().any(Runbook::drains) {
                counted.extend(self.detector.held_or_breached(&policy.name).cloned());
            }
        }
        if counted.is_empty() {
            return self.wiring.arrivals.end();
        }
        let wiring = self.wiring.clone();
        self.beside.start_quietly(
            Kind::Arrivals,
            on_blocking_thread(move || {
                let mut sensor = wiring.sensor.lock();
                wiring.arrivals.only(&counted, &mut sensor, wiring.host.clock.as_ref());
            }),
        );
    }

    /// A breach stands: the guards are asked whether its plan may begin.
    fn consider(&mut self, policy: Policy, service: ServiceName, readings: Readings) {
        let is_next = |next: &Beginning| {
            next.policy.name == policy.name && next.proposal.plan.target.service == service && next.order.is_none()
        };
        let kind = Kind::Guards(policy.name.clone(), service.clone());
        let under_way = [&self.being_begun, &self.takes_slot].into_iter().flatten();
        let is_being_begun = under_way.into_iter().any(|(of, at)| *of == policy.name && *at == service);
        let waits = self.to_begin.iter().chain(&self.to_take_slot).any(is_next);
        if is_being_begun || waits || self.beside.is_under_way(&kind) {
            return;
        }
        let breached = self.detector.breached_since(&policy.name, &service);
        let (wiring, store, started) = (self.wiring.clone(), Arc::clone(&self.store), self.started);
        let configuration = self.configuration;
        self.beside.start(kind, async move {
            let dry_run = plans::is_dry(&policy) || breaker::is_open(&wiring, &store, &policy, &service);
            let proposal = plans::propose(&wiring, &store, &policy, &service, Trigger::Breach, dry_run).await;
            let proposal = Proposal { breached, ..proposal };
            let world = wiring.world_of(&proposal.plan, &store, started);
            let beginning = Beginning { proposal, world, policy, readings, configuration, order: None, slot: None };
            Event::Considered(Box::new(ask(&wiring, &store, started, beginning).await))
        });
    }

    /// A person asks for it.
    pub(super) fn act(&mut self, service: String, policy: Option<String>, dry_run: bool, order: OrderToBegin) {
        let (wiring, store, started) = (self.wiring.clone(), Arc::clone(&self.store), self.started);
        let configuration = self.configuration;
        self.beside_a_person(async move {
            let who = order.row.who.clone();
            let order = order.begin(&store);
            let chosen = ServiceName::parse(&service).and_then(|service| {
                let policy = wiring.config.choose(&service, policy.as_deref())?.clone();
                Ok((service, policy))
            });
            let (service, policy) = match chosen {
                Ok(chosen) => chosen,
                Err(error) => {
                    order.answer(Reply::refused(error));
                    return Event::Over;
                }
            };
            let proposal = plans::propose(&wiring, &store, &policy, &service, Trigger::Person { who }, dry_run).await;
            let (sensor, of) = (wiring.sensor.clone(), service);
            let look =
                on_blocking_thread(move || sensor.lock().look(Effort::Afresh).map(|look| look.measurements.of(&of)));
            let readings = look.await.unwrap_or_default();
            let world = wiring.world_of(&proposal.plan, &store, started);
            let order = Some(order);
            let beginning = Beginning { proposal, world, policy, readings, configuration, order, slot: None };
            Event::Considered(Box::new(ask(&wiring, &store, started, beginning).await))
        });
    }

    pub(super) fn considered(&mut self, considered: Considered) {
        let Considered { beginning, answer, another_tells } = considered;
        let ending = *self.stop.borrow();
        match answer {
            _ if ending => beginning.put_off(&self.scribe, "the agent is ending"),
            // The configuration in force may want something else.
            _ if beginning.configuration != self.configuration => beginning.put_off(&self.scribe, ANOTHER),
            _ if !self.still_stands(&beginning) => {}
            Ok(()) if beginning.proposal.plan.guards.fleet_slots.is_some() => {
                self.to_take_slot.push_back(beginning);
                self.take_next_slot();
            }
            Ok(()) => {
                self.to_begin.push_back(beginning);
                self.begin_next();
            }
            Err(refusal) => {
                if refusal.reason == Reason::NeedsApproval {
                    self.ask_people(&beginning);
                }
                self.refused(beginning, refusal, another_tells);
            }
        }
    }

    /// By the configuration in force: one that is put in force later withdraws it after this, in the scribe's order.
    fn ask_people(&self, Beginning { policy, readings, proposal, .. }: &Beginning) {
        let (wiring, policy, plan) = (self.wiring.clone(), policy.clone(), proposal.plan.clone());
        let why = messages::why(&policy, readings);
        self.scribe.write(move |store| approvals::ask(&wiring, store, &policy, &plan, why));
    }

    /// Takes the slot of what needs one next, where no other is being taken.
    fn take_next_slot(&mut self) {
        if self.beside.is_under_way(&Kind::Slot) {
            return;
        }
        let Some(mut beginning) = self.to_take_slot.pop_front() else { return };
        if !self.still_stands(&beginning) {
            return self.take_next_slot();
        }
        let wiring = self.wiring.clone();
        let gate = wiring.gate(&self.store, &beginning.world.ports, self.started);
        let slots = Arc::clone(&self.slots);
        self.takes_slot = Some((beginning.policy.name.clone(), beginning.proposal.plan.target.service.clone()));
        self.beside.start(Kind::Slot, async move {
            // A slot that is noted before its incident is would be given back.
            let taking = slots.lock_owned().await;
            let answer = gate.ask_slot(&beginning.proposal.question()).await;
            beginning.slot = answer.is_ok().then_some(taking);
            if answer.as_ref().is_err_and(|refusal| refusal.reason == Reason::SlotTaken) {
                gone::tell(&wiring, &gate.store, &beginning.proposal.plan).await;
            }
            Event::SlotTaken(Box::new(SlotTaken { beginning, answer }))
        });
    }

    pub(super) fn slot_taken(&mut self, taken: SlotTaken) {
        let SlotTaken { beginning, answer } = taken;
        self.takes_slot = None;
        match answer {
            // What was taken is given back.
            _ if *self.stop.borrow() => beginning.put_off(&self.scribe, "the agent is ending"),
            _ if beginning.configuration != self.configuration => beginning.put_off(&self.scribe, ANOTHER),
            Ok(()) => {
                self.to_begin.push_back(beginning);
                self.begin_next();
            }
            Err(refusal) => self.refused(beginning, refusal, false),
        }
        self.released = Duration::ZERO;
        self.put_in_force_what_waits();
        self.take_next_slot();
    }

    /// A slot that one of them has is given back.
    pub(super) fn put_off_what_waits(&mut self, why: &str) {
        let waiting = self.to_begin.drain(..).chain(self.to_take_slot.drain(..));
        waiting.for_each(|waiting| waiting.put_off(&self.scribe, why));
        self.released = Duration::ZERO;
    }

    /// Commits the incident of what may begin next, where nothing else is being begun.
    fn begin_next(&mut self) {
        if self.beside.is_under_way(&Kind::Beginning) {
            return;
        }
        let Some(beginning) = self.to_begin.pop_front() else { return };
        if !self.still_stands(&beginning) {
            // A slot that it has is given back, and a configuration may have waited for it.
            self.released = Duration::ZERO;
            drop(beginning);
            self.put_in_force_what_waits();
            return self.begin_next();
        }
        let wiring = self.wiring.clone();
        let gate = wiring.gate(&self.store, &beginning.world.ports, self.started);
        self.being_begun = Some((beginning.policy.name.clone(), beginning.proposal.plan.target.service.clone()));
        self.beside.start(Kind::Beginning, async move {
            let began = begin(&beginning, &gate).await;
            let another_tells = match &began {
                Err(refusal) => is_told_elsewhere(&wiring, refusal, &beginning).await,
                Ok(()) => false,
            };
            Event::Begun(Box::new(Begun { beginning, began, another_tells }))
        });
    }

    /// A person asks for it, or the breach that does is the one of which it was considered.
    fn still_stands(&self, beginning: &Beginning) -> bool {
        let Beginning { policy, proposal, .. } = beginning;
        let since = self.detector.breached_since(&policy.name, &proposal.plan.target.service);
        beginning.is_a_persons() || since.is_some() && since == proposal.breached
    }

    pub(super) fn begun(&mut self, begun: Begun) {
        let Begun { beginning, began, another_tells } = begun;
        self.being_begun = None;
        match began {
            Ok(()) => {
                let Beginning { proposal: Proposal { plan, .. }, world, policy, order, .. } = beginning;
                let key = (policy.name, plan.target.service.clone());
                self.held.remove(&key);
                self.log.acts(&key, plan.dry_run, self.wiring.host.clock.now());
                self.write_breaches();
                let said = format!("incident {0} has begun; `unwait show {0}` follows it", plan.incident);
                if let Some(order) = order {
                    let order = order.about(Some(plan.incident.clone()));
                    self.scribe.write(move |_| order.answer(Reply::done(said)));
                }
                self.set_off(plan, world);
            }
            Err(refusal) => {
                self.refused(beginning, refusal, another_tells);
                // Its slot is not needed.
                self.released = Duration::ZERO;
            }
        }
        self.put_in_force_what_waits();
        self.begin_next();
    }

    fn set_off(&mut self, plan: Plan, world: World) {
        let stop = self.stop.clone();
        self.under_way.insert(plan.target.service.clone());
        self.sagas.spawn(async move {
            let driven = driver::drive(Saga::new(plan.clone()), Journal::new(), &world, stop).await;
            Ended { plan, driven }
        });
    }

    /// A person hears why not; of a breach that stands it is noted, and told where that is due.
    fn refused(&mut self, beginning: Beginning, refusal: Refusal, another_tells: bool) {
        let Beginning { proposal, policy, order, .. } = beginning;
        if order.is_some() {
            return refuse(&self.scribe, order, || refusal.to_string());
        }
        let service = &proposal.plan.target.service;
        if self.detector.breached_since(&policy.name, service).is_none() {
            return;
        }
        let key = (policy.name.clone(), service.clone());
        let now = self.wiring.host.clock.now();
        self.log.held(&key, refusal.guard, refusal.reason, now);
        self.write_breaches();
        let before = self.held.get(&key);
        let again = held::is_due(before, &refusal, now);
        let told = if again { Some((refusal.reason, now)) } else { before.and_then(|before| before.told) };
        if again && another_tells {
            tracing::warn!(
                %service,
                policy = policy.name,
                %refusal,
                "policy {} is held on {service}: {refusal}; another host sends the message",
                policy.name,
            );
        } else if again {
            let labels = self.wiring.labels();
            let teller =
                MessageBuilder { plan: &proposal.plan, host: &self.wiring.host.name, labels: &labels, at: now };
            self.tell(teller.held(&refusal, refusal.reason));
        }
        self.held.insert(key, HeldBreach { refusal, told });
        if !self.beside.asks_guards() {
            self.post();
        }
    }
}

/// Every guard but the slot's, which is asked when it is this plan's turn.
async fn ask(wiring: &Wiring, store: &Arc<Store>, started: Duration, beginning: Beginning) -> Considered {
    let gate = wiring.gate(store, &beginning.world.ports, started);
    let answer = gate.ask_but_slot(&beginning.proposal.question()).await;
    let another_tells = match &answer {
        Err(refusal) => is_told_elsewhere(wiring, refusal, &beginning).await,
        Ok(()) => false,
    };
    Considered { beginning, answer, another_tells }
}

/// Of many hosts that are held by one cause, one tells.
async fn is_told_elsewhere(wiring: &Wiring, refusal: &Refusal, beginning: &Beginning) -> bool {
    let service = &beginning.proposal.plan.target.service;
    refusal.reason == Reason::CommonCause && !breaches::tells_for_others(wiring, service).await
}

/// Asks all guards once more but the slot's, which it has where it needs one, and commits the incident.
async fn begin(beginning: &Beginning, gate: &Gate) -> Result<(), Refusal> {
    let Beginning { proposal, world, policy, readings, .. } = beginning;
    gate.ask_but_slot(&proposal.question()).await?;
    let plan = &proposal.plan;
    let mut why = messages::why(policy, readings);
    if plan.dry_run {
        why.extend(would::slot(plan, world).await);
    }
    let start = world.teller(plan).start(why);
    let (now, messages) = (world.clock.now(), std::slice::from_ref(&start));
    world.store.begin_incident(plan, now, &world.audience, messages).map_err(|error| Refusal {
        guard: Guard::Trust,
        reason: Reason::JournalNotWritable,
        detail: error.to_string(),
        until: None,
    })?;
    (world.on_message)(&start);
    Ok(())
}
