//! How often each guard said what, since the agent started; for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Answer, GUARDS, Guard, Verdict};

/// The verdicts that are counted.
const VERDICTS: [&str; 4] = ["allow", "defer", "deny", "error"];

/// Counts the verdicts on plans that are to begin or to go on; what `plan` and `explain` ask does not count.
#[derive(Debug, Default)]
pub struct Tally([[AtomicU64; VERDICTS.len()]; GUARDS.len()]);

impl Tally {
    pub(super) fn count(&self, guard: Guard, answer: &Answer) {
        let verdict = match answer {
            Ok(Verdict::Allow) => 0,
            Ok(Verdict::Defer { .. }) => 1,
            Ok(Verdict::Deny { .. }) => 2,
            Err(_) => 3,
        };
        self.0[guard as usize][verdict].fetch_add(1, Ordering::Relaxed);
    }

    /// Guard, verdict, and how often; every pair, in the guards' order.
    pub fn read(&self) -> impl Iterator<Item = (Guard, &'static str, u64)> + '_ {
        GUARDS.into_iter().flat_map(move |guard| {
            let counts = VERDICTS.iter().zip(&self.0[guard as usize]);
            counts.map(move |(verdict, count)| (guard, *verdict, count.load(Ordering::Relaxed)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::guards::deny;
    use crate::model::Reason;

    #[test]
    fn each_answer_counts_once_for_its_guard_and_no_other() {
        let tally = Tally::default();
        let until = jiff::Timestamp::UNIX_EPOCH;
        let answers: [Answer; 4] = [
            Ok(Verdict::Allow),
            Ok(Verdict::Defer { until, reason: Reason::Cooldown, detail: String::new() }),
            Ok(deny(Reason::Paused, "")),
            Err(String::new()),
        ];
        for (times, answer) in (1..).zip(&answers) {
            (0..times).for_each(|_| tally.count(Guard::FleetSlot, answer));
        }
        tally.count(Guard::Trust, &answers[0]);
        let counted: Vec<_> = tally.read().filter(|(.., count)| *count > 0).collect();
        let slot = |verdict, count| (Guard::FleetSlot, verdict, count);
        let expected =
            [(Guard::Trust, "allow", 1), slot("allow", 1), slot("defer", 2), slot("deny", 3), slot("error", 4)];
        assert_eq!(counted, expected);
        assert_eq!(tally.read().count(), GUARDS.len() * VERDICTS.len());
    }
}
