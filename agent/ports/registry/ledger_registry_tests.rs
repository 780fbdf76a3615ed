//! When a drain is one: over a backend in memory, whose changes are refused, arrive late, or are cut by a crash.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::conformance::marker;
use super::ledger::Ledger;
use super::ledger_registry::{Backend, LedgerRegistry};
use super::whose::{Shown, whose};
use super::*;
use crate::ports::testing_consul::wait_for;

const OFTEN: Duration = Duration::from_millis(10);
const US: &str = "rpc-order/us";
const CANARY: &str = "rpc-z/canary";

#[derive(Clone, Copy, Default)]
struct Instance {
    out: bool,
    /// By a hand that does it otherwise.
    otherwise: bool,
    /// Changes are answered by an error, and nothing is known of them.
    refuses: bool,
    /// Somebody else takes it out between our look and our change.
    raced: bool,
    /// What puts it back answers only a while after its effect.
    slow: bool,
    taken_out: u32,
    put_back: u32,
}

#[derive(Clone, Default)]
struct World(Arc<Mutex<HashMap<String, Instance>>>);

impl World {
    fn change<T>(&self, id: &str, change: impl FnOnce(&mut Instance) -> T) -> T {
        change(self.0.lock().unwrap().entry(id.into()).or_default())
    }

    fn is(&self, id: &str) -> Instance {
        self.change(id, |instance| *instance)
    }

    /// As an agent makes it that starts with this state directory.
    fn agent(&self, state: &tempfile::TempDir) -> LedgerRegistry<Plain> {
        let ledger = Ledger::new(state.path().join("drains.json"));
        LedgerRegistry::over(Plain { world: self.clone(), ledger }, OFTEN)
    }
}

/// Keeps no marker.
struct Plain {
    world: World,
    ledger: Ledger,
}

#[async_trait]
impl Backend for Plain {
    type Instance = Registration;

    fn registry(&self) -> &str {
        "plain"
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    async fn would(&self, _change: TrafficChange, _id: &str, _marker: &Marker) -> Result<Vec<String>, RegistryError> {
        Ok(Vec::new())
    }

    async fn look(&self, id: &str) -> Result<Registration, RegistryError> {
        let shown = match self.world.is(id) {
            Instance { otherwise: true, .. } => Shown::OutOtherwise("a person did it"),
            Instance { out: true, .. } => Shown::Out("it is drained"),
            _ => Shown::In { passing: true },
        };
        let traffic = whose(shown, None, self.note(id)?.as_ref());
        Ok(Registration { name: id.into(), traffic, record: Value::Null })
    }

    fn registration(seen: &Registration) -> &Registration {
        seen
    }

    async fn take_out(&self, id: &str, _marker: &Marker) -> Result<bool, RegistryError> {
        let refused = self.refused("not now".into());
        self.world.change(id, |instance| {
            instance.out |= instance.raced;
            if instance.out || instance.otherwise {
                return Ok(false);
            }
            instance.taken_out += 1;
            instance.out = !instance.refuses;
            if instance.refuses { Err(refused) } else { Ok(true) }
        })
    }

    async fn put_back(&self, id: &str, _: &Marker, _: Registration, _: &Value) -> Result<(), RegistryError> {
        self.world.change(id, |instance| {
            instance.put_back += 1;
            instance.out = false;
        });
        if self.world.is(id).slow {
            tokio::time::sleep(20 * OFTEN).await;
        }
        Ok(())
    }

    async fn is_undone(&self, _id: &str, _error: &RegistryError) -> bool {
        false
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        let Instance { out, otherwise, .. } = self.world.is(id);
        Ok(!out && !otherwise)
    }

    async fn others(&self, _id: &str) -> Result<Others, RegistryError> {
        Ok(Others { healthy: 0, registered: 1 })
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        Ok(HashMap::new())
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        Ok(vec![])
    }

    fn caveats(&self) -> &'static [&'static str] {
        &[]
    }
}

/// So many rounds of the agent's holder have gone by: the canary is drained, and each round takes it out again.
async fn rounds(world: &World, agent: &LedgerRegistry<Plain>) {
    agent.drain(CANARY, &marker("canary")).await.unwrap();
    for _ in 0..3 {
        world.change(CANARY, |canary| canary.out = false);
        wait_for("the holder's round", async || world.is(CANARY).out).await;
    }
}

fn listed(id: &str) -> FoundMarker {
    FoundMarker { id: id.into(), marker: marker("i") }
}

#[tokio::test]
async fn what_one_adapter_puts_back_the_one_of_a_new_configuration_does_not_take_out_meanwhile() {
    let (world, state) = (World::default(), tempfile::tempdir().unwrap());
    let former = world.agent(&state);
    former.drain(US, &marker("i")).await.unwrap();
    let later = world.agent(&state);
    assert_eq!(later.markers().await.unwrap(), [listed(US)]);
    world.change(US, |us| us.slow = true);
    assert_eq!(former.restore(US, &marker("i"), &Value::Null).await.unwrap(), Restored::Done);
    rounds(&world, &later).await;
    assert_eq!((world.is(US).out, world.is(US).taken_out), (false, 1));
}

#[tokio::test]
async fn whoever_was_quicker_keeps_their_drain() {
    let (world, state) = (World::default(), tempfile::tempdir().unwrap());
    let agent = world.agent(&state);
    world.change(US, |us| us.raced = true);
    assert!(matches!(agent.drain(US, &marker("i")).await, Err(RegistryError::Refused { .. })));
    assert!(matches!(agent.restore(US, &marker("i"), &Value::Null).await, Ok(Restored::NotOurs(_))));
    assert!(world.is(US).out && agent.markers().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_change_that_was_refused_is_never_sent_again() {
    let (world, state) = (World::default(), tempfile::tempdir().unwrap());
    world.change(US, |us| us.refuses = true);
    let agent = world.agent(&state);
    assert!(matches!(agent.drain(US, &marker("i")).await, Err(RegistryError::Refused { .. })));
    assert_eq!(agent.observe(US).await.unwrap().traffic, Traffic::Passing, "what was never seen is no drain");
    world.change(US, |us| us.refuses = false);
    for agent in [agent, world.agent(&state)] {
        assert!(agent.markers().await.unwrap().iter().all(|found| found.id == CANARY));
        assert!(!agent.hold(US, &marker("i")).await.unwrap());
        rounds(&world, &agent).await;
        agent.restore(CANARY, &marker("canary"), &Value::Null).await.unwrap();
    }
    assert_eq!((world.is(US).taken_out, world.is(US).out), (1, false));

    // The undo changes it all the same: what was answered by an error may have been taken.
    let later = world.agent(&state);
    assert_eq!(later.restore(US, &marker("i"), &Value::Null).await.unwrap(), Restored::Done);
    assert!(matches!(later.restore(US, &marker("i"), &Value::Null).await.unwrap(), Restored::NotOurs(_)));
    assert_eq!(world.is(US).put_back, 1);
}

#[tokio::test]
async fn an_agent_killed_between_the_note_and_the_change_leaves_nothing_to_hold() {
    let (world, state) = (World::default(), tempfile::tempdir().unwrap());
    Ledger::new(state.path().join("drains.json")).begin(US, &marker("i")).unwrap();
    let later = world.agent(&state);
    assert!(later.markers().await.unwrap().is_empty());
    rounds(&world, &later).await;
    assert_eq!(world.is(US).taken_out, 0);
    // Another incident may begin, and its note is its own.
    later.drain(US, &marker("j")).await.unwrap();
    assert!(matches!(later.restore(US, &marker("i"), &Value::Null).await.unwrap(), Restored::NotOurs(_)));
    assert!(world.is(US).out);
    assert_eq!(later.restore(US, &marker("j"), &Value::Null).await.unwrap(), Restored::Done);
}

#[tokio::test]
async fn a_change_that_arrives_late_is_found_and_held_from_then_on() {
    for forgotten in [false, true] {
        let (world, state) = (World::default(), tempfile::tempdir().unwrap());
        world.change(US, |us| us.refuses = true);
        world.agent(&state).drain(US, &marker("i")).await.unwrap_err();
        world.change(US, |us| (us.out, us.refuses) = (true, false));
        let later = world.agent(&state);
        assert_eq!(later.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
        assert_eq!(later.markers().await.unwrap(), [listed(US)]);
        world.change(US, |us| us.out = false);
        wait_for("it to be taken out again", async || world.is(US).out).await;
        match forgotten {
            true => later.forget(US, &marker("i")).await.unwrap(),
            false => drop(later.restore(US, &marker("i"), &Value::Null).await.unwrap()),
        }
        world.change(US, |us| us.out = false);
        rounds(&world, &later).await;
        assert!(!world.is(US).out, "forgotten: {forgotten}");
    }
}

#[tokio::test]
async fn who_is_quicker_keeps_it_and_nothing_of_ours_is_noted() {
    let (world, state) = (World::default(), tempfile::tempdir().unwrap());
    let agent = world.agent(&state);
    world.change(US, |us| us.otherwise = true);
    for _ in 0..2 {
        assert!(matches!(agent.drain(US, &marker("i")).await, Err(RegistryError::Refused { .. })));
        assert!(agent.markers().await.unwrap().is_empty());
    }
    world.change(US, |us| us.otherwise = false);
    rounds(&world, &agent).await;
    assert!(!world.is(US).out);
}

#[tokio::test]
async fn a_note_that_cannot_be_written_as_seen_is_undone() {
    let (world, state) = (World::default(), tempfile::tempdir().unwrap());
    let agent = world.agent(&state);
    agent.drain(US, &marker("i")).await.unwrap();
    // As a later agent finds it: out of traffic, and begun.
    let drains = state.path().join("drains.json");
    let begun = std::fs::read_to_string(&drains).unwrap().replace("host=bj1-03", "host=bj1-03 begun");
    std::fs::write(&drains, begun).unwrap();
    let later = world.agent(&state);
    std::fs::create_dir(state.path().join("drains.tmp")).unwrap();
    later.markers().await.unwrap_err();
    assert_eq!(later.restore(US, &marker("i"), &Value::Null).await.unwrap(), Restored::Done);
    assert!(!world.is(US).out && later.markers().await.unwrap().is_empty());
}
