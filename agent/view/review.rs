//! What each policy did and would have done in a time, and what became of it: what a person reads before saying `auto`. Read
//! from the store; reckoned by [`reckoning`](super::reckoning).

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reckoning::{self, Recollected};
use crate::execute::saga::Event;
use crate::model::{IncidentId, Mode, Plan, Reason, duration};
use crate::store::{IncidentRow, JournalRow, Recorded, Store, StoreError};

/// All policies over a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Review {
    pub host: String,
    pub from: Timestamp,
    pub to: Timestamp,
    /// Nothing was written before; `None` where all of the time is known.
    pub known_from: Option<Timestamp>,
    pub policies: Vec<PolicyReview>,
    /// The most services that were, or would have been, out of traffic at one time.
    pub at_once: Option<AtOnce>,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyReview {
    pub policy: String,
    /// In force now; `None` where the configuration has no such policy any more.
    pub mode: Option<Recorded<Mode>>,
    /// In that mode.
    pub since: Option<Timestamp>,
    /// Breaches are known from then on, where that is later than the review begins.
    pub known_from: Option<Timestamp>,
    /// What it did, or what `auto` would have done, in plain words.
    pub in_a_line: String,
    pub breaches: usize,
    /// Breaches of each service in which it would have acted.
    pub would_act: Vec<ServiceTimes>,
    /// What became of those by themselves.
    pub healed: Healed,
    /// Of what it would have done: what a dry run found to be in its way.
    pub would_fail: Vec<WouldFail>,
    pub acted: Vec<ServiceTimes>,
    pub outcomes: Outcomes,
    pub out_of_traffic: OutOfTraffic,
    pub held: Vec<Held>,
    /// Real incidents that a person began by `unwait act`; counted nowhere else here.
    pub by_hand: usize,
    /// Oldest first.
    pub cases: Vec<Case>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTimes {
    pub service: String,
    pub times: usize,
}

/// What became of breaches in which the policy would have acted, and did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healed {
    /// The leaked sockets went away, or the breach was over, and nobody restarted the service.
    pub by_itself: usize,
    /// After so long half of those, and all of them, had.
    #[serde(with = "duration::as_optional_text")]
    pub median: Option<Duration>,
    #[serde(with = "duration::as_optional_text")]
    pub longest: Option<Duration>,
    /// Somebody restarted the service.
    pub restarted: usize,
    pub stands: usize,
    pub unknown: usize,
}

/// What would have ended otherwise than carried out, by service and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldFail {
    pub service: String,
    /// `unwound` or `stuck`.
    pub outcome: String,
    pub reason: Recorded<Reason>,
    pub times: usize,
    /// The last one's.
    pub detail: String,
    pub incident: String,
}

/// How real incidents of the policy ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    pub helped: usize,
    pub not_helped: usize,
    /// Whether it helped could not be seen.
    pub unverified: usize,
    /// The evidence was kept; the runbook changes nothing.
    pub looked: usize,
    pub unwound: usize,
    pub stuck: usize,
    pub under_way: usize,
}

/// Real incidents that took a service out of traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfTraffic {
    pub times: usize,
    /// Until each was put back, or its incident ended.
    #[serde(with = "duration::as_text")]
    pub total: Duration,
    #[serde(with = "duration::as_text")]
    pub longest: Duration,
    /// Services whose incident ended, or is under way, with the drain in force.
    pub left_out: Vec<String>,
}

/// For what nothing was done, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub guard: String,
    pub reason: Recorded<Reason>,
    /// Breaches that it held.
    pub breaches: usize,
    #[serde(with = "duration::as_text")]
    pub lasted: Duration,
    /// It holds one now.
    pub stands: bool,
}

/// One breach; or an incident of which no breach is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    pub service: String,
    pub began: Timestamp,
    pub ended: Option<Timestamp>,
    /// Of the signal, as it is shown; absent where no breach is known.
    pub worst: Option<String>,
    /// An agent ended during it, so its times are at most so exact as that agent's absence was short.
    pub interrupted: bool,
    /// The first incident in it.
    pub acted: Option<Acted>,
    /// Of one that was acted on in a dry run alone.
    pub became: Option<Became>,
    /// What held it, longest first.
    pub held: Vec<Held>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acted {
    pub incident: String,
    pub at: Timestamp,
    pub dry_run: bool,
    pub runbook: Option<String>,
    /// `None`: under way.
    pub outcome: Option<String>,
    pub reason: Option<Recorded<Reason>>,
}

/// What became of a breach by itself, counted from when the policy would have acted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "became")]
pub enum Became {
    /// Each socket that was leaked at its begin left CLOSE_WAIT, and no process holds it.
    SocketsGone {
        of: u32,
        #[serde(with = "duration::as_text")]
        after: Duration,
    },
    /// The breach was over; so many of those sockets remained, where that is known.
    Over {
        remain: Option<(u32, u32)>,
        #[serde(with = "duration::as_text")]
        after: Duration,
    },
    /// Somebody restarted the service.
    Restarted {
        #[serde(with = "duration::as_text")]
        after: Duration,
    },
    Stands {
        remain: Option<(u32, u32)>,
        #[serde(with = "duration::as_text")]
        since: Duration,
    },
    Unknown {
        why: String,
    },
}

/// Services that were, or would have been, out of traffic together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtOnce {
    pub at: Timestamp,
    pub services: Vec<String>,
    /// By the waits of their runbooks, at most; `None` where all of it was real.
    #[serde(with = "duration::as_optional_text")]
    pub each_up_to: Option<Duration>,
}

impl Review {
    /// What the store knows of `since` before `now`, of one policy or of all.
    pub fn of(
        store: &Store,
        host: &str,
        policy: Option<&str>,
        since: Duration,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let from = now.checked_sub(since).unwrap_or(Timestamp::MIN);
        let breaches = store.breaches(policy, from)?;
        // A breach that stands for longer may have been acted on before.
        let earliest = breaches.iter().map(|breach| breach.began).min().unwrap_or(from).min(from);
        let mut incidents = Vec::new();
        for row in store.incidents_since(policy, earliest)? {
            let id = IncidentId(row.incident.clone());
            let plan = store.plan(&id)?;
            // A dry run took nothing out of traffic.
            let rows = if row.dry_run { Vec::new() } else { store.journal(&id)? };
            let event = |row: JournalRow| Some((row.at, serde_json::from_str::<Event>(&row.event).ok()?));
            let journal = rows.into_iter().map_while(event).collect();
            incidents.push(IncidentRecord { row, plan, journal });
        }
        let runs = store.policy_runs()?.into_iter().filter(|run| policy.is_none_or(|policy| run.policy == policy));
        let all = Recollected { host, from, to: now, breaches, incidents, runs: runs.collect() };
        Ok(reckoning::review(all))
    }
}

/// An incident as the store has it.
#[derive(Clone, Debug)]
pub struct IncidentRecord {
    pub row: IncidentRow,
    pub plan: Option<Plan>,
    /// Of a real one, as far as it can be read.
    pub journal: Vec<(Timestamp, Event)>,
}
