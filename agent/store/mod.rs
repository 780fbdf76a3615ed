#![doc = include_str!("README.md")]

mod approvals;
mod asked;
mod audience;
mod audit;
mod breaches;
mod breakers;
mod counts;
mod damaged;
#[cfg(test)]
pub mod faulty;
mod gone_slots;
mod incidents;
mod kept_orders;
mod lane;
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
mod unrest;

use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use crate::clock::Clock;
use crate::crash;
use crate::model::duration;

use lane::{Hangs, Lane, apart};
use timeline::Timeline;

pub use approvals::{Approval, ApprovalState, Decided, Word};
pub use audience::{Audience, NotTold, Route, RouteSubject};
pub use audit::{AuditRow, OrderVerb, Person};
pub use breaches::{
    BreachNote, BreachRow, FollowedSockets, HoldRow, LeakedSockets, LeftBreach, LeftBreaches, NewBreach,
};
pub use breakers::{Attempt, Breaker, Verdict};
pub use counts::{EndedSoFar, Undelivered};
pub use damaged::AGENT;
pub use incidents::{Implied, IncidentRow, JournalRow, LastEnded, OpenIncident, UnderWay};
pub use latches::{Latch, OrphanedDrain, Pause};
pub use outbox::{IncidentThread, Outgoing, Queued};
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
    #[error("{path}: no thread for its writes: {source}")]
    Thread { path: PathBuf, source: std::io::Error },
    #[error("the disk of {path} hangs: {access} has not ended for {}", duration::format(*lasts))]
    Hangs { path: PathBuf, access: Access, lasts: Duration },
}

/// What was wanted of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
pub enum Access {
    #[strum(serialize = "a read")]
    Read,
    /// It may still be in the file later.
    #[strum(serialize = "a write")]
    Write,
}

/// What a person can do about it.
fn remedy(error: &rusqlite::Error) -> &'static str {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull, PermissionDenied, ReadOnly};
    match error.sqlite_error_code() {
        Some(CannotOpen | PermissionDenied | ReadOnly) => {
            "; the agent's user (mostly root) must be able to write the directory of this file"
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
    /// A write has not ended for so long, whole seconds.
    Hanging(Duration),
}

impl Health {
    pub fn is_sound(self) -> bool {
        self == Self::Sound
    }

    /// Why nothing new is begun.
    pub fn says(self) -> Option<String> {
        match self {
            Self::Sound => None,
            Self::Failing => Some("the state directory cannot be written".into()),
            Self::Hanging(lasts) => {
                let lasts = duration::format(lasts);
                Some(format!(
                    "the disk of the state directory hangs: a write has not ended for {lasts}, and unwait only observes \
                     until then; check the disk (dmesg)"
                ))
            }
        }
    }
}

/// Prepared statements that are kept: more than the store has of those that are asked at each tick.
const STATEMENTS: usize = 64;

/// Of each connection, in KiB; SQLite's own default is the double.
const CACHE: i64 = 1024;

/// The open file. A write takes as long as the disk does to sync it (milliseconds), and a read never waits for one; whoever
/// waits occupies no thread of the runtime's. An access that a disk lets hang is an error after some seconds.
#[derive(Debug)]
pub struct Store {
    /// `None`: of a file that is open to be read alone, and of one in memory.
    reader: Option<Lane>,
    writer: Lane,
    path: PathBuf,
    failing: AtomicBool,
    line: Timeline,
    outbox: outbox::MemoryOutbox,
    orders: kept_orders::KeptOrders,
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
        let line = Timeline::of(&connection, Arc::clone(&clock)).map_err(sqlite)?;
        let mut store = Self::over(connection, path, line, &clock)?;
        if path != Path::new(":memory:") {
            let reader = to_read(path).and_then(set_up).map_err(sqlite)?;
            store.reader = Some(Lane::of(reader, clock));
        }
        Ok(store)
    }

    /// Opens a file that is there, to read it alone: while an agent runs, and without a change to the file.
    pub fn open_to_read(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let sqlite = |source| StoreError::Sqlite { path: path.into(), source };
        let connection = to_read(path).map_err(sqlite)?;
        schema::accept(&connection, path)?;
        let line = Timeline::of(&connection, Arc::clone(&clock)).map_err(sqlite)?;
        Self::over(connection, path, line, &clock)
    }

    fn over(connection: Connection, path: &Path, line: Timeline, clock: &Arc<dyn Clock>) -> Result<Self, StoreError> {
        let sqlite = |source| StoreError::Sqlite { path: path.into(), source };
        let connection = set_up(connection).map_err(sqlite)?;
        // Nothing is written before the commit, which is carried out by another thread.
        connection.pragma_update(None, "cache_spill", false).map_err(sqlite)?;
        let thread = |source| StoreError::Thread { path: path.into(), source };
        Ok(Self {
            reader: None,
            writer: Lane::with_a_thread(connection, Arc::clone(clock)).map_err(thread)?,
            path: path.into(),
            failing: AtomicBool::new(false),
            line,
            outbox: outbox::MemoryOutbox::default(),
            orders: kept_orders::KeptOrders::default(),
            samples: samples::Recorder::default(),
        })
    }

    pub fn health(&self) -> Health {
        match self.writer.hangs() {
            Some(Hangs(lasts)) => Health::Hanging(Duration::from_secs(lasts.as_secs())),
            None if self.failing.load(Ordering::Relaxed) => Health::Failing,
            None => Health::Sound,
        }
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

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let lane = self.reader.as_ref().unwrap_or(&self.writer);
        // Where nobody is at work the disk answers. To step aside for each read would keep a dozen threads more.
        let may_wait = !lane.is_free() || !self.writer.is_free();
        let read = || {
            let taken = lane.take(false).map_err(|hangs| self.hangs(Access::Read, hangs))?;
            read(taken.connection()).map_err(|source| self.error(source))
        };
        if may_wait { apart(read) } else { read() }
    }

    /// As [`Store::transact`], and keeps account of the store's health.
    #[track_caller]
    fn write<T>(&self, write: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.accounted(Location::caller(), || self.transact(write, false))
    }

    /// The same, and waits for a disk that hangs: what is in the file in the end must not have been said to fail.
    #[track_caller]
    fn write_for_certain<T>(&self, write: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.accounted(Location::caller(), || self.transact(write, true))
    }

    fn accounted<T>(
        &self,
        line: &Location<'_>,
        write: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        crash::point_of(line, "committing");
        let result = write();
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
        result
    }

    /// Runs `write` in a transaction and commits it, synced.
    fn transact<T>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
        for_certain: bool,
    ) -> Result<T, StoreError> {
        let hangs = |hangs| self.hangs(Access::Write, hangs);
        let failed = |source| self.error(source);
        apart(|| {
            let mut taken = self.writer.take(for_certain).map_err(hangs)?;
            taken.begin().map_err(hangs)?.map_err(failed)?;
            let value = write(taken.connection()).map_err(failed)?;
            self.line.note(taken.connection()).map_err(failed)?;
            taken.commit().map_err(hangs)?.map_err(failed)?;
            drop(taken);
            self.keep_reads_from_hanging();
            #[cfg(test)]
            if !for_certain && faulty::is_given_up() {
                return Err(hangs(Hangs(lane::GIVEN_UP_AFTER)));
            }
            Ok(value)
        })
    }

    /// The first read after a commit notes in the shared memory beside the file how far it reads; where the file system hangs
    /// by then, that page can not be written, and the read hangs as well. So the first is made at once.
    fn keep_reads_from_hanging(&self) {
        if let Some(taken) = self.reader.as_ref().and_then(Lane::take_if_free) {
            // A read that fails says so to whoever wants to know something.
            let _ = taken.connection().prepare_cached("SELECT 1 FROM line").and_then(|mut read| read.exists([]));
        }
    }

    fn hangs(&self, access: Access, Hangs(lasts): Hangs) -> StoreError {
        StoreError::Hangs { path: self.path.clone(), access, lasts: Duration::from_secs(lasts.as_secs()) }
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sqlite { path: self.path.clone(), source }
    }

    fn corrupt(&self, what: impl Into<String>, detail: impl ToString) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), what: what.into(), detail: detail.to_string() }
    }
}

/// Another connection to a file that is there: it changes nothing, and never is the one that writes the log back.
fn to_read(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

fn set_up(connection: Connection) -> rusqlite::Result<Connection> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "cache_size", -CACHE)?;
    Ok(connection)
}

/// Milliseconds since the epoch, as the tables hold time.
fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
