//! A policy's own tests: its condition over the samples that it gives, with the detector that the agent uses. No
//! network, no root, no clock.

use std::time::Duration;

use super::detector::{Change, Detector};
use crate::model::{Expected, Policy, PolicyTest, ServiceName, duration};

/// How one test went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsal {
    pub policy: String,
    pub name: String,
    /// The difference between the expected and the actual breach; `None` where they agree.
    pub failure: Option<String>,
}

pub fn rehearse(policy: &Policy, test: &PolicyTest) -> Rehearsal {
    let service = ServiceName::parse("process:rehearsal").expect("a name of the fourth form");
    let mut detector = Detector::default();
    let (mut breach_at, mut clear_at) = (None, None);
    for (now, readings) in test.samples() {
        match detector.tick(policy, &service, &readings, now, test.step) {
            Some(Change::Breach) if breach_at.is_none() => breach_at = Some(now),
            Some(Change::Cleared) if clear_at.is_none() => clear_at = Some(now),
            _ => {}
        }
    }
    let mut failures = Vec::new();
    compare("breach_at", test.expect.breach_at, breach_at, &mut failures);
    match test.expect.clear_at {
        Expected::Unsaid => {}
        Expected::Never => compare("clear_at", None, clear_at, &mut failures),
        Expected::At(at) => compare("clear_at", Some(at), clear_at, &mut failures),
    }
    let failure = (!failures.is_empty()).then(|| failures.join("; "));
    Rehearsal { policy: policy.name.clone(), name: test.name.clone(), failure }
}

fn compare(what: &str, expected: Option<Duration>, found: Option<Duration>, failures: &mut Vec<String>) {
    let say = |at: Option<Duration>| at.map_or("never".to_string(), duration::format);
    if expected != found {
        failures.push(format!("expected {what} {}, found {}", say(expected), say(found)));
    }
}
