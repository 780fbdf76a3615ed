//! Incidents and their journals.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::{Audience, OrphanedDrain, Recorded, Store, StoreError, approvals, outbox, time};
use crate::model::incident::Ending;
use crate::model::{Blame, IncidentId, Message, Outcome, Plan, Reason, ServiceName};

/// An incident that has not ended, with its journal in order.
#[derive(Clone, Debug)]
pub struct OpenIncident {
    pub plan: Plan,
    pub journal: Vec<JournalRow>,
    /// What it has been waiting for since its last event, where people were told of that.
    pub waits_for: Option<String>,
}

/// An incident that has not ended, for people: its journal may hold tens of thousands of sockets, and is not read.
#[derive(Clone, Debug, PartialEq)]
pub struct UnderWay {
    pub plan: Plan,
    /// The step's name, or what else the saga is at; as its last event left it.
    pub step: String,
    /// As in [`OpenIncident`].
    pub waits_for: Option<String>,
}

/// The step under way, in words; `recovering` until the first event of an incident that a version without this column began.
pub(super) const MIGRATION: &str = "
ALTER TABLE incident ADD COLUMN step TEXT;
UPDATE incident SET step = 'recovering' WHERE ended IS NULL;
";

/// Who closed, and who holds, as the evidence had it.
pub(super) const BLAME: &str = "ALTER TABLE incident ADD COLUMN blame TEXT;";

/// When the newest incidents of a service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastEnded {
    /// It was carried out to its end, or changed something before it was given up.
    pub with_effect: Option<Timestamp>,
    /// It ended before it changed anything.
    pub without: Option<Timestamp>,
}

/// One event of a saga, as text; `execute::journal` knows its shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JournalRow {
    pub seq: u32,
    pub at: Timestamp,
    pub event: String,
}

/// An incident as `history` and `show` tell it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentRow {
    pub incident: String,
    pub service: String,
    pub policy: String,
    pub dry_run: bool,
    /// Who asked for it by `unwait act`; nobody where a policy did.
    pub by_hand: Option<String>,
    pub began: Timestamp,
    pub ended: Option<Timestamp>,
    /// Something on the host or in a registry was changed, or may have been.
    pub changed: bool,
    pub outcome: Option<Recorded<Outcome>>,
    pub reason: Option<Recorded<Reason>>,
    /// Of one that has not ended: the step under way.
    #[serde(default)]
    pub step: Option<String>,
    /// Of one that has not ended: what is in its way, where people were told of that.
    pub detail: Option<String>,
    pub evidence: Option<PathBuf>,
}

const COLUMNS: &str = "id, service, policy, dry_run, began, ended, changed, outcome, reason, detail, evidence, \
                       json_extract(plan, '$.trigger.person.who'), step";

impl Store {
    /// Commits a new incident with its plan and the messages that tell of it; an approval of the plan is used up.
    pub fn begin_incident(
        &self,
        plan: &Plan,
        now: Timestamp,
        audience: &Audience,
        messages: &[Message],
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(plan).expect("a plan is plain data");
        let outgoing = self.addressed(audience, messages);
        self.write_for_certain(|transaction| {
            transaction.execute(
                "INSERT INTO incident(id, service, policy, dry_run, plan, began, began_line, step)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    plan.incident.0,
                    plan.target.service.as_str(),
                    plan.policy,
                    plan.dry_run,
                    text,
                    now.as_millisecond(),
                    self.line.at(now),
                    plan.steps.first().map(|first| first.step.name())
                ],
            )?;
            approvals::use_up(transaction, plan)?;
            outbox::insert(transaction, &outgoing, &self.line)
        })
    }

    /// Commits the saga's events from `first.seq` on; with them what they imply for the incident's row, the latch, and
    /// the messages that tell of them. Repeating an event that is already there is harmless.
    pub fn append(&self, incident: &IncidentId, rows: &[JournalRow], implied: &Implied<'_>) -> Result<(), StoreError> {
        let outgoing = self.addressed(implied.audience, implied.messages);
        let at = rows.last().map_or(Timestamp::UNIX_EPOCH, |row| row.at);
        self.write(|transaction| {
            for row in rows {
                transaction.execute(
                    "INSERT OR IGNORE INTO journal(incident, seq, at, event) VALUES (?1, ?2, ?3, ?4)",
                    params![incident.0, row.seq, row.at.as_millisecond(), row.event],
                )?;
            }
            transaction.execute(
                "UPDATE incident SET detail = NULL, step = ?2
                 WHERE id = ?1 AND ended IS NULL AND (detail IS NOT NULL OR step IS NOT ?2)",
                params![incident.0, implied.step],
            )?;
            if implied.changed {
                transaction.execute("UPDATE incident SET changed = 1 WHERE id = ?1", [&incident.0])?;
            }
            if let Some(ending) = implied.ending {
                transaction.execute(
                    "UPDATE incident SET ended = ?2, ended_line = ?3, outcome = ?4, reason = ?5, detail = ?6, step = NULL
                     WHERE id = ?1",
                    params![
                        incident.0,
                        at.as_millisecond(),
                        self.line.at(at),
                        ending.outcome.to_string(),
                        ending.reason.as_str(),
                        ending.detail
                    ],
                )?;
            }
            if let Some((service, ending)) = implied.latch {
                insert_latch(transaction, service, &incident.0, ending, at, self.line.at(at), None)?;
            }
            outbox::insert(transaction, &outgoing, &self.line)
        })
    }

    /// Latches a service outside a saga: a drain of ours was found that no incident knows of.
    pub fn latch_orphan(
        &self,
        service: &ServiceName,
        orphan: &OrphanedDrain,
        ending: &Ending,
        now: Timestamp,
        audience: &Audience,
        message: &Message,
    ) -> Result<(), StoreError> {
        let outgoing = self.addressed(audience, std::slice::from_ref(message));
        let incident = &orphan.marker.incident.0;
        self.write(|transaction| {
            insert_latch(transaction, service, incident, ending, now, self.line.at(now), Some(orphan))?;
            outbox::insert(transaction, &outgoing, &self.line)
        })
    }

    /// Where the evidence of an incident lies, and whom it names.
    pub fn set_evidence(&self, incident: &IncidentId, dir: &Path, blame: &Blame) -> Result<(), StoreError> {
        let blame = serde_json::to_string(blame).expect("it is plain data");
        self.write(|transaction| {
            transaction
                .execute(
                    "UPDATE incident SET evidence = ?2, blame = ?3 WHERE id = ?1",
                    params![incident.0, dir.to_string_lossy(), blame],
                )
                .map(drop)
        })
    }

    /// Whom the evidence of an incident names; nobody where none was kept, or another version wrote it otherwise.
    pub fn blame(&self, incident: &IncidentId) -> Result<Blame, StoreError> {
        let text: Option<String> = self.read(|connection| {
            connection
                .prepare_cached("SELECT blame FROM incident WHERE id = ?1")?
                .query_row([&incident.0], |row| row.get(0))
                .optional()
                .map(Option::flatten)
        })?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    /// Notes what keeps an incident from going on; its next event takes that back.
    pub fn set_waits_for(&self, incident: &IncidentId, what: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction
                .execute("UPDATE incident SET detail = ?2 WHERE id = ?1 AND ended IS NULL", params![incident.0, what])
                .map(drop)
        })
    }

    /// Incidents that have not ended, oldest first: what recovery begins with.
    pub fn open_incidents(&self) -> Result<Vec<OpenIncident>, StoreError> {
        let with_journal = |open: UnderWay| {
            let UnderWay { plan, waits_for, .. } = open;
            Ok(OpenIncident { journal: self.journal(&plan.incident)?, plan, waits_for })
        };
        self.under_way()?.into_iter().map(with_journal).collect()
    }

    /// The plans of the incidents that have not ended, oldest first.
    pub fn open_plans(&self) -> Result<Vec<Plan>, StoreError> {
        Ok(self.under_way()?.into_iter().map(|open| open.plan).collect())
    }

    /// The incidents that have not ended, oldest first, with what each is at.
    pub fn under_way(&self) -> Result<Vec<UnderWay>, StoreError> {
        let rows: Vec<(String, String, String, Option<String>)> = self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT id, plan, coalesce(step, ''), detail FROM incident WHERE ended IS NULL ORDER BY began, id",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
                .collect()
        })?;
        let read = |(id, plan, step, waits_for): (String, String, String, Option<String>)| {
            let plan = serde_json::from_str(&plan)
                .map_err(|error| self.corrupt(format!("the plan of incident {id}"), error))?;
            Ok(UnderWay { plan, step, waits_for })
        };
        rows.into_iter().map(read).collect()
    }

    pub fn journal(&self, incident: &IncidentId) -> Result<Vec<JournalRow>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT seq, at, event FROM journal WHERE incident = ?1 ORDER BY seq")?
                .query_map([&incident.0], |row| {
                    Ok(JournalRow { seq: row.get(0)?, at: time(row.get(1)?), event: row.get(2)? })
                })?
                .collect()
        })
    }

    /// The plan of an incident, ended or not.
    pub fn plan(&self, incident: &IncidentId) -> Result<Option<Plan>, StoreError> {
        let text: Option<String> = self.read(|connection| {
            connection.query_row("SELECT plan FROM incident WHERE id = ?1", [&incident.0], |row| row.get(0)).optional()
        })?;
        text.map(|text| {
            serde_json::from_str(&text).map_err(|e| self.corrupt(format!("the plan of incident {incident}"), e))
        })
        .transpose()
    }

    pub fn incident(&self, incident: &IncidentId) -> Result<Option<IncidentRow>, StoreError> {
        self.read(|connection| {
            connection
                .query_row(&format!("SELECT {COLUMNS} FROM incident WHERE id = ?1"), [&incident.0], incident_row)
                .optional()
        })
    }

    /// Newest first.
    pub fn history(&self, service: Option<&ServiceName>, at_most: usize) -> Result<Vec<IncidentRow>, StoreError> {
        self.history_before(None, service, at_most)
    }

    /// The same of those that began before this incident; none where it is not known.
    pub fn history_before(
        &self,
        before: Option<&IncidentId>,
        service: Option<&ServiceName>,
        at_most: usize,
    ) -> Result<Vec<IncidentRow>, StoreError> {
        let before = before.map(|before| before.0.as_str());
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM incident WHERE (?1 IS NULL OR service = ?1)
                     AND (?2 IS NULL OR (began, id) < (SELECT began, id FROM incident WHERE id = ?2))
                     ORDER BY began DESC, id DESC LIMIT ?3"
                ))?
                .query_map(params![service.map(ServiceName::as_str), before, at_most as i64], incident_row)?
                .collect()
        })
    }

    /// Those that began at `from` or later, of one policy or of all; oldest first.
    pub fn incidents_since(&self, policy: Option<&str>, from: Timestamp) -> Result<Vec<IncidentRow>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM incident WHERE began >= ?1 AND (?2 IS NULL OR policy = ?2) ORDER BY began, id"
                ))?
                .query_map(params![from.as_millisecond(), policy], incident_row)?
                .collect()
        })
    }

    /// When the service's newest incidents ended, by a wall clock that says `now`. Dry-run keeps an account of its own.
    pub fn last_ended(&self, service: &ServiceName, dry_run: bool, now: Timestamp) -> Result<LastEnded, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT max(ended_line) FILTER (WHERE changed = 1 OR outcome = 'completed'),
                            max(ended_line) FILTER (WHERE changed = 0 AND outcome <> 'completed')
                     FROM incident WHERE service = ?1 AND dry_run = ?2",
                )?
                .query_row(params![service.as_str(), dry_run], |row| {
                    let seen = |at| self.line.as_seen(now, at);
                    let at = |column| row.get::<_, Option<i64>>(column).map(|at| at.map(seen));
                    Ok(LastEnded { with_effect: at(0)?, without: at(1)? })
                })
        })
    }

    /// When the incidents began that changed something within `per` before `now`, by a wall clock that says so; oldest
    /// first, of one service, or of all. `asker` does not count against itself.
    pub fn changes_since(
        &self,
        service: Option<&ServiceName>,
        dry_run: bool,
        now: Timestamp,
        per: Duration,
        asker: &IncidentId,
    ) -> Result<Vec<Timestamp>, StoreError> {
        let since = self.line.at(now).saturating_sub(i64::try_from(per.as_millis()).unwrap_or(i64::MAX));
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT began_line FROM incident WHERE changed = 1 AND dry_run = ?1 AND began_line > ?2
                     AND (?3 IS NULL OR service = ?3) AND id <> ?4 ORDER BY began_line",
                )?
                .query_map(params![dry_run, since, service.map(ServiceName::as_str), asker.0], |row| {
                    Ok(self.line.as_seen(now, row.get(0)?))
                })?
                .collect()
        })
    }
}

/// What a saga's events mean for the rest of the store; written in their transaction.
#[derive(Debug)]
pub struct Implied<'a> {
    /// What the saga is at from here on.
    pub step: &'a str,
    /// From here on the incident counts against cooldowns and budgets.
    pub changed: bool,
    pub ending: Option<&'a Ending>,
    pub latch: Option<(&'a ServiceName, &'a Ending)>,
    pub audience: &'a Audience,
    pub messages: &'a [Message],
}

/// A latch that stands already is not displaced: its incident still waits for a person, and holds its slot.
fn insert_latch(
    transaction: &Connection,
    service: &ServiceName,
    incident: &str,
    ending: &Ending,
    since: Timestamp,
    line: i64,
    orphan: Option<&OrphanedDrain>,
) -> rusqlite::Result<()> {
    transaction
        .execute(
            "INSERT OR IGNORE INTO latch(service, incident, reason, detail, since, told_line,
                                         orphan_registry, orphan_id, orphan_marker)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                service.as_str(),
                incident,
                ending.reason.as_str(),
                ending.detail,
                since.as_millisecond(),
                line,
                orphan.map(|orphan| &orphan.registry),
                orphan.map(|orphan| &orphan.id),
                orphan.map(|orphan| orphan.marker.to_string()),
            ],
        )
        .map(drop)
}

fn incident_row(row: &Row<'_>) -> rusqlite::Result<IncidentRow> {
    Ok(IncidentRow {
        incident: row.get(0)?,
        service: row.get(1)?,
        policy: row.get(2)?,
        dry_run: row.get(3)?,
        began: time(row.get(4)?),
        ended: row.get::<_, Option<i64>>(5)?.map(time),
        changed: row.get(6)?,
        outcome: row.get(7)?,
        reason: row.get(8)?,
        detail: row.get(9)?,
        evidence: row.get::<_, Option<String>>(10)?.map(PathBuf::from),
        by_hand: row.get(11)?,
        step: row.get(12)?,
    })
}
