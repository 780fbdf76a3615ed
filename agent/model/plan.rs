//! A plan: a runbook bound to one service, with every value filled in. What the journal keeps, and what
//! recovery works from alone, whatever the config says by then.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::incident::{IncidentId, Trigger};
use super::policy::{Condition, GuardSettings, Limits, Truth};
use super::runbook::{Effect, Runbook, Step, StopSignal};
use super::service::{Incarnation, ServiceName};
use super::signal::Readings;
use super::tls::Tls;

/// Where a service stands in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The registry's name in the host's file.
    pub registry: String,
    /// The instance's id in that registry.
    pub id: String,
    /// From a change until this service's slowest client follows it, where that is longer than the registry's own figure.
    #[serde(default, with = "super::duration::as_optional_text", skip_serializing_if = "Option::is_none")]
    pub clients_follow: Option<Duration>,
    /// True where clients close their connections when the registry does not list the instance any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clients_leave: bool,
}

impl Binding {
    /// Where nothing is said of its clients.
    pub fn new(registry: impl Into<String>, id: impl Into<String>) -> Self {
        Self { registry: registry.into(), id: id.into(), clients_follow: None, clients_leave: false }
    }
}

/// How a service's health is asked. Every probe has a deadline of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// A connection is accepted.
    Tcp(SocketAddr),
    /// A GET answers 2xx.
    Http(HttpHealth),
    /// `PING` is answered by `+PONG`.
    RedisPing(SocketAddr),
    /// The command ends with 0.
    Exec(Vec<String>),
}

/// Where it is asked by HTTP. Written as the URL alone where nothing is said of TLS, as journals of former versions have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "WrittenHttpHealth", into = "WrittenHttpHealth")]
pub struct HttpHealth {
    pub url: String,
    pub tls: Tls,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenHttpHealth {
    Url(String),
    With { url: String, tls: Tls },
}

impl From<WrittenHttpHealth> for HttpHealth {
    fn from(written: WrittenHttpHealth) -> Self {
        match written {
            WrittenHttpHealth::Url(url) => Self { url, tls: Tls::default() },
            WrittenHttpHealth::With { url, tls } => Self { url, tls },
        }
    }
}

impl From<HttpHealth> for WrittenHttpHealth {
    fn from(HttpHealth { url, tls }: HttpHealth) -> Self {
        if tls == Tls::default() { Self::Url(url) } else { Self::With { url, tls } }
    }
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
    Supervise(SuperviseRestart),
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
    /// The signal that makes the process read its configuration again; `None` where there is none.
    #[serde(default)]
    pub reload_signal: Option<StopSignal>,
}

/// A service directory of runit or s6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuperviseRestart {
    pub by: Supervisor,
    /// Where `run` and `supervise/` are: `/etc/service/NAME`, `/run/service/NAME`.
    pub dir: PathBuf,
    /// From the request to end to SIGKILL.
    #[serde(with = "super::duration::as_text")]
    pub stop_timeout: Duration,
}

/// The supervisor of the service directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Supervisor {
    Runit,
    S6,
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
    /// Which rung of an escalation it is, and why, for people.
    #[serde(default)]
    pub rung: Option<String>,
    pub target: Target,
    /// The lifetime of the service that the decision was made on.
    pub incarnation: Option<Incarnation>,
    /// Must still hold just before each change, unless a person started the plan.
    pub when: Condition,
    /// Holds once the breach is over; `None`: once `when` does not hold.
    #[serde(default)]
    pub clear: Option<Condition>,
    pub limits: Limits,
    pub guards: GuardSettings,
    /// The name that hosts contend for a fleet slot under; `None` where no slot is needed.
    pub fleet_scope: Option<String>,
    pub steps: Vec<PlannedStep>,
}

impl Plan {
    /// All that an approval is bound to: steps, targets and values. The incident's id, its trigger, its end condition and
    /// its descriptions do not count.
    pub fn matters(&self) -> serde_json::Value {
        let Self { policy, runbook, target, incarnation, when, limits, guards, fleet_scope, steps, .. } = self;
        let Self { incident: _, trigger: _, dry_run: _, rung: _, clear: _, .. } = self;
        serde_json::json!({
            "policy": policy,
            "runbook": runbook,
            "target": target,
            "incarnation": incarnation,
            "when": when,
            "limits": limits,
            "guards": guards,
            "fleet_scope": fleet_scope,
            "steps": steps,
        })
    }

    /// The hash of what [matters](Self::matters): SHA-256, in hex.
    pub fn hash(&self) -> String {
        Sha256::digest(self.matters().to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The name of the restarted service, as its manager knows it.
    pub fn restarted(&self) -> &str {
        match &self.target.restart {
            Some(Restart::Systemd { unit, .. }) => unit,
            _ => self.target.service.as_str(),
        }
    }

    /// The index of the first step past which there is no way back.
    pub fn pivot(&self) -> Option<usize> {
        self.steps.iter().position(|planned| planned.effect == Effect::Pivot)
    }

    /// The step before which the leaked sockets are looked at, by which the end is judged: the pivot, or the first step that
    /// changes anything.
    pub fn judged_from(&self) -> Option<usize> {
        self.pivot().or_else(|| self.steps.iter().position(|planned| planned.effect != Effect::ReadOnly))
    }

    /// Is the breach over, by these readings?
    pub fn is_over(&self, readings: &Readings) -> Truth {
        match &self.clear {
            Some(clear) => clear.truth(readings),
            None => !self.when.truth(readings),
        }
    }

    /// Changes something on the host or in a registry.
    pub fn changes_anything(&self) -> bool {
        self.steps.iter().any(|planned| planned.effect != Effect::ReadOnly)
    }

    pub fn restarts(&self) -> bool {
        self.steps.iter().any(|planned| matches!(planned.step, Step::Restart { .. }))
    }

    pub fn drains(&self) -> bool {
        self.steps.iter().any(|planned| matches!(planned.step, Step::Drain { .. }))
    }
}

/// So much of a plan's hash as people read and type.
pub fn short_hash(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

impl PlannedStep {
    pub fn all_of(runbook: &Runbook) -> Vec<Self> {
        runbook.steps.iter().map(|step| Self { effect: step.effect(), step: step.clone() }).collect()
    }
}
