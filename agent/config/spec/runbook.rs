//! `runbooks/*.yaml` as they are written.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Items;
use super::scalar::{Declared, Typed};
use crate::model::Comparison;
use crate::model::runbook::{Floor, OnTimeout, StopSignal};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct RunbookSpec {
    pub runbook: Option<Typed<String>>,
    pub description: Option<Typed<String>>,
    pub steps: Items<StepSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepSpec {
    Snapshot(SnapshotSpec),
    Drain(DrainSpec),
    WaitDrained(WaitDrainedSpec),
    Restart(RestartStepSpec),
    HealthCheck(HealthCheckSpec),
    Restore(RestoreSpec),
    Verify(VerifySpec),
    Run(RunSpec),
    Notify(NotifySpec),
    Reload(ReloadSpec),
    RecycleWorkers(RecycleWorkersSpec),
    CloseSockets(CloseSocketsSpec),
    Pause(PauseSpec),
    Call(CallSpec),
}

/// `- restart` and `- restart:` are short for `- restart: {}`.
pub fn lengthen(file: &mut Value) {
    let Some(steps) = file.get_mut("steps").and_then(Value::as_array_mut) else { return };
    for step in steps {
        match step {
            Value::String(name) => {
                let mut map = serde_json::Map::new();
                map.insert(std::mem::take(name), Value::Object(serde_json::Map::new()));
                *step = Value::Object(map);
            }
            Value::Object(map) => {
                for settings in map.values_mut().filter(|settings| settings.is_null()) {
                    *settings = Value::Object(serde_json::Map::new());
                }
            }
            _ => {}
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct SnapshotSpec {
    pub deadline: Option<Typed<Duration>>,
    pub required: Option<bool>,
    pub commands: Items<Items<Typed<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct DrainSpec {
    pub settle: Option<Typed<Duration>>,
    pub deadline: Option<Typed<Duration>>,
    pub on_busy: Option<Typed<OnTimeout>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct WaitDrainedSpec {
    pub inbound_at_most: Option<u64>,
    pub idle_for: Option<Typed<Duration>>,
    pub timeout: Option<Typed<Duration>>,
    pub on_timeout: Option<Typed<OnTimeout>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct RestartStepSpec {
    pub deadline: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HealthCheckSpec {
    pub timeout: Option<Typed<Duration>>,
    pub successes: Option<u32>,
    pub interval: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct RestoreSpec {
    pub deadline: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct VerifySpec {
    pub soak: Option<Typed<Duration>>,
    pub expect: Items<Typed<Comparison>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct RunSpec {
    pub argv: Items<Typed<String>>,
    pub effect: Option<Typed<Declared>>,
    pub undo: Option<Items<Typed<String>>>,
    pub deadline: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct NotifySpec {
    pub text: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct ReloadSpec {
    pub deadline: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct RecycleWorkersSpec {
    pub older_than: Option<Typed<Duration>>,
    pub batch: Option<u32>,
    pub floor: Option<Typed<Floor>>,
    pub signal: Option<Typed<StopSignal>>,
    pub wait: Option<Typed<Duration>>,
    pub kill_after: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct CloseSocketsSpec {
    pub older_than: Option<Typed<Duration>>,
    pub at_most: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct PauseSpec {
    #[serde(rename = "for")]
    pub length: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct CallSpec {
    pub text: Option<Typed<String>>,
}

as_mapping!(
    RunbookSpec,
    SnapshotSpec,
    DrainSpec,
    WaitDrainedSpec,
    RestartStepSpec,
    HealthCheckSpec,
    RestoreSpec,
    VerifySpec,
    RunSpec,
    NotifySpec,
    ReloadSpec,
    RecycleWorkersSpec,
    CloseSocketsSpec,
    PauseSpec,
    CallSpec,
);
