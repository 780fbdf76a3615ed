//! Why something is, or is not, being done for one service; and the plan that would be carried out.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::decide::detector::Watch;
use crate::decide::guards::Refusal;
use crate::model::{Condition, HeldMode, IncidentId, Plan, Policy, Readings, Reason, ServiceName, Truth, duration};
use crate::store::Breaker;

/// What is so of one service now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub service: ServiceName,
    pub signals: Readings,
    pub policies: Vec<PolicyExplained>,
    /// Why nothing is being done where no policy selects it.
    pub nothing_is_done: Option<Reason>,
    /// The incident under way.
    pub under_way: Option<IncidentId>,
    /// One look only: no agent runs, so what needs time is not known.
    pub one_look: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyExplained {
    pub policy: String,
    /// The mode in force.
    pub mode: String,
    /// The policy asks for more than `mode_at_most` allows.
    #[serde(default)]
    pub held_mode: Option<HeldMode>,
    /// Each comparison with the present value beside it.
    pub when: Vec<ComparisonExplained>,
    /// `true`, `false` or `unknown`.
    pub holds: String,
    /// `quiet`, `holding for 30s of 2m`, `breached for 5m`.
    pub standing: String,
    /// Since when the condition has held; of a breach also over the incidents that did not end it.
    #[serde(default)]
    pub held_since: Option<Timestamp>,
    /// Why nothing is being done; `None` where the policy is about to act, or an incident is under way.
    pub nothing_is_done: Option<Reason>,
    /// Back in dry-run by itself.
    pub breaker: Option<Breaker>,
    /// What would be carried out now.
    pub runbook: Option<String>,
    /// Which rung of an escalation that is, and why.
    pub rung: Option<String>,
    /// What is against acting now, by the guards' order.
    pub held_by: Vec<Refusal>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparisonExplained {
    /// How deep it is nested in all / any.
    pub depth: usize,
    pub text: String,
    pub now: String,
    pub holds: String,
}

/// A plan filled in, and what is against it now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    pub plan: Plan,
    /// The policy's mode; a person's plan asks for none.
    #[serde(default)]
    pub mode: String,
    /// How its slot of the fleet would be taken, with the call that would be sent; `None` where it needs none.
    #[serde(default)]
    pub slot: Option<String>,
    /// What each of its steps would do, with the calls that it would send.
    #[serde(default)]
    pub would: Vec<String>,
    pub blocked_by: Vec<Refusal>,
    /// What the restart, and the registries that it drains from, cannot promise, each by its name: `redis: …`; and
    /// steps whose deadlines are too short for it: `drain: …`.
    pub cannot_promise: Vec<String>,
    /// Where the plan drains: whom it takes the service from.
    pub clients: Option<Clients>,
}

/// Those who use a service now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// From a change in the registry until the last of them follows it.
    #[serde(with = "duration::as_text")]
    pub follow_within: Duration,
    /// Inbound connections that are in use now, and the addresses that they come from.
    pub connections: Option<usize>,
    pub addresses: Option<usize>,
    /// Why these are not known.
    pub unknown: Option<String>,
}

/// `quiet`, or for how long it has held.
pub fn standing(watch: Watch, policy: &Policy, now: Duration) -> String {
    let seconds = |duration: Duration| duration::format(Duration::from_secs(duration.as_secs()));
    match watch {
        Watch::Quiet => "quiet".into(),
        Watch::Holding { since, .. } => {
            format!("holding for {} of {}", seconds(now.saturating_sub(since)), duration::format(policy.hold))
        }
        Watch::Breached { since } => format!("breached for {}", seconds(now.saturating_sub(since))),
    }
}

/// Each line of the condition with its present value.
pub fn explained(condition: &Condition, readings: &Readings, depth: usize) -> Vec<ComparisonExplained> {
    let group = |name: &str, parts: &[Condition]| {
        let mut lines = vec![ComparisonExplained {
            depth,
            text: name.into(),
            now: String::new(),
            holds: truth(condition.truth(readings)).into(),
        }];
        lines.extend(parts.iter().flat_map(|part| explained(part, readings, depth + 1)));
        lines
    };
    match condition {
        Condition::All(parts) => group("all of", parts),
        Condition::Any(parts) => group("any of", parts),
        Condition::Compare(comparison) => vec![ComparisonExplained {
            depth,
            text: comparison.to_string(),
            now: readings.show(comparison.signal),
            holds: truth(comparison.truth(readings)).into(),
        }],
    }
}

/// In a word.
pub fn truth(truth: Truth) -> &'static str {
    match truth {
        Truth::True => "true",
        Truth::False => "false",
        Truth::Unknown => "unknown",
    }
}
