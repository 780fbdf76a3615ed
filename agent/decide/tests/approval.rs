//! A person's word: on this very plan, in time, and once.

use super::scenery::{Scenery, scenery};
use super::*;
use crate::decide::guards::Guard;
use crate::model::{Incarnation, IncidentId, Reason, Trigger};
use crate::store::{Approval, ApprovalState, Audience, Decided, Word};

fn asking() -> Scenery {
    let mut scenery = scenery();
    scenery.needs_approval = true;
    scenery
}

impl Scenery {
    fn ask_people(&self, id: &str) {
        let plan = &self.plan;
        let approval = Approval {
            id: id.into(),
            policy: plan.policy.clone(),
            service: plan.target.service.to_string(),
            runbook: plan.runbook.clone(),
            hash: plan.hash(),
            created: self.now(),
            expires: self.now() + plan.limits.approval_expires,
            state: ApprovalState::Pending,
            who: None,
            why: None,
            decided: None,
        };
        let message =
            crate::execute::tell::MessageBuilder { plan, host: "h", labels: &[], at: self.now() }.start(Vec::new());
        self.store.ask_approval(&approval, &plan.matters(), &Audience::default(), &message).unwrap();
    }

    fn say(&self, id: &str, approved: bool) -> Decided {
        let asked = self.store.approval(&self.plan.policy, &self.plan.target.service, self.now()).unwrap();
        let hash = asked.as_ref().map(|asked| asked.hash.as_str());
        let word = Word { approved, hash, who: "ann", why: Some("release 41"), at: self.now() };
        self.store.decide_approval(id, &word).unwrap()
    }
}

const EXPIRES: Duration = Duration::from_secs(30 * 60);

#[test]
fn it_waits_for_a_word_and_begins_once_on_it() {
    let mut scenery = asking();
    scenery.refuses(Guard::Approval, Reason::NeedsApproval);
    scenery.ask_people("a1");
    let refusal = scenery.refuses(Guard::Approval, Reason::AwaitingApproval);
    assert_eq!(refusal.until, Some(scenery.now() + EXPIRES));
    assert!(refusal.detail.contains("unwait approve a1"), "{refusal}");
    // Whatever the next proposal is called.
    scenery.plan.incident = IncidentId("another".into());
    scenery.plan.rung = Some("rung 1 of 2".into());
    scenery.refuses(Guard::Approval, Reason::AwaitingApproval);

    assert!(matches!(scenery.say("a1", true), Decided::Yes(_)));
    scenery.allows();
    scenery.incident("i-1", "rpc-order.service", false, false, None);
    assert_eq!(
        scenery.store.approval("close-wait-leak", &scenery.plan.target.service, scenery.now()).unwrap().unwrap().state,
        ApprovalState::Used
    );
    // It is asked again before each change, and its word is not used up by that.
    scenery.own_saga = true;
    scenery.plan.incident = IncidentId("i-1".into());
    scenery.allows();
}

#[test]
fn a_word_that_was_used_does_not_begin_a_second_incident() {
    let mut scenery = asking();
    scenery.plan.limits.cooldown = seconds(0);
    scenery.ask_people("a1");
    scenery.say("a1", true);
    scenery.incident("i-1", "rpc-order.service", false, true, Some(crate::model::Outcome::Completed));
    scenery.refuses(Guard::Approval, Reason::NeedsApproval);
}

#[test]
fn an_approval_counts_to_its_last_moment_and_is_asked_again_a_cooldown_later() {
    for approved in [false, true] {
        let scenery = asking();
        scenery.ask_people("a1");
        if approved {
            scenery.say("a1", true);
        }
        scenery.clock.advance(EXPIRES - Duration::from_millis(1));
        match approved {
            true => scenery.allows(),
            false => drop(scenery.refuses(Guard::Approval, Reason::AwaitingApproval)),
        }
        scenery.clock.advance(Duration::from_millis(1));
        let cooldown = scenery.plan.limits.cooldown;
        let refusal = scenery.refuses(Guard::Approval, Reason::ApprovalExpired);
        assert_eq!(refusal.until, Some(scenery.now() + cooldown));
        assert!(matches!(scenery.say("a1", true), Decided::TooLate(_)));
        scenery.clock.advance(cooldown);
        scenery.refuses(Guard::Approval, Reason::NeedsApproval);
    }
}

#[test]
fn a_plan_that_is_another_by_now_is_asked_anew() {
    let changes: [fn(&mut crate::model::Plan); 5] = [
        |plan| plan.incarnation = Some(Incarnation("another lifetime".into())),
        |plan| drop(plan.steps.pop()),
        |plan| plan.target.bindings[0].id = "rpc-order-9".into(),
        |plan| plan.guards.min_healthy = None,
        |plan| plan.when = above(1.0),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut scenery = asking();
        scenery.ask_people("a1");
        scenery.say("a1", true);
        scenery.allows();
        change(&mut scenery.plan);
        let refused = scenery.all().into_iter().find(|refusal| refusal.guard == Guard::Approval);
        assert_eq!(refused.map(|refusal| refusal.reason), Some(Reason::NeedsApproval), "change {index}");
        scenery.ask_people("a2");
        assert!(matches!(scenery.say("a1", true), Decided::TooLate(_)), "the first is replaced");
    }
}

#[test]
fn a_denial_holds_for_the_cooldown_whatever_the_plan_is_by_then() {
    let mut scenery = asking();
    scenery.ask_people("a1");
    assert!(matches!(scenery.say("a1", false), Decided::Yes(_)));
    scenery.plan.steps.pop();
    let cooldown = scenery.plan.limits.cooldown;
    let refusal = scenery.refuses(Guard::Approval, Reason::ApprovalDenied);
    assert_eq!(refusal.until, Some(scenery.now() + cooldown));
    assert!(refusal.detail.contains("ann") && refusal.detail.contains("release 41"), "{refusal}");
    assert!(matches!(scenery.say("a1", true), Decided::TooLate(_)), "a denial is not turned round");
    scenery.clock.advance(cooldown - Duration::from_millis(1));
    scenery.refuses(Guard::Approval, Reason::ApprovalDenied);
    scenery.clock.advance(Duration::from_millis(1));
    scenery.refuses(Guard::Approval, Reason::NeedsApproval);
}

#[test]
fn what_is_approved_and_has_not_begun_can_still_be_denied() {
    let scenery = asking();
    scenery.ask_people("a1");
    scenery.say("a1", true);
    assert!(matches!(scenery.say("a1", true), Decided::TooLate(_)), "once is enough");
    assert!(matches!(scenery.say("a1", false), Decided::Yes(_)));
    scenery.refuses(Guard::Approval, Reason::ApprovalDenied);
    assert_eq!(scenery.say("none", true), Decided::Unknown);
}

#[test]
fn what_waits_for_a_word_outlives_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unwait.db");
    let open = |scenery: &mut Scenery| {
        scenery.store = std::sync::Arc::new(crate::store::Store::open(&path).unwrap());
        scenery.gate.store = scenery.store.clone();
    };
    let mut scenery = asking();
    open(&mut scenery);
    scenery.ask_people("a1");
    open(&mut scenery);
    assert_eq!(scenery.store.open_approvals(scenery.now()).unwrap().len(), 1);
    scenery.refuses(Guard::Approval, Reason::AwaitingApproval);
    scenery.say("a1", true);
    open(&mut scenery);
    scenery.allows();
    scenery.clock.advance(EXPIRES);
    assert_eq!(scenery.store.open_approvals(scenery.now()).unwrap(), []);
}

#[test]
fn a_slot_is_not_taken_while_people_think() {
    let scenery = asking();
    scenery.ask_people("a1");
    scenery.refuses(Guard::Approval, Reason::AwaitingApproval);
    assert_eq!(*scenery.fleet.asked.lock().unwrap(), 0);
}

#[test]
fn only_what_matters_is_in_a_plans_hash() {
    let scenery = scenery();
    let hash = scenery.plan.hash();
    assert_eq!(hash.len(), 64);
    let mut same = scenery.plan.clone();
    same.incident = IncidentId("later".into());
    same.trigger = Trigger::Person { who: "ann".into() };
    same.rung = Some("rung 2 of 2".into());
    same.dry_run = !same.dry_run;
    assert_eq!(same.hash(), hash);
    let mut other = scenery.plan.clone();
    other.runbook.push('x');
    assert_ne!(other.hash(), hash);
}
