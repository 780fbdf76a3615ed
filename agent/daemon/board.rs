//! What the loop makes known over HTTP: after each tick a bulletin is filled from what the agent knows, without asking
//! anybody. Nothing is filled where nobody listens.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, HttpConfig};
use crate::measure::Meter;
use crate::model::census::NoOwner;
use crate::model::policy::Selector;
use crate::model::{Policy, Reading, Readings, ServiceName, Signal};
use crate::sense::sensor::Look;
use crate::serve::hints::Hints;
use crate::serve::{MOST_SERVICES, Served, Server};
use crate::store::{StateDir, Store};
use crate::view::bulletin::{Bulletin, Work};
use crate::wiring::Wiring;

/// The bulletins, and who reads them.
#[derive(Debug)]
pub struct Board {
    /// The agent started then.
    started: Timestamp,
    posted: watch::Sender<Arc<Bulletin>>,
    /// Hears that a look is wanted now.
    look_now: mpsc::Sender<()>,
    server: Option<(HttpConfig, Server)>,
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
    pub fn new(started: Timestamp, look_now: mpsc::Sender<()>) -> Self {
        let (posted, _) = watch::channel(Arc::default());
        Self { started, posted, look_now, server: None, work: Work::default(), ticked: None, seen: None }
    }

    /// Serves where the configuration says; a server that stands there already stays.
    pub fn serve(&mut self, wiring: &Wiring, store: &Arc<Store>) {
        let http = &wiring.config.host.http;
        if self.server.as_ref().map(|(of, _)| of) == http.as_ref() {
            return;
        }
        // The one before gives its address back first.
        self.server = None;
        let Some(http) = http else { return };
        let listen = http.listen;
        let served = Served {
            host: wiring.host.name.clone(),
            hosts: http.hosts.clone(),
            bulletins: self.posted.subscribe(),
            hints: wiring
                .hint_token
                .clone()
                .map(|token| Hints { token: Arc::new(move || token.read_again()), look_now: self.look_now.clone() }),
            store: Arc::clone(store),
            evidence: StateDir::evidence_of(&wiring.config.host.state),
            clock: Arc::clone(&wiring.host.clock),
        };
        match Server::start(listen, served) {
            Ok(server) => self.server = Some((http.clone(), server)),
            Err(error) => tracing::error!(
                %error,
                "cannot start the HTTP server on {listen}: {error}; the status page, /metrics, /healthz and /readyz are not served",
            ),
        }
    }

    /// With what the board itself knows.
    pub fn filled(&self, bulletin: Bulletin, config: &Config) -> Bulletin {
        let mut work = self.work.clone();
        for policy in &config.policies {
            work.breaches.entry(policy.name.clone()).or_default();
        }
        let bulletin = Bulletin { started: (self.started, bulletin.started.1), ticked: self.ticked, work, ..bulletin };
        let Some(seen) = &self.seen else { return bulletin };
        Bulletin {
            looked: Some(seen.at),
            host_close_wait: Some(seen.host_close_wait as f64),
            unattributed: seen.unattributed.clone(),
            services: seen.services.clone(),
            services_left_out: seen.left_out,
            ..bulletin
        }
    }

    /// From now on this one is shown.
    pub fn publish(&self, bulletin: Bulletin) {
        self.posted.send_replace(Arc::new(bulletin));
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
