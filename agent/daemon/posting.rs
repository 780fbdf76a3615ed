//! What the agent makes known after each tick, from what it knows: nobody is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::agent::Agent;
use super::beside::Kind;
use super::event::Event;
use crate::decide::inaction::{self, Standing};
use crate::model::{Policy, Reason, ServiceName};
use crate::store::{Breaker, StoreError};
use crate::view::bulletin::{Bulletin, CertificateOf, HeldService};
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
        self.board.serve(&self.wiring);
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
            held: self.why_not(&seen),
            breached: self.breached(),
            certificates: certificates(&self.wiring),
            verdicts: self.wiring.tally.read().map(|(guard, verdict, count)| (guard.into(), verdict, count)).collect(),
            ..seen
        }
    }

    /// For each of the services, and each policy that selects it, why nothing is being done.
    fn why_not(&self, seen: &Bulletin) -> Vec<HeldService> {
        let mut all = Vec::new();
        for (service, readings) in &seen.services {
            if seen.under_way.iter().any(|open| open.service == *service) {
                continue;
            }
            let held = |policy, reason| HeldService { service: service.clone(), policy, reason };
            let selecting = self.wiring.config.selecting(service);
            if selecting.is_empty() {
                all.push(held(None, Reason::NoPolicy));
            }
            for policy in selecting {
                let key = (policy.name.clone(), service.clone());
                let standing = Standing {
                    policy,
                    readings,
                    watch: Some(self.detector.watch(&policy.name, service)),
                    refused: self.held.get(&key).map(|held| held.refusal.reason),
                    breaker_is_open: seen.open_breakers.iter().any(is_of(service, policy)),
                };
                all.extend(inaction::reason(standing).map(|reason| held(Some(policy.name.clone()), reason)));
            }
        }
        all
    }

    fn breached(&self) -> Vec<(ServiceName, String)> {
        let of = |policy: &Policy| {
            let services: Vec<_> = self.detector.breached(&policy.name).cloned().collect();
            services.into_iter().map(|service| (service, policy.name.clone())).collect::<Vec<_>>()
        };
        self.wiring.config.policies.iter().flat_map(of).collect()
    }
}

fn is_of<'a>(service: &'a ServiceName, policy: &'a Policy) -> impl Fn(&Breaker) -> bool + 'a {
    |breaker| breaker.service == service.as_str() && breaker.policy == policy.name
}
