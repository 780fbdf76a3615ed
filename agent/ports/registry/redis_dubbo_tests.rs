//! The Redis adapter's profile of Dubbo on a real redis-server: overrides, whose they are, and what they concern.

use std::time::Duration;

use super::conformance::{World, marker};
use super::redis_tests::{DRAINS, NEVER, RedisWorld, US, provider};
use super::*;
use crate::model::RedisProfile;

#[tokio::test]
async fn dubbos_own_overrides_are_a_persons_and_ours_are_announced() {
    let world = RedisWorld::new(RedisProfile::Dubbo, NEVER).await;
    let configurators = "/dubbo/rpc-order/configurators";
    let theirs = |whom: &str, of: &str| {
        format!("override://{whom}/rpc-order?category=configurators&enabled=true&disabled=true{of}")
    };
    for whom in ["127.0.0.1:7801", "0.0.0.0"] {
        let theirs = theirs(whom, "&version=1.0&group=blue");
        world.redis.ask(&["HSET", configurators, &theirs, "0"]).await;
        let seen = world.registry.observe(US).await.unwrap().traffic;
        assert_eq!(seen, Traffic::Isolated { reason: theirs.clone() });
        assert!(matches!(world.registry.drain(US, &marker("i")).await, Err(RegistryError::Refused { .. })));
        world.redis.ask(&["HDEL", configurators, &theirs]).await;
    }
    // One of another version or group takes nobody of ours out, neither us nor others.
    for (whom, of) in
        [("127.0.0.1:7801", ""), ("10.0.0.2:7801", "&version=2.0&group=blue"), ("0.0.0.0", "&version=1.0")]
    {
        world.redis.ask(&["HSET", configurators, &theirs(whom, of), "0"]).await;
    }
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::Passing);
    assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 2, registered: 3 });
    world.redis.ask(&["DEL", configurators]).await;

    world.registry.drain(US, &marker("i")).await.unwrap();
    let ours = "override://127.0.0.1:7801/rpc-order?category=configurators&dynamic=false&enabled=true&disabled=true\
                &group=blue&version=1.0&unwait=true";
    assert_eq!(world.get::<Vec<String>>(&["HKEYS", configurators]).await, [ours]);
    // An override that somebody takes away is put there again while our drain stands.
    world.redis.ask(&["HDEL", configurators, ours]).await;
    assert!(world.registry.hold(US, &marker("i")).await.unwrap());
    assert!(!world.finds(US).await);
    world.registry.restore(US, &marker("i"), &serde_json::Value::Null).await.unwrap();
    let statistics: String = world.get(&["INFO", "commandstats"]).await;
    assert!(statistics.contains("cmdstat_publish:calls=3"), "{statistics}");
}

#[tokio::test]
async fn each_version_that_a_dubbo_provider_offers_is_disabled_and_given_back() {
    let world = RedisWorld::new(RedisProfile::Dubbo, NEVER).await;
    let (providers, configurators) = ("/dubbo/rpc-order/providers", "/dubbo/rpc-order/configurators");
    let overrides = async || world.get::<Vec<String>>(&["HKEYS", configurators]).await;
    let null = serde_json::Value::Null;
    world.registry.drain(US, &marker("i")).await.unwrap();
    // Released while it was drained: it comes back with another version, and as if it had read its override.
    let next = "dubbo://127.0.0.1:7801/rpc-order?application=shop&version=2.0&disabled=true";
    world.deregister(US).await;
    world.redis.ask(&["HSET", providers, next, "99999999999999"]).await;
    assert!(world.registry.hold(US, &marker("i")).await.unwrap());
    assert!(!world.registry.hold(US, &marker("i")).await.unwrap());
    assert_eq!(overrides().await.len(), 2);
    // What a person disables meanwhile is theirs.
    let theirs = "override://127.0.0.1:7801/rpc-order?category=configurators&disabled=true&version=2.0";
    world.redis.ask(&["HSET", configurators, theirs, "0"]).await;
    assert_eq!(world.registry.restore(US, &marker("i"), &null).await.unwrap(), Restored::Done);
    assert_eq!(overrides().await, [theirs]);
    world.redis.ask(&["DEL", configurators]).await;
    // Until it has read that its override is gone, its own URL takes it out.
    let seen = world.registry.observe(US).await.unwrap().traffic;
    assert_eq!(seen, Traffic::Isolated { reason: next.into() });

    // Who offers no version of ours stands in for nobody.
    world.heartbeat(US, 0).await;
    world.redis.ask(&["HDEL", providers, next]).await;
    world.redis.ask(&["HSET", providers, &next.replace("127.0.0.1", "10.0.0.9"), "99999999999999"]).await;
    assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 2, registered: 3 });

    // A drain of a former version: one override for all that it offers, and the provider's URL kept.
    let bare = "override://127.0.0.1:7801/rpc-order?category=configurators&dynamic=false&enabled=true&disabled=true";
    for held in [false, true] {
        world.redis.ask(&["HSET", configurators, bare, "0"]).await;
        world.redis.ask(&["HSET", DRAINS, US, &format!("{}\n99\n-1\n{}", marker("old"), provider(US))]).await;
        assert_eq!(world.registry.markers().await.unwrap(), [FoundMarker { id: US.into(), marker: marker("old") }]);
        if held {
            assert!(world.registry.hold(US, &marker("old")).await.unwrap());
            assert!(!world.finds(US).await);
        }
        assert_eq!(world.registry.restore(US, &marker("old"), &null).await.unwrap(), Restored::Done);
        assert!(overrides().await.is_empty());
    }
}

#[tokio::test]
async fn a_dubbo_provider_that_is_found_by_its_application_too_is_not_drained() {
    let world = RedisWorld::new(RedisProfile::Dubbo, NEVER).await;
    world.deregister(US).await;
    let both = format!("{}&service-name-mapping=true", provider(US));
    world.redis.ask(&["HSET", "/dubbo/rpc-order/providers", &both, "99999999999999"]).await;
    let refused = world.registry.drain(US, &marker("i")).await.unwrap_err();
    assert!(
        matches!(&refused, RegistryError::Refused { .. }) && refused.to_string().contains("application"),
        "{refused}"
    );
    assert!(!world.get::<bool>(&["EXISTS", "/dubbo/rpc-order/configurators"]).await);
}

/// As Dubbo does it: on word of an override of its own it leaves, and comes back a moment later.
#[tokio::test]
async fn a_dubbo_provider_that_registers_anew_just_then_is_registered() {
    let world = RedisWorld::new(RedisProfile::Dubbo, NEVER).await;
    let null = serde_json::Value::Null;
    world.registry.drain(US, &marker("i")).await.unwrap();
    for drains in [true, false] {
        world.deregister(US).await;
        let back = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            world.comes_back(US).await;
        };
        let done = async {
            match drains {
                true => world.registry.drain(US, &marker("i")).await.map(|()| Restored::Done),
                false => world.registry.restore(US, &marker("i"), &null).await,
            }
        };
        assert_eq!(tokio::join!(done, back).0.unwrap(), Restored::Done);
    }
    assert!(world.finds(US).await);
}
