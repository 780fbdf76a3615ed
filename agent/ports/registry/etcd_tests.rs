//! The etcd adapter on a real etcd: the suite, and what is etcd's own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::conformance::{OURS, Tells, World, conforms, marker, nobody_answers};
use super::etcd::Etcd;
use super::*;
use crate::model::EtcdLayout;
use crate::ports::testing_etcd::{Release, TestEtcd};
use crate::ports::{Login, User};

const US: &str = "rpc-order/127.0.0.1:7801";
const OVERRIDE: &str = "/overrides/rpc-order/127.0.0.1:7801";
const NULL: Value = Value::Null;

struct EtcdWorld {
    etcd: TestEtcd,
    /// With access control: whose name the registry is told.
    user: Option<&'static str>,
    registry: Etcd,
}

fn layout() -> EtcdLayout {
    EtcdLayout {
        key: "/services/{service}/{instance}".into(),
        override_key: "/overrides/{service}/{instance}".into(),
        value: r#"{"disabled":true,"by":"{marker}"}"#.into(),
    }
}

fn key(id: &str) -> String {
    format!("/services/{id}")
}

impl EtcdWorld {
    async fn new(release: Release) -> Self {
        let etcd = TestEtcd::start(release).await;
        for id in [US, "rpc-order/10.0.0.2:7801", "rpc-order/10.0.0.3:7801", "rpc-cart/127.0.0.1:7901"] {
            etcd.put(&key(id), r#"{"weight":3}"#).await;
        }
        // Neither is an instance of the service.
        etcd.put("/services/rpc-order/10.0.0.3:7801/meta", "x").await;
        etcd.put("/services/rpc-order-old/10.0.0.4:7801", "x").await;
        let registry = Self::of(&etcd, None, "bj1-03");
        Self { etcd, user: None, registry }
    }

    fn of(etcd: &TestEtcd, user: Option<User>, host: &str) -> Etcd {
        Etcd::new("etcd", std::slice::from_ref(&etcd.url), user.map(Login::new), layout(), host).unwrap()
    }
}

async fn delete(etcd: &TestEtcd, key: &str) {
    etcd.post("kv/deleterange", json!({ "key": STANDARD.encode(key) })).await;
}

#[async_trait(?Send)]
impl World for EtcdWorld {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(Self::of(&self.etcd, self.user.and_then(known), "bj1-03"))
    }

    fn silent(&self) -> Option<Arc<dyn Registry>> {
        let url = format!("http://{}", nobody_answers());
        let (deadline, login) = (Duration::from_millis(200), known("shop").map(Login::new));
        Some(Arc::new(Etcd::within(deadline, "etcd", &[url], login, layout(), "bj1-03").unwrap()))
    }

    async fn cut(&self) -> Vec<Arc<dyn Registry>> {
        if self.user.is_none() {
            return vec![];
        }
        self.etcd.add_user("reader", "hush-hush", &[("READ", "/")]).await;
        let users = [None, user("shop", "wrong-word"), known("blind"), known("reader")];
        users.map(|user| Arc::new(Self::of(&self.etcd, user, "bj1-03")) as Arc<dyn Registry>).into()
    }

    fn id(&self, plain: &str) -> String {
        match plain {
            OURS => US,
            "rpc-none-1" => "rpc-none/127.0.0.1:1",
            _ => "rpc-cart/127.0.0.1:7901",
        }
        .into()
    }

    fn tells(&self) -> Tells {
        Tells { health: false, ..Tells::ALL }
    }

    async fn finds(&self, id: &str) -> bool {
        let overridden = self.etcd.get(&format!("/overrides/{id}")).await;
        self.etcd.get(&key(id)).await.is_some() && !overridden.is_some_and(|text| text.contains("\"disabled\":true"))
    }

    async fn set_healthy(&self, _id: &str, _healthy: bool) {}

    async fn isolate(&self, id: &str, reason: Option<&str>) {
        let over = format!("/overrides/{id}");
        match reason {
            Some(reason) => self.etcd.put(&over, &format!(r#"{{"disabled":true,"by":"{reason}"}}"#)).await,
            None => delete(&self.etcd, &over).await,
        }
    }

    async fn deregister(&self, id: &str) {
        delete(&self.etcd, &key(id)).await;
    }

    async fn renew(&self, id: &str) {
        self.etcd.put(&key(id), r#"{"weight":5}"#).await;
    }

    async fn record(&self, id: &str) -> String {
        self.etcd.get(&key(id)).await.unwrap()
    }
}

#[tokio::test]
async fn etcd_3_4_conforms() {
    etcd_conforms(Release::V3_4).await;
}

#[tokio::test]
async fn etcd_3_7_conforms() {
    etcd_conforms(Release::V3_7).await;
}

async fn etcd_conforms(release: Release) {
    let world = EtcdWorld::new(release).await;
    conforms(&world).await;
    // Its key went while it was drained. It comes back drained, and a later agent knows the drain and takes it back.
    world.etcd.put(&key(US), "{}").await;
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(drained(&world).await));
    let elsewhere = EtcdWorld::of(&world.etcd, None, "bj1-04");
    assert!(elsewhere.markers().await.unwrap().is_empty());
    let later = EtcdWorld::of(&world.etcd, None, "bj1-03");
    let [found] = later.markers().await.unwrap().try_into().unwrap();
    assert_eq!(found.id, US);
    assert_eq!(later.restore(US, &found.marker, &NULL).await.unwrap(), Restored::Done);
    assert!(world.finds(US).await);
    what_others_put_there_is_theirs(&world).await;
    a_person_who_was_quicker_is_not_overwritten(&world).await;
    what_is_overridden_is_not_counted_as_healthy(&world).await;
}

async fn drained(world: &EtcdWorld) -> crate::model::Marker {
    world.registry.markers().await.unwrap().remove(0).marker
}

async fn what_others_put_there_is_theirs(world: &EtcdWorld) {
    for theirs in ["", "off", r#"{"weight":0}"#, r#"{"disabled":true,"by":"unwait: drained"}"#] {
        world.etcd.put(OVERRIDE, theirs).await;
        assert!(matches!(world.registry.observe(US).await.unwrap().traffic, Traffic::Isolated { .. }), "{theirs}");
        assert!(matches!(world.registry.drain(US, &marker("i")).await, Err(RegistryError::Refused { .. })));
        delete(&world.etcd, OVERRIDE).await;
    }
    // What was put there after our drain is newer, and stays.
    world.registry.drain(US, &marker("i")).await.unwrap();
    world.etcd.put(OVERRIDE, r#"{"disabled":true,"by":"release 42"}"#).await;
    assert!(matches!(world.registry.restore(US, &marker("i"), &NULL).await, Ok(Restored::NotOurs(_))));
    assert!(!world.registry.hold(US, &marker("i")).await.unwrap());
    assert_eq!(world.etcd.get(OVERRIDE).await.unwrap(), r#"{"disabled":true,"by":"release 42"}"#);
    delete(&world.etcd, OVERRIDE).await;
    // An override of ours that somebody deletes is put there again while the saga holds it.
    assert!(world.registry.hold(US, &marker("i")).await.unwrap());
    assert!(!world.registry.hold(US, &marker("i")).await.unwrap());
    assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
}

/// Passes everything on to etcd; just before a change of ours arrives, a person is quicker.
async fn a_person_is_quicker(etcd: &TestEtcd) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (real, address) = (etcd.url.clone(), etcd.url.trim_start_matches("http://").to_owned());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = Vec::new();
            // A body in JSON ends with its brace.
            while !request.ends_with(b"}") {
                assert!(client.read_buf(&mut request).await.unwrap() > 0);
            }
            if String::from_utf8_lossy(&request).contains("\"compare\"") {
                let theirs = json!({ "key": STANDARD.encode(OVERRIDE), "value": STANDARD.encode("release 43") });
                reqwest::Client::new().post(format!("{real}/v3/kv/put")).json(&theirs).send().await.unwrap();
            }
            let mut server = TcpStream::connect(&address).await.unwrap();
            server.write_all(&request).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    url
}

async fn a_person_who_was_quicker_is_not_overwritten(world: &EtcdWorld) {
    let url = a_person_is_quicker(&world.etcd).await;
    let late = Etcd::new("etcd", &[url], None, layout(), "bj1-03").unwrap();
    let refused = late.drain(US, &marker("i")).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Refused { detail, .. } if detail.contains("release 43")), "{refused}");
    assert_eq!(world.etcd.get(OVERRIDE).await.unwrap(), "release 43");
    delete(&world.etcd, OVERRIDE).await;

    world.registry.drain(US, &marker("i")).await.unwrap();
    let left = late.restore(US, &marker("i"), &NULL).await.unwrap();
    assert!(matches!(&left, Restored::NotOurs(what) if what.contains("release 43")), "{left:?}");
    assert_eq!(world.etcd.get(OVERRIDE).await.unwrap(), "release 43");
    delete(&world.etcd, OVERRIDE).await;
}

async fn what_is_overridden_is_not_counted_as_healthy(world: &EtcdWorld) {
    let other = Marker { host: "bj1-05".into(), ..marker("there") };
    EtcdWorld::of(&world.etcd, None, "bj1-05").drain("rpc-order/10.0.0.2:7801", &other).await.unwrap();
    // An override of what is not there any more counts for nothing.
    world.etcd.put("/overrides/rpc-order/10.0.0.9:7801", "off").await;
    assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 1, registered: 3 });
}

fn user(name: &str, password: &str) -> Option<User> {
    Some(User { name: name.into(), password: password.to_owned().into() })
}

fn known(name: &str) -> Option<User> {
    user(name, "hush-hush")
}

#[tokio::test]
async fn an_answer_that_permissions_cut_is_never_absence_and_the_documented_ones_suffice() {
    for release in [Release::V3_4, Release::V3_7] {
        the_documented_permissions_suffice_and_less_is_refused(release).await;
    }
}

async fn the_documented_permissions_suffice_and_less_is_refused(release: Release) {
    let mut world = EtcdWorld::new(release).await;
    world.etcd.lock_down("blind", "hush-hush", "/overrides/").await;
    let blind = EtcdWorld::of(&world.etcd, known("blind"), "bj1-03");
    let wrong = EtcdWorld::of(&world.etcd, user("blind", "wrong-word"), "bj1-03");
    for error in [
        blind.observe(US).await.unwrap_err(),
        blind.observe("rpc-none/127.0.0.1:1").await.unwrap_err(),
        blind.others(US).await.unwrap_err(),
        blind.drain(US, &marker("i")).await.unwrap_err(),
        blind.restore(US, &marker("i"), &NULL).await.unwrap_err(),
        wrong.markers().await.unwrap_err(),
    ] {
        assert!(matches!(error, RegistryError::Refused { .. }), "{error}");
        assert!(!["hush-hush", "wrong-word"].iter().any(|secret| error.to_string().contains(secret)), "{error}");
    }
    assert!(!format!("{blind:?}").contains("hush-hush"));

    world.etcd.add_user("shop", "hush-hush", &[("READ", "/services/"), ("READWRITE", "/overrides/")]).await;
    world.user = Some("shop");
    world.registry = EtcdWorld::of(&world.etcd, known("shop"), "bj1-03");
    conforms(&world).await;
}

/// Met before the restart: a drain that is lost then could not be made again. What puts back is taken all the same.
#[tokio::test]
async fn an_etcd_without_room_is_met_while_a_drain_stands_and_the_drain_is_taken_back() {
    for release in [Release::V3_4, Release::V3_7] {
        let etcd = TestEtcd::start_small(release).await;
        etcd.put(&key(US), "{}").await;
        let registry = EtcdWorld::of(&etcd, None, "bj1-03");
        registry.drain(US, &marker("i")).await.unwrap();
        assert!(registry.takes_writes(US, &marker("i")).await.unwrap());
        etcd.fill().await;
        assert!(!registry.hold(US, &marker("i")).await.unwrap());
        let error = registry.takes_writes(US, &marker("i")).await.unwrap_err();
        assert!(error.is_passing() && error.to_string().contains("database space exceeded"), "{error}");
        assert_eq!(registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
        assert!(etcd.get(OVERRIDE).await.is_none());
    }
}

#[tokio::test]
async fn an_etcd_that_lost_its_quorum_is_met_while_a_drain_stands() {
    let mut members = TestEtcd::cluster(Release::V3_7).await;
    members[0].put(&key(US), "{}").await;
    let urls = members.each_ref().map(|member| member.url.clone());
    let registry = Etcd::within(Duration::from_secs(1), "etcd", &urls, None, layout(), "bj1-03").unwrap();
    registry.drain(US, &marker("i")).await.unwrap();
    members[0].stop();
    assert!(registry.takes_writes(US, &marker("i")).await.unwrap());
    members[1].stop();
    let error = registry.takes_writes(US, &marker("i")).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
}

#[tokio::test]
async fn an_etcd_that_is_away_is_worth_trying_again_and_something_else_is_not() {
    let login = user("u", "hush").map(Login::new);
    let away = Etcd::new("etcd", "http://127.0.0.1:1", login, layout(), "h").unwrap();
    let error = away.observe(US).await.unwrap_err();
    assert!(error.is_passing() && !format!("{error:?} {away:?}").contains("hush"), "{error:?}");
    for wrong in ["rpc-order", "/x", "rpc-order/"] {
        assert!(matches!(away.observe(wrong).await, Err(RegistryError::Refused { .. })), "{wrong}");
    }
}
