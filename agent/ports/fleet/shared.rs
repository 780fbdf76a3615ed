//! The rules of slots and breaches over any store of documents; the same for Consul, etcd, Redis, and the fake.
//!
//! Each change is a round: read, decide (`document`, pure), swap. A swap that others won, and one whose answer did not
//! come, both lead to another round, which reads what stands now; only what was read is believed. A write that arrives
//! late finds another revision and does nothing.
//!
//! A store whose master is replaced by a replica may forget what it has acknowledged, and shows it by another line of masters
//! ([`Lineage`]). So what this host has begun is remembered here, with the line that took it: where another one does not know
//! of it, it is written again, whatever else stands there by then; and for [`super::YOUNG`] after a line was first seen nobody gets a
//! slot, or goes from waiting to changing. A slot that is not there although the line is the same was given away by a person.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::document::{self, Asker, Begin, LEASE, SKEW, Take};
use super::documents::{ABSENT, Documents, Key, Lineage, asked_again, folder_path, in_time, not_yet};
use super::{Acquired, DEADLINE, Fleet, FleetError, Phase, Slot, Told, breach, told};
use crate::clock::Clock;
use crate::model::HostStatus;
use crate::model::moment::after;

pub(super) const SLOTS: &[&str] = &["slots"];
const BREACHES: &str = "breaches";
const HOSTS: &[&str] = &["hosts"];

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
    kept: Mutex<Kept>,
}

/// What the store must not forget.
#[derive(Default)]
struct Kept {
    /// What this host has begun, by service, and the line of masters that has it.
    begun: BTreeMap<String, (Slot, Option<String>)>,
    /// The line of masters whose slots were all looked at.
    looked: Option<String>,
    /// When a slot was given back last, by `Clock::monotonic`: a failover may bring it back.
    given_back: Option<Duration>,
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

/// A slot that was given back stands again only with a replica that was this far behind.
const BROUGHT_BACK_WITHIN: Duration = Duration::from_secs(600);

impl<D: Documents> SharedFleet<D> {
    /// `host` is the name that this host holds slots under.
    pub fn new(documents: D, host: &str, clock: Arc<dyn Clock>) -> Self {
        Self { documents, host: host.into(), clock, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The document with what this host has begun for this incident, where the store has forgotten of it since.
    fn written_again(
        &self,
        service: &str,
        document: &[Slot],
        asker: Asker<'_>,
        lineage: Option<&Lineage>,
    ) -> Option<Vec<Slot>> {
        if document::of(document, asker).is_some_and(|slot| slot.phase.is_begun()) {
            return None;
        }
        let (slot, with) = self.kept().begun.get(service)?.clone();
        (slot.incident == asker.incident && with.as_deref() != id(lineage)).then(|| {
            let incident = &slot.incident;
            tracing::warn!(
                service,
                incident,
                "the fleet store has lost this host's slot of {service}; writing it again",
            );
            document::again(document, slot)
        })
    }

    /// It stands in the store, and must from now on.
    fn remember(&self, service: &str, slot: &Slot, lineage: Option<&Lineage>) {
        self.kept().begun.insert(service.into(), (slot.clone(), id(lineage).map(Into::into)));
    }

    fn forget(&self, service: &str, is_it: impl Fn(&Slot) -> bool) {
        let mut kept = self.kept();
        kept.given_back = Some(self.clock.monotonic());
        if kept.begun.get(service).is_some_and(|(slot, _)| is_it(slot)) {
            kept.begun.remove(service);
        }
    }

    fn asker<'a>(&'a self, incident: &'a str) -> Asker<'a> {
        Asker { host: &self.host, incident, now: self.clock.now() }
    }

    /// Rounds, until one has an answer.
    async fn change<T>(
        &self,
        key: Key<'_>,
        mut round: impl FnMut(Option<&[u8]>, Option<&Lineage>) -> Result<Round<T>, FleetError> + Send,
    ) -> Result<T, FleetError> {
        let rounds = async {
            let mut lost = 0u32;
            let mut unsure = 0u32;
            let mut in_doubt = false;
            loop {
                let (read, lineage) = match self.documents.look(key).await {
                    Err(FleetError::Unreachable(_)) if unsure < UNSURE => {
                        unsure += 1;
                        tokio::time::sleep(pause(&self.host, unsure)).await;
                        continue;
                    }
                    read => read?,
                };
                let text = match round(read.as_ref().map(|read| read.text.as_slice()), lineage.as_ref())? {
                    Round::Answer(answer) if !in_doubt => return Ok(answer),
                    Round::Answer(answer) => match self.documents.confirm(key).await {
                        Ok(()) => return Ok(answer),
                        Err(FleetError::Unreachable(_)) if unsure < UNSURE => {
                            unsure += 1;
                            continue;
                        }
                        Err(error) => return Err(error),
                    },
                    Round::Swap(text) => text,
                };
                let revision = read.map_or(ABSENT, |read| read.revision);
                match self.documents.swap(key, revision, text.as_deref()).await {
                    Ok(true) => {}
                    Ok(false) => {
                        lost += 1;
                        tokio::time::sleep(pause(&self.host, lost)).await;
                    }
                    Err(FleetError::Unreachable(_)) if unsure < UNSURE => {
                        unsure += 1;
                        in_doubt = true;
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        match tokio::time::timeout(DEADLINE, rounds).await {
            Ok(answer) => answer,
            Err(_) => Err(FleetError::Unreachable(format!(
                "`{}` could not be changed within {} s: other hosts change it too often, or the store is slow",
                key.path(),
                DEADLINE.as_secs()
            ))),
        }
    }

    /// Says the store's line of masters.
    async fn keep_one(&self, service: &str, incident: &str) -> Result<Option<String>, FleetError> {
        let asker = self.asker(incident);
        self.change_slots(service, |document, lineage| {
            if let Some(again) = self.written_again(service, document, asker, lineage) {
                return Ok(Decided::Write(again));
            }
            // Begun by this process, or by the one before it.
            if let Some(slot) = document::of(document, asker).filter(|slot| slot.phase.is_begun()) {
                self.remember(service, slot, lineage);
            }
            Ok(Decided::Answer(id(lineage).map(Into::into)))
        })
        .await
    }

    /// This host's slots that are for none of these incidents.
    async fn strays(&self, needed: &[(String, String)]) -> Result<Vec<(String, Slot)>, FleetError> {
        let mut strays = Vec::new();
        for (service, read) in asked_again(|| self.documents.list(SLOTS)).await? {
            let key = Key { folder: SLOTS, name: &service };
            let slots = slots_in(key, Some(&read.text)).unwrap_or_default();
            let is_needed =
                |slot: &Slot| needed.iter().any(|(of, incident)| *of == service && *incident == slot.incident);
            let own = slots.into_iter().filter(|slot| slot.holder == self.host && !is_needed(slot));
            strays.extend(own.map(|slot| (service.clone(), slot)));
        }
        Ok(strays)
    }

    async fn change_slots<T>(
        &self,
        service: &str,
        mut round: impl FnMut(&[Slot], Option<&Lineage>) -> Result<Decided<T>, FleetError> + Send,
    ) -> Result<T, FleetError> {
        let key = slots_of(service)?;
        self.change(key, |text, lineage| {
            let slots = slots_in(key, text)?;
            Ok(match round(&slots, lineage)? {
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

fn id(lineage: Option<&Lineage>) -> Option<&str> {
    lineage.map(|lineage| lineage.id.as_str())
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
    FleetError::Refused(format!("`{path}` is left unchanged: {why}; look at it, and delete it if {delete_where}"))
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
        self.change_slots(service, |document, lineage| {
            if let Some(again) = self.written_again(service, document, asker, lineage) {
                return Ok(Decided::Write(again));
            }
            let taken = document::take(document, asker, slots);
            let begun = document::of(document, asker).is_some_and(|slot| slot.phase.is_begun());
            Ok(match (taken, not_yet(lineage)) {
                (Take::Held, _) if begun => Decided::Answer(Acquired::Yes { until }),
                (Take::No(held), _) => Decided::Answer(Acquired::No { held, says: None }),
                (_, Some(why)) => Decided::Answer(Acquired::NotYet(why)),
                (Take::Held, None) => Decided::Answer(Acquired::Yes { until }),
                (Take::Write(after), None) => Decided::Write(after),
            })
        })
        .await
    }

    async fn would_take(&self, service: &str, incident: &str, slots: u32) -> Result<Option<String>, FleetError> {
        let key = slots_of(service)?;
        let read = in_time(&key.path(), asked_again(|| self.documents.read(key))).await?;
        let held = slots_in(key, read.as_ref().map(|read| read.text.as_slice()))?;
        Ok(match document::take(&held, self.asker(incident), slots) {
            Take::Held | Take::No(_) => None,
            Take::Write(after) => {
                let (text, revision) = (document::write(&after), read.map_or(ABSENT, |read| read.revision));
                Some(self.documents.shown(key, revision, &String::from_utf8_lossy(&text)))
            }
        })
    }

    async fn begin(&self, service: &str, incident: &str) -> Result<Duration, FleetError> {
        let until = self.clock.monotonic() + answer_holds();
        let asker = self.asker(incident);
        self.change_slots(service, |document, lineage| {
            if let Some(again) = self.written_again(service, document, asker, lineage) {
                return Ok(Decided::Write(again));
            }
            match (document::begin(document, asker), not_yet(lineage)) {
                (Begin::Begun(slot), _) => {
                    self.remember(service, &slot, lineage);
                    Ok(Decided::Answer(until))
                }
                (Begin::Write(_), Some(why)) => Err(FleetError::Unreachable(why)),
                (Begin::Write(after), None) => Ok(Decided::Write(after)),
                (Begin::Lost(why), _) => Err(FleetError::Lost(format!("the slot for {service} is lost: {why}"))),
            }
        })
        .await
    }

    async fn drained(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        let asker = self.asker(incident);
        self.change_slots(service, |document, lineage| {
            if let Some(after) = document::drained(document, asker) {
                return Ok(Decided::Write(after));
            }
            if let Some(slot) = document::of(document, asker).filter(|slot| slot.phase == Phase::Drained) {
                self.remember(service, slot, lineage);
            }
            Ok(Decided::Answer(()))
        })
        .await
    }

    async fn release(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        let now = self.clock.now();
        // Before it goes from the store: nothing writes it again meanwhile.
        self.forget(service, |slot| slot.incident == incident);
        self.change_slots(service, |document, _| {
            let (stays, goes) = document::release(document, &self.host, Some(incident), now);
            Ok(if goes.is_empty() { Decided::Answer(()) } else { Decided::Write(stays) })
        })
        .await
    }

    async fn keep(&self, needed: &[(String, String)]) -> Result<Vec<(String, Slot)>, FleetError> {
        if !self.documents.may_forget() {
            return Ok(Vec::new());
        }
        let mut line = None;
        for (service, incident) in needed {
            line = self.keep_one(service, incident).await?;
        }
        let (looked, given_back) = {
            let kept = self.kept();
            (kept.looked.clone(), kept.given_back)
        };
        let lately = given_back.is_some_and(|at| self.clock.monotonic() < at + BROUGHT_BACK_WITHIN);
        if line.is_none() && (lately || looked.is_none()) {
            let read = asked_again(|| self.documents.look(Key { folder: SLOTS, name: "" })).await?;
            line = read.1.map(|lineage| lineage.id);
        }
        // What was given back to a master that was replaced just then comes to light later than its successor.
        if line.is_none() || (line == looked && !lately) {
            return Ok(Vec::new());
        }
        let strays = self.strays(needed).await?;
        self.kept().looked = line;
        Ok(strays)
    }

    async fn release_host(&self, service: &str, host: &str) -> Result<Vec<Slot>, FleetError> {
        let (mut given_back, now) = (Vec::new(), self.clock.now());
        if host == self.host {
            self.forget(service, |_| true);
        }
        self.change_slots(service, |document, _| {
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
        self.change(key, |text, _| {
            let told =
                text.map(|text| breach::parse(text).map_err(|why| not_ours(key, &why, "the entry is no breach")));
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
                let told = breach::parse(&read.text).map_err(|why| not_ours(key, &why, "the entry is no breach"))?;
                if told.service != service {
                    // Of a service whose name begins with this one's and a slash.
                    continue;
                }
                if after(told.until, LITTER) < now {
                    litter = Some((name, read.revision));
                } else if after(told.until, SKEW) > now {
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

    async fn publish_status(&self, status: &HostStatus, until: Timestamp) -> Result<(), FleetError> {
        let key = Key { folder: HOSTS, name: named(&self.host)? };
        let wanted = told::write(&Told::new(&self.host, self.clock.now(), until, status));
        // Nobody else writes it, so whatever stands there is an older one.
        self.change(key, |text, _| {
            Ok(if text == Some(&wanted) { Round::Answer(()) } else { Round::Swap(Some(wanted.clone())) })
        })
        .await
    }

    async fn statuses(&self) -> Result<Vec<(String, Result<Told, String>)>, FleetError> {
        let now = self.clock.now();
        in_time(&folder_path(HOSTS), async {
            let (hosts, gone) = told::listed(asked_again(|| self.documents.list(HOSTS)).await?, now);
            if let Some((name, revision)) = gone {
                // One a look, and only where it still stands as it was read.
                let _ = self.documents.swap(Key { folder: HOSTS, name: &name }, revision, None).await;
            }
            Ok(hosts)
        })
        .await
    }

    async fn server(&self) -> Result<Option<String>, FleetError> {
        self.documents.server().await
    }

    fn caveats(&self) -> &'static [&'static str] {
        self.documents.caveats()
    }
}
