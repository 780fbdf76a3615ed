//! A runbook: the declared steps, with what each of them does to the world.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration::{as_optional_text, as_text};
use super::policy::Comparison;

/// The effect of a step on the world, which decides the meaning of its failure.
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

/// The continuation after a wait that ended by its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    Proceed,
    Unwind,
}

impl OnTimeout {
    /// The default for plans that older versions stored without this field.
    fn unwind() -> Self {
        Self::Unwind
    }
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

/// How workers are recycled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recycle {
    /// Sockets count as leaked that have been in CLOSE_WAIT for at least so long.
    #[serde(with = "as_text")]
    pub older_than: Duration,
    /// Workers that are asked to end at once.
    pub batch: u32,
    /// So many always live.
    pub floor: Floor,
    pub signal: StopSignal,
    /// For a batch to end, and then for the master to have as many workers as before.
    #[serde(with = "as_text")]
    pub wait: Duration,
    /// SIGKILL for a worker that has not ended by then; `None`: never.
    #[serde(with = "as_optional_text")]
    pub kill_after: Option<Duration>,
}

/// The number of a service's workers that always live: a count, or a share of the workers at the start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Floor {
    Count(u32),
    /// Above 0, at most 1.
    Share(f64),
}

impl Floor {
    /// `50%`, or `4`. Nothing is refused: it would let all workers be ended at once.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.trim().parse().ok()?;
                (percent > 0.0 && percent <= 100.0).then_some(Self::Share(percent / 100.0))
            }
            None => text.parse().ok().filter(|count| *count > 0).map(Self::Count),
        }
    }

    /// How many of `workers` always live.
    pub fn of(self, workers: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Share(share) => (share * workers as f64).ceil() as usize,
        }
    }
}

impl std::fmt::Display for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Share(share) => write!(f, "{}%", share * 100.0),
        }
    }
}

impl From<Floor> for String {
    fn from(floor: Floor) -> Self {
        floor.to_string()
    }
}

impl TryFrom<String> for Floor {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("`{text}` is no floor"))
    }
}

/// A signal that asks a process to end, or to read its configuration again; never SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::EnumString)]
#[serde(rename_all = "UPPERCASE")]
#[strum(serialize_all = "UPPERCASE")]
pub enum StopSignal {
    Term,
    Quit,
    Int,
    Hup,
    Usr1,
    Usr2,
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
    /// Take the service out of traffic, wait until clients do not find it any more, then `settle`, or as long as the
    /// slowest of them takes. `on_busy`: what to do where they go on coming all the same.
    Drain {
        #[serde(with = "as_text")]
        settle: Duration,
        #[serde(with = "as_text")]
        deadline: Duration,
        #[serde(default = "OnTimeout::unwind")]
        on_busy: OnTimeout,
    },
    /// Wait until at most this many inbound connections are left. `idle_for`: those by which nothing has come or gone
    /// for so long do not count.
    WaitDrained {
        inbound_at_most: u64,
        #[serde(default, with = "as_optional_text")]
        idle_for: Option<Duration>,
        #[serde(with = "as_text")]
        timeout: Duration,
        on_timeout: OnTimeout,
    },
    /// `deadline: None`: the restarter's own stop and start timeouts and ten seconds.
    Restart { deadline: Option<Duration> },
    /// The service's own reload: the same lifetime goes on.
    Reload {
        #[serde(with = "as_text")]
        deadline: Duration,
    },
    /// Ask the worker processes that hold the leaked sockets to end, a few at a time; their master starts new ones.
    RecycleWorkers(Recycle),
    /// Have the kernel close the sockets that have been in CLOSE_WAIT for so long, so many at most.
    CloseSockets {
        #[serde(with = "as_text")]
        older_than: Duration,
        at_most: u64,
    },
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
    /// Let so much time pass; a drain is held meanwhile.
    Pause {
        #[serde(rename = "for", with = "as_text")]
        length: Duration,
    },
    /// The last step: leaves the service as it stands by then, drained or not, latched, and calls a person.
    Call { text: String },
}

impl Step {
    /// The step's name in the YAML.
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
            Self::Reload { .. } => "reload",
            Self::RecycleWorkers(_) => "recycle_workers",
            Self::CloseSockets { .. } => "close_sockets",
            Self::Pause { .. } => "pause",
            Self::Call { .. } => "call",
        }
    }

    pub fn effect(&self) -> Effect {
        match self {
            Self::Snapshot { .. }
            | Self::WaitDrained { .. }
            | Self::HealthCheck { .. }
            | Self::Verify { .. }
            | Self::Notify { .. }
            | Self::Pause { .. } => Effect::ReadOnly,
            Self::Drain { .. } => Effect::Compensable,
            // None of them can be taken back. What became of one that failed, or that nobody saw end, is looked at
            // (`execute::recovery`): where the service is as it was, the saga unwinds all the same.
            Self::Restart { .. }
            | Self::Reload { .. }
            | Self::RecycleWorkers(_)
            | Self::CloseSockets { .. }
            | Self::Call { .. } => Effect::Pivot,
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

    pub fn reloads(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Reload { .. }))
    }

    pub fn recycles_workers(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::RecycleWorkers(_)))
    }

    pub fn closes_sockets(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::CloseSockets { .. }))
    }

    /// Ends with a person, whatever came of the rest.
    pub fn calls(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Call { .. }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_read_as_it_is_written_and_is_never_nothing() {
        for (text, workers, at_least) in [("50%", 96, 48), ("50%", 7, 4), ("100%", 3, 3), ("1%", 3, 1), ("4", 3, 4)] {
            let floor = Floor::parse(text).unwrap();
            assert_eq!((floor.of(workers), floor.to_string().as_str()), (at_least, text));
        }
        for wrong in ["0", "0%", "-1", "101%", "half", ""] {
            assert_eq!(Floor::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_wait_of_an_older_journal_is_read() {
        let text = r#"{"wait_drained":{"inbound_at_most":0,"timeout":"1m","on_timeout":"proceed"}}"#;
        let step: Step = serde_json::from_str(text).unwrap();
        assert!(matches!(step, Step::WaitDrained { idle_for: None, .. }), "{step:?}");
    }
}
