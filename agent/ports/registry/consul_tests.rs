//! The Consul adapter on a real Consul: the suite, and what is Consul's own.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::conformance::{NEIGHBOUR, OURS, Tells, World, conforms, marker, nobody_answers};
use super::consul::Consul;
use super::*;
use crate::model::ConsulScope;
use crate::ports::testing_consul::{MASTER, TestConsul};

struct ConsulWorld {
    consul: TestConsul,
    scope: ConsulScope,
    token: Option<String>,
    registry: Consul,
}

impl ConsulWorld {
    async fn new(consul: TestConsul, token: Option<&str>) -> Self {
        consul.register(OURS, "rpc-order", 7801).await;
        consul.register(NEIGHBOUR, "rpc-cart", 7901).await;
        // The same id on another node is another instance.
        consul.register_elsewhere("n2", OURS, "rpc-order", 7801).await;
        consul.register_elsewhere("n3", "rpc-order-3", "rpc-order", 7801).await;
        let registry = with_token(&consul, token);
        Self { consul, scope: ConsulScope::Service, token: token.map(str::to_owned), registry }
    }

    async fn of_the_node() -> Self {
        let Self { consul, token, registry, .. } = Self::new(TestConsul::start().await, None).await;
        Self { consul, scope: ConsulScope::Node, token, registry: registry.draining(ConsulScope::Node) }
    }
}

/// Rules that do not suffice: no nodes, another service, nothing to be written.
const CUT: [&str; 3] = [
    r#"service_prefix "" { policy = "write" } agent_prefix "" { policy = "read" }"#,
    r#"service "rpc-gate" { policy = "write" } agent_prefix "" { policy = "read" }"#,
    r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } agent_prefix "" { policy = "read" }"#,
];

fn with_token(consul: &TestConsul, token: Option<&str>) -> Consul {
    Consul::new("consul", &consul.url, token.map(|token| token.to_owned().into()), "bj1-03").unwrap()
}

#[async_trait(?Send)]
impl World for ConsulWorld {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(with_token(&self.consul, self.token.as_deref()).draining(self.scope))
    }

    fn silent(&self) -> Option<Arc<dyn Registry>> {
        let url = format!("http://{}", nobody_answers());
        Some(Arc::new(Consul::new("consul", &url, None, "bj1-03").unwrap()))
    }

    async fn cut(&self) -> Vec<Arc<dyn Registry>> {
        if self.token.is_none() {
            return vec![];
        }
        let mut tokens = vec![None, Some("wrong-token".to_owned())];
        for rules in CUT {
            tokens.push(Some(self.consul.token(rules).await));
        }
        tokens.iter().map(|token| Arc::new(with_token(&self.consul, token.as_deref())) as Arc<dyn Registry>).collect()
    }

    async fn finds(&self, id: &str) -> bool {
        let name = id.rsplit_once('-').unwrap().0;
        let passing = self.consul.get(&format!("/v1/health/service/{name}?passing&consistent")).await;
        let mut passing = passing.as_array().unwrap().iter();
        passing.any(|entry| entry["Node"]["Node"] == "n1" && entry["Service"]["ID"] == id)
    }

    async fn set_healthy(&self, id: &str, healthy: bool) {
        let how = if healthy { "pass" } else { "fail" };
        self.consul.put(&format!("/v1/agent/check/{how}/check:{id}"), "").await;
        self.consul.wait_for("the check in the catalog", async || self.finds(id).await == healthy).await;
    }

    async fn isolate(&self, id: &str, reason: Option<&str>) {
        let how = match reason {
            Some(reason) => format!("enable=true&reason={}", reason.replace(' ', "%20")),
            None => "enable=false".into(),
        };
        self.consul.put(&format!("/v1/agent/service/maintenance/{id}?{how}"), "").await;
        self.consul.wait_for("maintenance in the catalog", async || self.finds(id).await == reason.is_none()).await;
    }

    async fn deregister(&self, id: &str) {
        self.consul.put(&format!("/v1/agent/service/deregister/{id}"), "").await;
    }

    async fn renew(&self, id: &str) {
        let token = self.consul.token.clone();
        let renewed = serde_json::json!({
            "ID": id, "Name": "rpc-order", "Address": "127.0.0.1", "Port": 7801, "Tags": ["newer"], "Token": token,
        });
        self.consul.put("/v1/agent/service/register", renewed.to_string()).await;
    }

    async fn record(&self, id: &str) -> String {
        self.consul.get(&format!("/v1/agent/service/{id}")).await["Tags"].to_string()
    }

    async fn comes_back(&self, id: &str) {
        self.deregister(id).await;
        self.renew(id).await;
    }

    async fn by_hand(&self, id: &str) {
        if self.scope == ConsulScope::Node {
            self.consul.put("/v1/agent/maintenance?enable=false", "").await;
        }
        self.comes_back(id).await;
        self.consul.wait_for("it to be in the catalog", async || self.finds(id).await).await;
    }

    fn looked(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn tells(&self) -> Tells {
        match self.scope {
            ConsulScope::Service => Tells::ALL,
            ConsulScope::Node => Tells { alone: false, deregistration: false, ..Tells::ALL },
        }
    }
}

#[tokio::test]
async fn a_service_that_comes_back_under_another_id_is_drained_there_and_put_back_with_the_former() {
    let world = ConsulWorld::new(TestConsul::start().await, None).await;
    let (consul, registry) = (&world.consul, &world.registry);
    let bound = "rpc-order at 127.0.0.1:7801";
    let record = registry.observe(bound).await.unwrap();
    assert_eq!((record.name.as_str(), &record.traffic), ("rpc-order", &Traffic::Passing));
    registry.drain(bound, &marker("i")).await.unwrap();
    assert!(!world.finds(OURS).await);
    let found = FoundMarker { id: bound.into(), marker: marker("i") };
    assert_eq!(registry.markers().await.unwrap(), std::slice::from_ref(&found));

    // As one that was killed: what it registered stays, and its checks pass again with the new process.
    consul.register("rpc-order-8bfc5b1e", "rpc-order", 7801).await;
    consul.wait_for("the new registration to be drained", async || !world.finds("rpc-order-8bfc5b1e").await).await;
    assert_eq!(registry.observe(bound).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert_eq!(world.later().markers().await.unwrap(), [found.clone(), found]);
    assert_eq!(registry.others(bound).await.unwrap(), Others { healthy: 2, registered: 4 });

    assert_eq!(registry.restore(bound, &marker("i"), &record.record).await.unwrap(), Restored::Done);
    assert!(registry.markers().await.unwrap().is_empty(), "neither carries our marker any more");
    consul
        .wait_for("both in the catalog", async || world.finds("rpc-order-8bfc5b1e").await && world.finds(OURS).await)
        .await;

    for id in [OURS, "rpc-order-8bfc5b1e"] {
        world.deregister(id).await;
    }
    assert!(matches!(registry.observe(bound).await, Err(RegistryError::NotRegistered { .. })));
    assert!(matches!(registry.observe("rpc-cart at 127.0.0.1:7801").await, Err(RegistryError::NotRegistered { .. })));
}

#[tokio::test]
async fn what_stands_at_an_address_is_not_absent_for_a_token_that_may_not_see_it() {
    let world = ConsulWorld::new(TestConsul::start_with_acl().await, Some(MASTER)).await;
    for registry in world.cut().await {
        true_or_refused(
            registry.observe("rpc-order at 127.0.0.1:7801").await.map(|seen| seen.traffic),
            Traffic::Passing,
        );
    }
}

fn true_or_refused(answer: Result<Traffic, RegistryError>, truth: Traffic) {
    match answer {
        Ok(told) => assert_eq!(told, truth),
        Err(error) => assert!(matches!(error, RegistryError::Refused { .. }), "{error}"),
    }
}

#[tokio::test]
async fn consul_conforms() {
    conforms(&ConsulWorld::new(TestConsul::start().await, None).await).await;
}

#[tokio::test]
async fn consul_with_access_control_conforms_under_the_documented_token() {
    let consul = TestConsul::start_with_acl().await;
    let token = consul
        .token(
            r#"service_prefix "rpc-" { policy = "write" } service_prefix "" { policy = "read" }
               node_prefix "" { policy = "read" } agent_prefix "" { policy = "read" }"#,
        )
        .await;
    conforms(&ConsulWorld::new(consul, Some(&token)).await).await;
}

#[tokio::test]
async fn an_answer_cut_by_permissions_is_never_taken_for_absence() {
    let world = ConsulWorld::new(TestConsul::start_with_acl().await, Some(MASTER)).await;
    let consul = &world.consul;
    world.registry.drain(NEIGHBOUR, &marker("i")).await.unwrap();
    let [no_nodes, other_service, cannot_write] = CUT;
    let (no_nodes, other_service) = (consul.token(no_nodes).await, consul.token(other_service).await);
    let cannot_write = with_token(consul, Some(&consul.token(cannot_write).await));

    for token in [None, Some("wrong-token"), Some(no_nodes.as_str()), Some(other_service.as_str())] {
        let registry = with_token(consul, token);
        let mut errors = vec![
            registry.observe(OURS).await.unwrap_err(),
            registry.others(OURS).await.unwrap_err(),
            registry.drain(OURS, &marker("i")).await.unwrap_err(),
        ];
        if token != Some(&no_nodes) {
            // Without nodes all services' checks are shown, and so the marker.
            errors.push(registry.markers().await.unwrap_err());
        }
        for error in errors {
            assert!(matches!(error, RegistryError::Refused { .. }), "{token:?}: {error}");
            assert!(token.is_none_or(|token| !error.to_string().contains(token)), "{error}");
        }
    }
    assert_eq!(cannot_write.observe(OURS).await.unwrap().traffic, Traffic::Passing);
    assert!(matches!(cannot_write.drain(OURS, &marker("i")).await, Err(RegistryError::Refused { .. })));
    assert!(world.registry.takes_writes(NEIGHBOUR, &marker("i")).await.unwrap());
    assert!(matches!(cannot_write.takes_writes(NEIGHBOUR, &marker("i")).await, Err(RegistryError::Refused { .. })));
    assert!(matches!(
        cannot_write.restore(NEIGHBOUR, &marker("i"), &serde_json::Value::Null).await,
        Err(RegistryError::Refused { .. })
    ));
    assert!(world.finds(OURS).await && !world.finds(NEIGHBOUR).await);
}

#[tokio::test]
async fn a_node_in_maintenance_is_somebody_elses_and_not_drained_over() {
    let world = ConsulWorld::new(TestConsul::start().await, None).await;
    world.consul.put("/v1/agent/maintenance?enable=true&reason=kernel", "").await;
    let seen = world.registry.observe(OURS).await.unwrap().traffic;
    assert_eq!(seen, Traffic::Isolated { reason: "the whole node: kernel".into() });
    assert!(matches!(world.registry.drain(OURS, &marker("i")).await, Err(RegistryError::Refused { .. })));
    assert!(world.registry.markers().await.unwrap().is_empty());
}

#[tokio::test]
async fn consul_conforms_with_the_scope_of_the_node() {
    conforms(&ConsulWorld::of_the_node().await).await;
}

#[tokio::test]
async fn a_drained_node_takes_its_others_along_and_survives_what_its_services_do() {
    let world = ConsulWorld::of_the_node().await;
    let null = serde_json::Value::Null;
    world.consul.register("rpc-order-b", "rpc-order", 7802).await;
    // Two elsewhere; the second one here goes out with us.
    assert_eq!(world.registry.others(OURS).await.unwrap(), Others { healthy: 2, registered: 4 });
    world.registry.drain(OURS, &marker("i")).await.unwrap();
    assert!(!world.finds(NEIGHBOUR).await && !world.finds("rpc-order-b").await);
    assert_eq!(world.registry.observe(NEIGHBOUR).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));

    world.deregister(OURS).await;
    let again = serde_json::json!({ "ID": OURS, "Name": "rpc-order", "Address": "127.0.0.1", "Port": 7801 });
    world.consul.put("/v1/agent/service/register", again.to_string()).await;
    assert_eq!(world.registry.observe(OURS).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert!(!world.finds(OURS).await);

    // A service that is gone does not keep the others out.
    world.deregister(OURS).await;
    assert_eq!(world.registry.observe(OURS).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    let none = world.registry.drain(OURS, &marker("i")).await.unwrap_err();
    assert!(matches!(none, RegistryError::NotRegistered { .. }), "{none}");
    assert_eq!(world.registry.markers().await.unwrap(), [FoundMarker { id: OURS.into(), marker: marker("i") }]);
    assert_eq!(world.registry.restore(OURS, &marker("i"), &null).await.unwrap(), Restored::Done);
    world.consul.wait_for("the node to be back", async || world.finds(NEIGHBOUR).await).await;
    assert!(matches!(world.registry.observe(OURS).await, Err(RegistryError::NotRegistered { .. })));

    // A drain of before the host's file told another scope is ended in the scope in which it stands.
    let of_service = with_token(&world.consul, None);
    of_service.drain(NEIGHBOUR, &marker("j")).await.unwrap();
    assert_eq!(world.registry.restore(NEIGHBOUR, &marker("j"), &null).await.unwrap(), Restored::Done);
    assert!(world.finds(NEIGHBOUR).await);
}

#[tokio::test]
async fn a_node_that_a_person_took_out_stays_theirs() {
    let world = ConsulWorld::of_the_node().await;
    world.consul.put("/v1/agent/maintenance?enable=true&reason=kernel", "").await;
    assert!(matches!(world.registry.drain(OURS, &marker("i")).await, Err(RegistryError::Refused { .. })));
    let restored = world.registry.restore(OURS, &marker("i"), &serde_json::Value::Null).await.unwrap();
    assert!(matches!(&restored, Restored::NotOurs(what) if what.contains("kernel")), "{restored:?}");
    assert!(!world.finds(OURS).await);
}

#[tokio::test]
async fn another_hosts_marker_is_not_listed_as_this_hosts() {
    let world = ConsulWorld::new(TestConsul::start().await, None).await;
    let theirs = Marker { host: "bj1-04".into(), ..marker("i") };
    world.isolate(OURS, Some(&theirs.to_string())).await;
    assert_eq!(world.registry.observe(OURS).await.unwrap().traffic, Traffic::DrainedBy(theirs));
    assert!(world.registry.markers().await.unwrap().is_empty());
}

#[tokio::test]
async fn our_drain_outlives_a_registration_with_the_same_id() {
    let world = ConsulWorld::new(TestConsul::start().await, None).await;
    world.registry.drain(OURS, &marker("i")).await.unwrap();
    let again = serde_json::json!({ "ID": OURS, "Name": "rpc-order", "Address": "127.0.0.1", "Port": 7801 });
    world.consul.put("/v1/agent/service/register", again.to_string()).await;
    assert_eq!(world.registry.observe(OURS).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert!(!world.finds(OURS).await);
}

#[tokio::test]
async fn a_consul_that_is_away_is_worth_trying_again_and_something_else_is_not() {
    let away = Consul::new("consul", "http://127.0.0.1:1", Some("hush".to_owned().into()), "h").unwrap();
    let error = away.observe(OURS).await.unwrap_err();
    assert!(error.is_passing() && !format!("{error:?} {away:?}").contains("hush"), "{error:?}");
    let wrong = Consul::new("consul", "127.0.0.1:8500", None, "h").unwrap_err();
    assert!(wrong.to_string().contains("http://"), "{wrong}");
}

/// Passes everything on to Consul; just before a drain of ours arrives, a person is quicker.
async fn a_person_is_quicker(consul: &TestConsul) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (real, address) = (consul.url.clone(), consul.url.trim_start_matches("http://").to_owned());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = vec![0; 16 << 10];
            let length = client.read(&mut request).await.unwrap();
            if String::from_utf8_lossy(&request[..length]).contains("enable=true") {
                let theirs = format!("{real}/v1/agent/service/maintenance/{OURS}?enable=true&reason=theirs");
                reqwest::Client::new().put(theirs).send().await.unwrap();
            }
            let mut server = TcpStream::connect(&address).await.unwrap();
            server.write_all(&request[..length]).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    url
}

#[tokio::test]
async fn a_drain_that_a_person_was_quicker_with_is_refused_and_stays_theirs() {
    let world = ConsulWorld::new(TestConsul::start().await, None).await;
    let url = a_person_is_quicker(&world.consul).await;
    let registry = Consul::new("consul", &url, None, "bj1-03").unwrap();
    let refused = registry.drain(OURS, &marker("i")).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Refused { detail, .. } if detail.contains("theirs")), "{refused}");
    let null = serde_json::Value::Null;
    assert!(matches!(registry.restore(OURS, &marker("i"), &null).await, Ok(Restored::NotOurs(_))));
    let seen = world.registry.observe(OURS).await.unwrap().traffic;
    assert_eq!(seen, Traffic::Isolated { reason: "theirs".into() });
}
