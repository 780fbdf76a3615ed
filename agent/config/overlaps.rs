//! Policies that get into each other's way, and runbooks that judge too soon.

use std::time::Duration;

use super::Config;
use crate::model::policy::Selector;
use crate::model::{Mode, Policy, ServiceName, Step, duration};

/// Looks that a verdict after a restart wants: one may still see the former process, one sees what it left, one confirms.
const LOOKS: u32 = 3;

/// As they are shipped: one in place of the other.
const LEAK_POLICIES: [&str; 2] = ["close-wait-leak", "close-wait-climb"];

impl Config {
    /// Runbooks of policies whose soak is over before so many looks have been taken, and what to write.
    pub fn short_soaks(&self) -> Vec<(String, String)> {
        let shortest = self.host.interval * LOOKS;
        let runbooks = self.policies.iter().flat_map(Policy::rungs);
        let soaks = runbooks.flat_map(|runbook| runbook.steps.iter().map(move |step| (&runbook.name, step)));
        let short = |(runbook, step): (&String, &Step)| match step {
            Step::Verify { soak, .. } if *soak < shortest => Some((runbook.clone(), says(*soak, shortest))),
            _ => None,
        };
        soaks.filter_map(short).collect()
    }

    /// Pairs of policies of `mode: auto` that select the same service, and which.
    pub fn two_that_act(&self) -> Vec<(String, String)> {
        let acting: Vec<&Policy> = self.policies.iter().filter(|policy| policy.mode == Mode::Auto).collect();
        let pairs =
            acting.iter().enumerate().flat_map(|(at, one)| acting[at + 1..].iter().map(move |other| (*one, *other)));
        let both = |(one, other): (&Policy, &Policy)| {
            let common = self.selected_by_both(one, other)?;
            Some((format!("{}, {}", one.name, other.name), format!("both are `mode: auto` and select {common}")))
        };
        pairs.filter_map(both).collect()
    }

    /// A service, or a pattern, that both select.
    fn selected_by_both(&self, one: &Policy, other: &Policy) -> Option<String> {
        let named =
            [one, other].into_iter().flat_map(|policy| &policy.services).filter_map(|selector| match selector {
                Selector::Name(name) => ServiceName::parse(name).ok(),
                Selector::Glob(_) | Selector::Label { .. } => None,
            });
        let mut known = self.host.services.keys().cloned().chain(named);
        let selects = |policy: &Policy, service: &ServiceName| self.selects(policy, service).is_some();
        let service = known.find(|service| selects(one, service) && selects(other, service));
        service.map(|service| service.to_string()).or_else(|| {
            let globs = |policy: &Policy| {
                let glob = |selector: &Selector| match selector {
                    Selector::Glob(glob) => Some(glob.glob().glob().to_owned()),
                    Selector::Name(_) | Selector::Label { .. } => None,
                };
                policy.services.iter().filter_map(glob).collect::<Vec<_>>()
            };
            let others = globs(other);
            globs(one).into_iter().find(|glob| others.contains(glob)).map(|glob| format!("`{glob}`"))
        })
    }

    /// Both of the shipped policies that answer one leak, where neither only observes.
    pub fn both_leak_policies(&self) -> Option<(String, String)> {
        let decides =
            |name: &&str| self.policies.iter().any(|policy| policy.name == **name && policy.mode != Mode::Observe);
        LEAK_POLICIES.iter().all(decides).then(|| {
            let [leak, climb] = LEAK_POLICIES;
            (LEAK_POLICIES.join(", "), format!("both are installed; {climb} is meant in place of {leak}"))
        })
    }
}

fn says(soak: Duration, shortest: Duration) -> String {
    let (soak, shortest) = (duration::format(soak), duration::format(shortest));
    format!("verify: `soak: {soak}` is shorter than three looks, which take {shortest}")
}
