//! Redis as a registry, in the shapes that frameworks use: a set, a sorted set by heartbeat, a hash, a key with a time to
//! live, and Dubbo's. An instance's id is `SERVICE/INSTANCE`: `rpc-order/10.0.0.1:7801`.
//!
//! In all shapes but Dubbo's the entry is the only thing that clients look at, so a drain removes it. One script in Redis
//! keeps what it removes (value, score, remaining time) in the hash `unwait:drained`, under our [`Marker`], in the same
//! go; a restore puts back exactly that, and nothing where something newer stands. Measured with Redis 7.0: a heartbeat
//! writes its entry again. So a drain is held: the entry is removed again, and what the heartbeat wrote is kept as
//! the newest, for as long as the marker stands in the hash. Who takes the marker out by hand (`HDEL unwait:drained ID`)
//! ends the drain.
//!
//! A failover may lose the last writes. So each answer tells the line of masters that it comes from (`master_replid`): a
//! drain that another one has forgotten is made again, and a restore is looked at again (`restored`).
//!
//! Dubbo's consumers follow overrides: `override://IP:PORT/SERVICE?…&disabled=true` in `/dubbo/SERVICE/configurators`
//! disables a provider that stays registered, so nothing is removed and nothing needs to be put back. One for each group and
//! version that it offers ([`dubbo`](super::dubbo)).
//!
//! A user of Redis' that may not read a key is told so (`NOPERM`), and never answered as if it were empty.

mod restored;
mod shape;
mod standing;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::dubbo;
use super::holder::{Holder, HoldsDrains, Look};
use super::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange};
use crate::model::{Marker, RedisLayout, RedisProfile};
use crate::ports::api_error::ApiError;
use crate::ports::redis::{Api, RedisAccess};

use restored::Restores;
use shape::DRAINS;
use standing::is_fresh;

/// For naming peers.
const NAMES_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Redis {
    entries: Arc<Entries>,
    holder: Holder,
    restores: Restores,
}

/// The instances of services, as one layout has them.
#[derive(Debug)]
struct Entries {
    registry: String,
    host: String,
    api: Api,
    layout: RedisLayout,
    script: String,
    /// Each drain as it was seen last, and the line of masters that showed it.
    seen: Mutex<BTreeMap<String, (Marker, String)>>,
}

/// Where an instance stands.
struct InstanceKey<'a> {
    id: &'a str,
    service: &'a str,
    instance: &'a str,
    key: String,
    /// What the script changes: the entry's key, and of Dubbo's that of the overrides.
    changed: String,
}

/// The answer of `change.lua`.
struct Answer {
    word: String,
    drain: Option<Marker>,
    /// Stands in `unwait:drained`, and is nothing of ours.
    foreign: bool,
    score: String,
    value: Vec<u8>,
    now: Duration,
    /// Dubbo's, of this service; whoever made them.
    overrides: Vec<String>,
    /// Another one may have forgotten what this one was told.
    lineage: String,
}

impl Redis {
    /// `name` is the registry's in the host's file, `host` the one that our markers carry.
    pub fn new(name: &str, access: RedisAccess, layout: RedisLayout, host: &str) -> Self {
        let holder = Holder::new(layout.hold_every);
        let script = shape::script(layout.profile);
        let (registry, host) = (name.into(), host.into());
        let entries = Entries { registry, host, api: Api::new(access), layout, script, seen: Mutex::default() };
        Self { entries: Arc::new(entries), holder, restores: Restores::default() }
    }
}

impl Entries {
    fn told(&self, error: ApiError) -> RegistryError {
        error.of_registry(&self.registry)
    }

    fn refused(&self, detail: String) -> RegistryError {
        RegistryError::Refused { registry: self.registry.clone(), detail }
    }

    /// Asks the server that holds the key.
    async fn ask<T: redis::FromRedisValue>(&self, key: &str, words: &[&[u8]]) -> Result<T, RegistryError> {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(*word);
        });
        self.api.ask(key.as_bytes(), &command).await.map_err(|error| self.told(error))
    }

    fn key(&self, service: &str, instance: &str) -> String {
        // The instance first: a service's name is not looked into.
        self.layout.key.replace("{instance}", instance).replace("{service}", service)
    }

    fn place<'a>(&self, id: &'a str) -> Result<InstanceKey<'a>, RegistryError> {
        let (service, instance) = super::service_and_instance(&self.registry, id)?;
        let key = self.key(service, instance);
        let changed = self.changed(&key);
        Ok(InstanceKey { id, service, instance, key, changed })
    }

    /// What a drain changes of this entry.
    fn changed(&self, key: &str) -> String {
        if self.layout.profile == RedisProfile::Dubbo { configurators(key) } else { key.into() }
    }

    async fn change(
        &self,
        doing: &str,
        place: &InstanceKey<'_>,
        marker: Option<&Marker>,
    ) -> Result<Answer, RegistryError> {
        let marker = marker.map(ToString::to_string).unwrap_or_default();
        let drains = self.api.beside(&place.changed, DRAINS);
        let mut arguments = vec![doing.to_owned(), place.id.into(), place.instance.into(), marker];
        if self.layout.profile == RedisProfile::Dubbo {
            let all: Vec<(String, String)> = self.ask(&place.key, &[b"HGETALL", place.key.as_bytes()]).await?;
            let (mut offered, ends): (Vec<String>, Vec<String>) =
                all.into_iter().filter(|(url, _)| dubbo::address(url) == Some(place.instance)).unzip();
            offered.sort_unstable();
            let last = ends.into_iter().max_by_key(|ends| ends.parse().unwrap_or(0u64));
            arguments.push(dubbo::bare_override(place.instance, place.service));
            arguments.extend([last.unwrap_or_default(), offered.join("\n")]);
            arguments.extend(dubbo::overrides(&offered, place.instance, place.service));
        }
        let mut words: Vec<&[u8]> = vec![b"EVAL", self.script.as_bytes(), b"2"];
        words.extend([&place.changed, &drains].into_iter().chain(&arguments).map(String::as_bytes));
        let (word, drain, score, value, now, overrides, lineage): (
            String,
            Vec<u8>,
            String,
            Vec<u8>,
            u64,
            String,
            String,
        ) = self.ask(&place.changed, &words).await?;
        let marker = marker_of(&drain);
        Ok(Answer {
            word,
            foreign: marker.is_none() && !drain.is_empty(),
            drain: marker,
            score,
            value,
            now: Duration::from_millis(now),
            overrides: overrides.lines().map(Into::into).collect(),
            lineage,
        })
    }

    /// The drains that stand, of one service or of all. In a Cluster they stand beside each key.
    async fn drains(&self, service: Option<&str>) -> Result<Vec<(String, Marker)>, RegistryError> {
        let beside_each = format!("{DRAINS}:{{*").into_bytes();
        let hashes = match (service, self.layout.profile) {
            _ if !self.api.is_cluster() => vec![DRAINS.as_bytes().to_vec()],
            (None, _) | (_, RedisProfile::TtlKey) => {
                self.api.scan(&beside_each).await.map_err(|error| self.told(error))?
            }
            (Some(service), _) => vec![self.api.beside(&self.changed(&self.key(service, "")), DRAINS).into_bytes()],
        };
        let mut all = Vec::new();
        for hash in hashes {
            let key = String::from_utf8_lossy(&hash);
            let drains: Vec<(String, Vec<u8>)> = self.ask(&key, &[b"HGETALL", &hash]).await?;
            all.extend(drains.into_iter().filter_map(|(id, drain)| Some((id, marker_of(&drain)?))));
        }
        Ok(all)
    }

    /// The one way to a look at a drain, and to another one where a failover has lost it.
    async fn look_again_by(&self, doing: &str, id: &str, marker: &Marker) -> Result<Look, RegistryError> {
        let place = self.place(id)?;
        let answer = self.change(doing, &place, Some(marker)).await?;
        let look = match answer.word.as_str() {
            "taken" => Look::OutAgain,
            "out" => Look::Out,
            _ if answer.drain.is_none() && !answer.foreign && self.was_lost(id, marker, &answer.lineage) => {
                match self.observe(id).await {
                    Ok(Registration { traffic: Traffic::Passing | Traffic::Failing, .. }) => {
                        self.change("drain", &place, Some(marker)).await?;
                        Look::OutAgain
                    }
                    Ok(_) => return Ok(Look::NotOurs),
                    // What registers again is seen next time.
                    Err(RegistryError::NotRegistered { .. }) => return Ok(Look::Out),
                    Err(error) => return Err(error),
                }
            }
            _ => return Ok(Look::NotOurs),
        };
        self.seen().insert(id.into(), (marker.clone(), answer.lineage));
        Ok(look)
    }

    /// Did the drain stand with a master that this one may know nothing of?
    fn was_lost(&self, id: &str, marker: &Marker, lineage: &str) -> bool {
        self.seen().get(id).is_some_and(|(seen, with)| seen == marker && with != lineage)
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, (Marker, String)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is the entry one whose heartbeat, or whose end, has not passed?
    fn lives(&self, answer: &Answer) -> bool {
        match self.layout.profile {
            RedisProfile::Set | RedisProfile::Hash | RedisProfile::TtlKey => true,
            RedisProfile::SortedSet { stale_after } => {
                answer.score.parse().is_ok_and(|score| is_fresh(score, answer.now, stale_after))
            }
            RedisProfile::Dubbo => answer.score.parse().is_ok_and(|ends| Duration::from_millis(ends) >= answer.now),
        }
    }

    /// What takes a provider of Dubbo's out: an override, or its own URL.
    fn overridden(&self, seen: &Answer) -> Option<String> {
        let offered: Vec<&str> = match self.layout.profile {
            RedisProfile::Dubbo => std::str::from_utf8(&seen.value).unwrap_or_default().lines().collect(),
            _ => vec![],
        };
        let by = seen.overrides.iter().find(|by| offered.iter().any(|url| dubbo::disables(by, url)));
        by.cloned().or_else(|| offered.into_iter().find(|url| dubbo::is_off(url)).map(Into::into))
    }

    /// After a change of ours: a provider of Dubbo's may be away for a moment just then.
    async fn observe_settled(&self, id: &str) -> Result<Registration, RegistryError> {
        let mut patience = dubbo::Patience::new();
        loop {
            let seen = self.observe(id).await;
            if self.layout.profile != RedisProfile::Dubbo || !patience.asks_again(&seen).await {
                return seen;
            }
        }
    }

    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        let place = self.place(id)?;
        let seen = self.change("look", &place, None).await?;
        // Dubbo's entry stays while it is drained; in the other shapes its absence is the drain.
        let gone = seen.word == "gone" && (seen.drain.is_none() || self.layout.profile == RedisProfile::Dubbo);
        if seen.foreign {
            let detail = format!("the entry `{id}` in `{DRAINS}` was not written by unwait; look at it, and delete it");
            return Err(self.refused(detail));
        }
        if gone {
            return Err(RegistryError::NotRegistered { registry: self.registry.clone(), id: id.into() });
        }
        let lives = self.lives(&seen);
        let overridden = self.overridden(&seen);
        let traffic = match (seen.drain, overridden) {
            (Some(marker), _) => Traffic::DrainedBy(marker),
            (None, Some(reason)) => Traffic::Isolated { reason },
            (None, None) if lives => Traffic::Passing,
            (None, None) => Traffic::Failing,
        };
        let value = match String::from_utf8(seen.value) {
            Ok(text) => json!(text),
            Err(bytes) => json!({ "base64": STANDARD.encode(bytes.as_bytes()) }),
        };
        let record = json!({ "key": place.key, "instance": place.instance, "score": seen.score, "value": value });
        Ok(Registration { name: place.service.into(), traffic, record })
    }

    async fn restore(&self, id: &str, marker: &Marker) -> Result<Restored, RegistryError> {
        match self.observe_settled(id).await.map(|seen| seen.traffic) {
            Ok(Traffic::DrainedBy(found)) if found == *marker => {}
            Ok(other) => return Ok(Restored::NotOurs(super::stands_there(&other))),
            Err(RegistryError::NotRegistered { .. }) => {
                return Ok(Restored::NotOurs(format!("instance `{id}` is not registered any more")));
            }
            Err(error) => return Err(error),
        }
        let answer = self.change("restore", &self.place(id)?, Some(marker)).await?;
        match answer.word.as_str() {
            // What a heartbeat wrote a moment before is newer than what we kept, and stays as it is.
            "put back" | "newer" => match self.observe_settled(id).await?.traffic {
                Traffic::DrainedBy(found) if found == *marker => {
                    Err(self.refused(format!("`{id}` was restored, but Redis still shows our drain")))
                }
                _ => Ok(Restored::Done),
            },
            _ => Ok(Restored::NotOurs("somebody else removed our drain a moment before".into())),
        }
    }
}

/// `/dubbo/SERVICE/providers` to `/dubbo/SERVICE/configurators`
fn configurators(key: &str) -> String {
    format!("{}/configurators", key.strip_suffix("/providers").unwrap_or(key))
}

fn marker_of(drain: &[u8]) -> Option<Marker> {
    let line = drain.split(|byte| *byte == b'\n').next()?;
    Marker::parse(std::str::from_utf8(line).ok()?)
}

#[async_trait]
impl HoldsDrains for Entries {
    async fn look_again(&self, id: &str, marker: &Marker) -> Result<Look, RegistryError> {
        self.look_again_by("hold", id, marker).await
    }
}

#[async_trait]
impl Registry for Redis {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.entries.observe(id).await
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let entries = &self.entries;
        // From here on nobody takes this drain for one that a failover has brought back.
        let _one = self.restores.forget(id).await;
        let seen = entries.observe_settled(id).await?;
        super::may_drain(&entries.registry, id, &seen.traffic, marker)?;
        let offered = seen.record["value"].as_str().unwrap_or_default();
        if entries.layout.profile == RedisProfile::Dubbo && offered.lines().any(dubbo::is_registered_by_application) {
            let detail = format!(
                "`{id}` is left alone: it is registered by its application as well (service-name-mapping=true), and \
                 consumers that find it there ignore the override"
            );
            return Err(entries.refused(detail));
        }
        let taken = entries.change("drain", &entries.place(id)?, Some(marker)).await?;
        match entries.observe_settled(id).await?.traffic {
            Traffic::DrainedBy(found) if found == *marker => {
                entries.seen().insert(id.into(), (marker.clone(), taken.lineage));
                self.holder.hold(entries, id, marker);
                Ok(())
            }
            other => {
                let detail =
                    format!("`{id}` was drained, but the registry shows it as {}", super::stands_there(&other));
                Err(entries.refused(detail))
            }
        }
    }

    async fn hold(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let look = self.entries.look_again(id, marker).await?;
        if look != Look::NotOurs {
            self.holder.hold(&self.entries, id, marker);
            return Ok(look == Look::OutAgain);
        }
        // Our marker is gone (an eviction, another hand) and the service is in traffic: a drain of its own.
        match self.entries.observe(id).await {
            Ok(Registration { traffic: Traffic::Passing | Traffic::Failing, .. }) => {
                self.drain(id, marker).await?;
                Ok(true)
            }
            Ok(_) | Err(RegistryError::NotRegistered { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        Ok(self.entries.look_again_by("prove", id, marker).await? == Look::Out)
    }

    async fn would(&self, change: TrafficChange, id: &str, _marker: &Marker) -> Result<Vec<String>, RegistryError> {
        let entries = &self.entries;
        let place = entries.place(id)?;
        let (key, drains) = (&place.changed, entries.api.beside(&place.changed, DRAINS));
        let does = match (change, entries.layout.profile) {
            (TrafficChange::Drain, RedisProfile::Dubbo) => "puts overrides with disabled=true there",
            (TrafficChange::Restore, RedisProfile::Dubbo) => "deletes our overrides",
            (TrafficChange::Drain, _) => "removes the entry, and keeps it beside our marker",
            (TrafficChange::Restore, _) => "puts the entry back as it was kept, where no newer one stands",
        };
        let called = if change == TrafficChange::Drain { "drain" } else { "restore" };
        Ok(vec![format!("EVAL (change.lua) 2 {key} {drains} {called} {id}: {does}")])
    }

    async fn restore(&self, id: &str, marker: &Marker, _record: &Value) -> Result<Restored, RegistryError> {
        let restored = self.holder.put_back(&self.entries, id, marker, self.entries.restore(id, marker)).await?;
        self.restores.watch(&self.entries, id, marker);
        Ok(restored)
    }

    /// The entry that was removed stays kept under our marker.
    async fn forget(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.holder.forget(id, marker).await;
        drop(self.restores.forget(id).await);
        Ok(())
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        let place = self.entries.place(id)?;
        // Proves that this user sees the service's instances, ourselves among them or drained by us.
        self.entries.observe(id).await?;
        // In this order: an instance that is drained meanwhile is not counted as healthy.
        let mut standing = self.entries.standing(place.service, place.instance).await?;
        for (drained, _) in self.entries.drains(Some(place.service)).await? {
            if let Some((service, instance)) = drained.split_once('/')
                && service == place.service
            {
                standing.insert(instance.into(), false);
            }
        }
        standing.insert(place.instance.into(), false);
        let healthy = standing.values().filter(|healthy| **healthy).count();
        Ok(Others { healthy: healthy as u32, registered: standing.len() as u32 })
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        let drains = self.entries.drains(None).await?;
        let own = drains.into_iter().filter(|(_, marker)| marker.host == self.entries.host);
        let found: Vec<FoundMarker> = own.map(|(id, marker)| FoundMarker { id, marker }).collect();
        for FoundMarker { id, marker } in &found {
            self.holder.hold(&self.entries, id, marker);
        }
        Ok(found)
    }

    async fn server(&self) -> Result<Option<String>, RegistryError> {
        self.entries.api.server().await.map_err(|error| self.entries.told(error))
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        let mut all = Vec::new();
        match tokio::time::timeout(NAMES_DEADLINE, self.entries.read_all(&mut all)).await {
            Ok(Err(error)) => Err(error),
            // What was read until then is true; peers without a name are shown by their address.
            Ok(Ok(())) | Err(_) => Ok(all.into_iter().map(|(service, _, address)| (address, service)).collect()),
        }
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        let mut all = Vec::new();
        match tokio::time::timeout(NAMES_DEADLINE, self.entries.read_all(&mut all)).await {
            Ok(read) => read.map(|()| all.into_iter().map(|(_, id, address)| (id, address)).collect()),
            Err(_) => Err(RegistryError::Unreachable {
                registry: self.entries.registry.clone(),
                detail: "the instances of the registry could not be read within the deadline".into(),
            }),
        }
    }

    fn clients_follow(&self) -> Duration {
        match self.entries.layout.profile {
            RedisProfile::Dubbo => dubbo::OVERRIDE_FOLLOWED,
            _ => Duration::ZERO,
        }
    }

    fn clients_leave(&self) -> bool {
        self.entries.layout.profile == RedisProfile::Dubbo
    }

    fn caveats(&self) -> &'static [&'static str] {
        shape::caveats(self.entries.layout.profile)
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        crate::ports::registry::found_by_record(self, id).await
    }
}
