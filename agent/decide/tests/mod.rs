//! The detector at its boundaries, each guard both ways, and the rehearsal of policies.

mod alerts;
mod approval;
mod budgets;
mod calm;
mod ceiling;
mod clocks;
mod common_cause;
mod detector;
mod escalation;
mod guards;
mod hours;
mod inaction;
mod min_healthy;
mod rehearse;
mod scenery;
mod starts_again;
mod veto;

use std::time::Duration;

use crate::model::policy::{GuardSettings, Limits, Operator};
use crate::model::{Comparison, Condition, Mode, Policy, Runbook, Signal};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn above(threshold: f64) -> Condition {
    Condition::Compare(Comparison { signal: Signal::CloseWait, operator: Operator::Above, threshold })
}

fn below(threshold: f64) -> Condition {
    Condition::Compare(Comparison { signal: Signal::CloseWait, operator: Operator::Below, threshold })
}

/// `close_wait` above it for two minutes.
pub(super) fn policy_above(threshold: f64) -> Policy {
    Policy { when: above(threshold), ..policy() }
}

/// `close_wait > 200`, for two minutes.
fn policy() -> Policy {
    Policy {
        name: "close-wait-leak".into(),
        description: String::new(),
        services: Vec::new(),
        when: above(200.0),
        hold: seconds(120),
        clear: None,
        mode: Mode::Auto,
        held_mode: None,
        runbook: Runbook { name: "evidence-only".into(), description: String::new(), steps: Vec::new() },
        further: Vec::new(),
        limits: Limits::default(),
        guards: GuardSettings::default(),
    }
}
