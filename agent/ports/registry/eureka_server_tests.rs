//! The Eureka adapter on a real server: the suite, and what clients see by Eureka's own clockwork.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::conformance::{OURS, Tells, World, conforms, marker, nobody_answers};
use super::eureka::Eureka;
use super::*;
use crate::clock::{Clock, SystemClock};
use crate::ports::testing_consul::wait_at_most;
use crate::ports::testing_eureka::{TICK, TestEureka};

const US: &str = "rpc-order/bj1-03:rpc-order:7801";
const SECOND: &str = "rpc-order/bj1-04:rpc-order:7801";
const THIRD: &str = "rpc-order/bj1-05:rpc-order:7801";
const CART: &str = "rpc-cart/bj1-03:rpc-cart:7901";

/// Of the server's lists, where a test does not wait for it.
const QUICK: Duration = Duration::from_millis(50);
/// So long that a test sees what is so without it.
const NEVER: Duration = Duration::from_secs(3600);
const OFTEN: Duration = Duration::from_millis(20);

struct EurekaWorld {
    server: TestEureka,
    state: tempfile::TempDir,
    registry: Eureka,
}

fn of(server: &TestEureka, state: &tempfile::TempDir, hold_every: Duration) -> Eureka {
    let (ledger, urls) = (state.path().join("drains-eureka.json"), [server.url.clone()]);
    Eureka::within(Duration::from_secs(5), hold_every, "eureka", &urls, None, ledger).unwrap()
}

impl EurekaWorld {
    async fn new(tick: Duration) -> Self {
        let server = TestEureka::start(tick).await;
        let state = tempfile::tempdir().unwrap();
        // Only a later agent holds: of two at once one would hold what the other puts back.
        let registry = of(&server, &state, NEVER);
        Self { server, state, registry }
    }

    async fn register(&self) {
        self.server.register(US, "127.0.0.1", 7801, 41).await;
        self.server.register(SECOND, "10.0.0.2", 7801, 41).await;
        self.server.register(THIRD, "10.0.0.3", 7801, 41).await;
        self.server.register(CART, "127.0.0.1", 7901, 41).await;
    }
}

#[async_trait(?Send)]
impl World for EurekaWorld {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(of(&self.server, &self.state, OFTEN))
    }

    fn silent(&self) -> Option<Arc<dyn Registry>> {
        let (deadline, urls) = (Duration::from_millis(200), [format!("http://{}/eureka", nobody_answers())]);
        let ledger = self.state.path().join("silent.json");
        Some(Arc::new(Eureka::within(deadline, NEVER, "eureka", &urls, None, ledger).unwrap()))
    }

    fn id(&self, plain: &str) -> String {
        match plain {
            OURS => US,
            "rpc-none-1" => "rpc-none/bj1-03:rpc-none:1",
            _ => CART,
        }
        .into()
    }

    /// What an application says of its health while it is drained is heard only once it registers anew.
    fn tells(&self) -> Tells {
        Tells { health: false, isolation: false, ..Tells::ALL }
    }

    async fn finds(&self, id: &str) -> bool {
        self.server.finds(id).await
    }

    async fn set_healthy(&self, _id: &str, _healthy: bool) {}

    async fn isolate(&self, _id: &str, _reason: Option<&str>) {}

    /// It ends well, which takes the override along, and starts again.
    async fn comes_back(&self, id: &str) {
        self.deregister(id).await;
        self.renew(id).await;
    }

    fn looked(&self) -> Duration {
        10 * OFTEN
    }

    async fn deregister(&self, id: &str) {
        self.server.deregister(id).await;
    }

    async fn renew(&self, id: &str) {
        self.server.register(id, "127.0.0.1", 7801, 42).await;
    }

    async fn record(&self, id: &str) -> String {
        self.server.record(id).await.unwrap()["metadata"]["release"].to_string()
    }
}

#[tokio::test]
async fn eureka_conforms() {
    let world = EurekaWorld::new(QUICK).await;
    world.register().await;
    for id in [US, SECOND, THIRD, CART] {
        assert!(world.finds(id).await);
    }
    conforms(&world).await;
}

#[tokio::test]
async fn a_service_that_comes_back_under_another_id_is_found_where_it_stands() {
    let world = EurekaWorld::new(QUICK).await;
    world.register().await;
    let (bound, anew) = ("rpc-order at 127.0.0.1:7801", "rpc-order/rpc-order:8bfc5b1e2a08f9e2");
    assert!(world.finds(US).await);
    let health = world.registry.health_url(US).await.unwrap();
    assert_eq!(health.as_deref(), Some("http://127.0.0.1:7801/actuator/health"));
    let record = world.registry.observe(bound).await.unwrap();
    assert_eq!(record.traffic, Traffic::Passing);
    world.registry.drain(bound, &marker("i")).await.unwrap();
    assert!(!world.finds(US).await);
    world.server.register(anew, "127.0.0.1", 7801, 42).await;
    assert!(world.finds(anew).await);
    assert!(world.registry.hold(bound, &marker("i")).await.unwrap());
    assert!(!world.finds(anew).await);
    assert_eq!(world.registry.restore(bound, &marker("i"), &record.record).await.unwrap(), Restored::Done);
    assert!(world.finds(anew).await && world.registry.markers().await.unwrap().is_empty());
}

/// By Eureka's own times: it waits for its lists to be made anew, three times 30 s at the most.
#[tokio::test]
async fn clients_follow_the_list_and_who_does_not_renew_its_lease_is_dead() {
    let world = EurekaWorld::new(TICK).await;
    let (server, registry) = (&world.server, &world.registry);
    // Eureka makes its lists anew at whole multiples of the time: not just now.
    let until_next = || TICK.as_secs() as i64 - SystemClock.now().as_second() % TICK.as_secs() as i64;
    wait_at_most(TICK, "the next tick to be some seconds off", async || until_next() > 10).await;
    // "No such application" stands in the cache from now on.
    assert!(matches!(registry.observe(US).await, Err(RegistryError::NotRegistered { .. })));
    assert!(!registry.clients_find(US).await.unwrap());
    world.register().await;
    assert_eq!(registry.observe(US).await.unwrap().traffic, Traffic::Passing);
    for error in [registry.others(US).await.unwrap_err(), registry.clients_find(US).await.unwrap_err()] {
        assert!(error.is_passing(), "{error}");
    }
    // From here on the third is dead: it registers once more, and renews nothing.
    server.deregister(THIRD).await;
    server.register_once(THIRD, "10.0.0.3", 7801, 41).await;

    wait_at_most(2 * TICK, "the list to show ourselves", async || registry.others(US).await.is_ok()).await;
    registry.drain(US, &marker("i")).await.unwrap();
    assert_eq!(registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert_eq!(server.listed(US).await.unwrap()["status"], "UP", "what clients read");
    assert!(registry.clients_find(US).await.unwrap());
    let followed = async |found: bool| {
        wait_at_most(2 * TICK, "clients to follow", async || registry.clients_find(US).await.unwrap() == found).await;
        wait_at_most(Duration::from_secs(1), "their list to be the same", async || {
            (server.listed(US).await.unwrap()["status"] == "UP") == found
        })
        .await;
    };
    followed(false).await;
    server.renew(SECOND).await;
    assert_eq!(server.listed(THIRD).await.unwrap()["status"], "UP", "it preserves itself");
    assert_eq!(registry.others(US).await.unwrap(), Others { healthy: 1, registered: 3 });
    assert_eq!(registry.restore(US, &marker("i"), &serde_json::Value::Null).await.unwrap(), Restored::Done);
    assert!(!registry.clients_find(US).await.unwrap());
    followed(true).await;
}
