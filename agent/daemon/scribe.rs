//! What the loop has written down: in its order, by a task of its own. The loop waits for no disk.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::store::Store;

type Entry = Box<dyn FnOnce(&Store) + Send>;

/// Takes what is to be written.
#[derive(Clone, Debug)]
pub(super) struct Scribe(mpsc::UnboundedSender<Entry>);

impl Scribe {
    /// Writes to this store for as long as somebody can ask for it. A disk that hangs lets each access fail after some seconds,
    /// and those after it at once: what waits here does not pile up.
    pub fn of(store: Arc<Store>) -> Self {
        let (entries, mut to_write) = mpsc::unbounded_channel::<Entry>();
        tokio::spawn(async move {
            while let Some(entry) = to_write.recv().await {
                entry(&store);
            }
        });
        Self(entries)
    }

    /// Has this done after all that was asked for before.
    pub fn write(&self, entry: impl FnOnce(&Store) + Send + 'static) {
        // Nobody writes any more once the runtime ends.
        let _ = self.0.send(Box::new(entry));
    }

    /// Ends once all that was asked for before is done.
    pub async fn written(&self) {
        let (done, is_done) = oneshot::channel();
        self.write(move |_| {
            let _ = done.send(());
        });
        let _ = is_done.await;
    }
}
