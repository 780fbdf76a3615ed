//! What the loop makes known after each tick.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::census::NoOwner;
use crate::model::{Readings, Reason, ServiceName};

/// The agent as it was at its last tick. What could not be found out is absent.
#[derive(Clone, Debug, Default)]
pub struct Bulletin {
    /// Of unwait.
    pub version: &'static str,
    /// When the agent started: by the wall clock, and since boot.
    pub started: (Timestamp, Duration),
    /// When the last tick ended, since boot.
    pub ticked: Option<Duration>,
    /// From one tick to the next, at present.
    pub period: Duration,
    pub work: Work,
    /// When everything was last looked at.
    pub looked: Option<Timestamp>,
    /// Why the last look gave nothing, or nothing that can be trusted.
    pub not_measuring: Option<String>,
    pub observe_only: bool,
    pub paused: Option<bool>,
    pub host_close_wait: Option<f64>,
    /// Sockets without an owner.
    pub unattributed: BTreeMap<NoOwner, u64>,
    pub services: Vec<(ServiceName, Readings)>,
    /// Services that would have been listed, but for the bound.
    pub services_left_out: usize,
    pub held: Vec<HeldService>,
    /// Service and policy.
    pub breached: Vec<(ServiceName, String)>,
    pub under_way: Vec<UnderWay>,
    pub incidents: Vec<Incidents>,
    /// Service and reason.
    pub latched: Vec<(String, String)>,
    /// Service and policy.
    pub open_breakers: Vec<(String, String)>,
    /// Undelivered messages by destination, with when the oldest was written.
    pub outbox: BTreeMap<String, (u64, Option<Timestamp>)>,
    /// Slots of the fleet that are this host's, by the name that hosts contend under.
    pub slots: BTreeMap<String, u64>,
    /// Of each certificate in use, the next end.
    pub certificates: BTreeMap<CertificateOf, Timestamp>,
    /// Guard, verdict, and how often.
    pub verdicts: Vec<(&'static str, &'static str, u64)>,
}

/// Which certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateOf {
    /// Whose connections it is seen at: `registry consul`.
    pub connection: String,
    /// `own`, `theirs`, or an `authority`'s.
    pub whose: &'static str,
    pub subject: String,
}

/// What the loop has done since it started.
#[derive(Clone, Debug, Default)]
pub struct Work {
    pub ticks: u64,
    pub in_ticks: Duration,
    /// CPU time of the looks.
    pub looking: Duration,
    /// Looks that failed, or could not be trusted.
    pub failed_looks: u64,
    /// By policy.
    pub breaches: BTreeMap<String, u64>,
}

/// Why nothing is being done about a service.
#[derive(Clone, Debug)]
pub struct HeldService {
    pub service: ServiceName,
    /// `None`: no policy selects it.
    pub policy: Option<String>,
    pub reason: Reason,
}

/// A saga that has not come to rest.
#[derive(Clone, Debug)]
pub struct UnderWay {
    pub service: ServiceName,
    pub policy: String,
    pub runbook: String,
    /// The step's name, `unwinding` or `withdrawing`.
    pub step: &'static str,
    pub dry_run: bool,
}

/// How many incidents ended so, since the store was made.
#[derive(Clone, Debug)]
pub struct Incidents {
    pub outcome: String,
    pub reason: String,
    pub dry_run: bool,
    pub count: u64,
}
