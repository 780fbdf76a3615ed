//! The fleet's slot is asked for again just before each change, and no change begins once its answer is too old.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use crate::execute::driver::{Driven, drive};
use crate::execute::fakes::{self, Fault, Scene, Shape};
use crate::execute::journal::Journal;
use crate::execute::saga::Saga;
use crate::model::{Outcome, Reason};
use crate::ports::fleet::{Acquired, Fleet, FleetError, Slot};
use crate::ports::registry::{Registry, Traffic};

/// Answers each `begin` by the next of its list, and counts how often it is told of a drain.
struct Answers {
    begin: Mutex<VecDeque<Result<Duration, FleetError>>>,
    drained: Mutex<u32>,
}

#[async_trait]
impl Fleet for Answers {
    async fn acquire(&self, _: &str, _: &str, _: u32) -> Result<Acquired, FleetError> {
        unreachable!("the guards are another fake's")
    }

    async fn would_take(&self, _: &str, _: &str, _: u32) -> Result<Option<String>, FleetError> {
        unreachable!("the guards are another fake's")
    }

    async fn begin(&self, service: &str, _incident: &str) -> Result<Duration, FleetError> {
        assert_eq!(service, "rpc-order");
        self.begin.lock().unwrap().pop_front().expect("asked once for each change before there is no way back")
    }

    async fn drained(&self, service: &str, _incident: &str) -> Result<(), FleetError> {
        assert_eq!(service, "rpc-order");
        *self.drained.lock().unwrap() += 1;
        // Nothing waits for it to succeed.
        Err(FleetError::Unreachable("nobody answers".into()))
    }

    async fn release(&self, _: &str, _: &str) -> Result<(), FleetError> {
        unreachable!("slots are given back by the sweep")
    }

    async fn blocked_by(&self, _: &str, _: &str, _: u32) -> Result<Vec<Slot>, FleetError> {
        unreachable!()
    }

    async fn release_host(&self, _: &str, _: &str) -> Result<Vec<Slot>, FleetError> {
        unreachable!()
    }

    async fn keep(&self, _needed: &[(String, String)]) -> Result<Vec<(String, Slot)>, FleetError> {
        Ok(Vec::new())
    }
}

#[test]
fn no_change_begins_without_a_slot_that_still_holds() {
    let holds = || Ok(Duration::MAX);
    let lost = || Err(FleetError::Lost("another host has it".into()));
    let silent = || Err(FleetError::Unreachable("nobody answers".into()));
    // Asked, and then stopped for longer than the answer is good.
    let too_old = || Ok(Duration::ZERO);
    for (what, answers, drained, restarts) in [
        ("holds throughout", vec![holds(), holds()], true, 1),
        ("lost before the drain", vec![lost()], false, 0),
        ("silent before the drain", vec![silent()], false, 0),
        ("too old before the drain", vec![too_old()], false, 0),
        ("lost before the restart", vec![holds(), lost()], true, 0),
        ("silent before the restart", vec![holds(), silent()], true, 0),
        ("too old before the restart", vec![holds(), too_old()], true, 0),
    ] {
        let scene = Scene::new(Fault::Nothing);
        let mut world = fakes::world(&scene);
        let fleet = Arc::new(Answers { begin: Mutex::new(answers.into()), drained: Mutex::default() });
        world.ports.fleet = Some(fleet.clone());
        let mut plan = fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing));
        plan.fleet_scope = Some("rpc-order".into());
        world.store.begin_incident(&plan, world.clock.now(), &world.audience, &[]).unwrap();
        let stop = scene.trip.stop.subscribe();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let driven = runtime.block_on(drive(Saga::new(plan), Journal::new(), &world, stop));

        let Driven::Rested(ending) = driven else { panic!("{what}: {driven:?}") };
        let expected = if restarts == 1 { Outcome::Completed } else { Outcome::Unwound };
        assert_eq!(ending.outcome, expected, "{what}: {ending:?}");
        assert_eq!(ending.reason == Reason::SlotTaken, restarts == 0, "{what}: {ending:?}");
        assert_eq!(scene.service().restarts, restarts, "{what}");
        assert_eq!(scene.service().drained_once, drained, "{what}");
        let registration = runtime.block_on(scene.registry.observe("rpc-order-1")).unwrap();
        assert_eq!(registration.traffic, Traffic::Passing, "{what}");
        assert!(fleet.begin.lock().unwrap().is_empty(), "{what}: each answer was asked for");
        assert_eq!(*fleet.drained.lock().unwrap(), u32::from(drained), "{what}: the others are told of the drain");
    }
}
