//! A person decides, and no adapter takes out again what they then put into traffic: over fakes, files, a real Consul and a
//! real HAProxy.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::SystemClock;
use crate::config;
use crate::daemon::damage_tests::wiring;
use crate::daemon::duties::sweep;
use crate::execute::driver::{Driven, drive};
use crate::execute::fakes::{self, Fault, Scene, Shape};
use crate::model::plan::Binding;
use crate::model::{Marker, Outcome};
use crate::ports::registry::consul::Consul;
use crate::ports::registry::fake::FakeRegistry;
use crate::ports::registry::health_file::HealthFile;
use crate::ports::registry::{Registry, Traffic};
use crate::ports::testing_consul::{TestConsul, free_ports, wait_for};
use crate::ports::testing_haproxy::TestHaProxy;
use crate::wiring::{Host, Wiring};

const SERVICE: &str = "rpc-order.service";

fn marker(incident: &str) -> Marker {
    Marker { incident: IncidentId(incident.into()), host: fakes::HOST.into() }
}

/// A world in which an incident rests stuck, its service drained in these registries.
async fn stuck(registries: Vec<(&str, &str, Arc<dyn Registry>)>) -> World {
    let scene = Scene::new(Fault::RestartDies);
    let mut world = fakes::world(&scene);
    let mut plan = fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::RestartDies));
    plan.target.bindings = registries.iter().map(|(name, id, _)| Binding::new(*name, *id)).collect();
    world.ports.registries = registries.into_iter().map(|(name, _, registry)| (name.to_owned(), registry)).collect();
    world.store.begin_incident(&plan, world.clock.now(), &world.audience, &[]).unwrap();
    match drive(Saga::new(plan), Journal::new(), &world, scene.trip.stop.subscribe()).await {
        Driven::Rested(ending) => assert_eq!(ending.outcome, Outcome::Stuck, "{}", ending.detail),
        Driven::Left => panic!("nobody told it to leave"),
    }
    world
}

fn is_latched(store: &Store) -> bool {
    !store.latches().unwrap().is_empty()
}

async fn refused_undecided(store: &Store, world: &World) {
    let undecided = resolve(store, world, SERVICE, How::Unsaid).await;
    assert!(!undecided.ok && undecided.text.contains("--leave"), "{undecided:?}");
    assert!(is_latched(store));
}

async fn leave(store: &Store, world: &World) {
    let left = resolve(store, world, SERVICE, How::Leave).await;
    assert!(left.ok && !is_latched(store), "{left:?}");
}

#[tokio::test]
async fn a_service_that_is_drained_in_one_of_its_registries_is_not_unlatched_without_a_word() {
    let goes = |registry: &FakeRegistry| registry.deregister("first");
    let is_a_persons = |registry: &FakeRegistry| registry.isolate("first", Some("deploy"));
    for becomes in [goes, is_a_persons] as [fn(&FakeRegistry); 2] {
        let both = ["first", "second"].map(|name| {
            let registry = Arc::new(FakeRegistry::new(name));
            registry.register(name, "rpc-order", "127.0.0.1:7801");
            registry
        });
        let bound = ["first", "second"].into_iter().zip(&both).map(|(name, real)| {
            let real: Arc<dyn Registry> = real.clone();
            (name, name, real)
        });
        let world = stuck(bound.collect()).await;
        becomes(&both[0]);
        refused_undecided(&world.store, &world).await;

        // A person puts both back.
        for (registry, name) in both.iter().zip(["first", "second"]) {
            registry.register(name, "rpc-order", "127.0.0.1:7801");
        }
        let resolved = resolve(&world.store, &world, SERVICE, How::Unsaid).await;
        assert!(resolved.ok && !is_latched(&world.store), "{resolved:?}");
    }
}

/// Looked at after ours in each of the holder's rounds: what it finds in traffic again it drains again.
const CANARY: &str = "rpc-z-1";

#[tokio::test]
async fn a_service_that_left_consul_while_it_rested_stuck_is_in_traffic_again_once_a_person_has_left_it() {
    let consul = TestConsul::start().await;
    let ours = "rpc-order-1";
    for (id, port) in [(ours, 7801), (CANARY, 7802)] {
        consul.register(id, id, port).await;
    }
    let adapter = Arc::new(Consul::new("consul", &consul.url, None, fakes::HOST).unwrap());
    let world = stuck(vec![("consul", ours, adapter.clone())]).await;
    adapter.drain(CANARY, &marker("canary")).await.unwrap();
    // Only what the catalog has seen go is registered anew for it.
    let leaves = async |id: &str| {
        consul.put(&format!("/v1/agent/service/deregister/{id}"), "").await;
        let gone = async || consul.get(&format!("/v1/catalog/service/{id}?consistent")).await == serde_json::json!([]);
        wait_for("the catalog to have seen it go", gone).await;
    };
    leaves(ours).await;

    refused_undecided(&world.store, &world).await;
    leave(&world.store, &world).await;
    consul.register(ours, ours, 7801).await;
    let traffic = async |id: &str| adapter.observe(id).await.map(|seen| seen.traffic).ok();
    wait_for("it to be in traffic", async || traffic(ours).await == Some(Traffic::Passing)).await;
    // The second time a whole round has gone by.
    for _ in 0..2 {
        leaves(CANARY).await;
        let again = serde_json::json!({ "ID": CANARY, "Name": CANARY, "Address": "127.0.0.1", "Port": 7802 });
        consul.put("/v1/agent/service/register", again.to_string()).await;
        let drained = Some(Traffic::DrainedBy(marker("canary")));
        wait_for("the holder's round", async || traffic(CANARY).await == drained).await;
        // Its look has ended then, and it is held on, also where the catalog has not shown it to that look.
        adapter.markers().await.unwrap();
    }
    assert_eq!(traffic(ours).await, Some(Traffic::Passing));
}

/// The agent's own wiring over one balancer, with the drains that a former state directory knew.
fn over_a_balancer(balancer: &TestHaProxy, dir: &Path, drains: &serde_json::Value) -> Wiring {
    std::fs::create_dir(dir.join("state")).unwrap();
    std::fs::write(dir.join("state/drains.json"), drains.to_string()).unwrap();
    crate::trust::write_secret(&dir.join("url"), "https://127.0.0.1:1/nobody");
    let host = format!(
        "registries: {{ haproxy: {{ sockets: [{}] }} }}\n\
         notify: [{{ to: {{ slack: {{ url_file: {}/url }} }}, events: [stuck] }}]\n\
         services: [{{ service: {SERVICE}, register: [{{ registry: haproxy, id: rpc-order/s1 }}] }}]\n\
         state: {}/state\n",
        balancer.socket(),
        dir.display(),
        dir.display()
    );
    std::fs::write(dir.join("agent.yaml"), host).unwrap();
    let config = config::load(dir).unwrap_or_else(|wrong| panic!("{wrong}"));
    let host = Host { name: fakes::HOST.into(), clock: Arc::new(SystemClock), on_message: Arc::new(|_| {}) };
    Wiring::new(config, host, None).unwrap()
}

#[tokio::test]
async fn an_orphan_in_haproxy_that_a_person_left_and_made_ready_stays_ready_and_is_not_latched_again() {
    let [port] = free_ports();
    let servers = "server s1 127.0.0.1:1\n  server s2 127.0.0.1:1\n";
    let balancer =
        TestHaProxy::start("admin", &format!("listen rpc-order\n  bind 127.0.0.1:{port}\n  {servers}")).await;
    let (ours, canary) = ("rpc-order/s1", "rpc-order/s2");
    let set = async |id: &str, state: &str| {
        assert_eq!(balancer.ask(&format!("set server {id} state {state}")).await.trim(), "");
    };
    for id in [ours, canary] {
        set(id, "drain").await;
    }
    let drains = serde_json::json!({ ours: marker("lost").to_string(), canary: marker("canary").to_string() });
    let dir = tempfile::tempdir().unwrap();
    let wiring = over_a_balancer(&balancer, dir.path(), &drains);
    let store = Arc::new(Store::open(Path::new(":memory:")).unwrap());
    let world = wiring.world(&store, Duration::ZERO);
    assert!(sweep::orphans(&wiring, &store).await && is_latched(&store));

    let is_drained = async |id: &str| {
        let state = balancer.ask("show servers state rpc-order").await;
        let name = id.split_once('/').unwrap().1;
        let line = state.lines().find(|line| line.split(' ').nth(3) == Some(name)).unwrap();
        line.split(' ').nth(6) == Some("8")
    };
    let a_round = async |id: &str| {
        set(id, "ready").await;
        wait_for("it to be drained again", async || is_drained(id).await).await;
    };
    a_round(ours).await;
    refused_undecided(&store, &world).await;
    leave(&store, &world).await;
    assert!(is_drained(ours).await, "it is left as it is");

    set(ours, "ready").await;
    assert!(sweep::orphans(&wiring, &store).await && !is_latched(&store));
    // The second time a whole round has gone by.
    a_round(canary).await;
    a_round(canary).await;
    assert!(!is_drained(ours).await);
}

#[tokio::test]
async fn what_a_person_left_is_held_by_no_later_agent_although_our_marker_stands() {
    let files = tempfile::tempdir().unwrap();
    let (ours, canary) = ("rpc-order/up", "rpc-z/up");
    let path = |id: &str| files.path().join(id);
    let write = |id: &str| std::fs::write(path(id), "UP").unwrap();
    for id in [ours, canary] {
        std::fs::create_dir(path(id).parent().unwrap()).unwrap();
        write(id);
    }
    let adapter = || Arc::new(HealthFile::new("file", files.path(), Duration::from_millis(20), fakes::HOST));
    let world = stuck(vec![("file", ours, adapter())]).await;
    leave(&world.store, &world).await;
    drop(world.ports);

    let dir = tempfile::tempdir().unwrap();
    let later = adapter();
    let mut wiring = wiring(dir.path());
    wiring.ports.registries = [("file".to_owned(), later.clone() as Arc<dyn Registry>)].into();
    assert!(sweep::orphans(&wiring, &world.store).await && !is_latched(&world.store));
    later.drain(canary, &marker("canary")).await.unwrap();
    write(ours);
    for _ in 0..2 {
        write(canary);
        wait_for("the holder's round", async || !path(canary).exists()).await;
    }
    assert!(path(ours).exists());
}
