//! The Nacos adapter on a stub that follows its open API, as Nacos 1 and as Nacos 2 behave: the suite, and what is
//! Nacos' own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::conformance::{OURS, Tells, World, conforms, marker, nobody_answers};
use super::nacos::Nacos;
use super::stub::{Peers, Request, refusing, serve};
use super::*;
use crate::model::NacosLayout;
use crate::ports::User;
use crate::ports::testing_consul::wait_for;

const US: &str = "rpc-order/127.0.0.1:7801";
const NULL: Value = Value::Null;

/// So long that a test sees what is so without it.
const NEVER: Duration = Duration::from_secs(3600);
const OFTEN: Duration = Duration::from_millis(20);

#[derive(Clone)]
struct Instance {
    /// As the service registered it.
    published: Value,
    /// What was put over it; Nacos 2 keeps it for a while after the service has gone.
    over: Option<Value>,
    registered: bool,
    healthy: bool,
}

impl Instance {
    fn is(&self, key: &str) -> Value {
        let put = self.over.as_ref().map(|over| over[key].clone());
        put.unwrap_or_else(|| self.published[key].clone())
    }

    /// Nacos 2 lays the metadata that was put over that of the service.
    fn metadata(&self) -> Value {
        let mut metadata = self.published["metadata"].as_object().unwrap().clone();
        metadata.extend(self.over.iter().flat_map(|over| over["metadata"].as_object().unwrap().clone()));
        metadata.into()
    }
}

#[derive(Default)]
struct Server {
    second: bool,
    /// With access control: the token that is taken now.
    token: Option<String>,
    logins: u32,
    /// `SERVICE/IP:PORT`
    instances: BTreeMap<String, Instance>,
    /// Reads that still show what was before the last change: Nacos 2 tells its own cache by an event.
    lag: u32,
    stale: Option<BTreeMap<String, Instance>>,
    /// After the next change, so many reads know nothing of any instance.
    lost_after_a_change: u32,
    lost: u32,
    /// Questions that the user may not ask.
    forbidden: Option<&'static str>,
    /// All healthy, whatever they are: as the list says it below `protectThreshold`.
    protects: bool,
}

impl Server {
    fn answer(&mut self, request: &Request) -> (u16, String) {
        let version = if self.second { "v2" } else { "v1" };
        let asked = format!("{} {}", request.method, request.path);
        if asked == "POST /nacos/v1/auth/login" {
            self.logins += 1;
            return match (request.body.as_str(), &self.token) {
                ("username=unwait&password=hush-hush", Some(token)) => {
                    (200, json!({ "accessToken": token, "tokenTtl": 18000, "globalAdmin": false }).to_string())
                }
                _ => (403, "unknown user!".into()),
            };
        }
        let bearer = request.headers.get("authorization").map(String::as_str);
        if self.token.as_ref().is_some_and(|token| bearer != Some(format!("Bearer {token}").as_str())) {
            return (403, "{\"status\":403,\"error\":\"Forbidden\",\"message\":\"token invalid!\"}".into());
        }
        let Some(what) = asked.split_once(&format!(" /nacos/{version}/ns/")) else {
            return (404, "<html>no such page</html>".into());
        };
        if self.forbidden == Some(request.method.as_str()) {
            return (403, "authorization failed!".into());
        }
        assert_eq!((request.parameter("groupName"), request.parameter("namespaceId")), ("SHOP", "prod"));
        let id =
            format!("{}/{}:{}", request.parameter("serviceName"), request.parameter("ip"), request.parameter("port"));
        let answer = match what {
            ("GET", "instance") => {
                assert_eq!(request.parameter("clusterName"), "BJ");
                match self.seen().get(&id).filter(|instance| instance.registered) {
                    Some(found) => json!({
                        "ip": request.parameter("ip"), "weight": found.is("weight"), "healthy": found.healthy,
                        "metadata": found.metadata(),
                    }),
                    None => {
                        let words = "no matched ip found!";
                        let wrapped = json!({ "code": 20004, "message": "resource not found", "data": words });
                        let words = if self.second { wrapped.to_string() } else { format!("caused: {words};") };
                        return (404, words);
                    }
                }
            }
            ("GET", "instance/list") => {
                let service = format!("{}/", request.parameter("serviceName"));
                let protects = self.protects;
                let host = |(id, found): (&String, &Instance)| {
                    let (ip, port) = id.strip_prefix(&service)?.split_once(':')?;
                    (found.registered && found.is("enabled") == true).then(|| {
                        json!({
                            "ip": ip, "port": port.parse::<u16>().unwrap(), "clusterName": "BJ", "enabled": true,
                            "healthy": found.healthy || protects, "ephemeral": found.published["ephemeral"],
                        })
                    })
                };
                json!({ "hosts": self.seen().iter().filter_map(host).collect::<Vec<_>>() })
            }
            ("GET", "service/list") if self.second => json!({ "count": 2, "services": ["rpc-order", "rpc-cart"] }),
            ("GET", "service/list") => json!({ "count": 2, "doms": ["rpc-order", "rpc-cart"] }),
            ("PUT", "instance") => {
                self.update(&id, request);
                json!("ok")
            }
            _ => return (404, "<html>no such page</html>".into()),
        };
        (200, if self.second { json!({ "code": 0, "data": answer }).to_string() } else { answer.to_string() })
    }

    fn seen(&mut self) -> BTreeMap<String, Instance> {
        if self.lost > 0 {
            self.lost -= 1;
            return BTreeMap::new();
        }
        match &self.stale {
            Some(stale) if self.lag > 0 => {
                self.lag -= 1;
                stale.clone()
            }
            _ => self.instances.clone(),
        }
    }

    fn update(&mut self, id: &str, request: &Request) {
        if self.second {
            (self.lag, self.stale) = (3, Some(self.instances.clone()));
        }
        self.lost = std::mem::take(&mut self.lost_after_a_change);
        let instance = self.instances.get_mut(id).unwrap();
        assert_eq!(request.parameter("ephemeral"), instance.published["ephemeral"].to_string());
        let put = json!({
            "enabled": request.parameter("enabled") == "true",
            "weight": serde_json::from_str::<Value>(request.parameter("weight")).unwrap(),
            "metadata": serde_json::from_str::<Value>(request.parameter("metadata")).unwrap(),
        });
        if self.second {
            instance.over = Some(put);
        } else {
            let ephemeral = instance.published["ephemeral"].clone();
            instance.published = put;
            instance.published["ephemeral"] = ephemeral;
        }
    }

    /// As the service does at its start; Nacos 1 has forgotten by then what was put.
    fn register(&mut self, id: &str, ephemeral: bool) {
        let published = json!({ "enabled": true, "weight": 2.5, "metadata": { "zone": "a" }, "ephemeral": ephemeral });
        let over = self.instances.get(id).and_then(|before| before.over.clone());
        self.instances.insert(id.into(), Instance { published, over, registered: true, healthy: true });
    }
}

struct NacosWorld {
    server: Arc<Mutex<Server>>,
    url: String,
    state: tempfile::TempDir,
    registry: Nacos,
}

fn layout(second: bool) -> NacosLayout {
    NacosLayout { v2: second, namespace: Some("prod".into()), group: "SHOP".into(), cluster: "BJ".into() }
}

fn user(password: &str) -> Option<User> {
    Some(User { name: "unwait".into(), password: password.to_owned().into() })
}

/// Ourselves, two others under our name, and a service of its own.
fn server(second: bool) -> Server {
    let mut server = Server { second, ..Server::default() };
    for id in [US, "rpc-order/10.0.0.2:7801", "rpc-order/10.0.0.3:7801", "rpc-cart/127.0.0.1:7901"] {
        server.register(id, true);
    }
    server
}

impl NacosWorld {
    async fn new(second: bool, hold_every: Duration) -> Self {
        let server = Arc::new(Mutex::new(server(second)));
        let asked = Arc::clone(&server);
        let url = format!("http://{}/nacos", serve(move |request| asked.lock().unwrap().answer(request)).await);
        let state = tempfile::tempdir().unwrap();
        let registry = Self::of(&url, &state, second, hold_every, None);
        Self { server, url, state, registry }
    }

    fn of(url: &str, state: &tempfile::TempDir, second: bool, hold_every: Duration, user: Option<User>) -> Nacos {
        let ledger = state.path().join("drains-nacos.json");
        Nacos::within(Duration::from_secs(5), hold_every, "nacos", url, user, layout(second), ledger).unwrap()
    }

    fn another(&self, hold_every: Duration, user: Option<User>) -> Nacos {
        let second = self.server.lock().unwrap().second;
        Self::of(&self.url, &self.state, second, hold_every, user)
    }

    fn change(&self, change: impl FnOnce(&mut Server)) {
        change(&mut self.server.lock().unwrap());
    }

    fn person_enables(&self, id: &str, enabled: bool) {
        self.change(|server| {
            let instance = server.instances.get_mut(id).unwrap();
            let (weight, metadata) = (instance.is("weight"), instance.published["metadata"].clone());
            instance.over = Some(json!({ "enabled": enabled, "weight": weight, "metadata": metadata }));
        });
    }
}

#[async_trait(?Send)]
impl World for NacosWorld {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(self.another(OFTEN, None))
    }

    fn silent(&self) -> Option<Arc<dyn Registry>> {
        let (deadline, url) = (Duration::from_millis(200), format!("http://{}/nacos", nobody_answers()));
        let ledger = self.state.path().join("silent.json");
        Some(Arc::new(Nacos::within(deadline, NEVER, "nacos", &url, None, layout(true), ledger).unwrap()))
    }

    async fn cut(&self) -> Vec<Arc<dyn Registry>> {
        let second = self.server.lock().unwrap().second;
        let asked = Arc::clone(&self.server);
        let cut = refusing(move |request| asked.lock().unwrap().answer(request)).await.map(|address| {
            let url = format!("http://{address}/nacos");
            Arc::new(Self::of(&url, &self.state, second, NEVER, None)) as Arc<dyn Registry>
        });
        cut.into()
    }

    fn id(&self, plain: &str) -> String {
        match plain {
            OURS => US,
            "rpc-none-1" => "rpc-none/127.0.0.1:1",
            _ => "rpc-cart/127.0.0.1:7901",
        }
        .into()
    }

    /// Over what the second keeps, a record that is registered later has no effect.
    fn tells(&self) -> Tells {
        Tells { isolation: false, renewal: !self.server.lock().unwrap().second, ..Tells::ALL }
    }

    /// As clients see it: healthy and enabled.
    async fn finds(&self, id: &str) -> bool {
        let mut server = self.server.lock().unwrap();
        server.seen().get(id).is_some_and(|it| it.registered && it.healthy && it.is("enabled") == true)
    }

    async fn set_healthy(&self, id: &str, healthy: bool) {
        self.change(|server| server.instances.get_mut(id).unwrap().healthy = healthy);
    }

    async fn isolate(&self, _id: &str, _reason: Option<&str>) {}

    async fn comes_back(&self, id: &str) {
        let second = self.server.lock().unwrap().second;
        match second {
            true => self.person_enables(id, true),
            false => self.change(|server| server.register(id, true)),
        }
    }

    fn looked(&self) -> Duration {
        10 * OFTEN
    }

    async fn deregister(&self, id: &str) {
        self.change(|server| server.instances.get_mut(id).unwrap().registered = false);
    }

    async fn renew(&self, id: &str) {
        self.change(|server| {
            server.register(id, true);
            server.instances.get_mut(id).unwrap().published["weight"] = json!(5.0);
        });
    }

    async fn record(&self, id: &str) -> String {
        self.server.lock().unwrap().seen()[id].is("weight").to_string()
    }
}

#[tokio::test]
async fn nacos_as_the_first_and_as_the_second_conforms() {
    for second in [false, true] {
        eprintln!("second: {second}");
        // Only the later agent holds: of two at once one would hold what the other puts back.
        conforms(&NacosWorld::new(second, NEVER).await).await;
    }
}

#[tokio::test]
async fn what_is_not_changed_stays_as_it_was() {
    for second in [false, true] {
        let world = NacosWorld::new(second, NEVER).await;
        world.change(|server| server.register(US, false));
        let before = world.registry.observe(US).await.unwrap();
        world.registry.drain(US, &marker("i")).await.unwrap();
        let drained = world.server.lock().unwrap().instances[US].clone();
        let expected = json!({ "zone": "a", "unwait": marker("i").to_string() });
        assert_eq!((drained.metadata(), drained.is("weight")), (expected, json!(2.5)));
        assert_eq!(world.registry.restore(US, &marker("i"), &before.record).await.unwrap(), Restored::Done);
        let after = world.server.lock().unwrap().instances[US].clone();
        assert_eq!((after.metadata(), after.is("weight")), (json!({ "zone": "a" }), json!(2.5)));
        assert_eq!(world.registry.observe(US).await.unwrap(), before);
    }
}

#[tokio::test]
async fn an_instance_that_the_first_nacos_brings_back_is_taken_out_again_until_it_is_put_back() {
    let world = NacosWorld::new(false, NEVER).await;
    world.registry.drain(US, &marker("i")).await.unwrap();
    world.change(|server| server.register(US, true));
    assert!(world.finds(US).await);
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert!(world.registry.hold(US, &marker("i")).await.unwrap());
    assert!(!world.finds(US).await);
    assert!(!world.registry.hold(US, &marker("i")).await.unwrap());
    assert!(!world.registry.hold(US, &marker("another")).await.unwrap());

    // An agent that starts later, while the service is away, knows the drain by its ledger, and looks by itself.
    let later = world.another(OFTEN, None);
    world.deregister(US).await;
    assert_eq!(later.markers().await.unwrap(), [FoundMarker { id: US.into(), marker: marker("i") }]);
    world.change(|server| server.register(US, true));
    assert!(world.finds(US).await);
    wait_for("the registration to be undone", async || !world.finds(US).await).await;
    assert_eq!(later.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
    assert!(world.finds(US).await && later.markers().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_second_nacos_keeps_a_drain_through_a_restart_and_the_loss_of_our_notes() {
    let world = NacosWorld::new(true, NEVER).await;
    world.registry.drain(US, &marker("i")).await.unwrap();
    world.deregister(US).await;
    world.change(|server| server.register(US, true));
    assert!(!world.finds(US).await);
    std::fs::remove_file(world.state.path().join("drains-nacos.json")).unwrap();
    let later = world.another(NEVER, None);
    assert_eq!(later.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert_eq!(later.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
    assert!(world.finds(US).await);
}

#[tokio::test]
async fn what_a_person_disabled_is_theirs_also_where_a_drain_of_ours_was() {
    let world = NacosWorld::new(true, NEVER).await;
    for drained in [false, true] {
        if drained {
            world.registry.drain(US, &marker("i")).await.unwrap();
        }
        world.person_enables(US, false);
        let seen = world.registry.observe(US).await.unwrap().traffic;
        assert!(matches!(&seen, Traffic::Isolated { reason } if reason.contains("enabled=false")), "{seen:?}");
        assert!(matches!(world.registry.drain(US, &marker("i")).await, Err(RegistryError::Refused { .. })));
        assert!(matches!(world.registry.restore(US, &marker("i"), &NULL).await, Ok(Restored::NotOurs(_))));
        assert!(!world.registry.hold(US, &marker("i")).await.unwrap());
        assert!(!world.finds(US).await);
        // Our drain stands under theirs, and is told until a person decides.
        assert_eq!(world.registry.markers().await.unwrap().is_empty(), !drained);
        world.person_enables(US, true);
    }
}

#[tokio::test]
async fn a_drain_and_its_undo_at_once_leave_nothing_out_that_is_not_noted_where_peers_lag() {
    for second in [false, true] {
        let (peers, address) = Peers::serve([server(second), server(second)], Server::answer).await;
        let state = tempfile::tempdir().unwrap();
        let registry = NacosWorld::of(&format!("http://{address}/nacos"), &state, second, NEVER, None);
        let record = registry.observe(US).await.unwrap().record;
        let _ = registry.drain(US, &marker("i")).await;
        let _ = registry.restore(US, &marker("i"), &record).await;
        wait_for("the peers to have told each other", async || peers.agree()).await;
        let noted = !registry.markers().await.unwrap().is_empty();
        for server in &peers.servers {
            let enabled = server.lock().unwrap().instances[US].is("enabled");
            assert!(enabled == true || noted, "second: {second}: it is disabled, and nobody knows of it");
        }
    }
}

#[tokio::test]
async fn an_instance_that_is_not_there_just_after_its_drain_is_not_forgotten() {
    for second in [false, true] {
        let world = NacosWorld::new(second, NEVER).await;
        world.change(|server| server.lost_after_a_change = 1);
        let _ = world.registry.drain(US, &marker("i")).await;
        assert!(!world.finds(US).await);
        assert_eq!(world.registry.markers().await.unwrap(), [FoundMarker { id: US.into(), marker: marker("i") }]);
        assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
        assert!(world.finds(US).await && world.registry.markers().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn one_read_that_says_in_traffic_does_not_end_a_drain_that_stands() {
    let world = NacosWorld::new(false, NEVER).await;
    let before = world.server.lock().unwrap().instances.clone();
    world.registry.drain(US, &marker("i")).await.unwrap();
    // One look is two reads.
    world.change(|server| (server.lag, server.stale) = (2, Some(before)));
    assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
    assert!(world.finds(US).await && world.registry.markers().await.unwrap().is_empty());
}

#[tokio::test]
async fn others_are_healthy_by_their_own_records_and_not_by_the_list() {
    let world = NacosWorld::new(true, NEVER).await;
    world.change(|server| server.protects = true);
    world.set_healthy("rpc-order/10.0.0.2:7801", false).await;
    assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 1, registered: 3 });
}

#[tokio::test]
async fn an_answer_that_permissions_cut_is_never_absence_and_no_error_shows_a_secret() {
    let world = NacosWorld::new(true, NEVER).await;
    world.change(|server| server.token = Some("token-1".into()));
    for registry in [world.another(NEVER, None), world.another(NEVER, user("wrong-word"))] {
        for error in [
            registry.observe(US).await.unwrap_err(),
            registry.observe("rpc-none/127.0.0.1:1").await.unwrap_err(),
            registry.others(US).await.unwrap_err(),
            registry.drain(US, &marker("i")).await.unwrap_err(),
            registry.restore(US, &marker("i"), &NULL).await.unwrap_err(),
        ] {
            assert!(matches!(error, RegistryError::Refused { .. }), "{error}");
            assert!(!format!("{error:?} {registry:?}").contains("wrong-word"), "{error}");
        }
    }
    // A token that has ended is asked for anew, once, and else kept.
    let registry = world.another(NEVER, user("hush-hush"));
    world.change(|server| server.logins = 0);
    registry.observe(US).await.unwrap();
    world.change(|server| server.token = Some("token-2".into()));
    registry.observe(US).await.unwrap();
    assert_eq!(world.server.lock().unwrap().logins, 2);

    // Who may read alone drains nothing, and no note is left.
    world.change(|server| server.forbidden = Some("PUT"));
    let error = registry.drain(US, &marker("i")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Refused { .. }), "{error}");
    assert!(!format!("{error:?} {registry:?}").contains("token-2"), "{error}");
    assert_eq!(registry.observe(US).await.unwrap().traffic, Traffic::Passing);
    assert!(registry.markers().await.unwrap().is_empty() && world.finds(US).await);
}

#[tokio::test]
async fn a_nacos_that_is_away_is_worth_trying_again_and_something_else_is_not() {
    let state = tempfile::tempdir().unwrap();
    let away = NacosWorld::of("http://127.0.0.1:1/nacos", &state, false, NEVER, user("hush"));
    let error = away.observe(US).await.unwrap_err();
    assert!(error.is_passing() && !format!("{error:?} {away:?}").contains("hush"), "{error:?}");
    for wrong in ["rpc-order", "rpc-order/127.0.0.1", "rpc-order/127.0.0.1:http"] {
        assert!(matches!(away.observe(wrong).await, Err(RegistryError::Refused { .. })), "{wrong}");
    }
    // Another path, another version, another server: a 404 without Nacos' words.
    let world = NacosWorld::new(true, NEVER).await;
    for (url, second) in [(world.url.clone(), false), (world.url.replace("/nacos", ""), true)] {
        let error = NacosWorld::of(&url, &state, second, NEVER, None).observe(US).await.unwrap_err();
        assert!(matches!(&error, RegistryError::Refused { detail, .. } if detail.contains("404")), "{error}");
    }
}
