//! How an agent ends: what is still written, said, given back and delivered, for a bounded time. The rest is the next start's.

use std::sync::Arc;
use std::time::Duration;

use super::agent::Agent;
use super::duties::{delivery, messages, orders, resolve};
use super::scribe::Scribe;
use crate::store::Store;
use crate::wiring::Wiring;

/// Where the agent was idle when it was asked to end.
const WITHIN_WHEN_IDLE: Duration = Duration::from_secs(1);

impl Agent {
    /// `idle`: nothing was under way when the agent was asked to end.
    pub(super) async fn end(mut self, idle: bool) {
        let within = if idle { WITHIN_WHEN_IDLE } else { delivery::LAST };
        let last = last_words(self.wiring.clone(), Arc::clone(&self.store), self.scribe.clone());
        at_most(within / 2, last).await;
        // Whoever takes a slot keeps others from giving theirs back. What it may have taken is noted, and given back as well.
        drop(std::mem::take(&mut self.beside));
        self.put_off_what_waits("the agent is ending");
        let slots = self.slots_returned();
        tokio::join!(at_most(within, slots), self.delivery.end(within));
    }
}

/// What is written, and said, before the agent ends.
async fn last_words(wiring: Wiring, store: Arc<Store>, scribe: Scribe) {
    scribe.written().await;
    store.write_samples();
    // Those that rest stuck are nobody's while no agent runs. One whose saga was left under way is told with that.
    match resolve::resting_drained(&store) {
        Ok(latches) if latches.is_empty() => {}
        Ok(latches) => {
            let message = messages::stay_out(&wiring, &latches);
            (wiring.host.on_message)(&message);
            store.tell(&wiring.audience, &[message]);
        }
        Err(error) => tracing::error!(
            %error,
            "cannot read from the store which services stay out of traffic: {error}",
        ),
    }
    orders::tell(&wiring, &store);
}

/// What has not ended by then goes on for as long as the runtime does. By a task: whoever waits for a disk in it keeps nobody
/// from noticing the time.
async fn at_most(within: Duration, work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(Err(ended)) = tokio::time::timeout(within, tokio::spawn(work)).await
        && let Ok(defect) = ended.try_into_panic()
    {
        std::panic::resume_unwind(defect);
    }
}
