//! What was put back stays put back. A restore that a failover has lost is made again: the drain stands again then, with a
//! master that never heard of the restore, and nobody else would look at it. Sentinels agree on a new master within seconds,
//! and until then the former one answers OK: so each restore is looked at closely at first, and again whenever the line of
//! masters is another one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::Entries;
use crate::model::Marker;

/// After a restore, and after a change of master: for so long it is looked at closely. A master that comes back after it was
/// replaced answers OK for some 10 s (Redis 7.0.15, Valkey 9.1.2).
const CLOSELY_FOR: Duration = Duration::from_secs(15);
const CLOSELY: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_secs(10);
/// Then the hourly sweep finds a drain that no incident knows of, and calls a person.
const FOR: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub(super) struct Restores {
    state: Arc<Mutex<State>>,
    /// Held while a restore is looked at, and while an instance is drained.
    changing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    watched: BTreeMap<String, Watched>,
    /// A task looks at them.
    runs: bool,
}

#[derive(Clone, Debug)]
struct Watched {
    marker: Marker,
    until: Instant,
    closely_until: Instant,
    due: Instant,
    /// The line of masters that showed it last.
    lineage: Option<String>,
}

impl Restores {
    /// From now on the drain under this marker is taken back again where it stands again.
    pub fn watch(&self, entries: &Arc<Entries>, id: &str, marker: &Marker) {
        let now = Instant::now();
        let (until, closely_until, due) = (now + FOR, now + CLOSELY_FOR, now + CLOSELY);
        let mut state = lock(&self.state);
        state.watched.insert(id.into(), Watched { marker: marker.clone(), until, closely_until, due, lineage: None });
        if !state.runs {
            state.runs = true;
            tokio::spawn(look_after(Arc::downgrade(entries), Arc::clone(&self.state), Arc::clone(&self.changing)));
        }
    }

    /// A drain of the instance is nothing to be taken back any more; a look that has begun has ended, and none begins while the
    /// guard lives.
    pub async fn forget(&self, id: &str) -> OwnedMutexGuard<()> {
        let one = Arc::clone(&self.changing).lock_owned().await;
        lock(&self.state).watched.remove(id);
        one
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends with the adapter, or once nothing is watched.
async fn look_after(entries: Weak<Entries>, state: Arc<Mutex<State>>, changing: Arc<tokio::sync::Mutex<()>>) {
    loop {
        tokio::time::sleep(CLOSELY).await;
        let Some(entries) = entries.upgrade() else { return };
        let now = Instant::now();
        let due: Vec<String> = {
            let mut state = lock(&state);
            state.watched.retain(|_, watched| watched.until > now);
            if state.watched.is_empty() {
                state.runs = false;
                return;
            }
            state.watched.iter().filter(|(_, watched)| watched.due <= now).map(|(id, _)| id.clone()).collect()
        };
        for id in due {
            let _one = changing.lock().await;
            let Some(mut watched) = lock(&state).watched.get(&id).cloned() else { continue };
            look(&entries, &id, &mut watched).await;
            lock(&state).watched.insert(id, watched);
        }
    }
}

async fn look(entries: &Entries, id: &str, watched: &mut Watched) {
    let now = Instant::now();
    let restored = match entries.place(id) {
        Ok(place) => entries.change("restore", &place, Some(&watched.marker)).await,
        Err(error) => Err(error),
    };
    match restored {
        Ok(answer) => {
            let again = matches!(answer.word.as_str(), "put back" | "newer");
            if again {
                let incident = &watched.marker.incident;
                tracing::warn!(id, %incident, "Redis lost the restore of {id} in a failover; {id} is restored again");
            }
            if again || watched.lineage.as_ref().is_some_and(|lineage| *lineage != answer.lineage) {
                watched.closely_until = now + CLOSELY_FOR;
            }
            watched.lineage = Some(answer.lineage);
        }
        // A master is being elected, or nobody answers: close looks begin once somebody does.
        Err(error) => {
            tracing::debug!(id, %error, "cannot read {id} after its restore: {error}; retrying");
            watched.closely_until = now + CLOSELY_FOR;
        }
    }
    watched.due = now + if now < watched.closely_until { CLOSELY } else { EVERY };
}
