//! What of a runbook does not go with its policy: expectations that hold already when the condition has just come to hold, and
//! would tell nothing; steps that look for sockets which are older than those of the breach.

use std::time::Duration;

use super::Config;
use crate::model::policy::Operator;
use crate::model::runbook::Recycle;
use crate::model::{Comparison, Policy, Runbook, Signal, Step, duration};

impl Config {
    /// Each with its policy and its runbook.
    pub fn already_met(&self) -> Vec<(String, String, String)> {
        self.policies
            .iter()
            .flat_map(|policy| policy.rungs().flat_map(|runbook| met_at_once(policy, runbook)))
            .collect()
    }
}

impl Config {
    /// Steps that count only sockets older than those by which their policy comes to be breached: each with its policy and
    /// its runbook.
    pub fn too_old(&self) -> Vec<(String, String, String)> {
        let rungs = self.policies.iter().flat_map(|policy| policy.rungs().map(move |runbook| (policy, runbook)));
        let says = |(policy, runbook): (&Policy, &Runbook)| {
            let aged = policy.when.age()?;
            let says = runbook.steps.iter().find_map(|step| finds_none(aged, policy.hold, step))?;
            Some((policy.name.clone(), runbook.name.clone(), says))
        };
        rungs.filter_map(says).collect()
    }
}

/// Of a policy that counts sockets of an age for its `for`; one that counts them at any age says nothing of how old they grow.
fn finds_none(aged: Duration, hold: Duration, step: &Step) -> Option<String> {
    let (Step::RecycleWorkers(Recycle { older_than, .. }) | Step::CloseSockets { older_than, .. }) = step else {
        return None;
    };
    let is_sure = !aged.is_zero() && *older_than > aged + hold;
    let [acts_at, aged, older_than] = [aged + hold, aged, *older_than].map(duration::format);
    is_sure.then(|| {
        format!(
            "{} takes only sockets of {older_than} or more (`older_than`), but the policy acts on sockets of some {acts_at}: \
             set `older_than` to {aged} or less",
            step.name()
        )
    })
}

fn met_at_once(policy: &Policy, runbook: &Runbook) -> Vec<(String, String, String)> {
    let conditions = policy.when.comparisons();
    let pairs = runbook.expectations().flat_map(|expect| conditions.iter().map(move |when| (*when, expect)));
    let says = |(when, expect): (&Comparison, &Comparison)| {
        let says = format!(
            "verify passes at `{expect}`, but the policy acts at `{when}` already: set a value below {}",
            when.threshold
        );
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
    use crate::model::runbook::{Floor, StopSignal};

    #[test]
    fn a_step_that_looks_for_older_sockets_than_the_breach_has_may_find_none() {
        let seconds = Duration::from_secs;
        let recycle = |older_than| {
            Step::RecycleWorkers(Recycle {
                older_than,
                batch: 1,
                floor: Floor::Count(1),
                signal: StopSignal::Term,
                wait: seconds(1),
                kill_after: None,
            })
        };
        for (aged, hold, older_than, found) in [
            (60, 120, 300, true),
            (60, 240, 300, false),
            (300, 120, 300, false),
            (300, 120, 421, true),
            (0, 60, 300, false),
        ] {
            let older_than = seconds(older_than);
            for step in [recycle(older_than), Step::CloseSockets { older_than, at_most: 9 }] {
                let says = finds_none(seconds(aged), seconds(hold), &step);
                assert_eq!(says.is_some(), found, "{aged} {hold} {says:?}");
            }
        }
        let says = finds_none(seconds(60), seconds(120), &recycle(seconds(300))).unwrap();
        assert_eq!(
            says,
            "recycle_workers takes only sockets of 5m or more (`older_than`), but the policy acts on sockets of some 3m: set \
             `older_than` to 1m or less"
        );
    }

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
