//! The tables, and how an older file becomes a newer one.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::StoreError;

/// Each entry takes a file from its index to the next version (`PRAGMA user_version`).
const MIGRATIONS: [&str; 1] = ["
CREATE TABLE incident (
    id       TEXT PRIMARY KEY,
    service  TEXT NOT NULL,
    policy   TEXT NOT NULL,
    dry_run  INTEGER NOT NULL,
    plan     TEXT NOT NULL,
    began    INTEGER NOT NULL,
    changed  INTEGER NOT NULL DEFAULT 0,
    evidence TEXT,
    ended    INTEGER,
    outcome  TEXT,
    reason   TEXT,
    detail   TEXT
) STRICT;
CREATE INDEX incident_by_service ON incident(service, began);
CREATE INDEX incident_open ON incident(began) WHERE ended IS NULL;
CREATE TABLE journal (
    incident TEXT NOT NULL REFERENCES incident(id),
    seq      INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    event    TEXT NOT NULL,
    PRIMARY KEY (incident, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE latch (
    service  TEXT PRIMARY KEY,
    incident TEXT NOT NULL,
    reason   TEXT NOT NULL,
    detail   TEXT NOT NULL,
    since    INTEGER NOT NULL
) STRICT;
CREATE TABLE pause (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    who   TEXT NOT NULL,
    why   TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER
) STRICT;
CREATE TABLE slot (
    incident TEXT PRIMARY KEY,
    scope    TEXT NOT NULL
) STRICT;
CREATE TABLE outbox (
    id          TEXT PRIMARY KEY,
    destination TEXT NOT NULL,
    message     TEXT NOT NULL,
    created     INTEGER NOT NULL,
    due         INTEGER NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,
    error       TEXT,
    refused     INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX outbox_due ON outbox(refused, due);
CREATE TABLE heartbeat (id INTEGER PRIMARY KEY CHECK (id = 1), at INTEGER NOT NULL) STRICT;
"];

/// Sets the file up for synced writes and brings it to the present version.
pub fn prepare(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let sqlite = |source| StoreError::Sqlite { path: path.into(), source };
    connection.busy_timeout(Duration::from_secs(5)).map_err(sqlite)?;
    let known = MIGRATIONS.len() as i64;
    let found = version(connection).map_err(sqlite)?;
    refuse_newer(found, known, path)?;
    write_ahead(connection).map_err(sqlite)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;").map_err(sqlite)?;
    if found == known {
        return Ok(());
    }
    // An agent and somebody's `unwait status` may open a new file at the same moment: who comes second must see what
    // the first has done, so the version is read again under the lock of the transaction that goes on from it.
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate).map_err(sqlite)?;
    let found = version(&transaction).map_err(sqlite)?;
    refuse_newer(found, known, path)?;
    for migration in MIGRATIONS.iter().skip(found as usize) {
        transaction.execute_batch(migration).map_err(sqlite)?;
    }
    transaction.pragma_update(None, "user_version", known).map_err(sqlite)?;
    transaction.commit().map_err(sqlite)
}

/// A file that is new goes over to a write-ahead log under a lock that SQLite does not wait for, whatever the busy
/// timeout is (sqlite.org/c3ref/busy_handler.html: the handler is not always invoked); so the wait is done here.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    const TRIES: u32 = 100;
    const BETWEEN: Duration = Duration::from_millis(50);
    for _ in 1..TRIES {
        match connection.execute_batch("PRAGMA journal_mode = WAL;") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => std::thread::sleep(BETWEEN),
            done => return done,
        }
    }
    connection.execute_batch("PRAGMA journal_mode = WAL;")
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn refuse_newer(found: i64, known: i64, path: &Path) -> Result<(), StoreError> {
    if found > known {
        return Err(StoreError::Newer { path: path.into(), found, known });
    }
    Ok(())
}
