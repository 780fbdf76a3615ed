//! Delivery: takes what the outbox holds to its destinations. An incident never waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::clock::Clock;
use crate::crash;
use crate::model::duration;
use crate::ports::notifier::{DeliveryError, Letter, Notifier};
use crate::store::{Outgoing, Store};
use crate::wiring::Wiring;

/// How often the outbox is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Messages a look and destination; chat services take about one a second.
const AT_ONCE: usize = 20;
/// For what is due when the agent ends after it has done something; systemd gives it 90 s in all.
pub const LAST: Duration = Duration::from_secs(10);
/// One try of one message.
const DEADLINE: Duration = Duration::from_secs(15);
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
                "the agent ends, and a destination of `notify` did not answer within {}: its messages are sent once the agent \
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
        for (destination, due) in due(&outbox) {
            let start = || Task::spawn(deliver_in_turn(outbox.clone(), due));
            at_work.entry(destination).or_insert_with(start);
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
            let due = due(&outbox).remove(&destination).unwrap_or_default();
            deliver_in_turn(outbox, due).await;
        }
    });
    last.collect::<JoinSet<()>>().join_all().await;
}

/// What is due for each destination, in its order.
fn due(outbox: &Outbox) -> BTreeMap<String, Vec<Outgoing>> {
    if let Err(error) = outbox.store.note_delivered() {
        tracing::debug!(
            %error,
            "cannot store which messages are delivered: {error}; retrying, and a start before that sends them again",
        );
    }
    let mut each: BTreeMap<String, Vec<Outgoing>> = BTreeMap::new();
    match outbox.store.due(outbox.clock.now(), AT_ONCE) {
        Ok(due) => due.into_iter().for_each(|one| each.entry(one.destination.clone()).or_default().push(one)),
        Err(error) => tracing::error!(
            %error,
            "cannot read the messages that are to be sent: {error}; none is sent until the store can be read",
        ),
    }
    each
}

/// One try of what is due for one destination, one after another. Where it does not take one now, it is not asked for
/// the rest before the next look.
async fn deliver_in_turn(outbox: Outbox, due: Vec<Outgoing>) {
    let store = &outbox.store;
    for outgoing in due {
        let tried = deliver(&outbox, &outgoing).await;
        let away = matches!(tried, Err(DeliveryError::Later { .. }));
        let noted = match tried {
            Ok(()) => store.delivered(&outgoing.id),
            Err(DeliveryError::Later { after, detail }) => {
                let doubled = Duration::from_secs(1 << outgoing.attempts.min(9)).min(LONGEST_PAUSE);
                let pause = after.unwrap_or(doubled);
                let (destination, again) = (&outgoing.destination, duration::format(pause));
                tracing::warn!(
                    %destination,
                    detail,
                    "cannot deliver a message to {destination}: {detail}; retrying in {again}",
                );
                store.try_later(&outgoing.id, outbox.clock.now(), pause, &detail)
            }
            Err(DeliveryError::Refused { detail }) => {
                let destination = &outgoing.destination;
                tracing::error!(
                    %destination,
                    detail,
                    "{destination} refused a message: {detail}; it is not sent again, and `unwait status` shows it",
                );
                store.refused(&outgoing.id, &detail)
            }
        };
        if let Err(error) = noted {
            tracing::error!(
                %error,
                "cannot store the delivery of a message to {}: {error}; a restart of the agent may send it twice",
                outgoing.destination,
            );
        }
        if away {
            return;
        }
    }
}

async fn deliver(outbox: &Outbox, outgoing: &Outgoing) -> Result<(), DeliveryError> {
    let Some(notifier) = outbox.notifiers.get(&outgoing.destination) else {
        let detail = "the host's file names no such destination any more".to_string();
        return Err(DeliveryError::Refused { detail });
    };
    crash::point("outbox", "delivering");
    let delivered =
        tokio::time::timeout(DEADLINE, notifier.deliver(Letter::new(&outgoing.id, &outgoing.message))).await;
    crash::point("outbox", "delivered");
    match delivered {
        Ok(result) => result.map(drop),
        Err(_) => Err(DeliveryError::Later { after: None, detail: "no answer in time".into() }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use tokio::sync::Notify;

    use super::*;
    use crate::clock::VirtualClock;
    use crate::model::{EventKind, Message};
    use crate::ports::notifier::{Pace, ThreadKey};
    use crate::store::Audience;

    /// Takes all that it is told.
    #[derive(Default)]
    struct Ears {
        heard: Mutex<Vec<(String, String)>>,
        hears: Notify,
    }

    impl Ears {
        fn titles(&self) -> Vec<String> {
            self.heard.lock().unwrap().iter().map(|(_, title)| title.clone()).collect()
        }

        async fn has_heard(&self, messages: usize) {
            while self.heard.lock().unwrap().len() < messages {
                self.hears.notified().await;
            }
        }
    }

    #[async_trait]
    impl Notifier for Ears {
        async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
            self.heard.lock().unwrap().push((letter.id.into(), letter.message.title.clone()));
            self.hears.notify_one();
            Ok(None)
        }

        fn pace(&self) -> Pace {
            Pace::UNLIMITED
        }
    }

    /// Takes the question, and never answers.
    #[derive(Default)]
    struct Hangs {
        asked: Mutex<Vec<String>>,
        asks: Notify,
    }

    #[async_trait]
    impl Notifier for Hangs {
        async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
            self.asked.lock().unwrap().push(letter.id.into());
            self.asks.notify_one();
            std::future::pending().await
        }

        fn pace(&self) -> Pace {
            Pace::UNLIMITED
        }
    }

    fn outbox(notifiers: &[(&str, Arc<dyn Notifier>)]) -> Outbox {
        let clock = Arc::new(VirtualClock::start());
        let notifiers = notifiers.iter().map(|(name, notifier)| (name.to_string(), notifier.clone())).collect();
        Outbox { store: Arc::new(Store::open(Path::new(":memory:")).unwrap()), notifiers, clock }
    }

    fn tell(outbox: &Outbox, destination: &str, title: &str) {
        let audience = Audience(vec![(destination.into(), vec![EventKind::Stuck])]);
        outbox.store.tell(&audience, &[Message::new(EventKind::Stuck, "bj1-03", outbox.clock.now(), title)]);
    }

    /// Far more than is delivered at a look, for one that hangs; then one for one that hears.
    fn a_backlog_before_one(ears: &Arc<Ears>) -> Outbox {
        let outbox = outbox(&[("chat", Arc::new(Hangs::default())), ("pager", ears.clone())]);
        for nth in 0..60 {
            tell(&outbox, "chat", &nth.to_string());
        }
        tell(&outbox, "pager", "OUT OF TRAFFIC");
        outbox
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_that_hangs_with_a_backlog_keeps_no_message_from_another() {
        let ears = Arc::new(Ears::default());
        let outbox = a_backlog_before_one(&ears);
        let _delivery = Delivery::start(outbox.clone());
        for told in 1..4 {
            // Sooner than the other one is given up.
            tokio::time::timeout(DEADLINE / 2, ears.has_heard(told)).await.expect("it is told at once");
            tell(&outbox, "pager", "still OUT OF TRAFFIC");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_that_hangs_as_the_agent_ends_keeps_no_message_from_another() {
        let ears = Arc::new(Ears::default());
        let outbox = a_backlog_before_one(&ears);
        Delivery::start(outbox).end(LAST).await;
        assert_eq!(ears.titles(), ["OUT OF TRAFFIC"]);
    }

    /// Takes a message at once, and takes its time to say so.
    #[derive(Default)]
    struct Dawdles(Ears);

    #[async_trait]
    impl Notifier for Dawdles {
        async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
            self.0.deliver(letter).await?;
            tokio::time::sleep(LAST / 4).await;
            Ok(None)
        }

        fn pace(&self) -> Pace {
            Pace::UNLIMITED
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_on_its_way_as_the_agent_ends_is_told_once_and_what_is_said_last_after_it() {
        let dawdles = Arc::new(Dawdles::default());
        let outbox = outbox(&[("pager", dawdles.clone())]);
        tell(&outbox, "pager", "OUT OF TRAFFIC");
        let delivery = Delivery::start(outbox.clone());
        dawdles.0.has_heard(1).await;
        tell(&outbox, "pager", "the agent stops");
        delivery.end(LAST).await;
        assert_eq!(dawdles.0.titles(), ["OUT OF TRAFFIC", "the agent stops"]);
        assert!(outbox.store.undelivered(10).unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_hears_on_the_disk_and_in_memory_in_the_order_in_which_it_was_told() {
        let ears = Arc::new(Ears::default());
        let outbox = outbox(&[("pager", ears.clone())]);
        let told: Vec<String> = (0..60).map(|nth| nth.to_string()).collect();
        for title in &told[..30] {
            tell(&outbox, "pager", title);
        }
        outbox.store.refuse_writes(true);
        for title in &told[30..] {
            tell(&outbox, "pager", title);
        }
        let _delivery = Delivery::start(outbox);
        let _ = tokio::time::timeout(Duration::from_secs(60), ears.has_heard(told.len())).await;
        assert_eq!(ears.titles(), told);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_disk_refuses_outlives_the_delivery_that_hangs_on_it() {
        for ends in [false, true] {
            let hangs = Arc::new(Hangs::default());
            let before = outbox(&[("pager", hangs.clone())]);
            before.store.refuse_writes(true);
            for title in ["OUT OF TRAFFIC", "the agent stops"] {
                tell(&before, "pager", title);
            }
            let delivery = Delivery::start(before.clone());
            hangs.asks.notified().await;
            drop(delivery);

            // The agent was told another configuration, or it ends.
            let ears = Arc::new(Ears::default());
            let notifiers = [("pager".to_string(), ears.clone() as Arc<dyn Notifier>)].into();
            let after = Outbox { notifiers, ..before };
            let delivery = Delivery::start(after);
            let _delivery = match ends {
                true => {
                    delivery.end(LAST).await;
                    None
                }
                false => Some(delivery),
            };
            let heard = tokio::time::timeout(Duration::from_secs(60), ears.has_heard(2)).await;
            heard.unwrap_or_else(|_| panic!("lost; the agent ends: {ends}; heard: {:?}", ears.titles()));
            assert_eq!(ears.titles(), ["OUT OF TRAFFIC", "the agent stops"], "the agent ends: {ends}");
            assert_eq!(ears.heard.lock().unwrap()[0].0, hangs.asked.lock().unwrap()[0], "by the same id");
        }
    }
}
