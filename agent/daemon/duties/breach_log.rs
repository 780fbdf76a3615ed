//! What of each breach is written for `unwait review`: its begin and end, what held it, and what became of the sockets that
//! were leaked when it began. Nothing is decided by it. The log itself writes nothing: the loop hands on what it notes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::decide::detector::{Change, Detector, is_over};
use crate::decide::guards::Guard;
use crate::model::policy::Operator;
use crate::model::{Leaked, Policy, Reading, Readings, Reason, ServiceName, Signal, Truth};
use crate::sense::sensor::{Sensor, on_blocking_thread};
use crate::store::{BreachNote, FollowedSockets, LeftBreach, LeftBreaches, NewBreach, Store};
use crate::wiring::Wiring;

/// Leaked sockets are looked for every so many intervals at first.
const LOOK_EVERY: u32 = 4;
/// Later, each time they have been followed for this share longer: within 5% it is known when they went, and a leak that
/// stands for weeks costs some two hundred looks.
const LOOK_AGAIN_AFTER: u32 = 20;

type Key = (String, ServiceName);

/// The breaches that stand, and those whose sockets are looked for once more.
#[derive(Debug, Default)]
pub struct BreachLog {
    entries: BTreeMap<i64, Entry>,
    standing: BTreeMap<Key, i64>,
    /// A former agent saw them stand; this one has not seen yet whether they do.
    left: BTreeMap<Key, i64>,
    next_id: i64,
    /// What is to be written.
    notes: Vec<BreachNote>,
}

#[derive(Debug)]
struct Entry {
    service: ServiceName,
    worst: f64,
    held: Option<(Guard, Reason)>,
    /// The breach is over, and its sockets are looked for a last time.
    ended: bool,
    sockets: Sockets,
}

/// How far the leaked sockets are followed.
#[derive(Clone, Debug)]
enum Sockets {
    /// They are to be noted: those that are at least so old.
    ToNote(Duration),
    Noted {
        leaked: Arc<Leaked>,
        incarnation: Option<String>,
        since: Duration,
        due: Duration,
        remain: u32,
    },
    NotFollowed,
}

/// Sockets that are to be noted, or looked for.
#[derive(Debug)]
pub struct Sought {
    id: i64,
    service: ServiceName,
    at_least: Duration,
    leaked: Option<Arc<Leaked>>,
}

/// What a look for them gave. An error is in words.
#[derive(Debug)]
pub struct Found {
    id: i64,
    service: ServiceName,
    incarnation: Option<String>,
    sockets: Result<FoundSockets, String>,
}

#[derive(Debug)]
enum FoundSockets {
    Noted(Leaked),
    /// So many remain; `None` where not all could be looked for.
    Remain(Option<usize>),
}

impl BreachLog {
    /// Goes on with what a former agent left. `boot`: the present one.
    pub fn of(store: &Store, boot: &str, now: Duration) -> Self {
        let LeftBreaches { next_id, standing } = store.left_breaches().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the standing breaches for `unwait review`: {error}; they have no end there");
            // Greater than any that was counted up to.
            LeftBreaches { next_id: i64::from(u32::MAX), standing: Vec::new() }
        });
        let mut log = Self { next_id, ..Self::default() };
        for LeftBreach { id, policy, service, worst, leaked, incarnation, remain } in standing {
            let sockets = match leaked {
                Some(leaked) if leaked.boot == boot => Sockets::Noted {
                    remain: remain.unwrap_or(leaked.sockets.len() as u32),
                    leaked: Arc::new(leaked),
                    incarnation,
                    since: now,
                    due: now,
                },
                Some(_) => {
                    log.notes.push(BreachNote::Unfollowed { id });
                    Sockets::NotFollowed
                }
                None => Sockets::NotFollowed,
            };
            log.left.insert((policy, service.clone()), id);
            log.entries.insert(id, Entry { service, worst, held: None, ended: false, sockets });
        }
        log
    }

    /// What is to be written since this was last asked, for [`write`].
    pub fn take(&mut self) -> Vec<BreachNote> {
        std::mem::take(&mut self.notes)
    }

    /// Services of breaches that a former agent left: to be looked at, although nothing is watched of them yet.
    pub fn left(&self) -> impl Iterator<Item = &ServiceName> {
        self.left.keys().map(|(_, service)| service)
    }

    /// What a look made of a policy and a service.
    pub fn tick(
        &mut self,
        policy: &Policy,
        service: &ServiceName,
        readings: &Readings,
        change: Option<Change>,
        now: Timestamp,
    ) {
        // As most of the time, and for most of the services.
        if change.is_none() && self.standing.is_empty() && self.left.is_empty() {
            return;
        }
        let key = (policy.name.clone(), service.clone());
        if let Some(id) = self.left.get(&key).copied() {
            if change.is_some_and(|change| change != Change::Cleared) {
                self.left.remove(&key);
                self.standing.insert(key.clone(), id);
            } else if is_over(policy, readings) {
                self.left.remove(&key);
                self.end(id, now, true);
            }
        }
        match change {
            Some(Change::Breach) if !self.standing.contains_key(&key) => self.begin(policy, key, readings, now),
            Some(Change::Cleared) => {
                if let Some(id) = self.standing.remove(&key) {
                    self.end(id, now, true);
                }
            }
            _ => {
                let (signal, rises) = signal(policy, readings);
                if let (Some(id), Reading::Known(value)) = (self.standing.get(&key), readings.get(signal))
                    && let Some(entry) = self.entries.get_mut(id)
                {
                    entry.worst = if rises { entry.worst.max(value) } else { entry.worst.min(value) };
                }
            }
        }
    }

    fn begin(&mut self, policy: &Policy, key: Key, readings: &Readings, now: Timestamp) {
        let (signal, _) = signal(policy, readings);
        let worst = match readings.get(signal) {
            Reading::Known(value) => value,
            Reading::Unknown => 0.0,
        };
        let (id, service) = (self.next_id, key.1.clone());
        self.next_id += 1;
        self.notes.push(BreachNote::Began(NewBreach {
            id,
            policy: policy.name.clone(),
            service: service.clone(),
            mode: policy.mode,
            began: now,
            signal: signal.to_string(),
            worst,
        }));
        let sockets = policy.when.age().map_or(Sockets::NotFollowed, Sockets::ToNote);
        self.entries.insert(id, Entry { service, worst, held: None, ended: false, sockets });
        self.standing.insert(key, id);
    }

    fn end(&mut self, id: i64, now: Timestamp, cleared: bool) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        self.notes.push(BreachNote::Ended { id, at: now, cleared, worst: entry.worst });
        entry.ended = true;
        match &mut entry.sockets {
            Sockets::Noted { due, .. } if cleared => *due = Duration::ZERO,
            _ => _ = self.entries.remove(&id),
        }
    }

    /// Nothing is done about a breach, for this reason.
    pub fn held(&mut self, key: &Key, guard: Guard, reason: Reason, now: Timestamp) {
        self.hold(key, Some((guard, reason)), now);
    }

    /// An incident has begun.
    pub fn acts(&mut self, key: &Key, dry_run: bool, now: Timestamp) {
        self.hold(key, None, now);
        if dry_run {
            return;
        }
        // What becomes of its sockets from here on does not become of them by itself.
        for (id, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.service == key.1) {
            if !matches!(std::mem::replace(&mut entry.sockets, Sockets::NotFollowed), Sockets::NotFollowed) {
                self.notes.push(BreachNote::Unfollowed { id: *id });
            }
        }
    }

    fn hold(&mut self, key: &Key, by: Option<(Guard, Reason)>, now: Timestamp) {
        let Some(id) = self.standing.get(key) else { return };
        let Some(entry) = self.entries.get_mut(id).filter(|entry| entry.held != by) else { return };
        entry.held = by;
        let by = by.map(|(guard, reason)| (<&str>::from(guard), reason));
        self.notes.push(BreachNote::Held { id: *id, by, at: now, worst: entry.worst });
    }

    /// Another configuration is in force: nobody watches a breach that does not stand by it. `selects`: does a policy of that
    /// name speak of the service?
    pub fn keep(&mut self, detector: &Detector, selects: impl Fn(&str, &ServiceName) -> bool, now: Timestamp) {
        let stands = |(policy, service): &Key| detector.held_since(policy, service).is_some();
        let is_selected = |(policy, service): &Key| selects(policy, service);
        let mut ended: Vec<i64> = Vec::new();
        ended.extend(self.standing.iter().filter(|(key, _)| !stands(key)).map(|(_, id)| *id));
        ended.extend(self.left.iter().filter(|(key, _)| !is_selected(key)).map(|(_, id)| *id));
        self.standing.retain(|key, _| stands(key));
        self.left.retain(|key, _| is_selected(key));
        ended.into_iter().for_each(|id| self.end(id, now, false));
    }

    /// The agent ends: what holds a breach is counted up to here.
    pub fn rest(&mut self, now: Timestamp) {
        let standing: Vec<Key> = self.standing.keys().cloned().collect();
        standing.iter().for_each(|key| self.hold(key, None, now));
    }

    /// The sockets that are to be looked for, at `now` since boot.
    pub fn due(&self, now: Duration) -> Vec<Sought> {
        let sought = |(id, entry): (&i64, &Entry)| {
            let (at_least, leaked) = match &entry.sockets {
                Sockets::ToNote(at_least) => (*at_least, None),
                Sockets::Noted { leaked, due, .. } if *due <= now => (leaked.at_least, Some(Arc::clone(leaked))),
                Sockets::Noted { .. } | Sockets::NotFollowed => return None,
            };
            Some(Sought { id: *id, service: entry.service.clone(), at_least, leaked })
        };
        self.entries.iter().filter_map(sought).collect()
    }

    /// What a look for them gave.
    pub fn found(&mut self, found: Vec<Found>, interval: Duration, times: (Timestamp, Duration)) {
        for one in found {
            self.one_found(one, interval, times);
        }
    }

    fn one_found(&mut self, found: Found, interval: Duration, (wall, now): (Timestamp, Duration)) {
        let Found { id, service, incarnation, sockets } = found;
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match (sockets, &mut entry.sockets) {
            (Ok(FoundSockets::Noted(leaked)), Sockets::ToNote(_)) if !leaked.sockets.is_empty() => {
                let (remain, due) = (leaked.sockets.len() as u32, now + LOOK_EVERY * interval);
                let leaked = Arc::new(leaked);
                let (noted, in_incarnation) = (Arc::clone(&leaked), incarnation.clone());
                let note = BreachNote::Follow { id, leaked: noted, incarnation: in_incarnation, at: wall };
                self.notes.push(note);
                entry.sockets = Sockets::Noted { leaked, incarnation, since: now, due, remain };
            }
            (Ok(FoundSockets::Noted(_)), Sockets::ToNote(_)) => entry.sockets = Sockets::NotFollowed,
            (Err(why), Sockets::ToNote(_)) => {
                tracing::debug!(
                    %service,
                    why,
                    "cannot note the leaked sockets of {service}: {why}; `unwait review` does not say what became of them",
                );
                entry.sockets = Sockets::NotFollowed;
            }
            (Ok(FoundSockets::Remain(seen)), Sockets::Noted { incarnation: before, since, due, remain, .. }) => {
                let restarted = matches!((&*before, &incarnation), (Some(before), Some(now)) if before != now);
                *remain = seen.map_or(*remain, |seen| seen as u32);
                *due = now + (LOOK_EVERY * interval).max(now.saturating_sub(*since) / LOOK_AGAIN_AFTER);
                let is_last = entry.ended || restarted || *remain == 0;
                if seen.is_some() || is_last {
                    let found = FollowedSockets { remain: *remain, restarted, is_last };
                    self.notes.push(BreachNote::Followed { id, found, at: wall });
                }
                if is_last {
                    entry.sockets = Sockets::NotFollowed;
                }
            }
            (Err(why), Sockets::Noted { due, .. }) => {
                tracing::debug!(%service, why, "cannot look for the leaked sockets of {service}: {why}; looking again");
                *due = now + LOOK_EVERY * interval;
                if entry.ended {
                    self.notes.push(BreachNote::Unfollowed { id });
                }
            }
            _ => {}
        }
        if entry.ended && !matches!(entry.sockets, Sockets::Noted { due, .. } if due == Duration::ZERO) {
            self.entries.remove(&id);
        }
    }
}

/// Looks for these sockets, one breach after another.
pub async fn look(wiring: &Wiring, sought: Vec<Sought>) -> Vec<Found> {
    let mut all = Vec::new();
    for Sought { id, service, at_least, leaked } in sought {
        let incarnation = incarnation(wiring, &service).await;
        let (sensor, of) = (wiring.sensor.clone(), service.clone());
        let sockets = on_blocking_thread(move || match leaked {
            None => sensor.lock().identities(&of, at_least).map(FoundSockets::Noted),
            Some(leaked) => Sensor::still_there(&sensor, &of, &leaked).map(FoundSockets::Remain),
        });
        all.push(Found { id, sockets: sockets.await, service, incarnation });
    }
    all
}

/// `None` where nobody tells.
async fn incarnation(wiring: &Wiring, service: &ServiceName) -> Option<String> {
    let restart = wiring.config.target_for(service).restart?;
    let seen = wiring.ports.restarter(&restart).observe(&restart).await.ok()?;
    seen.incarnation.map(|incarnation| incarnation.to_string())
}

/// The signal whose worst value tells how bad a breach was, and whether it gets worse by rising: of the condition's
/// comparisons the first that holds.
fn signal(policy: &Policy, readings: &Readings) -> (Signal, bool) {
    let comparisons = policy.when.comparisons();
    let held = comparisons.iter().find(|comparison| comparison.truth(readings) == Truth::True);
    held.or(comparisons.first()).map_or((Signal::CloseWait, true), |comparison| {
        (comparison.signal, matches!(comparison.operator, Operator::Above | Operator::AtLeast))
    })
}

/// Writes down what is to be. What cannot be written is missing in the review, and nothing else.
pub fn write(store: &Store, notes: &[BreachNote]) {
    if let Err(error) = store.note_breaches(notes) {
        tracing::warn!(%error, "cannot store how breaches went on: {error}; `unwait review` lacks them, and nothing else is affected");
    }
}

#[cfg(test)]
#[path = "breach_log_tests.rs"]
mod tests;
