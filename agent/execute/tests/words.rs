//! What people are told where nothing was done, and where a service stands.

use std::time::Duration;

use crate::execute::fakes::{self, Fault, HOST, Shape};
use crate::execute::seen::Look;
use crate::execute::tell::{EndFacts, MessageBuilder};
use crate::model::incident::Ending;
use crate::model::{Blame, EventKind, Outcome, Plan, Reason, TopFew};

fn plan() -> Plan {
    fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing))
}

fn teller(plan: &Plan) -> MessageBuilder<'_> {
    MessageBuilder { plan, host: HOST, labels: &[], at: jiff::Timestamp::UNIX_EPOCH }
}

#[test]
fn what_is_held_belongs_to_no_incident_and_calls_a_person_where_no_rung_is_left() {
    for (reason, event) in [(Reason::Cooldown, EventKind::Held), (Reason::RungsSpent, EventKind::Stuck)] {
        let plan = plan();
        let told = teller(&plan).held(&"the refusal's own words", reason);
        assert_eq!((told.event, told.reason, told.incident), (event, Some(reason), None));
        assert_eq!(told.title, format!("rpc-order.service on {HOST}: no action: {reason}"));
        assert_eq!(told.lines, ["the refusal's own words"]);
    }
}

#[test]
fn a_service_is_never_said_to_stand_where_it_does_not() {
    let plan = plan();
    let look = |out, ago| Some(Look { out, ago: Duration::from_secs(ago) });
    for (drained, reason, place) in [
        (
            Some(look(true, 2)),
            Reason::UnhealthyAfterRestore,
            "rpc-order.service is OUT OF TRAFFIC. unwait does nothing more ",
        ),
        (
            Some(look(true, 40)),
            Reason::RecordChanged,
            "rpc-order.service was OUT OF TRAFFIC when last seen, 40s ago. unwait does nothing more ",
        ),
        (
            Some(look(false, 40)),
            Reason::RecordChanged,
            "rpc-order.service is drained by unwait's journal, but may be IN TRAFFIC: not all its registries showed it out of \
             traffic when last asked, 40s ago. ",
        ),
        (
            Some(None),
            Reason::RecordChanged,
            "rpc-order.service is OUT OF TRAFFIC by unwait's journal; not all its registries have answered since",
        ),
        (None, Reason::RecordChanged, "rpc-order.service stands in its registries as somebody else left it. "),
        (None, Reason::RestartFailed, "rpc-order.service may get traffic. unwait does nothing more "),
    ] {
        let ending = Ending { outcome: Outcome::Stuck, reason, detail: "why".into() };
        let told = teller(&plan).end(EventKind::Stuck, &ending, drained, &EndFacts::default());
        assert!(told.lines.iter().any(|line| line.starts_with(place)), "{reason}, drained {drained:?}: {told}");
    }
}

#[test]
fn a_message_says_of_which_service_policy_and_incident_and_under_which_labels() {
    for dry_run in [false, true] {
        let plan = Plan { dry_run, ..plan() };
        let told =
            MessageBuilder { labels: &["region=bj".into()], ..teller(&plan) }.step("drain", "done", "the detail");
        assert_eq!(told.labels, ["region=bj"]);
        assert_eq!(told.service.as_ref(), Some(&plan.target.service));
        assert_eq!(told.policy.as_ref(), Some(&plan.policy));
        assert_eq!(told.incident.as_ref(), Some(&plan.incident));
        assert_eq!((told.dry_run, told.lines), (dry_run, vec!["the detail".to_string()]));
    }
}

#[test]
fn an_end_says_the_outcome_then_who_closed_who_held_how_long_it_was_out_and_what_to_read() {
    let at = |second: u32| format!("2026-11-22T18:43:{second:02}Z").parse().unwrap();
    let blame = Blame {
        closed_by: TopFew::of([("10.0.0.2:6379 (redis-session)".to_owned(), 288)], 0),
        held_by: TopFew::of([("php-fpm (pid 12)".to_owned(), 288)], 0),
    };
    let told = EndFacts { blame, out_since: Some(at(2)), in_again: Some(at(45)) };
    let plan = plan();
    let ending = Ending { outcome: Outcome::Completed, reason: Reason::Recovered, detail: "close_wait 0".into() };
    let said = teller(&plan).end(EventKind::End, &ending, None, &told);
    let look = format!("look:   unwait show {}", plan.incident);
    let after = [
        "close_wait 0",
        "sockets in CLOSE_WAIT, closed by: 10.0.0.2:6379 (redis-session) 288",
        "held by: php-fpm (pid 12) 288",
        "out of traffic for 43s",
        &look,
    ];
    assert_eq!(said.lines[0], Reason::Recovered.says());
    assert_eq!(said.lines[1..], after);

    let left = EndFacts { in_again: None, ..told };
    let stuck = Ending { outcome: Outcome::Stuck, reason: Reason::RestartFailed, detail: "exit 1".into() };
    let said = teller(&plan).end(EventKind::Stuck, &stuck, Some(None), &left).to_string();
    let order = [
        "OUT OF TRAFFIC by",
        "closed by: ",
        "held by: ",
        "out of traffic since 2026-11-22T18:43:02Z",
        "look: ",
        "decide: ",
    ];
    let places: Vec<Option<usize>> = order.iter().map(|part| said.find(part)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{said}");

    let dry = Plan { dry_run: true, ..plan };
    let said = teller(&dry).end(EventKind::End, &ending, None, &left).to_string();
    assert!(said.contains("closed by") && !said.contains("out of traffic"), "{said}");
}
