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
    /// It holds, but not for the policy's whole `for` yet.
    NotForLong,
    /// Whether it holds cannot be known now.
    SignalUnknown,
    /// `mode: observe`.
    ObserveMode,
    /// `mode: dry-run`.
    DryRun,

    // Why nothing is done, by guard.
    ObserveOnly,
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
    /// What cannot be taken back was begun, and the service is not as it was.
    NotAsBefore,
    /// The runbook ends with a person.
    NeedsPerson,
    /// An action did not help twice, or was not seen to three times in a row: the policy only says what it would do.
    BreakerOpen,

    // How it ended well.
    Recovered,
    NotHelped,
    /// Whether it helped could not be seen.
    Unverified,
    EvidenceKept,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What it means and what to do, in one sentence for the person who reads it.
    pub fn says(self) -> &'static str {
        match self {
            Self::NoPolicy => "no policy selects the service",
            Self::Quiet => "the policy's condition does not hold",
            Self::NotForLong => "the policy's condition has not held for its whole `for` yet",
            Self::SignalUnknown => {
                "a signal of the policy's condition cannot be measured now, and an unknown is never a breach"
            }
            Self::ObserveMode => "the policy's mode is observe: it tells of a breach, and does nothing",
            Self::DryRun => "the policy's mode is dry-run: it says what it would do, and does nothing",
            Self::ObserveOnly => {
                "the agent cannot trust its own state directory, so it only watches; see `unwait status`"
            }
            Self::Paused => "actions are paused; `unwait resume` ends that",
            Self::WarmUp => "the agent has just started and wants to have watched for a while first",
            Self::Latched => "an earlier incident needs a person; `unwait resolve SERVICE` unlatches it",
            Self::RungsSpent => "every runbook of the policy was tried and none helped; a person must look",
            Self::Protected => "the service is protected; a policy must name it in full to act on it",
            Self::Silenced => "a person silenced it for a while; `unwait silence --end` ends that",
            Self::DenyWindow => "the policy's windows deny action at this hour",
            Self::OutsideWindows => "the policy's windows allow action at other hours only",
            Self::NotActive => "the service is not running",
            Self::Unstable => "the service is starting, stopping, or has a job under way",
            Self::Frozen => {
                "the service is frozen (`systemctl freeze`, `docker pause`), and a restart would fail or thaw it"
            }
            Self::WouldNotStart => "the service would not start again once it is ended; mend that first",
            Self::RecentlyRestarted => "the service was restarted a short while ago and is left to settle",
            Self::OutOfTraffic => "the service was out of traffic before us: taken out by others",
            Self::ProbeUnusable => {
                "the service's health could not be asked after a restart, so it would stay out of traffic; mend the probe"
            }
            Self::HeldElsewhere => {
                "other processes hold the leaked sockets, so a restart of the service would not free them"
            }
            Self::Cooldown => "an earlier incident ended a short while ago",
            Self::ServiceBudget => "the service's budget of incidents is spent",
            Self::HostBudget => "this host's budget of incidents is spent",
            Self::SagaRunning => "an incident is under way",
            Self::Jitter => "each host waits a while of its own after a breach, so that a fleet does not act in step",
            Self::CommonCause => {
                "so many instances are in breach that the cause is hardly this one; look for what they share"
            }
            Self::NeedsApproval => "the policy acts when a person has approved the plan, and nobody was asked yet",
            Self::AwaitingApproval => "a person is asked to approve the plan; `unwait status` shows it",
            Self::ApprovalDenied => "a person denied the plan a short while ago",
            Self::ApprovalExpired => "nobody decided on the plan in time; people are asked again later",
            Self::NoRegistry => "no registry is bound to the service, so nobody can say how many others are healthy",
            Self::TooFewHealthy => "too few other instances are healthy",
            Self::SlotTaken => "no slot of the fleet is free for this service",
            Self::GuardFailed => "a guard could not be asked, which counts as no",
            Self::NotActionable => "the runbook needs what the service does not have; `unwait check` says what",
            Self::EvidenceNotKept => "the evidence could not be kept, so nothing was touched",
            Self::JournalNotWritable => "the journal could not be written, so nothing further was changed",
            Self::DrainFailed => "the service could not be drained",
            Self::DrainIneffective => {
                "clients go on connecting although the registry shows the drain, so the service was not restarted under \
                 them; `unwait rearm` once the drain is mended"
            }
            Self::DrainTimedOut => "connections remained when the wait for drained ended",
            Self::StepFailed => "a step failed",
            Self::ConditionCleared => "the condition no longer held just before the change",
            Self::NothingToDo => "a step found nothing to do, so nothing was changed",
            Self::MeasurementFailed => "the signals could not be measured afresh just before the change",
            Self::IncarnationChanged => "the service was restarted by somebody else meanwhile",
            Self::GuardRefused => "a guard refused just before the change",
            Self::ShuttingDown => "the agent was asked to stop before the point of no return",
            Self::AgentRestarted => "the agent died before the point of no return",
            Self::RestartFailed => "the restart failed",
            Self::RestartUnknown => "whether the restart took place is not known",
            Self::StartLimitHit => {
                "systemd's start limit was hit; see `systemctl status`, then `systemctl reset-failed`"
            }
            Self::Unhealthy => "the service did not become healthy after what was done to it",
            Self::UnhealthyAfterRestore => "the service became unhealthy again while it was watched in traffic",
            Self::GoneWhileDrained => "the service was restarted or died while it was drained; it is not put back",
            Self::UnhealthierThanDrained => "the service is less healthy than when it was drained; it is not put back",
            Self::RecordChanged => "the registry's record is no longer the one that was drained; it is left as it is",
            Self::OrphanedMarker => "the registry holds a drain of ours that no incident knows of",
            Self::JournalUnreadable => "the journal of an open incident cannot be read back, so it is not gone on with",
            Self::ReloadFailed => "the reload failed",
            Self::RecycleFailed => "not all of the workers ended, or the master did not start as many new ones",
            Self::CloseFailed => "the sockets could not be closed",
            Self::NotAsBefore => "what cannot be taken back was begun, and the service is not as it was before",
            Self::NeedsPerson => "the runbook leaves the rest to a person",
            Self::BreakerOpen => {
                "what the policy does was not seen to help, so it only says what it would do; `unwait rearm`"
            }
            Self::Recovered => "every step is done, and it helped",
            Self::NotHelped => "every step is done, and it did not help",
            Self::Unverified => "every step is done, and whether it helped is not known",
            Self::EvidenceKept => "the evidence is kept; nothing was to be changed",
        }
    }
}
