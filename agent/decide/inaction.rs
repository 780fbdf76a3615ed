//! Why nothing is being done about a service by a policy that selects it. Pure; `explain` and the metrics say it in the
//! same words.

use crate::model::{Mode, Policy, Readings, Reason, Truth};

use super::detector::Watch;

/// Where a policy stands for a service.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    pub policy: &'a Policy,
    pub readings: &'a Readings,
    /// `None`: nobody has watched.
    pub watch: Option<Watch>,
    /// The first guard's that is against acting.
    pub refused: Option<Reason>,
    /// The policy went back to dry-run for the service.
    pub breaker_is_open: bool,
}

/// `None` where the policy is about to act.
pub fn reason(standing: Standing<'_>) -> Option<Reason> {
    let Standing { policy, readings, watch, refused, breaker_is_open } = standing;
    match (policy.when.truth(readings), watch) {
        (Truth::Unknown, _) => Some(Reason::SignalUnknown),
        // Also where a breach is not over by its `clear` yet.
        (Truth::False, _) => Some(Reason::Quiet),
        (Truth::True, Some(Watch::Quiet | Watch::Holding { .. })) => Some(Reason::NotForLong),
        (Truth::True, Some(Watch::Breached { .. }) | None) => match policy.mode {
            Mode::Observe => Some(Reason::ObserveMode),
            _ if refused.is_some() => refused,
            _ if breaker_is_open => Some(Reason::BreakerOpen),
            Mode::DryRun => Some(Reason::DryRun),
            Mode::Approve | Mode::Auto => None,
        },
    }
}
