//! When people were last reminded of a latch, or of a pause by the agent itself: at most once a period, also across
//! restarts.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::params;

use super::latches::{COLUMNS, latch_row};
use super::{AGENT, Audience, Latch, Store, StoreError, outbox};
use crate::model::Message;

pub(super) const MIGRATION: &str = "ALTER TABLE latch ADD COLUMN reminded INTEGER;";

impl Store {
    /// The latches of which people were last told `every` before `now`, or longer ago.
    pub fn due_reminders(&self, now: Timestamp, every: Duration) -> Result<Vec<Latch>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM latch WHERE told_line <= ?1 ORDER BY since"))?
                .query_map([before(self.line.at(now), every)], latch_row)?
                .collect()
        })
    }

    /// Notes that people are reminded of the latch at `now`, with the message that does it. False where it is not due
    /// any more, or was taken off.
    pub fn remind(
        &self,
        latch: &Latch,
        now: Timestamp,
        every: Duration,
        audience: &Audience,
        message: &Message,
    ) -> Result<bool, StoreError> {
        let outgoing = self.addressed(audience, std::slice::from_ref(message));
        self.write(|transaction| {
            let at = self.line.at(now);
            let noted = transaction.execute(
                "UPDATE latch SET reminded = ?3, told_line = ?4
                 WHERE service = ?1 AND incident = ?2 AND told_line <= ?5",
                params![latch.service, latch.incident, now.as_millisecond(), at, before(at, every)],
            )?;
            if noted > 0 {
                outbox::insert(transaction, &outgoing, &self.line)?;
            }
            Ok(noted > 0)
        })
    }
}

impl Store {
    /// As [`Store::remind`], of a pause by the agent itself; the first time at once.
    pub fn remind_of_own_pause(
        &self,
        now: Timestamp,
        every: Duration,
        audience: &Audience,
        message: &Message,
    ) -> Result<bool, StoreError> {
        let outgoing = self.addressed(audience, std::slice::from_ref(message));
        self.write(|transaction| {
            let at = self.line.at(now);
            let noted = transaction.execute(
                "UPDATE pause SET told_line = ?1 WHERE who = ?2 AND (told_line IS NULL OR told_line <= ?3)",
                params![at, AGENT, before(at, every)],
            )?;
            if noted > 0 {
                outbox::insert(transaction, &outgoing, &self.line)?;
            }
            Ok(noted > 0)
        })
    }
}

fn before(now: i64, every: Duration) -> i64 {
    now.saturating_sub(i64::try_from(every.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::incident::Ending;
    use crate::model::{EventKind, IncidentId, Outcome, Reason, ServiceName};
    use crate::store::OrphanedDrain;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn message(at: Timestamp) -> Message {
        Message::new(EventKind::Stuck, "bj1-03", at, "")
    }

    #[test]
    fn a_latch_is_reminded_of_once_a_period_also_across_restarts_until_it_is_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unwait.db");
        let audience = Audience::of(vec![("chat".into(), vec![EventKind::Stuck])]);
        let latched = Timestamp::from_second(1_800_000_000).unwrap();
        let service = ServiceName::parse("rpc-order.service").unwrap();
        let incident = IncidentId("i-1".into());
        let store = Store::open(&path).unwrap();
        let ending = Ending { outcome: Outcome::Stuck, reason: Reason::Unhealthy, detail: "no answer".into() };
        let orphan = OrphanedDrain::of(&incident);
        store.latch_orphan(&service, &orphan, &ending, latched, &Audience::default(), &message(latched)).unwrap();
        let mut reminded = Vec::new();
        // A look every ten minutes, each by another agent.
        for minute in (0..=200).step_by(10) {
            let now = latched + Duration::from_secs(minute * 60);
            let store = Store::open(&path).unwrap();
            for latch in store.due_reminders(now, HOUR).unwrap() {
                assert_eq!((latch.service.as_str(), latch.reason.as_str()), ("rpc-order.service", "unhealthy"));
                assert!(store.remind(&latch, now, HOUR, &audience, &message(now)).unwrap());
                assert!(!store.remind(&latch, now, HOUR, &audience, &message(now)).unwrap(), "noted already");
                reminded.push(minute);
            }
        }
        assert_eq!(reminded, [60, 120, 180]);
        assert_eq!(store.undelivered(9).unwrap().len(), 3);

        let much_later = latched + HOUR * 100;
        let due = store.due_reminders(much_later, HOUR).unwrap();
        store.unlatch(&service, &incident).unwrap();
        assert!(
            !store.remind(&due[0], much_later, HOUR, &audience, &message(much_later)).unwrap(),
            "decided meanwhile"
        );
        assert_eq!(store.due_reminders(much_later, HOUR).unwrap(), []);
    }
}
