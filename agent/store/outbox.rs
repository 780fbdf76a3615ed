//! The outbox: a message is committed with the event that it tells, and delivered afterwards.
//!
//! Where the disk refuses even that, the message waits in memory and is delivered from there: nobody goes
//! untold because a disk is full. It waits there until it is delivered, whoever delivers it. And where it refuses to note a delivery, that is remembered until it does: nobody is
//! told the same every second because a disk is full.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::timeline::Timeline;
use super::{Store, StoreError};
use crate::model::{EventKind, Message};

/// Who is told what: each destination's name with the events that it asks for.
#[derive(Clone, Debug, Default)]
pub struct Audience(pub Vec<(String, Vec<EventKind>)>);

impl Audience {
    /// Who does not hear of that event.
    pub fn without(&self, event: EventKind) -> Self {
        Self(self.0.iter().filter(|(_, events)| !events.contains(&event)).cloned().collect())
    }

    fn of(&self, event: EventKind) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(_, events)| events.contains(&event)).map(|(name, _)| name.as_str())
    }
}

/// Is the destination told by another of these messages that the incident of this one ended stuck?
fn is_told_stuck(audience: &Audience, destination: &str, messages: &[Message], end: &Message) -> bool {
    let says_stuck = |other: &Message| other.event == EventKind::Stuck && other.incident == end.incident;
    messages.iter().any(says_stuck) && audience.of(EventKind::Stuck).any(|name| name == destination)
}

/// A message on its way to one destination.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// The same on each try.
    pub id: String,
    pub destination: String,
    pub message: Message,
    pub attempts: u32,
    /// Why the last try failed.
    pub error: Option<String>,
}

/// What the disk would not take.
#[derive(Debug, Default)]
pub(super) struct MemoryOutbox {
    waiting: Mutex<Vec<Waiting>>,
    /// Delivered, and still in the table.
    delivered: Mutex<BTreeSet<String>>,
    counter: AtomicU64,
}

/// A message that waits in memory, and from when on it is due, by the store's line.
#[derive(Debug)]
pub(super) struct Waiting {
    pub outgoing: Outgoing,
    due: i64,
    /// The disk hung when it was to take it.
    may_be_in_the_table: bool,
}

impl MemoryOutbox {
    pub(super) fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Lets a message go that waits in memory; false where it is none of those.
    fn let_go(&self, id: &str) -> bool {
        let mut waiting = self.waiting();
        let Some(place) = waiting.iter().position(|one| one.outgoing.id == id) else { return false };
        if waiting.remove(place).may_be_in_the_table {
            self.delivered().insert(id.into());
        }
        true
    }

    fn delivered(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.delivered.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Store {
    /// Commits messages that belong to no incident's event.
    pub fn tell(&self, audience: &Audience, messages: &[Message]) {
        let outgoing = self.addressed(audience, messages);
        if outgoing.is_empty() {
            return;
        }
        if let Err(error) = self.write(|transaction| insert(transaction, &outgoing, &self.line)) {
            self.spill(outgoing, matches!(error, StoreError::Hangs { .. }));
        }
    }

    /// Copies each message for each destination that asks for its event. Of an incident that ends stuck who asks for both hears
    /// once: `stuck` says the same, and what to do.
    pub(super) fn addressed(&self, audience: &Audience, messages: &[Message]) -> Vec<Outgoing> {
        messages
            .iter()
            .flat_map(|message| audience.of(message.event).map(move |destination| (destination, message)))
            .filter(|(destination, message)| {
                message.event != EventKind::End || !is_told_stuck(audience, destination, messages, message)
            })
            .map(|(destination, message)| Outgoing {
                id: format!(
                    "{}-{}-{}",
                    message.at.as_millisecond(),
                    std::process::id(),
                    self.outbox.counter.fetch_add(1, Ordering::Relaxed)
                ),
                destination: destination.into(),
                message: message.clone(),
                attempts: 0,
                error: None,
            })
            .collect()
    }

    pub(super) fn spill(&self, outgoing: Vec<Outgoing>, may_be_in_the_table: bool) {
        let due = |one: &Outgoing| self.line.at(one.message.at);
        let waiting =
            outgoing.into_iter().map(|outgoing| Waiting { due: due(&outgoing), outgoing, may_be_in_the_table });
        self.outbox.waiting().extend(waiting);
    }

    /// What is due at `now`, on the disk and in memory, oldest first, and of each destination `at_most` so many: what
    /// one of them does not take must not keep the others' from being seen. All of it stays until it is said what became
    /// of it: [`Store::delivered`], [`Store::try_later`], [`Store::refused`].
    pub fn due(&self, now: Timestamp, at_most: usize) -> Result<Vec<Outgoing>, StoreError> {
        let now = self.line.at(now);
        let delivered = self.outbox.delivered().clone();
        let oldest = "(SELECT *, row_number() OVER (PARTITION BY destination ORDER BY created, rowid) AS place
                       FROM outbox WHERE refused = 0 AND due <= ?1) WHERE place <= ?2 ORDER BY created, place";
        let mut due = self.outgoing(oldest, now, at_most + delivered.len())?;
        let waiting = self.outbox.waiting();
        // One that waits in memory is in the table as well where a disk that hung came to take it after all.
        let waits = |id: &str| waiting.iter().any(|one| one.outgoing.id == id);
        due.retain(|outgoing| !delivered.contains(&outgoing.id) && !waits(&outgoing.id));
        due.extend(waiting.iter().filter(|one| one.due <= now).map(|one| one.outgoing.clone()));
        drop(waiting);
        due.sort_by_key(|outgoing| outgoing.message.at);
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        due.retain(|outgoing| {
            let place = places.entry(outgoing.destination.clone()).or_default();
            *place += 1;
            *place <= at_most
        });
        Ok(due)
    }

    /// What is not delivered yet, refused ones included; for `status`.
    pub fn undelivered(&self, at_most: usize) -> Result<Vec<Outgoing>, StoreError> {
        self.outgoing("outbox WHERE created <= ?1 ORDER BY created, rowid LIMIT ?2", i64::MAX, at_most)
    }

    /// Destination and time of what waits in memory.
    pub(super) fn waiting(&self) -> Vec<(String, Timestamp)> {
        let of = |one: &Waiting| (one.outgoing.destination.clone(), one.outgoing.message.at);
        self.outbox.waiting().iter().map(of).collect()
    }

    fn outgoing(&self, which: &str, bound: i64, at_most: usize) -> Result<Vec<Outgoing>, StoreError> {
        let rows: Vec<(String, String, String, u32, Option<String>)> = self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT id, destination, message, attempts, error FROM {which}"))?
                .query_map(params![bound, at_most as i64], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
                })?
                .collect()
        })?;
        let mut outgoing = Vec::with_capacity(rows.len());
        for (id, destination, message, attempts, error) in rows {
            match serde_json::from_str(&message) {
                Ok(message) => outgoing.push(Outgoing { id, destination, message, attempts, error }),
                // One that cannot be read must not keep the others from being delivered.
                Err(unreadable) => {
                    tracing::error!(
                        id,
                        %unreadable,
                        "message {id} in the store cannot be read: {unreadable}; it is not sent",
                    );
                    if let Err(error) = self.refused(&id, "the stored message cannot be read") {
                        tracing::debug!(id, %error, "cannot mark message {id} as refused: {error}; retrying");
                    }
                }
            }
        }
        Ok(outgoing)
    }

    /// Notes that a message has arrived, with those of which that could not be noted before. It is not due again even
    /// where the disk refuses.
    pub fn delivered(&self, id: &str) -> Result<(), StoreError> {
        if self.outbox.let_go(id) {
            return Ok(());
        }
        self.outbox.delivered().insert(id.into());
        self.note_delivered()
    }

    /// Notes the deliveries that the disk refused to note.
    pub fn note_delivered(&self) -> Result<(), StoreError> {
        let mut delivered = self.outbox.delivered();
        if delivered.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            delivered.iter().try_for_each(|id| transaction.execute("DELETE FROM outbox WHERE id = ?1", [id]).map(drop))
        })?;
        delivered.clear();
        Ok(())
    }

    pub fn try_later(&self, id: &str, now: Timestamp, after: Duration, error: &str) -> Result<(), StoreError> {
        let due = self.line.at(now).saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX));
        if let Some(one) = self.outbox.waiting().iter_mut().find(|one| one.outgoing.id == id) {
            one.due = due;
            one.outgoing.attempts += 1;
            one.outgoing.error = Some(error.into());
            return Ok(());
        }
        self.write(|transaction| {
            transaction
                .execute(
                    "UPDATE outbox SET attempts = attempts + 1, due = ?2, error = ?3 WHERE id = ?1",
                    params![id, due, error],
                )
                .map(drop)
        })
    }

    /// The destination will never take it: kept, so that `status` shows it, and not tried again. What waits in memory
    /// is let go: the log has it.
    pub fn refused(&self, id: &str, error: &str) -> Result<(), StoreError> {
        if self.outbox.let_go(id) {
            return Ok(());
        }
        self.write(|transaction| {
            transaction.execute("UPDATE outbox SET refused = 1, error = ?2 WHERE id = ?1", params![id, error]).map(drop)
        })
    }

    /// Drops refused messages older than `before`.
    pub fn forget_refused(&self, before: Timestamp) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction
                .execute("DELETE FROM outbox WHERE refused = 1 AND created < ?1", [before.as_millisecond()])
                .map(drop)
        })
    }
}

/// Each is due at once.
pub(super) fn insert(transaction: &Connection, outgoing: &[Outgoing], line: &Timeline) -> rusqlite::Result<()> {
    for one in outgoing {
        let message = serde_json::to_string(&one.message).expect("a message is plain data");
        transaction.execute(
            "INSERT INTO outbox(id, destination, message, created, due) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![one.id, one.destination, message, one.message.at.as_millisecond(), line.at(one.message.at)],
        )?;
    }
    Ok(())
}
