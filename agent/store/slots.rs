//! The fleet's slots that are, or may be, this host's: noted before they are asked for, until they are given back. One that
//! cannot be given back keeps the other hosts from the service, so people are told.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::{Audience, Store, StoreError, outbox, time};
use crate::model::{IncidentId, Message};

/// `failing` is what the fleet's store said last; it is told of when `due_line` has come.
pub(super) const MIGRATION: &str = "
ALTER TABLE slot ADD COLUMN failing TEXT;
ALTER TABLE slot ADD COLUMN failing_since INTEGER;
ALTER TABLE slot ADD COLUMN due_line INTEGER;
";

/// One row: the fleet's store in which this host takes its slots, as its configuration names it.
pub(super) const TAKEN_IN: &str = "
CREATE TABLE fleet (id INTEGER PRIMARY KEY CHECK (id = 1), taken_in TEXT NOT NULL) STRICT;
";

/// A slot that is not needed any more, and that the fleet's store does not take back.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct UnreturnedSlot {
    pub incident: String,
    /// The name that hosts contend under.
    pub service: String,
    /// The last answer.
    pub error: String,
    /// When it was first tried.
    pub since: Timestamp,
}

impl Store {
    /// Notes that a fleet slot may be ours, before it is asked for.
    pub fn note_slot(&self, incident: &IncidentId, scope: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction
                .execute("INSERT OR REPLACE INTO slot(incident, scope) VALUES (?1, ?2)", params![incident.0, scope])
                .map(drop)
        })
    }

    /// Notes in which store slots are taken from now on.
    pub fn note_fleet(&self, taken_in: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute("INSERT OR REPLACE INTO fleet(id, taken_in) VALUES (1, ?1)", [taken_in]).map(drop)
        })
    }

    /// In which store slots were taken last; `None` where no agent has noted one.
    pub fn fleet_of_slots(&self) -> Result<Option<String>, StoreError> {
        self.read(|connection| {
            connection.prepare_cached("SELECT taken_in FROM fleet")?.query_row([], |row| row.get(0)).optional()
        })
    }

    /// May any slot be this host's?
    pub fn notes_a_slot(&self) -> Result<bool, StoreError> {
        self.read(|connection| connection.prepare_cached("SELECT 1 FROM slot")?.exists([]))
    }

    pub fn forget_slot(&self, incident: &IncidentId) -> Result<(), StoreError> {
        self.write(|transaction| transaction.execute("DELETE FROM slot WHERE incident = ?1", [&incident.0]).map(drop))
    }

    /// Another incident of this host that has noted a slot of this name and still needs it.
    pub fn slot_needed_by_another(&self, incident: &IncidentId, scope: &str) -> Result<Option<IncidentId>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "{NEEDED} SELECT incident FROM needed WHERE incident <> ?1 AND scope = ?2 LIMIT 1"
                ))?
                .query_row(params![incident.0, scope], |row| row.get(0).map(IncidentId))
                .optional()
        })
    }

    /// Slots whose incident runs, or rests stuck. (scope, incident)
    pub fn needed_slots(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("{NEEDED} SELECT scope, incident FROM needed"))?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    /// Slots to give back: noted, and needed neither by their incident nor by another one under the same name, which
    /// may hold the very same slot. (incident, scope)
    pub fn slots_to_release(&self) -> Result<Vec<(IncidentId, String)>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "{NEEDED} SELECT incident, scope FROM slot WHERE scope NOT IN (SELECT scope FROM needed)"
                ))?
                .query_map([], |row| Ok((IncidentId(row.get(0)?), row.get(1)?)))?
                .collect()
        })
    }

    /// Notes that a slot could not be given back at `now`, with the store's words; people are told once that has lasted
    /// for `patience`. True where it is the first time.
    pub fn slot_not_taken_back(
        &self,
        incident: &IncidentId,
        error: &str,
        now: Timestamp,
        patience: Duration,
    ) -> Result<bool, StoreError> {
        let patience = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
        self.write(|transaction| {
            let due = self.line.at(now).saturating_add(patience);
            let first = transaction.execute(
                "UPDATE slot SET failing_since = ?2, due_line = ?3 WHERE incident = ?1 AND failing_since IS NULL",
                params![incident.0, now.as_millisecond(), due],
            )?;
            transaction.execute("UPDATE slot SET failing = ?2 WHERE incident = ?1", params![incident.0, error])?;
            Ok(first > 0)
        })
    }

    /// Those that could not be given back when it was last tried, the oldest first.
    pub fn unreturned_slots(&self) -> Result<Vec<UnreturnedSlot>, StoreError> {
        self.unreturned(i64::MAX)
    }

    /// Those of which people are to be told at `now`.
    pub fn due_slots(&self, now: Timestamp) -> Result<Vec<UnreturnedSlot>, StoreError> {
        self.unreturned(self.line.at(now))
    }

    fn unreturned(&self, due: i64) -> Result<Vec<UnreturnedSlot>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "{NEEDED} SELECT incident, scope, failing, failing_since FROM slot
                     WHERE failing_since IS NOT NULL AND due_line <= ?1 AND scope NOT IN (SELECT scope FROM needed)
                     ORDER BY failing_since"
                ))?
                .query_map([due], |row| {
                    Ok(UnreturnedSlot {
                        incident: row.get(0)?,
                        service: row.get(1)?,
                        error: row.get::<_, Option<String>>(2)?.unwrap_or_default(),
                        since: time(row.get(3)?),
                    })
                })?
                .collect()
        })
    }

    /// Notes that people are told of the slot at `now`, with the message that does it, and are again `every` later. False
    /// where it is not due any more, or was given back.
    pub fn tell_of_slot(
        &self,
        slot: &UnreturnedSlot,
        now: Timestamp,
        every: Duration,
        audience: &Audience,
        message: &Message,
    ) -> Result<bool, StoreError> {
        let every = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
        let outgoing = self.addressed(audience, std::slice::from_ref(message));
        self.write(|transaction| {
            let at = self.line.at(now);
            let noted = transaction.execute(
                "UPDATE slot SET due_line = ?2 WHERE incident = ?1 AND due_line <= ?3",
                params![slot.incident, at.saturating_add(every), at],
            )?;
            if noted > 0 {
                outbox::insert(transaction, &outgoing, &self.line)?;
            }
            Ok(noted > 0)
        })
    }
}

/// The slots whose incident runs, or rests stuck.
const NEEDED: &str = "WITH needed AS (
    SELECT incident, scope FROM slot
    WHERE EXISTS (SELECT 1 FROM incident WHERE incident.id = slot.incident AND incident.ended IS NULL)
       OR EXISTS (SELECT 1 FROM latch WHERE latch.incident = slot.incident))";
