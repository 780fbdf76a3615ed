//! A plan: a runbook bound to one service, with every value filled in. What the journal keeps, and what
//! recovery works from alone, whatever the config says by then.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::incident::{IncidentId, Trigger};
use super::policy::{Condition, GuardSettings, Limits};
use super::runbook::{Effect, Runbook, Step};
use super::service::{Incarnation, ServiceName};

/// Where a service stands in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The registry's name in the host's file.
    pub registry: String,
    /// The instance's id in that registry.
    pub id: String,
}

/// How a service's health is asked. Every probe has a deadline of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// A connection is accepted.
    Tcp(SocketAddr),
    /// A GET answers 2xx.
    Http(String),
    /// `PING` is answered by `+PONG`.
    RedisPing(SocketAddr),
    /// The command ends with 0.
    Exec(Vec<String>),
}

/// How a service is restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    Systemd {
        unit: String,
        /// Restart although other units are taken along.
        with_dependents: bool,
    },
    Process(ProcessRestart),
    Docker {
        /// An id, its first digits, or a name.
        container: String,
        /// The daemon's unix socket: Docker's, or podman's.
        socket: PathBuf,
    },
    Supervisord {
        /// `NAME`, or `GROUP:NAME`.
        program: String,
        /// supervisord's unix socket.
        socket: PathBuf,
    },
}

/// A program that nobody supervises: ended by SIGTERM, then SIGKILL, and started again by its argv.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRestart {
    pub argv: Vec<String>,
    /// Where the program writes the pid of its main process.
    pub pid_file: PathBuf,
    /// From SIGTERM to SIGKILL.
    #[serde(with = "super::duration::as_text")]
    pub stop_timeout: Duration,
}

/// The service that a plan is for, with everything that acting on it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub service: ServiceName,
    pub bindings: Vec<Binding>,
    pub health: Option<Health>,
    pub restart: Option<Restart>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep {
    pub step: Step,
    pub effect: Effect,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub incident: IncidentId,
    pub trigger: Trigger,
    pub policy: String,
    /// Only said, not done: the steps are carried out by adapters that touch nothing.
    pub dry_run: bool,
    pub runbook: String,
    pub target: Target,
    /// The lifetime of the service that the decision was made on.
    pub incarnation: Option<Incarnation>,
    /// Must still hold just before each change, unless a person started the plan.
    pub when: Condition,
    pub limits: Limits,
    pub guards: GuardSettings,
    /// The name that hosts contend for a fleet slot under; `None` where no slot is needed.
    pub fleet_scope: Option<String>,
    pub steps: Vec<PlannedStep>,
}

impl Plan {
    /// The index of the first step past which there is no way back.
    pub fn pivot(&self) -> Option<usize> {
        self.steps.iter().position(|planned| planned.effect == Effect::Pivot)
    }

    pub fn drains(&self) -> bool {
        self.steps.iter().any(|planned| matches!(planned.step, Step::Drain { .. }))
    }
}

impl PlannedStep {
    pub fn all_of(runbook: &Runbook) -> Vec<Self> {
        runbook.steps.iter().map(|step| Self { effect: step.effect(), step: step.clone() }).collect()
    }
}
