//! The owner's word: with the plan, also in dry-run and under way; no answer is a no.

use super::scenery::scenery;
use super::*;
use crate::decide::guards::Guard;
use crate::model::Reason;
use crate::model::policy::VetoCommand;

#[test]
fn an_owner_is_asked_with_the_plan_and_what_is_no_yes_refuses() {
    let mut scenery = scenery();
    let vetoes = scenery.vetoes.clone();
    scenery.allows();
    assert!(vetoes.asked.lock().unwrap().is_empty(), "no policy names one");
    let argv = vec!["/usr/local/bin/may-act".into()];
    scenery.plan.guards.veto = Some(VetoCommand { argv, deadline: seconds(5) });
    scenery.allows();
    let asked = vetoes.asked.lock().unwrap().pop().unwrap();
    assert_eq!(
        (&asked["version"], &asked["under_way"], &asked["plan"]["dry_run"]),
        (&1.into(), &false.into(), &false.into())
    );
    assert_eq!(asked["hash"], scenery.plan.hash());
    assert_eq!(asked["plan"], serde_json::to_value(&scenery.plan).unwrap());

    *vetoes.says.lock().unwrap() = Ok(Some("may-act: a sale is on".into()));
    assert_eq!(scenery.refuses(Guard::Veto, Reason::Vetoed).detail, "may-act: a sale is on");
    *vetoes.says.lock().unwrap() = Err("may-act: no answer within 5s".into());
    let failed = scenery.refuses(Guard::Veto, Reason::GuardFailed);
    assert!(failed.detail.contains("no answer within 5s"), "{failed}");

    // Before the pivot as well.
    scenery.own_saga = true;
    scenery.refuses(Guard::Veto, Reason::GuardFailed);
    assert_eq!(vetoes.asked.lock().unwrap().pop().unwrap()["under_way"], true);
    scenery.own_saga = false;
    scenery.plan.dry_run = true;
    scenery.refuses(Guard::Veto, Reason::GuardFailed);
    assert_eq!(vetoes.asked.lock().unwrap().pop().unwrap()["plan"]["dry_run"], true);
    // Nothing is changed, so nobody needs to say yes.
    scenery.plan.steps.retain(|planned| planned.effect == crate::model::Effect::ReadOnly);
    scenery.allows();
}

#[test]
fn people_are_not_asked_about_what_its_owner_says_no_to() {
    let mut scenery = scenery();
    scenery.needs_approval = true;
    scenery.plan.guards.veto = Some(VetoCommand { argv: vec!["/bin/no".into()], deadline: seconds(5) });
    *scenery.vetoes.says.lock().unwrap() = Ok(Some("no".into()));
    assert_eq!(scenery.ask().unwrap_err().reason, Reason::Vetoed);
}
