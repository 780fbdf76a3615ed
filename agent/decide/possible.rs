//! May a condition hold at all, if a service has at most so many sockets in CLOSE_WAIT? Where no policy's may, nobody
//! needs to look closer. Pure; the tick asks before it walks the kernel's table.

use crate::model::policy::Operator;
use crate::model::{Comparison, Condition, Signal};

/// The most sockets in CLOSE_WAIT that there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtMost {
    pub service: u64,
    pub host: u64,
}

/// False only where no readings within these bounds make the condition true.
pub fn may_hold(condition: &Condition, at_most: AtMost) -> bool {
    match condition {
        Condition::All(parts) => parts.iter().all(|part| may_hold(part, at_most)),
        Condition::Any(parts) => parts.iter().any(|part| may_hold(part, at_most)),
        Condition::Compare(comparison) => may_be_true(comparison, at_most),
    }
}

fn may_be_true(comparison: &Comparison, at_most: AtMost) -> bool {
    let Comparison { signal, operator, threshold } = *comparison;
    let reaches = |most: f64| match operator {
        Operator::Above => most > threshold,
        Operator::AtLeast => most >= threshold,
        // Few sockets do not keep a value from being small.
        Operator::Below | Operator::AtMost => true,
    };
    // What is zero, or not measured, as long as there is no socket; beyond that it may be anything.
    let any = if at_most.service > 0 { f64::INFINITY } else { 0.0 };
    match signal {
        Signal::CloseWait
        | Signal::CloseWaitInbound
        | Signal::CloseWaitOutbound
        | Signal::CloseWaitAged(_)
        | Signal::CloseWaitUnaccepted
        | Signal::CloseWaitUnread
        | Signal::CloseWaitSending => reaches(at_most.service as f64),
        Signal::HostCloseWait => reaches(at_most.host as f64),
        Signal::CloseWaitOldest | Signal::CloseWaitHostShare | Signal::CloseWaitGrowth(_) => reaches(any),
        // Descriptors are counted only for services that have such a socket.
        Signal::FdUsed | Signal::FdRatio | Signal::FdExhaustedIn => at_most.service > 0,
        // Counted by looks at everything, which come by themselves: once it is too many, nothing is quiet any more.
        Signal::FdClosed => reaches(0.0),
        Signal::Established => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Readings, Truth};
    use proptest::prelude::*;
    use std::time::Duration;

    const SIGNALS: [Signal; 9] = [
        Signal::CloseWait,
        Signal::CloseWaitInbound,
        Signal::CloseWaitAged(Duration::from_secs(300)),
        Signal::CloseWaitOldest,
        Signal::CloseWaitHostShare,
        Signal::HostCloseWait,
        Signal::FdRatio,
        Signal::Established,
        Signal::CloseWaitGrowth(Duration::from_secs(600)),
    ];
    const OPERATORS: [Operator; 4] = [Operator::Above, Operator::AtLeast, Operator::Below, Operator::AtMost];

    fn condition() -> impl Strategy<Value = Condition> {
        let signal = prop::sample::select(SIGNALS.to_vec());
        let comparison = (signal, prop::sample::select(OPERATORS.to_vec()), 0u32..6)
            .prop_map(|(signal, operator, threshold)| Comparison { signal, operator, threshold: threshold.into() });
        comparison.prop_map(Condition::Compare).prop_recursive(3, 12, 3, |inner| {
            let parts = prop::collection::vec(inner, 1..4);
            prop_oneof![parts.clone().prop_map(Condition::All), parts.prop_map(Condition::Any)]
        })
    }

    proptest! {
        #[test]
        fn what_holds_was_possible(condition in condition(), service in 0u64..8, others in 0u64..8, spare in 0u64..3, other in 0u32..9) {
            let mut readings = Readings::default();
            let host = service + others;
            for (signal, value) in [
                (Signal::CloseWait, service as f64),
                (Signal::CloseWaitInbound, (service / 2) as f64),
                (SIGNALS[2], (service / 3) as f64),
                (Signal::CloseWaitOldest, if service > 0 { other.into() } else { 0.0 }),
                (Signal::CloseWaitHostShare, if host > 0 { service as f64 / host as f64 } else { 0.0 }),
                (Signal::HostCloseWait, host as f64),
                (Signal::Established, other.into()),
                // What holds none does not grow (`Meter::feed`).
                (SIGNALS[8], if service > 0 { other.into() } else { -f64::from(other) }),
            ] {
                readings.set(signal, value);
            }
            if service > 0 {
                readings.set(Signal::FdRatio, other.into());
            }
            let at_most = AtMost { service: service + spare, host: host + spare };
            prop_assert!(condition.truth(&readings) != Truth::True || may_hold(&condition, at_most));
        }
    }

    #[test]
    fn a_quiet_host_needs_no_closer_look() {
        let above = |signal, threshold| Condition::Compare(Comparison { signal, operator: Operator::Above, threshold });
        let story = Condition::All(vec![above(Signal::HostCloseWait, 5300.0), above(Signal::CloseWaitHostShare, 0.2)]);
        let aged = above(SIGNALS[2], 200.0);
        let with_descriptors = Condition::Any(vec![aged.clone(), above(Signal::FdRatio, 0.8)]);
        let closed = Condition::Any(vec![aged.clone(), above(Signal::FdClosed, 50.0)]);
        for (what, condition, service, host, possible) in [
            ("as many as the threshold", &aged, 200, 900, false),
            ("one more", &aged, 201, 201, true),
            ("the host below its threshold", &story, 5300, 5300, false),
            ("the host above it", &story, 1, 5301, true),
            ("the host above it, by others", &story, 0, 5301, false),
            ("descriptors of somebody with one socket", &with_descriptors, 1, 1, true),
            ("nobody has one", &with_descriptors, 0, 0, false),
            ("what was closed is not counted by this look", &closed, 200, 200, false),
        ] {
            assert_eq!(may_hold(condition, AtMost { service, host }), possible, "{what}");
        }
    }
}
