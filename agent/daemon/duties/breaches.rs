//! What the fleet knows of this host's breaches: those of policies with `common_cause` are published under a lease while
//! they last, whatever the policy's mode, and taken back when they are over. Where many are, all of them hold, and one
//! host tells.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::Config;
use crate::decide::detector::Detector;
use crate::model::{ServiceName, duration};
use crate::ports::fleet::Fleet;
use crate::wiring::{Wiring, plans};

/// A breach stands in the fleet for so many looks without being published again: a host that died is not counted for
/// long, and one that skips a look still is.
const LEASE_INTERVALS: u32 = 4;
/// The shortest lease: with looks a second apart, a slow store must not make a breach flicker.
const SHORTEST_LEASE: Duration = Duration::from_secs(60);
/// After a failure, the store is left alone for so long: it may take its whole deadline to fail again.
const RETRY_AFTER: Duration = Duration::from_secs(15);

/// What was published, and when it is to be again.
#[derive(Debug, Default)]
pub struct Published(BTreeMap<ServiceName, Entry>);

#[derive(Debug)]
struct Entry {
    /// The name that the instances are registered under; `None` until it could be read once.
    name: Option<String>,
    /// By the boot clock.
    due: Duration,
}

impl Published {
    /// Publishes what is in breach now, where that is due, and takes back what is not any more.
    pub async fn follow(&mut self, wiring: &Wiring, breached: &BTreeSet<ServiceName>) {
        let Some(fleet) = &wiring.ports.fleet else { return };
        let clock = &wiring.host.clock;
        let lease = SHORTEST_LEASE.max(wiring.config.host.interval * LEASE_INTERVALS);
        let now = clock.monotonic();
        for service in breached {
            let known = match self.0.get(service) {
                Some(entry) if now < entry.due => continue,
                Some(Entry { name: Some(name), .. }) => Ok(name.clone()),
                Some(Entry { name: None, .. }) | None => name(wiring, service).await,
            };
            let published = match &known {
                Ok(name) => {
                    let told = fleet.publish_breach(name, clock.now() + lease).await;
                    told.map_err(|error| error.to_string())
                }
                Err(why) => Err(format!("the registered name of the service is unknown: {why}")),
            };
            let due = match published {
                // Twice in a lease: one that is late does not end it.
                Ok(()) => now + lease / 2,
                Err(error) => {
                    tracing::warn!(
                        %service,
                        error,
                        "cannot tell the other hosts that a policy's condition holds for {service} (a breach): {error}; retrying in {}",
                        duration::format(RETRY_AFTER),
                    );
                    now + RETRY_AFTER
                }
            };
            self.0.insert(service.clone(), Entry { name: known.ok(), due });
        }
        let over: Vec<ServiceName> = self.0.keys().filter(|service| !breached.contains(*service)).cloned().collect();
        for service in over {
            if let Some(Entry { name: Some(name), .. }) = self.0.remove(&service)
                && let Err(error) = fleet.publish_breach(&name, clock.now() - Duration::from_secs(1)).await
            {
                tracing::warn!(
                    %service,
                    %error,
                    "cannot withdraw the shared breach of {service}: {error}; other hosts count it for up to {} more",
                    duration::format(lease),
                );
            }
        }
    }
}

/// The services in breach of which the fleet is told.
pub fn shared(config: &Config, detector: &Detector) -> BTreeSet<ServiceName> {
    let shared = config.policies.iter().filter(|policy| policy.guards.common_cause.is_some());
    shared.flat_map(|policy| detector.breached(&policy.name)).cloned().collect()
}

async fn name(wiring: &Wiring, service: &ServiceName) -> Result<String, String> {
    plans::scope(wiring, service, &wiring.config.target_for(service).bindings).await
}

/// Is this the host that tells of what holds many, such as a common cause? The first by name of those in breach. Where that cannot be known it is:
/// better told twice than never.
pub async fn tells_for_others(wiring: &Wiring, service: &ServiceName) -> bool {
    let Some(fleet) = &wiring.ports.fleet else { return true };
    match name(wiring, service).await {
        Ok(name) => is_first(fleet.as_ref(), &name, &wiring.host.name).await,
        Err(_) => true,
    }
}

async fn is_first(fleet: &dyn Fleet, name: &str, host: &str) -> bool {
    match fleet.breaches(name).await {
        Ok(hosts) => hosts.first().is_none_or(|first| first == host),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::ports::fleet::fake::FakeStore;

    #[tokio::test]
    async fn of_those_in_breach_the_first_by_name_tells_and_who_cannot_know_does() {
        let clock = Arc::new(ManualClock::new("2026-11-22T18:43:29Z".parse().unwrap()));
        let store = FakeStore::default();
        let hosts = ["bj1-01", "bj1-02", "bj1-03"].map(|name| (name, store.host(name, clock.clone())));
        let until = clock.now() + Duration::from_secs(60);
        for (_, fleet) in &hosts[1..] {
            fleet.publish_breach("rpc-order", until).await.unwrap();
        }
        let mut speaking = Vec::new();
        for (name, fleet) in &hosts {
            if is_first(fleet.as_ref(), "rpc-order", name).await {
                speaking.push(*name);
            }
        }
        assert_eq!(speaking, ["bj1-02"]);
        store.set_unreachable(true);
        assert!(is_first(hosts[2].1.as_ref(), "rpc-order", "bj1-03").await);
    }
}
