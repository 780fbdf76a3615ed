//! The rules of slots and breaches over any store of documents; the same for Consul, etcd, Redis, and the fake.
//!
//! Each change is a round: read, decide (`document`, pure), swap. A swap that others won, and one whose answer did not
//! come, both lead to another round, which reads what stands now; only what was read is believed. A write that arrives
//! late finds another revision and does nothing.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::document::{self, Asker, Begin, LEASE, SKEW, Take};
use super::documents::{ABSENT, Documents, Key, folder_path};
use super::{Acquired, DEADLINE, Fleet, FleetError, Slot, breach};
use crate::clock::Clock;

const SLOTS: &[&str] = &["slots"];
const BREACHES: &str = "breaches";

/// A lost race is run again after at most this, times the races lost so far.
const PAUSE: Duration = Duration::from_millis(20);

/// Questions without an answer before giving up: each may have cost a whole deadline. A read that failed is asked again,
/// as is what came of a write.
const UNSURE: u32 = 2;

/// A breach that ended this long ago is no more than litter, also for a host whose clock is an hour off.
const LITTER: Duration = Duration::from_secs(3_600);

pub(super) struct SharedFleet<D> {
    documents: D,
    host: String,
    clock: Arc<dyn Clock>,
}

impl<D: std::fmt::Debug> std::fmt::Debug for SharedFleet<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedFleet")
            .field("documents", &self.documents)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// What a round comes to: the answer, or a text to be swapped in and a further round that reads it back.
enum Round<T> {
    Answer(T),
    Swap(Option<Vec<u8>>),
}

impl<D: Documents> SharedFleet<D> {
    /// `host` is the name that this host holds slots under.
    pub fn new(documents: D, host: &str, clock: Arc<dyn Clock>) -> Self {
        Self { documents, host: host.into(), clock }
    }

    fn asker<'a>(&'a self, incident: &'a str) -> Asker<'a> {
        Asker { host: &self.host, incident, now: self.clock.now() }
    }

    /// Rounds, until one has an answer.
    async fn change<T>(
        &self,
        key: Key<'_>,
        mut round: impl FnMut(Option<&[u8]>) -> Result<Round<T>, FleetError> + Send,
    ) -> Result<T, FleetError> {
        let rounds = async {
            let mut lost = 0u32;
            let mut unsure = 0u32;
            loop {
                let read = match self.documents.read(key).await {
                    Err(FleetError::Unreachable(_)) if unsure < UNSURE => {
                        unsure += 1;
                        tokio::time::sleep(pause(&self.host, unsure)).await;
                        continue;
                    }
                    read => read?,
                };
                let text = match round(read.as_ref().map(|read| read.text.as_slice()))? {
                    Round::Answer(answer) => return Ok(answer),
                    Round::Swap(text) => text,
                };
                let revision = read.map_or(ABSENT, |read| read.revision);
                match self.documents.swap(key, revision, text.as_deref()).await {
                    Ok(true) => {}
                    Ok(false) => {
                        lost += 1;
                        tokio::time::sleep(pause(&self.host, lost)).await;
                    }
                    Err(FleetError::Unreachable(_)) if unsure < UNSURE => unsure += 1,
                    Err(error) => return Err(error),
                }
            }
        };
        match tokio::time::timeout(DEADLINE, rounds).await {
            Ok(answer) => answer,
            Err(_) => Err(FleetError::Unreachable(format!(
                "`{}` could not be changed within {} s: others change it all the time, or the store is slow",
                key.path(),
                DEADLINE.as_secs()
            ))),
        }
    }

    async fn change_slots<T>(
        &self,
        service: &str,
        mut round: impl FnMut(&[Slot]) -> Result<Decided<T>, FleetError> + Send,
    ) -> Result<T, FleetError> {
        let key = slots_of(service)?;
        self.change(key, |text| {
            let slots = slots_in(key, text)?;
            Ok(match round(&slots)? {
                Decided::Answer(answer) => Round::Answer(answer),
                // A store that is full takes no write, and does take this.
                Decided::Write(slots) if slots.is_empty() => Round::Swap(None),
                Decided::Write(slots) => Round::Swap(Some(document::write(&slots))),
            })
        })
        .await
    }
}

/// How long an answer is good to begin a change on. A story of an agent that is stopped for longer makes it shorter, by
/// whole seconds in `UNWAIT_LEASE`.
fn answer_holds() -> Duration {
    #[cfg(feature = "crash-points")]
    if let Some(seconds) = std::env::var("UNWAIT_LEASE").ok().and_then(|seconds| seconds.parse().ok()) {
        return Duration::from_secs(seconds);
    }
    LEASE
}

enum Decided<T> {
    Answer(T),
    Write(Vec<Slot>),
}

fn slots_of(service: &str) -> Result<Key<'_>, FleetError> {
    Ok(Key { folder: SLOTS, name: named(service)? })
}

/// A name that stands for itself in every store's paths.
fn named(name: &str) -> Result<&str, FleetError> {
    match name {
        "" | "." | ".." => {
            Err(FleetError::Refused(format!("`{name}` cannot name a service or host in the fleet's store")))
        }
        name => Ok(name),
    }
}

fn slots_in(key: Key<'_>, text: Option<&[u8]>) -> Result<Vec<Slot>, FleetError> {
    text.map_or(Ok(Vec::new()), document::parse).map_err(|why| not_ours(key, &why, "no host works on the service"))
}

fn not_ours(key: Key<'_>, why: &str, delete_where: &str) -> FleetError {
    let path = key.path();
    FleetError::Refused(format!("`{path}` is left as it is: {why}; look at it, and delete it where {delete_where}"))
}

/// Between 1 and [`PAUSE`] for each race lost, another on each host, so that hosts that start in step get out of it.
fn pause(host: &str, lost: u32) -> Duration {
    let most = PAUSE.as_millis() as u64 * u64::from(lost.min(10));
    let mut hasher = DefaultHasher::new();
    (host, lost).hash(&mut hasher);
    Duration::from_millis(1 + hasher.finish() % most)
}

#[async_trait]
impl<D: Documents> Fleet for SharedFleet<D> {
    async fn acquire(&self, service: &str, incident: &str, slots: u32) -> Result<Acquired, FleetError> {
        let until = self.clock.monotonic() + answer_holds();
        let asker = self.asker(incident);
        self.change_slots(service, |document| {
            Ok(match document::take(document, asker, slots) {
                Take::Held => Decided::Answer(Acquired::Yes { until }),
                Take::No(held) => Decided::Answer(Acquired::No { held, says: None }),
                Take::Write(after) => Decided::Write(after),
            })
        })
        .await
    }

    async fn begin(&self, service: &str, incident: &str) -> Result<Duration, FleetError> {
        let until = self.clock.monotonic() + answer_holds();
        let asker = self.asker(incident);
        self.change_slots(service, |document| match document::begin(document, asker) {
            Begin::Begun => Ok(Decided::Answer(until)),
            Begin::Write(after) => Ok(Decided::Write(after)),
            Begin::Lost(why) => Err(FleetError::Lost(format!("the slot for {service} is lost: {why}"))),
        })
        .await
    }

    async fn drained(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        let asker = self.asker(incident);
        self.change_slots(service, |document| {
            Ok(document::drained(document, asker).map_or(Decided::Answer(()), Decided::Write))
        })
        .await
    }

    async fn release(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        let now = self.clock.now();
        self.change_slots(service, |document| {
            let (stays, goes) = document::release(document, &self.host, Some(incident), now);
            Ok(if goes.is_empty() { Decided::Answer(()) } else { Decided::Write(stays) })
        })
        .await
    }

    async fn release_host(&self, service: &str, host: &str) -> Result<Vec<Slot>, FleetError> {
        let (mut given_back, now) = (Vec::new(), self.clock.now());
        self.change_slots(service, |document| {
            let (stays, goes) = document::release(document, host, None, now);
            if goes.is_empty() {
                return Ok(Decided::Answer(std::mem::take(&mut given_back)));
            }
            given_back = goes;
            Ok(Decided::Write(stays))
        })
        .await
    }

    async fn blocked_by(&self, service: &str, incident: &str, slots: u32) -> Result<Vec<Slot>, FleetError> {
        let held = self.holders(service).await?;
        Ok(match document::take(&held, self.asker(incident), slots) {
            Take::Write(_) | Take::Held => Vec::new(),
            Take::No(held) => held,
        })
    }

    async fn services(&self) -> Result<Vec<String>, FleetError> {
        let listed = in_time("unwait/slots", asked_again(|| self.documents.list(SLOTS))).await?;
        Ok(listed.into_iter().map(|(service, _)| service).collect())
    }

    async fn holders(&self, service: &str) -> Result<Vec<Slot>, FleetError> {
        let key = slots_of(service)?;
        let read = in_time(&key.path(), asked_again(|| self.documents.read(key))).await?;
        slots_in(key, read.as_ref().map(|read| read.text.as_slice()))
    }

    async fn publish_breach(&self, service: &str, until: Timestamp) -> Result<(), FleetError> {
        let folder = [BREACHES, named(service)?];
        let key = Key { folder: &folder, name: named(&self.host)? };
        let over = until <= self.clock.now();
        self.change(key, |text| {
            let told = text.map(|text| breach::parse(text).map_err(|why| not_ours(key, &why, "it is no breach")));
            Ok(match told.transpose()? {
                None if over => Round::Answer(()),
                Some(_) if over => Round::Swap(None),
                Some(told) if told.until == until => Round::Answer(()),
                _ => Round::Swap(Some(breach::write(service, &self.host, until))),
            })
        })
        .await
    }

    async fn breaches(&self, service: &str) -> Result<Vec<String>, FleetError> {
        let folder = [BREACHES, named(service)?];
        let path = folder_path(&folder);
        let now = self.clock.now();
        in_time(&path, async {
            let mut hosts = Vec::new();
            let mut litter = None;
            for (name, read) in asked_again(|| self.documents.list(&folder)).await? {
                let key = Key { folder: &folder, name: &name };
                let told = breach::parse(&read.text).map_err(|why| not_ours(key, &why, "it is no breach"))?;
                if told.service != service {
                    // Of a service whose name begins with this one's and a slash.
                    continue;
                }
                if told.until + LITTER < now {
                    litter = Some((name, read.revision));
                } else if told.until + SKEW > now {
                    hosts.push(told.host);
                }
            }
            if let Some((name, revision)) = litter {
                // One a look, and only where it still stands as it was read: of hosts that are gone.
                let _ = self.documents.swap(Key { folder: &folder, name: &name }, revision, None).await;
            }
            hosts.sort();
            Ok(hosts)
        })
        .await
    }

    fn caveats(&self) -> &'static [&'static str] {
        self.documents.caveats()
    }
}

/// A read that fails may be asked again, once.
async fn asked_again<T, F: Future<Output = Result<T, FleetError>> + Send>(
    read: impl Fn() -> F + Send,
) -> Result<T, FleetError> {
    match read().await {
        Err(FleetError::Unreachable(_)) => read().await,
        answer => answer,
    }
}

async fn in_time<T>(path: &str, asked: impl Future<Output = Result<T, FleetError>> + Send) -> Result<T, FleetError> {
    match tokio::time::timeout(DEADLINE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(FleetError::Unreachable(format!("`{path}` was not read within {} s", DEADLINE.as_secs()))),
    }
}
