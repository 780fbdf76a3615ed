//! What the agent makes known after each tick, from what it knows: nobody is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::agent::Agent;
use super::beside::Kind;
use super::duties::slots;
use super::event::Event;
use crate::decide::inaction::{self, Standing};
use crate::model::policy::Comparison;
use crate::model::{HostBreach, Policy, Readings, Reason, ServiceName};
use crate::store::{Breaker, StoreError};
use crate::view::bulletin::{Bulletin, CertificateOf};
use crate::view::explanation::{self, Explanation, PolicyExplained, explained, truth};
use crate::view::slots::{FleetSlots, SlotsShown};
use crate::wiring::Wiring;

/// Of several of one name, in a bundle for a change of CA, the one that ends first.
fn certificates(wiring: &Wiring) -> BTreeMap<CertificateOf, Timestamp> {
    let mut ends = BTreeMap::new();
    for (connection, whose, certificate) in wiring.certificates() {
        let of = CertificateOf { connection, whose: whose.into(), subject: certificate.subject };
        let end = ends.entry(of).or_insert(certificate.until);
        *end = certificate.until.min(*end);
    }
    ends
}

impl Agent {
    /// Serves what the configuration in force asks for.
    pub(crate) fn open_board(&mut self) {
        // Nobody reads of an agent that has never been.
        self.publish();
        self.board.serve(&self.wiring, &self.store);
    }

    /// Makes known what is so now, once the store has told its part.
    pub(crate) fn post(&mut self) {
        if self.wiring.config.host.http.is_none() {
            return;
        }
        // What is being read may be older than what has changed.
        self.is_outdated = self.beside.is_under_way(&Kind::Stored);
        let read = self.to_store();
        self.beside
            .start(Kind::Stored, async move { Event::Stored(Box::new(read().map_err(|error| error.to_string()))) });
    }

    /// Asks the store for its part.
    pub(super) fn to_store(&self) -> impl FnOnce() -> Result<Bulletin, StoreError> + Send + 'static {
        let (store, now) = (Arc::clone(&self.store), self.wiring.host.clock.now());
        let destinations: Vec<String> = self.wiring.config.host.notify.iter().map(|to| to.name.clone()).collect();
        move || Bulletin::of_store(&store, destinations.iter().map(String::as_str), now)
    }

    pub(super) fn stored(&mut self, stored: Result<Bulletin, String>) {
        match stored {
            Ok(stored) => self.stored = stored,
            Err(error) => {
                self.stored.observe_only = self.store.health().says();
                tracing::warn!(error, "cannot read the store for /metrics: {error}; what it said last is served on",);
            }
        }
        self.publish();
        if std::mem::take(&mut self.is_outdated) {
            self.post();
        }
    }

    /// Reads the fleet's slots, for who looks at the page: a page itself asks nobody.
    pub(super) fn read_fleet_slots(&mut self) {
        if self.wiring.config.host.http.is_none() || self.wiring.ports.fleet.is_none() {
            return;
        }
        let wiring = self.wiring.clone();
        self.beside.start(Kind::FleetSlots, async move {
            let held = slots::held(&wiring, None).await;
            let read = Some(wiring.host.clock.now());
            Event::FleetSlots(match held {
                Ok(shown) => FleetSlots { read, unread: None, shown },
                Err(error) => FleetSlots { read, unread: Some(error.to_string()), shown: SlotsShown::default() },
            })
        });
    }

    /// Lets whoever looks at the fleet know how this host is, where that has changed.
    pub(super) fn tell_fleet(&mut self) {
        if self.wiring.ports.fleet.is_none() {
            return;
        }
        let Some(mut tells) = self.tells_fleet.take() else { return };
        let (wiring, store) = (self.wiring.clone(), Arc::clone(&self.store));
        let (breaches, measures) = (self.host_breaches(), self.last_failure.is_none());
        self.beside.start(Kind::FleetStatus, async move {
            tells.follow(&wiring, &store, breaches, measures).await;
            Event::ToldFleet(tells)
        });
    }

    fn host_breaches(&self) -> Vec<HostBreach> {
        let (now, clock) = (self.wiring.host.clock.now(), self.wiring.host.clock.monotonic());
        let of = |(service, policy): (ServiceName, String)| {
            let since = now - clock.saturating_sub(self.detector.breached_since(&policy, &service).unwrap_or(clock));
            // To the minute: the two clocks go apart by less from look to look.
            let since = Timestamp::from_second(since.as_second().div_euclid(60) * 60).unwrap_or(since);
            let held = self.held.get(&(policy.clone(), service.clone()));
            HostBreach {
                service: service.to_string(),
                held: held.map(|held| held.refusal.reason.to_string()),
                policy,
                since,
            }
        };
        self.breached().into_iter().map(of).collect()
    }

    fn publish(&self) {
        if self.wiring.config.host.http.is_some() {
            self.board.publish(self.bulletin());
        }
    }

    fn bulletin(&self) -> Bulletin {
        let config = &self.wiring.config;
        let seen = self.board.filled(self.stored.clone(), config);
        Bulletin {
            version: env!("CARGO_PKG_VERSION"),
            started: (seen.started.0, self.started),
            period: self.attention.period(),
            rejected_configuration: self.reloads.rejected.is_some(),
            not_measuring: self.last_failure.clone(),
            explained: self.explanations(&seen),
            limits: config.policies.iter().map(limits).collect(),
            agent: Some(self.now()),
            fleet_slots: self.fleet_slots.clone().filter(|_| self.wiring.ports.fleet.is_some()),
            breached: self.breached(),
            certificates: certificates(&self.wiring),
            verdicts: self.wiring.tally.read().map(|(guard, verdict, count)| (guard.into(), verdict, count)).collect(),
            ..seen
        }
    }

    /// Each of the services, as far as it is known without asking anybody: the guard that refused last is noted.
    fn explanations(&self, seen: &Bulletin) -> Vec<Explanation> {
        let clock = &self.wiring.host.clock;
        let (now, wall) = (clock.monotonic(), clock.now());
        let explain = |(service, readings): &(ServiceName, Readings)| {
            let under_way = seen.under_way.iter().find(|open| open.service == *service);
            let selecting = self.wiring.config.selecting(service);
            let no_policy = selecting.is_empty() && under_way.is_none();
            let policies = selecting.into_iter().map(|policy| {
                let watch = self.detector.watch(&policy.name, service);
                let refusal = self.held.get(&(policy.name.clone(), service.clone())).map(|held| held.refusal.clone());
                let breaker = seen.open_breakers.iter().find(|breaker| is_of(service, policy)(breaker));
                let standing = Standing {
                    policy,
                    readings,
                    watch: Some(watch),
                    refused: refusal.as_ref().map(|refusal| refusal.reason),
                    breaker_is_open: breaker.is_some(),
                };
                let since = self.detector.held_since(&policy.name, service);
                PolicyExplained {
                    policy: policy.name.clone(),
                    mode: policy.mode.to_string(),
                    held_mode: policy.held_mode.clone(),
                    when: explained(&policy.when, readings, 0),
                    holds: truth(policy.when.truth(readings)).into(),
                    standing: explanation::standing(watch, policy, now),
                    held_since: since.map(|since| wall - now.saturating_sub(since)),
                    nothing_is_done: inaction::reason(standing).filter(|_| under_way.is_none()),
                    breaker: breaker.cloned(),
                    // Which of several it would be, only the store knows.
                    runbook: (policy.rungs().count() == 1).then(|| policy.runbook.name.clone()),
                    rung: None,
                    held_by: refusal.into_iter().collect(),
                }
            });
            Explanation {
                service: service.clone(),
                signals: readings.clone(),
                policies: policies.collect(),
                nothing_is_done: no_policy.then_some(Reason::NoPolicy),
                under_way: under_way.map(|open| open.incident.clone()),
                one_look: false,
            }
        };
        seen.services.iter().map(explain).collect()
    }

    fn breached(&self) -> Vec<(ServiceName, String)> {
        let of = |policy: &Policy| {
            let services: Vec<_> = self.detector.breached(&policy.name).cloned().collect();
            services.into_iter().map(|service| (service, policy.name.clone())).collect::<Vec<_>>()
        };
        self.wiring.config.policies.iter().flat_map(of).collect()
    }
}

fn limits(policy: &Policy) -> (String, Vec<Comparison>) {
    (policy.name.clone(), policy.when.comparisons().into_iter().cloned().collect())
}

fn is_of<'a>(service: &'a ServiceName, policy: &'a Policy) -> impl Fn(&Breaker) -> bool + 'a {
    |breaker| breaker.service == service.as_str() && breaker.policy == policy.name
}
