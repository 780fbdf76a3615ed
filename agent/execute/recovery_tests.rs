//! What is believed of a doubtful step: over managers that do not tell what they do, or do not answer.

use std::sync::Arc;

use async_trait::async_trait;

use super::*;
use crate::execute::fakes::{self, Fake, Fault, Hanging, Observed, Scene, Shape, Shows};
use crate::execute::world::Pace;
use crate::ports::restarter::{RestartError, Restarter};

/// Of a service that is asked to end at `asked`, after the agent died; its manager calls it active until it has ended.
struct Silent {
    pace: Fake,
    /// When the lifetime ends, if it does; from then on runs the next.
    ends: Option<Duration>,
    stop_timeout: Duration,
}

#[async_trait]
impl Shows for Silent {
    async fn shows(&self) -> Result<Liveness, RestartError> {
        let lifetime = if self.ends.is_some_and(|ends| self.pace.elapsed() >= ends) { 2 } else { 1 };
        Ok(Liveness {
            state: RunState::Active,
            incarnation: Some(Incarnation(format!("lifetime-{lifetime}"))),
            main_pid: None,
            up_for: None,
        })
    }

    fn settles_within(&self) -> Duration {
        self.stop_timeout
    }
}

/// What is said of the first step of the shape that acts, and how much time has gone by.
fn said(shape: Shape, restarter: impl FnOnce(Fake) -> Arc<dyn Restarter>) -> (Event, Duration) {
    let scene = Scene::new(Fault::Nothing);
    let mut saga = Saga::new(fakes::plan(fakes::steps(shape, Fault::Nothing)));
    let preimage = serde_json::json!({ "incarnation": "lifetime-1" });
    for event in [
        Event::Intended { step: 0, preimage: serde_json::Value::Null },
        Event::Done { step: 0, detail: String::new(), helped: None, note: None },
        Event::Intended { step: 1, preimage },
    ] {
        saga.apply(event).unwrap();
    }
    let mut world = fakes::world(&scene);
    world.ports.restarters.systemd = restarter(Fake(Arc::clone(&scene)));
    let detail = "the agent died while it was under way".into();
    let asked = doubtful_pivot(&saga, 1, Reason::AgentRestarted, detail, &world);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    (runtime.block_on(asked), Fake(scene).elapsed())
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_restart_that_its_manager_does_not_show_is_seen_once_the_service_has_taken_its_time_to_end() {
    let restart = |ends: Option<u64>, stop_timeout: u64| {
        let silent = |pace| Silent { pace, ends: ends.map(seconds), stop_timeout: seconds(stop_timeout) };
        said(Shape::RestartInPlace, |pace| Arc::new(Observed(silent(pace))))
    };
    let (took_place, _) = restart(Some(10), 15);
    assert!(matches!(took_place, Event::Done { .. }), "{took_place:?}");
    let (not_begun, after) = restart(None, 15);
    assert!(matches!(not_begun, Event::Failed { untouched: true, .. }), "{not_begun:?}");
    assert!(after >= seconds(15));
    // One whose manager shows its work is believed at once.
    let (not_begun, after) = restart(None, 0);
    assert!(matches!(not_begun, Event::Failed { untouched: true, .. }), "{not_begun:?}");
    assert_eq!(after, Duration::ZERO);
    let (unknown, after) = restart(None, 600);
    assert!(matches!(unknown, Event::Failed { untouched: false, reason: Reason::RestartUnknown, .. }), "{unknown:?}");
    assert_eq!(after, SETTLE);
}

#[test]
fn a_restarter_that_hangs_keeps_nobody_waiting_for_a_person_longer_than_it_is_given() {
    for (shape, why) in [(Shape::Reload, Reason::NotAsBefore), (Shape::RestartInPlace, Reason::RestartUnknown)] {
        let (unknown, after) = said(shape, |pace| Arc::new(Observed(Hanging(Arc::new(pace)))));
        let Event::Failed { reason, untouched: false, .. } = unknown else { panic!("{shape:?}: {unknown:?}") };
        assert_eq!(reason, why, "{shape:?}");
        assert!(after <= SETTLE + seconds(60 + 2), "{shape:?}: {after:?}");
    }
}

/// Tells this of the service, and nothing else.
struct Tells(RunState, Option<Incarnation>);

#[async_trait]
impl Shows for Tells {
    async fn shows(&self) -> Result<Liveness, RestartError> {
        Ok(Liveness { state: self.0, incarnation: self.1.clone(), main_pid: None, up_for: None })
    }
}

#[test]
fn only_an_active_service_with_another_lifetime_has_been_restarted() {
    let another = || Some(Incarnation("lifetime-2".into()));
    let restart = |state, incarnation| said(Shape::RestartInPlace, |_| Arc::new(Observed(Tells(state, incarnation)))).0;
    assert!(matches!(restart(RunState::Active, another()), Event::Done { .. }));
    for (state, incarnation) in [
        (RunState::Active, None),
        (RunState::Failed, another()),
        (RunState::Inactive, another()),
        (RunState::Changing, another()),
    ] {
        let said = restart(state, incarnation);
        let unknown = matches!(said, Event::Failed { reason: Reason::RestartUnknown, untouched: false, .. });
        assert!(unknown, "{state}: {said:?}");
    }
}

#[test]
fn a_gentler_step_over_the_same_healthy_lifetime_left_the_service_as_it_was() {
    let reload = |lifetime: &str| {
        let incarnation = Some(Incarnation(lifetime.into()));
        said(Shape::Reload, |_| Arc::new(Observed(Tells(RunState::Active, incarnation)))).0
    };
    let as_it_was = reload("lifetime-1");
    assert!(matches!(as_it_was, Event::Failed { untouched: true, .. }), "{as_it_was:?}");
    let another = reload("lifetime-2");
    assert!(matches!(another, Event::Failed { untouched: false, reason: Reason::NotAsBefore, .. }), "{another:?}");
}

#[test]
fn a_call_that_nobody_saw_made_is_made_all_the_same() {
    let plan = fakes::plan(fakes::steps(Shape::IsolateAndCall, Fault::Nothing));
    let call = plan.steps.len() - 1;
    let mut saga = Saga::new(plan);
    for step in 0..=call {
        saga.apply(Event::Intended { step, preimage: serde_json::Value::Null }).unwrap();
        if step < call {
            saga.apply(Event::Done { step, detail: String::new(), helped: None, note: None }).unwrap();
        }
    }
    let world = fakes::world(&Scene::new(Fault::Nothing));
    let asked = doubtful_pivot(&saga, call, Reason::AgentRestarted, "the agent died".into(), &world);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let made = runtime.block_on(asked);
    assert!(matches!(made, Event::Failed { reason: Reason::NeedsPerson, untouched: false, .. }), "{made:?}");
}
