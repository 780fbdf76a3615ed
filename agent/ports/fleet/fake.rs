//! A fleet in memory, for tests and for simulations of many hosts: the real rules over a store that can be made to fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;

use super::documents::{ABSENT, Documents, Key, Text, folder_path};
use super::shared::SharedFleet;
use super::{Fleet, FleetError};
use crate::clock::Clock;

/// The way between one host and the store. An error says that nothing arrived at its end.
#[async_trait]
pub trait Way: Send + Sync {
    /// A question, before the store has it.
    async fn there(&self) -> Result<(), FleetError>;
    /// The answer, after the store has done what it was asked.
    async fn back(&self) -> Result<(), FleetError>;
}

/// The store at the end of a way.
struct Far {
    store: FakeStore,
    way: Arc<dyn Way>,
}

/// The store that the hosts share. A clone is the same store.
#[derive(Clone, Debug, Default)]
pub struct FakeStore(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    texts: BTreeMap<(String, String), Text>,
    revision: u64,
    unreachable: bool,
    /// So many questions are answered, and the next one is so.
    fails: Option<(u32, FleetError)>,
    lost_answers: u32,
    lost_requests: u32,
    /// Of any kind; [`FakeStore::travel`] goes by it.
    questions: u32,
    reads: u32,
    writes: u32,
}

impl FakeStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the store")
    }

    /// The fleet as this host sees it.
    pub fn host(&self, name: &str, clock: Arc<dyn Clock>) -> Arc<dyn Fleet> {
        Arc::new(SharedFleet::new(self.clone(), name, clock))
    }

    /// The fleet as this host sees it over a way of its own.
    pub fn host_over(&self, name: &str, clock: Arc<dyn Clock>, way: Arc<dyn Way>) -> Arc<dyn Fleet> {
        Arc::new(SharedFleet::new(Far { store: self.clone(), way }, name, clock))
    }

    /// A way of a length of its own, so that hosts do not go in step; the same at each run.
    async fn travel(&self) {
        let steps = {
            let mut state = self.state();
            state.questions += 1;
            state.questions.wrapping_mul(0x9E37_79B1) >> 29
        };
        for _ in 0..=steps {
            tokio::task::yield_now().await;
        }
    }

    /// Nobody answers, until it is said otherwise.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.state().unreachable = unreachable;
    }

    /// The `nth` question from now, counted from 0, of any kind, is not answered but so.
    pub fn fail_nth(&self, nth: u32, error: FleetError) {
        self.state().fails = Some((nth, error));
    }

    /// Was that question asked meanwhile? It is not waited for any more.
    pub fn has_failed(&self) -> bool {
        self.state().fails.take().is_none()
    }

    /// The next writes are done, and their answers do not arrive.
    pub fn lose_answers(&self, writes: u32) {
        self.state().lost_answers = writes;
    }

    /// The next writes do not arrive.
    pub fn lose_requests(&self, writes: u32) {
        self.state().lost_requests = writes;
    }

    /// Another hand writes the document of a service's slots.
    pub fn put(&self, service: &str, text: &str) {
        let mut state = self.state();
        state.revision += 1;
        let text = Text { text: text.as_bytes().to_vec(), revision: state.revision };
        state.texts.insert(("unwait/slots".into(), service.into()), text);
    }

    /// The document of a service's slots, as it stands.
    pub fn get(&self, service: &str) -> Option<String> {
        let state = self.state();
        let text = state.texts.get(&("unwait/slots".into(), service.into()))?;
        Some(String::from_utf8_lossy(&text.text).into_owned())
    }

    /// How often anybody has read, and written.
    pub fn asked(&self) -> (u32, u32) {
        let state = self.state();
        (state.reads, state.writes)
    }
}

impl State {
    fn reachable(&mut self) -> Result<(), FleetError> {
        if self.unreachable {
            return Err(FleetError::Unreachable("nobody answers".into()));
        }
        match self.fails.take() {
            Some((0, error)) => Err(error),
            Some((nth, error)) => {
                self.fails = Some((nth - 1, error));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn take(&mut self, which: fn(&mut Self) -> &mut u32) -> bool {
        let left = which(self);
        let some = *left > 0;
        *left = left.saturating_sub(1);
        some
    }
}

#[async_trait]
impl Documents for FakeStore {
    async fn read(&self, key: Key<'_>) -> Result<Option<Text>, FleetError> {
        self.travel().await;
        let mut state = self.state();
        state.reads += 1;
        state.reachable()?;
        Ok(state.texts.get(&(folder_path(key.folder), key.name.into())).cloned())
    }

    async fn swap(&self, key: Key<'_>, revision: u64, text: Option<&[u8]>) -> Result<bool, FleetError> {
        self.travel().await;
        let mut state = self.state();
        state.writes += 1;
        state.reachable()?;
        let unsure = || FleetError::Unreachable("no answer within the deadline".into());
        if state.take(|state| &mut state.lost_requests) {
            return Err(unsure());
        }
        let place = (folder_path(key.folder), key.name.to_owned());
        let stands = state.texts.get(&place).map_or(ABSENT, |text| text.revision) == revision;
        if stands {
            state.revision += 1;
            let revision = state.revision;
            match text {
                Some(text) => state.texts.insert(place, Text { text: text.to_vec(), revision }),
                None => state.texts.remove(&place),
            };
        }
        match state.take(|state| &mut state.lost_answers) {
            true => Err(unsure()),
            false => Ok(stands),
        }
    }

    fn shown(&self, key: Key<'_>, revision: u64, text: &str) -> String {
        format!("swap {} at {revision}: {text}", key.path())
    }

    async fn list(&self, folder: &[&str]) -> Result<Vec<(String, Text)>, FleetError> {
        let mut state = self.state();
        state.reads += 1;
        state.reachable()?;
        let folder = folder_path(folder);
        let inside = state.texts.iter().filter(|((at, _), _)| *at == folder);
        Ok(inside.map(|((_, name), text)| (name.clone(), text.clone())).collect())
    }
}

#[async_trait]
impl Documents for Far {
    async fn read(&self, key: Key<'_>) -> Result<Option<Text>, FleetError> {
        self.way.there().await?;
        let read = self.store.read(key).await;
        self.way.back().await?;
        read
    }

    async fn swap(&self, key: Key<'_>, revision: u64, text: Option<&[u8]>) -> Result<bool, FleetError> {
        self.way.there().await?;
        let swapped = self.store.swap(key, revision, text).await;
        self.way.back().await?;
        swapped
    }

    fn shown(&self, key: Key<'_>, revision: u64, text: &str) -> String {
        self.store.shown(key, revision, text)
    }

    async fn list(&self, folder: &[&str]) -> Result<Vec<(String, Text)>, FleetError> {
        self.way.there().await?;
        let listed = self.store.list(folder).await;
        self.way.back().await?;
        listed
    }
}
