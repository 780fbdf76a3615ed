//! Delivery: takes what the outbox holds to its destinations. An incident never waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Wiring;
use crate::clock::Clock;
use crate::crash;
use crate::ports::notifier::{DeliveryError, Notifier};
use crate::store::{Outgoing, Store};

/// How often the outbox is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Messages a look; chat services take about one a second.
const AT_ONCE: usize = 20;
/// One try of one message.
const DEADLINE: Duration = Duration::from_secs(15);
/// For all that is due when the agent ends; systemd gives it 90 s in all.
const LAST: Duration = Duration::from_secs(10);
/// Doubled from try to try up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

#[derive(Clone)]
pub struct Outbox {
    pub store: Arc<Store>,
    pub notifiers: BTreeMap<String, Arc<dyn Notifier>>,
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("notifiers", &self.notifiers.keys()).finish_non_exhaustive()
    }
}

/// What is delivered from this store, by this configuration's destinations.
pub fn of(wiring: &Wiring, store: &Arc<Store>) -> Outbox {
    Outbox { store: Arc::clone(store), notifiers: wiring.notifiers.clone(), clock: Arc::clone(&wiring.host.clock) }
}

/// Delivers for as long as it lives.
#[derive(Debug)]
pub struct Delivery(tokio::task::JoinHandle<()>);

impl Delivery {
    pub fn start(outbox: Outbox) -> Self {
        Self(tokio::spawn(deliver_for_ever(outbox)))
    }

    /// From here on only [`deliver_last`] delivers.
    pub fn stop(&self) {
        self.0.abort();
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Delivers what is due, again and again.
pub async fn deliver_for_ever(outbox: Outbox) {
    loop {
        deliver_once(&outbox).await;
        tokio::time::sleep(EVERY).await;
    }
}

/// Before the agent ends: what can still be delivered in a few seconds is; the rest stays for the next start, and a
/// destination that hangs does not keep the agent from ending.
pub async fn deliver_last(outbox: &Outbox) {
    if tokio::time::timeout(LAST, deliver_once(outbox)).await.is_err() {
        tracing::warn!("a destination does not answer; what is not delivered stays for the next start");
    }
}

/// One try of everything that is due.
pub async fn deliver_once(outbox: &Outbox) {
    for outgoing in outbox.store.take_spilled() {
        // What the disk would not take is tried from memory until it is delivered.
        if let Err(DeliveryError::Later { detail, .. }) = deliver(outbox, &outgoing).await {
            tracing::warn!(destination = %outgoing.destination, detail, "a message waits in memory");
            outbox.store.put_back_spilled(outgoing);
        }
    }
    if let Err(error) = outbox.store.note_delivered() {
        tracing::debug!(%error, "what was delivered still cannot be noted");
    }
    let due = match outbox.store.due(outbox.clock.now(), AT_ONCE) {
        Ok(due) => due,
        Err(error) => return tracing::error!(%error, "the outbox cannot be read"),
    };
    // One that does not answer now is not asked again in this round: it would only keep the others waiting.
    let mut away = BTreeSet::new();
    for outgoing in due {
        if away.contains(&outgoing.destination) {
            continue;
        }
        let noted = match deliver(outbox, &outgoing).await {
            Ok(()) => outbox.store.delivered(&outgoing.id),
            Err(DeliveryError::Later { after, detail }) => {
                let doubled = Duration::from_secs(1 << outgoing.attempts.min(9)).min(LONGEST_PAUSE);
                let pause = after.unwrap_or(doubled);
                tracing::warn!(destination = %outgoing.destination, detail, "a message will be tried again");
                away.insert(outgoing.destination.clone());
                outbox.store.try_later(&outgoing.id, outbox.clock.now(), pause, &detail)
            }
            Err(DeliveryError::Refused { detail }) => {
                tracing::error!(destination = %outgoing.destination, detail, "a message was refused; `unwait status` shows it");
                outbox.store.refused(&outgoing.id, &detail)
            }
        };
        if let Err(error) = noted {
            tracing::error!(%error, "what became of a message could not be noted; another start may send it again");
        }
    }
}

async fn deliver(outbox: &Outbox, outgoing: &Outgoing) -> Result<(), DeliveryError> {
    let Some(notifier) = outbox.notifiers.get(&outgoing.destination) else {
        let detail = "the host's file names no such destination any more".to_string();
        return Err(DeliveryError::Refused { detail });
    };
    crash::point("outbox", "delivering");
    let delivered = tokio::time::timeout(DEADLINE, notifier.deliver(&outgoing.id, &outgoing.message)).await;
    crash::point("outbox", "delivered");
    match delivered {
        Ok(result) => result,
        Err(_) => Err(DeliveryError::Later { after: None, detail: "no answer in time".into() }),
    }
}
