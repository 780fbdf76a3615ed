//! Drains and restores that a failover loses, on real Redis and Valkey with sentinels.

use std::time::Duration;

use super::conformance::marker;
use super::redis::Redis;
use super::redis_tests::{DRAINS, NEVER, US};
use super::*;
use crate::model::{RedisLayout, RedisProfile};
use crate::ports::testing_consul::wait_for;
use crate::ports::testing_redis::{Goes, Make, TestCluster, TestRedis, TestSentinels};

const KEY: &str = "rpc:rpc-order";
const INSTANCE: &str = "127.0.0.1:7801";
const OFTEN: Duration = Duration::from_millis(50);

fn registry(set_up: &TestSentinels, hold_every: Duration) -> Redis {
    let layout = RedisLayout { profile: RedisProfile::Hash, key: "rpc:{service}".into(), hold_every };
    Redis::new("redis", set_up.access(), layout, "bj1-03")
}

async fn is_in(master: &TestRedis) -> bool {
    master.field(KEY, INSTANCE).await.is_some()
}

/// The next failover loses the drain.
const NEVER_DRAINED: &str = "redis.call('DEL', 'unwait:drained') redis.call('HSET', KEYS[1], '127.0.0.1:7801', 'up')";

#[tokio::test]
async fn a_drain_that_a_failover_lost_is_made_again_by_its_holder_and_by_the_saga() {
    for (make, how, hold_every) in [(Make::Redis, Goes::Killed, OFTEN), (Make::Valkey, Goes::Paused, NEVER)] {
        let set_up = TestSentinels::start(make).await;
        set_up.master().await.ask(&["HSET", KEY, INSTANCE, "up"]).await;
        let redis = registry(&set_up, hold_every);
        redis.drain(US, &marker("i")).await.unwrap();
        set_up.replicas_lack(NEVER_DRAINED, KEY).await;
        let former = set_up.go(how).await;
        let master = set_up.replaced(former).await;
        if hold_every == NEVER {
            assert!(is_in(master).await);
            assert!(redis.hold(US, &marker("i")).await.unwrap(), "{make:?}");
        }
        wait_for("the drain to be made again", async || !is_in(master).await).await;
        assert!(!redis.hold(US, &marker("i")).await.unwrap());
        assert_eq!(redis.markers().await.unwrap(), [FoundMarker { id: US.into(), marker: marker("i") }]);
        // With the same master a marker that is gone is a person's word.
        master.ask(&["EVAL", NEVER_DRAINED, "1", KEY]).await;
        if hold_every == OFTEN {
            tokio::time::sleep(10 * OFTEN).await;
            assert!(is_in(master).await);
        }
    }
}

#[tokio::test]
async fn a_restore_that_a_failover_lost_is_made_again_and_a_new_drain_is_not_taken_for_one() {
    for (make, how) in [(Make::Redis, Goes::Planned), (Make::Valkey, Goes::Killed)] {
        let set_up = TestSentinels::start(make).await;
        set_up.master().await.ask(&["HSET", KEY, INSTANCE, "up"]).await;
        let redis = registry(&set_up, NEVER);
        redis.drain(US, &marker("i")).await.unwrap();
        let drain = set_up.master().await.field(DRAINS, US).await.unwrap();
        let null = serde_json::Value::Null;
        assert_eq!(redis.restore(US, &marker("i"), &null).await.unwrap(), Restored::Done);
        let drained =
            format!("redis.call('HDEL', KEYS[1], '{INSTANCE}') redis.call('HSET', '{DRAINS}', '{US}', [[{drain}]])");
        set_up.replicas_lack(&drained, KEY).await;
        let former = set_up.go(how).await;
        let master = set_up.replaced(former).await;
        wait_for("the restore to be made again", async || is_in(master).await).await;
        assert!(master.field(DRAINS, US).await.is_none());

        // The same incident takes it out once more: that stays.
        redis.drain(US, &marker("i")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert!(!is_in(master).await, "{make:?}");
    }
}

/// Met before the restart, and not by the restore behind it.
#[tokio::test]
async fn a_redis_that_takes_no_writes_any_more_is_met_while_a_drain_is_held() {
    let redis = TestRedis::start().await;
    redis.ask(&["HSET", KEY, INSTANCE, "up"]).await;
    let layout = RedisLayout { profile: RedisProfile::Hash, key: "rpc:{service}".into(), hold_every: NEVER };
    let registry = Redis::new("redis", redis.access(None), layout, "bj1-03");
    registry.drain(US, &marker("i")).await.unwrap();
    assert!(registry.takes_writes(US, &marker("i")).await.unwrap());
    redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let error = registry.takes_writes(US, &marker("i")).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("NOREPLICAS"), "{error}");
    redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    redis.ask(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = registry.takes_writes(US, &marker("i")).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("the server is a replica of 127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn a_drain_that_a_clusters_failover_lost_is_made_again() {
    for make in [Make::Redis, Make::Valkey] {
        let cluster = TestCluster::start_with_replicas(make).await;
        let (_, at) = cluster.at(KEY).await;
        let (master, replica) = (&cluster.nodes[at], &cluster.nodes[at + 3]);
        master.ask(&["HSET", KEY, INSTANCE, "up"]).await;
        wait_for("the replica to have it", async || replica.says(&["INFO", "keyspace"]).await.contains("keys=1,"))
            .await;
        let layout = RedisLayout { profile: RedisProfile::Hash, key: "rpc:{service}".into(), hold_every: NEVER };
        let registry = Redis::new("redis", cluster.access_by_all(), layout, "bj1-03");
        // It never hears of the drain, also by what is on its way, and takes its master's place.
        replica.signal(nix::sys::signal::Signal::SIGSTOP);
        master.ask(&["CLIENT", "KILL", "TYPE", "REPLICA"]).await;
        registry.drain(US, &marker("i")).await.unwrap();
        master.signal(nix::sys::signal::Signal::SIGKILL);
        replica.signal(nix::sys::signal::Signal::SIGCONT);
        cluster.goes(at, Goes::Killed).await;
        assert!(is_in(replica).await);
        assert!(registry.hold(US, &marker("i")).await.unwrap(), "{make:?}");
        assert!(!is_in(replica).await && registry.takes_writes(US, &marker("i")).await.unwrap());
        let null = serde_json::Value::Null;
        assert_eq!(registry.restore(US, &marker("i"), &null).await.unwrap(), Restored::Done);
        assert!(is_in(replica).await);
    }
}

/// It accepts, and never answers; what it had is its replica's, and what it is left with when it comes back is the same.
#[tokio::test]
async fn a_drain_is_taken_back_once_the_node_of_a_cluster_that_hangs_is_replaced() {
    for make in [Make::Redis, Make::Valkey] {
        let cluster = TestCluster::start_with_replicas(make).await;
        let (_, at) = cluster.at(KEY).await;
        let (master, replica) = (&cluster.nodes[at], &cluster.nodes[at + 3]);
        master.ask(&["HSET", KEY, INSTANCE, "up"]).await;
        let layout = RedisLayout { profile: RedisProfile::Hash, key: "rpc:{service}".into(), hold_every: NEVER };
        let registry = Redis::new("redis", cluster.access_by_all(), layout, "bj1-03");
        registry.drain(US, &marker("i")).await.unwrap();
        let drained = format!("unwait:drained:{{{KEY}}}");

        master.signal(nix::sys::signal::Signal::SIGSTOP);
        let null = serde_json::Value::Null;
        wait_for("the restore, as a saga tries it again", async || {
            match registry.restore(US, &marker("i"), &null).await {
                Ok(restored) => {
                    assert_eq!(restored, Restored::Done, "{make:?}");
                    true
                }
                Err(error) => {
                    assert!(error.is_passing(), "{make:?}: {error}");
                    false
                }
            }
        })
        .await;
        let is_right = async |node: &TestRedis| is_in(node).await && node.field(&drained, US).await.is_none();
        assert!(is_right(replica).await, "{make:?}");
        // The next drain, by the same registry, and its end.
        registry.drain(US, &marker("j")).await.unwrap();
        assert!(!is_in(replica).await && !registry.hold(US, &marker("j")).await.unwrap());
        assert_eq!(registry.restore(US, &marker("j"), &null).await.unwrap(), Restored::Done);

        master.signal(nix::sys::signal::Signal::SIGCONT);
        wait_for("the former master to follow", async || {
            let says = master.says(&["INFO", "replication"]).await;
            says.contains(&format!("master_port:{}", replica.port)) && says.contains("master_link_status:up")
        })
        .await;
        assert!(is_right(replica).await, "{make:?}");
        assert_eq!(registry.markers().await.unwrap(), []);
    }
}
