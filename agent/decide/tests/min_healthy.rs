//! Enough others must be healthy, by whichever of the service's registries can count them.

use std::sync::Arc;

use super::scenery::scenery;
use super::*;
use crate::decide::guards::Guard;
use crate::execute::fakes::{HOST, ID};
use crate::model::plan::Binding;
use crate::model::policy::MinHealthy;
use crate::model::{IncidentId, Marker, Reason};
use crate::ports::fleet::{Phase, Slot};
use crate::ports::registry::Registry;
use crate::ports::registry::fake::FakeRegistry;

#[test]
fn too_few_others_healthy_refuses_and_fails_closed() {
    let mut scenery = scenery();
    for (rule, healthy, registered_too, allowed) in [
        (MinHealthy::Count(1), true, 0, true),
        (MinHealthy::Count(1), false, 0, false),
        (MinHealthy::Count(2), true, 0, false),
        (MinHealthy::Share(0.5), true, 0, true),
        (MinHealthy::Share(0.51), true, 0, false),
        (MinHealthy::Share(0.5), true, 1, false),
        (MinHealthy::AllOthers, true, 0, true),
        (MinHealthy::AllOthers, true, 1, false),
        (MinHealthy::AllOthers, false, 0, false),
    ] {
        scenery.plan.guards.min_healthy = Some(rule);
        scenery.scene.registry.set_healthy("rpc-order-2", healthy);
        scenery.scene.registry.deregister("rpc-order-3");
        if registered_too > 0 {
            scenery.scene.registry.register("rpc-order-3", "rpc-order", "10.0.0.3:7801");
            scenery.scene.registry.set_healthy("rpc-order-3", false);
        }
        match allowed {
            true => scenery.allows(),
            false => drop(scenery.refuses(Guard::MinHealthy, Reason::TooFewHealthy)),
        }
    }
    scenery.scene.registry.deregister("rpc-order-3");
    let refusal = scenery.refuses(Guard::MinHealthy, Reason::TooFewHealthy);
    let counted =
        "0 other healthy instances of 2 registered in fake, this one included; min_healthy is N-1 (all others)";
    assert!(refusal.detail.contains(counted), "{refusal}");
    scenery.scene.registry.set_healthy("rpc-order-2", true);
    scenery.plan.target.bindings.clear();
    scenery.refuses(Guard::MinHealthy, Reason::NoRegistry);
    scenery.plan.guards.min_healthy = None;
    scenery.allows();
}

#[test]
fn a_registry_that_counts_nobody_is_passed_over_where_another_counts_and_refused_where_none_does() {
    let mut scenery = scenery();
    let counting = Arc::new(FakeRegistry::new("counting"));
    counting.register(ID, "rpc-order", "127.0.0.1:7801");
    counting.register("rpc-order-2", "rpc-order", "10.0.0.2:7801");
    scenery.gate.ports.registries.insert("counting".into(), counting.clone());
    scenery.plan.target.bindings.push(Binding::new("counting", ID));
    scenery.allows();
    counting.set_healthy("rpc-order-2", false);
    scenery.refuses(Guard::MinHealthy, Reason::TooFewHealthy);
    counting.set_healthy("rpc-order-2", true);

    scenery.scene.registry.set_counts_nobody();
    scenery.allows();
    counting.set_counts_nobody();
    let refusal = scenery.refuses(Guard::MinHealthy, Reason::TooFewHealthy);
    assert!(refusal.detail.contains("can count"), "{refusal}");
}

#[test]
fn another_that_is_drained_is_no_healthy_one() {
    let scenery = scenery();
    let marker = Marker { incident: IncidentId("another".into()), host: "another-host".into() };
    scenery.block(scenery.scene.registry.drain("rpc-order-2", &marker)).unwrap();
    scenery.refuses(Guard::MinHealthy, Reason::TooFewHealthy);
}

#[tokio::test]
async fn a_host_at_work_counts_as_out_until_its_drain_is_shown() {
    let mut scenery = scenery();
    scenery.plan.guards.fleet_slots = Some(2);
    let now = scenery.now();
    let slot = |holder: &str, phase| Slot { holder: holder.into(), incident: "theirs".into(), since: now, phase };
    // The registry counts one healthy other, and one must be left.
    for (holder, phase, later, enough) in [
        ("bj1-04", Phase::Waiting { until: now }, 0, true),
        ("bj1-04", Phase::Changing, 0, false),
        ("bj1-04", Phase::Changing, 899, false),
        ("bj1-04", Phase::Changing, 900, true),
        ("bj1-04", Phase::Drained, 0, true),
        (HOST, Phase::Changing, 0, true),
    ] {
        *scenery.fleet.held.lock().unwrap() = vec![slot(holder, phase.clone())];
        scenery.clock.step_wall(now + seconds(later));
        let asked = scenery.gate.enough_beside_others(&scenery.plan).await;
        assert_eq!(asked.is_ok(), enough, "{holder}, {phase:?}, {later} s later: {asked:?}");
    }
    *scenery.fleet.broken.lock().unwrap() = true;
    assert_eq!(scenery.gate.enough_beside_others(&scenery.plan).await.unwrap_err().reason, Reason::GuardFailed);
}
