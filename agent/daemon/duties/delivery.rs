//! Delivery: takes what the outbox holds to its destinations. An incident never waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::joining::{self, Batch};
use crate::clock::Clock;
use crate::crash;
use crate::model::duration;
use crate::model::message::{Letter, ThreadKey};
use crate::ports::notifier::{DeliveryError, Notifier, Pace, Paces, pause};
use crate::store::{IncidentThread, Store, StoreError};
use crate::wiring::Wiring;

/// How often the outbox is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// What is looked at of what waits for a destination: 200 incidents with five messages each.
const LOOKED_AT: usize = 1_000;
/// For what is due when the agent ends after it has done something; systemd gives it 90 s in all.
pub const LAST: Duration = Duration::from_secs(10);
/// One try of one message.
const DEADLINE: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub struct Outbox {
    pub store: Arc<Store>,
    pub notifiers: BTreeMap<String, Arc<dyn Notifier>>,
    pub clock: Arc<dyn Clock>,
    pub paces: Arc<Paces>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("notifiers", &self.notifiers.keys()).finish_non_exhaustive()
    }
}

/// What is delivered from this store, by this configuration's destinations.
pub fn of(wiring: &Wiring, store: &Arc<Store>) -> Outbox {
    Outbox {
        store: Arc::clone(store),
        notifiers: wiring.notifiers.clone(),
        clock: Arc::clone(&wiring.host.clock),
        paces: wiring.paces(),
    }
}

/// Delivers for as long as it lives.
#[derive(Debug)]
pub struct Delivery {
    ends: watch::Sender<bool>,
    task: Task,
}

impl Delivery {
    pub fn start(outbox: Outbox) -> Self {
        let (ends, ending) = watch::channel(false);
        Self { ends, task: Task::spawn(deliver_until(outbox, ending)) }
    }

    /// Before the agent ends: what can still be delivered `within` that time is, to all destinations at once; the rest stays for the next start, and a
    /// destination that hangs keeps neither the agent from ending nor the others from being told.
    pub async fn end(self, within: Duration) {
        self.ends.send_replace(true);
        if tokio::time::timeout(within, self.task.ended()).await.is_err() {
            tracing::warn!(
                "the agent ends, and a destination of `notify` has not taken all its messages within {}: the rest is sent once the agent \
                 starts again",
                duration::format(within),
            );
        }
    }
}

/// Ends with who holds it.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Task {
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    async fn ended(mut self) {
        if let Err(error) = (&mut self.0).await
            && let Ok(defect) = error.try_into_panic()
        {
            std::panic::resume_unwind(defect);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Delivers what is due, again and again. Each destination is at work in a task of its own: one that hangs costs the
/// others nothing. At the end each ends what it is about, which may have been taken already, and tells what is due then.
async fn deliver_until(outbox: Outbox, mut ending: watch::Receiver<bool>) {
    let mut at_work: BTreeMap<String, Task> = BTreeMap::new();
    loop {
        at_work.retain(|_, task| !task.0.is_finished());
        for destination in due(&outbox) {
            let start = || Task::spawn(deliver_in_turn(outbox.clone(), destination.clone(), false));
            at_work.entry(destination.clone()).or_insert_with(start);
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = ending.wait_for(|ends| *ends) => break,
        }
    }
    let last = outbox.notifiers.keys().map(|destination| {
        let (outbox, under_way) = (outbox.clone(), at_work.remove(destination));
        let destination = destination.clone();
        async move {
            if let Some(task) = under_way {
                task.ended().await;
            }
            deliver_in_turn(outbox, destination, true).await;
        }
    });
    last.collect::<JoinSet<()>>().join_all().await;
}

/// Destinations for which something is due.
fn due(outbox: &Outbox) -> BTreeSet<String> {
    if let Err(error) = outbox.store.note_delivered() {
        tracing::debug!(
            %error,
            "cannot store which messages are delivered: {error}; retrying, and a start before that sends them again",
        );
    }
    outbox.store.destinations_due(outbox.clock.now()).unwrap_or_else(|error| {
        unreadable(&error);
        BTreeSet::new()
    })
}

fn unreadable(error: &StoreError) {
    tracing::error!(
        %error,
        "cannot read the messages that are to be sent: {error}; none is sent until the store can be read",
    );
}

/// Sends what is due for one destination at its pace, until nothing is, or until it takes no more for now. What goes next is
/// found out anew for each, since something that asks a person may have come to wait meanwhile. Where the agent ends, nothing gathers.
async fn deliver_in_turn(outbox: Outbox, destination: String, agent_ends: bool) {
    let Outbox { store, clock, paces, .. } = &outbox;
    let notifier = outbox.notifiers.get(&destination);
    let pace = notifier.map_or(Pace::UNLIMITED, |notifier| notifier.pace());
    // What was refused joined may be taken by itself.
    let mut apart = BTreeSet::new();
    while !paces.is_closed(&destination, clock.monotonic()) {
        tokio::time::sleep(paces.wait(&destination, clock.monotonic())).await;
        let queue = match store.queue(&destination, clock.now(), LOOKED_AT) {
            Ok(queue) => queue,
            Err(error) => return unreadable(&error),
        };
        let next = joining::batches(&queue, clock.now(), pace, &apart).into_iter().next();
        let Some(batch) = next.filter(|batch| agent_ends || !batch.gathers) else { return };
        let tried = match notifier {
            Some(notifier) => deliver(&outbox, notifier.as_ref(), &destination, &batch).await,
            None => Err(DeliveryError::Refused { detail: "the host's file names no such destination any more".into() }),
        };
        paces.sent(&destination, clock.monotonic(), pace.every);
        let is_taken = tried.is_ok();
        if let Err(error) = note(&outbox, &destination, batch, tried, &mut apart) {
            tracing::error!(
                %error,
                "cannot store the delivery of a message to {destination}: {error}; a restart of the agent may send it \
                 twice",
            );
            if !is_taken {
                return;
            }
        }
    }
}

async fn deliver(
    outbox: &Outbox,
    notifier: &dyn Notifier,
    destination: &str,
    batch: &Batch,
) -> Result<Option<ThreadKey>, DeliveryError> {
    let thread = batch.message.incident.as_ref().and_then(|incident| {
        outbox.store.thread(destination, incident).unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot read where {incident} goes on at {destination}: {error}; it begins anew");
            None
        })
    });
    let letter = Letter { id: &batch.id, message: &batch.message, thread: thread.as_ref() };
    crash::point("outbox", "delivering");
    let delivered = tokio::time::timeout(DEADLINE, notifier.deliver(letter)).await;
    crash::point("outbox", "delivered");
    delivered.unwrap_or_else(|_| Err(DeliveryError::Later { after: None, detail: "no answer in time".into() }))
}

/// Keeps what became of a try.
fn note(
    outbox: &Outbox,
    destination: &str,
    batch: Batch,
    tried: Result<Option<ThreadKey>, DeliveryError>,
    apart: &mut BTreeSet<String>,
) -> Result<(), StoreError> {
    let Outbox { store, clock, paces, .. } = outbox;
    match tried {
        Ok(key) => {
            paces.opened(destination);
            let thread = key.zip(batch.message.incident).map(|(key, incident)| IncidentThread {
                destination: destination.into(),
                incident,
                key,
                at: clock.now(),
            });
            store.delivered(&batch.ids, thread)
        }
        Err(DeliveryError::Later { after, detail }) => {
            paces.closed(destination, clock.monotonic(), after);
            let pause = after.unwrap_or_else(|| pause(batch.attempts));
            let again = duration::format(pause);
            tracing::warn!(
                %destination,
                detail,
                "cannot deliver a message to {destination}: {detail}; retrying in {again}",
            );
            batch.ids.iter().try_for_each(|id| store.try_later(id, clock.now(), pause, &detail))
        }
        Err(DeliveryError::Refused { detail }) if batch.ids.len() > 1 => {
            tracing::warn!(
                %destination,
                detail,
                "{destination} refused {} messages joined into one: {detail}; each is sent by itself",
                batch.ids.len(),
            );
            apart.extend(batch.ids);
            Ok(())
        }
        Err(DeliveryError::Refused { detail }) => {
            paces.opened(destination);
            tracing::error!(
                %destination,
                detail,
                "{destination} refused a message: {detail}; it is not sent again, and `unwait status` shows it",
            );
            batch.ids.iter().try_for_each(|id| store.refused(id, &detail))
        }
    }
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;
