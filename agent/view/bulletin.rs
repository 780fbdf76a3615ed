//! What the loop makes known after each tick.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::explanation::Explanation;
use super::slots::FleetSlots;
use super::status::{AgentNow, IncidentNow};
use crate::model::census::NoOwner;
use crate::model::policy::Comparison;
use crate::model::{Readings, Reason, ServiceName};
use crate::store::{Breaker, EndedSoFar, Latch, Store, StoreError};

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
    /// Why the state directory cannot be written.
    pub observe_only: Option<String>,
    /// The last reload was rejected.
    pub rejected_configuration: bool,
    pub paused: Option<bool>,
    pub host_close_wait: Option<f64>,
    /// Sockets without an owner.
    pub unattributed: BTreeMap<NoOwner, u64>,
    pub services: Vec<(ServiceName, Readings)>,
    /// Services that would have been listed, but for the bound.
    pub services_left_out: usize,
    /// Of each of these services, as far as it is known without asking anybody.
    pub explained: Vec<Explanation>,
    /// What each policy compares, in its order.
    pub limits: BTreeMap<String, Vec<Comparison>>,
    pub agent: Option<AgentNow>,
    /// `None`: the hosts share no slots.
    pub fleet_slots: Option<FleetSlots>,
    /// Service and policy.
    pub breached: Vec<(ServiceName, String)>,
    pub under_way: Vec<IncidentNow>,
    /// Since the store was made.
    pub incidents: Vec<EndedSoFar>,
    pub latched: Vec<Latch>,
    pub open_breakers: Vec<Breaker>,
    /// Undelivered messages by destination, with when the oldest was written.
    pub outbox: BTreeMap<String, (u64, Option<Timestamp>)>,
    /// Slots of the fleet that are this host's, by the name that hosts contend under.
    pub slots: BTreeMap<String, u64>,
    /// Of each certificate in use, the next end.
    pub certificates: BTreeMap<CertificateOf, Timestamp>,
    /// Guard, verdict, and how often.
    pub verdicts: Vec<(&'static str, &'static str, u64)>,
}

impl Bulletin {
    /// What the store has at `now`, and nothing of the running agent. `destinations`: also those that have taken all
    /// messages.
    pub fn of_store<'a>(
        store: &Store,
        destinations: impl Iterator<Item = &'a str>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let mut outbox: BTreeMap<_, _> = destinations.map(|name| (name.to_owned(), (0, None))).collect();
        for (to, undelivered) in store.undelivered_by_destination()? {
            outbox.insert(to, (undelivered.count.into(), Some(undelivered.oldest)));
        }
        Ok(Self {
            observe_only: store.health().says(),
            paused: Some(store.paused(now)?.is_some()),
            under_way: store.under_way()?.into_iter().map(IncidentNow::from).collect(),
            incidents: store.ended_so_far()?,
            latched: store.latches()?,
            open_breakers: store.breakers()?,
            outbox,
            slots: store.slots_noted()?.into_iter().map(|(scope, count)| (scope, count.into())).collect(),
            ..Self::default()
        })
    }
}

impl Bulletin {
    /// For each of the services, and each policy that selects it (`None`: none does), why nothing is being done.
    pub fn held(&self) -> impl Iterator<Item = (&ServiceName, Option<&str>, Reason)> {
        self.explained.iter().flat_map(|explained| {
            let by_none = explained.nothing_is_done.map(|reason| (None, reason));
            let by_each =
                explained.policies.iter().filter_map(|by| Some((Some(by.policy.as_str()), by.nothing_is_done?)));
            by_none.into_iter().chain(by_each).map(|(policy, reason)| (&explained.service, policy, reason))
        })
    }
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
