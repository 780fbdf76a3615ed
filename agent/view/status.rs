//! One screen: is the agent running; what is paused, latched, under way, to be approved, undelivered.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{HeldMode, IncidentId, Reason, ServiceName, duration};
use crate::store::{Approval, Breaker, Latch, Pause, Silence, Store, StoreError, UnderWay, UnreturnedSlot};

/// What only the running agent knows of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentNow {
    pub pid: u32,
    pub version: String,
    /// The state directory cannot be written.
    pub observe_only: bool,
    /// Its disk hangs, and for how long, in words.
    #[serde(default)]
    pub disk_hangs: Option<String>,
    pub policies: usize,
    /// Policies that ask for more than `mode_at_most` allows.
    #[serde(default)]
    pub held_modes: BTreeMap<String, HeldMode>,
    #[serde(with = "duration::as_text")]
    pub interval: Duration,
    pub last_snapshot: Option<Timestamp>,
    /// Why the last look gave nothing that can be trusted.
    pub last_failure: Option<String>,
    /// At the last look, with those that were walked alone.
    #[serde(rename = "host.close_wait")]
    pub host_close_wait: Option<u64>,
    pub passed_over_at_most: Option<u64>,
    #[serde(with = "duration::as_text")]
    pub looks_every: Duration,
    pub cautions: Vec<String>,
    /// Sockets that no service owns, where a policy counts them.
    pub of_no_service: Option<String>,
    pub not_seen: Vec<String>,
    pub held: Vec<HeldNow>,
    /// The last reload, where it was rejected.
    #[serde(default)]
    pub rejected_configuration: Option<RejectedConfiguration>,
}

/// Files that a reload did not put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedConfiguration {
    pub at: Timestamp,
    /// In a line.
    pub why: String,
    /// Of the configuration that the agent goes on with.
    pub in_force_since: Timestamp,
}

/// A breach about which nothing is done now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldNow {
    pub policy: String,
    pub service: ServiceName,
    pub reason: Reason,
    pub detail: String,
    /// When it may pass by itself, where that is known.
    pub until: Option<Timestamp>,
}

/// The whole screen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `None`: no agent listens.
    pub agent: Option<AgentNow>,
    /// Why the store's part is missing.
    #[serde(default)]
    pub store_unread: Option<String>,
    pub paused: Option<Pause>,
    pub silences: Vec<Silence>,
    pub approvals: Vec<Approval>,
    pub breakers: Vec<Breaker>,
    pub latches: Vec<Latch>,
    pub open: Vec<IncidentNow>,
    pub unreturned_slots: Vec<UnreturnedSlot>,
    pub undelivered: Vec<UndeliveredMessage>,
}

/// An incident under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentNow {
    pub incident: IncidentId,
    pub service: ServiceName,
    pub policy: String,
    pub runbook: String,
    /// The step's name, `unwinding` or `withdrawing`.
    pub step: String,
    pub dry_run: bool,
    /// What it has been waiting for, where people were told of that.
    pub waits_for: Option<String>,
}

/// A message that its destination has not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndeliveredMessage {
    pub destination: String,
    pub title: String,
    pub attempts: u32,
    /// Of the last attempt.
    pub error: Option<String>,
}

/// Undelivered messages that are shown.
const MESSAGES: usize = 20;

impl Status {
    /// With what the store has at `now`.
    pub fn of(store: &Store, agent: Option<AgentNow>, now: Timestamp) -> Result<Self, StoreError> {
        let undelivered = store.undelivered(MESSAGES)?.into_iter().map(|one| UndeliveredMessage {
            destination: one.destination,
            title: one.message.title,
            attempts: one.attempts,
            error: one.error,
        });
        Ok(Self {
            agent,
            store_unread: None,
            paused: store.paused(now)?,
            silences: store.silences(now)?,
            approvals: store.open_approvals(now)?,
            breakers: store.breakers()?,
            latches: store.latches()?,
            open: store.under_way()?.into_iter().map(IncidentNow::from).collect(),
            unreturned_slots: store.unreturned_slots()?,
            undelivered: undelivered.collect(),
        })
    }

    /// What the agent knows alone, and why the store says nothing.
    pub fn without_store(agent: AgentNow, why: String) -> Self {
        Self { agent: Some(agent), store_unread: Some(why), ..Self::default() }
    }

    /// Does anything of it want a person?
    pub fn wants_a_person(&self) -> bool {
        let fails = |agent: &AgentNow| {
            agent.observe_only || agent.last_failure.is_some() || agent.rejected_configuration.is_some()
        };
        self.store_unread.is_some()
            || !self.latches.is_empty()
            || !self.unreturned_slots.is_empty()
            || !self.breakers.is_empty()
            || self.open.iter().any(|open| open.waits_for.is_some())
            || self.undelivered.iter().any(|one| one.error.is_some())
            || self.agent.as_ref().is_some_and(fails)
    }
}

impl From<UnderWay> for IncidentNow {
    fn from(UnderWay { plan, step, waits_for }: UnderWay) -> Self {
        Self {
            incident: plan.incident,
            service: plan.target.service,
            policy: plan.policy,
            runbook: plan.runbook,
            step,
            dry_run: plan.dry_run,
            waits_for,
        }
    }
}
