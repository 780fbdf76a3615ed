//! What is held, and how often people are told of it.

use std::time::Duration;

use jiff::Timestamp;

use crate::decide::guards::Refusal;
use crate::model::Reason;

/// With which refusal nothing is done about a breach, and which reason people were last told, and when.
#[derive(Clone, Debug)]
pub struct HeldBreach {
    pub refusal: Refusal,
    pub told: Option<(Reason, Timestamp)>,
}

/// The same refusal is told again after this long.
const TELL_HELD_EVERY: Duration = Duration::from_secs(3600);
/// Another refusal than the one told last is told no sooner than this after it.
const TELL_CHANGED_EVERY: Duration = Duration::from_secs(30);

/// Is this refusal to be told at `now`? `before` is what was held at the last look.
pub fn is_due(before: Option<&HeldBreach>, refusal: &Refusal, now: Timestamp) -> bool {
    if is_never_told(refusal.reason) {
        return false;
    }
    let Some((reason, at)) = before.and_then(|before| before.told) else { return true };
    now.duration_since(at).unsigned_abs() >= if reason != refusal.reason { TELL_CHANGED_EVERY } else { TELL_HELD_EVERY }
}

/// Who is asked for an approval needs not be told as well that it is waited for; and the jitter of each breach is over
/// before anybody has read of it. `status` and `explain` show both.
fn is_never_told(reason: Reason) -> bool {
    matches!(reason, Reason::NeedsApproval | Reason::AwaitingApproval | Reason::Jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::guards::Guard;

    #[test]
    fn a_refusal_is_told_at_once_then_hourly_and_another_one_half_a_minute_later() {
        let refusal = |reason| Refusal { guard: Guard::Trust, reason, detail: String::new(), until: None };
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        // (what was held, what was told and when, what is held now, when, is it told)
        for (before, told, now_held, now, due) in [
            (None, None, Reason::Paused, 0, true),
            (Some(Reason::Paused), Some((Reason::Paused, 0)), Reason::Paused, 3_599, false),
            (Some(Reason::Paused), Some((Reason::Paused, 0)), Reason::Paused, 3_600, true),
            (Some(Reason::Paused), Some((Reason::Paused, 0)), Reason::Cooldown, 29, false),
            (Some(Reason::Paused), Some((Reason::Paused, 0)), Reason::Cooldown, 30, true),
            // It changed too soon to be told; it has not been told since.
            (Some(Reason::Cooldown), Some((Reason::Paused, 0)), Reason::Cooldown, 30, true),
            // It changed, and changed back, before that was told.
            (Some(Reason::Cooldown), Some((Reason::Paused, 0)), Reason::Paused, 30, false),
            (None, None, Reason::Jitter, 0, false),
            (None, None, Reason::NeedsApproval, 0, false),
            // What was no news does not hold up what is.
            (Some(Reason::Jitter), None, Reason::TooFewHealthy, 1, true),
            (Some(Reason::AwaitingApproval), None, Reason::ApprovalDenied, 1, true),
        ] {
            let told = told.map(|(reason, second)| (reason, at(second)));
            let before = before.map(|reason| HeldBreach { refusal: refusal(reason), told });
            let found = is_due(before.as_ref(), &refusal(now_held), at(now));
            assert_eq!(found, due, "{before:?}, then {now_held} at {now}");
        }
    }
}
