//! The tables, and how an older file becomes a newer one.

use std::cmp::Ordering;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::StoreError;

/// Each entry takes a file from its index to the next version (`PRAGMA user_version`). What came after the first
/// stands with the concept that it is for.
const MIGRATIONS: [&str; 20] = [
    FIRST,
    super::samples::MIGRATION,
    super::silences::MIGRATION,
    super::breakers::MIGRATION,
    super::approvals::MIGRATION,
    super::reminders::MIGRATION,
    super::timeline::MIGRATION,
    super::slots::MIGRATION,
    super::asked::MIGRATION,
    super::slots::TAKEN_IN,
    super::audit::MIGRATION,
    super::latches::MIGRATION,
    super::breaches::MIGRATION,
    super::incidents::MIGRATION,
    super::approvals::PLAN,
    super::unrest::MIGRATION,
    super::silences::UNTIL_CLEAR,
    super::gone_slots::MIGRATION,
    super::outbox::MIGRATION,
    super::incidents::BLAME,
];

const FIRST: &str = "
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
";

/// Sets the file up for synced writes and brings it to the present version.
pub fn prepare(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let sqlite = |source| StoreError::Sqlite { path: path.into(), source };
    connection.busy_timeout(Duration::from_secs(5)).map_err(sqlite)?;
    let known = MIGRATIONS.len() as i64;
    let found = version(connection).map_err(sqlite)?;
    if found > known {
        return Err(StoreError::Newer { path: path.into(), found, known });
    }
    write_ahead(connection).map_err(sqlite)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;").map_err(sqlite)?;
    if found < known { migrate(connection).map_err(sqlite) } else { Ok(()) }
}

/// Refuses a file that this version cannot read as it is.
pub fn accept(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let sqlite = |source| StoreError::Sqlite { path: path.into(), source };
    connection.busy_timeout(Duration::from_secs(5)).map_err(sqlite)?;
    let (known, found) = (MIGRATIONS.len() as i64, version(connection).map_err(sqlite)?);
    match found.cmp(&known) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(StoreError::Newer { path: path.into(), found, known }),
        Ordering::Less => Err(StoreError::Older { path: path.into(), found, known }),
    }
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

/// Another process may open the same new file at this moment (`unwait status` while the agent starts): the version
/// that counts is the one that is read under the lock.
fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    for (from, migration) in MIGRATIONS.iter().enumerate().skip(version(&transaction)? as usize) {
        transaction.execute_batch(&format!("{migration} PRAGMA user_version = {};", from + 1))?;
    }
    transaction.commit()
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use rusqlite::Connection;

    use crate::store::{Store, StoreError};

    use super::*;

    #[test]
    fn a_file_of_any_older_version_becomes_one_of_this() {
        let dir = tempfile::tempdir().unwrap();
        for from in 0..MIGRATIONS.len() {
            let path = dir.path().join(format!("{from}.db"));
            let old = Connection::open(&path).unwrap();
            old.execute_batch(&MIGRATIONS[..from].concat()).unwrap();
            old.pragma_update(None, "user_version", from as i64).unwrap();
            drop(old);
            drop(Store::open(&path).unwrap_or_else(|error| panic!("from {from}: {error}")));
            let known = MIGRATIONS.len() as i64;
            assert_eq!(version(&Connection::open(&path).unwrap()).unwrap(), known, "from {from}");
        }
    }

    #[test]
    fn those_who_open_a_new_file_at_once_all_can() {
        const AT_ONCE: usize = 4;
        let dir = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let path = dir.path().join(format!("{round}.db"));
            let together = Barrier::new(AT_ONCE);
            std::thread::scope(|scope| {
                let open = || {
                    together.wait();
                    Store::open(&path).map(drop)
                };
                let all: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(open)).collect();
                for one in all {
                    one.join().unwrap().unwrap();
                }
            });
        }
    }
    #[test]
    fn a_file_of_each_former_version_migrates_and_keeps_what_it_held() {
        let dir = tempfile::tempdir().unwrap();
        for former in 1..super::MIGRATIONS.len() {
            let path = dir.path().join(format!("{former}.db"));
            let old = Connection::open(&path).unwrap();
            for migration in &super::MIGRATIONS[..former] {
                old.execute_batch(migration).unwrap();
            }
            old.pragma_update(None, "user_version", former as i64).unwrap();
            old.execute("INSERT INTO pause(id, who, why, since) VALUES (1, 'ann', 'a move', 0)", []).unwrap();
            drop(old);
            let refused = Store::open_to_read(&path, std::sync::Arc::new(crate::clock::SystemClock)).unwrap_err();
            assert!(matches!(refused, StoreError::Older { found, .. } if found == former as i64), "{refused}");

            let store = Store::open(&path).unwrap();
            assert_eq!(store.paused(jiff::Timestamp::UNIX_EPOCH).unwrap().map(|pause| pause.who), Some("ann".into()));
            assert_eq!(store.services_with_samples().unwrap(), [] as [String; 0]);
            drop(store);
            Store::open(&path).unwrap();
        }
    }
}
