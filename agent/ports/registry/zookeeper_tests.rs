//! The ZooKeeper adapter on a real ZooKeeper: the suite, and what is Dubbo's and ZooKeeper's own. A JVM starts for each
//! server, so what can share one does.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::conformance::{NEIGHBOUR, OURS, Tells, World, conforms, marker, nobody_answers};
use super::dubbo::{address, decoded, encoded};
use super::zookeeper::ZooKeeper;
use super::*;
use crate::ports::testing_consul::{free_ports, wait_for};
use crate::ports::testing_zookeeper::{Distribution, TestZooKeeper};
use crate::ports::zookeeper::Session;
use crate::ports::{Secret, User};

pub(super) const US: &str = "rpc-order/127.0.0.1:7801";
const FOLDER: &str = "/dubbo/rpc-order/configurators";
/// As a former version of this agent wrote it.
const OVERRIDE: &str = "override://127.0.0.1:7801/rpc-order?category=configurators&dynamic=false&enabled=true\
                        &disabled=true&version=1.0&unwait=true";
pub(super) const RULE: &str = "/dubbo/config/dubbo/shop.tag-router";
pub(super) const NULL: Value = Value::Null;

pub(super) struct DubboWorld {
    pub server: TestZooKeeper,
    /// The applications', whose end takes their providers along.
    session: RefCell<Option<Session>>,
    /// The applications' and ours, where the nodes are not everybody's.
    password: Option<&'static str>,
    pub registry: ZooKeeper,
}

pub(super) fn provider(id: &str) -> String {
    let (service, instance) = id.split_once('/').unwrap();
    format!("dubbo://{instance}/{service}?application=shop&dubbo=2.0.2&version=1.0")
}

pub(super) fn node(id: &str) -> String {
    format!("/dubbo/{}/providers/{}", id.split_once('/').unwrap().0, encoded(&provider(id)))
}

async fn register(session: &mut Session) {
    for id in [US, "rpc-order/10.0.0.2:7801", "rpc-order/10.0.0.3:7801", "rpc-cart/127.0.0.1:7901"] {
        session.create_ephemeral(&node(id)).await;
    }
}

impl DubboWorld {
    pub async fn new(password: Option<&'static str>) -> Self {
        Self::on(TestZooKeeper::start().await, password).await
    }

    pub async fn on(server: TestZooKeeper, password: Option<&'static str>) -> Self {
        let mut session = server.session_of(password.and_then(user)).await;
        for path in ["/dubbo", "/dubbo/rpc-order", "/dubbo/rpc-cart"] {
            session.create(path, &[]).await.unwrap();
        }
        for service in ["rpc-order", "rpc-cart"] {
            session.create(&format!("/dubbo/{service}/providers"), &[]).await.unwrap();
        }
        register(&mut session).await;
        let registry = Self::of(&server, password.and_then(user), "bj1-03");
        Self { server, session: RefCell::new(Some(session)), password, registry }
    }

    pub fn of(server: &TestZooKeeper, user: Option<User>, host: &str) -> ZooKeeper {
        Self::with(server, user, host, false)
    }

    pub fn with(server: &TestZooKeeper, user: Option<User>, host: &str, merge: bool) -> ZooKeeper {
        ZooKeeper::new("zookeeper", vec![server.server.clone()], user, "/dubbo", merge, host)
    }

    /// Does `what` in the applications' session.
    pub async fn shop<T>(&self, what: impl AsyncFnOnce(&mut Session) -> T) -> T {
        let mut session = self.session.take().unwrap();
        let done = what(&mut session).await;
        self.session.replace(Some(session));
        done
    }

    /// The tag rule of an application, as consumers read it.
    pub async fn rule_of(&self, application: &str) -> Option<String> {
        let path = RULE.replace("shop", application);
        let node = self.shop(async |session| session.read(&path).await.unwrap()).await;
        node.map(|node| String::from_utf8(node.data).unwrap())
    }

    pub async fn rule(&self) -> Option<String> {
        self.rule_of("shop").await
    }

    pub async fn person_writes_rule(&self, text: &str) {
        self.shop(async |session| {
            for path in ["/dubbo/config", "/dubbo/config/dubbo", RULE] {
                session.create(path, &[]).await.unwrap();
            }
            assert!(session.write(RULE, text.as_bytes(), -1).await.unwrap());
        })
        .await;
    }

    pub async fn person_disables(&self, url: &str) -> String {
        let path = format!("{FOLDER}/{}", encoded(url));
        self.shop(async |session| {
            session.create(FOLDER, &[]).await.unwrap();
            assert!(session.create(&path, b"10.0.0.9").await.unwrap());
        })
        .await;
        path
    }

    pub async fn remove(&self, path: &str) {
        assert!(self.shop(async |session| session.delete(path, -1).await.unwrap()).await, "{path}");
    }

    /// The nodes of what an instance provides.
    async fn provided(&self, id: &str) -> Vec<String> {
        let (service, instance) = id.split_once('/').unwrap();
        let folder = format!("/dubbo/{service}/providers");
        let mut names = self.shop(async |session| session.children(&folder).await.unwrap()).await.unwrap();
        names.retain(|name| decoded(name).is_some_and(|url| address(&url) == Some(instance)));
        names.iter().map(|name| format!("{folder}/{name}")).collect()
    }

    pub async fn overrides(&self) -> Vec<String> {
        let names = self.shop(async |session| session.children(FOLDER).await.unwrap()).await.unwrap_or_default();
        names.iter().map(|name| decoded(name).unwrap()).collect()
    }
}

#[async_trait(?Send)]
impl World for DubboWorld {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(Self::of(&self.server, self.password.and_then(user), "bj1-03"))
    }

    fn silent(&self) -> Option<Arc<dyn Registry>> {
        let silent = Self::of(&self.server, None, "bj1-03");
        Some(Arc::new(silent.within(vec![nobody_answers()], user("hush-hush"), Duration::from_millis(200))))
    }

    /// They may read of one service nothing, and of the other all but write nothing.
    async fn cut(&self) -> Vec<Arc<dyn Registry>> {
        let users = if self.password.is_some() { vec![None, user("wrong-word")] } else { vec![] };
        let cut = |user| Arc::new(Self::of(&self.server, user, "bj1-03")) as Arc<dyn Registry>;
        users.into_iter().map(cut).collect()
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
        Tells { health: false, isolation: false, ..Tells::ALL }
    }

    /// As Dubbo's consumers see it: their providers, without those that a tag names or that an override disables.
    async fn finds(&self, id: &str) -> bool {
        let (_, instance) = id.split_once('/').unwrap();
        let tagged = self.rule().await.is_some_and(|rule| rule.contains(&format!("addresses: [\"{instance}\"]")));
        let off = |url: &String| url.contains(instance) && url.contains("disabled=true") && url.contains("version=1.0");
        let disabled = id == US && self.overrides().await.iter().any(off);
        !self.provided(id).await.is_empty() && !tagged && !disabled
    }

    async fn set_healthy(&self, _id: &str, _healthy: bool) {}

    async fn isolate(&self, _id: &str, _reason: Option<&str>) {}

    async fn deregister(&self, id: &str) {
        for path in self.provided(id).await {
            self.remove(&path).await;
        }
    }

    async fn by_hand(&self, _id: &str) {
        self.remove(RULE).await;
    }

    /// As Dubbo does it, which tells when.
    async fn renew(&self, id: &str) {
        self.deregister(id).await;
        let later = format!("{}&timestamp=2", provider(id));
        let path = format!("/dubbo/{}/providers/{}", id.split_once('/').unwrap().0, encoded(&later));
        self.shop(async |session| session.create_ephemeral(&path).await).await;
    }

    async fn record(&self, id: &str) -> String {
        self.provided(id).await.concat()
    }
}

#[tokio::test]
async fn zookeeper_conforms_and_what_others_do_is_theirs() {
    let world = DubboWorld::new(None).await;
    conforms(&world).await;
    // What it leaves: drained, and the provider gone. The applications' session ends; our rule has none.
    let session = world.session.take().unwrap();
    session.close().await;
    let said = world.server.command(&["get", RULE]).await;
    assert!(said.contains("unwait: drained incident="), "{said}");

    // It registers again, drained still; a later agent knows the drain, and takes it back.
    let mut session = world.server.session().await;
    register(&mut session).await;
    world.session.replace(Some(session));
    let elsewhere = DubboWorld::of(&world.server, None, "bj1-04");
    assert!(elsewhere.markers().await.unwrap().is_empty());
    let later = DubboWorld::of(&world.server, None, "bj1-03");
    let [found] = later.markers().await.unwrap().try_into().unwrap();
    assert_eq!((found.id.as_str(), world.finds(US).await), (US, false));
    assert_eq!(later.restore(US, &found.marker, &NULL).await.unwrap(), Restored::Done);
    assert!(world.finds(US).await && world.rule().await.is_none());

    a_rule_that_may_not_be_written_any_more_is_met_while_a_drain_stands(&world).await;
    what_a_person_disables_is_theirs(&world).await;
    what_a_former_version_disabled_is_found_and_given_back(&world).await;
    others_that_are_taken_out_are_not_healthy(&world).await;
    a_provider_that_registers_anew_just_then_is_registered(&world).await;
}

#[tokio::test]
async fn a_newer_zookeeper_conforms() {
    let world = DubboWorld::on(TestZooKeeper::start_newest().await, None).await;
    assert_eq!(world.registry.server().await.unwrap().as_deref(), Some("ZooKeeper 3.9.5"));
    conforms(&world).await;
}

/// Met before the restart; and no consumer is told of the write that asks.
async fn a_rule_that_may_not_be_written_any_more_is_met_while_a_drain_stands(world: &DubboWorld) {
    world.registry.drain(US, &marker("i")).await.unwrap();
    let before = world.shop(async |session| session.read(RULE).await.unwrap()).await;
    assert!(world.registry.takes_writes(US, &marker("i")).await.unwrap());
    assert_eq!(world.shop(async |session| session.read(RULE).await.unwrap()).await, before);
    world.shop(async |session| session.keep_from_all(RULE).await).await;
    assert!(!world.registry.hold(US, &marker("i")).await.unwrap());
    let error = world.registry.takes_writes(US, &marker("i")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Refused { .. }) && error.to_string().contains("NoAuth"), "{error}");
    world.remove(RULE).await;
    assert!(!world.registry.takes_writes(US, &marker("i")).await.unwrap());
}

async fn what_a_person_disables_is_theirs(world: &DubboWorld) {
    let query = "category=configurators&dynamic=false&enabled=true&disabled=true";
    for whom in ["127.0.0.1:7801", "0.0.0.0", "0.0.0.0:0"] {
        let theirs = format!("override://{whom}/rpc-order?{query}&version=1.0");
        let path = world.person_disables(&theirs).await;
        let seen = world.registry.observe(US).await.unwrap().traffic;
        assert_eq!(seen, Traffic::Isolated { reason: theirs.clone() });
        let refused = world.registry.drain(US, &marker("i")).await.unwrap_err();
        assert!(refused.to_string().contains(&theirs), "{refused}");
        assert!(matches!(world.registry.restore(US, &marker("i"), &NULL).await, Ok(Restored::NotOurs(_))));
        assert_eq!(world.overrides().await, [theirs]);
        world.remove(&path).await;
    }
    // A person who disables it while it is drained keeps their override.
    world.registry.drain(US, &marker("i")).await.unwrap();
    let theirs = format!("override://127.0.0.1:7801/rpc-order?{query}&version=1.0");
    let path = world.person_disables(&theirs).await;
    assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
    assert_eq!(world.overrides().await, [theirs]);
    world.remove(&path).await;
    // An override of weights disables nothing; one of another version or group neither us nor others.
    for of in ["weight=5", "disabled=true", "disabled=true&version=2.0", "disabled=true&version=1.0&group=blue"] {
        for whom in ["127.0.0.1:7801", "10.0.0.2:7801"] {
            let path = world.person_disables(&format!("override://{whom}/rpc-order?category=configurators&{of}")).await;
            assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::Passing, "{of}");
            assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 2, registered: 3 }, "{of}");
            world.remove(&path).await;
        }
    }
}

async fn what_a_former_version_disabled_is_found_and_given_back(world: &DubboWorld) {
    let path = world.person_disables(OVERRIDE).await;
    world.shop(async |session| session.write(&path, marker("old").to_string().as_bytes(), -1).await.unwrap()).await;
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("old")));
    assert_eq!(world.registry.markers().await.unwrap(), [FoundMarker { id: US.into(), marker: marker("old") }]);
    // It stands as it is: a rule beside it would be followed seconds later only.
    world.registry.drain(US, &marker("old")).await.unwrap();
    assert!(!world.registry.hold(US, &marker("old")).await.unwrap());
    assert!(world.rule().await.is_none());
    assert!(matches!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::NotOurs(_)));
    // Released while it was drained: another version is in traffic, and is taken out as drains are now.
    let next = provider(US).replace("version=1.0", "version=2.0");
    let node = format!("/dubbo/rpc-order/providers/{}", encoded(&next));
    world.shop(async |session| session.create_ephemeral(&node).await).await;
    assert!(world.registry.hold(US, &marker("old")).await.unwrap());
    assert!(world.rule().await.is_some());
    assert_eq!(world.registry.restore(US, &marker("old"), &NULL).await.unwrap(), Restored::Done);
    assert!(world.rule().await.is_none() && world.overrides().await.is_empty());
    world.remove(&node).await;

    // What is newer in its place is left alone.
    for (newer, whose) in [(marker("newer").to_string(), "newer"), ("release 42".into(), "unwait=true")] {
        world.person_disables(OVERRIDE).await;
        world.shop(async |session| session.write(&path, newer.as_bytes(), -1).await.unwrap()).await;
        let left = world.registry.restore(US, &marker("old"), &NULL).await.unwrap();
        assert!(matches!(&left, Restored::NotOurs(what) if what.contains(whose)), "{left:?}");
        assert!(!world.registry.hold(US, &marker("old")).await.unwrap());
        assert!(!world.finds(US).await);
        world.remove(&path).await;
    }
}

async fn others_that_are_taken_out_are_not_healthy(world: &DubboWorld) {
    let other = Marker { host: "bj1-05".into(), ..marker("there") };
    let elsewhere = DubboWorld::of(&world.server, None, "bj1-05");
    elsewhere.drain("rpc-order/10.0.0.2:7801", &other).await.unwrap();
    assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 1, registered: 3 });
    let theirs = "override://10.0.0.3:7801/rpc-order?category=configurators&disabled=true&version=1.0";
    let path = world.person_disables(theirs).await;
    assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 0, registered: 3 });
    world.remove(&path).await;
    elsewhere.restore("rpc-order/10.0.0.2:7801", &other, &NULL).await.unwrap();
}

async fn a_provider_that_registers_anew_just_then_is_registered(world: &DubboWorld) {
    world.registry.drain(US, &marker("i")).await.unwrap();
    world.deregister(US).await;
    let back = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.shop(async |session| session.create_ephemeral(&node(US)).await).await;
    };
    let ours = marker("i");
    let (restored, ()) = tokio::join!(world.registry.restore(US, &ours, &NULL), back);
    assert_eq!(restored.unwrap(), Restored::Done);
    assert!(world.finds(US).await);
}

fn user(password: &str) -> Option<User> {
    Some(User { name: "shop".into(), password: password.to_owned().into() })
}

#[tokio::test]
async fn an_answer_that_permissions_cut_is_never_absence_and_the_right_password_suffices() {
    let world = DubboWorld::new(Some("hush-hush")).await;
    // Of `shop`, whose password is hush-hush. All else is theirs too, and everybody may read it.
    const SHOP: &str = "shop:WiSa01EkWteipu2JLlzboUBafwk=";
    world
        .shop(async |session| {
            for path in ["/dubbo/rpc-order/providers", "/dubbo/rpc-order"] {
                session.keep_for(path, SHOP).await;
            }
            // A rule that may not be read may carry a drain of ours.
            let hidden = "/dubbo/config/dubbo/hidden.tag-router";
            for path in ["/dubbo/config", "/dubbo/config/dubbo", hidden] {
                session.create(path, &[]).await.unwrap();
            }
            session.keep_for(hidden, SHOP).await;
        })
        .await;
    for user in [None, user("wrong-word")] {
        let registry = DubboWorld::of(&world.server, user, "bj1-03");
        for error in [
            registry.observe(US).await.unwrap_err(),
            registry.observe("rpc-order/127.0.0.1:1").await.unwrap_err(),
            registry.others(US).await.unwrap_err(),
            registry.drain(US, &marker("i")).await.unwrap_err(),
            registry.restore(US, &marker("i"), &NULL).await.unwrap_err(),
            registry.hold(US, &marker("i")).await.unwrap_err(),
            registry.markers().await.unwrap_err(),
        ] {
            assert!(matches!(error, RegistryError::Refused { .. }) && error.to_string().contains("NoAuth"), "{error}");
            assert!(!format!("{error:?} {registry:?}").contains("wrong-word"), "{error}");
        }
    }
    // A password is read anew for each question, since no answer says that it is another one by now.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    crate::trust::write_secret(&file, "wrong-word");
    let password = Secret::in_file(file.clone()).unwrap();
    let registry = DubboWorld::of(&world.server, Some(User { name: "shop".into(), password }), "bj1-03");
    for (word, may) in [("wrong-word", false), ("hush-hush\n", true), ("", true), ("wrong-word", false)] {
        crate::trust::write_secret(&file, word);
        assert_eq!(registry.observe(US).await.is_ok(), may, "{word:?}");
    }
    conforms(&world).await;
    // It leaves a drain. The consumers, who have no password, read the rule all the same.
    assert!(world.server.session().await.read(RULE).await.unwrap().is_some());

    // Of two servers, the one that is there is asked.
    let servers = vec!["127.0.0.1:1".to_owned(), world.server.server.clone()];
    let both = ZooKeeper::new("zookeeper", servers, user("hush-hush"), "/dubbo", false, "bj1-03");
    assert_eq!(both.observe(&world.id(NEIGHBOUR)).await.unwrap().traffic, Traffic::Passing);
}

#[tokio::test]
async fn a_zookeeper_that_is_away_is_worth_trying_again() {
    let away = ZooKeeper::new("zookeeper", vec!["127.0.0.1:1".into()], user("hush"), "/dubbo", false, "h");
    let error = away.observe(US).await.unwrap_err();
    assert!(error.is_passing() && !format!("{error:?} {away:?}").contains("hush"), "{error:?}");
}

#[tokio::test]
async fn a_zookeeper_without_a_quorum_says_so_and_is_worth_trying_again() {
    for made in [Distribution::Debian, Distribution::Newest] {
        let ports: [u16; 6] = free_ports();
        let ensemble = [[ports[0], ports[1]], [ports[2], ports[3]], [ports[4], ports[5]]];
        let first = TestZooKeeper::start_member(made, 0, &ensemble).await;
        let registry = ZooKeeper::new("zookeeper", vec![first.server.clone()], None, "/dubbo", false, "h");
        let says_so = async || {
            let error = registry.observe(US).await.unwrap_err();
            assert!(error.is_passing(), "{error}");
            let says =
                format!("{}: ZooKeeper: no session: \"This ZooKeeper instance is not currently serving", first.server);
            error.to_string().contains(&says)
        };
        wait_for("it to say that it has no quorum", says_so).await;
        let second = TestZooKeeper::start_member(made, 1, &ensemble).await;
        wait_for("a quorum", async || matches!(registry.observe(US).await, Err(RegistryError::NotRegistered { .. })))
            .await;
        drop(second);
        wait_for("it to say that its quorum is gone", async || {
            let seen = registry.observe(US).await;
            matches!(seen, Err(RegistryError::Unreachable { .. })) && says_so().await
        })
        .await;
    }
}
