//! Expectations of a runbook that hold already when its policy's condition has just come to hold: they would tell nothing.

use std::time::Duration;

use super::Config;
use crate::model::policy::Operator;
use crate::model::{Comparison, Policy, Runbook, Signal};

impl Config {
    /// Each with its policy and its runbook.
    pub fn already_met(&self) -> Vec<(String, String, String)> {
        self.policies
            .iter()
            .flat_map(|policy| policy.rungs().flat_map(|runbook| met_at_once(policy, runbook)))
            .collect()
    }
}

fn met_at_once(policy: &Policy, runbook: &Runbook) -> Vec<(String, String, String)> {
    let conditions = policy.when.comparisons();
    let pairs = runbook.expectations().flat_map(|expect| conditions.iter().map(move |when| (*when, expect)));
    let says = |(when, expect): (&Comparison, &Comparison)| {
        let says =
            format!("`{expect}` may hold already when `{when}` begins to: expect less than what the policy asks for");
        (policy.name.clone(), runbook.name.clone(), says)
    };
    pairs.filter(|(when, expect)| holds_at_once(when, expect)).map(says).collect()
}

/// Where the condition asks for at least so many sockets of an age, there are as many of each lower age.
fn holds_at_once(when: &Comparison, expect: &Comparison) -> bool {
    let (Some(asked), Some(expected)) = (least_age(when.signal), least_age(expect.signal)) else { return false };
    let fewest = match when.operator {
        Operator::Above => when.threshold + 1.0,
        Operator::AtLeast => when.threshold,
        Operator::Below | Operator::AtMost => return false,
    };
    let most = match expect.operator {
        Operator::Below => expect.threshold - 1.0,
        Operator::AtMost => expect.threshold,
        Operator::Above | Operator::AtLeast => return false,
    };
    expected <= asked && fewest <= most
}

/// What the signal counts: sockets that have been in CLOSE_WAIT for so long.
fn least_age(signal: Signal) -> Option<Duration> {
    match signal {
        Signal::CloseWait => Some(Duration::ZERO),
        Signal::CloseWaitAged(least) => Some(least),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expectation_holds_at_once_where_the_condition_begins_below_it() {
        let aged = |seconds| Signal::CloseWaitAged(Duration::from_secs(seconds));
        for (when, expect, at_once) in [
            ((aged(300), 10.0), (aged(60), 20.0), true),
            ((aged(300), 19.0), (aged(60), 20.0), false),
            ((aged(300), 18.0), (aged(60), 20.0), true),
            ((Signal::CloseWait, 10.0), (Signal::CloseWait, 20.0), true),
            ((aged(300), 10.0), (Signal::CloseWait, 20.0), true),
            // How many will have grown so old is another question.
            ((aged(60), 10.0), (aged(300), 20.0), false),
            ((Signal::FdRatio, 0.5), (Signal::FdRatio, 0.9), false),
        ] {
            let when = Comparison { signal: when.0, operator: Operator::Above, threshold: when.1 };
            let expect = Comparison { signal: expect.0, operator: Operator::Below, threshold: expect.1 };
            assert_eq!(holds_at_once(&when, &expect), at_once, "{when} {expect}");
        }
    }
}
