//! The outbox: a message is committed with the event that it tells, and delivered afterwards.
//!
//! Where the disk refuses even that, the message waits in memory and is delivered from there: nobody goes
//! untold because a disk is full. It waits there until it is delivered, whoever delivers it. And where it refuses to note a delivery, that is remembered until it does: nobody is
//! told the same every second because a disk is full.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::audience::Audience;
use super::timeline::Timeline;
use super::{Store, StoreError};
use crate::model::message::ThreadKey;
use crate::model::{EventKind, IncidentId, Message};

/// What a destination must be told to go on with an incident's message.
pub(super) const MIGRATION: &str = "
CREATE TABLE thread (
    destination TEXT NOT NULL,
    incident    TEXT NOT NULL,
    key         TEXT NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (destination, incident)
) STRICT, WITHOUT ROWID;
";

/// Is the destination told by another of these messages that the incident of this one ended stuck?
fn is_told_stuck(audience: &Audience, destination: &str, messages: &[Message], end: &Message) -> bool {
    let says_stuck = |other: &&Message| other.event == EventKind::Stuck && other.incident == end.incident;
    messages.iter().filter(says_stuck).any(|stuck| audience.told(stuck).any(|name| name == destination))
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

/// A message that is not delivered yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued {
    pub outgoing: Outgoing,
    /// It is not to be tried again later.
    pub is_due: bool,
}

/// Where an incident's messages go on, at one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncidentThread {
    pub destination: String,
    pub incident: IncidentId,
    pub key: ThreadKey,
    /// When it was last written to.
    pub at: Timestamp,
}

/// What the disk would not take.
#[derive(Debug, Default)]
pub(super) struct MemoryOutbox {
    waiting: Mutex<Vec<Waiting>>,
    taken: Mutex<Taken>,
    counter: AtomicU64,
}

/// What has arrived, and is not noted yet.
#[derive(Debug, Default)]
struct Taken {
    /// Still in the table.
    messages: BTreeSet<String>,
    threads: Vec<IncidentThread>,
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
            self.taken().messages.insert(id.into());
        }
        true
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
            .flat_map(|message| audience.told(message).map(move |destination| (destination, message)))
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

    /// Destinations for which something is due at `now`, on the disk or in memory.
    pub fn destinations_due(&self, now: Timestamp) -> Result<BTreeSet<String>, StoreError> {
        let now = self.line.at(now);
        let mut due: BTreeSet<String> = self.read(|connection| {
            connection
                .prepare_cached("SELECT DISTINCT destination FROM outbox WHERE refused = 0 AND due <= ?1")?
                .query_map([now], |row| row.get(0))?
                .collect()
        })?;
        due.extend(
            self.outbox.waiting().iter().filter(|one| one.due <= now).map(|one| one.outgoing.destination.clone()),
        );
        Ok(due)
    }

    /// What waits for a destination, on the disk and in memory, in the order in which it was told: the first `at_most`. All of it
    /// stays until it is said what became of it: [`Store::delivered`], [`Store::try_later`], [`Store::refused`].
    pub fn queue(&self, destination: &str, now: Timestamp, at_most: usize) -> Result<Vec<Queued>, StoreError> {
        let now = self.line.at(now);
        let taken = self.outbox.taken().messages.clone();
        let rows = self.outgoing(
            "outbox WHERE refused = 0 AND destination = ?1 ORDER BY created, rowid LIMIT ?2",
            destination,
            at_most + taken.len(),
        )?;
        let waiting = self.outbox.waiting();
        // One that waits in memory is in the table as well where a disk that hung came to take it after all.
        let waits = |id: &str| waiting.iter().any(|one| one.outgoing.id == id);
        let mut queue: Vec<(Outgoing, i64)> =
            rows.into_iter().filter(|(one, _)| !taken.contains(&one.id) && !waits(&one.id)).collect();
        let here = waiting.iter().filter(|one| one.outgoing.destination == destination);
        queue.extend(here.map(|one| (one.outgoing.clone(), one.due)));
        drop(waiting);
        queue.sort_by_key(|(outgoing, _)| outgoing.message.at);
        queue.truncate(at_most);
        Ok(queue.into_iter().map(|(outgoing, due)| Queued { outgoing, is_due: due <= now }).collect())
    }

    /// What is not delivered yet, refused ones included; for `status`.
    pub fn undelivered(&self, at_most: usize) -> Result<Vec<Outgoing>, StoreError> {
        let rows = self.outgoing("outbox WHERE ?1 = '' ORDER BY created, rowid LIMIT ?2", "", at_most)?;
        Ok(rows.into_iter().map(|(outgoing, _)| outgoing).collect())
    }

    /// Where the messages of an incident go on at a destination.
    pub fn thread(&self, destination: &str, incident: &IncidentId) -> Result<Option<ThreadKey>, StoreError> {
        let is_it = |thread: &&IncidentThread| thread.destination == destination && thread.incident == *incident;
        if let Some(thread) = self.outbox.taken().threads.iter().rfind(is_it) {
            return Ok(Some(thread.key.clone()));
        }
        self.read(|connection| {
            connection
                .prepare_cached("SELECT key FROM thread WHERE destination = ?1 AND incident = ?2")?
                .query_row([destination, &incident.0], |row| row.get(0).map(ThreadKey))
                .optional()
        })
    }

    /// Destination and time of what waits in memory.
    pub(super) fn waiting(&self) -> Vec<(String, Timestamp)> {
        let of = |one: &Waiting| (one.outgoing.destination.clone(), one.outgoing.message.at);
        self.outbox.waiting().iter().map(of).collect()
    }

    /// Each with when it is due, on the store's line.
    fn outgoing(&self, which: &str, of: &str, at_most: usize) -> Result<Vec<(Outgoing, i64)>, StoreError> {
        type Row = (String, String, String, u32, Option<String>, i64);
        let rows: Vec<Row> = self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT id, destination, message, attempts, error, due FROM {which}"))?
                .query_map(params![of, at_most as i64], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
                })?
                .collect()
        })?;
        let mut outgoing = Vec::with_capacity(rows.len());
        for (id, destination, message, attempts, error, due) in rows {
            match serde_json::from_str(&message) {
                Ok(message) => outgoing.push((Outgoing { id, destination, message, attempts, error }, due)),
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

    /// Notes in one transaction that messages have arrived, and where their incident goes on, with all of which that could
    /// not be noted before. None is due again even where the disk refuses.
    pub fn delivered(&self, ids: &[String], thread: Option<IncidentThread>) -> Result<(), StoreError> {
        let on_disk = ids.iter().filter(|id| !self.outbox.let_go(id)).cloned().collect::<Vec<_>>();
        {
            let mut taken = self.outbox.taken();
            taken.messages.extend(on_disk);
            taken.threads.extend(thread);
        }
        self.note_delivered()
    }

    /// Notes the deliveries that the disk refused to note.
    pub fn note_delivered(&self) -> Result<(), StoreError> {
        let mut taken = self.outbox.taken();
        if taken.messages.is_empty() && taken.threads.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            for id in &taken.messages {
                transaction.execute("DELETE FROM outbox WHERE id = ?1", [id])?;
            }
            for IncidentThread { destination, incident, key, at } in &taken.threads {
                transaction.execute(
                    "INSERT OR REPLACE INTO thread(destination, incident, key, at) VALUES (?1, ?2, ?3, ?4)",
                    params![destination, incident.0, key.0, at.as_millisecond()],
                )?;
            }
            Ok(())
        })?;
        *taken = Taken::default();
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

    /// Drops refused messages older than `before`, and threads that were last written to before that.
    pub fn forget_told(&self, before: Timestamp) -> Result<(), StoreError> {
        let before = before.as_millisecond();
        self.write(|transaction| {
            transaction.execute("DELETE FROM outbox WHERE refused = 1 AND created < ?1", [before])?;
            transaction.execute("DELETE FROM thread WHERE at < ?1", [before]).map(drop)
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
