//! Restarters: what runs, which lifetime it is, and beginning a new one.
//!
//! Called by the guards and recovery (reads) and by the step restart. An adapter proves a new incarnation that lasts; it
//! never believes an exit code, and never starts what was stopped on purpose.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Incarnation, plan};

pub mod docker;
pub mod dry;
mod owner;
pub mod pidfd;
pub mod process;
mod room;
pub mod supervise;
pub mod supervisord;
pub mod systemd;

/// A service that was asked to end may look untouched for its stop timeout, and for this long besides: for its manager
/// to hear of it, and to kill it.
const SETTLE_MARGIN: Duration = Duration::from_secs(5);
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
    /// Running, and every process of it is stopped by the cgroup freezer (`systemctl freeze`, `docker pause`): somebody's doing.
    Frozen,
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
    #[error("{service}: refused: {detail}")]
    Refused { service: String, detail: String },
    /// systemd's start limit: its own outcome, never reset by us.
    #[error("{service}: {detail}")]
    StartLimit { service: String, detail: String },
    /// It was tried, and no new lifetime came to be.
    #[error("{service}: restart failed: {detail}")]
    Failed { service: String, detail: String },
    /// A reload that failed, or after which the lifetime did not go on.
    #[error("{service}: reload failed: {detail}")]
    NotReloaded { service: String, detail: String },
    /// The deadline passed, or the manager could not be asked.
    #[error("{service}: {detail}")]
    Unreachable { service: String, detail: String },
}

/// The lifetime that a restart set out to end, as it was journaled with the intent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Before {
    pub incarnation: Incarnation,
    /// What [`Restarter::remember`] gave.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub kept: Value,
}

/// How far a restart has come.
#[derive(Clone, Debug, PartialEq)]
pub enum Restarted {
    /// A new lifetime runs, and has been seen to be stable.
    NewIncarnation(Incarnation),
    /// The old lifetime is being ended at our word, and nobody begins a new one but [`Restarter::start`]. Journaled
    /// before that is called, so that a service which an agent had stopped when it died is started by the next one.
    Stopping,
}

impl Restarted {
    #[cfg(test)]
    pub fn new_incarnation(self) -> Incarnation {
        match self {
            Self::NewIncarnation(incarnation) => incarnation,
            Self::Stopping => panic!("only half a restart"),
        }
    }
}

/// What a restarter can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revival {
    Restart,
    Reload,
}

/// Restarts one kind of service. Proves a new incarnation, not an exit code.
#[async_trait]
pub trait Restarter: Send + Sync {
    async fn observe(&self, target: &plan::Restart) -> Result<Liveness, RestartError>;

    /// The id, 64 hex digits, of the container that bears the service's name now; `None` where the service is no container.
    async fn container_id(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        let _ = target;
        Ok(None)
    }

    /// What [`Self::start`] will have to know of this lifetime, which is about to be ended. Journaled: no secrets.
    async fn remember(&self, target: &plan::Restart, incarnation: &Incarnation) -> Result<Value, RestartError> {
        let _ = (target, incarnation);
        Ok(Value::Null)
    }

    /// Ends the present lifetime and begins a new one; returns it once it has been seen to be stable. Where the
    /// manager knows no restart, the first half of one: [`Restarted::Stopping`].
    /// Never starts what was stopped on purpose.
    async fn restart(&self, target: &plan::Restart, deadline: Duration) -> Result<Restarted, RestartError>;

    /// The call, or the signal, that would begin this now, and what follows it, for people. Without secrets. Begins nothing.
    async fn would(&self, revival: Revival, target: &plan::Restart) -> Result<String, RestartError>;

    /// The second half, by `deadline` as well: once what was asked to stop has ended, begins a new lifetime and
    /// returns it when it has been seen to be stable. Called only where [`Restarted::Stopping`] is journaled, perhaps
    /// a second time, and perhaps long after: one that somebody else has begun meanwhile counts.
    async fn start(
        &self,
        target: &plan::Restart,
        before: &Before,
        deadline: Duration,
    ) -> Result<Incarnation, RestartError> {
        let _ = (before, deadline);
        Err(RestartError::Failed { service: named(target), detail: "this restarter has no separate start".into() })
    }

    /// For how long after a restart was asked for the old lifetime may still look as if nobody had: zero where the
    /// manager shows its work (`Changing`), else the time that the service may take to end.
    async fn settles_within(&self, target: &plan::Restart) -> Result<Duration, RestartError>;

    /// How long a restart may take by the service's own settings: its stop and start timeouts and ten seconds.
    async fn own_deadline(&self, target: &plan::Restart) -> Result<Duration, RestartError>;

    /// How long a restart may go on beyond its deadline, where it has to put away what it began.
    fn overtime(&self, target: &plan::Restart) -> Duration {
        let _ = target;
        Duration::ZERO
    }

    /// Why the service cannot be reloaded; `None` where it can.
    async fn no_reload(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        Ok(Some(format!("{} has no reload", named(target))))
    }

    /// The service's own reload, by `deadline`: its end is waited for, and then that the same lifetime, still active,
    /// goes on. Refused where the service has none.
    async fn reload(&self, target: &plan::Restart, deadline: Duration) -> Result<(), RestartError> {
        let _ = deadline;
        let detail = self.no_reload(target).await?.unwrap_or_default();
        Err(RestartError::Refused { service: named(target), detail })
    }

    /// What else a restart would take along; empty where it is this service alone.
    async fn dependents(&self, target: &plan::Restart) -> Result<Vec<String>, RestartError>;

    /// Why the service, as it runs now, must not be restarted in this way, and which way fits; `None` where it may. Shown by
    /// `check` and `plan`.
    async fn unfit(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        let _ = target;
        Ok(None)
    }

    /// Why what is ended now would not begin again; `None` where nothing is seen in the way. Asked before a drain, and again
    /// before the pivot.
    async fn would_not_start(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        let _ = target;
        Ok(None)
    }

    /// What a restart of this service cannot promise, for people; empty where there is nothing to say, or nobody to
    /// ask.
    async fn caveats(&self, target: &plan::Restart) -> Vec<String> {
        let _ = target;
        Vec::new()
    }
}

/// How errors name the target.
pub(super) fn named(target: &plan::Restart) -> String {
    match target {
        plan::Restart::Systemd { unit, .. } => unit.clone(),
        plan::Restart::Process(process) => process.pid_file.display().to_string(),
        plan::Restart::Docker { container, .. } => format!("container:{container}"),
        plan::Restart::Supervisord { program, .. } => format!("program:{program}"),
        plan::Restart::Supervise(service) => service.dir.display().to_string(),
    }
}

/// A target that belongs to another adapter: the wiring's mistake, told rather than acted on.
fn foreign(target: &plan::Restart, adapter: &str) -> RestartError {
    RestartError::Unknown { service: named(target), detail: format!("not for the {adapter} restarter") }
}

/// Refuses to take others along.
fn alone(service: &str, dependents: &[String]) -> Result<(), RestartError> {
    if dependents.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "a restart would also restart {}; set `with_dependents: true` of the service if that is wanted",
        dependents.join(", ")
    );
    Err(RestartError::Refused { service: service.into(), detail })
}
