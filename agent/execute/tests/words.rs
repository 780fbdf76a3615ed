//! What people are told where nothing was done, and where a service stands.

use std::time::Duration;

use crate::execute::fakes::{self, Fault, HOST, Shape};
use crate::execute::seen::Look;
use crate::execute::tell::MessageBuilder;
use crate::model::incident::Ending;
use crate::model::{EventKind, Outcome, Plan, Reason};

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
        let told = teller(&plan).end(EventKind::Stuck, &ending, drained);
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
