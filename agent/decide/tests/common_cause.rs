//! Where much of a fleet is in breach, all hold.

use super::scenery::scenery;
use super::*;
use crate::decide::guards::Guard;
use crate::execute::fakes::{self, Fault, ID, Shape};
use crate::model::Reason;

#[test]
fn at_the_share_of_three_or_more_instances_it_is_held() {
    // (instances registered, hosts in breach, share, held)
    for (registered, breaching, share, held) in [
        (4, 1, 0.55, false),
        (4, 2, 0.55, false),
        (4, 3, 0.55, true),
        (4, 2, 0.5, true),
        (3, 3, 1.0, true),
        (3, 2, 1.0, false),
        (2, 2, 0.55, false),
    ] {
        let mut scenery = scenery();
        scenery.plan.guards.common_cause = Some(share);
        for instance in 3..=registered {
            let (id, address) = (format!("rpc-order-{instance}"), format!("10.0.0.{instance}:7801"));
            scenery.scene.registry.register(&id, "rpc-order", &address);
        }
        *scenery.fleet.breaching.lock().unwrap() = (1..=breaching).map(|host| format!("bj1-{host:02}")).collect();
        if !held {
            scenery.allows();
            continue;
        }
        let refusal = scenery.refuses(Guard::CommonCause, Reason::CommonCause);
        let says = format!("{breaching} of {registered} instances of rpc-order are in breach, on bj1-01, ");
        assert!(refusal.detail.starts_with(&says), "{refusal}");
        // Just before its first change a saga that is under way hears of it as well.
        scenery.own_saga = true;
        scenery.refuses(Guard::CommonCause, Reason::CommonCause);
        scenery.plan.guards.common_cause = None;
        scenery.allows();
    }
}

#[test]
fn the_share_is_said_as_it_is_written() {
    for (share, shown) in [
        (0.005, "`common_cause` allows less than 0.5%:"),
        (0.55, "`common_cause` allows less than 55%:"),
        (0.3333, "33.33%:"),
    ] {
        let mut scenery = scenery();
        scenery.plan.guards.common_cause = Some(share);
        scenery.scene.registry.register("rpc-order-3", "rpc-order", "10.0.0.3:7801");
        *scenery.fleet.breaching.lock().unwrap() = (1..=3).map(|host| format!("bj1-0{host}")).collect();
        let refusal = scenery.refuses(Guard::CommonCause, Reason::CommonCause);
        assert!(refusal.detail.contains(shown), "{refusal}");
    }
}

#[test]
fn a_service_that_fails_its_check_is_acted_on_unless_others_fail_theirs_with_it() {
    // (instances registered, of the others healthy, held by)
    for (registered, healthy, held) in [
        (2, 1, None),
        (2, 0, Some((Guard::MinHealthy, Reason::TooFewHealthy))),
        (3, 2, None),
        (3, 1, Some((Guard::CommonCause, Reason::CommonCause))),
        (4, 2, None),
        (4, 1, Some((Guard::CommonCause, Reason::CommonCause))),
    ] {
        for drains in [true, false] {
            let mut scenery = scenery();
            let registry = &scenery.scene.registry;
            for instance in 3..=registered {
                let (id, address) = (format!("rpc-order-{instance}"), format!("10.0.0.{instance}:7801"));
                registry.register(&id, "rpc-order", &address);
            }
            registry.set_healthy(ID, false);
            for instance in healthy + 2..=registered {
                registry.set_healthy(&format!("rpc-order-{instance}"), false);
            }
            if !drains {
                let shape = Shape::RestartInPlace;
                scenery.plan.steps = fakes::plan(fakes::steps(shape, Fault::Nothing)).steps;
                // Nothing is asked of one that does not drain, where it passes its check.
                scenery.plan.guards = GuardSettings::default();
            }
            match held {
                None => scenery.allows(),
                Some((guard, reason)) => drop(scenery.refuses(guard, reason)),
            }
        }
    }
}

#[test]
fn a_fleet_or_a_registry_that_does_not_answer_refuses() {
    let mut scenery = scenery();
    scenery.plan.guards = GuardSettings { common_cause: Some(0.55), ..GuardSettings::default() };
    scenery.plan.fleet_scope = None;
    scenery.scene.registry.register("rpc-order-3", "rpc-order", "10.0.0.3:7801");
    scenery.allows();
    *scenery.fleet.broken.lock().unwrap() = true;
    scenery.refuses(Guard::CommonCause, Reason::GuardFailed);
    *scenery.fleet.broken.lock().unwrap() = false;
    scenery.plan.target.bindings.clear();
    scenery.refuses(Guard::CommonCause, Reason::NoRegistry);
    scenery.gate.ports.fleet = None;
    scenery.refuses(Guard::CommonCause, Reason::GuardFailed);
}
