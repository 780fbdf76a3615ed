//! The agent's start over what a former one left, in virtual time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::*;
use crate::clock::{Clock, VirtualClock};
use crate::daemon::damage_tests::{Ears, ports, wiring};
use crate::execute::fakes::{self, Fault, Hanging, ID, Observed, Scene, Shape};
use crate::execute::saga::Event;
use crate::execute::tell::EndFacts;
use crate::model::{IncidentId, Marker};
use crate::ports::registry::Registry;
use crate::store::Store;
use crate::wiring::Wiring;

/// An agent that died as it restarted the service, with a message that nobody has heard yet.
struct Left {
    wiring: Wiring,
    store: Arc<Store>,
    scene: Arc<Scene>,
    ears: Arc<Ears>,
    dir: tempfile::TempDir,
}

fn left() -> Left {
    let dir = tempfile::tempdir().unwrap();
    let mut wiring = wiring(dir.path());
    let scene = Scene::new(Fault::Nothing);
    let ears = Arc::new(Ears::default());
    let clock = Arc::new(VirtualClock::start());
    wiring.host.clock = clock.clone();
    wiring.ports = ports(&scene);
    for notifier in wiring.notifiers.values_mut() {
        *notifier = ears.clone();
    }
    let store = Arc::new(Store::open_with(Path::new(":memory:"), clock.clone()).unwrap());
    let plan = fakes::plan(fakes::steps(Shape::RestartInPlace, Fault::Nothing));
    store.begin_incident(&plan, clock.now(), &wiring.audience, &[]).unwrap();
    let events = [
        Event::Intended { step: 0, preimage: serde_json::Value::Null },
        Event::Done { step: 0, detail: String::new(), helped: None, note: None },
        Event::Intended { step: 1, preimage: serde_json::json!({ "incarnation": "lifetime-1" }) },
    ];
    let row = |(seq, event)| JournalRow { seq, at: clock.now(), event: serde_json::to_string(event).unwrap() };
    let rows: Vec<JournalRow> = (0..).zip(&events).map(row).collect();
    let ending = Ending { outcome: Outcome::Stuck, reason: Reason::RestartUnknown, detail: String::new() };
    let teller = crate::execute::tell::MessageBuilder { plan: &plan, host: fakes::HOST, labels: &[], at: clock.now() };
    let messages = [teller.end(EventKind::Stuck, &ending, None, &EndFacts::default())];
    let implied = Implied {
        step: "restart",
        changed: true,
        ending: None,
        latch: None,
        audience: &wiring.audience,
        messages: &messages,
    };
    store.append(&plan.incident, &rows, &implied).unwrap();
    Left { wiring, store, scene, ears, dir }
}

#[tokio::test(start_paused = true)]
async fn people_hear_what_waits_while_a_restarter_hangs_at_the_start() {
    let mut left = left();
    left.wiring.ports.restarters.systemd = Arc::new(Observed(Hanging(Arc::new(VirtualClock::start()))));
    let (_keeps, stop) = watch::channel(false);
    let agent = Agent::start(left.dir.path(), left.wiring, left.store, stop).await.unwrap();
    // Long before its restarter has not answered the first question.
    sleep(Duration::from_secs(10)).await;
    assert_eq!(left.ears.0.lock().unwrap().len(), 1, "what waited");
    agent.finish().await;
    assert_eq!(left.ears.0.lock().unwrap().len(), 2, "and what became of it");
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_shows_itself_only_behind_the_last_saga_is_told_before_the_agent_ends() {
    let left = left();
    // It came up again, so what is left is to look whether it is well.
    left.scene.service().lifetime = 2;
    let (_keeps, stop) = watch::channel(false);
    let agent = Agent::start(left.dir.path(), left.wiring, left.store.clone(), stop).await.unwrap();
    let service = fakes::plan(Vec::new()).target.service;
    let marker = Marker { incident: IncidentId("20260102T030405Z-rpc-order-0000".into()), host: fakes::HOST.into() };
    let shows_itself = async {
        sleep(Duration::from_secs(1)).await;
        assert!(!left.store.open_incidents().unwrap().is_empty(), "the saga is under way");
        left.scene.registry.drain(ID, &marker).await.unwrap();
    };
    tokio::join!(agent.finish(), shows_itself);
    assert!(left.store.open_incidents().unwrap().is_empty());
    assert_eq!(left.store.latch(&service).unwrap().map(|latch| latch.incident), Some(marker.incident.0));
}
