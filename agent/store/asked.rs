//! Workers that a saga has asked to end, until they have ended: one that lives on has mostly closed its listener, and counts
//! for no later incident as one that serves.

use std::collections::HashSet;

use rusqlite::params;

use super::{Store, StoreError};
use crate::model::Worker;

/// `began` in clock ticks since the boot: with the pid it is one process of that boot, and of no other.
pub(super) const MIGRATION: &str = "
CREATE TABLE asked_worker (
    boot  TEXT NOT NULL,
    pid   INTEGER NOT NULL,
    began INTEGER NOT NULL,
    PRIMARY KEY (boot, pid, began)
) STRICT, WITHOUT ROWID;
";

impl Store {
    /// Notes that these are about to be asked to end, and forgets those that have ended since (`lives`, by pid and start).
    pub fn note_asked(
        &self,
        boot: &str,
        workers: &[Worker],
        lives: impl Fn(u32, u64) -> bool,
    ) -> Result<(), StoreError> {
        let ended: Vec<(u32, u64)> =
            self.asked(boot)?.into_iter().filter(|(pid, began)| !lives(*pid, *began)).collect();
        self.write(|transaction| {
            transaction.execute("DELETE FROM asked_worker WHERE boot <> ?1", [boot])?;
            for (pid, began) in ended {
                transaction.execute(
                    "DELETE FROM asked_worker WHERE boot = ?1 AND pid = ?2 AND began = ?3",
                    params![boot, pid, began.cast_signed()],
                )?;
            }
            for Worker { pid, began, .. } in workers {
                transaction.execute(
                    "INSERT OR IGNORE INTO asked_worker(boot, pid, began) VALUES (?1, ?2, ?3)",
                    params![boot, pid, began.cast_signed()],
                )?;
            }
            Ok(())
        })
    }

    /// Those that were asked to end since this boot, by pid and start.
    pub fn asked(&self, boot: &str) -> Result<HashSet<(u32, u64)>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT pid, began FROM asked_worker WHERE boot = ?1")?
                .query_map([boot], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn who_was_asked_is_remembered_until_it_has_ended_or_the_host_has_booted() {
        let store = Store::open(Path::new(":memory:")).unwrap();
        let worker = |pid| Worker { pid, began: 7, parent: 1, holds: 1, asked: false };
        store.note_asked("a", &[worker(10), worker(11)], |_, _| true).unwrap();
        store.note_asked("a", &[worker(11), worker(12)], |pid, began| (pid, began) != (10, 7)).unwrap();
        assert_eq!(store.asked("a").unwrap(), [(11, 7), (12, 7)].into());
        assert!(store.asked("b").unwrap().is_empty());
        store.note_asked("b", &[worker(11)], |_, _| true).unwrap();
        assert!(store.asked("a").unwrap().is_empty(), "pids of another boot are nobody's");
    }
}
