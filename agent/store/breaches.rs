//! The account of breaches that `unwait review` reads: which policy, which service, from when until when, what held it, and
//! what became of the sockets that were leaked when it began. Nothing is decided by it, so a write that fails leaves the agent
//! as it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::{Recorded, Store, StoreError, time};
use crate::model::{Leaked, Mode, Reason, ServiceName};

/// `cleared`: 1: it was over; 0: nobody watched it to its end. `interrupted`: an agent ended during it. `leaked`: the sockets
/// that are followed, while they are. A hold has a `since` while it stands; `lasted` is what it had lasted before.
pub(super) const MIGRATION: &str = "
CREATE TABLE breach (
    id          INTEGER PRIMARY KEY,
    policy      TEXT NOT NULL,
    service     TEXT NOT NULL,
    mode        TEXT NOT NULL,
    began       INTEGER NOT NULL,
    ended       INTEGER,
    cleared     INTEGER,
    interrupted INTEGER NOT NULL DEFAULT 0,
    signal      TEXT NOT NULL,
    worst       REAL NOT NULL,
    leaked      TEXT,
    incarnation TEXT,
    sockets     INTEGER,
    remain      INTEGER,
    looked      INTEGER,
    half_gone   INTEGER,
    all_gone    INTEGER,
    restarted   INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX breach_open ON breach(id) WHERE ended IS NULL;
CREATE TABLE breach_hold (
    breach INTEGER NOT NULL,
    guard  TEXT NOT NULL,
    reason TEXT NOT NULL,
    lasted INTEGER NOT NULL DEFAULT 0,
    since  INTEGER,
    PRIMARY KEY (breach, guard, reason)
) STRICT, WITHOUT ROWID;
CREATE TABLE policy_run (
    policy     TEXT PRIMARY KEY,
    known      INTEGER NOT NULL,
    mode       TEXT NOT NULL,
    since      INTEGER NOT NULL,
    since_line INTEGER NOT NULL,
    told       INTEGER
) STRICT;
";

/// Breaches that are kept, the newest; each is some 300 bytes with its holds.
const KEPT: i64 = 10_000;

/// What is to be written of a breach. Its id is given by who writes it down.
#[derive(Clone, Debug, PartialEq)]
pub enum BreachNote {
    Began(NewBreach),
    /// `cleared`: it is over; otherwise nobody watches it any more.
    Ended {
        id: i64,
        at: Timestamp,
        cleared: bool,
        worst: f64,
    },
    /// From `at` on it is held for this, by this guard; or no more.
    Held {
        id: i64,
        by: Option<(&'static str, Reason)>,
        at: Timestamp,
        worst: f64,
    },
    /// These are its leaked sockets; the service is in this incarnation.
    Follow {
        id: i64,
        leaked: Arc<Leaked>,
        incarnation: Option<String>,
        at: Timestamp,
    },
    Followed {
        id: i64,
        found: FollowedSockets,
        at: Timestamp,
    },
    /// Nobody follows its sockets any more.
    Unfollowed {
        id: i64,
    },
}

/// A breach that begins.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBreach {
    pub id: i64,
    pub policy: String,
    pub service: ServiceName,
    pub mode: Mode,
    pub began: Timestamp,
    /// Of the condition, the signal of which the worst value is kept.
    pub signal: String,
    pub worst: f64,
}

/// What a former agent has written.
#[derive(Clone, Debug)]
pub struct LeftBreaches {
    /// No breach has this id, or a greater one.
    pub next_id: i64,
    /// Those that it left standing.
    pub standing: Vec<LeftBreach>,
}

/// One that a former agent left standing.
#[derive(Clone, Debug)]
pub struct LeftBreach {
    pub id: i64,
    pub policy: String,
    pub service: ServiceName,
    pub worst: f64,
    /// The sockets that were followed.
    pub leaked: Option<Leaked>,
    /// Of the service, when they were noted.
    pub incarnation: Option<String>,
    pub remain: Option<u32>,
}

/// What became of followed sockets, by a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowedSockets {
    pub remain: u32,
    /// The service is in another incarnation than when they were noted.
    pub restarted: bool,
    /// Nobody looks for them any more.
    pub is_last: bool,
}

/// A breach as the review reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct BreachRow {
    pub policy: String,
    pub service: String,
    /// In force when it began.
    pub mode: Recorded<Mode>,
    pub began: Timestamp,
    pub ended: Option<Timestamp>,
    /// It was over; false while it stands, and where nobody watched it to its end.
    pub cleared: bool,
    /// An agent ended during it: what happened meanwhile is not known to the minute.
    pub interrupted: bool,
    pub signal: String,
    pub worst: f64,
    pub sockets: Option<LeakedSockets>,
    pub holds: Vec<HoldRow>,
}

/// What became of the sockets that were leaked when the breach began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeakedSockets {
    pub of: u32,
    pub remain: u32,
    /// The last look for them.
    pub looked: Timestamp,
    pub half_gone: Option<Timestamp>,
    pub all_gone: Option<Timestamp>,
    /// Somebody restarted the service meanwhile.
    pub restarted: bool,
}

/// For what, and for how long, nothing was done about a breach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRow {
    pub guard: String,
    pub reason: Recorded<Reason>,
    /// Before `since`.
    pub lasted: Duration,
    /// It stands.
    pub since: Option<Timestamp>,
}

impl Store {
    /// All of these in one transaction.
    pub fn note_breaches(&self, notes: &[BreachNote]) -> Result<(), StoreError> {
        self.note(|transaction| notes.iter().try_for_each(|note| write(transaction, note)))
    }

    /// What a former agent left. For how long each was still held by the end of that agent is not known.
    pub fn left_breaches(&self) -> Result<LeftBreaches, StoreError> {
        let (next_id, left): (i64, Vec<_>) = self.read(|connection| {
            let next_id = connection.query_row("SELECT coalesce(max(id), 0) + 1 FROM breach", [], |row| row.get(0))?;
            let sql = "SELECT id, policy, service, worst, leaked, incarnation, remain FROM breach WHERE ended IS NULL";
            let left = connection.prepare(sql)?.query_map([], left_row)?.collect::<Result<_, _>>()?;
            Ok((next_id, left))
        })?;
        if !left.is_empty() {
            self.note(|transaction| {
                transaction.execute("UPDATE breach SET interrupted = 1 WHERE ended IS NULL", [])?;
                transaction.execute("UPDATE breach_hold SET since = NULL WHERE since IS NOT NULL", []).map(drop)
            })?;
        }
        // A name that this version does not read is no service that it could look at.
        Ok(LeftBreaches { next_id, standing: left.into_iter().flatten().collect() })
    }

    /// Those that stood at `from` or later, oldest first.
    pub fn breaches(&self, policy: Option<&str>, from: Timestamp) -> Result<Vec<BreachRow>, StoreError> {
        let from = from.as_millisecond();
        self.read(|connection| {
            let which = "(b.ended IS NULL OR b.ended >= ?1) AND (?2 IS NULL OR b.policy = ?2)";
            let mut holds: BTreeMap<i64, Vec<HoldRow>> = BTreeMap::new();
            let sql = format!(
                "SELECT h.breach, h.guard, h.reason, h.lasted, h.since FROM breach_hold h JOIN breach b ON b.id = h.breach
                 WHERE {which} ORDER BY h.breach, h.lasted DESC"
            );
            let mut found = connection.prepare_cached(&sql)?;
            for row in found.query_map(params![from, policy], hold_row)? {
                let (breach, hold) = row?;
                holds.entry(breach).or_default().push(hold);
            }
            let sql = format!(
                "SELECT id, policy, service, mode, began, ended, cleared, interrupted, signal, worst, sockets, remain, looked,
                        half_gone, all_gone, restarted
                 FROM breach b WHERE {which} ORDER BY began, id"
            );
            let mut found = connection.prepare_cached(&sql)?;
            let rows = found.query_map(params![from, policy], |row| {
                let holds = holds.remove(&row.get(0)?).unwrap_or_default();
                breach_row(row, holds)
            })?;
            rows.collect()
        })
    }

    /// A write that nothing relies on: one that fails does not make the agent observe-only.
    pub(super) fn note<T>(&self, write: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.transact(write, false)
    }
}

fn write(transaction: &Connection, note: &BreachNote) -> rusqlite::Result<()> {
    match note {
        BreachNote::Began(breach) => {
            transaction.execute(
                "INSERT INTO breach(id, policy, service, mode, began, signal, worst) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    breach.id,
                    breach.policy,
                    breach.service.as_str(),
                    breach.mode.to_string(),
                    breach.began.as_millisecond(),
                    breach.signal,
                    breach.worst
                ],
            )?;
            // By their number: an id may be far from the one before it.
            let oldest = "SELECT id FROM breach ORDER BY id DESC LIMIT 1 OFFSET ?1";
            transaction.execute(&format!("DELETE FROM breach_hold WHERE breach <= ({oldest})"), [KEPT])?;
            transaction.execute(&format!("DELETE FROM breach WHERE id <= ({oldest})"), [KEPT])
        }
        BreachNote::Ended { id, at, cleared, worst } => {
            end_hold(transaction, *id, *at)?;
            let sql = "UPDATE breach SET ended = ?2, cleared = ?3, worst = ?4 WHERE id = ?1";
            transaction.execute(sql, params![id, at.as_millisecond(), cleared, worst])
        }
        BreachNote::Held { id, by, at, worst } => {
            end_hold(transaction, *id, *at)?;
            if let Some((guard, reason)) = by {
                transaction.execute(
                    "INSERT INTO breach_hold(breach, guard, reason, since) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO UPDATE SET since = ?4",
                    params![id, guard, reason.as_str(), at.as_millisecond()],
                )?;
            }
            transaction.execute("UPDATE breach SET worst = ?2 WHERE id = ?1", params![id, worst])
        }
        BreachNote::Follow { id, leaked, incarnation, at } => {
            let text = serde_json::to_string(leaked.as_ref()).expect("sockets are plain data");
            let (of, at) = (leaked.sockets.len() as i64, at.as_millisecond());
            transaction.execute(
                "UPDATE breach SET leaked = ?2, incarnation = ?3, sockets = ?4, remain = ?4, looked = ?5 WHERE id = ?1",
                params![id, text, incarnation, of, at],
            )
        }
        BreachNote::Followed { id, found: FollowedSockets { remain, restarted, is_last }, at } => transaction.execute(
            "UPDATE breach SET remain = ?2, looked = ?3, restarted = ?4,
                 half_gone = coalesce(half_gone, CASE WHEN ?2 * 2 <= sockets THEN ?3 END),
                 all_gone = coalesce(all_gone, CASE WHEN ?2 = 0 THEN ?3 END),
                 leaked = CASE WHEN ?5 THEN NULL ELSE leaked END
             WHERE id = ?1",
            params![id, remain, at.as_millisecond(), restarted, is_last],
        ),
        BreachNote::Unfollowed { id } => transaction.execute("UPDATE breach SET leaked = NULL WHERE id = ?1", [id]),
    }
    .map(drop)
}

fn end_hold(transaction: &Connection, breach: i64, at: Timestamp) -> rusqlite::Result<()> {
    let sql = "UPDATE breach_hold SET lasted = lasted + max(?2 - since, 0), since = NULL
               WHERE breach = ?1 AND since IS NOT NULL";
    transaction.execute(sql, params![breach, at.as_millisecond()]).map(drop)
}

fn left_row(row: &Row<'_>) -> rusqlite::Result<Option<LeftBreach>> {
    let service: String = row.get(2)?;
    let Ok(service) = ServiceName::parse(&service) else { return Ok(None) };
    let leaked: Option<String> = row.get(4)?;
    Ok(Some(LeftBreach {
        id: row.get(0)?,
        policy: row.get(1)?,
        service,
        worst: row.get(3)?,
        leaked: leaked.and_then(|text| serde_json::from_str(&text).ok()),
        incarnation: row.get(5)?,
        remain: row.get(6)?,
    }))
}

fn hold_row(row: &Row<'_>) -> rusqlite::Result<(i64, HoldRow)> {
    let hold = HoldRow {
        guard: row.get(1)?,
        reason: row.get(2)?,
        lasted: Duration::from_millis(row.get::<_, i64>(3)?.unsigned_abs()),
        since: row.get::<_, Option<i64>>(4)?.map(time),
    };
    Ok((row.get(0)?, hold))
}

fn breach_row(row: &Row<'_>, holds: Vec<HoldRow>) -> rusqlite::Result<BreachRow> {
    let at = |column| row.get::<_, Option<i64>>(column).map(|at| at.map(time));
    let sockets = match (row.get(10)?, row.get(11)?, at(12)?) {
        (Some(of), Some(remain), Some(looked)) => {
            Some(LeakedSockets { of, remain, looked, half_gone: at(13)?, all_gone: at(14)?, restarted: row.get(15)? })
        }
        _ => None,
    };
    Ok(BreachRow {
        policy: row.get(1)?,
        service: row.get(2)?,
        mode: row.get(3)?,
        began: time(row.get(4)?),
        ended: at(5)?,
        cleared: row.get::<_, Option<bool>>(6)?.unwrap_or_default(),
        interrupted: row.get(7)?,
        signal: row.get(8)?,
        worst: row.get(9)?,
        sockets,
        holds,
    })
}

#[cfg(test)]
#[path = "breaches_tests.rs"]
mod tests;
