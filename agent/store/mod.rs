#![doc = include_str!("README.md")]

mod approvals;
mod asked;
mod audit;
mod breaches;
mod breakers;
mod counts;
mod damaged;
#[cfg(test)]
pub mod faulty;
mod incidents;
mod latches;
mod outbox;
mod policy_runs;
mod recorded;
mod reminders;
mod samples;
mod schema;
mod silences;
mod slots;
mod state_dir;
mod timeline;

use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use crate::clock::Clock;
use crate::crash;

use timeline::Timeline;

pub use approvals::{Approval, ApprovalState, Decided, Word};
pub use audit::{AuditRow, OrderVerb, Person};
pub use breaches::{
    BreachNote, BreachRow, FollowedSockets, HoldRow, LeakedSockets, LeftBreach, LeftBreaches, NewBreach,
};
pub use breakers::{Attempt, Breaker, Verdict};
pub use counts::{EndedSoFar, Undelivered};
pub use damaged::AGENT;
pub use incidents::{Implied, IncidentRow, JournalRow, LastEnded, OpenIncident};
pub use latches::{Latch, OrphanedDrain, Pause};
pub use outbox::{Audience, Outgoing};
pub use policy_runs::PolicyRun;
pub use recorded::Recorded;
pub use silences::Silence;
pub use slots::UnreturnedSlot;
pub use state_dir::{StateDir, StateDirError};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {source}{}", remedy(source))]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error("{path}: written by a newer unwait (version {found}, this one knows {known}); install that version again")]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{path}: written by an older unwait (version {found}, this one knows {known}); `unwait run` migrates it")]
    Older { path: PathBuf, found: i64, known: i64 },
    #[error("{path}: cannot read {what}: {detail}; a restart of the agent sets a damaged file aside")]
    Corrupt { path: PathBuf, what: String, detail: String },
    #[error("{path} is damaged and could not be set aside: {source}; move it away, or free space beside it")]
    SetAside { path: PathBuf, source: std::io::Error },
}

/// What a person can do about it.
fn remedy(error: &rusqlite::Error) -> &'static str {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull, PermissionDenied, ReadOnly};
    match error.sqlite_error_code() {
        Some(CannotOpen | PermissionDenied | ReadOnly) => {
            "; the agent's user, mostly root, must be able to write its directory"
        }
        Some(DiskFull) => "; free space on its file system",
        _ => "",
    }
}

/// Can the store be relied on now?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Sound,
    /// The last write failed.
    Failing,
}

/// Prepared statements that are kept: more than the store has of those that are asked at each tick.
const STATEMENTS: usize = 64;

/// The open file. Calls block for as long as a synced write takes (milliseconds).
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    path: PathBuf,
    failing: AtomicBool,
    line: Timeline,
    outbox: outbox::MemoryOutbox,
    samples: samples::Recorder,
}

impl Store {
    /// Opens or makes the file, and migrates it forward. Deadlines go by the boot clock of `clock`.
    pub fn open_with(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Self::made(Connection::open(path), path, clock)
    }

    fn made(opened: rusqlite::Result<Connection>, path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let sqlite = |source| StoreError::Sqlite { path: path.into(), source };
        let connection = opened.map_err(sqlite)?;
        schema::prepare(&connection, path)?;
        let line = Timeline::of(&connection, clock).map_err(sqlite)?;
        Ok(Self::over(connection, path, line))
    }

    /// Opens a file that is there, to read it alone: while an agent runs, and without a change to the file.
    pub fn open_to_read(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let sqlite = |source| StoreError::Sqlite { path: path.into(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
        schema::accept(&connection, path)?;
        let line = Timeline::of(&connection, clock).map_err(sqlite)?;
        Ok(Self::over(connection, path, line))
    }

    fn over(connection: Connection, path: &Path, line: Timeline) -> Self {
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Self {
            connection: Mutex::new(connection),
            path: path.into(),
            failing: AtomicBool::new(false),
            line,
            outbox: outbox::MemoryOutbox::default(),
            samples: samples::Recorder::default(),
        }
    }

    pub fn health(&self) -> Health {
        if self.failing.load(Ordering::Relaxed) { Health::Failing } else { Health::Sound }
    }

    /// Writes fail, as somebody else has found who has this file open too.
    pub fn distrust(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    /// One synced write that changes nothing: finds out whether a failing disk has recovered.
    pub fn test_write(&self, now: Timestamp) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute(
                "INSERT INTO heartbeat(id, at) VALUES (1, ?1) ON CONFLICT(id) DO UPDATE SET at = ?1",
                [now.as_millisecond()],
            )?;
            Ok(())
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock is held rolls its transaction back, so the connection stays sound.
        self.connection.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        read(&self.lock()).map_err(|source| self.error(source))
    }

    /// As [`Store::transact`], and keeps account of the store's health.
    #[track_caller]
    fn write<T>(&self, write: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let line = Location::caller();
        crash::point_of(line, "committing");
        let result = self.transact(write);
        crash::point_of(line, "committed");
        let was_failing = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !was_failing => {
                tracing::error!(
                    %error,
                    path = %self.path.display(),
                    "cannot write {}: {error}; the agent observes only, and no new action begins until a write \
                     succeeds",
                    self.path.display(),
                )
            }
            Ok(_) if was_failing => {
                tracing::info!(
                    path = %self.path.display(),
                    "{} can be written again: the agent acts again",
                    self.path.display(),
                )
            }
            _ => {}
        }
        result.map_err(|source| self.error(source))
    }

    /// Runs `write` in a transaction and commits it, synced.
    fn transact<T>(
        &self,
        write: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let value = write(&transaction)?;
        self.line.note(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sqlite { path: self.path.clone(), source }
    }

    fn corrupt(&self, what: impl Into<String>, detail: impl ToString) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), what: what.into(), detail: detail.to_string() }
    }
}

/// Milliseconds since the epoch, as the tables hold time.
fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
