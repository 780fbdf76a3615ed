//! Drains in registries that keep no word on whose a drain is: noted in a [`Ledger`] of this host, and held. The rules are
//! written here once, and in [`super::whose`]; what is done to an instance is the adapter's, as a [`Backend`].
//!
//! A drain is noted before it begins, and noted again once it was seen. Only then it is one: what was begun and never seen
//! is in traffic, is neither held nor listed, and becomes a drain where it is found out of traffic later. A note goes
//! only where the change itself was refused: one that was answered stands, or will, whatever is read right afterwards. A
//! restore changes for as long as the note stands, also where one read says that it is in traffic already, and the note
//! goes last.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::holder::{Holder, HoldsDrains, Look};
use super::ledger::{Ledger, Note};
use super::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange};
use crate::model::Marker;

/// From a change until reads show it: peers tell each other of it, or a cache hears of it by an event.
const SEEN_DEADLINE: Duration = Duration::from_secs(10);
const SEEN_POLL: Duration = Duration::from_millis(50);
/// Of several peers behind one address one may be behind: so many reads in a row must show a change.
const AGREED: u32 = 3;

/// What an adapter reads of one instance, and does to it; and what it tells of all, which is as in [`Registry`].
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// One read of an instance.
    type Instance: Send + Sync;

    fn registry(&self) -> &str;
    fn ledger(&self) -> &Ledger;

    async fn look(&self, id: &str) -> Result<Self::Instance, RegistryError>;
    /// By what was read, and what is noted: as [`super::whose`] decides it.
    fn registration(seen: &Self::Instance) -> &Registration;

    /// Takes the instance out where it is in traffic, and returns once that is seen. True where it was in traffic.
    async fn take_out(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError>;

    /// Puts the instance into traffic, whatever was read, and returns once that is seen.
    async fn put_back(
        &self,
        id: &str,
        marker: &Marker,
        seen: Self::Instance,
        record: &Value,
    ) -> Result<(), RegistryError>;

    /// As [`Registry::would`].
    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError>;

    /// After a drain that failed so: does nothing of it stand, nor will? As a rule an error that does not pass is one of the
    /// change itself.
    async fn is_undone(&self, _id: &str, error: &RegistryError) -> bool {
        !error.is_passing()
    }

    /// Makes the change of a drain that stands once more; as [`Registry::takes_writes`] wants it.
    async fn write_again(&self, _id: &str, _marker: &Marker, _seen: Self::Instance) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError>;
    fn counts(&self) -> bool {
        true
    }
    async fn server(&self) -> Result<Option<String>, RegistryError> {
        Ok(None)
    }
    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError>;
    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError>;
    async fn health_url(&self, _id: &str) -> Result<Option<String>, RegistryError> {
        Ok(None)
    }
    fn ends_within(&self) -> Duration {
        super::ENDS_WITHIN
    }
    fn drains_within(&self) -> Duration {
        super::DRAINS_WITHIN
    }
    /// The four of [`Registry`] by the same names.
    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError>;
    fn clients_follow(&self) -> Duration {
        Duration::ZERO
    }
    fn clients_leave(&self) -> bool {
        false
    }
    fn gone_after(&self) -> Duration {
        super::GONE_AFTER
    }
    fn caveats(&self) -> &'static [&'static str];

    /// What is noted of this instance.
    fn note(&self, id: &str) -> Result<Option<Note>, RegistryError> {
        self.ledger().notes().map(|mut notes| notes.remove(id)).map_err(|detail| self.refused(detail))
    }

    fn refused(&self, detail: String) -> RegistryError {
        RegistryError::Refused { registry: self.registry().into(), detail }
    }
}

/// A backend, with its drains noted and held.
#[derive(Debug)]
pub struct LedgerRegistry<B> {
    kept: Arc<Kept<B>>,
    holder: Holder,
}

#[derive(Debug)]
struct Kept<B> {
    backend: B,
    /// One change at a time: nothing is held while it is being put back.
    changing: Arc<Changing>,
}

type Changing = tokio::sync::Mutex<()>;

/// A ledger's, not an adapter's: while a new configuration takes over, two adapters hold the same drains.
static CHANGING: std::sync::Mutex<BTreeMap<PathBuf, Weak<Changing>>> = std::sync::Mutex::new(BTreeMap::new());

fn changing(ledger: &Path) -> Arc<Changing> {
    let mut known = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|_, changing| changing.strong_count() > 0);
    if let Some(changing) = known.get(ledger).and_then(Weak::upgrade) {
        return changing;
    }
    let changing = Arc::default();
    known.insert(ledger.into(), Arc::downgrade(&changing));
    changing
}

impl<B: Backend> LedgerRegistry<B> {
    pub(super) fn over(backend: B, hold_every: Duration) -> Self {
        let changing = changing(backend.ledger().path());
        let kept = Kept { backend, changing };
        Self { kept: Arc::new(kept), holder: Holder::new(hold_every) }
    }

    pub(super) fn backend(&self) -> &B {
        &self.kept.backend
    }
}

/// Out of traffic by this drain, as far as was read?
fn is_drained<B: Backend>(seen: &B::Instance, marker: &Marker) -> bool {
    matches!(&B::registration(seen).traffic, Traffic::DrainedBy(found) if found == marker)
}

#[async_trait]
impl<B: Backend> Registry for LedgerRegistry<B> {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        let seen = self.backend().look(id).await?;
        Ok(B::registration(&seen).clone())
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let backend = self.backend();
        let _one = self.kept.changing.lock().await;
        let traffic = backend.look(id).await?;
        let anew = super::may_drain(backend.registry(), id, &B::registration(&traffic).traffic, marker)?;
        let began_before = backend.note(id)?.is_some_and(|note| note.marker == *marker);
        self.kept.noted(backend.ledger().begin(id, marker))?;
        let changed = match backend.take_out(id, marker).await {
            Ok(changed) => changed,
            Err(error) => {
                // Where it is not known what was done, the note stays for the saga's undo.
                if anew && backend.is_undone(id, &error).await {
                    self.kept.noted(backend.ledger().end(id))?;
                }
                return Err(error);
            }
        };
        if changed {
            self.kept.noted(backend.ledger().seen(id, marker))?;
        }
        // Where somebody was quicker, it is out by their doing, though our note makes it look like ours.
        let is_theirs = anew && !changed && !began_before;
        if is_theirs {
            self.kept.noted(backend.ledger().end(id))?;
        }
        let seen = backend.look(id).await?;
        if is_theirs || !is_drained::<B>(&seen, marker) {
            let now = super::stands_there(&B::registration(&seen).traffic);
            return Err(backend.refused(format!("`{id}` was drained, but is {now}")));
        }
        self.kept.noted(backend.ledger().seen(id, marker))?;
        self.holder.hold(&self.kept, id, marker);
        Ok(())
    }

    async fn hold(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        self.holder.look_now(&self.kept, id, marker).await
    }

    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let _one = self.kept.changing.lock().await;
        let seen = self.backend().look(id).await?;
        if !is_drained::<B>(&seen, marker) {
            return Ok(false);
        }
        self.backend().write_again(id, marker, seen).await.map(|()| true)
    }

    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError> {
        self.backend().would(change, id, marker).await
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &Value) -> Result<Restored, RegistryError> {
        let _one = self.kept.changing.lock().await;
        self.holder.put_back(&self.kept, id, marker, self.kept.restore(id, marker, record)).await
    }

    async fn forget(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.holder.forget(id, marker).await;
        let _one = self.kept.changing.lock().await;
        match self.backend().note(id)? {
            Some(note) if note.marker == *marker => self.kept.noted(self.backend().ledger().end(id)),
            _ => Ok(()),
        }
    }

    /// All that was seen drained, held from now on: also what is not there now, and comes into traffic when it registers.
    /// What was begun and never seen is one of them where it is found drained.
    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        let notes = self.backend().ledger().notes();
        let (seen, begun): (Vec<_>, Vec<_>) = self.kept.noted(notes)?.into_iter().partition(|(_, note)| note.seen);
        let mut found = Vec::new();
        for (id, Note { marker, .. }) in seen {
            self.holder.hold(&self.kept, &id, &marker);
            found.push(FoundMarker { id, marker });
        }
        for (id, Note { marker, .. }) in begun {
            if self.kept.look_again(&id, &marker).await? != Look::NotOurs {
                self.holder.hold(&self.kept, &id, &marker);
                found.push(FoundMarker { id, marker });
            }
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        self.backend().others(id).await
    }

    fn counts(&self) -> bool {
        self.backend().counts()
    }

    async fn server(&self) -> Result<Option<String>, RegistryError> {
        self.backend().server().await
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        self.backend().names().await
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        self.backend().instances().await
    }

    async fn health_url(&self, id: &str) -> Result<Option<String>, RegistryError> {
        self.backend().health_url(id).await
    }

    fn ends_within(&self) -> Duration {
        self.backend().ends_within()
    }

    fn drains_within(&self) -> Duration {
        self.backend().drains_within()
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        self.backend().clients_find(id).await
    }

    fn clients_follow(&self) -> Duration {
        self.backend().clients_follow()
    }

    fn clients_leave(&self) -> bool {
        self.backend().clients_leave()
    }

    fn gone_after(&self) -> Duration {
        self.backend().gone_after()
    }

    fn caveats(&self) -> &'static [&'static str] {
        self.backend().caveats()
    }
}

impl<B: Backend> Kept<B> {
    fn noted<T>(&self, noted: Result<T, String>) -> Result<T, RegistryError> {
        noted.map_err(|detail| self.backend.refused(detail))
    }

    async fn restore(&self, id: &str, marker: &Marker, record: &Value) -> Result<Restored, RegistryError> {
        let backend = &self.backend;
        let put_back = async {
            let seen = backend.look(id).await?;
            let begun = backend.note(id)?.is_some_and(|note| note.marker == *marker && !note.seen);
            let traffic = &B::registration(&seen).traffic;
            // What was begun may be seen yet: in traffic now is not in traffic soon.
            let is_ours =
                is_drained::<B>(&seen, marker) || begun && matches!(traffic, Traffic::Passing | Traffic::Failing);
            if !is_ours {
                return Ok(Restored::NotOurs(super::stands_there(traffic)));
            }
            backend.put_back(id, marker, seen, record).await?;
            // Last: until it is in traffic the drain is ours to take back.
            self.noted(backend.ledger().end(id))?;
            Ok(Restored::Done)
        };
        match put_back.await {
            Err(RegistryError::NotRegistered { .. }) => {
                Ok(Restored::NotOurs(format!("instance `{id}` is not registered any more")))
            }
            restored => restored,
        }
    }

    /// A drain that was begun is one once it is found to be.
    async fn is_seen_now(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        match self.backend.look(id).await {
            Ok(seen) if is_drained::<B>(&seen, marker) => {
                self.noted(self.backend.ledger().seen(id, marker))?;
                Ok(true)
            }
            Ok(_) | Err(RegistryError::NotRegistered { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl<B: Backend> HoldsDrains for Kept<B> {
    async fn look_again(&self, id: &str, marker: &Marker) -> Result<Look, RegistryError> {
        let _one = self.changing.lock().await;
        match self.backend.note(id)? {
            Some(note) if note.marker == *marker => {
                if !note.seen && !self.is_seen_now(id, marker).await? {
                    return Ok(Look::NotOurs);
                }
            }
            _ => return Ok(Look::NotOurs),
        }
        match self.backend.take_out(id, marker).await {
            Ok(true) => Ok(Look::OutAgain),
            // Gone while it restarts: what registers again is seen next time.
            Ok(false) | Err(RegistryError::NotRegistered { .. }) => Ok(Look::Out),
            Err(error) => Err(error),
        }
    }
}

/// Asks until a change is seen; the answer is what is read instead, where it is not. No answer makes a change undone that
/// was taken: all that fails here is worth trying again.
pub(super) async fn until_seen<F>(registry: &str, id: &str, ask: impl Fn() -> F) -> Result<(), RegistryError>
where
    F: Future<Output = Result<Option<String>, RegistryError>> + Send,
{
    let until = tokio::time::Instant::now() + SEEN_DEADLINE;
    let mut agreed = 0;
    loop {
        let asked = ask().await;
        agreed = if matches!(asked, Ok(None)) { agreed + 1 } else { 0 };
        if agreed == AGREED {
            return Ok(());
        }
        // A peer that has not heard of the instance may yet.
        let hopeless = matches!(asked, Err(RegistryError::Refused { .. }));
        if hopeless || tokio::time::Instant::now() >= until {
            let reads = match asked {
                Ok(read) => read.unwrap_or("the change becomes visible with a delay".into()),
                Err(error) => error.to_string(),
            };
            let detail = format!("`{id}` was changed, but the registry shows: {reads}");
            return Err(RegistryError::Unreachable { registry: registry.into(), detail });
        }
        tokio::time::sleep(SEEN_POLL).await;
    }
}
