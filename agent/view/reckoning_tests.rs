use super::*;
use crate::execute::fakes::{self, Fault, Shape};
use crate::execute::saga::{Event, Helped};
use crate::model::IncidentId;
use crate::store::{IncidentRow, LeakedSockets, Recorded};

const HOUR: i64 = 3_600;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// One that stood for ten minutes and was over by itself.
fn breach(service: &str, began: i64) -> BreachRow {
    BreachRow {
        policy: "leak".into(),
        service: service.into(),
        mode: Recorded::Known(Mode::DryRun),
        began: at(began),
        ended: Some(at(began + 600)),
        cleared: true,
        interrupted: false,
        signal: "close_wait.aged(5m)".into(),
        worst: 288.0,
        sockets: None,
        holds: Vec::new(),
    }
}

fn sockets(remain: u32, looked: i64) -> LeakedSockets {
    LeakedSockets {
        of: 200,
        remain,
        looked: at(looked),
        half_gone: None,
        all_gone: (remain == 0).then(|| at(looked)),
        restarted: false,
    }
}

fn incident(id: &str, service: &str, began: i64, dry_run: bool, ended: (Outcome, Reason)) -> IncidentRecord {
    let steps = fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing);
    let plan = Plan { incident: IncidentId(id.into()), dry_run, ..fakes::plan(steps) };
    let (outcome, reason) = ended;
    let row = IncidentRow {
        step: None,
        incident: id.into(),
        service: service.into(),
        policy: "leak".into(),
        dry_run,
        by_hand: None,
        began: at(began),
        ended: Some(at(began + 60)),
        changed: !dry_run,
        outcome: Some(Recorded::Known(outcome)),
        reason: Some(Recorded::Known(reason)),
        detail: Some(format!("{reason}, in words")),
        evidence: None,
    };
    IncidentRecord { row, plan: Some(plan), journal: Vec::new() }
}

const PLAYED: (Outcome, Reason) = (Outcome::Completed, Reason::Recovered);

fn run(mode: Mode, known: i64) -> PolicyRun {
    PolicyRun { policy: "leak".into(), known: at(known), mode: Recorded::Known(mode), since: at(known) }
}

/// Of the last week.
fn reviewed(breaches: Vec<BreachRow>, incidents: Vec<IncidentRecord>, runs: Vec<PolicyRun>) -> Review {
    review(Recollected { host: "bj1-03", from: at(0), to: at(7 * 24 * HOUR), breaches, incidents, runs })
}

fn only(review: &Review) -> &PolicyReview {
    let [policy] = review.policies.as_slice() else { panic!("{review:?}") };
    policy
}

#[test]
fn a_dry_run_says_how_often_it_would_have_acted_and_what_healed_by_itself() {
    let mut gone = breach("a.service", 0);
    gone.sockets = Some(sockets(0, 120 + 240));
    let mut restarted = breach("a.service", 2 * HOUR);
    restarted.sockets = Some(LeakedSockets { restarted: true, ..sockets(0, 2 * HOUR + 400) });
    let stands = BreachRow {
        ended: None,
        cleared: false,
        sockets: Some(sockets(150, 5 * HOUR)),
        ..breach("b.service", 4 * HOUR)
    };
    let incidents = vec![
        incident("i-1", "a.service", 120, true, PLAYED),
        // The leak still stood: the same action, not another one.
        incident("i-2", "a.service", 500, true, PLAYED),
        incident("i-3", "a.service", 2 * HOUR + 100, true, PLAYED),
        incident("i-4", "b.service", 4 * HOUR + 100, true, (Outcome::Stuck, Reason::Unhealthy)),
        // Older than what is written of breaches.
        incident("i-5", "b.service", 10 * HOUR, true, PLAYED),
    ];
    let mut incidents = incidents;
    incidents[4].row.service = "c.service".into();
    let review = reviewed(vec![gone, restarted, stands], incidents, vec![run(Mode::DryRun, -HOUR)]);
    assert_eq!(review.known_from, None);
    let policy = only(&review);
    assert_eq!(
        policy.in_a_line,
        "`auto` would have restarted a.service 2 times, b.service once, c.service once in 7d; 1 of these leaks went away \
         by itself within 4m; 1 still stands; 1 ended with a restart by somebody else; the end of 1 was not seen. 1 of these \
         runs would have stopped before the end."
    );
    let healed = Healed {
        by_itself: 1,
        median: Some(seconds(240)),
        longest: Some(seconds(240)),
        restarted: 1,
        stands: 1,
        unknown: 1,
    };
    assert_eq!(policy.healed, healed);
    assert_eq!(policy.acted, []);
    let [fails] = policy.would_fail.as_slice() else { panic!("{policy:?}") };
    assert_eq!((fails.service.as_str(), fails.outcome.as_str(), fails.times), ("b.service", "stuck", 1));
    let became: Vec<_> = policy.cases.iter().map(|case| case.became.clone()).collect();
    let since = seconds(7 * 24 * 3_600 - 4 * 3_600 - 100);
    assert_eq!(
        became,
        [
            Some(Became::SocketsGone { of: 200, after: seconds(240) }),
            Some(Became::Restarted { after: seconds(300) }),
            Some(Became::Stands { remain: Some((150, 200)), since }),
            Some(Became::Unknown { why: "it is older than what this unwait has written".into() }),
        ]
    );
}

/// By another policy, or by hand: the leak did not heal by itself. Neither did one whose sockets are there, though fewer count.
#[test]
fn what_something_real_was_done_about_did_not_heal_by_itself() {
    let dry = || incident("i-1", "a.service", 60, true, PLAYED);
    for (policy, by_hand) in [("other", None), ("leak", Some("ann".to_owned()))] {
        let mut real = incident("i-2", "a.service", 120, false, PLAYED);
        (real.row.policy, real.row.by_hand) = (policy.into(), by_hand);
        let review = reviewed(vec![breach("a.service", 0)], vec![dry(), real], vec![run(Mode::DryRun, 0)]);
        let leak = review.policies.iter().find(|one| one.policy == "leak").unwrap();
        assert_eq!((leak.healed.by_itself, leak.healed.unknown), (0, 1), "{leak:?}");
        let why = "incident i-2 acted on the service meanwhile".to_owned();
        assert!(leak.cases.iter().any(|case| case.became == Some(Became::Unknown { why: why.clone() })), "{leak:?}");
    }
    let left = BreachRow { sockets: Some(sockets(150, 600)), ..breach("a.service", 0) };
    let review = reviewed(vec![left], vec![dry()], vec![run(Mode::DryRun, 0)]);
    assert_eq!((only(&review).healed.by_itself, only(&review).healed.stands), (0, 1));
}

#[test]
fn what_was_held_is_summed_by_guard_and_reason_and_what_still_holds_counts_up_to_now() {
    let hold = |guard: &str, reason, lasted, since: Option<i64>| HoldRow {
        guard: guard.into(),
        reason: Recorded::Known(reason),
        lasted: seconds(lasted),
        since: since.map(at),
    };
    let mut one = breach("a.service", 0);
    one.holds = vec![hold("silence", Reason::Silenced, 60, None), hold("cooldown", Reason::Cooldown, 500, None)];
    let mut other = BreachRow { ended: None, ..breach("b.service", HOUR) };
    other.holds = vec![hold("silence", Reason::Silenced, 40, Some(7 * 24 * HOUR - 1_000))];
    let review = reviewed(vec![one, other], Vec::new(), vec![run(Mode::Auto, 0)]);
    let policy = only(&review);
    let held: Vec<_> = policy
        .held
        .iter()
        .map(|held| (held.guard.as_str(), held.breaches, held.lasted.as_secs(), held.stands))
        .collect();
    assert_eq!(held, [("silence", 2, 1_100, true), ("cooldown", 1, 500, false)]);
    assert_eq!(policy.in_a_line, "Its condition was in breach 2 times in 7d, and guards held all of them.");
}

#[test]
fn what_it_did_is_told_with_its_outcomes_and_the_time_out_of_traffic() {
    let helped = {
        let mut one = incident("i-1", "a.service", 100, false, PLAYED);
        let steps = one.plan.as_ref().unwrap().steps.len();
        let drain = one.plan.as_ref().unwrap().steps.iter().position(|step| matches!(step.step, Step::Drain { .. }));
        let drain = drain.unwrap();
        let mut second = 100;
        for step in 0..steps {
            for event in [
                Event::Intended { step, preimage: serde_json::Value::Null },
                Event::Done { step, detail: String::new(), helped: None, note: None },
            ] {
                one.journal.push((at(second), event));
                second += if step >= drain { 10 } else { 0 };
            }
        }
        one.journal.push((at(second), Event::Judged { helped: Helped::Yes, detail: String::new() }));
        one
    };
    let by_hand = {
        let mut one = incident("i-3", "a.service", 9 * HOUR, false, PLAYED);
        one.row.by_hand = Some("ann".into());
        one
    };
    let not_helped = incident("i-2", "a.service", HOUR, false, (Outcome::Completed, Reason::NotHelped));
    let review = reviewed(vec![breach("a.service", 0)], vec![helped, not_helped, by_hand], vec![run(Mode::Auto, 0)]);
    let policy = only(&review);
    assert_eq!(policy.in_a_line, "It restarted a.service 2 times in 7d: 1 helped, 1 did not help.");
    assert_eq!(policy.outcomes, Outcomes { helped: 1, not_helped: 1, ..Outcomes::default() });
    assert_eq!((policy.by_hand, policy.would_act.len()), (1, 0));
    let OutOfTraffic { times, total, ref left_out, .. } = policy.out_of_traffic;
    assert_eq!((times, left_out.len()), (1, 0));
    assert!(total >= seconds(60) && total < seconds(200), "{total:?}");
    assert_eq!(review.at_once.as_ref().unwrap().services, ["a.service"]);
    assert!(policy.cases.iter().all(|case| case.became.is_none()), "a leak that was acted on did not heal by itself");
}

#[test]
fn what_would_have_been_out_at_once_overlaps_by_the_waits_of_the_runbook() {
    let incidents = vec![
        incident("i-1", "a.service", 100, true, PLAYED),
        incident("i-2", "b.service", 110, true, PLAYED),
        incident("i-3", "c.service", 24 * HOUR, true, PLAYED),
    ];
    let breaches = vec![breach("a.service", 0), breach("b.service", 0), breach("c.service", 24 * HOUR)];
    let review = reviewed(breaches, incidents, vec![run(Mode::DryRun, 0)]);
    let at_once = review.at_once.unwrap();
    assert_eq!(
        (at_once.at, at_once.services.as_slice()),
        (at(110), ["a.service".to_owned(), "b.service".to_owned()].as_slice())
    );
    assert!(at_once.each_up_to.is_some());
}

#[test]
fn it_says_from_when_on_it_knows_and_that_nothing_happened() {
    let review = reviewed(Vec::new(), Vec::new(), vec![run(Mode::DryRun, 3 * HOUR)]);
    assert_eq!(review.known_from, Some(at(3 * HOUR)));
    let policy = only(&review);
    assert_eq!(policy.known_from, Some(at(3 * HOUR)));
    assert_eq!(policy.in_a_line, "Its condition was never in breach in 7d: `auto` would have done nothing.");
    let text = serde_json::to_string(&review).unwrap();
    assert_eq!(serde_json::from_str::<Review>(&text).unwrap(), review);
}
