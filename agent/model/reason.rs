//! Why: one enum for the log line, the metric, the chat message, `explain` and the journal.

use serde::{Deserialize, Serialize};

/// A reason code. Its text (`as_str`) is stable: people alert on it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::Display,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    // Why nothing is done, before a guard is asked.
    /// No policy selects the service.
    NoPolicy,
    /// The policy's condition does not hold.
    Quiet,
    /// The condition holds, but not for the policy's whole `for` yet.
    NotForLong,
    /// A signal of the condition is unknown, so the condition is neither true nor false.
    SignalUnknown,
    /// `mode: observe`.
    ObserveMode,
    /// `mode: dry-run`.
    DryRun,

    // Why nothing is done, by guard.
    ObserveOnly,
    /// `mode_at_most` of the host's file.
    ModeAtMost,
    Paused,
    WarmUp,
    Latched,
    /// Every rung of the policy was tried, and none helped.
    RungsSpent,
    Protected,
    Silenced,
    /// A deny-window matches.
    DenyWindow,
    /// There are allow-windows, and none matches.
    OutsideWindows,
    NotActive,
    Unstable,
    /// The cgroup freezer has stopped it.
    Frozen,
    RecentlyRestarted,
    /// Something is known to be in the way of starting it again.
    WouldNotStart,
    OutOfTraffic,
    /// The service's health cannot be asked: a certificate, a name, a program.
    ProbeUnusable,
    /// The leaked sockets are held by processes that a restart of the service does not end.
    HeldElsewhere,
    Cooldown,
    ServiceBudget,
    HostBudget,
    SagaRunning,
    Jitter,
    /// Much of the fleet is in breach.
    CommonCause,
    /// A guard that speaks for the fleet refused a short while ago.
    NotCalm,
    /// Alerts fire that the policy holds for.
    AlertsFiring,
    /// The owner's command says no.
    Vetoed,
    /// `mode: approve`, and nobody was asked about this plan.
    NeedsApproval,
    AwaitingApproval,
    ApprovalDenied,
    ApprovalExpired,
    NoRegistry,
    TooFewHealthy,
    SlotTaken,
    /// A guard could not be asked: an error is a deny.
    GuardFailed,
    /// The runbook asks for what the service does not have; `check` says what.
    NotActionable,

    // Why a saga ended before its pivot.
    EvidenceNotKept,
    JournalNotWritable,
    DrainFailed,
    /// Clients went on connecting as before.
    DrainIneffective,
    DrainTimedOut,
    StepFailed,
    ConditionCleared,
    /// A step found nothing that it could do.
    NothingToDo,
    MeasurementFailed,
    IncarnationChanged,
    GuardRefused,
    ShuttingDown,
    AgentRestarted,

    // Why it needs a person.
    RestartFailed,
    RestartUnknown,
    StartLimitHit,
    Unhealthy,
    UnhealthyAfterRestore,
    GoneWhileDrained,
    UnhealthierThanDrained,
    RecordChanged,
    OrphanedMarker,
    JournalUnreadable,
    ReloadFailed,
    RecycleFailed,
    CloseFailed,
    /// An action that cannot be undone was begun, and the service is not as before.
    NotAsBefore,
    /// The runbook ends with a person.
    NeedsPerson,
    /// An action did not help twice, or was not seen to three times in a row: the policy only says what it would do.
    BreakerOpen,

    // How it ended well.
    Recovered,
    NotHelped,
    /// The signals could not show if the action helped.
    Unverified,
    EvidenceKept,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// One sentence for a person: the meaning of the reason, and the next step.
    pub fn says(self) -> &'static str {
        match self {
            Self::NoPolicy => "no policy selects the service",
            Self::Quiet => "the policy's condition does not hold",
            Self::NotForLong => "the policy's condition has not held for its whole `for` yet",
            Self::SignalUnknown => {
                "a signal of the policy's condition cannot be measured now; an unknown signal never counts as a breach"
            }
            Self::ObserveMode => "the policy's mode is observe: it reports a breach and does nothing",
            Self::DryRun => "the policy's mode is dry-run: it says what it would do, and does nothing",
            Self::ObserveOnly => "the agent cannot write its state directory, so no action begins; see `unwait status`",
            Self::ModeAtMost => {
                "the host's file lets no policy and no person act here; see `mode_at_most` in agent.yaml"
            }
            Self::Paused => "actions are paused; `unwait resume` ends the pause",
            Self::WarmUp => "the agent has just started, and acts after `warm_up`",
            Self::Latched => {
                "an earlier incident ended stuck and locked the service; a person unlocks it by `unwait resolve \
                 SERVICE`"
            }
            Self::RungsSpent => {
                "every runbook of the policy was tried, and none helped; a person must look at the service"
            }
            Self::Protected => "the service is protected; a policy must name it in full to act on it",
            Self::Silenced => {
                "a person silenced the service or the host for a while; `unwait silence --end` ends the silence"
            }
            Self::DenyWindow => "the policy's windows deny action at this hour",
            Self::OutsideWindows => "the policy's windows allow action at other hours only",
            Self::NotActive => "the service is not running",
            Self::Unstable => "the service is starting, stopping, or has a job under way",
            Self::Frozen => {
                "the service is frozen (`systemctl freeze`, `docker pause`), and a restart would fail or thaw it"
            }
            Self::WouldNotStart => "the service would not start again after a stop; mend that first",
            Self::RecentlyRestarted => "the service was restarted a short while ago, and gets time to settle",
            Self::OutOfTraffic => "the service is out of traffic already: somebody else took it out",
            Self::ProbeUnusable => {
                "the service's health probe does not work, so the service would stay out of traffic after a restart; \
                 mend the probe"
            }
            Self::HeldElsewhere => {
                "other processes hold the leaked sockets, so a restart of the service would not free them"
            }
            Self::Cooldown => "an earlier incident ended a short while ago",
            Self::ServiceBudget => "the service's budget of incidents is spent",
            Self::HostBudget => "this host's budget of incidents is spent",
            Self::SagaRunning => "an incident is under way",
            Self::Jitter => {
                "this host waits a random while after a breach, so that the hosts of a fleet do not act at the same \
                 time"
            }
            Self::CommonCause => {
                "so many instances are in breach that the cause is hardly this one; look for a dependency that they \
                 share"
            }
            Self::NotCalm => {
                "`common_cause` or `min_healthy` refused a short while ago; the policy waits until the fleet has been calm \
                 for `guards.calm`"
            }
            Self::AlertsFiring => "alerts fire that the policy's `guards.alerts` name",
            Self::Vetoed => "the owner's command `guards.veto` says no",
            Self::NeedsApproval => "the policy needs a person's approval of the plan, and nobody was asked yet",
            Self::AwaitingApproval => "a person has been asked to approve the plan; `unwait status` shows the request",
            Self::ApprovalDenied => "a person denied the plan a short while ago",
            Self::ApprovalExpired => "nobody decided on the plan in time; people are asked again later",
            Self::NoRegistry => {
                "no registry is bound to the service, so the number of other healthy instances is unknown"
            }
            Self::TooFewHealthy => "too few other instances are healthy",
            Self::SlotTaken => "no slot of the fleet is free for this service",
            Self::GuardFailed => "a guard could not be checked, and an error counts as a refusal",
            Self::NotActionable => "the service lacks something that the runbook needs; `unwait check` names it",
            Self::EvidenceNotKept => "the evidence could not be stored, so nothing was changed",
            Self::JournalNotWritable => "the journal could not be stored, so nothing further was changed",
            Self::DrainFailed => "the service could not be drained",
            Self::DrainIneffective => {
                "clients go on connecting although the registry shows the drain, so the service was not restarted; \
                 find out why clients do not follow the drain, then run `unwait rearm POLICY`"
            }
            Self::DrainTimedOut => "connections remained when the wait for an empty service ended",
            Self::StepFailed => "a step failed",
            Self::ConditionCleared => "the condition no longer held just before the change",
            Self::NothingToDo => "a step found nothing to do, so nothing was changed",
            Self::MeasurementFailed => "the signals could not be measured afresh just before the change",
            Self::IncarnationChanged => "somebody else restarted the service meanwhile",
            Self::GuardRefused => "a guard refused just before the change",
            Self::ShuttingDown => "the agent was asked to stop before the point of no return",
            Self::AgentRestarted => "the agent died before the point of no return",
            Self::RestartFailed => "the restart failed",
            Self::RestartUnknown => "the result of the restart is unknown",
            Self::StartLimitHit => {
                "systemd's start limit was reached; see `systemctl status`, then `systemctl reset-failed`"
            }
            Self::Unhealthy => "the service did not become healthy after the action",
            Self::UnhealthyAfterRestore => "the service became unhealthy again after it was back in traffic",
            Self::GoneWhileDrained => "the service was restarted or died while it was drained; it stays out of traffic",
            Self::UnhealthierThanDrained => {
                "the service is less healthy than when it was drained; it stays out of traffic"
            }
            Self::RecordChanged => {
                "somebody else changed the service's record in the registry since the drain; the record is left \
                 unchanged"
            }
            Self::OrphanedMarker => {
                "the registry shows a drain by this host that no incident knows of, so nothing takes it back: a person must, by \
                 `unwait resolve SERVICE --leave` and in the registry"
            }
            Self::JournalUnreadable => {
                "the journal of an open incident cannot be read, so the incident stops here: a person must decide by `unwait \
                 resolve SERVICE`"
            }
            Self::ReloadFailed => "the reload failed",
            Self::RecycleFailed => "some workers did not end, or the master did not start as many new ones",
            Self::CloseFailed => "the sockets could not be closed",
            Self::NotAsBefore => "an action that cannot be undone was begun, and the service is not as it was before",
            Self::NeedsPerson => "the runbook leaves the rest to a person",
            Self::BreakerOpen => {
                "the policy's earlier actions did not help, so it acts as in a dry run until `unwait rearm`"
            }
            Self::Recovered => "every step is done, and it helped",
            Self::NotHelped => "every step is done, and it did not help",
            Self::Unverified => "every step is done, but the signals do not show if it helped",
            Self::EvidenceKept => "the evidence is stored; the runbook changes nothing",
        }
    }
}
