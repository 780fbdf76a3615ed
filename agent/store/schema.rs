//! The tables, and how an older file becomes a newer one.

use std::path::Path;

use rusqlite::Connection;

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
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(sqlite)?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sqlite)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::Newer { path: path.into(), found, known });
    }
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        .map_err(sqlite)?;
    for (version, migration) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        connection
            .execute_batch(&format!("BEGIN IMMEDIATE; {migration} PRAGMA user_version = {}; COMMIT;", version + 1))
            .map_err(sqlite)?;
    }
    Ok(())
}
