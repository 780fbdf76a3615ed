//! Why nothing is being done, for every standing of a policy.

use super::{policy, seconds};
use crate::decide::detector::Watch;
use crate::decide::inaction::{Standing, reason};
use crate::model::{Mode, Policy, Readings, Reason, Signal};

#[test]
fn every_standing_has_one_reason() {
    let since = seconds(60);
    let (quiet, holding, breached) =
        (Some(Watch::Quiet), Some(Watch::Holding { since, last: since }), Some(Watch::Breached { since }));
    let refused = Some(Reason::TooFewHealthy);
    for (what, mode, value, watch, refused, breaker_is_open, expected) in [
        ("below", Mode::Auto, Some(200.0), quiet, None, false, Some(Reason::Quiet)),
        ("unknown", Mode::Auto, None, quiet, None, false, Some(Reason::SignalUnknown)),
        ("above just now", Mode::Auto, Some(201.0), quiet, None, false, Some(Reason::NotForLong)),
        ("holding", Mode::Auto, Some(201.0), holding, refused, false, Some(Reason::NotForLong)),
        ("breached, not over by its clear", Mode::Auto, Some(100.0), breached, refused, false, Some(Reason::Quiet)),
        ("breached, unknown now", Mode::Auto, None, breached, refused, false, Some(Reason::SignalUnknown)),
        ("refused", Mode::Auto, Some(201.0), breached, refused, false, refused),
        ("about to act", Mode::Auto, Some(201.0), breached, None, false, None),
        ("approved", Mode::Approve, Some(201.0), breached, None, false, None),
        ("breaker", Mode::Auto, Some(201.0), breached, None, true, Some(Reason::BreakerOpen)),
        ("breaker, refused", Mode::Auto, Some(201.0), breached, refused, true, refused),
        ("observe", Mode::Observe, Some(201.0), breached, None, false, Some(Reason::ObserveMode)),
        ("dry-run", Mode::DryRun, Some(201.0), breached, None, false, Some(Reason::DryRun)),
        ("dry-run, refused", Mode::DryRun, Some(201.0), breached, refused, false, refused),
        ("one look", Mode::Auto, Some(201.0), None, refused, false, refused),
    ] {
        let mut readings = Readings::default();
        if let Some(value) = value {
            readings.set(Signal::CloseWait, value);
        }
        let policy = Policy { mode, ..policy() };
        let standing = Standing { policy: &policy, readings: &readings, watch, refused, breaker_is_open };
        assert_eq!(reason(standing), expected, "{what}");
    }
}
