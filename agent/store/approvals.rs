//! Approvals: plans that wait for a person's word. Each is bound to one plan by its hash, expires, and is used once.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::{Audience, Store, StoreError, outbox, time};
use crate::model::{Message, Plan, ServiceName};

/// `state`: pending, approved, denied, used, or replaced by a later one.
pub(super) const MIGRATION: &str = "
CREATE TABLE approval (
    id       TEXT PRIMARY KEY,
    policy   TEXT NOT NULL,
    service  TEXT NOT NULL,
    runbook  TEXT NOT NULL,
    hash     TEXT NOT NULL,
    created  INTEGER NOT NULL,
    expires  INTEGER NOT NULL,
    state    TEXT NOT NULL DEFAULT 'pending',
    who      TEXT,
    why      TEXT,
    decided  INTEGER,
    incident TEXT
) STRICT;
CREATE INDEX approval_by_plan ON approval(policy, service, created);
";

/// What of the plan was asked about, as JSON; none of an earlier agent's.
pub(super) const PLAN: &str = "ALTER TABLE approval ADD COLUMN plan TEXT;";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, strum::Display, strum::EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ApprovalState {
    Pending,
    Approved,
    Denied,
    /// An incident has begun on it.
    Used,
    /// The plan was not the same any more, and another approval was asked for; or no policy asks any more.
    Replaced,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Approval {
    pub id: String,
    pub policy: String,
    pub service: String,
    pub runbook: String,
    /// [`Plan::hash`] of the plan that was asked about.
    pub hash: String,
    pub created: Timestamp,
    /// From here on it neither can be decided nor counts.
    pub expires: Timestamp,
    pub state: ApprovalState,
    pub who: Option<String>,
    pub why: Option<String>,
    pub decided: Option<Timestamp>,
}

/// A person's word on an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word<'a> {
    pub approved: bool,
    /// The first digits of the hash of the plan that the person has read; a denial needs none.
    pub hash: Option<&'a str>,
    pub who: &'a str,
    pub why: Option<&'a str>,
    pub at: Timestamp,
}

/// What came of a person's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    Yes(Approval),
    /// It was decided, used or replaced before, or has expired.
    TooLate(Approval),
    /// The person does not say which plan they have read, or has read another.
    PlanNotNamed(Approval),
    Unknown,
}

/// Digits of a hash that name a plan.
const HASH_DIGITS: usize = 8;

const COLUMNS: &str = "id, policy, service, runbook, hash, created, expires_line, state, who, why, decided_line";

impl Store {
    /// The newest approval of the policy on the service that was not replaced, whatever became of it; when it expires
    /// and was decided by the wall clock that says `now`.
    pub fn approval(
        &self,
        policy: &str,
        service: &ServiceName,
        now: Timestamp,
    ) -> Result<Option<Approval>, StoreError> {
        self.read(|connection| {
            connection
                .query_row(
                    &format!(
                        "SELECT {COLUMNS} FROM approval WHERE policy = ?1 AND service = ?2 AND state <> 'replaced'
                         ORDER BY rowid DESC LIMIT 1"
                    ),
                    params![policy, service.as_str()],
                    |row| self.approval_row(row, now),
                )
                .optional()
        })
    }

    /// Those that wait for a person, or are approved and not used yet, at `now`; oldest first.
    pub fn open_approvals(&self, now: Timestamp) -> Result<Vec<Approval>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM approval WHERE state IN ('pending', 'approved') AND expires_line > ?1
                     ORDER BY rowid"
                ))?
                .query_map([self.line.at(now)], |row| self.approval_row(row, now))?
                .collect()
        })
    }

    /// What of the plan an approval was asked about.
    pub fn asked_plan(&self, id: &str) -> Result<Option<serde_json::Value>, StoreError> {
        let text: Option<String> = self.read(|connection| {
            connection
                .query_row("SELECT plan FROM approval WHERE id = ?1", [id], |row| row.get(0))
                .optional()
                .map(Option::flatten)
        })?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Asks for an approval of what [matters](Plan::matters) of a plan, with the message that tells of it. False: the same
    /// plan is being asked about already. Earlier approvals of the same policy and service that are still open are
    /// replaced; those that ended long ago are forgotten.
    pub fn ask_approval(
        &self,
        ask: &Approval,
        matters: &serde_json::Value,
        audience: &Audience,
        message: &Message,
    ) -> Result<bool, StoreError> {
        const KEPT_FOR: i64 = 30 * 86_400 * 1_000; // ms
        let outgoing = self.addressed(audience, std::slice::from_ref(message));
        let (created, expires) = (ask.created.as_millisecond(), ask.expires.as_millisecond());
        self.write(|transaction| {
            let at = self.line.at(ask.created);
            let same = transaction.query_row(
                "SELECT count(*) FROM approval WHERE policy = ?1 AND service = ?2 AND hash = ?3 AND expires_line > ?4
                     AND state IN ('pending', 'approved')",
                params![ask.policy, ask.service, ask.hash, at],
                |row| row.get::<_, i64>(0),
            )?;
            if same > 0 {
                return Ok(false);
            }
            transaction.execute("DELETE FROM approval WHERE expires_line < ?1", [at - KEPT_FOR])?;
            transaction.execute(
                "UPDATE approval SET state = 'replaced'
                 WHERE policy = ?1 AND service = ?2 AND state IN ('pending', 'approved')",
                params![ask.policy, ask.service],
            )?;
            transaction.execute(
                "INSERT INTO approval(id, policy, service, runbook, hash, created, expires, expires_line, plan)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    ask.id,
                    ask.policy,
                    ask.service,
                    ask.runbook,
                    ask.hash,
                    created,
                    expires,
                    at.saturating_add(expires - created),
                    matters.to_string()
                ],
            )?;
            outbox::insert(transaction, &outgoing, &self.line)?;
            Ok(true)
        })
    }

    /// Ends one that is open, and that nobody asks for any more.
    pub fn withdraw_approval(&self, id: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            let sql = "UPDATE approval SET state = 'replaced' WHERE id = ?1 AND state IN ('pending', 'approved')";
            transaction.execute(sql, [id]).map(drop)
        })
    }

    /// Notes a person's word, where it still can be given: what is approved and not used yet may still be denied.
    pub fn decide_approval(&self, id: &str, word: &Word<'_>) -> Result<Decided, StoreError> {
        self.write(|transaction| {
            let select = format!("SELECT {COLUMNS} FROM approval WHERE id = ?1");
            let find = || transaction.query_row(&select, [id], |row| self.approval_row(row, word.at)).optional();
            let Some(asked) = find()? else { return Ok(Decided::Unknown) };
            let names_it = |hash: &str| hash.len() >= HASH_DIGITS && asked.hash.starts_with(&hash.to_lowercase());
            let waits = asked.state == ApprovalState::Pending && word.at < asked.expires;
            if word.approved && waits && !word.hash.is_some_and(names_it) {
                return Ok(Decided::PlanNotNamed(asked));
            }
            let state = if word.approved { ApprovalState::Approved } else { ApprovalState::Denied };
            let (at, line) = (word.at.as_millisecond(), self.line.at(word.at));
            let decided = transaction.execute(
                "UPDATE approval SET state = ?2, who = ?3, why = ?4, decided = ?5, decided_line = ?7
                 WHERE id = ?1 AND (state = 'pending' OR state = 'approved' AND NOT ?6) AND expires_line > ?7",
                params![id, state.to_string(), word.who, word.why, at, word.approved, line],
            )?;
            let approval = find()?.unwrap_or(asked);
            Ok(if decided > 0 { Decided::Yes(approval) } else { Decided::TooLate(approval) })
        })
    }

    fn approval_row(&self, row: &Row<'_>, now: Timestamp) -> rusqlite::Result<Approval> {
        Ok(Approval {
            id: row.get(0)?,
            policy: row.get(1)?,
            service: row.get(2)?,
            runbook: row.get(3)?,
            hash: row.get(4)?,
            created: time(row.get(5)?),
            expires: self.line.as_seen(now, row.get(6)?),
            // A state that nobody wrote lets nothing begin.
            state: row.get::<_, String>(7)?.parse().unwrap_or(ApprovalState::Replaced),
            who: row.get(8)?,
            why: row.get(9)?,
            decided: row.get::<_, Option<i64>>(10)?.map(|at| self.line.as_seen(now, at)),
        })
    }
}

/// The incident that begins uses up the approval of its plan, in the transaction of its beginning.
pub(super) fn use_up(transaction: &Connection, plan: &Plan) -> rusqlite::Result<()> {
    if plan.dry_run {
        return Ok(());
    }
    transaction
        .execute(
            "UPDATE approval SET state = 'used', incident = ?1
             WHERE state = 'approved' AND policy = ?2 AND service = ?3 AND hash = ?4",
            params![plan.incident.0, plan.policy, plan.target.service.as_str(), plan.hash()],
        )
        .map(drop)
}
