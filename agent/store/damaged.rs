//! A file that is damaged: found at the agent's start, kept under another name, and never half believed.
//!
//! What stood in it is lost for the agent: latches, pauses, budgets, what was under way. So the file that takes its place
//! holds a pause, by the agent itself, until a person says `unwait resume`: nothing is done on the word of a memory that is
//! gone. What was drained is found by its marker, told and latched (`daemon::duties::sweep`).
//!
//! The new file is made and closed beside the old one, and takes its place by one rename. Whoever dies on the way leaves
//! either the damaged file or `unwait.db.fresh`, with which the next start goes on; an old log is never left beside a
//! new file.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Error, ErrorCode};

use super::{Pause, Store, StoreError};
use crate::clock::Clock;

/// Who pauses where the agent itself does.
pub const AGENT: &str = "unwait";

/// What SQLite keeps beside a file.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

impl Store {
    /// Opens the state of an agent that starts, which holds its directory. A damaged file is set aside, and the agent is
    /// paused; [`Store::paused`] says so, by [`AGENT`].
    pub fn open_or_set_aside(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let set_aside = |source| StoreError::SetAside { path: path.into(), source };
        take_its_place(path).map_err(set_aside)?;
        let damage = match Self::open_with(path, Arc::clone(&clock)).and_then(Self::checked) {
            Err(error) if error.is_damage() => error,
            opened => return opened,
        };
        let kept = beside(path, &clock.now().strftime(".damaged-%Y%m%dT%H%M%SZ").to_string());
        tracing::error!(
            error = %damage,
            kept = %kept.display(),
            "the store was damaged ({damage}), and is kept as {}; a new one begins, and the agent is paused until \
             `unwait resume`",
            kept.display(),
        );
        let why = format!(
            "the agent's store was damaged ({damage}) and is kept as {}; earlier locks, pauses and budgets are unknown",
            kept.display()
        );
        make(path, &why, Arc::clone(&clock))?;
        keep(path, &kept).map_err(set_aside)?;
        fs::rename(beside(path, ".making"), beside(path, ".fresh")).map_err(set_aside)?;
        take_its_place(path).map_err(set_aside)?;
        Self::open_with(path, clock)
    }

    /// The file, if everything in it that an agent acts on can be read. Of the signals' history only the structure is
    /// looked at: a damaged row of it is left out where it is read.
    pub(super) fn checked(self) -> Result<Self, StoreError> {
        let checks = ["quick_check(1)", "integrity_check(incident)", "integrity_check(journal)"];
        for check in checks {
            let found: String =
                self.read(|connection| connection.query_row(&format!("PRAGMA {check}"), [], |row| row.get(0)))?;
            if found != "ok" {
                return Err(self.corrupt("the file", found));
            }
        }
        self.open_incidents()?;
        self.latches()?;
        self.slots_to_release()?;
        Ok(self)
    }
}

impl StoreError {
    /// Is it the file itself that is wrong, and not the disk, its space or its permissions?
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Sqlite { source: Error::SqliteFailure(failure, _), .. } => matches!(
                failure.code,
                // A table or column that is not there, as well: sqlite.org/rescode.html, SQLITE_ERROR.
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown
            ),
            // A value of another kind than any of ours.
            Self::Sqlite { .. } => true,
            Self::Newer { .. }
            | Self::Older { .. }
            | Self::SetAside { .. }
            | Self::Thread { .. }
            | Self::Hangs { .. } => false,
        }
    }
}

/// Makes the file that is to take the place of `path`, whole and closed.
fn make(path: &Path, why: &str, clock: Arc<dyn Clock>) -> Result<(), StoreError> {
    let set_aside = |source| StoreError::SetAside { path: path.into(), source };
    let making = beside(path, ".making");
    remove(&making).map_err(set_aside)?;
    for log in BESIDE {
        remove(&beside(&making, log)).map_err(set_aside)?;
    }
    let store = Store::open_with(&making, Arc::clone(&clock))?;
    store.pause(&Pause { who: AGENT.into(), why: why.into(), since: clock.now(), until: None })?;
    // The last connection to a file takes its log away, once it is written back.
    drop(store);
    match beside(&making, "-wal").symlink_metadata() {
        Ok(_) => Err(set_aside(io::Error::other("the new file could not be written completely"))),
        Err(_) => File::open(&making).and_then(|file| file.sync_all()).map_err(set_aside),
    }
}

/// Gives the damaged file, with its log, a second name that stays. `sqlite3 FILE .recover` finds both.
fn keep(path: &Path, kept: &Path) -> io::Result<()> {
    fs::hard_link(path, kept)?;
    match fs::hard_link(beside(path, "-wal"), beside(kept, "-wal")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where a new file waits, it takes the place of the old one. Repeating it is harmless.
fn take_its_place(path: &Path) -> io::Result<()> {
    let fresh = beside(path, ".fresh");
    if fresh.symlink_metadata().is_err() {
        return Ok(());
    }
    for log in BESIDE {
        remove(&beside(path, log))?;
    }
    fs::rename(&fresh, path)?;
    let dir = path.parent().ok_or_else(|| io::Error::other("it lies in no directory"))?;
    File::open(dir)?.sync_all()
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
