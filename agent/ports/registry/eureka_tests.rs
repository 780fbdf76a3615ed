//! The Eureka adapter on a stub that answers as the servers of Spring Cloud 5.0.0 and 4.3.0 do: what those cannot be made to
//! show. The suite is told to a real one, in `eureka_server_tests`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::conformance::marker;
use super::eureka::Eureka;
use super::stub::{Peers, Request, serve};
use super::*;
use crate::clock::{Clock, SystemClock};
use crate::ports::User;
use crate::ports::testing_consul::wait_for;

const US: &str = "rpc-order/bj1-03:rpc-order:7801";
const NULL: Value = Value::Null;

/// So long that a test sees what is so without it.
const NEVER: Duration = Duration::from_secs(3600);
const OFTEN: Duration = Duration::from_millis(20);

#[derive(Clone)]
struct Instance {
    address: &'static str,
    port: u16,
    status: String,
    overridden: String,
    /// So many seconds from now its lease ends.
    lasts: i64,
    /// When it registered; the server counts registrations.
    registered: u32,
}

impl Instance {
    fn json(&self, id: &str) -> Value {
        json!({
            "instanceId": id, "ipAddr": self.address, "port": { "$": self.port, "@enabled": "true" },
            "status": self.status, "overriddenStatus": self.overridden,
            "leaseInfo": { "renewalIntervalInSecs": 30, "durationInSecs": 90, "registrationTimestamp": self.registered,
                "lastRenewalTimestamp": (SystemClock.now().as_second() + self.lasts) * 1000 },
        })
    }
}

#[derive(Default)]
struct Server {
    /// By application, in upper case, and instance.
    apps: BTreeMap<String, BTreeMap<String, Instance>>,
    registrations: u32,
    /// What lists are answered from, where it is older.
    cache: Option<BTreeMap<String, BTreeMap<String, Instance>>>,
    /// So many reads of an instance still show it as it is there.
    stale: Option<(u32, Instance)>,
    /// `NAME:PASSWORD` that is asked for.
    login: Option<String>,
    /// Questions that the user may not ask.
    forbidden: Option<&'static str>,
    /// Spring Security's protection against CSRF is on, as it is by default.
    protects_writes: bool,
    /// From the next change on, the user may read no more.
    blind_after_a_change: bool,
}

impl Server {
    fn answer(&mut self, request: &Request) -> (u16, String) {
        let nothing = |path: &str| (404, json!({ "status": 404, "error": "Not Found", "path": path }).to_string());
        let expected = self.login.as_ref().map(|login| format!("Basic {}", STANDARD.encode(login)));
        if expected.is_some() && request.headers.get("authorization") != expected.as_ref() {
            return (401, String::new());
        }
        if self.protects_writes && request.method != "GET" {
            return (401, json!({ "status": 401, "error": "Unauthorized", "path": request.path }).to_string());
        }
        if self.forbidden == Some(request.method.as_str()) {
            return (403, String::new());
        }
        assert_eq!(request.headers["accept"], "application/json");
        let path = request.path.replace("%3A", ":");
        let Some(path) = path.strip_prefix("/eureka/apps") else { return (404, "<html>no such page</html>".into()) };
        let path: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let lists = self.cache.as_ref().unwrap_or(&self.apps);
        let not_found = || nothing(&request.path);
        let list = |app: &str| {
            let mut instances: Vec<Value> = lists.get(app)?.iter().map(|(id, it)| it.json(id)).collect();
            // Of one alone, it makes no list.
            let instances = if instances.len() == 1 { instances.remove(0) } else { instances.into() };
            Some(json!({ "name": app, "instance": instances }))
        };
        match (request.method.as_str(), path.as_slice()) {
            ("GET", []) => {
                let apps: Vec<Value> = lists.keys().filter_map(|app| list(app)).collect();
                (200, json!({ "applications": { "versions__delta": "1", "application": apps } }).to_string())
            }
            ("GET", [app]) => match list(&app.to_uppercase()) {
                Some(found) => (200, json!({ "application": found }).to_string()),
                None => not_found(),
            },
            ("GET", [_, id]) if self.stale.as_ref().is_some_and(|(reads, _)| *reads > 0) => {
                let (reads, before) = self.stale.as_mut().unwrap();
                *reads -= 1;
                (200, json!({ "instance": before.json(id) }).to_string())
            }
            ("GET", [app, id]) => match self.instance(app, id) {
                Some(found) => (200, json!({ "instance": found.json(id) }).to_string()),
                None => not_found(),
            },
            ("PUT", [app, id, "status"]) => {
                let value = request.parameter("value").to_owned();
                let Some(found) = self.instance(app, id) else { return not_found() };
                // As Eureka does it: what it is already is not overridden.
                if found.status != value {
                    (found.status, found.overridden) = (value.clone(), value);
                }
                if self.blind_after_a_change {
                    self.forbidden = Some("GET");
                }
                (200, String::new())
            }
            ("DELETE", [app, id, "status"]) => {
                let value = request.query.get("value").map_or("UNKNOWN", String::as_str).to_owned();
                let Some(found) = self.instance(app, id) else { return not_found() };
                // What is not overridden stays as it is.
                if found.overridden != "UNKNOWN" {
                    (found.status, found.overridden) = (value, "UNKNOWN".into());
                }
                (200, String::new())
            }
            _ => (405, String::new()),
        }
    }

    fn instance(&mut self, app: &str, id: &str) -> Option<&mut Instance> {
        self.apps.get_mut(&app.to_uppercase())?.get_mut(id)
    }

    /// As the application does it; an override that stands stays in force.
    fn register(&mut self, id: &str, address: &'static str, port: u16) {
        let (app, id) = id.split_once('/').unwrap();
        self.registrations += 1;
        let registered = self.registrations;
        let instances = self.apps.entry(app.to_uppercase()).or_default();
        let overridden = instances.get(id).map_or("UNKNOWN".into(), |before| before.overridden.clone());
        let status = if overridden == "UNKNOWN" { "UP".into() } else { overridden.clone() };
        instances.insert(id.into(), Instance { address, port, status, overridden, lasts: 60, registered });
    }
}

/// Ourselves, two others under our name, and a service of its own.
fn server() -> Server {
    let mut server = Server::default();
    server.register(US, "127.0.0.1", 7801);
    server.register("rpc-order/bj1-04:rpc-order:7801", "10.0.0.2", 7801);
    server.register("rpc-order/bj1-05:rpc-order:7801", "10.0.0.3", 7801);
    server.register("rpc-cart/bj1-03:rpc-cart:7901", "127.0.0.1", 7901);
    server
}

struct EurekaWorld {
    server: Arc<Mutex<Server>>,
    url: String,
    state: tempfile::TempDir,
    registry: Eureka,
}

impl EurekaWorld {
    async fn new(hold_every: Duration) -> Self {
        let server = Arc::new(Mutex::new(server()));
        let asked = Arc::clone(&server);
        let url = format!("http://{}/eureka", serve(move |request| asked.lock().unwrap().answer(request)).await);
        let state = tempfile::tempdir().unwrap();
        let registry = Self::of(&url, &state, hold_every, None);
        Self { server, url, state, registry }
    }

    fn of(url: &str, state: &tempfile::TempDir, hold_every: Duration, user: Option<User>) -> Eureka {
        let ledger = state.path().join("drains-eureka.json");
        Eureka::within(Duration::from_secs(5), hold_every, "eureka", &[url.to_owned()], user, ledger).unwrap()
    }

    fn another(&self, hold_every: Duration, user: Option<User>) -> Eureka {
        Self::of(&self.url, &self.state, hold_every, user)
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Instance)) {
        let (app, id) = id.split_once('/').unwrap();
        change(self.server.lock().unwrap().instance(app, id).unwrap());
    }

    fn finds(&self, id: &str) -> bool {
        let (app, id) = id.split_once('/').unwrap();
        self.server.lock().unwrap().instance(app, id).is_some_and(|found| found.status == "UP")
    }

    fn deregister(&self, id: &str) {
        let (app, id) = id.split_once('/').unwrap();
        self.server.lock().unwrap().apps.get_mut(&app.to_uppercase()).unwrap().remove(id);
    }

    fn restarts_in_good_order(&self) {
        let mut server = self.server.lock().unwrap();
        server.apps.get_mut("RPC-ORDER").unwrap().remove("bj1-03:rpc-order:7801");
        server.register(US, "127.0.0.1", 7801);
    }
}

#[tokio::test]
async fn an_override_that_a_deregistration_took_along_is_set_again_until_it_is_taken_back() {
    let world = EurekaWorld::new(NEVER).await;
    world.registry.drain(US, &marker("i")).await.unwrap();
    // A crash: the same instance registers again, and the override stands.
    world.server.lock().unwrap().register(US, "127.0.0.1", 7801);
    assert!(!world.finds(US) && !world.registry.hold(US, &marker("i")).await.unwrap());

    world.restarts_in_good_order();
    assert!(world.finds(US));
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert!(world.registry.hold(US, &marker("i")).await.unwrap());
    assert!(!world.finds(US));
    assert!(!world.registry.hold(US, &marker("another")).await.unwrap());

    // An agent that starts later, while the service is away, knows the drain by its ledger, and looks by itself.
    let later = world.another(OFTEN, None);
    world.deregister(US);
    assert_eq!(later.markers().await.unwrap(), [FoundMarker { id: US.into(), marker: marker("i") }]);
    world.restarts_in_good_order();
    assert!(world.finds(US));
    wait_for("the override to be set again", async || !world.finds(US)).await;
    assert_eq!(later.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
    assert!(world.finds(US) && later.markers().await.unwrap().is_empty());
    assert_eq!(world.server.lock().unwrap().apps["RPC-ORDER"]["bj1-03:rpc-order:7801"].overridden, "UNKNOWN");
}

#[tokio::test]
async fn it_is_put_back_as_it_was() {
    for (status, overridden) in [("UP", "UNKNOWN"), ("DOWN", "UNKNOWN"), ("STARTING", "UNKNOWN"), ("UP", "UP")] {
        let world = EurekaWorld::new(NEVER).await;
        world.change(US, |it| (it.status, it.overridden) = (status.into(), overridden.into()));
        let before = world.registry.observe(US).await.unwrap();
        let expected = if status == "UP" { Traffic::Passing } else { Traffic::Failing };
        assert_eq!(before.traffic, expected);
        world.registry.drain(US, &marker("i")).await.unwrap();
        world.change(US, |it| assert_eq!(it.status, "OUT_OF_SERVICE"));
        assert_eq!(world.registry.restore(US, &marker("i"), &before.record).await.unwrap(), Restored::Done);
        assert_eq!(world.registry.observe(US).await.unwrap(), before);
    }
}

#[tokio::test]
async fn what_the_application_says_while_it_is_drained_is_newer_than_what_was_kept() {
    for status in ["DOWN", "STARTING"] {
        let world = EurekaWorld::new(NEVER).await;
        let before = world.registry.observe(US).await.unwrap();
        world.registry.drain(US, &marker("i")).await.unwrap();
        // As Eureka does it: these two stand over an override.
        world.change(US, |it| it.status = status.into());
        assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
        assert_eq!(world.registry.restore(US, &marker("i"), &before.record).await.unwrap(), Restored::Done);
        world.change(US, |it| assert_eq!((it.status.as_str(), it.overridden.as_str()), (status, "UNKNOWN")));
    }
}

#[tokio::test]
async fn what_others_override_is_theirs_also_where_a_drain_of_ours_was() {
    let world = EurekaWorld::new(NEVER).await;
    for (status, overridden, ours) in
        [("OUT_OF_SERVICE", "OUT_OF_SERVICE", false), ("OUT_OF_SERVICE", "UNKNOWN", false), ("DOWN", "DOWN", true)]
    {
        if ours {
            world.registry.drain(US, &marker("i")).await.unwrap();
        }
        world.change(US, |it| (it.status, it.overridden) = (status.into(), overridden.into()));
        let seen = world.registry.observe(US).await.unwrap().traffic;
        assert!(matches!(&seen, Traffic::Isolated { reason } if reason.contains(status)), "{seen:?}");
        assert!(matches!(world.registry.drain(US, &marker("i")).await, Err(RegistryError::Refused { .. })));
        assert!(matches!(world.registry.restore(US, &marker("i"), &NULL).await, Ok(Restored::NotOurs(_))));
        assert!(!world.registry.hold(US, &marker("i")).await.unwrap());
        world.change(US, |it| {
            assert_eq!((it.status.as_str(), it.overridden.as_str()), (status, overridden));
            (it.status, it.overridden) = ("UP".into(), "UNKNOWN".into());
        });
    }
}

#[tokio::test]
async fn others_are_healthy_by_their_own_records_and_not_by_an_old_list() {
    let world = EurekaWorld::new(NEVER).await;
    {
        let mut server = world.server.lock().unwrap();
        server.cache = Some(server.apps.clone());
    }
    world.change("rpc-order/bj1-04:rpc-order:7801", |it| it.status = "OUT_OF_SERVICE".into());
    assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 1, registered: 3 });
    world.deregister("rpc-order/bj1-05:rpc-order:7801");
    assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 0, registered: 3 });
}

#[tokio::test]
async fn a_list_that_does_not_show_ourselves_counts_nobody() {
    let world = EurekaWorld::new(NEVER).await;
    // "No such application", or the others without us: from before we had registered.
    for listed in [&[][..], &["bj1-04:rpc-order:7801", "bj1-05:rpc-order:7801"]] {
        let mut before = world.server.lock().unwrap().apps.clone();
        before.get_mut("RPC-ORDER").unwrap().retain(|id, _| listed.contains(&id.as_str()));
        before.retain(|_, instances| !instances.is_empty());
        world.server.lock().unwrap().cache = Some(before);
        for error in [world.registry.others(US).await.unwrap_err(), world.registry.clients_find(US).await.unwrap_err()]
        {
            assert!(error.is_passing() && error.to_string().contains("lags by up to 30 s"), "{error}");
        }
    }
    world.deregister(US);
    assert!(!world.registry.clients_find(US).await.unwrap(), "it is not registered, and in no list");
    assert!(matches!(world.registry.others(US).await, Err(RegistryError::NotRegistered { .. })));
}

#[tokio::test]
async fn an_instance_that_does_not_renew_its_lease_is_not_healthy() {
    let world = EurekaWorld::new(NEVER).await;
    for (lasts, healthy) in [(60, 2), (0, 2), (-29, 2), (-32, 1), (-3600, 1)] {
        world.change("rpc-order/bj1-04:rpc-order:7801", |it| it.lasts = lasts);
        assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy, registered: 3 }, "{lasts} s");
    }
}

#[tokio::test]
async fn clients_find_what_the_list_shows_whatever_the_record_says() {
    let world = EurekaWorld::new(NEVER).await;
    let before = world.server.lock().unwrap().apps.clone();
    world.server.lock().unwrap().cache = Some(before);
    world.registry.drain(US, &marker("i")).await.unwrap();
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert!(world.registry.clients_find(US).await.unwrap());
    let drained = world.server.lock().unwrap().apps.clone();
    world.server.lock().unwrap().cache = Some(drained);
    assert!(!world.registry.clients_find(US).await.unwrap());
    assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
    assert!(!world.registry.clients_find(US).await.unwrap());
    world.server.lock().unwrap().cache = None;
    assert!(world.registry.clients_find(US).await.unwrap());
    assert_eq!(world.registry.clients_follow(), Duration::from_secs(95));
}

#[tokio::test]
async fn a_service_that_comes_back_under_another_id_is_drained_there_and_put_back() {
    let world = EurekaWorld::new(NEVER).await;
    let (bound, anew) = ("rpc-order at 127.0.0.1:7801", "rpc-order/rpc-order:8bfc5b1e2a08f9e2");
    let registry = &world.registry;
    let record = registry.observe(bound).await.unwrap();
    assert_eq!((record.name.as_str(), &record.traffic), ("rpc-order", &Traffic::Passing));
    registry.drain(bound, &marker("i")).await.unwrap();
    assert!(!world.finds(US) && !registry.clients_find(bound).await.unwrap());
    assert_eq!(registry.others(bound).await.unwrap(), Others { healthy: 2, registered: 3 });

    // As one that was killed: what it registered stays.
    world.server.lock().unwrap().register(anew, "127.0.0.1", 7801);
    assert!(world.finds(anew) && registry.clients_find(bound).await.unwrap());
    assert_eq!(registry.observe(bound).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert!(registry.hold(bound, &marker("i")).await.unwrap());
    assert!(!world.finds(anew) && !registry.clients_find(bound).await.unwrap());
    assert_eq!(registry.others(bound).await.unwrap(), Others { healthy: 2, registered: 3 });
    // As one that ended well.
    world.deregister(US);
    assert_eq!(registry.restore(bound, &marker("i"), &record.record).await.unwrap(), Restored::Done);
    assert!(world.finds(anew) && registry.clients_find(bound).await.unwrap());
    assert!(registry.markers().await.unwrap().is_empty());

    world.deregister(anew);
    assert!(matches!(registry.observe(bound).await, Err(RegistryError::NotRegistered { .. })));
    assert!(!registry.clients_find(bound).await.unwrap());
}

#[tokio::test]
async fn the_next_server_answers_for_one_that_does_not() {
    let world = EurekaWorld::new(NEVER).await;
    let ledger = world.state.path().join("drains-of-many.json");
    let urls = ["http://127.0.0.1:1/eureka".to_owned(), world.url.clone()];
    let registry = Eureka::within(Duration::from_secs(5), NEVER, "eureka", &urls, None, ledger).unwrap();
    registry.drain(US, &marker("i")).await.unwrap();
    assert!(!world.finds(US));
    assert_eq!(registry.others(US).await.unwrap(), Others { healthy: 2, registered: 3 });
}

#[tokio::test]
async fn a_drain_and_its_undo_at_once_leave_nothing_out_that_is_not_noted_where_peers_lag() {
    let (peers, address) = Peers::serve([server(), server()], Server::answer).await;
    let state = tempfile::tempdir().unwrap();
    let registry = EurekaWorld::of(&format!("http://{address}/eureka"), &state, NEVER, None);
    let record = registry.observe(US).await.unwrap().record;
    let _ = registry.drain(US, &marker("i")).await;
    let _ = registry.restore(US, &marker("i"), &record).await;
    wait_for("the peers to have told each other", async || peers.agree()).await;
    let noted = !registry.markers().await.unwrap().is_empty();
    let (app, id) = US.split_once('/').unwrap();
    for server in &peers.servers {
        let status = server.lock().unwrap().instance(app, id).unwrap().status.clone();
        assert!(status == "UP" || noted, "{status}, and nobody knows of it");
    }
}

#[tokio::test]
async fn a_drain_that_was_answered_and_cannot_be_read_back_stays_noted_until_it_is_undone() {
    let world = EurekaWorld::new(NEVER).await;
    world.server.lock().unwrap().blind_after_a_change = true;
    let error = world.registry.drain(US, &marker("i")).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    world.registry.markers().await.expect_err("it may be one, and nobody can see whether it is");
    {
        let mut server = world.server.lock().unwrap();
        (server.blind_after_a_change, server.forbidden) = (false, None);
    }
    assert_eq!(world.registry.markers().await.unwrap(), [FoundMarker { id: US.into(), marker: marker("i") }]);
    assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
    assert!(world.finds(US) && world.registry.markers().await.unwrap().is_empty());
}

#[tokio::test]
async fn one_read_that_says_in_traffic_does_not_end_a_drain_that_stands() {
    let world = EurekaWorld::new(NEVER).await;
    let (app, id) = US.split_once('/').unwrap();
    let before = world.server.lock().unwrap().instance(app, id).unwrap().clone();
    world.registry.drain(US, &marker("i")).await.unwrap();
    world.server.lock().unwrap().stale = Some((1, before));
    assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
    assert!(world.finds(US) && world.registry.markers().await.unwrap().is_empty());
}

fn user(password: &str) -> Option<User> {
    Some(User { name: "unwait".into(), password: password.to_owned().into() })
}

#[tokio::test]
async fn an_answer_that_permissions_cut_is_never_absence_and_no_error_shows_a_secret() {
    let world = EurekaWorld::new(NEVER).await;
    world.server.lock().unwrap().login = Some("unwait:hush-hush".into());
    for registry in [world.another(NEVER, None), world.another(NEVER, user("wrong-word"))] {
        for error in [
            registry.observe(US).await.unwrap_err(),
            registry.observe("rpc-none/x").await.unwrap_err(),
            registry.others(US).await.unwrap_err(),
            registry.drain(US, &marker("i")).await.unwrap_err(),
            registry.restore(US, &marker("i"), &NULL).await.unwrap_err(),
        ] {
            assert!(matches!(error, RegistryError::Refused { .. }), "{error}");
            assert!(!format!("{error:?} {registry:?}").contains("wrong-word"), "{error}");
        }
    }
    let registry = world.another(NEVER, user("hush-hush"));
    // Who may read alone drains nothing, and no note is left.
    world.server.lock().unwrap().forbidden = Some("PUT");
    let error = registry.drain(US, &marker("i")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Refused { .. }) && !error.to_string().contains("hush"), "{error}");
    assert_eq!(registry.observe(US).await.unwrap().traffic, Traffic::Passing);
    assert!(registry.markers().await.unwrap().is_empty());
    // As Spring Security does it: it has the right password, and refuses what writes.
    world.server.lock().unwrap().protects_writes = true;
    world.server.lock().unwrap().forbidden = None;
    let error = registry.drain(US, &marker("i")).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Refused { .. }) && error.to_string().contains(": Unauthorized; wrong"),
        "{error}"
    );
    assert!(error.to_string().contains("CSRF"), "{error}");
}

#[tokio::test]
async fn a_eureka_that_is_away_is_worth_trying_again_and_something_else_is_not() {
    let state = tempfile::tempdir().unwrap();
    let away = EurekaWorld::of("http://127.0.0.1:1/eureka", &state, NEVER, user("hush"));
    let error = away.observe(US).await.unwrap_err();
    assert!(error.is_passing() && !format!("{error:?} {away:?}").contains("hush"), "{error:?}");
    let world = EurekaWorld::new(NEVER).await;
    let elsewhere = EurekaWorld::of(&world.url.replace("/eureka", ""), &state, NEVER, None);
    let error = elsewhere.observe(US).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Refused { detail, .. } if detail.contains("404")), "{error}");
}
