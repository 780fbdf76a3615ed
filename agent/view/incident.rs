//! One incident, and a list of them: the plan, what its journal says of each step, and how it ended.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::execute::saga::Event;
use crate::execute::tell;
use crate::model::{IncidentId, Outcome, Plan};
use crate::store::{AuditRow, IncidentRow, JournalRow, Store, StoreError};

/// An incident whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentShown {
    pub incident: IncidentRow,
    pub plan: Plan,
    pub journal: Vec<EventShown>,
    /// What people did about it; and about its service and the whole host from a day before until its end.
    #[serde(default)]
    pub audit: Vec<AuditRow>,
}

/// What people did before an incident is shown with it: a silence that ended, an approval.
const BEFORE: Duration = Duration::from_secs(86_400);

/// One event of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventShown {
    pub at: Timestamp,
    /// `null` where another version wrote it in a way that this one cannot read.
    pub event: Value,
}

/// A step, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepShown {
    pub at: Timestamp,
    pub step: String,
    /// `done`, `failed`, `undone`, …; in a dry run what it would be.
    pub outcome: String,
    pub detail: String,
}

/// The same, its journal by steps alone: an event may hold tens of thousands of sockets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToldIncident {
    pub incident: IncidentRow,
    pub plan: Plan,
    pub steps: Vec<StepShown>,
    pub audit: Vec<AuditRow>,
}

impl From<IncidentShown> for ToldIncident {
    fn from(shown: IncidentShown) -> Self {
        let steps = shown.steps();
        let IncidentShown { incident, plan, audit, .. } = shown;
        Self { incident, plan, steps, audit }
    }
}

/// A part of the list of incidents, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentsShown {
    pub incidents: Vec<IncidentRow>,
    /// The last of these, where there are older ones: they begin `before` it.
    pub older: Option<String>,
}

impl IncidentShown {
    /// `None` where the store knows no such incident.
    pub fn of(store: &Store, id: &IncidentId) -> Result<Option<Self>, StoreError> {
        let (Some(incident), Some(plan)) = (store.incident(id)?, store.plan(id)?) else { return Ok(None) };
        let event =
            |row: JournalRow| EventShown { at: row.at, event: serde_json::from_str(&row.event).unwrap_or_default() };
        let journal = store.journal(id)?.into_iter().map(event).collect();
        let from = incident.began.saturating_sub(BEFORE).unwrap_or(Timestamp::MIN);
        let audit = store.audit_of(id, &incident.service, from, incident.ended.unwrap_or(Timestamp::MAX))?;
        Ok(Some(Self { incident, plan, journal, audit }))
    }

    /// The steps that were taken, in their order.
    pub fn steps(&self) -> Vec<StepShown> {
        let step = |shown: &EventShown| {
            let event: Event = serde_json::from_value(shown.event.clone()).ok()?;
            let (step, outcome, detail) = tell::step_of(&self.plan, &event)?;
            let outcome = tell::went(step, outcome, self.plan.dry_run);
            Some(StepShown { at: shown.at, step: step.into(), outcome, detail: detail.into() })
        };
        self.journal.iter().filter_map(step).collect()
    }
}

/// How an incident ended, in words for a list: the outcome, and the reason where there is one to give.
pub fn outcome_of(row: &IncidentRow) -> (String, String) {
    let reason = row.reason.as_ref().map(ToString::to_string).unwrap_or_default();
    match (&row.outcome, row.dry_run) {
        (None, _) => ("under way".into(), reason),
        // What would come of steps that were not taken is not known.
        (Some(outcome), true) if outcome.is(Outcome::Completed) => ("every step would be taken".into(), String::new()),
        (Some(outcome), true) => (format!("would end {outcome}"), reason),
        (Some(outcome), false) => (outcome.to_string(), reason),
    }
}
