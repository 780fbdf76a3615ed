//! The audit: what people told the agent to do. Who, when, on what, why, and what came of it.
//!
//! A verb that writes straight to the store writes its row in the same transaction. An order that the running agent
//! carries out is written before it is, and what came of it afterwards. The agent tells of each row once it is answered.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::{Audience, Store, StoreError, outbox, time};
use crate::model::{IncidentId, Message, ServiceName};

/// `done`: NULL until it is answered; 0: refused. `told`: the message about it is in the outbox.
pub(super) const MIGRATION: &str = "
CREATE TABLE audit (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    who      TEXT NOT NULL,
    verb     TEXT NOT NULL,
    service  TEXT,
    incident TEXT,
    why      TEXT,
    done     INTEGER,
    detail   TEXT NOT NULL DEFAULT '',
    told     INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX audit_untold ON audit(id) WHERE told = 0;
";

/// The detail of an order whose agent ended before it answered: it may be carried out all the same.
const UNANSWERED: &str = "the agent ended before it answered; the order may be carried out, in part or whole";
/// Rows that are kept, the newest; each is some 200 bytes.
const KEPT: i64 = 10_000;

/// Who gives an order, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    pub who: String,
    pub why: Option<String>,
}

/// What was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum OrderVerb {
    Pause,
    Resume,
    Silence,
    EndSilence,
    Approve,
    Deny,
    Resolve,
    Act,
    Rearm,
    ReleaseSlot,
    Reload,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    pub at: Timestamp,
    pub who: String,
    pub verb: OrderVerb,
    /// `None`: the whole host.
    pub service: Option<String>,
    pub incident: Option<IncidentId>,
    pub why: Option<String>,
    /// False: refused. `None`: not answered yet.
    pub done: Option<bool>,
    /// What came of it, in a sentence.
    pub detail: String,
}

impl AuditRow {
    /// An order about the whole host, not answered yet.
    pub fn new(verb: OrderVerb, by: &Person, at: Timestamp) -> Self {
        let Person { who, why } = by.clone();
        Self { at, who, verb, service: None, incident: None, why, done: None, detail: String::new() }
    }

    pub fn of(self, service: Option<impl ToString>) -> Self {
        Self { service: service.map(|service| service.to_string()), ..self }
    }

    /// Nobody knows whether it was carried out.
    pub fn is_unanswered(&self) -> bool {
        self.done.is_none() || self.detail == UNANSWERED
    }

    /// Answered: carried out, or refused.
    pub fn answered(self, done: bool, detail: impl Into<String>) -> Self {
        Self { done: Some(done), detail: detail.into(), ..self }
    }
}

const COLUMNS: &str = "at, who, verb, service, incident, why, done, detail";

pub(super) fn insert(transaction: &Connection, row: &AuditRow) -> rusqlite::Result<i64> {
    transaction.execute(
        &format!("INSERT INTO audit({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
        params![
            row.at.as_millisecond(),
            row.who,
            row.verb.to_string(),
            row.service,
            row.incident.as_ref().map(|incident| &incident.0),
            row.why,
            row.done,
            row.detail
        ],
    )?;
    let id = transaction.last_insert_rowid();
    transaction.execute("DELETE FROM audit WHERE id <= ?1", [id - KEPT])?;
    Ok(id)
}

pub(super) fn answer(transaction: &Connection, id: i64, row: &AuditRow) -> rusqlite::Result<()> {
    let sql = "UPDATE audit SET service = ?2, incident = ?3, done = ?4, detail = ?5 WHERE id = ?1";
    let incident = row.incident.as_ref().map(|incident| &incident.0);
    transaction.execute(sql, params![id, row.service, incident, row.done, row.detail]).map(drop)
}

impl Store {
    /// Writes a row down: an order before it is carried out, or one that is answered at once. Returns its id.
    pub fn audit(&self, row: &AuditRow) -> Result<i64, StoreError> {
        self.write(|transaction| insert(transaction, row))
    }

    /// Notes what came of an order that was written down before.
    pub fn audit_answer(&self, id: i64, row: &AuditRow) -> Result<(), StoreError> {
        self.write(|transaction| answer(transaction, id, row))
    }

    /// Orders that a former agent did not answer are answered: nobody else will. The caller holds the state directory. A slot
    /// is given back by the verb itself, which may still be at it.
    pub fn audit_left(&self) -> Result<(), StoreError> {
        let left: u32 = self.read(|connection| {
            connection.query_row(
                "SELECT count(*) FROM audit WHERE done IS NULL AND verb <> 'release_slot'",
                [],
                |row| row.get(0),
            )
        })?;
        if left == 0 {
            return Ok(());
        }
        self.write(|transaction| {
            let sql = "UPDATE audit SET done = 0, detail = ?1 WHERE done IS NULL AND verb <> 'release_slot'";
            transaction.execute(sql, [UNANSWERED]).map(drop)
        })
    }

    /// The newest first; of one service those about the whole host as well.
    pub fn audit_rows(&self, service: Option<&ServiceName>, at_most: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.rows(
            "WHERE ?1 IS NULL OR service IS NULL OR service = ?1 ORDER BY id DESC LIMIT ?2",
            params![service.map(ServiceName::as_str), at_most as i64],
        )
    }

    /// Of an incident; and of its service and of the whole host between these times; oldest first.
    pub fn audit_of(
        &self,
        incident: &IncidentId,
        service: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.rows(
            "WHERE incident = ?1 OR ((service IS NULL OR service = ?2) AND at BETWEEN ?3 AND ?4) ORDER BY id",
            params![incident.0, service, from.as_millisecond(), to.as_millisecond()],
        )
    }

    fn rows(&self, which: &str, values: impl rusqlite::Params) -> Result<Vec<AuditRow>, StoreError> {
        self.read(|connection| {
            let mut found = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM audit {which}"))?;
            found.query_map(values, |row| audit_row(row, 0))?.collect()
        })
    }

    /// Answered, and nobody was told yet; oldest first, with their ids.
    pub fn audit_untold(&self) -> Result<Vec<(i64, AuditRow)>, StoreError> {
        let select = format!("SELECT id, {COLUMNS} FROM audit WHERE told = 0 AND done IS NOT NULL ORDER BY id");
        self.read(|connection: &Connection| {
            let mut found = connection.prepare_cached(&select)?;
            found.query_map([], |row| Ok((row.get(0)?, audit_row(row, 1)?)))?.collect()
        })
    }

    /// Puts the message about a row into the outbox, once; false where that was done before.
    pub fn audit_told(&self, id: i64, audience: &Audience, message: &Message) -> Result<bool, StoreError> {
        let outgoing = self.addressed(audience, std::slice::from_ref(message));
        self.write(|transaction| {
            let first = transaction.execute("UPDATE audit SET told = 1 WHERE id = ?1 AND told = 0", [id])? > 0;
            if first {
                outbox::insert(transaction, &outgoing, &self.line)?;
            }
            Ok(first)
        })
    }
}

/// The columns from `first` on.
fn audit_row(row: &Row<'_>, first: usize) -> rusqlite::Result<AuditRow> {
    let verb = row.get_ref(first + 2)?.as_str()?;
    Ok(AuditRow {
        at: time(row.get(first)?),
        who: row.get(first + 1)?,
        verb: verb.parse().map_err(|unknown| rusqlite::Error::ToSqlConversionFailure(Box::new(unknown)))?,
        service: row.get(first + 3)?,
        incident: row.get::<_, Option<String>>(first + 4)?.map(IncidentId),
        why: row.get(first + 5)?,
        done: row.get(first + 6)?,
        detail: row.get(first + 7)?,
    })
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
