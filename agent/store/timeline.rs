//! The line that deadlines are counted on, so that no step of the wall clock makes one shorter or longer.
//!
//! A time that something is counted from (the end of an incident, the telling of a latch) or that it lasts until (a
//! silence, a pause, an approval) is kept twice: as the wall clock had it, for people, and as a point of this line, in
//! milliseconds. Within a boot the line goes by the boot clock, suspend included. A new boot goes on where the last write
//! of the one before had come to: what went by after that, and while the host was off, is not counted. So a deadline is
//! never shorter than was said, and after a reboot it lasts at most as long again.
//!
//! What the store answers is told by the wall clock of whoever asks: `now`, less what has really gone by since.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::time;
use crate::clock::Clock;

/// `boot` is empty where no boot has written yet: a new file, or one of a version that kept wall times alone. What such
/// a file holds is taken to have been written just now.
pub(super) const MIGRATION: &str = "
ALTER TABLE incident ADD COLUMN began_line INTEGER;
ALTER TABLE incident ADD COLUMN ended_line INTEGER;
UPDATE incident SET began_line = began, ended_line = ended;
ALTER TABLE latch ADD COLUMN told_line INTEGER;
UPDATE latch SET told_line = coalesce(reminded, since);
ALTER TABLE pause ADD COLUMN until_line INTEGER;
ALTER TABLE pause ADD COLUMN told_line INTEGER;
UPDATE pause SET until_line = until;
ALTER TABLE silence ADD COLUMN until_line INTEGER;
UPDATE silence SET until_line = until;
ALTER TABLE approval ADD COLUMN expires_line INTEGER;
ALTER TABLE approval ADD COLUMN decided_line INTEGER;
UPDATE approval SET expires_line = expires, decided_line = decided;
UPDATE outbox SET due = 0;
CREATE TABLE line (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    boot   TEXT NOT NULL,
    base   INTEGER NOT NULL,
    latest INTEGER NOT NULL
) STRICT;
INSERT INTO line SELECT 1, '', 0, ifnull(max(at), 0) FROM (
    SELECT max(began) AS at FROM incident UNION ALL SELECT max(ended) FROM incident
    UNION ALL SELECT max(since) FROM latch UNION ALL SELECT max(reminded) FROM latch
    UNION ALL SELECT max(since) FROM pause UNION ALL SELECT max(since) FROM silence
    UNION ALL SELECT max(created) FROM approval UNION ALL SELECT max(decided) FROM approval
    UNION ALL SELECT max(rearmed) FROM breaker UNION ALL SELECT max(at) FROM heartbeat
);
";

pub(super) enum Timeline {
    /// A test's: each time is what it is told to be.
    #[cfg(test)]
    Told,
    Booted {
        clock: Arc<dyn Clock>,
        boot: String,
        /// What the line says at the host's boot.
        base: i64,
    },
}

impl std::fmt::Debug for Timeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            #[cfg(test)]
            Self::Told => f.write_str("Told"),
            Self::Booted { boot, base, .. } => {
                f.debug_struct("Booted").field("boot", boot).field("base", base).finish_non_exhaustive()
            }
        }
    }
}

impl Timeline {
    /// Where the file's line goes on in this boot. Writes nothing: the first write of the boot notes it.
    pub fn of(connection: &Connection, clock: Arc<dyn Clock>) -> rusqlite::Result<Self> {
        let boot = clock.boot();
        let since_boot = millis(clock.monotonic());
        let (known, base, latest): (String, i64, i64) =
            connection.query_row("SELECT boot, base, latest FROM line WHERE id = 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        let base = match known.as_str() {
            "" => latest.saturating_sub(since_boot),
            _ if boot.is_empty() => latest.saturating_sub(since_boot),
            // Never back behind what was written, also where a machine is set back to an earlier state of itself.
            known if known == boot => base.max(latest.saturating_sub(since_boot)),
            _ => latest,
        };
        Ok(Self::Booted { clock, boot, base })
    }

    /// The present, where the wall clock says `now`.
    pub fn at(&self, now: Timestamp) -> i64 {
        match self {
            #[cfg(test)]
            Self::Told => now.as_millisecond(),
            Self::Booted { clock, base, .. } => {
                let _ = now;
                base.saturating_add(millis(clock.monotonic()))
            }
        }
    }

    /// A point of the line as the wall clock that says `now` would have it.
    pub fn as_seen(&self, now: Timestamp, at: i64) -> Timestamp {
        time(now.as_millisecond().saturating_sub(self.at(now).saturating_sub(at)))
    }

    /// Notes how far the line has come, with whatever else is written.
    pub fn note(&self, transaction: &Connection) -> rusqlite::Result<()> {
        match self {
            #[cfg(test)]
            Self::Told => Ok(()),
            Self::Booted { clock, boot, base } => {
                let latest = base.saturating_add(millis(clock.monotonic()));
                let note = "UPDATE line SET base = CASE WHEN boot = ?1 THEN base ELSE ?2 END, boot = ?1,
                                            latest = max(latest, ?3) WHERE id = 1";
                transaction.prepare_cached(note)?.execute(params![boot, base, latest]).map(drop)
            }
        }
    }
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
