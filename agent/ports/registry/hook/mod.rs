//! What no adapter knows, by hooks that the host's file spells out: how an instance is isolated, restored and looked at,
//! and how the others are counted. Commands ([`exec`]) or HTTP requests ([`http`]); the rules here are the same for both.
//! An instance's id is `SERVICE/INSTANCE`.
//!
//! - Hooks are asked again and again: isolating what is isolated, and restoring what is restored, must be harmless.
//! - What a hook did is believed once the one that looks says so.
//! - Whose drain it is stands in a [`Ledger`] of this host, noted before it begins; where the backend keeps our marker too,
//!   its word is what counts. A drained instance that nothing says to be ours is another hand's.
//! - Drained is held: what is in traffic although the ledger says that our drain stands is isolated again.

mod counting;
mod exec;
mod http;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ledger::Ledger;
use super::ledger_registry::{Backend, LedgerRegistry};
use super::whose::{Shown, whose};
use super::{Others, Registration, RegistryError, TrafficChange};
use crate::model::Marker;

pub use exec::ExecHooks;
pub use http::HttpHooks;

/// How often the one that looks is asked whether a change is seen.
const SEEN_POLL: Duration = Duration::from_millis(200);
/// So often an isolation is begun where others change the backend meanwhile.
const TURNS: u32 = 3;

/// One backend, by its hooks. Every call ends by a deadline of its own.
#[async_trait]
pub trait Hooks: Send + Sync + 'static {
    /// `seen` is what was read just before, on which the change is founded.
    async fn isolate(&self, words: &Words, seen: &HookInstance) -> Result<(), Failure>;
    async fn restore(&self, words: &Words, seen: &HookInstance) -> Result<(), Failure>;
    /// The command or the request that makes this change, for people.
    fn shown(&self, change: TrafficChange, words: &Words) -> Result<String, Failure>;
    /// `None`: the backend knows no such instance.
    async fn observe(&self, words: &Words) -> Result<Option<HookInstance>, Failure>;
    /// Is there a hook that counts?
    fn counts(&self) -> bool;
    async fn count(&self, words: &Words) -> Result<Counted, Failure>;
    /// Can a change that nobody waits for any more still come after the next one?
    fn may_arrive_late(&self) -> bool;
    /// For a change to be seen.
    fn deadline(&self) -> Duration;
}

/// Why a hook gave no answer that counts.
#[derive(Debug)]
pub enum Failure {
    /// Worth trying again.
    Passing(String),
    /// TLS: one side does not believe the other, and nothing was done.
    Distrusted(String),
    /// What was seen is not so any more, and nothing was done.
    Stale(String),
    /// A person must look.
    Refused(String),
}

/// What is filled into arguments, addresses, bodies and pointers: `{id}`, `{service}`, `{instance}`, `{marker}`, `{incident}`,
/// `{host}`. Where a hook only looks there is no drain to speak of, and the marker and the incident are empty.
#[derive(Debug)]
pub struct Words {
    filled: [(&'static str, String); 6],
    /// What every change of this instance is called, by whichever agent of this host.
    change: String,
}

impl Words {
    /// `escape` is what the place asks for that the word goes into.
    fn fill(&self, text: &str, escape: impl Fn(&str) -> String) -> String {
        let mut whole = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            whole.push_str(&rest[..at]);
            rest = &rest[at..];
            match self.filled.iter().find(|(name, _)| rest[1..].strip_prefix(name).is_some_and(|r| r.starts_with('}')))
            {
                Some((name, word)) => {
                    whole.push_str(&escape(word));
                    rest = &rest[name.len() + 2..];
                }
                None => {
                    whole.push('{');
                    rest = &rest[1..];
                }
            }
        }
        whole + rest
    }
}

/// How a backend has an instance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookInstance {
    pub traffic: State,
    /// Our marker, as the backend gives it back; or somebody else's words.
    #[serde(default)]
    pub marker: Option<String>,
    /// The name that instances share which stand in for each other; the id's SERVICE where it is not told.
    #[serde(default)]
    pub name: Option<String>,
    /// Which version of the backend's record this is (an ETag), where that is known.
    #[serde(skip)]
    pub version: Option<String>,
}

impl HookInstance {
    fn is_out(&self) -> bool {
        matches!(self.traffic, State::Drained | State::Isolated)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Passing,
    Failing,
    /// Out of traffic as `isolate` leaves it.
    Drained,
    /// Out of traffic otherwise.
    Isolated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counted {
    /// The others, ourselves left out.
    pub healthy: u32,
    /// All that are registered, ourselves included.
    pub registered: u32,
    /// Does what was counted show ourselves? `None` where that cannot be told.
    #[serde(skip)]
    pub shows_us: Option<bool>,
}

/// One look, and whose it is.
#[derive(Debug)]
pub struct Looked {
    seen: HookInstance,
    registration: Registration,
}

/// A registry by its hooks.
pub type Hooked<H> = LedgerRegistry<Hookable<H>>;

pub struct Hookable<H> {
    registry: String,
    host: String,
    hooks: H,
    ledger: Ledger,
}

impl<H> std::fmt::Debug for Hookable<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hookable").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl<H: Hooks> Hooked<H> {
    /// `name` is the registry's in the host's file; `ledger` a file that this agent alone writes, for this registry alone.
    pub fn new(name: &str, hooks: H, ledger: PathBuf, hold_every: Duration, host: &str) -> Self {
        let ledger = Ledger::new(ledger);
        let backend = Hookable { registry: name.into(), host: host.into(), hooks, ledger };
        Self::over(backend, hold_every)
    }
}

impl<H: Hooks> Hookable<H> {
    fn told(&self, failure: Failure) -> RegistryError {
        let registry = self.registry.clone();
        match failure {
            Failure::Passing(detail) | Failure::Stale(detail) => RegistryError::Unreachable { registry, detail },
            Failure::Distrusted(detail) => RegistryError::Distrusted { registry, detail },
            Failure::Refused(detail) => RegistryError::Refused { registry, detail },
        }
    }

    fn split<'a>(&self, id: &'a str) -> Result<(&'a str, &'a str), RegistryError> {
        id.split_once('/').filter(|(service, instance)| !service.is_empty() && !instance.is_empty()).ok_or_else(|| {
            self.refused(format!("`{id}` names no instance: expected SERVICE/INSTANCE, as in rpc-order/10.0.0.1:7801"))
        })
    }

    fn words(&self, id: &str, marker: Option<&Marker>) -> Result<Words, RegistryError> {
        let (service, instance) = self.split(id)?;
        let line = marker.map(ToString::to_string).unwrap_or_default();
        let incident = marker.map(|marker| marker.incident.0.clone()).unwrap_or_default();
        let filled = [
            ("id", id.into()),
            ("service", service.into()),
            ("instance", instance.into()),
            ("marker", line),
            ("incident", incident),
            ("host", self.host.clone()),
        ];
        Ok(Words { filled, change: self.change(id) })
    }

    /// A name for a unit of systemd. The ledger tells agents of one host apart.
    fn change(&self, id: &str) -> String {
        let hash = Sha256::digest(format!("{}\0{id}", self.ledger.path().display()));
        let short: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("unwait-hook-{}-{short}", self.registry)
    }

    async fn seen(&self, id: &str) -> Result<HookInstance, RegistryError> {
        let seen = self.hooks.observe(&self.words(id, None)?).await.map_err(|failure| self.told(failure))?;
        seen.ok_or_else(|| RegistryError::NotRegistered { registry: self.registry.clone(), id: id.into() })
    }

    /// Asks until the backend says so, or until the deadline.
    async fn until(&self, id: &str, still: &str, is_so: impl Fn(&HookInstance) -> bool) -> Result<(), RegistryError> {
        let deadline = tokio::time::Instant::now() + self.hooks.deadline();
        loop {
            let seen = self.seen(id).await;
            let late = tokio::time::Instant::now() >= deadline;
            match seen {
                Ok(seen) if is_so(&seen) => return Ok(()),
                Ok(_) if late => {
                    let detail =
                        format!("`{id}` was {still} by `observe`, {:?} after the change", self.hooks.deadline());
                    return Err(RegistryError::Unreachable { registry: self.registry.clone(), detail });
                }
                Err(error) if late || !error.is_passing() => return Err(error),
                _ => tokio::time::sleep(SEEN_POLL).await,
            }
        }
    }
}

#[async_trait]
impl<H: Hooks> Backend for Hookable<H> {
    type Instance = Looked;

    fn registry(&self) -> &str {
        &self.registry
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What the backend says, and whose it is.
    async fn look(&self, id: &str) -> Result<Looked, RegistryError> {
        let (service, _) = self.split(id)?;
        let seen = self.seen(id).await?;
        let shown = match seen.traffic {
            State::Passing => Shown::In { passing: true },
            State::Failing => Shown::In { passing: false },
            State::Drained => Shown::Out("it is drained"),
            State::Isolated => Shown::OutOtherwise("the hook gives no reason"),
        };
        let traffic = whose(shown, seen.marker.as_deref(), self.note(id)?.as_ref());
        let record = json!({ "id": id, "name": seen.name });
        let name = seen.name.clone().unwrap_or(service.into());
        Ok(Looked { seen, registration: Registration { name, traffic, record } })
    }

    fn registration(looked: &Looked) -> &Registration {
        &looked.registration
    }

    /// Isolates it where it is in traffic, and waits until that is seen. True where it was in traffic.
    async fn take_out(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let words = self.words(id, Some(marker))?;
        let mut turn = 1;
        loop {
            let seen = self.seen(id).await?;
            if seen.is_out() {
                return Ok(false);
            }
            match self.hooks.isolate(&words, &seen).await {
                Err(Failure::Stale(_)) if turn < TURNS => turn += 1,
                isolated => break isolated.map_err(|failure| self.told(failure))?,
            }
        }
        self.until(id, "in traffic still", HookInstance::is_out).await?;
        Ok(true)
    }

    async fn put_back(&self, id: &str, marker: &Marker, looked: Looked, _record: &Value) -> Result<(), RegistryError> {
        let words = self.words(id, Some(marker))?;
        self.hooks.restore(&words, &looked.seen).await.map_err(|failure| self.told(failure))?;
        // A marker that stays behind would make somebody's next drain ours.
        let ours = marker.to_string();
        let is_back = |seen: &HookInstance| seen.traffic != State::Drained && seen.marker.as_ref() != Some(&ours);
        self.until(id, "drained or marked as ours still", is_back).await
    }

    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError> {
        let words = self.words(id, Some(marker))?;
        Ok(vec![self.hooks.shown(change, &words).map_err(|failure| self.told(failure))?])
    }

    /// A hook that fails may have done half of it.
    async fn is_undone(&self, _id: &str, _error: &RegistryError) -> bool {
        false
    }

    /// A drain is some eight of the backend's calls, one after the other.
    fn ends_within(&self) -> Duration {
        self.hooks.deadline() * 8 + Duration::from_secs(60)
    }

    /// Three looks, the change, and its own deadline until it is seen, with one look begun at its end.
    fn drains_within(&self) -> Duration {
        self.hooks.deadline() * 6
    }

    /// What the backend says, whatever is noted.
    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        match self.seen(id).await {
            Ok(seen) => Ok(seen.traffic == State::Passing),
            Err(RegistryError::NotRegistered { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        if !self.hooks.counts() {
            return Err(self.refused("no `count` hook is configured, so other instances cannot be counted".into()));
        }
        // Proves that the hooks see ourselves.
        let seen = self.seen(id).await?;
        let counted = self.hooks.count(&self.words(id, None)?).await.map_err(|failure| self.told(failure))?;
        let Counted { healthy, mut registered, shows_us } = counted;
        let is_our_drain = seen.is_out() && self.note(id)?.is_some();
        if registered == 0 || shows_us == Some(false) && !is_our_drain {
            let why = format!("`count` lacks `{id}` among {registered} registered instances, so it may lack others");
            return Err(self.refused(why));
        }
        // A backend's list may leave out what is drained, and there we are not among those that it counts.
        registered = match shows_us {
            Some(true) => registered,
            Some(false) => registered.saturating_add(1),
            None if is_our_drain => registered.max(healthy.saturating_add(1)),
            None => registered,
        };
        if healthy >= registered {
            return Err(self.refused(format!(
                "`count` says that {healthy} others are healthy of {registered} registered, ourselves among these"
            )));
        }
        Ok(Others { healthy, registered })
    }

    fn counts(&self) -> bool {
        self.hooks.counts()
    }

    /// Hooks tell no addresses.
    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        Ok(HashMap::new())
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        Ok(vec![])
    }

    fn caveats(&self) -> &'static [&'static str] {
        match (self.hooks.may_arrive_late(), self.hooks.counts()) {
            (false, true) => &[UNKNOWN, HELD, UNPROVEN],
            (false, false) => &[UNKNOWN, HELD, UNPROVEN, NO_COUNT],
            (true, true) => &[UNKNOWN, HELD, UNPROVEN, LATE],
            (true, false) => &[UNKNOWN, HELD, UNPROVEN, LATE, NO_COUNT],
        }
    }
}

const UNKNOWN: &str = "unwait cannot verify the hooks: their answers are believed as they are";
const HELD: &str = "an instance that others restore is in traffic until the agent isolates it again; without a running \
                    agent it stays in traffic; the drain's owner is stored in the state directory";
const UNPROVEN: &str = "`isolate` is not repeated just before the restart: a backend that accepts no writes by then is \
                        noticed at the `restore`";
const LATE: &str = "a request whose answer is not waited for (the agent was stopped, its deadline passed) cannot be \
                    called off: an `isolate` that arrives after the `restore` takes the instance out without any \
                    message";
const NO_COUNT: &str = "no hook counts other instances: min_healthy needs another registry of the service that does";
