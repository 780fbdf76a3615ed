//! The Nacos adapter on a stub that answers as four servers do: the suite, and what is Nacos' own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::conformance::{OURS, Tells, World, conforms, marker, nobody_answers};
use super::nacos::Nacos;
use super::nacos_stub::{ALL, Instance, OVERLAID, Over, Server, Which};
use super::stub::{Peers, refusing, serve};
use super::*;
use crate::model::{NacosApi, NacosLayout};
use crate::ports::User;
use crate::ports::testing_consul::wait_for;

pub(super) const US: &str = "rpc-order/127.0.0.1:7801";
pub(super) const NULL: Value = Value::Null;

/// So long that a test sees what is so without it.
pub(super) const NEVER: Duration = Duration::from_secs(3600);
pub(super) const OFTEN: Duration = Duration::from_millis(20);

pub(super) struct NacosWorld {
    pub server: Arc<Mutex<Server>>,
    pub url: String,
    pub state: tempfile::TempDir,
    pub registry: Nacos,
}

pub(super) fn layout(api: NacosApi) -> NacosLayout {
    NacosLayout { api, namespace: Some("prod".into()), group: "SHOP".into(), cluster: "BJ".into() }
}

pub(super) fn user(name: &str, password: &str) -> Option<User> {
    Some(User { name: name.into(), password: password.to_owned().into() })
}

/// Ourselves, two others under our name, and a service of its own.
fn server(which: Which) -> Server {
    let mut server = Server::new(which);
    for id in [US, "rpc-order/10.0.0.2:7801", "rpc-order/10.0.0.3:7801", "rpc-cart/127.0.0.1:7901"] {
        server.register(id, json!({ "zone": "a" }));
    }
    server
}

impl NacosWorld {
    pub async fn new(which: Which, hold_every: Duration) -> Self {
        let server = Arc::new(Mutex::new(server(which)));
        let asked = Arc::clone(&server);
        let url = format!("http://{}/nacos", serve(move |request| asked.lock().unwrap().answer(request)).await);
        let state = tempfile::tempdir().unwrap();
        let registry = Self::of(&[&url], &state, hold_every, None);
        Self { server, url, state, registry }
    }

    pub fn of(urls: &[&str], state: &tempfile::TempDir, hold_every: Duration, user: Option<User>) -> Nacos {
        let (ledger, urls) =
            (state.path().join("drains-nacos.json"), urls.iter().map(ToString::to_string).collect::<Vec<_>>());
        let deadline = Duration::from_secs(5);
        Nacos::within(deadline, hold_every, "nacos", &urls, user, layout(NacosApi::Auto), ledger).unwrap()
    }

    pub fn another(&self, hold_every: Duration, user: Option<User>) -> Nacos {
        Self::of(&[&self.url], &self.state, hold_every, user)
    }

    pub fn change(&self, change: impl FnOnce(&mut Server)) {
        change(&mut self.server.lock().unwrap());
    }

    pub fn us(&self) -> Instance {
        self.server.lock().unwrap().instances[US].clone()
    }

    /// By the console: it writes back all that it shows.
    fn person_enables(&self, id: &str, enabled: bool) {
        self.change(|server| {
            let overlaid = OVERLAID.contains(&server.which);
            let instance = server.instances.get_mut(id).unwrap();
            let metadata = instance.metadata().as_object().unwrap().clone();
            let put = Over { enabled, weight: instance.weight(), metadata };
            match overlaid {
                true => instance.over = Some(put),
                false => instance.published = put,
            }
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
        let (ledger, layout) = (self.state.path().join("silent.json"), layout(NacosApi::Auto));
        Some(Arc::new(Nacos::within(deadline, NEVER, "nacos", &[url], None, layout, ledger).unwrap()))
    }

    async fn cut(&self) -> Vec<Arc<dyn Registry>> {
        let asked = Arc::clone(&self.server);
        let cut = refusing(move |request| asked.lock().unwrap().answer(request)).await.map(|address| {
            let url = format!("http://{address}/nacos");
            Arc::new(Self::of(&[&url], &self.state, NEVER, None)) as Arc<dyn Registry>
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

    fn tells(&self) -> Tells {
        Tells { isolation: false, ..Tells::ALL }
    }

    /// As clients see it: healthy and enabled.
    async fn finds(&self, id: &str) -> bool {
        let mut server = self.server.lock().unwrap();
        server.seen().get(id).is_some_and(|it| it.registered && it.healthy && it.enabled())
    }

    async fn set_healthy(&self, id: &str, healthy: bool) {
        self.change(|server| server.instances.get_mut(id).unwrap().healthy = healthy);
    }

    async fn isolate(&self, _id: &str, _reason: Option<&str>) {}

    async fn comes_back(&self, id: &str) {
        let which = self.server.lock().unwrap().which;
        match which {
            Which::Second | Which::Third => self.person_enables(id, true),
            Which::First => self.change(|server| server.register(id, json!({ "zone": "a" }))),
            Which::RNacos => self.change(|server| server.register_by_grpc(id)),
        }
    }

    fn looked(&self) -> Duration {
        10 * OFTEN
    }

    async fn deregister(&self, id: &str) {
        self.change(|server| server.instances.get_mut(id).unwrap().registered = false);
    }

    async fn renew(&self, id: &str) {
        self.change(|server| server.register(id, json!({ "zone": "b" })));
    }

    async fn record(&self, id: &str) -> String {
        self.server.lock().unwrap().instances[id].metadata()["zone"].to_string()
    }
}

#[tokio::test]
async fn every_server_conforms() {
    for which in ALL {
        eprintln!("{which:?}");
        // Only the later agent holds: of two at once one would hold what the other puts back.
        conforms(&NacosWorld::new(which, NEVER).await).await;
    }
}

#[tokio::test]
async fn what_is_not_changed_stays_as_it_was() {
    for which in ALL {
        let world = NacosWorld::new(which, NEVER).await;
        world.change(|server| server.instances.get_mut(US).unwrap().ephemeral = false);
        let before = world.registry.observe(US).await.unwrap();
        world.registry.drain(US, &marker("i")).await.unwrap();
        let expected = json!({ "zone": "a", "unwait": marker("i").to_string() });
        assert_eq!((world.us().metadata(), world.us().weight()), (expected, 2.5), "{which:?}");
        assert_eq!(world.registry.restore(US, &marker("i"), &before.record).await.unwrap(), Restored::Done);
        assert_eq!((world.us().metadata(), world.us().weight()), (json!({ "zone": "a" }), 2.5), "{which:?}");
        assert_eq!(world.registry.observe(US).await.unwrap(), before);
    }
}

#[tokio::test]
async fn after_a_saga_the_registry_shows_what_the_new_process_has_registered() {
    for which in OVERLAID {
        let world = NacosWorld::new(which, NEVER).await;
        world.change(|server| server.register(US, json!({ "version": "1", "dubbo.metadata.revision": "0a" })));
        let before = world.registry.observe(US).await.unwrap();
        world.registry.drain(US, &marker("i")).await.unwrap();
        let new = json!({ "version": "2", "dubbo.endpoints": "[]" });
        world.change(|server| server.register(US, new.clone()));
        assert!(!world.finds(US).await, "the drain outlives the process");
        assert_eq!(world.registry.restore(US, &marker("i"), &before.record).await.unwrap(), Restored::Done);
        assert_eq!(world.us().metadata(), new, "{which:?}");
        assert_eq!(world.us().over, Some(Over { weight: 2.5, ..Over::default() }), "{which:?}");
    }
}

#[tokio::test]
async fn an_operators_own_overlay_is_kept() {
    for which in OVERLAID {
        let world = NacosWorld::new(which, NEVER).await;
        let metadata = json!({ "zone": "b", "gray": "true" }).as_object().unwrap().clone();
        let theirs = Over { enabled: true, weight: 0.5, metadata };
        world.change(|server| server.instances.get_mut(US).unwrap().over = Some(theirs.clone()));
        world.registry.drain(US, &marker("i")).await.unwrap();
        let over = world.us().over.unwrap();
        assert_eq!((&over.metadata["gray"], over.weight), (&json!("true"), 0.5), "{which:?}");
        assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
        assert_eq!(world.us().over, Some(theirs), "{which:?}");
    }
}

#[tokio::test]
async fn a_service_at_the_limit_of_metadata_is_drained_too_and_a_refusal_stands_with_its_reason() {
    for which in OVERLAID {
        let world = NacosWorld::new(which, NEVER).await;
        world.change(|server| server.register(US, json!({ "k": "x".repeat(1023) })));
        world.registry.drain(US, &marker("i")).await.unwrap();
        assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);

        let says = r#"{"code":400,"message":"metadata is too long\nand more"}"#;
        world.change(|server| server.refuses = Some((400, says)));
        let refused = world.registry.drain(US, &marker("j")).await.unwrap_err();
        assert!(matches!(refused, RegistryError::Refused { .. }), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("400") && text.contains("metadata is too long") && !text.contains("and more"), "{text}");
        assert!(world.registry.markers().await.unwrap().is_empty() && world.finds(US).await);
    }
}

#[tokio::test]
async fn an_instance_that_comes_back_is_taken_out_again_until_it_is_put_back() {
    for which in [Which::First, Which::RNacos] {
        let world = NacosWorld::new(which, NEVER).await;
        world.registry.drain(US, &marker("i")).await.unwrap();
        world.comes_back(US).await;
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
        world.change(|server| server.register(US, json!({ "zone": "a" })));
        wait_for("the registration to be undone", async || !world.finds(US).await).await;
        assert_eq!(later.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
        assert!(world.finds(US).await && later.markers().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn nacos_keeps_a_drain_through_a_restart_and_the_loss_of_our_notes() {
    for which in OVERLAID {
        let world = NacosWorld::new(which, NEVER).await;
        world.registry.drain(US, &marker("i")).await.unwrap();
        world.deregister(US).await;
        world.change(|server| server.register(US, json!({ "zone": "a" })));
        assert!(!world.finds(US).await);
        std::fs::remove_file(world.state.path().join("drains-nacos.json")).unwrap();
        let later = world.another(NEVER, None);
        assert_eq!(later.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
        assert_eq!(later.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
        assert!(world.finds(US).await);
    }
}

#[tokio::test]
async fn what_a_person_disabled_is_theirs_where_no_drain_of_ours_is_noted() {
    for which in ALL {
        let world = NacosWorld::new(which, NEVER).await;
        world.person_enables(US, false);
        let seen = world.registry.observe(US).await.unwrap().traffic;
        assert!(matches!(&seen, Traffic::Isolated { reason } if reason.contains("enabled=false")), "{seen:?}");
        assert!(matches!(world.registry.drain(US, &marker("i")).await, Err(RegistryError::Refused { .. })));
        assert!(matches!(world.registry.restore(US, &marker("i"), &NULL).await, Ok(Restored::NotOurs(_))));
        assert!(!world.registry.hold(US, &marker("i")).await.unwrap());
        assert!(!world.finds(US).await && world.registry.markers().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_drain_and_its_undo_at_once_leave_nothing_out_that_is_not_noted_where_peers_lag() {
    for which in ALL {
        let (peers, address) = Peers::serve([server(which), server(which)], Server::answer).await;
        let state = tempfile::tempdir().unwrap();
        let registry = NacosWorld::of(&[&format!("http://{address}/nacos")], &state, NEVER, None);
        let record = registry.observe(US).await.unwrap().record;
        let _ = registry.drain(US, &marker("i")).await;
        let _ = registry.restore(US, &marker("i"), &record).await;
        wait_for("the peers to have told each other", async || peers.agree()).await;
        let noted = !registry.markers().await.unwrap().is_empty();
        for server in &peers.servers {
            let enabled = server.lock().unwrap().instances[US].enabled();
            assert!(enabled || noted, "{which:?}: it is disabled, and nobody knows of it");
        }
    }
}

#[tokio::test]
async fn an_instance_that_is_not_there_just_after_its_drain_is_not_forgotten() {
    for which in ALL {
        let world = NacosWorld::new(which, NEVER).await;
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
    let world = NacosWorld::new(Which::First, NEVER).await;
    let before = world.server.lock().unwrap().instances.clone();
    world.registry.drain(US, &marker("i")).await.unwrap();
    // One look is two reads.
    world.change(|server| (server.lag, server.stale) = (2, Some(before)));
    assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
    assert!(world.finds(US).await && world.registry.markers().await.unwrap().is_empty());
}

#[tokio::test]
async fn others_are_counted_whether_healthy_or_not_and_are_healthy_by_their_own_records() {
    for which in ALL {
        let world = NacosWorld::new(which, NEVER).await;
        world.change(|server| server.protects = true);
        world.set_healthy("rpc-order/10.0.0.2:7801", false).await;
        assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 1, registered: 3 }, "{which:?}");
        world.change(|server| server.protects = false);
        assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 1, registered: 3 }, "{which:?}");
        // Another service at our address is not ourselves.
        world.change(|server| server.instances.get_mut(US).unwrap().cluster = "SH".into());
        assert!(matches!(world.registry.others(US).await, Err(RegistryError::NotRegistered { .. })), "{which:?}");
    }
}
