//! Since when each policy is known here, and in its present mode: what `unwait review` knows from, and when a dry run has
//! lasted for so long that people are told of it, once.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::{Audience, Recorded, Store, StoreError, outbox, time};
use crate::model::{Message, Mode};

/// One policy of the configuration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRun {
    pub policy: String,
    /// Breaches are written since then.
    pub known: Timestamp,
    pub mode: Recorded<Mode>,
    /// In this mode.
    pub since: Timestamp,
}

const COLUMNS: &str = "policy, known, mode, since";

impl Store {
    /// These policies are in force, in these modes; others are no more.
    pub fn note_policies(&self, policies: &[(&str, Mode)], now: Timestamp) -> Result<(), StoreError> {
        let before = self.policy_runs()?;
        let is_known = |(policy, mode): &(&str, Mode)| {
            before.iter().any(|run| run.policy == *policy && run.mode == Recorded::Known(*mode))
        };
        if before.len() == policies.len() && policies.iter().all(is_known) {
            return Ok(());
        }
        self.note(|transaction| {
            for run in before.iter().filter(|run| !policies.iter().any(|(policy, _)| run.policy == *policy)) {
                transaction.execute("DELETE FROM policy_run WHERE policy = ?1", [&run.policy])?;
            }
            for (policy, mode) in policies {
                transaction.execute(
                    "INSERT INTO policy_run(policy, known, mode, since, since_line) VALUES (?1, ?2, ?3, ?2, ?4)
                     ON CONFLICT DO UPDATE SET mode = ?3, since = ?2, since_line = ?4, told = NULL WHERE mode <> ?3",
                    params![policy, now.as_millisecond(), mode.to_string(), self.line.at(now)],
                )?;
            }
            Ok(())
        })
    }

    pub fn policy_runs(&self) -> Result<Vec<PolicyRun>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM policy_run ORDER BY policy"))?
                .query_map([], run_row)?
                .collect()
        })
    }

    /// The policies that have run dry for so long, and of which nobody was told.
    pub fn due_dry_runs(&self, now: Timestamp, after: Duration) -> Result<Vec<PolicyRun>, StoreError> {
        let before = self.line.at(now).saturating_sub(i64::try_from(after.as_millis()).unwrap_or(i64::MAX));
        let dry = Mode::DryRun.to_string();
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM policy_run WHERE mode = ?1 AND told IS NULL AND since_line <= ?2 ORDER BY policy"
                ))?
                .query_map(params![dry, before], run_row)?
                .collect()
        })
    }

    /// Notes that people are told, with the message that does it. False where they were before.
    pub fn tell_of_dry_run(
        &self,
        run: &PolicyRun,
        now: Timestamp,
        audience: &Audience,
        message: &Message,
    ) -> Result<bool, StoreError> {
        let outgoing = self.addressed(audience, std::slice::from_ref(message));
        self.write(|transaction| {
            let sql = "UPDATE policy_run SET told = ?2 WHERE policy = ?1 AND since = ?3 AND told IS NULL";
            let at = now.as_millisecond();
            let first = transaction.execute(sql, params![run.policy, at, run.since.as_millisecond()])? > 0;
            if first {
                outbox::insert(transaction, &outgoing, &self.line)?;
            }
            Ok(first)
        })
    }
}

fn run_row(row: &Row<'_>) -> rusqlite::Result<PolicyRun> {
    Ok(PolicyRun { policy: row.get(0)?, known: time(row.get(1)?), mode: row.get(2)?, since: time(row.get(3)?) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::EventKind;

    const FORTNIGHT: Duration = Duration::from_secs(14 * 86_400);

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * 3_600).unwrap()
    }

    #[test]
    fn a_dry_run_counts_from_the_last_change_of_its_mode_and_is_told_once() {
        let store = Store::open(Path::new(":memory:")).unwrap();
        let due = |hours| -> Vec<String> {
            store.due_dry_runs(at(hours), FORTNIGHT).unwrap().into_iter().map(|run| run.policy).collect()
        };
        store.note_policies(&[("a", Mode::DryRun), ("b", Mode::Auto), ("c", Mode::DryRun)], at(0)).unwrap();
        // A restart of the agent, and another policy gone.
        store.note_policies(&[("a", Mode::DryRun), ("b", Mode::Auto)], at(100)).unwrap();
        store.note_policies(&[("a", Mode::DryRun), ("b", Mode::DryRun)], at(200)).unwrap();
        assert_eq!(due(335), [] as [&str; 0]);
        assert_eq!(due(336), ["a"]);
        let [a, b] = store.policy_runs().unwrap().try_into().unwrap();
        assert_eq!((b.known, b.since), (at(0), at(200)));

        let audience = Audience::of(vec![("chat".into(), vec![EventKind::Review])]);
        let message = Message::new(EventKind::Review, "bj1-03", at(336), "");
        assert!(store.tell_of_dry_run(&a, at(336), &audience, &message).unwrap());
        assert!(!store.tell_of_dry_run(&a, at(337), &audience, &message).unwrap());
        assert_eq!(store.undelivered(9).unwrap().len(), 1);
        assert_eq!(due(536), ["b"]);

        // Another mode and back: it counts anew.
        store.note_policies(&[("a", Mode::Observe)], at(600)).unwrap();
        store.note_policies(&[("a", Mode::DryRun)], at(601)).unwrap();
        assert_eq!(due(936), [] as [&str; 0]);
        assert_eq!(due(937), ["a"]);
    }
}
