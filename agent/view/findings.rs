//! What `unwait check` found: of the files, and of the host and the parties that they name.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Diagnostics;
use crate::model::{HeldMode, Mode};

/// What a configuration that is no error in itself will not do, or only in part. The JSON's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    FailingTest,
    NoAnswer,
    AnotherDirectory,
    NotRegistered,
    NoSuchService,
    NotActionable,
    TwoPoliciesAct,
    BothLeakPolicies,
    ShortSoak,
    MetAtOnce,
    OlderThanTheBreach,
    ShortDeadline,
    LabelOfNoService,
    RandomId,
    CertificateEndsSoon,
    Caution,
    Limit,
}

impl FindingKind {
    /// What follows where nothing is changed; empty where the finding says so itself.
    fn consequence(self) -> &'static str {
        match self {
            Self::FailingTest => "the policy does not decide as its author expects",
            Self::NoAnswer => "whatever needs it is held until it answers",
            Self::AnotherDirectory => {
                "they are judged with that agent's secrets and capabilities, and it does not work by them"
            }
            Self::NotRegistered => "the service cannot be drained, so nothing is done for it",
            Self::NoSuchService => "the policy never acts on it",
            Self::NotActionable => "the policy tells of a leak there, and does nothing about it",
            Self::TwoPoliciesAct => "both act on one leak, each by its own limits and cooldown",
            Self::BothLeakPolicies => "both answer one leak: remove one of the two files",
            Self::ShortSoak => "verify may judge by looks from before the restart: soak for three intervals or longer",
            Self::MetAtOnce => "verify may pass though nothing got better",
            Self::OlderThanTheBreach => "the step ends without a change where all leaked sockets are younger",
            Self::ShortDeadline => "the step is given up while the service still does what its own settings allow",
            Self::LabelOfNoService => "the policy selects nothing by that label",
            Self::RandomId => "a restarted service is not found under that id, and is not put back",
            Self::CertificateEndsSoon => "connections are refused from then on",
            Self::Caution | Self::Limit => "",
        }
    }

    /// Does it make `check` fail?
    pub fn is_wrong(self) -> bool {
        matches!(self, Self::FailingTest | Self::NoAnswer)
    }
}

/// One thing that whoever wrote the configuration should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    pub finding: FindingKind,
    /// The policy, runbook, service or party.
    #[serde(rename = "where")]
    pub place: String,
    pub what: String,
    /// What follows where nothing is changed.
    pub consequence: String,
}

impl Finding {
    pub fn new(finding: FindingKind, place: impl Into<String>, what: impl Into<String>) -> Self {
        let (place, what) = (place.into(), what.into());
        Self { finding, place, what, consequence: finding.consequence().into() }
    }
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// False: `errors` is not empty, and nothing else was looked at.
    pub ok: bool,
    pub directory: PathBuf,
    pub judged_by: Judge,
    pub errors: Diagnostics,
    pub policies: Vec<CheckedPolicy>,
    pub runbooks: usize,
    /// Services that the host's file names.
    pub services: usize,
    pub findings: Vec<Finding>,
    /// Where each party was asked.
    pub asked: Vec<AskedParty>,
}

impl Checked {
    pub fn refused(directory: PathBuf, judged_by: Judge, errors: Diagnostics) -> Self {
        let (policies, findings, asked) = (Vec::new(), Vec::new(), Vec::new());
        Self { ok: false, directory, judged_by, errors, policies, runbooks: 0, services: 0, findings, asked }
    }
}

/// The process that read the files: its secrets and its capabilities count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judge {
    pub pid: u32,
    pub version: String,
    /// The directory that a running agent works by; `None`: no agent judged, but the command itself.
    pub agent_reads: Option<PathBuf>,
}

impl Judge {
    pub fn this_process(agent_reads: Option<PathBuf>) -> Self {
        Self { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").into(), agent_reads }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedPolicy {
    pub policy: String,
    /// The mode in force.
    pub mode: Mode,
    /// The policy asks for more than `mode_at_most` allows.
    #[serde(default)]
    pub held_mode: Option<HeldMode>,
    /// In the order in which they are tried.
    pub runbooks: Vec<String>,
}

/// One party that was asked, and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedParty {
    /// `registry consul`.
    pub party: String,
    /// Its address, where there may be several.
    pub address: Option<String>,
    /// What it calls itself, with its version.
    pub server: Option<String>,
    pub ok: bool,
    /// What was read, or why it could not be.
    pub says: String,
    /// Where TLS was spoken.
    pub tls: Option<TlsShown>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsShown {
    pub version: Option<String>,
    pub certificate: Option<CertificateShown>,
    pub asks_for_ours: bool,
    pub own: Option<CertificateShown>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateShown {
    pub subject: String,
    pub issuer: String,
    pub names: Vec<String>,
    pub until: Timestamp,
}
