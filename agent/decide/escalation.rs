//! What did not help is not simply tried again: the rungs of a policy's escalation, and its breaker. Pure; the store
//! remembers what came of each action.
//!
//! A rung that did not help within the last [`MEMORY`] is passed over. Once all of them have been, it is held, and a
//! person is told. A runbook that did not help the same service twice, with no success of the policy on it in between,
//! opens the policy's breaker for that service: it goes back to dry-run until a person re-arms it.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::{Policy, Runbook};
use crate::store::Attempt;

/// For how long a rung that did not help is passed over.
pub const MEMORY: Duration = Duration::from_secs(24 * 3_600);

/// For how long actions that did not help count for the breaker.
pub const BREAKER_MEMORY: Duration = Duration::from_secs(30 * 86_400);

/// How often one runbook may not help.
const NOT_HELPED_AT_MOST: usize = 2;

/// Which runbook of the policy it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct Rung<'a> {
    pub runbook: &'a Runbook,
    /// Which one and why, for people; `None` where the policy has one runbook only.
    pub says: Option<String>,
    /// Every rung was tried and did not help: until the first of them may be tried again. The runbook is the last.
    pub spent_until: Option<Timestamp>,
}

/// `attempts` are those of the policy on the service, oldest first.
pub fn rung<'a>(policy: &'a Policy, attempts: &[Attempt], now: Timestamp) -> Rung<'a> {
    let rungs: Vec<&Runbook> = policy.rungs().collect();
    let last_try = |runbook: &&Runbook| {
        let last = attempts.iter().rev().find(|attempt| attempt.runbook == runbook.name)?;
        (!last.helped && now < passed_over_until(last)).then_some(last)
    };
    let tried: Vec<(&Runbook, &Attempt)> =
        rungs.iter().map_while(|runbook| last_try(runbook).map(|attempt| (*runbook, attempt))).collect();
    let because: Vec<String> = tried
        .iter()
        .map(|(runbook, attempt)| format!("{} did not help ({}, {})", runbook.name, attempt.incident, attempt.ended))
        .collect();
    match rungs.get(tried.len()) {
        _ if rungs.len() == 1 => Rung { runbook: &policy.runbook, says: None, spent_until: None },
        Some(runbook) => {
            let (at, of) = (tried.len() + 1, rungs.len());
            let because = if tried.is_empty() { String::new() } else { format!(": {}", because.join("; ")) };
            Rung { runbook, says: Some(format!("rung {at} of {of}{because}")), spent_until: None }
        }
        None => Rung {
            runbook: rungs[rungs.len() - 1],
            says: Some(format!("no rung is left: {}", because.join("; "))),
            spent_until: tried.iter().map(|(_, attempt)| passed_over_until(attempt)).min(),
        },
    }
}

/// Until when a rung is passed over that did not help so. A drain that clients do not follow, and workers that do
/// not end, stay so until a person has looked and re-armed the policy.
fn passed_over_until(attempt: &Attempt) -> Timestamp {
    attempt.ended + if attempt.until_rearmed { BREAKER_MEMORY } else { MEMORY }
}

/// The attempt by which a breaker is to open: the second time that a runbook did not help, without a success since the
/// first; where the policy has no other runbook, the first time that clients did not follow its drain, or workers did not
/// end. `attempts` as in [`rung`].
pub fn breaks<'a>(policy: &Policy, attempts: &'a [Attempt]) -> Option<&'a Attempt> {
    let is_only = policy.rungs().count() == 1;
    let since_success = attempts.iter().rposition(|attempt| attempt.helped).map_or(0, |at| at + 1);
    let failed = &attempts[since_success..];
    failed.iter().enumerate().find_map(|(at, attempt)| {
        let times = failed[..=at].iter().filter(|earlier| earlier.runbook == attempt.runbook).count();
        (times >= NOT_HELPED_AT_MOST || is_only && attempt.until_rearmed).then_some(attempt)
    })
}
