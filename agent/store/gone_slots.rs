//! Slots of other hosts that people were told of: each once, whatever restarts.

use rusqlite::params;

use super::{Audience, Store, StoreError, outbox};
use crate::model::Message;

/// `at` is a point of the [line](super::timeline).
pub(super) const MIGRATION: &str = "
CREATE TABLE gone_slot (
    scope    TEXT NOT NULL,
    holder   TEXT NOT NULL,
    incident TEXT NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (scope, holder, incident)
) STRICT, WITHOUT ROWID;
";

impl Store {
    /// Notes that people are told, by `message`, of a slot that `holder` does not give back. False where they were before.
    pub fn tell_of_gone_slot(
        &self,
        scope: &str,
        holder: &str,
        incident: &str,
        audience: &Audience,
        message: &Message,
    ) -> Result<bool, StoreError> {
        const KEPT_FOR: i64 = 90 * 86_400 * 1_000; // ms
        let outgoing = self.addressed(audience, std::slice::from_ref(message));
        self.write(|transaction| {
            let at = self.line.at(message.at);
            transaction.execute("DELETE FROM gone_slot WHERE at < ?1", [at - KEPT_FOR])?;
            let noted = transaction.execute(
                "INSERT OR IGNORE INTO gone_slot(scope, holder, incident, at) VALUES (?1, ?2, ?3, ?4)",
                params![scope, holder, incident, at],
            )?;
            if noted > 0 {
                outbox::insert(transaction, &outgoing, &self.line)?;
            }
            Ok(noted > 0)
        })
    }
}
