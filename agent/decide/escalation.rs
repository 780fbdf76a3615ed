//! A runbook that did not help is not simply tried again: the rungs of a policy's escalation, and its circuit breaker.
//! Pure; the store remembers the result of each action.
//!
//! A rung that did not help within the last [`MEMORY`] is passed over. Once all of them have been, it is held, and a
//! person is told. A runbook that did not help the same service twice, with no success of the policy on it in between,
//! opens the policy's breaker for that service: it goes back to dry-run until a person re-arms it. So does what nobody could
//! see the outcome of three times in a row: one such action counts neither way, but a person is to look at why it stays unseen.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::moment::after;
use crate::model::{Policy, Runbook};
use crate::store::{Attempt, Verdict};

/// For how long a rung that did not help is passed over.
pub const MEMORY: Duration = Duration::from_secs(24 * 3_600);

/// For how long actions that did not help count for the breaker.
pub const BREAKER_MEMORY: Duration = Duration::from_secs(30 * 86_400);

/// How often one runbook may not help.
const NOT_HELPED_AT_MOST: usize = 2;

/// How often in a row nobody may have seen whether the policy's actions helped.
const UNVERIFIED_AT_MOST: usize = 3;

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
        let of_it = |attempt: &&Attempt| attempt.runbook == runbook.name && attempt.verdict != Verdict::Unverified;
        let last = attempts.iter().rev().find(of_it)?;
        (last.verdict == Verdict::NotHelped && now < passed_over_until(last)).then_some(last)
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
            says: Some(format!("no runbook is left to escalate to: {}", because.join("; "))),
            spent_until: tried.iter().map(|(_, attempt)| passed_over_until(attempt)).min(),
        },
    }
}

/// Until when a rung is passed over that did not help so. A drain that clients do not follow, and workers that do
/// not end, stay so until a person has looked and re-armed the policy.
fn passed_over_until(attempt: &Attempt) -> Timestamp {
    after(attempt.ended, if attempt.until_rearmed { BREAKER_MEMORY } else { MEMORY })
}

/// The attempt by which a breaker is to open: the second time that a runbook did not help, without a success since the
/// first; where the policy has no other runbook, the first time that clients did not follow its drain, or workers did not
/// end; or the third in a row of which nobody could see whether it helped. `attempts` as in [`rung`].
pub fn breaks<'a>(policy: &Policy, attempts: &'a [Attempt]) -> Option<&'a Attempt> {
    let is_only = policy.rungs().count() == 1;
    let last_success = attempts.iter().rposition(|attempt| attempt.verdict == Verdict::Helped);
    let since = &attempts[last_success.map_or(0, |at| at + 1)..];
    since.iter().enumerate().find_map(|(at, attempt)| {
        let so_far = &since[..=at];
        let breaks = match attempt.verdict {
            Verdict::Helped => false,
            Verdict::NotHelped => {
                let same =
                    |earlier: &&Attempt| (&earlier.runbook, earlier.verdict) == (&attempt.runbook, attempt.verdict);
                so_far.iter().filter(same).count() >= NOT_HELPED_AT_MOST || is_only && attempt.until_rearmed
            }
            Verdict::Unverified => {
                let in_a_row = so_far.iter().rev().take_while(|earlier| earlier.verdict == Verdict::Unverified);
                in_a_row.count() >= UNVERIFIED_AT_MOST
            }
        };
        breaks.then_some(attempt)
    })
}
