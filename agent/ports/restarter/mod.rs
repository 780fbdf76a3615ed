//! Restarters: what runs, which lifetime it is, and beginning a new one.
//!
//! Called by the guards and recovery (reads) and by the step restart. An adapter proves a new incarnation that lasts; it
//! never believes an exit code, and never starts what was stopped on purpose.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::{Incarnation, plan};

pub mod dry;
pub mod process;
pub mod systemd;

/// What a restart may take beyond the service's own timeouts.
const DEADLINE_MARGIN: Duration = Duration::from_secs(10);

/// What a restarter says of a service now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Liveness {
    pub state: RunState,
    /// The present lifetime; `None` where nothing runs.
    pub incarnation: Option<Incarnation>,
    pub main_pid: Option<u32>,
    /// How long the present lifetime has lasted.
    pub up_for: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum RunState {
    /// Running, and no job is under way.
    Active,
    /// Starting, stopping, reloading, or waiting to be restarted: somebody is at work on it.
    Changing,
    /// Stopped on purpose, or not loaded.
    Inactive,
    /// Ended in failure.
    Failed,
}

#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    #[error("{service}: no such service for this restarter: {detail}")]
    Unknown { service: String, detail: String },
    /// Refused before anything was changed.
    #[error("{service}: restart refused: {detail}")]
    Refused { service: String, detail: String },
    /// systemd's start limit: its own outcome, never reset by us.
    #[error("{service}: {detail}")]
    StartLimit { service: String, detail: String },
    /// It was tried, and no new lifetime came to be.
    #[error("{service}: restart failed: {detail}")]
    Failed { service: String, detail: String },
    /// The deadline passed, or the manager could not be asked.
    #[error("{service}: {detail}")]
    Unreachable { service: String, detail: String },
}

/// Restarts one kind of service. Proves a new incarnation, not an exit code.
#[async_trait]
pub trait Restarter: Send + Sync {
    async fn observe(&self, target: &plan::Restart) -> Result<Liveness, RestartError>;

    /// Ends the present lifetime and begins a new one; returns it once it has been seen to be stable.
    /// Never starts what was stopped on purpose.
    async fn restart(&self, target: &plan::Restart, deadline: Duration) -> Result<Incarnation, RestartError>;

    /// How long a restart may take by the service's own settings: its stop and start timeouts and ten seconds.
    async fn own_deadline(&self, target: &plan::Restart) -> Result<Duration, RestartError>;

    /// What else a restart would take along; empty where it is this service alone.
    async fn dependents(&self, target: &plan::Restart) -> Result<Vec<String>, RestartError>;
}

/// How errors name the target.
fn named(target: &plan::Restart) -> String {
    match target {
        plan::Restart::Systemd { unit, .. } => unit.clone(),
        plan::Restart::Process(process) => process.pid_file.display().to_string(),
    }
}

/// Refuses to take others along.
fn alone(service: &str, dependents: &[String]) -> Result<(), RestartError> {
    if dependents.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "it would restart {} too; a service whose dependents may go along says `with_dependents: true`",
        dependents.join(", ")
    );
    Err(RestartError::Refused { service: service.into(), detail })
}
