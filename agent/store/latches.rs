//! The marks that stop action: latches of single services, and the pause of all.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::{AGENT, AuditRow, OrderVerb, Person, Recorded, Store, StoreError, audit, time};
use crate::model::{IncidentId, Marker, Reason, ServiceName};

/// No further action on this service until a person has looked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Latch {
    pub service: String,
    pub incident: String,
    pub reason: Recorded<Reason>,
    pub detail: String,
    pub since: Timestamp,
    /// Of [`Reason::OrphanedMarker`]: the drain that no incident knows of.
    pub orphan: Option<OrphanedDrain>,
}

/// A drain of ours that was found in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct OrphanedDrain {
    pub registry: String,
    /// The instance's, in that registry.
    pub id: String,
    pub marker: Marker,
}

#[cfg(test)]
impl OrphanedDrain {
    /// Some drain of this incident.
    pub fn of(incident: &IncidentId) -> Self {
        let marker = Marker { incident: incident.clone(), host: "bj1-03".into() };
        Self { registry: "consul".into(), id: "rpc-order-1".into(), marker }
    }
}

/// Where the drain of an orphan stands had been a sentence of the detail before: `REGISTRY/ID carries: MARKER`.
pub(super) const MIGRATION: &str = "
ALTER TABLE latch ADD COLUMN orphan_registry TEXT;
ALTER TABLE latch ADD COLUMN orphan_id TEXT;
ALTER TABLE latch ADD COLUMN orphan_marker TEXT;
UPDATE latch SET
    orphan_registry = substr(detail, 1, instr(detail, '/') - 1),
    orphan_id = substr(detail, instr(detail, '/') + 1, instr(detail, ' carries: ') - instr(detail, '/') - 1),
    orphan_marker = substr(detail, instr(detail, ' carries: ') + length(' carries: '))
WHERE reason = 'orphaned_marker' AND instr(detail, '/') > 0 AND instr(detail, ' carries: ') > 0;
";

/// As [`latch_row`] reads them.
pub(super) const COLUMNS: &str = "service, incident, reason, detail, since, orphan_registry, orphan_id, orphan_marker";

pub(super) fn latch_row(row: &Row<'_>) -> rusqlite::Result<Latch> {
    let marker: Option<String> = row.get(7)?;
    let orphan = match (row.get(5)?, row.get(6)?, marker.as_deref().and_then(Marker::parse)) {
        (Some(registry), Some(id), Some(marker)) => Some(OrphanedDrain { registry, id, marker }),
        _ => None,
    };
    Ok(Latch {
        service: row.get(0)?,
        incident: row.get(1)?,
        reason: row.get(2)?,
        detail: row.get(3)?,
        since: time(row.get(4)?),
        orphan,
    })
}

/// The kill switch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Pause {
    pub who: String,
    pub why: String,
    pub since: Timestamp,
    /// `None`: until `unwait resume`.
    pub until: Option<Timestamp>,
}

impl Store {
    pub fn latch(&self, service: &ServiceName) -> Result<Option<Latch>, StoreError> {
        Ok(self.latches()?.into_iter().find(|latch| latch.service == service.as_str()))
    }

    pub fn latches(&self) -> Result<Vec<Latch>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM latch ORDER BY since"))?
                .query_map([], latch_row)?
                .collect()
        })
    }

    /// Takes the latch off; says whether there was one.
    pub fn unlatch(&self, service: &ServiceName, incident: &IncidentId) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let rows = transaction.execute(
                "DELETE FROM latch WHERE service = ?1 AND incident = ?2",
                params![service.as_str(), incident.0],
            )?;
            Ok(rows > 0)
        })
    }

    /// Begins a pause at `pause.since`, which is now. One in force that lasts as long or longer is not shortened by it: it
    /// stands, and is given back.
    pub fn pause(&self, pause: &Pause) -> Result<Option<Pause>, StoreError> {
        let (since, until) = (pause.since.as_millisecond(), pause.until.map(|until| until.as_millisecond()));
        let taken = self.write(|transaction| {
            let rows = transaction.execute(
                "INSERT INTO pause(id, who, why, since, until, until_line) VALUES (1, ?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT(id) DO UPDATE SET who = excluded.who, why = excluded.why, since = excluded.since,
                     until = excluded.until, until_line = excluded.until_line
                 WHERE until_line < coalesce(excluded.until_line, until_line + 1)",
                params![
                    pause.who,
                    pause.why,
                    since,
                    until,
                    until.map(|until| self.line.at(pause.since).saturating_add(until - since))
                ],
            )?;
            let by = Person { who: pause.who.clone(), why: Some(pause.why.clone()) };
            let came_of_it = match (rows > 0, pause.until) {
                (false, _) => "a pause that lasts as long or longer was in force, and stays".to_owned(),
                (true, Some(until)) => format!("no action until {until:.0}"),
                (true, None) => "no action until `unwait resume`".to_owned(),
            };
            // The agent's own pause, after a damaged store, is nobody's order.
            if pause.who != AGENT {
                let row = AuditRow::new(OrderVerb::Pause, &by, pause.since).answered(true, came_of_it);
                audit::insert(transaction, &row)?;
            }
            Ok(rows > 0)
        })?;
        if taken { Ok(None) } else { self.paused(pause.since) }
    }

    /// Ends the pause; says whether there was one.
    pub fn resume(&self, by: &Person, now: Timestamp) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let was = transaction.execute("DELETE FROM pause", [])? > 0;
            let came_of_it = if was { "the pause is over" } else { "no pause was in force" };
            audit::insert(transaction, &AuditRow::new(OrderVerb::Resume, by, now).answered(true, came_of_it))?;
            Ok(was)
        })
    }

    /// The pause that holds at `now`, and until when by the wall clock that says so.
    pub fn paused(&self, now: Timestamp) -> Result<Option<Pause>, StoreError> {
        let pause = self.read(|connection| {
            connection
                .prepare_cached("SELECT who, why, since, until_line FROM pause WHERE id = 1")?
                .query_row([], |row| {
                    Ok(Pause {
                        who: row.get(0)?,
                        why: row.get(1)?,
                        since: time(row.get(2)?),
                        until: row.get::<_, Option<i64>>(3)?.map(|until| self.line.as_seen(now, until)),
                    })
                })
                .optional()
        })?;
        Ok(pause.filter(|pause| pause.until.is_none_or(|until| now < until)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::incident::Ending;
    use crate::model::{EventKind, Message, Outcome};
    use crate::store::Audience;

    #[test]
    fn the_first_drain_that_was_found_stays_the_latchs_until_a_person_has_decided() {
        let store = Store::open(Path::new(":memory:")).unwrap();
        let (service, incident) = (ServiceName::parse("rpc-order.service").unwrap(), IncidentId("i-1".into()));
        let found = |registry: &str| {
            let orphan = OrphanedDrain { registry: registry.into(), ..OrphanedDrain::of(&incident) };
            let ending =
                Ending { outcome: Outcome::Stuck, reason: Reason::OrphanedMarker, detail: format!("in {registry}") };
            let message = Message::new(EventKind::Stuck, "bj1-03", Timestamp::UNIX_EPOCH, "");
            store
                .latch_orphan(&service, &orphan, &ending, Timestamp::UNIX_EPOCH, &Audience::default(), &message)
                .unwrap();
            (orphan, ending.detail)
        };
        let first = found("consul");
        found("nacos");
        let latch = store.latch(&service).unwrap().expect("a latch");
        assert_eq!((latch.orphan, latch.detail), (Some(first.0), first.1));
    }
}
