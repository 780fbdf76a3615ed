//! What the metrics tell of the store: counts, and nothing that is read whole.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Recorded, Store, StoreError, time};
use crate::model::{Outcome, Reason};

/// How many incidents ended so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedSoFar {
    pub outcome: Recorded<Outcome>,
    pub reason: Recorded<Reason>,
    pub dry_run: bool,
    pub count: u32,
}

/// What one destination has not taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undelivered {
    pub count: u32,
    /// When the oldest was written.
    pub oldest: Timestamp,
}

impl Store {
    /// Every incident that has ended since the file was made: none is ever forgotten, so the counts only grow.
    pub fn ended_so_far(&self) -> Result<Vec<EndedSoFar>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT outcome, reason, dry_run, count(*) FROM incident WHERE ended IS NOT NULL
                     GROUP BY outcome, reason, dry_run ORDER BY outcome, reason, dry_run",
                )?
                .query_map([], |row| {
                    Ok(EndedSoFar {
                        outcome: row.get(0)?,
                        reason: row.get(1)?,
                        dry_run: row.get(2)?,
                        count: row.get(3)?,
                    })
                })?
                .collect()
        })
    }

    /// By destination; what waits in memory because the disk is full is counted as well.
    pub fn undelivered_by_destination(&self) -> Result<BTreeMap<String, Undelivered>, StoreError> {
        let rows: Vec<(String, u32, i64)> = self.read(|connection| {
            connection
                .prepare_cached("SELECT destination, count(*), min(created) FROM outbox GROUP BY destination")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })?;
        let rows = rows.into_iter().map(|(to, count, oldest)| (to, Undelivered { count, oldest: time(oldest) }));
        let mut all: BTreeMap<String, Undelivered> = rows.collect();
        for (to, at) in self.waiting() {
            let undelivered = all.entry(to).or_insert(Undelivered { count: 0, oldest: at });
            undelivered.count += 1;
            undelivered.oldest = undelivered.oldest.min(at);
        }
        Ok(all)
    }

    /// How many slots are noted as ours and not given back, by the name that hosts contend under.
    pub fn slots_noted(&self) -> Result<BTreeMap<String, u32>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT scope, count(*) FROM slot GROUP BY scope")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::execute::fakes::{self, Fault, Shape};
    use crate::model::incident::Ending;
    use crate::model::{EventKind, IncidentId, Message, Outcome, Plan, Reason};
    use crate::store::{Audience, Implied, JournalRow};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn what_ended_is_counted_by_how_and_outlives_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unwait.db");
        let store = Store::open(&path).unwrap();
        let audience = Audience::default();
        for (id, dry_run, ended) in [
            ("a", false, Some((Outcome::Completed, Reason::NotHelped))),
            ("b", false, Some((Outcome::Completed, Reason::NotHelped))),
            ("c", true, Some((Outcome::Completed, Reason::NotHelped))),
            ("d", false, Some((Outcome::Stuck, Reason::Unhealthy))),
            ("e", false, None),
        ] {
            let steps = fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing);
            let plan = Plan { incident: IncidentId(id.into()), dry_run, ..fakes::plan(steps) };
            store.begin_incident(&plan, at(0), &audience, &[]).unwrap();
            store.note_slot(&plan.incident, if dry_run { "another" } else { "rpc-order" }).unwrap();
            let Some((outcome, reason)) = ended else { continue };
            let ending = Ending { outcome, reason, detail: String::new() };
            let implied = Implied {
                step: "restart",
                changed: true,
                ending: Some(&ending),
                latch: None,
                audience: &audience,
                messages: &[],
            };
            let row = JournalRow { seq: 0, at: at(1), event: String::new() };
            store.append(&plan.incident, &[row], &implied).unwrap();
        }
        drop(store);
        let store = Store::open(&path).unwrap();
        let ended = |outcome: &str, reason: &str, dry_run, count| EndedSoFar {
            outcome: outcome.into(),
            reason: reason.into(),
            dry_run,
            count,
        };
        let expected = [
            ended("completed", "not_helped", false, 2),
            ended("completed", "not_helped", true, 1),
            ended("stuck", "unhealthy", false, 1),
        ];
        assert_eq!(store.ended_so_far().unwrap(), expected);
        let slots = [("another".into(), 1), ("rpc-order".into(), 4)];
        assert_eq!(store.slots_noted().unwrap(), slots.into());
    }

    #[test]
    fn what_waits_is_counted_by_destination_also_where_the_disk_is_full() {
        let store = Store::open(Path::new(":memory:")).unwrap();
        let message = |second| Message::new(EventKind::Stuck, "bj1-03", at(second), "");
        let to = |name: &str| Audience::of(vec![(name.into(), vec![EventKind::Stuck])]);
        store.tell(&to("slack"), &[message(20), message(10)]);
        store.tell(&to("generic"), &[message(30)]);
        let in_memory = store.addressed(&to("generic"), &[message(5)]);
        store.spill(in_memory, false);
        let waits = |count, second| Undelivered { count, oldest: at(second) };
        let expected = [("generic".into(), waits(2, 5)), ("slack".into(), waits(2, 10))];
        assert_eq!(store.undelivered_by_destination().unwrap(), expected.into());
    }
}
