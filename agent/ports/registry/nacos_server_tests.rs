//! Which server it is, what it asks of its callers, and what it says.

use std::time::Duration;

use serde_json::{Value, json};

use super::conformance::{World, marker};
use super::nacos::Nacos;
use super::nacos_stub::{ALL, OVERLAID, Which};
use super::nacos_tests::{NEVER, NULL, NacosWorld, OFTEN, US, layout, user};
use super::*;
use crate::model::NacosApi;
use crate::ports::testing_consul::wait_for;
use crate::ports::{Secret, User};

impl NacosWorld {
    fn with_api(&self, api: NacosApi) -> Nacos {
        let (ledger, urls) = (self.state.path().join("other.json"), [self.url.clone()]);
        Nacos::within(Duration::from_secs(5), NEVER, "nacos", &urls, None, layout(api), ledger).unwrap()
    }

    fn asked(&self, what: &str) -> usize {
        self.server.lock().unwrap().asked.iter().filter(|path| path.ends_with(what)).count()
    }
}

#[tokio::test]
async fn the_api_is_found_once_and_anew_after_an_error() {
    let world = NacosWorld::new(Which::Second, NEVER).await;
    for _ in 0..3 {
        assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::Passing);
    }
    assert_eq!((world.asked("v3/admin/core/state"), world.asked("v2/ns/service/list")), (1, 1));
    // It is upgraded, and drained meanwhile or not is no matter.
    world.change(|server| server.which = Which::Third);
    let gone = world.registry.observe(US).await.unwrap_err().to_string();
    assert!(
        gone.contains("410") && gone.contains("v3/admin/ns/instance") && gone.contains("switches unchanged"),
        "{gone}"
    );
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::Passing);
    world.registry.drain(US, &marker("i")).await.unwrap();
    world.registry.restore(US, &marker("i"), &NULL).await.unwrap();
    assert_eq!(world.asked("v3/admin/core/state"), 2);
}

#[tokio::test]
async fn an_api_that_is_named_is_the_one_that_is_asked() {
    for (which, api, path) in [
        (Which::First, NacosApi::V1, "v1/ns/instance"),
        (Which::Second, NacosApi::V1, "v1/ns/instance"),
        (Which::Second, NacosApi::V2, "v2/ns/instance"),
        (Which::Third, NacosApi::V3, "v3/admin/ns/instance"),
        (Which::RNacos, NacosApi::V1, "v1/ns/instance"),
    ] {
        let world = NacosWorld::new(which, NEVER).await;
        let registry = world.with_api(api);
        registry.drain(US, &marker("i")).await.unwrap();
        assert!(!world.finds(US).await);
        registry.restore(US, &marker("i"), &NULL).await.unwrap();
        assert_eq!(world.us().metadata()["zone"], "a", "{which:?} by {api:?}");
        assert!(world.asked(path) > 0);
    }
    let world = NacosWorld::new(Which::Third, NEVER).await;
    let gone = world.with_api(NacosApi::V1).observe(US).await.unwrap_err().to_string();
    assert!(gone.contains("Nacos 3.0.3 says") && gone.contains("remove `api`"), "{gone}");
    let world = NacosWorld::new(Which::RNacos, NEVER).await;
    let none = world.with_api(NacosApi::V2).observe(US).await.unwrap_err().to_string();
    assert!(none.contains("404") && none.contains("r-nacos"), "{none}");
}

#[tokio::test]
async fn the_next_member_answers_where_one_does_not() {
    let world = NacosWorld::new(Which::Third, NEVER).await;
    let registry = NacosWorld::of(&["http://127.0.0.1:1/nacos", &world.url], &world.state, NEVER, None);
    registry.drain(US, &marker("i")).await.unwrap();
    assert!(!world.finds(US).await);
    registry.restore(US, &marker("i"), &NULL).await.unwrap();
    assert!(world.finds(US).await);
}

#[tokio::test]
async fn whether_an_instance_is_ephemeral_is_said_only_where_it_is_known() {
    for which in OVERLAID {
        let world = NacosWorld::new(which, NEVER).await;
        world.change(|server| server.instances.get_mut(US).unwrap().ephemeral = false);
        world.registry.drain(US, &marker("i")).await.unwrap();
        // The restore of an agent that has lost the record, and cannot read it of one that is disabled.
        assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
        let changes = world.server.lock().unwrap().changes.clone();
        assert!(changes.iter().all(|change| change.parameter("ephemeral").is_empty()));
        let said: Vec<&str> = changes.iter().map(|change| change.parameter("consistencyType")).collect();
        assert_eq!(said, ["", "persist", "", "persist"], "{which:?}");
        assert!(changes.iter().all(|change| change.path.ends_with("batch") || change.parameter("weight") == "2.5"));
    }
}

/// By HTTP its marker goes, and by gRPC its drain.
#[tokio::test]
async fn a_registration_with_r_nacos_makes_our_drain_nobody_elses() {
    let world = NacosWorld::new(Which::RNacos, OFTEN).await;
    let before = world.registry.observe(US).await.unwrap();
    world.registry.drain(US, &marker("i")).await.unwrap();
    world.change(|server| server.register(US, json!({ "zone": "c" })));
    assert_eq!(world.us().metadata(), json!({ "zone": "c" }));
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert_eq!(world.registry.restore(US, &marker("i"), &before.record).await.unwrap(), Restored::Done);
    assert_eq!((world.us().metadata(), world.us().enabled()), (json!({ "zone": "c" }), true));
    // What is put back stays so, whoever holds what.
    tokio::time::sleep(10 * OFTEN).await;
    assert!(world.finds(US).await);

    world.registry.drain(US, &marker("j")).await.unwrap();
    world.change(|server| server.register_by_grpc(US));
    wait_for("it to be taken out again", async || !world.us().enabled()).await;
    assert_eq!(world.registry.restore(US, &marker("j"), &before.record).await.unwrap(), Restored::Done);
    assert_eq!(world.us().metadata(), json!({ "zone": "c" }));
}

#[tokio::test]
async fn r_nacos_keeps_an_empty_metadata_so_our_marker_is_written_over_and_read_back() {
    let world = NacosWorld::new(Which::RNacos, NEVER).await;
    world.change(|server| server.register(US, json!({})));
    world.registry.drain(US, &marker("i")).await.unwrap();
    assert_eq!(world.us().metadata(), json!({ "unwait": marker("i").to_string() }));
    assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
    assert_eq!(world.us().metadata(), json!({ "unwait": "" }));
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::Passing);
}

#[tokio::test]
async fn nothing_is_written_for_an_instance_that_is_not_there() {
    for which in ALL {
        let world = NacosWorld::new(which, NEVER).await;
        let none = "rpc-order/127.0.0.1:9";
        assert!(matches!(world.registry.drain(none, &marker("i")).await, Err(RegistryError::NotRegistered { .. })));
        assert!(matches!(world.registry.restore(none, &marker("i"), &NULL).await, Ok(Restored::NotOurs(_))));
        let server = world.server.lock().unwrap();
        assert!(server.changes.is_empty() && !server.instances.contains_key(none), "{which:?}");
    }
}

#[tokio::test]
async fn an_answer_that_permissions_cut_is_never_absence_and_no_error_shows_a_secret() {
    for which in ALL {
        let world = NacosWorld::new(which, NEVER).await;
        world.change(|server| server.token = Some("token-1".into()));
        for (registry, named) in
            [(world.another(NEVER, None), false), (world.another(NEVER, user("unwait", "wrong-word")), true)]
        {
            for error in [
                registry.observe(US).await.unwrap_err(),
                registry.observe("rpc-none/127.0.0.1:1").await.unwrap_err(),
                registry.others(US).await.unwrap_err(),
                registry.drain(US, &marker("i")).await.unwrap_err(),
                registry.restore(US, &marker("i"), &NULL).await.unwrap_err(),
            ] {
                assert!(!matches!(error, RegistryError::NotRegistered { .. }), "{error}");
                assert!(!format!("{error:?} {registry:?}").contains("wrong-word"), "{error}");
                let says = if named { "wrong name or password" } else { "reads and writes `prod:*:*`" };
                assert!(error.to_string().contains(says), "{which:?}: {error}");
            }
        }
        // A token that has ended is asked for anew, once, and else kept.
        let registry = world.another(NEVER, user("unwait", "hush-hush"));
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
        assert!(registry.markers().await.unwrap().is_empty() && world.us().enabled());

        // The same is met while a drain stands, where a write can tell it.
        world.change(|server| server.forbidden = None);
        registry.drain(US, &marker("i")).await.unwrap();
        let before = world.us();
        assert!(registry.takes_writes(US, &marker("i")).await.unwrap());
        assert_eq!(format!("{:?}", world.us()), format!("{before:?}"));
        world.change(|server| server.forbidden = Some("PUT"));
        let told = registry.takes_writes(US, &marker("i")).await;
        assert_eq!(told.is_err(), OVERLAID.contains(&which), "{which:?}: {told:?}");
    }
}

#[tokio::test]
async fn the_login_that_fails_with_500_says_what_that_means() {
    for (which, name) in [(Which::Second, "nobody"), (Which::Third, "unwait")] {
        let world = NacosWorld::new(which, NEVER).await;
        world.change(|server| server.token = Some("token-1".into()));
        let error = world.another(NEVER, user(name, "wrong-word")).observe(US).await.unwrap_err();
        let text = error.to_string();
        assert!(error.is_passing() && text.contains("500: wrong name or password, or"), "{text}");
        assert!(text.contains("not found"), "the server's own words: {text}");
    }
}

#[tokio::test]
async fn a_password_that_changed_is_read_again_from_its_file() {
    for which in [Which::First, Which::Second, Which::Third] {
        let world = NacosWorld::new(which, NEVER).await;
        world.change(|server| server.token = Some("token-1".into()));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        crate::trust::write_secret(&file, "wrong-word");
        let password = Secret::in_file(file.clone()).unwrap();
        let registry = world.another(NEVER, Some(User { name: "unwait".into(), password }));
        registry.observe(US).await.unwrap_err();
        crate::trust::write_secret(&file, "hush-hush");
        registry.observe(US).await.unwrap();
    }
}

#[tokio::test]
async fn a_nacos_that_is_away_is_worth_trying_again_and_something_else_is_not() {
    let state = tempfile::tempdir().unwrap();
    let away = NacosWorld::of(&["http://127.0.0.1:1/nacos"], &state, NEVER, user("unwait", "hush"));
    let error = away.observe(US).await.unwrap_err();
    assert!(error.is_passing() && !format!("{error:?} {away:?}").contains("hush"), "{error:?}");
    for wrong in ["rpc-order", "rpc-order/127.0.0.1", "rpc-order/127.0.0.1:http"] {
        assert!(matches!(away.observe(wrong).await, Err(RegistryError::Refused { .. })), "{wrong}");
    }
    // Another path, another server: a 404 without Nacos' words.
    for which in ALL {
        let world = NacosWorld::new(which, NEVER).await;
        let error =
            NacosWorld::of(&[&world.url.replace("/nacos", "")], &state, NEVER, None).observe(US).await.unwrap_err();
        assert!(matches!(&error, RegistryError::Refused { detail, .. } if detail.contains("404")), "{error}");
    }
}

#[tokio::test]
async fn what_clients_find_is_their_own_list() {
    for (which, path) in [
        (Which::Second, "v2/ns/instance/list"),
        (Which::Third, "v3/client/ns/instance/list"),
        (Which::RNacos, "v1/ns/instance/list"),
    ] {
        let world = NacosWorld::new(which, NEVER).await;
        assert!(world.registry.clients_find(US).await.unwrap());
        assert_eq!(world.asked(path), 1, "{which:?}");
        world.registry.drain(US, &marker("i")).await.unwrap();
        assert!(!world.registry.clients_find(US).await.unwrap());
        assert!(!world.registry.clients_find("rpc-none/127.0.0.1:1").await.unwrap());
        let record: Value = world.registry.observe(US).await.unwrap().record;
        world.registry.restore(US, &marker("i"), &record).await.unwrap();
        world.set_healthy(US, false).await;
        assert!(!world.registry.clients_find(US).await.unwrap());
    }
}
