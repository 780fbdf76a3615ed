//! Holds what was drained, for registries where others put an instance back: a heartbeat writes its entry again, a
//! balancer is reloaded. A task looks at each drain again and again until it is taken back, also while a step of a saga
//! waits for something else, and while a service rests stuck.
//!
//! It ends with the adapter. While no agent runs nobody holds, which the adapters declare.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use async_trait::async_trait;

use super::{RegistryError, Restored};
use crate::model::{Marker, duration};

/// What one look at a drain found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Out of traffic.
    Out,
    /// It had come back, and is out again.
    OutAgain,
    /// Our drain does not stand any more.
    NotOurs,
}

/// An adapter whose drains are held.
#[async_trait]
pub(super) trait HoldsDrains: Send + Sync + 'static {
    /// Takes the instance out again where it came back and the drain under this marker still stands.
    async fn look_again(&self, id: &str, marker: &Marker) -> Result<Look, RegistryError>;
}

#[derive(Debug)]
pub(super) struct Holder {
    every: Duration,
    state: Arc<Mutex<State>>,
    /// Held from before a drain is found to be held still until its look has ended.
    looking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    drains: BTreeMap<String, Marker>,
    /// A task looks at them.
    runs: bool,
}

impl Holder {
    pub fn new(every: Duration) -> Self {
        Self { every, state: Arc::default(), looking: Arc::default() }
    }

    /// From now on this drain is held, until [`Self::put_back`] or [`Self::forget`], or until it does not stand any more.
    pub fn hold<A: HoldsDrains>(&self, adapter: &Arc<A>, id: &str, marker: &Marker) {
        let mut state = lock(&self.state);
        state.drains.insert(id.into(), marker.clone());
        if !state.runs {
            state.runs = true;
            let (state, looking) = (Arc::clone(&self.state), Arc::clone(&self.looking));
            tokio::spawn(look_after(Arc::downgrade(adapter), state, looking, self.every));
        }
    }

    /// Looks at the drain now, and holds it from then on where it stands. True where it had come back and is out again.
    pub async fn look_now<A: HoldsDrains>(
        &self,
        adapter: &Arc<A>,
        id: &str,
        marker: &Marker,
    ) -> Result<bool, RegistryError> {
        let look = adapter.look_again(id, marker).await?;
        if look != Look::NotOurs {
            self.hold(adapter, id, marker);
        }
        Ok(look == Look::OutAgain)
    }

    /// Restores with the drain let go of, whatever is found: what is in traffic already, by whatever hand, is not to be
    /// taken out again. Where that fails, what was held is held on. The caller keeps looks away meanwhile.
    pub async fn put_back<A: HoldsDrains>(
        &self,
        adapter: &Arc<A>,
        id: &str,
        marker: &Marker,
        restore: impl Future<Output = Result<Restored, RegistryError>> + Send,
    ) -> Result<Restored, RegistryError> {
        let held = self.let_go(id, marker);
        let restored = restore.await;
        if held && restored.is_err() {
            self.hold(adapter, id, marker);
        }
        restored
    }

    /// From now on this drain is held no more; a look that has begun has ended. True where this one was held.
    pub async fn forget(&self, id: &str, marker: &Marker) -> bool {
        let _none = self.looking.lock().await;
        self.let_go(id, marker)
    }

    /// True where this drain, and not another's, was held.
    fn let_go(&self, id: &str, marker: &Marker) -> bool {
        let mut state = lock(&self.state);
        let held = state.drains.get(id) == Some(marker);
        if held {
            state.drains.remove(id);
        }
        held
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nothing panics while it holds the drains")
}

async fn look_after<A: HoldsDrains>(
    adapter: Weak<A>,
    state: Arc<Mutex<State>>,
    looking: Arc<tokio::sync::Mutex<()>>,
    every: Duration,
) {
    let mut failed = BTreeSet::new();
    loop {
        tokio::time::sleep(every).await;
        let Some(adapter) = adapter.upgrade() else { return };
        let drains = {
            let mut state = lock(&state);
            if state.drains.is_empty() {
                state.runs = false;
                return;
            }
            state.drains.clone()
        };
        for (id, marker) in drains {
            let _looking = looking.lock().await;
            if lock(&state).drains.get(&id) != Some(&marker) {
                continue;
            }
            let look = adapter.look_again(&id, &marker).await;
            match &look {
                Ok(Look::Out) => {}
                Ok(Look::OutAgain) => {
                    tracing::warn!(id, incident = %marker.incident, "somebody put {id} back into traffic while it was drained, and unwait took it out again");
                }
                Ok(Look::NotOurs) => {
                    let mut state = lock(&state);
                    // Another drain may have begun since.
                    if state.drains.get(&id) == Some(&marker) {
                        state.drains.remove(&id);
                    }
                }
                // Once, not at every look.
                Err(error) if !failed.contains(&id) => {
                    tracing::warn!(
                        id,
                        incident = %marker.incident,
                        "cannot check that {id} is still drained: {error}; retrying every {}",
                        duration::format(every),
                    );
                }
                Err(_) => {}
            }
            match look {
                Err(_) => failed.insert(id),
                Ok(_) => failed.remove(&id),
            };
        }
    }
}
