//! What earlier actions came to, and the breakers: policies that went back to dry-run for a service by themselves.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::{Audience, AuditRow, OrderVerb, Person, Store, StoreError, audit, outbox, time};
use crate::model::{Message, Reason, ServiceName};

/// A row with `since` is a breaker that is open; `rearmed`, a point of the line, outlives it, so that what was counted
/// before is not again.
pub(super) const MIGRATION: &str = "
CREATE TABLE breaker (
    policy   TEXT NOT NULL,
    service  TEXT NOT NULL,
    runbook  TEXT NOT NULL,
    incident TEXT NOT NULL,
    since    INTEGER,
    rearmed  INTEGER,
    PRIMARY KEY (policy, service)
) STRICT;
";

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Helped,
    NotHelped,
    /// Whether it helped could not be seen.
    Unverified,
}

/// A real incident that was carried out to its end, or whose drain clients did not follow, or whose workers did not end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub incident: String,
    pub runbook: String,
    pub verdict: Verdict,
    /// Clients did not follow the drain, or workers did not end: it is no use, or does harm, to try that again before a
    /// person has looked.
    pub until_rearmed: bool,
    pub ended: Timestamp,
}

/// The policy only says what it would do for the service, until a person re-arms it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Breaker {
    pub policy: String,
    pub service: String,
    /// What did not help, or of which nobody could see whether it did.
    pub runbook: String,
    /// The last time.
    pub incident: String,
    pub since: Timestamp,
}

const COLUMNS: &str = "policy, service, runbook, incident, since";

impl Store {
    /// What the policy's actions on the service came to within `memory` before `now`, and since it was last re-armed;
    /// oldest first. Dry-run tried nothing.
    pub fn attempts(
        &self,
        policy: &str,
        service: &ServiceName,
        now: Timestamp,
        memory: Duration,
    ) -> Result<Vec<Attempt>, StoreError> {
        let since = self.line.at(now).saturating_sub(i64::try_from(memory.as_millis()).unwrap_or(i64::MAX));
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT id, json_extract(plan, '$.runbook'), reason, reason IN (?4, ?5), ended_line FROM incident
                     WHERE policy = ?1 AND service = ?2 AND dry_run = 0 AND changed = 1
                       AND (outcome = 'completed' OR reason IN (?4, ?5))
                       AND ended_line > max(?3, coalesce((SELECT rearmed FROM breaker
                                                     WHERE breaker.policy = ?1 AND breaker.service = ?2), ?3))
                     ORDER BY ended_line, id",
                )?
                .query_map(
                    params![
                        policy,
                        service.as_str(),
                        since,
                        Reason::DrainIneffective.as_str(),
                        Reason::RecycleFailed.as_str()
                    ],
                    |row| {
                        let until_rearmed: bool = row.get(3)?;
                        Ok(Attempt {
                            incident: row.get(0)?,
                            runbook: row.get(1)?,
                            verdict: match row.get_ref(2)?.as_str()? {
                                _ if until_rearmed => Verdict::NotHelped,
                                reason if reason == Reason::NotHelped.as_str() => Verdict::NotHelped,
                                reason if reason == Reason::Unverified.as_str() => Verdict::Unverified,
                                _ => Verdict::Helped,
                            },
                            until_rearmed,
                            ended: self.line.as_seen(now, row.get(4)?),
                        })
                    },
                )?
                .collect()
        })
    }

    pub fn breaker(&self, policy: &str, service: &ServiceName) -> Result<Option<Breaker>, StoreError> {
        self.read(|connection| {
            connection
                .query_row(
                    &format!("SELECT {COLUMNS} FROM breaker WHERE policy = ?1 AND service = ?2 AND since IS NOT NULL"),
                    params![policy, service.as_str()],
                    breaker_row,
                )
                .optional()
        })
    }

    /// Those that are open, oldest first.
    pub fn breakers(&self) -> Result<Vec<Breaker>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM breaker WHERE since IS NOT NULL ORDER BY since"))?
                .query_map([], breaker_row)?
                .collect()
        })
    }

    /// Opens a breaker, with the message that tells of it; says whether it was closed before.
    pub fn open_breaker(&self, breaker: &Breaker, audience: &Audience, message: &Message) -> Result<bool, StoreError> {
        let outgoing = self.addressed(audience, std::slice::from_ref(message));
        self.write(|transaction| {
            let Breaker { policy, service, runbook, incident, since } = breaker;
            let opened = transaction.execute(
                "INSERT INTO breaker(policy, service, runbook, incident, since) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT(policy, service) DO UPDATE SET runbook = ?3, incident = ?4, since = ?5 WHERE since IS NULL",
                params![policy, service, runbook, incident, since.as_millisecond()],
            )?;
            if opened > 0 {
                outbox::insert(transaction, &outgoing, &self.line)?;
            }
            Ok(opened > 0)
        })
    }

    /// Closes a policy's breakers, of one service or of all; what was counted before `now` counts no more. Answers the
    /// services whose breaker was open.
    pub fn rearm(
        &self,
        policy: &str,
        service: Option<&ServiceName>,
        by: &Person,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        self.write(|transaction| {
            let rearmed: Vec<String> = transaction
                .prepare(
                    "UPDATE breaker SET since = NULL, rearmed = ?3
                     WHERE policy = ?1 AND (?2 IS NULL OR service = ?2) AND since IS NOT NULL RETURNING service",
                )?
                .query_map(params![policy, service.map(ServiceName::as_str), self.line.at(now)], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let row = AuditRow::new(OrderVerb::Rearm, by, now).of(service);
            let row = match rearmed.as_slice() {
                [] => row.answered(false, format!("no breaker of {policy} is open")),
                services => row.answered(true, format!("{policy} acts again on {}", services.join(", "))),
            };
            audit::insert(transaction, &row)?;
            Ok(rearmed)
        })
    }
}

fn breaker_row(row: &Row<'_>) -> rusqlite::Result<Breaker> {
    Ok(Breaker {
        policy: row.get(0)?,
        service: row.get(1)?,
        runbook: row.get(2)?,
        incident: row.get(3)?,
        since: time(row.get(4)?),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::execute::fakes::{self, Fault, Shape};
    use crate::model::incident::Ending;
    use crate::model::{EventKind, IncidentId, Outcome, Plan};
    use crate::store::{Implied, JournalRow};

    const POLICY: &str = "close-wait-leak";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn plan() -> Plan {
        let steps = fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing);
        Plan { policy: POLICY.into(), ..fakes::plan(steps) }
    }

    /// An incident that lasts for a second.
    fn incident(store: &Store, id: &str, second: i64, change: impl FnOnce(&mut Plan), ended: (Outcome, Reason, bool)) {
        let (outcome, reason, changed) = ended;
        let mut plan = Plan { incident: IncidentId(id.into()), ..plan() };
        change(&mut plan);
        let audience = Audience::default();
        store.begin_incident(&plan, at(second - 1), &audience, &[]).unwrap();
        let ending = Ending { outcome, reason, detail: String::new() };
        let implied = Implied {
            step: "restart",
            changed,
            ending: Some(&ending),
            latch: None,
            audience: &audience,
            messages: &[],
        };
        store.append(&plan.incident, &[JournalRow { seq: 0, at: at(second), event: String::new() }], &implied).unwrap();
    }

    fn message(second: i64) -> Message {
        Message { reason: Some(Reason::BreakerOpen), ..Message::new(EventKind::Stuck, "bj1-03", at(second), "") }
    }

    #[test]
    fn attempts_are_real_incidents_of_the_policy_on_the_service_that_came_to_their_end() {
        let store = Store::open(Path::new(":memory:")).unwrap();
        let service = plan().target.service;
        let not_helped = (Outcome::Completed, Reason::NotHelped, true);
        incident(&store, "old", 10, |_| {}, not_helped);
        incident(&store, "helped", 20, |_| {}, (Outcome::Completed, Reason::Recovered, true));
        incident(&store, "failed", 30, |plan| plan.runbook = "restart-in-place".into(), not_helped);
        incident(&store, "dry", 40, |plan| plan.dry_run = true, not_helped);
        incident(&store, "unwound", 50, |_| {}, (Outcome::Unwound, Reason::DrainFailed, true));
        incident(&store, "clients", 55, |_| {}, (Outcome::Unwound, Reason::DrainIneffective, true));
        incident(&store, "workers", 57, |_| {}, (Outcome::Stuck, Reason::RecycleFailed, true));
        incident(&store, "looked", 60, |_| {}, (Outcome::Completed, Reason::EvidenceKept, false));
        incident(&store, "another", 70, |plan| plan.policy = "another".into(), not_helped);
        let other = ServiceName::parse("other.service").unwrap();
        incident(&store, "elsewhere", 80, |plan| plan.target.service = other, not_helped);

        incident(&store, "unseen", 90, |_| {}, (Outcome::Completed, Reason::Unverified, true));

        let attempts = store.attempts(POLICY, &service, at(110), Duration::from_secs(100)).unwrap();
        let attempt = |incident: &str, runbook: &str, verdict, second| Attempt {
            incident: incident.into(),
            runbook: runbook.into(),
            verdict,
            until_rearmed: matches!(incident, "clients" | "workers"),
            ended: at(second),
        };
        let runbook = plan().runbook;
        let expected = [
            attempt("helped", &runbook, Verdict::Helped, 20),
            attempt("failed", "restart-in-place", Verdict::NotHelped, 30),
            attempt("clients", &runbook, Verdict::NotHelped, 55),
            attempt("workers", &runbook, Verdict::NotHelped, 57),
            attempt("unseen", &runbook, Verdict::Unverified, 90),
        ];
        assert_eq!(attempts, expected, "the old one is as old as the memory is long");
    }

    #[test]
    fn a_breaker_opens_once_is_told_once_and_counts_anew_when_it_is_rearmed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unwait.db");
        let store = Store::open(&path).unwrap();
        let service = plan().target.service;
        let audience = Audience::of(vec![("chat".into(), vec![EventKind::Stuck])]);
        incident(&store, "second", 10, |_| {}, (Outcome::Completed, Reason::NotHelped, true));
        let breaker = Breaker {
            policy: POLICY.into(),
            service: service.to_string(),
            runbook: "restart-in-place".into(),
            incident: "second".into(),
            since: at(11),
        };
        assert_eq!(store.breaker(POLICY, &service).unwrap(), None);
        assert!(store.open_breaker(&breaker, &audience, &message(11)).unwrap());
        assert!(!store.open_breaker(&Breaker { since: at(12), ..breaker.clone() }, &audience, &message(12)).unwrap());
        assert_eq!(store.undelivered(9).unwrap().len(), 1, "told once");

        // It outlives the agent.
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.breaker(POLICY, &service).unwrap(), Some(breaker.clone()));
        assert_eq!(store.breakers().unwrap(), std::slice::from_ref(&breaker));

        let other = ServiceName::parse("other.service").unwrap();
        assert!(store.rearm(POLICY, Some(&other), &Person::default(), at(20)).unwrap().is_empty());
        assert!(store.rearm("another", None, &Person::default(), at(20)).unwrap().is_empty());
        assert_eq!(store.rearm(POLICY, None, &Person::default(), at(20)).unwrap(), [service.as_str()]);
        assert!(store.rearm(POLICY, None, &Person::default(), at(21)).unwrap().is_empty());
        assert_eq!(store.breaker(POLICY, &service).unwrap(), None);
        let month = Duration::from_secs(30 * 86_400);
        assert!(store.attempts(POLICY, &service, at(30), month).unwrap().is_empty());
        incident(&store, "third", 25, |_| {}, (Outcome::Completed, Reason::NotHelped, true));
        assert_eq!(store.attempts(POLICY, &service, at(30), month).unwrap().len(), 1);
        assert!(store.open_breaker(&Breaker { since: at(31), ..breaker }, &audience, &message(31)).unwrap());
        assert_eq!(store.breakers().unwrap()[0].since, at(31));
    }
}
