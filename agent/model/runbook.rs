//! A runbook: the declared steps, with what each of them does to the world.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration::as_text;
use super::policy::Comparison;

/// What a step does to the world, and so what its failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Effect {
    /// Changes nothing.
    ReadOnly,
    /// Changes something, and its undo takes exactly that back.
    Compensable,
    /// No way back: never repeated, never undone.
    Pivot,
    /// May be repeated until it succeeds.
    Retryable,
}

/// What to do where waiting ends without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    Proceed,
    Unwind,
}

/// How a `run` declares what its command does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEffect {
    ReadOnly,
    /// With the argv that takes it back.
    Compensable {
        undo: Vec<String>,
    },
    /// Also what an undeclared effect counts as.
    Pivot,
    Retryable,
}

/// One step of a runbook with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Keep the evidence. `required`: without it nothing is touched. `commands` are kept with their output.
    Snapshot {
        #[serde(with = "as_text")]
        deadline: Duration,
        required: bool,
        commands: Vec<Vec<String>>,
    },
    /// Take the service out of traffic, then wait `settle` for clients to notice.
    Drain {
        #[serde(with = "as_text")]
        settle: Duration,
        #[serde(with = "as_text")]
        deadline: Duration,
    },
    /// Wait until at most this many inbound connections are left.
    WaitDrained {
        inbound_at_most: u64,
        #[serde(with = "as_text")]
        timeout: Duration,
        on_timeout: OnTimeout,
    },
    /// `deadline: None`: the restarter's own stop and start timeouts and ten seconds.
    Restart { deadline: Option<Duration> },
    /// Until `successes` probes in a row have passed; a maximum that ends early.
    HealthCheck {
        #[serde(with = "as_text")]
        timeout: Duration,
        successes: u32,
        #[serde(with = "as_text")]
        interval: Duration,
    },
    /// Take our own drain back. At the deadline it is told; then it is retried for ever.
    Restore {
        #[serde(with = "as_text")]
        deadline: Duration,
    },
    /// Watch for `soak`, healthy throughout, and then expect the signals to be so.
    Verify {
        #[serde(with = "as_text")]
        soak: Duration,
        expect: Vec<Comparison>,
    },
    /// A command of the operator's: argv, never a shell.
    Run {
        argv: Vec<String>,
        effect: RunEffect,
        #[serde(with = "as_text")]
        deadline: Duration,
    },
    /// Tell the destinations that ask for `step` events.
    Notify { text: String },
}

impl Step {
    /// As the YAML spells it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Snapshot { .. } => "snapshot",
            Self::Drain { .. } => "drain",
            Self::WaitDrained { .. } => "wait_drained",
            Self::Restart { .. } => "restart",
            Self::HealthCheck { .. } => "health_check",
            Self::Restore { .. } => "restore",
            Self::Verify { .. } => "verify",
            Self::Run { .. } => "run",
            Self::Notify { .. } => "notify",
        }
    }

    pub fn effect(&self) -> Effect {
        match self {
            Self::Snapshot { .. }
            | Self::WaitDrained { .. }
            | Self::HealthCheck { .. }
            | Self::Verify { .. }
            | Self::Notify { .. } => Effect::ReadOnly,
            Self::Drain { .. } => Effect::Compensable,
            Self::Restart { .. } => Effect::Pivot,
            Self::Restore { .. } => Effect::Retryable,
            Self::Run { effect, .. } => match effect {
                RunEffect::ReadOnly => Effect::ReadOnly,
                RunEffect::Compensable { .. } => Effect::Compensable,
                RunEffect::Pivot => Effect::Pivot,
                RunEffect::Retryable => Effect::Retryable,
            },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Runbook {
    pub name: String,
    pub description: String,
    pub steps: Vec<Step>,
}

impl Runbook {
    pub fn drains(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Drain { .. }))
    }

    pub fn restarts(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Restart { .. }))
    }

    pub fn checks_health(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::HealthCheck { .. }))
    }

    /// Changes something on the host or in a registry.
    pub fn changes_anything(&self) -> bool {
        self.steps.iter().any(|step| step.effect() != Effect::ReadOnly)
    }

    /// The comparisons of its `verify` steps.
    pub fn expectations(&self) -> impl Iterator<Item = &Comparison> {
        self.steps.iter().flat_map(|step| match step {
            Step::Verify { expect, .. } => expect.as_slice(),
            _ => &[],
        })
    }
}
