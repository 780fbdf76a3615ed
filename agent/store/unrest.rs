//! When the fleet last was not calm for a policy and a service: a guard that speaks for others refused.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError};
use crate::model::ServiceName;

/// `at` is a point of the [line](super::timeline).
pub(super) const MIGRATION: &str = "
CREATE TABLE unrest (
    policy  TEXT NOT NULL,
    service TEXT NOT NULL,
    guard   TEXT NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (policy, service)
) STRICT, WITHOUT ROWID;
";

impl Store {
    /// Notes that `guard` refused at `now`.
    pub fn note_unrest(
        &self,
        policy: &str,
        service: &ServiceName,
        guard: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        const KEPT_FOR: i64 = 2 * 86_400 * 1_000; // ms; twice the longest calm
        self.write(|transaction| {
            let at = self.line.at(now);
            transaction.execute("DELETE FROM unrest WHERE at < ?1", [at - KEPT_FOR])?;
            transaction
                .execute(
                    "INSERT OR REPLACE INTO unrest(policy, service, guard, at) VALUES (?1, ?2, ?3, ?4)",
                    params![policy, service.as_str(), guard, at],
                )
                .map(drop)
        })
    }

    /// Which guard refused last, and when by the wall clock that says `now`.
    pub fn unrest(
        &self,
        policy: &str,
        service: &ServiceName,
        now: Timestamp,
    ) -> Result<Option<(String, Timestamp)>, StoreError> {
        self.read(|connection| {
            connection
                .query_row(
                    "SELECT guard, at FROM unrest WHERE policy = ?1 AND service = ?2",
                    params![policy, service.as_str()],
                    |row| Ok((row.get(0)?, self.line.as_seen(now, row.get(1)?))),
                )
                .optional()
        })
    }
}
