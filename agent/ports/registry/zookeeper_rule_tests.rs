//! The ZooKeeper adapter's tag rules on a real ZooKeeper: shared by hosts, a person's, of several applications.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::conformance::{World, marker};
use super::dubbo::encoded;
use super::zookeeper::ZooKeeper;
use super::zookeeper_tests::{DubboWorld, NULL, RULE, US, node, provider};
use super::*;

#[tokio::test]
async fn a_tag_rule_is_shared_and_a_persons_is_theirs() {
    let world = DubboWorld::new(None).await;
    hosts_and_ids_share_one_rule(&world).await;
    a_persons_rule_is_left_alone_or_merged_into(&world).await;
    who_shares_a_service_with_another_application_is_left_alone(&world).await;
    who_is_known_by_application_alone_is_drained_by_that(&world).await;
    what_cannot_be_drained_says_why(&world).await;
}

async fn hosts_and_ids_share_one_rule(world: &DubboWorld) {
    // Ten at once, each of its own instance; and one address under two names.
    let cart = "rpc-cart/127.0.0.1:7801";
    world.shop(async |session| session.create_ephemeral(&node(cart)).await).await;
    let ids = (0..10).map(|host| format!("rpc-order/10.0.1.{host}:7801")).chain([US.into(), cart.into()]);
    let ids: Vec<String> = ids.collect();
    for id in &ids[..10] {
        world.shop(async |session| session.create_ephemeral(&node(id)).await).await;
    }
    let hosts: Vec<Arc<ZooKeeper>> =
        (0..11).map(|host| Arc::new(DubboWorld::of(&world.server, None, &format!("h{host}")))).collect();
    let of = |host: usize| Marker { host: format!("h{host}"), ..marker("i") };
    let mut drains = JoinSet::new();
    for (at, host) in hosts.iter().enumerate() {
        let (host, id, marker) = (Arc::clone(host), ids[at].clone(), of(at));
        drains.spawn(async move { host.drain(&id, &marker).await });
    }
    drains.join_all().await.into_iter().for_each(|drained| drained.unwrap());
    // By the same hand as the other name of that address, which takes it out already.
    assert_eq!(world.registry.observe(cart).await.unwrap().traffic, Traffic::DrainedBy(of(10)));
    hosts[10].drain(cart, &of(10)).await.unwrap();
    assert_eq!(hosts[10].markers().await.unwrap().len(), 2);
    assert_eq!(hosts[3].markers().await.unwrap(), [FoundMarker { id: ids[3].clone(), marker: of(3) }]);
    assert_eq!(world.registry.others(&ids[11]).await.unwrap(), Others { healthy: 1, registered: 2 });
    let mut restores = JoinSet::new();
    for (at, host) in hosts.iter().enumerate() {
        let (host, id, marker) = (Arc::clone(host), ids[at].clone(), of(at));
        restores.spawn(async move { host.restore(&id, &marker, &NULL).await });
    }
    restores.join_all().await.into_iter().for_each(|restored| assert_eq!(restored.unwrap(), Restored::Done));
    // Its address is out until its last name is given back.
    assert!(!world.finds(US).await && world.rule().await.is_some());
    assert_eq!(hosts[10].restore(cart, &of(10), &NULL).await.unwrap(), Restored::Done);
    assert!(world.finds(US).await && world.rule().await.is_none());
    for id in &ids[..10] {
        world.deregister(id).await;
    }
    world.deregister(cart).await;
}

async fn a_persons_rule_is_left_alone_or_merged_into(world: &DubboWorld) {
    let theirs =
        "# Ours.\nforce: true\nenabled: true\nkey: shop\ntags:\n  - name: gray\n    addresses: ['10.0.0.2:7801']\n";
    world.person_writes_rule(theirs).await;
    let refused = world.registry.drain(US, &marker("i")).await.unwrap_err();
    assert!(refused.to_string().contains(RULE) && refused.to_string().contains("merge: true"), "{refused}");
    assert_eq!(world.rule().await.as_deref(), Some(theirs));

    let merging = DubboWorld::with(&world.server, None, "bj1-03", true);
    merging.drain(US, &marker("i")).await.unwrap();
    assert!(!world.finds(US).await && world.rule().await.unwrap().contains("name: gray"));
    assert_eq!(merging.markers().await.unwrap(), [FoundMarker { id: US.into(), marker: marker("i") }]);
    // Whoever takes it out again needs no leave for it.
    assert_eq!(world.registry.restore(US, &marker("i"), &NULL).await.unwrap(), Restored::Done);
    assert_eq!(world.rule().await.as_deref(), Some(theirs));

    // What they took out themselves is theirs, and is no healthy other.
    world.person_writes_rule(&theirs.replace("10.0.0.2", "127.0.0.1")).await;
    let seen = merging.observe(US).await.unwrap().traffic;
    assert_eq!(seen, Traffic::Isolated { reason: "tag `gray` of the tag rule of application shop".into() });
    assert!(merging.drain(US, &marker("i")).await.is_err());
    world.person_writes_rule(&theirs.replace("enabled: true", "enabled: false")).await;
    assert_eq!(merging.observe(US).await.unwrap().traffic, Traffic::Passing);
    assert!(merging.drain(US, &marker("i")).await.unwrap_err().to_string().contains("enabled: false"));
    world.person_writes_rule("tags:\n- name: gray\n  match: [{key: env, value: {exact: gray}}]\n").await;
    let refused = world.registry.others(US).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Refused { .. }) && refused.to_string().contains("match"), "{refused}");
    world.person_writes_rule("tags: [").await;
    let refused = world.registry.observe(US).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Refused { .. }) && refused.to_string().contains(RULE), "{refused}");
    assert!(world.registry.markers().await.unwrap().is_empty());
    // One that carried our drain before somebody broke it is not passed over.
    world.person_writes_rule("tags: [ unwait: drained").await;
    assert!(matches!(world.registry.markers().await, Err(RegistryError::Refused { .. })));
    world.remove(RULE).await;
}

async fn who_shares_a_service_with_another_application_is_left_alone(world: &DubboWorld) {
    let before = world.registry.observe(US).await.unwrap();
    let other = "dubbo://10.0.0.4:7801/rpc-order?application=shop2&version=1.0";
    let path = format!("/dubbo/rpc-order/providers/{}", encoded(other));
    world.shop(async |session| session.create_ephemeral(&path).await).await;
    let refused = world.registry.drain(US, &marker("i")).await.unwrap_err();
    assert!(
        matches!(&refused, RegistryError::Refused { .. }) && refused.to_string().contains("shop, shop2"),
        "{refused}"
    );
    assert_eq!((world.rule().await, world.rule_of("shop2").await), (None, None));
    world.remove(&path).await;

    // Drained, and released under another application's name: it is taken back where it was drained.
    world.registry.drain(US, &marker("i")).await.unwrap();
    world.deregister(US).await;
    let released = provider(US).replace("shop", "shop3");
    let path = format!("/dubbo/rpc-order/providers/{}", encoded(&released));
    world.shop(async |session| session.create_ephemeral(&path).await).await;
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::Passing);
    assert_eq!(world.registry.restore(US, &marker("i"), &before.record).await.unwrap(), Restored::Done);
    assert!(world.rule().await.is_none());
    world.remove(&path).await;
    world.shop(async |session| session.create_ephemeral(&node(US)).await).await;
}

async fn who_is_known_by_application_alone_is_drained_by_that(world: &DubboWorld) {
    let (us, others) = ("shop/127.0.0.1:7809", ["shop/10.0.0.2:7809", "shop/10.0.0.3:7809"]);
    world
        .shop(async |session| {
            for path in ["/services", "/services/shop"] {
                session.create(path, &[]).await.unwrap();
            }
            for id in [us].iter().chain(&others) {
                session.create_ephemeral(&format!("/services/{id}")).await;
            }
        })
        .await;
    assert_eq!(world.registry.observe(us).await.unwrap().traffic, Traffic::Passing);
    assert_eq!(world.registry.others(us).await.unwrap(), Others { healthy: 2, registered: 3 });
    world.registry.drain(us, &marker("i")).await.unwrap();
    assert!(world.rule().await.unwrap().contains("addresses: [\"127.0.0.1:7809\"]"));
    assert_eq!(world.registry.others(others[0]).await.unwrap(), Others { healthy: 1, registered: 3 });
    assert_eq!(world.registry.markers().await.unwrap(), [FoundMarker { id: us.into(), marker: marker("i") }]);
    assert_eq!(world.registry.restore(us, &marker("i"), &NULL).await.unwrap(), Restored::Done);
    assert!(world.rule().await.is_none());
    // Who is known both ways is named once, by its application.
    world.shop(async |session| session.create_ephemeral("/services/shop/127.0.0.1:7801").await).await;
    let ids: Vec<String> = world.registry.instances().await.unwrap().into_iter().map(|(id, _)| id).collect();
    assert!(ids.iter().any(|id| id == "shop/127.0.0.1:7801") && !ids.iter().any(|id| id == US), "{ids:?}");
    for id in [us, "shop/127.0.0.1:7801"].iter().chain(&others) {
        world.remove(&format!("/services/{id}")).await;
    }
}

async fn what_cannot_be_drained_says_why(world: &DubboWorld) {
    for (query, why) in [("version=1.0", "`application`"), ("application=shop3&dubbo.tag=gray", "`gray`")] {
        let url = format!("dubbo://127.0.0.1:7899/rpc-odd?{query}");
        world
            .shop(async |session| {
                for path in ["/dubbo/rpc-odd", "/dubbo/rpc-odd/providers"] {
                    session.create(path, &[]).await.unwrap();
                }
                session.create_ephemeral(&format!("/dubbo/rpc-odd/providers/{}", encoded(&url))).await;
            })
            .await;
        let refused = world.registry.drain("rpc-odd/127.0.0.1:7899", &marker("i")).await.unwrap_err();
        assert!(matches!(&refused, RegistryError::Refused { .. }) && refused.to_string().contains(why), "{refused}");
        world.deregister("rpc-odd/127.0.0.1:7899").await;
    }
    assert_eq!((world.rule().await, world.rule_of("shop3").await), (None, None));
}
