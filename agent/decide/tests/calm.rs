//! After a storm it is to be calm for a while.

use super::scenery::{Scenery, scenery};
use super::*;
use crate::decide::guards::Guard;
use crate::model::{Reason, Trigger};
use crate::store::Store;

const CALM: Duration = Duration::from_secs(600);

fn calm() -> Scenery {
    let mut scenery = scenery();
    scenery.plan.guards.calm = Some(CALM);
    scenery
}

fn storm(scenery: &Scenery, guard: Guard) {
    match guard {
        Guard::CommonCause => {
            scenery.scene.registry.register("rpc-order-3", "rpc-order", "10.0.0.3:7801");
            *scenery.fleet.breaching.lock().unwrap() = vec!["a".into(), "b".into()];
        }
        _ => scenery.scene.registry.set_healthy("rpc-order-2", false),
    }
    assert_eq!(scenery.ask().unwrap_err().guard, guard);
}

fn clears(scenery: &Scenery) {
    scenery.fleet.breaching.lock().unwrap().clear();
    scenery.scene.registry.set_healthy("rpc-order-2", true);
}

#[test]
fn after_a_guard_of_the_fleet_has_refused_it_is_held_until_it_was_calm_for_so_long() {
    for guard in [Guard::CommonCause, Guard::MinHealthy] {
        let mut scenery = calm();
        scenery.plan.guards.common_cause = Some(0.6);
        scenery.allows();
        storm(&scenery, guard);
        scenery.clock.advance(seconds(60));
        storm(&scenery, guard);
        clears(&scenery);
        let last = scenery.now();
        scenery.clock.advance(CALM - seconds(61));
        let refusal = scenery.refuses(Guard::Calm, Reason::NotCalm);
        assert_eq!(refusal.until, Some(last + CALM));
        let says = format!("{guard} refused last at {last:.0}; held until it has been calm for 10m: 1m1s left");
        assert_eq!(refusal.detail, says);
        scenery.clock.advance(seconds(61));
        scenery.allows();
    }
}

#[test]
fn a_guard_that_could_not_be_asked_was_no_calm_and_what_explain_asks_is_not_noted() {
    let mut scenery = calm();
    scenery.plan.guards.common_cause = Some(0.6);
    scenery.plan.guards.fleet_slots = None;
    scenery.scene.registry.register("rpc-order-3", "rpc-order", "10.0.0.3:7801");
    *scenery.fleet.broken.lock().unwrap() = true;
    assert!(!scenery.all().is_empty());
    *scenery.fleet.broken.lock().unwrap() = false;
    scenery.allows();
    *scenery.fleet.broken.lock().unwrap() = true;
    assert_eq!(scenery.ask().unwrap_err().reason, Reason::GuardFailed);
    *scenery.fleet.broken.lock().unwrap() = false;
    scenery.refuses(Guard::Calm, Reason::NotCalm);
}

#[test]
fn the_calm_is_counted_on_after_a_restart_of_the_agent_and_for_its_own_policy_and_service() {
    let dir = tempfile::tempdir().unwrap();
    let mut scenery = calm();
    let open = |scenery: &mut Scenery| {
        scenery.store = std::sync::Arc::new(Store::open(&dir.path().join("unwait.db")).unwrap());
        scenery.gate.store = scenery.store.clone();
    };
    open(&mut scenery);
    storm(&scenery, Guard::MinHealthy);
    clears(&scenery);
    open(&mut scenery);
    scenery.refuses(Guard::Calm, Reason::NotCalm);
    let policy = std::mem::replace(&mut scenery.plan.policy, "another".into());
    scenery.allows();
    scenery.plan.policy = policy;
    // A person has looked.
    scenery.plan.trigger = Trigger::Person { who: "ann".into() };
    scenery.allows();
    scenery.plan.trigger = Trigger::Breach;
    scenery.plan.guards.calm = None;
    scenery.allows();
}
