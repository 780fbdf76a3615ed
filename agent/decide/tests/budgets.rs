//! Budgets with several sagas at once, and the jitter.

use super::scenery::{Scenery, scenery};
use super::*;
use crate::clock::Clock;
use crate::decide::guards::Guard;
use crate::model::incident::Ending;
use crate::model::policy::Budget;
use crate::model::{IncidentId, Outcome, Plan, Reason, ServiceName};
use crate::store::{Audience, Implied, JournalRow};

/// Three of the host's four are spent, and there is room for more sagas than that.
fn with_one_left() -> Scenery {
    let mut scenery = scenery();
    scenery.gate.max_parallel = 3;
    for service in ["a.service", "b.service", "c.service"] {
        scenery.incident(service, service, false, true, Some(Outcome::Completed));
    }
    scenery.allows();
    scenery
}

#[test]
fn what_is_under_way_has_its_place_in_the_budget_before_it_changes_anything() {
    let scenery = with_one_left();
    scenery.incident("elsewhere", "d.service", false, false, None);
    let refusal = scenery.refuses(Guard::Budgets, Reason::HostBudget);
    assert_eq!(refusal.until, Some(scenery.now() + scenery.plan.limits.per_host.per));
}

#[test]
fn what_is_only_said_or_only_looks_or_has_ended_without_a_change_takes_no_place() {
    let mut scenery = with_one_left();
    scenery.incident("dry", "d.service", true, false, None);
    scenery.incident("unwound", "e.service", false, false, Some(Outcome::Unwound));
    let whole = scenery.plan.steps.clone();
    scenery.plan.steps.truncate(1);
    scenery.incident("looks", "f.service", false, false, None);
    scenery.plan.steps = whole;
    scenery.allows();
}

#[test]
fn of_two_that_leave_each_other_no_place_the_first_goes_on() {
    let mut scenery = with_one_left();
    // The second began under a policy that spends more; neither has changed anything.
    scenery.incident("i-first", "d.service", false, false, None);
    scenery.clock.advance(seconds(1));
    scenery.incident("i-second", "e.service", false, false, None);
    scenery.own_saga = true;
    for (incident, service, allowed) in [("i-first", "d.service", true), ("i-second", "e.service", false)] {
        scenery.plan.incident = IncidentId(incident.into());
        scenery.plan.target.service = ServiceName::parse(service).unwrap();
        scenery.plan.fleet_scope = Some(service.into());
        match allowed {
            true => scenery.allows(),
            false => drop(scenery.refuses(Guard::Budgets, Reason::HostBudget)),
        }
    }
}

#[test]
fn one_under_way_for_longer_than_the_window_holds_its_place_until_it_ends() {
    let mut scenery = scenery();
    scenery.gate.max_parallel = 3;
    scenery.plan.limits.per_host = Budget { incidents: 1, per: seconds(60) };
    scenery.incident("slow", "d.service", false, false, None);
    scenery.clock.advance(seconds(61));
    assert_eq!(scenery.refuses(Guard::Budgets, Reason::HostBudget).until, None);
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Begun,
    Asked,
    Changed,
}

/// Sagas that begin, are asked again, change something and end in any order: what is spent never goes over the budget,
/// also where much happens between being asked and the change.
#[test]
fn however_sagas_interleave_no_budget_is_overspent() {
    const SEEDS: u64 = 60;
    const MOVES: u32 = 40;
    let mut spent = 0;
    for seed in 1..=SEEDS {
        let changed = changes_of_three(seed, MOVES);
        assert!(changed <= 3, "seed {seed}: {changed} changes of a budget of 3");
        spent += changed;
    }
    assert!(spent > SEEDS * 2, "most of each budget is spent, or this shows nothing: {spent}");
}

/// How many sagas changed something within a budget of three.
fn changes_of_three(seed: u64, moves: u32) -> u64 {
    let mut scenery = scenery();
    scenery.gate.max_parallel = 3;
    scenery.plan.limits.per_host = Budget { incidents: 3, per: seconds(100_000) };
    let mut running: Vec<(Plan, Stage)> = Vec::new();
    let (mut random, mut changed) = (seed, 0);
    for count in 0..moves {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        scenery.clock.advance(seconds(random % 3));
        let at = (random >> 8) as usize % 4;
        let Some((plan, stage)) = running.get(at).cloned() else {
            scenery.plan.incident = IncidentId(format!("i-{count:02}"));
            scenery.plan.target.service = ServiceName::parse(&format!("s{count}.service")).unwrap();
            scenery.plan.fleet_scope = Some(format!("s{count}"));
            scenery.own_saga = false;
            if scenery.ask().is_ok() {
                scenery.store.begin_incident(&scenery.plan, scenery.now(), &Audience::default(), &[]).unwrap();
                running.push((scenery.plan.clone(), Stage::Begun));
            }
            continue;
        };
        match stage {
            Stage::Begun => {
                (scenery.plan, scenery.own_saga) = (plan.clone(), true);
                match scenery.ask() {
                    Ok(()) => running[at].1 = Stage::Asked,
                    Err(_) => {
                        write(&scenery, &plan, false, Some(Outcome::Unwound));
                        running.remove(at);
                    }
                }
            }
            Stage::Asked => {
                write(&scenery, &plan, true, None);
                running[at].1 = Stage::Changed;
                changed += 1;
            }
            Stage::Changed => {
                write(&scenery, &plan, true, Some(Outcome::Completed));
                running.remove(at);
            }
        }
    }
    changed
}

fn write(scenery: &Scenery, plan: &Plan, changed: bool, ends: Option<Outcome>) {
    let audience = Audience::default();
    let ending = ends.map(|outcome| Ending { outcome, reason: Reason::Recovered, detail: String::new() });
    let implied =
        Implied { step: "restart", changed, ending: ending.as_ref(), latch: None, audience: &audience, messages: &[] };
    let row = JournalRow { seq: u32::from(ends.is_some()), at: scenery.now(), event: String::new() };
    scenery.store.append(&plan.incident, &[row], &implied).unwrap();
}

#[test]
fn the_jitter_is_this_hosts_own_and_does_not_move_from_tick_to_tick() {
    let mut scenery = scenery();
    scenery.jitter = seconds(30);
    scenery.allows();
    scenery.breached = Some(scenery.clock.monotonic());
    let until = scenery.refuses(Guard::Jitter, Reason::Jitter).until.unwrap();
    assert!(until < scenery.now() + seconds(30));
    scenery.clock.advance(Duration::from_millis(500));
    assert_eq!(scenery.refuses(Guard::Jitter, Reason::Jitter).until, Some(until), "the same at the next tick");
    let left = until.duration_since(scenery.now()).unsigned_abs();
    scenery.clock.advance(left - Duration::from_millis(1));
    scenery.refuses(Guard::Jitter, Reason::Jitter);
    scenery.own_saga = true;
    scenery.allows();
    scenery.own_saga = false;
    scenery.clock.advance(Duration::from_millis(1));
    scenery.allows();
}

#[test]
fn hosts_that_breach_at_one_moment_spread_over_the_whole_jitter() {
    let mut scenery = scenery();
    scenery.jitter = seconds(30);
    scenery.breached = Some(scenery.clock.monotonic());
    let mut thirds = [0; 3];
    for host in 0..300 {
        scenery.gate.host = format!("bj1-{host:03}");
        let until = scenery.ask().err().and_then(|refusal| refusal.until).unwrap_or(scenery.now());
        let waits = until.duration_since(scenery.now()).unsigned_abs();
        thirds[waits.as_secs() as usize / 10] += 1;
    }
    // 100 each would be even; 40 off is nearly five standard deviations of a third of 300.
    assert!(thirds.iter().all(|count| (60..=140).contains(count)), "{thirds:?}");
}
