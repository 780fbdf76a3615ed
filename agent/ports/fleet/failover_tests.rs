//! Slots over failovers of real Redis and Valkey, a master killed, paused or replaced as planned: never two hosts at work, and
//! nothing stays held.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::ports::testing_consul::wait_for;
use crate::ports::testing_redis::{Goes, Make, TestCluster, TestRedis, TestSentinels};

const SERVICE: &str = "rpc-order";

fn host(set_up: &TestSentinels, name: &str) -> Arc<dyn Fleet> {
    redis::redis(set_up.access(), name, Arc::new(SystemClock))
}

fn needed(incident: &str) -> [(String, String); 1] {
    [(SERVICE.into(), incident.into())]
}

async fn holders(fleet: &dyn Fleet) -> Vec<String> {
    fleet.holders(SERVICE).await.unwrap().into_iter().map(|slot| slot.incident).collect()
}

/// The next failover loses the slots.
async fn lose_the_slots(set_up: &TestSentinels) {
    set_up.replicas_lack("redis.call('DEL', KEYS[1])", "unwait:slots").await;
}

#[tokio::test]
async fn a_slot_that_a_failover_lost_is_written_again_and_nobody_gets_one_meanwhile() {
    let set_up = TestSentinels::start(Make::Redis).await;
    let (a, b) = (host(&set_up, "a"), host(&set_up, "b"));
    // The first that anybody sees of this Redis: what others hold may have been lost with the one before it.
    assert!(
        matches!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::NotYet(why) if why.contains("given again in 1m"))
    );
    set_up.master().await.known_for_long().await;
    assert!(matches!(a.acquire(SERVICE, "ia", 1).await.unwrap(), Acquired::Yes { .. }));
    a.begin(SERVICE, "ia").await.unwrap();
    a.drained(SERVICE, "ia").await.unwrap();

    lose_the_slots(&set_up).await;
    let former = set_up.go(Goes::Killed).await;
    let master = set_up.replaced(former).await;
    assert!(matches!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::NotYet(_)));
    assert!(matches!(b.begin(SERVICE, "ib").await.unwrap_err(), FleetError::Lost(_)));
    assert_eq!(a.keep(&needed("ia")).await.unwrap(), []);
    assert_eq!(a.holders(SERVICE).await.unwrap()[0].phase, Phase::Drained);
    master.known_for_long().await;
    assert!(
        matches!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::No { held, .. } if held[0].incident == "ia")
    );

    // The agent was started anew meanwhile, and knows of its slot by what it finds. Asked to go on, it need not wait.
    let a = host(&set_up, "a");
    a.keep(&needed("ia")).await.unwrap();
    let other = set_up.servers.iter().find(|server| server.port != former.port && server.port != master.port).unwrap();
    wait_for("the other replica to follow", async || {
        let says = other.says(&["INFO", "replication"]).await;
        says.contains(&format!("master_port:{}", master.port)) && says.contains("master_link_status:up")
    })
    .await;
    lose_the_slots(&set_up).await;
    set_up.go(Goes::Killed).await;
    set_up.replaced(master).await;
    a.begin(SERVICE, "ia").await.unwrap();
    assert_eq!(holders(&*b).await, ["ia"]);

    // What a person gave away with the same master stays given away.
    set_up.master().await.known_for_long().await;
    b.release_host(SERVICE, "a").await.unwrap();
    a.keep(&needed("ia")).await.unwrap();
    assert!(matches!(a.begin(SERVICE, "ia").await.unwrap_err(), FleetError::Lost(_)));
    assert!(matches!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::Yes { .. }));
}

#[tokio::test]
async fn a_slot_that_was_given_back_and_stands_again_is_found_by_its_host() {
    let set_up = TestSentinels::start(Make::Valkey).await;
    let (a, b) = (host(&set_up, "a"), host(&set_up, "b"));
    set_up.master().await.known_for_long().await;
    a.acquire(SERVICE, "ia", 1).await.unwrap();
    a.begin(SERVICE, "ia").await.unwrap();
    assert_eq!(a.keep(&needed("ia")).await.unwrap(), []);
    let document = set_up.master().await.field("unwait:slots", SERVICE).await.unwrap();
    a.release(SERVICE, "ia").await.unwrap();

    let stands = format!("redis.call('HSET', KEYS[1], '{SERVICE}', '{document}')");
    set_up.replicas_lack(&stands, "unwait:slots").await;
    let former = set_up.go(Goes::Planned).await;
    set_up.replaced(former).await;
    let strays = a.keep(&[]).await.unwrap();
    assert_eq!(
        strays.iter().map(|(service, slot)| (service.as_str(), slot.incident.as_str())).collect::<Vec<_>>(),
        [(SERVICE, "ia")]
    );
    assert_eq!(b.keep(&[]).await.unwrap(), [], "it is not b's");
    a.release(SERVICE, "ia").await.unwrap();
    assert!(holders(&*b).await.is_empty());
    assert_eq!(a.keep(&[]).await.unwrap(), []);
}

/// A write that no replica has is no slot, although the master says OK and shows it.
#[tokio::test]
async fn a_slot_that_no_replica_has_is_not_taken() {
    let set_up = TestSentinels::start(Make::Redis).await;
    let a = host(&set_up, "a");
    set_up.master().await.known_for_long().await;
    for replica in &set_up.servers[1..] {
        replica.signal(nix::sys::signal::Signal::SIGSTOP);
    }
    let error = a.acquire(SERVICE, "ia", 1).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("none of its replicas has"), "{error}");
    set_up.servers[1].signal(nix::sys::signal::Signal::SIGCONT);
    assert!(matches!(a.acquire(SERVICE, "ia", 1).await.unwrap(), Acquired::Yes { .. }));
}

/// For so long hosts are to wait after a failover here, in place of 70 s.
const SHORTLY: &str = "
local now = redis.call('TIME')[1] * 1000
local since = tonumber(redis.call('HGET', KEYS[1], 'since'))
if since and now - since > 8000 then redis.call('HSET', KEYS[1], 'since', 1) end
";

/// Works through one turn after the other, and keeps what it has begun, as an agent does.
async fn works(fleet: &dyn Fleet, host: &str, at_work: &Cell<u32>, turns: &Cell<u32>, stop: &Cell<bool>) {
    let needs: Cell<Option<String>> = Cell::new(None);
    let current = Cell::new(0);
    let working = async {
        for nth in 0.. {
            current.set(nth);
            let incident = format!("{host}-{nth}");
            loop {
                if stop.get() {
                    return;
                }
                let acquired = fleet.acquire(SERVICE, &incident, 1).await;
                let is_yes = matches!(acquired, Ok(Acquired::Yes { .. }));
                if is_yes && fleet.begin(SERVICE, &incident).await.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            needs.set(Some(incident.clone()));
            at_work.set(at_work.get() + 1);
            assert_eq!(at_work.get(), 1, "two at work");
            tokio::time::sleep(Duration::from_millis(300)).await;
            let _ = fleet.drained(SERVICE, &incident).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            at_work.set(at_work.get() - 1);
            turns.set(turns.get() + 1);
            needs.set(None);
            while fleet.release(SERVICE, &incident).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // The other asks meanwhile.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };
    let keeping = async {
        while !stop.get() {
            let incident = needs.take();
            needs.set(incident.clone());
            let needed: Vec<_> = incident.iter().map(|incident| (SERVICE.to_owned(), incident.clone())).collect();
            if let Ok(strays) = fleet.keep(&needed).await {
                let is_over = |slot: &Slot| slot.incident != format!("{host}-{}", current.get());
                for (service, slot) in strays.into_iter().filter(|(_, slot)| is_over(slot)) {
                    let _ = fleet.release(&service, &slot.incident).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::join!(working, keeping);
}

async fn never_two_at_work(make: Make) {
    tokio::join!(over(make, Goes::Killed), over(make, Goes::Paused), over(make, Goes::Planned));
}

async fn over(make: Make, how: Goes) {
    let set_up = TestSentinels::start(make).await;
    set_up.master().await.known_for_long().await;
    let hosts = ["a", "b"].map(|name| host(&set_up, name));
    let goes = async || {
        let former = set_up.go(how).await;
        let master = set_up.replaced(former).await;
        if matches!(how, Goes::Paused) {
            former.signal(nix::sys::signal::Signal::SIGCONT);
        }
        master
    };
    both_get_their_turns(hosts, goes, &format!("{make:?} {how:?}")).await;
}

/// The same in a Cluster, where the slots lie at the first of its masters.
async fn over_in_a_cluster(make: Make, how: Goes) {
    let cluster = TestCluster::start_with_replicas(make).await;
    cluster.nodes[0].known_for_long().await;
    let hosts = ["a", "b"].map(|name| redis::redis(cluster.access_by_all(), name, Arc::new(SystemClock)));
    let goes = async || {
        cluster.goes(0, how).await;
        if matches!(how, Goes::Paused) {
            cluster.nodes[0].signal(nix::sys::signal::Signal::SIGCONT);
        }
        &cluster.nodes[3]
    };
    both_get_their_turns(hosts, goes, &format!("{make:?} {how:?} in a Cluster")).await;
}

/// Before the master goes, and after; `goes` says who follows it.
async fn both_get_their_turns<'a>(hosts: [Arc<dyn Fleet>; 2], goes: impl AsyncFnOnce() -> &'a TestRedis, story: &str) {
    let [a, b] = hosts;
    let (at_work, stop) = (Cell::new(0), Cell::new(false));
    let turns = [Cell::new(0), Cell::new(0)];
    let both_have = async |count: u32| {
        while turns.iter().any(|turns| turns.get() < count) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let played = async {
        both_have(2).await;
        let master = goes().await;
        let before = turns.clone();
        let in_time = async {
            while turns.iter().zip(&before).any(|(turns, before)| turns.get() < before.get() + 2) {
                let _ = master.try_ask(&["EVAL", SHORTLY, "1", "unwait:line:{unwait:slots}"]).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(120), in_time).await;
        assert!(ended.is_ok(), "{story}: {turns:?}");
        stop.set(true);
    };
    tokio::join!(played, works(&*a, "a", &at_work, &turns[0], &stop), works(&*b, "b", &at_work, &turns[1], &stop));
    assert!(holders(&*a).await.is_empty(), "{story}");
}

#[tokio::test]
async fn over_failovers_of_redis_never_two_are_at_work_and_both_get_their_turns() {
    never_two_at_work(Make::Redis).await;
}

#[tokio::test]
async fn over_failovers_of_valkey_never_two_are_at_work_and_both_get_their_turns() {
    never_two_at_work(Make::Valkey).await;
}

#[tokio::test]
async fn over_failovers_in_a_cluster_never_two_are_at_work_and_both_get_their_turns() {
    tokio::join!(
        over_in_a_cluster(Make::Redis, Goes::Planned),
        over_in_a_cluster(Make::Valkey, Goes::Paused),
        over_in_a_cluster(Make::Redis, Goes::Killed)
    );
}

#[tokio::test]
async fn slots_lie_in_a_cluster_and_stay_held_while_they_move() {
    let cluster = TestCluster::start(Make::Redis).await;
    let [a, b] = ["a", "b"].map(|name| redis::redis(cluster.access(), name, Arc::new(SystemClock)));
    assert!(matches!(a.acquire(SERVICE, "ia", 1).await.unwrap(), Acquired::NotYet(_)));
    let slot: u16 =
        ::redis::from_redis_value(cluster.nodes[0].ask(&["CLUSTER", "KEYSLOT", "unwait:slots"]).await).unwrap();
    cluster.nodes[0].known_for_long().await;
    assert!(matches!(a.acquire(SERVICE, "ia", 1).await.unwrap(), Acquired::Yes { .. }));
    a.begin(SERVICE, "ia").await.unwrap();
    cluster
        .move_slot(slot, [0, 1], async {
            a.begin(SERVICE, "ia").await.unwrap();
            assert!(matches!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::No { .. }));
            b.publish_breach(SERVICE, SystemClock.now() + Duration::from_secs(60)).await.unwrap();
        })
        .await;
    assert_eq!(a.keep(&needed("ia")).await.unwrap(), []);
    assert_eq!(holders(&*b).await, ["ia"]);
    a.release(SERVICE, "ia").await.unwrap();
    assert!(matches!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::NotYet(_)));
    cluster.nodes[1].known_for_long().await;
    assert!(matches!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::Yes { .. }));
    assert_eq!(b.breaches(SERVICE).await.unwrap(), ["b"]);
    assert!(b.server().await.unwrap().is_some_and(|name| name.starts_with("Redis ")));
}
