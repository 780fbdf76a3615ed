//! Which rung comes next, when none is left, and when a breaker opens.

use jiff::Timestamp;

use super::scenery::scenery;
use super::*;
use crate::decide::escalation::{MEMORY, breaks, rung};
use crate::decide::guards::Guard;
use crate::model::{Reason, Trigger};
use crate::store::{Attempt, Verdict};

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
}

fn attempt(runbook: &str, minute: i64, verdict: Verdict) -> Attempt {
    Attempt {
        incident: format!("i-{minute}"),
        runbook: runbook.into(),
        verdict,
        until_rearmed: false,
        ended: at(minute),
    }
}

fn failed(runbook: &str, minute: i64) -> Attempt {
    attempt(runbook, minute, Verdict::NotHelped)
}

/// Clients did not follow its drain.
fn in_vain(runbook: &str, minute: i64) -> Attempt {
    Attempt { until_rearmed: true, ..failed(runbook, minute) }
}

fn helped(runbook: &str, minute: i64) -> Attempt {
    attempt(runbook, minute, Verdict::Helped)
}

/// Nobody could see whether it helped.
fn unseen(runbook: &str, minute: i64) -> Attempt {
    attempt(runbook, minute, Verdict::Unverified)
}

fn runbook(name: &str) -> Runbook {
    Runbook { name: name.into(), description: String::new(), steps: Vec::new() }
}

fn ladder() -> Policy {
    Policy { runbook: runbook("a"), further: vec![runbook("b"), runbook("c")], ..policy() }
}

const DAY: i64 = 24 * 60;

#[test]
fn a_rung_that_did_not_help_is_passed_over_for_a_day() {
    for (attempts, minute, expected, spent) in [
        (vec![], 0, "a", None),
        (vec![failed("a", 0)], 1, "b", None),
        (vec![failed("a", 0)], DAY - 1, "b", None),
        (vec![failed("a", 0)], DAY, "a", None),
        (vec![failed("a", 0), failed("b", 60)], 61, "c", None),
        // It leaked again: what helped is taken again, and what did not is not.
        (vec![failed("a", 0), helped("b", 60)], 61, "b", None),
        // By hand, the other way round.
        (vec![failed("b", 0)], 1, "a", None),
        (vec![failed("b", 0), failed("a", 60)], 61, "c", None),
        (vec![failed("a", 0), helped("a", 60)], 61, "a", None),
        (vec![failed("a", 0), failed("b", 60), failed("c", 120)], 121, "c", Some(DAY)),
        (vec![failed("a", 0), failed("b", 60), failed("c", 120)], DAY, "a", None),
        // A drain that clients do not follow is not tried again after a day.
        (vec![in_vain("a", 0)], 2 * DAY, "b", None),
        (vec![in_vain("a", 0)], 30 * DAY, "a", None),
        // Of one nobody saw what it came to.
        (vec![unseen("a", 0)], 1, "a", None),
        (vec![failed("a", 0), unseen("a", 60)], 61, "b", None),
        // A runbook that the policy does not have any more.
        (vec![failed("z", 0)], 1, "a", None),
    ] {
        let policy = ladder();
        let found = rung(&policy, &attempts, at(minute));
        assert_eq!(found.runbook.name, expected, "{attempts:?} at {minute}");
        assert_eq!(found.spent_until, spent.map(at), "{attempts:?} at {minute}");
    }
    assert_eq!(MEMORY, Duration::from_secs(DAY as u64 * 60));
}

#[test]
fn it_says_which_rung_it_is_and_what_did_not_help() {
    let policy = ladder();
    assert_eq!(rung(&policy, &[], at(0)).says.unwrap(), "rung 1 of 3");
    let says = rung(&policy, &[failed("a", 0)], at(1)).says.unwrap();
    assert_eq!(says, "rung 2 of 3: a did not help (i-0, 2027-01-15T08:00:00Z)");
    let spent = [failed("a", 0), failed("b", 1), failed("c", 2)];
    assert!(
        rung(&policy, &spent, at(3))
            .says
            .unwrap()
            .starts_with("no runbook is left to escalate to: a did not help (i-0")
    );
}

#[test]
fn one_runbook_alone_is_no_escalation() {
    let policy = policy();
    let found = rung(&policy, &[failed(&policy.runbook.name, 0)], at(1));
    assert_eq!((found.runbook, found.says, found.spent_until), (&policy.runbook, None, None));
}

#[test]
fn where_no_rung_is_left_it_is_held_and_a_person_may_go_on() {
    let mut scenery = scenery();
    let until = scenery.now() + seconds(3_600);
    scenery.rungs_spent = Some(until);
    scenery.plan.rung = Some("no runbook is left to escalate to: a did not help".into());
    let refusal = scenery.refuses(Guard::Rungs, Reason::RungsSpent);
    assert_eq!(
        (refusal.until, refusal.detail.as_str()),
        (Some(until), "no runbook is left to escalate to: a did not help")
    );
    scenery.plan.trigger = Trigger::Person { who: "ann".into() };
    scenery.allows();
}

#[test]
fn a_breaker_opens_at_the_second_time_that_one_runbook_did_not_help_without_a_success_between() {
    for (attempts, opens) in [
        (vec![], None),
        (vec![failed("a", 0)], None),
        (vec![failed("a", 0), failed("a", 60)], Some("i-60")),
        (vec![failed("a", 0), helped("a", 30), failed("a", 60)], None),
        (vec![failed("a", 0), helped("b", 30), failed("a", 60)], None),
        (vec![helped("a", 0), failed("a", 30), failed("a", 60)], Some("i-60")),
        // Two rungs that were tried once each are an escalation, and not yet a policy that does not help.
        (vec![failed("a", 0), failed("b", 60)], None),
        (vec![failed("a", 0), failed("b", 60), failed("a", DAY)], Some("i-1440")),
        // What nobody could see counts neither way, but for three in a row.
        (vec![failed("a", 0), unseen("a", 30)], None),
        (vec![failed("a", 0), unseen("a", 30), failed("a", 60)], Some("i-60")),
        (vec![unseen("a", 0), unseen("a", 30)], None),
        (vec![unseen("a", 0), unseen("b", 30), unseen("a", 60)], Some("i-60")),
        (vec![unseen("a", 0), unseen("a", 30), failed("a", 45), unseen("a", 60)], None),
        (vec![unseen("a", 0), unseen("a", 30), helped("a", 45), unseen("a", 60)], None),
        // It is open since then; what came later, by hand, does not matter.
        (vec![failed("a", 0), failed("a", 60), failed("a", 90)], Some("i-60")),
    ] {
        assert_eq!(breaks(&ladder(), &attempts).map(|attempt| attempt.incident.as_str()), opens, "{attempts:?}");
    }
    let only = policy();
    let attempts = [in_vain("a", 0)];
    assert_eq!(breaks(&only, &attempts), Some(&attempts[0]), "no other runbook is left");
    assert_eq!(breaks(&ladder(), &attempts), None, "other rungs are left");
}
