//! The HAProxy adapter on two real balancers with real servers behind them: the suite, and what is HAProxy's own.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::conformance::{OURS, Tells, World, conforms, marker, nobody_answers};
use super::haproxy::HaProxy;
use super::*;
use crate::ports::testing_consul::{free_ports, wait_for};
use crate::ports::testing_haproxy::TestHaProxy;

const US: &str = "rpc-order/s1";
const NOTHING: serde_json::Value = serde_json::Value::Null;

struct Balanced {
    balancers: [TestHaProxy; 2],
    /// Of each balancer: for rpc-order and rpc-cart.
    doors: [[u16; 2]; 2],
    state: tempfile::TempDir,
    registry: HaProxy,
}

/// Says its name to whoever connects.
async fn server(address: &'static str, name: &'static str) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let _ = client.write_all(name.as_bytes()).await;
        }
    });
}

impl Balanced {
    async fn new(second: &str) -> Self {
        for (address, name) in [
            ("127.0.0.1:7801", "rpc-order/s1"),
            ("127.0.1.2:7801", "rpc-order/s2"),
            ("127.0.1.3:7801", "rpc-order/s3"),
            ("127.0.0.1:7901", "rpc-cart/s1"),
        ] {
            server(address, name).await;
        }
        let [a, b, c, d] = free_ports();
        let doors = [[a, b], [c, d]];
        let config = |[order, cart]: [u16; 2]| {
            format!(
                "listen rpc-order\n  bind 127.0.0.1:{order}\n  server s1 127.0.0.1:7801\n  server s2 127.0.1.2:7801\n  \
                 server s3 127.0.1.3:7801\nlisten rpc-cart\n  bind 127.0.0.1:{cart}\n  server s1 127.0.0.1:7901\n"
            )
        };
        let balancers =
            [TestHaProxy::start("admin", &config(doors[0])).await, TestHaProxy::start(second, &config(doors[1])).await];
        let state = tempfile::tempdir().unwrap();
        let registry = Self::of(&balancers, &state);
        Self { balancers, doors, state, registry }
    }

    fn of(balancers: &[TestHaProxy], state: &tempfile::TempDir) -> HaProxy {
        // One is spoken to over TCP.
        let sockets = balancers.iter().zip([TestHaProxy::socket, TestHaProxy::tcp_socket]);
        let sockets = sockets.map(|(balancer, socket)| socket(balancer)).collect();
        HaProxy::new("haproxy", sockets, state.path().join("drains.json"))
    }

    /// Does a client who comes some times get to it, by this balancer?
    async fn reaches(&self, balancer: usize, id: &str) -> bool {
        let door = self.doors[balancer][usize::from(id.starts_with("rpc-cart"))];
        for _ in 0..6 {
            let mut said = String::new();
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", door)).await {
                let _ = stream.read_to_string(&mut said).await;
            }
            if said == id {
                return true;
            }
        }
        false
    }

    async fn everywhere(&self, command: &str) {
        for balancer in &self.balancers {
            assert_eq!(balancer.ask(command).await.trim(), "", "{command}");
        }
    }
}

#[async_trait(?Send)]
impl World for Balanced {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(Self::of(&self.balancers, &self.state))
    }

    fn silent(&self) -> Option<Arc<dyn Registry>> {
        let ledger = self.state.path().join("silent.json");
        Some(Arc::new(HaProxy::new("haproxy", vec![nobody_answers()], ledger)))
    }

    async fn cut(&self) -> Vec<Arc<dyn Registry>> {
        let sockets = self.balancers.iter().map(TestHaProxy::reader).collect();
        vec![Arc::new(HaProxy::new("haproxy", sockets, self.state.path().join("drains.json")))]
    }

    fn id(&self, plain: &str) -> String {
        match plain {
            OURS => US,
            "rpc-none-1" => "rpc-none/s1",
            _ => "rpc-cart/s1",
        }
        .into()
    }

    fn tells(&self) -> Tells {
        Tells { isolation: false, deregistration: false, ..Tells::ALL }
    }

    async fn finds(&self, id: &str) -> bool {
        self.reaches(0, id).await || self.reaches(1, id).await
    }

    async fn set_healthy(&self, id: &str, healthy: bool) {
        self.everywhere(&format!("set server {id} health {}", if healthy { "up" } else { "down" })).await;
    }

    async fn isolate(&self, _id: &str, _reason: Option<&str>) {}

    async fn deregister(&self, _id: &str) {}

    async fn renew(&self, id: &str) {
        self.everywhere(&format!("set server {id} weight 2")).await;
    }

    async fn comes_back(&self, id: &str) {
        self.everywhere(&format!("set server {id} state ready")).await;
    }

    fn looked(&self) -> Duration {
        Duration::from_secs(3)
    }

    async fn record(&self, id: &str) -> String {
        self.balancers[0].ask(&format!("get weight {id}")).await
    }
}

/// One after the other: the servers' addresses are the same, since the suite names one of them.
#[tokio::test]
async fn haproxy_on_two_balancers() {
    let mut world = Balanced::new("admin").await;
    let server = world.registry.server().await.unwrap().unwrap();
    assert!(server.starts_with("HAProxy 2.") || server.starts_with("HAProxy 3."), "{server}");
    conforms(&world).await;
    what_others_do_is_theirs(&world).await;
    a_full_disk_does_not_keep_it_out(&world).await;
    a_reload_is_seen_and_drained_again(&mut world).await;
    one_balancer_that_is_away_keeps_the_others_as_they_are(&mut world).await;
    drop(world);
}

async fn what_others_do_is_theirs(world: &Balanced) {
    for (theirs, back) in [("state maint", "state ready"), ("state drain", "state ready"), ("weight 0", "weight 1")] {
        // In one balancer alone.
        assert_eq!(world.balancers[1].ask(&format!("set server {US} {theirs}")).await.trim(), "");
        let seen = world.registry.observe(US).await.unwrap().traffic;
        let where_it_is = world.balancers[1].tcp_socket();
        assert!(matches!(&seen, Traffic::Isolated { reason } if reason.contains(&where_it_is)), "{theirs}: {seen:?}");
        assert!(matches!(world.registry.drain(US, &marker("i")).await, Err(RegistryError::Refused { .. })));
        assert!(matches!(world.registry.restore(US, &marker("i"), &NOTHING).await, Ok(Restored::NotOurs(_))));
        assert!(world.reaches(0, US).await && !world.reaches(1, US).await, "{theirs}");
        assert_eq!(world.balancers[1].ask(&format!("set server {US} {back}")).await.trim(), "");
    }
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::Passing);
    for wrong in ["rpc-order", "rpc-order/s1; shutdown sessions server rpc-order/s2", "rpc-order/s1\nhelp", "/s1"] {
        assert!(matches!(world.registry.observe(wrong).await, Err(RegistryError::Refused { .. })), "{wrong}");
    }
}

async fn a_full_disk_does_not_keep_it_out(world: &Balanced) {
    world.registry.drain(US, &marker("i")).await.unwrap();
    // What the ledger writes beside itself cannot be written.
    let full = world.state.path().join("drains.tmp");
    std::fs::create_dir(&full).unwrap();
    assert_eq!(world.registry.restore(US, &marker("i"), &NOTHING).await.unwrap(), Restored::Done);
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::Passing);
    assert!(world.registry.markers().await.unwrap().is_empty());
    tokio::time::sleep(world.looked()).await;
    assert!(world.reaches(0, US).await && world.reaches(1, US).await);
    std::fs::remove_dir(full).unwrap();
}

async fn a_reload_is_seen_and_drained_again(world: &mut Balanced) {
    world.registry.drain(US, &marker("i")).await.unwrap();
    world.balancers[1].reload().await;
    // The adapter itself looks, again and again.
    wait_for("the reloaded balancer to be drained", async || !world.reaches(1, US).await).await;
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));

    // So does one that starts later, as after a crash, with what the file says; and it takes the drain back.
    let later = Balanced::of(&world.balancers, &world.state);
    assert_eq!(later.markers().await.unwrap(), [FoundMarker { id: US.into(), marker: marker("i") }]);
    world.balancers[0].restart().await;
    later.hold(US, &marker("i")).await.unwrap();
    assert!(!world.reaches(0, US).await);
    assert_eq!(later.restore(US, &marker("i"), &NOTHING).await.unwrap(), Restored::Done);
    assert!(world.reaches(0, US).await && world.reaches(1, US).await);
    assert!(!world.registry.hold(US, &marker("i")).await.unwrap());
    assert!(world.reaches(0, US).await);
}

async fn one_balancer_that_is_away_keeps_the_others_as_they_are(world: &mut Balanced) {
    let [port] = free_ports();
    let config = format!("listen rpc-order\n  bind 127.0.0.1:{port}\n  server s1 127.0.0.1:7801\n");
    let denied = TestHaProxy::start("operator", &config).await;
    for (socket, level) in [(denied.socket(), "operator"), (denied.reader(), "user")] {
        let sockets = vec![world.balancers[0].socket(), socket.clone()];
        let registry = HaProxy::new("haproxy", sockets, world.state.path().join("others.json"));
        for error in [registry.observe(US).await.unwrap_err(), registry.drain(US, &marker("i")).await.unwrap_err()] {
            let says = format!("{socket}: the socket has `level {level}`, and a drain needs `level admin`");
            assert!(matches!(&error, RegistryError::Refused { detail, .. } if detail.contains(&says)), "{error}");
        }
        assert!(world.reaches(0, US).await);
        assert!(registry.markers().await.unwrap().is_empty());
    }

    world.registry.drain(US, &marker("i")).await.unwrap();
    world.balancers[1].end();
    assert!(world.registry.restore(US, &marker("i"), &NOTHING).await.unwrap_err().is_passing());
    world.balancers[1].restart().await;
    assert_eq!(world.registry.restore(US, &marker("i"), &NOTHING).await.unwrap(), Restored::Done);
    world.balancers[1].end();
    assert!(world.registry.drain(US, &marker("i")).await.unwrap_err().is_passing());
    assert!(world.reaches(0, US).await);
    assert!(world.registry.markers().await.unwrap().is_empty());
}

/// With the state file of deploy/README.md no client comes to it again; without, until the adapter has looked.
#[tokio::test]
async fn a_masters_reload_keeps_the_drain_in_the_state_file_or_is_drained_again() {
    server("127.0.2.1:7801", "s1").await;
    let [a, b] = free_ports();
    for (door, with_state) in [(a, true), (b, false)] {
        let config = format!(
            "listen rpc-order\n  bind 127.0.0.1:{door}\n  server s1 127.0.2.1:7801\n  server s2 127.0.2.2:7801\n"
        );
        let balancer = TestHaProxy::start_master(&config, with_state).await;
        let state = tempfile::tempdir().unwrap();
        let registry = HaProxy::new("haproxy", vec![balancer.socket()], state.path().join("drains.json"));
        registry.drain(US, &marker("i")).await.unwrap();
        assert!(!registry.clients_find(US).await.unwrap());
        balancer.reload_master().await;
        if with_state {
            assert!(!registry.clients_find(US).await.unwrap());
        }
        wait_for("the drain to stand in the new worker", async || !registry.clients_find(US).await.unwrap()).await;
        assert_eq!(registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
        assert_eq!(registry.restore(US, &marker("i"), &NOTHING).await.unwrap(), Restored::Done);
        assert!(registry.clients_find(US).await.unwrap());
        balancer.reload_master().await;
        assert_eq!(registry.observe(US).await.unwrap().traffic, Traffic::Passing);
    }
}
