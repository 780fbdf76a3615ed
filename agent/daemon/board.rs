//! What the loop makes known over HTTP: after each tick a bulletin is filled from what the agent knows, without asking
//! anybody. Nothing is filled where nobody listens.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::agent::Agent;
use super::explain;
use crate::config::Config;
use crate::decide::inaction::{self, Standing};
use crate::measure::Meter;
use crate::model::census::NoOwner;
use crate::model::policy::Selector;
use crate::model::{Policy, Reading, Readings, Reason, ServiceName, Signal};
use crate::sense::sensor::Look;
use crate::serve::{Bulletin, CertificateOf, HeldService, Incidents, MOST_SERVICES, Server, UnderWay, Work};
use crate::store::{Health, OpenIncident, Store, StoreError};
use crate::view::incident::step_under_way;
use crate::wiring::Wiring;

/// The bulletins, and who reads them.
#[derive(Debug)]
pub struct Board {
    /// The agent started then.
    started: Timestamp,
    posted: watch::Sender<Arc<Bulletin>>,
    server: Option<(SocketAddr, Server)>,
    work: Work,
    ticked: Option<Duration>,
    seen: Option<LastLook>,
}

/// What the last look at everything saw.
#[derive(Debug)]
struct LastLook {
    at: Timestamp,
    host_close_wait: u64,
    unattributed: BTreeMap<NoOwner, u64>,
    /// Those that are listed.
    services: Vec<(ServiceName, Readings)>,
    left_out: usize,
}

impl Board {
    pub fn new(started: Timestamp) -> Self {
        let (posted, _) = watch::channel(Arc::default());
        Self { started, posted, server: None, work: Work::default(), ticked: None, seen: None }
    }

    /// Serves where the configuration says; a server that stands there already stays.
    fn serve(&mut self, wiring: &Wiring) {
        let listen = wiring.config.host.http;
        if self.server.as_ref().map(|(at, _)| *at) == listen {
            return;
        }
        // The one before gives its address back first.
        self.server = None;
        let Some(listen) = listen else { return };
        let clock = Arc::clone(&wiring.host.clock);
        match Server::start(listen, self.posted.subscribe(), Arc::new(move || clock.monotonic())) {
            Ok(server) => self.server = Some((listen, server)),
            Err(error) => tracing::error!(%error, "no metrics are served"),
        }
    }

    pub fn breached(&mut self, policy: &Policy) {
        *self.work.breaches.entry(policy.name.clone()).or_default() += 1;
    }

    /// A look that gave something. One that passed namespaces over says nothing of what lies in them: what was seen
    /// at the last whole look, a minute ago at the most, stands.
    pub fn looked(&mut self, look: &Look, listed: Option<Listed>) {
        self.work.looking += look.cost;
        if look.measurements.untrusted.is_some() {
            return self.not_looked();
        }
        let Some(Listed { services, left_out }) = listed else { return };
        self.seen = Some(LastLook {
            at: look.measurements.at,
            host_close_wait: look.host_close_wait,
            unattributed: look.unattributed.clone(),
            services,
            left_out,
        });
    }

    pub fn not_looked(&mut self) {
        self.work.failed_looks += 1;
        self.seen = None;
    }

    /// A tick is over, which began at `begun` (since boot).
    pub fn ticked(&mut self, begun: Duration, now: Duration) {
        self.work.ticks += 1;
        self.work.in_ticks += now.saturating_sub(begun);
        self.ticked = Some(now);
    }
}

/// The services that a bulletin speaks of, and how many are left out: the configured ones first, then those with the
/// most sockets.
#[derive(Debug)]
pub(super) struct Listed {
    services: Vec<(ServiceName, Readings)>,
    left_out: usize,
}

impl Listed {
    /// `None` where nobody reads of them, or the look passed some over.
    pub fn of(wiring: &Wiring, look: &Look, meter: &Meter) -> Option<Self> {
        let is_whole = look.passed_over.namespaces == 0 && look.measurements.untrusted.is_none();
        (is_whole && wiring.config.host.http.is_some()).then(|| listed(&wiring.config, look, meter))
    }
}

fn listed(config: &Config, look: &Look, meter: &Meter) -> Listed {
    let in_full = config.policies.iter().flat_map(|policy| &policy.services).filter_map(|selector| match selector {
        Selector::Name(name) => ServiceName::parse(name).ok(),
        Selector::Glob(_) | Selector::Label { .. } => None,
    });
    let named: BTreeSet<ServiceName> = config.host.services.keys().cloned().chain(in_full).collect();
    let measured = &look.measurements;
    let holding = {
        let holds = |(service, _): &(&ServiceName, &Readings)| meter.has_held(service);
        let count = |readings: &Readings| match readings.get(Signal::CloseWait) {
            Reading::Known(count) => count as u64,
            Reading::Unknown => 0,
        };
        measured.services().filter(holds).map(|(service, readings)| (service.clone(), count(readings))).collect()
    };
    let (listed, left_out) = bounded(named, holding);
    let services = listed.into_iter().map(|service| (service.clone(), measured.of(&service))).collect();
    Listed { services, left_out }
}

/// `holding`: with how many sockets.
fn bounded(named: BTreeSet<ServiceName>, mut holding: Vec<(ServiceName, u64)>) -> (Vec<ServiceName>, usize) {
    holding.retain(|(service, _)| !named.contains(service));
    holding.sort_by_key(|(_, count)| Reverse(*count));
    let left_out = (named.len() + holding.len()).saturating_sub(MOST_SERVICES);
    let listed = named.into_iter().chain(holding.into_iter().map(|(service, _)| service)).take(MOST_SERVICES);
    (listed.collect(), left_out)
}

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
        self.post();
        self.board.serve(&self.wiring);
    }

    /// Makes known what is so now.
    pub(crate) fn post(&self) {
        if self.wiring.config.host.http.is_none() {
            return;
        }
        match self.bulletin() {
            Ok(bulletin) => drop(self.board.posted.send_replace(Arc::new(bulletin))),
            // What stands on the board is as old as `ticked` in it says.
            Err(error) => tracing::warn!(%error, "nothing could be made known"),
        }
    }

    fn bulletin(&self) -> Result<Bulletin, StoreError> {
        let (store, board, config) = (&self.store, &self.board, &self.wiring.config);
        let now = self.wiring.host.clock.now();
        let seen = board.seen.as_ref();
        let open = store.open_incidents()?;
        let breakers: Vec<_> = store.breakers()?.into_iter().map(|breaker| (breaker.service, breaker.policy)).collect();
        let mut work = board.work.clone();
        for policy in &config.policies {
            work.breaches.entry(policy.name.clone()).or_default();
        }
        Ok(Bulletin {
            version: env!("CARGO_PKG_VERSION"),
            started: (board.started, self.started),
            ticked: board.ticked,
            period: self.attention.period(),
            work,
            looked: seen.map(|seen| seen.at),
            not_measuring: self.last_failure.clone(),
            observe_only: store.health() == Health::Failing,
            paused: Some(store.paused(now)?.is_some()),
            host_close_wait: seen.map(|seen| seen.host_close_wait as f64),
            unattributed: seen.map(|seen| seen.unattributed.clone()).unwrap_or_default(),
            services: seen.map(|seen| seen.services.clone()).unwrap_or_default(),
            services_left_out: seen.map_or(0, |seen| seen.left_out),
            held: seen.map(|seen| self.why_not(&seen.services, &open, &breakers)).unwrap_or_default(),
            breached: self.breached(),
            under_way: open.iter().map(under_way).collect(),
            incidents: incidents(store)?,
            latched: store.latches()?.into_iter().map(|latch| (latch.service, latch.reason)).collect(),
            open_breakers: breakers,
            outbox: self.undelivered()?,
            slots: store.slots_noted()?.into_iter().map(|(scope, count)| (scope, count.into())).collect(),
            certificates: certificates(&self.wiring),
            verdicts: self.wiring.tally.read().map(|(guard, verdict, count)| (guard.into(), verdict, count)).collect(),
        })
    }

    /// For each of the services, and each policy that selects it, why nothing is being done.
    fn why_not(
        &self,
        services: &[(ServiceName, Readings)],
        open: &[OpenIncident],
        breakers: &[(String, String)],
    ) -> Vec<HeldService> {
        let mut all = Vec::new();
        for (service, readings) in services {
            if open.iter().any(|open| open.plan.target.service == *service) {
                continue;
            }
            let held = |policy, reason| HeldService { service: service.clone(), policy, reason };
            let selecting = explain::selecting(&self.wiring.config, service);
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
                    breaker_is_open: breakers.iter().any(|(at, by)| at == service.as_str() && *by == policy.name),
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

    /// Of every destination, also those that have taken everything.
    fn undelivered(&self) -> Result<BTreeMap<String, (u64, Option<Timestamp>)>, StoreError> {
        let mut all: BTreeMap<_, _> =
            self.wiring.config.host.notify.iter().map(|to| (to.name.clone(), (0, None))).collect();
        for (to, undelivered) in self.store.undelivered_by_destination()? {
            all.insert(to, (undelivered.count.into(), Some(undelivered.oldest)));
        }
        Ok(all)
    }
}

fn incidents(store: &Store) -> Result<Vec<Incidents>, StoreError> {
    let ended = store.ended_so_far()?.into_iter();
    Ok(ended
        .map(|ended| Incidents {
            outcome: ended.outcome,
            reason: ended.reason,
            dry_run: ended.dry_run,
            count: ended.count.into(),
        })
        .collect())
}

fn under_way(open: &OpenIncident) -> UnderWay {
    let plan = &open.plan;
    UnderWay {
        service: plan.target.service.clone(),
        policy: plan.policy.clone(),
        runbook: plan.runbook.clone(),
        step: step_under_way(open),
        dry_run: plan.dry_run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_are_listed_then_those_with_most_sockets_and_never_more_than_the_bound() {
        let service = |name: &str| ServiceName::parse(&format!("{name}.service")).unwrap();
        let named = BTreeSet::from([service("named"), service("also-holding")]);
        let holding = |count: u64| {
            let leaking = (0..count).map(|at| (service(&format!("leaking-{at}")), at));
            leaking.chain([(service("also-holding"), 9)]).collect::<Vec<_>>()
        };
        let expected = ["also-holding", "named", "leaking-2", "leaking-1", "leaking-0"].map(service);
        assert_eq!(bounded(named.clone(), holding(3)), (expected.to_vec(), 0));

        let most = MOST_SERVICES as u64;
        let (listed, left_out) = bounded(named, holding(most));
        assert_eq!((listed.len(), left_out), (MOST_SERVICES, 2));
        assert_eq!(listed.last(), Some(&service("leaking-2")), "those with the fewest are left out");
    }
}
