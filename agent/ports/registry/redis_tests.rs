//! The Redis adapter on a real redis-server: the suite in every profile, and what is Redis' own.

use std::sync::Arc;
use std::time::Duration;

use ::redis::FromRedisValue;
use async_trait::async_trait;

use super::conformance::{OURS, Tells, World, conforms, marker, nobody_answers};
use super::redis::Redis;
use super::*;
use crate::model::{RedisAt, RedisLayout, RedisProfile, RedisServers};
use crate::ports::testing_consul::wait_for;
use crate::ports::testing_redis::{Make, TestCluster, TestRedis};
use crate::ports::{RedisAccess, User};

const PROFILES: [RedisProfile; 5] = [
    RedisProfile::Set,
    RedisProfile::SortedSet { stale_after: Duration::from_secs(30) },
    RedisProfile::Hash,
    RedisProfile::TtlKey,
    RedisProfile::Dubbo,
];
const SORTED_SET: RedisProfile = PROFILES[1];

pub(super) const US: &str = "rpc-order/127.0.0.1:7801";
pub(super) const DRAINS: &str = "unwait:drained";

/// So long that a test sees what is so without it.
pub(super) const NEVER: Duration = Duration::from_secs(3600);
const OFTEN: Duration = Duration::from_millis(20);

pub(super) struct RedisWorld {
    pub redis: TestRedis,
    /// It is the one master of a Cluster.
    cluster: bool,
    profile: RedisProfile,
    pub registry: Redis,
}

fn access(redis: &TestRedis, cluster: bool, user: Option<User>) -> RedisAccess {
    let access = redis.access(user);
    match cluster {
        false => access,
        true => {
            let at = RedisAt::Cluster { nodes: vec![redis.address()] };
            RedisAccess { servers: RedisServers { at, database: 0 }, ..access }
        }
    }
}

fn layout(profile: RedisProfile, hold_every: Duration) -> RedisLayout {
    let key = match profile {
        RedisProfile::TtlKey => "rpc:{service}:{instance}",
        RedisProfile::Dubbo => "/dubbo/{service}/providers",
        _ => "rpc:[v1]:{service}",
    };
    RedisLayout { profile, key: key.into(), hold_every }
}

impl RedisWorld {
    pub async fn new(profile: RedisProfile, hold_every: Duration) -> Self {
        Self::on(TestRedis::start().await, profile, hold_every).await
    }

    async fn on(redis: TestRedis, profile: RedisProfile, hold_every: Duration) -> Self {
        Self::of(redis, false, profile, hold_every).await
    }

    async fn of(redis: TestRedis, cluster: bool, profile: RedisProfile, hold_every: Duration) -> Self {
        let registry = Redis::new("redis", access(&redis, cluster, None), layout(profile, hold_every), "bj1-03");
        let world = Self { redis, cluster, profile, registry };
        for id in [US, "rpc-order/10.0.0.2:7801", "rpc-order/10.0.0.3:7801", "rpc-cart/127.0.0.1:7901"] {
            world.heartbeat(id, 0).await;
        }
        world
    }

    fn another(&self, hold_every: Duration, host: &str, user: Option<User>) -> Redis {
        Redis::new("redis", access(&self.redis, self.cluster, user), layout(self.profile, hold_every), host)
    }

    pub async fn get<T: FromRedisValue>(&self, words: &[&str]) -> T {
        ::redis::from_redis_value(self.redis.ask(words).await).unwrap()
    }

    fn place<'a>(&self, id: &'a str) -> (String, &'a str) {
        let (service, instance) = id.split_once('/').unwrap();
        let key = layout(self.profile, NEVER).key.replace("{service}", service).replace("{instance}", instance);
        (key, instance)
    }

    /// As the service writes its entry, so many seconds ago.
    pub async fn heartbeat(&self, id: &str, ago: u64) {
        let (key, instance) = self.place(id);
        let now: (u64, u64) = self.get(&["TIME"]).await;
        let at = now.0 - ago;
        match self.profile {
            RedisProfile::Set => self.redis.ask(&["SADD", &key, instance]).await,
            RedisProfile::SortedSet { .. } => self.redis.ask(&["ZADD", &key, &at.to_string(), instance]).await,
            RedisProfile::Hash => self.redis.ask(&["HSET", &key, instance, "{\"weight\":3}"]).await,
            RedisProfile::TtlKey => self.redis.ask(&["SET", &key, "up", "PX", "60000"]).await,
            RedisProfile::Dubbo => {
                let ends = ((at + 30) * 1000).to_string();
                self.redis.ask(&["HSET", &key, &provider(id), &ends]).await
            }
        };
    }
}

pub(super) fn provider(id: &str) -> String {
    let (service, instance) = id.split_once('/').unwrap();
    format!("dubbo://{instance}/{service}?application=shop&dubbo=2.0.2&group=blue&version=1.0")
}

#[async_trait(?Send)]
impl World for RedisWorld {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(self.another(OFTEN, "bj1-03", None))
    }

    /// One profile for all: they call in the same way.
    fn silent(&self) -> Option<Arc<dyn Registry>> {
        let url = format!("redis://{}", nobody_answers());
        let access = RedisAccess::by_url(&url, None).unwrap();
        let redis = Redis::new("redis", access, layout(self.profile, NEVER), "bj1-03");
        (self.profile == RedisProfile::Dubbo).then(|| Arc::new(redis) as Arc<dyn Registry>)
    }

    async fn cut(&self) -> Vec<Arc<dyn Registry>> {
        self.redis.ask(&["ACL", "SETUSER", "drains-only", "on", ">hush", "~unwait:*", "+@all"]).await;
        let another = |name| Arc::new(self.another(NEVER, "bj1-03", user(name))) as Arc<dyn Registry>;
        vec![another("drains-only"), another("nobody")]
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
        let health = matches!(self.profile, RedisProfile::SortedSet { .. } | RedisProfile::Dubbo);
        // A member of a set is there or not.
        let renewal = self.profile != RedisProfile::Set;
        Tells { health, isolation: false, deregistration: self.profile == RedisProfile::Dubbo, renewal, ..Tells::ALL }
    }

    async fn finds(&self, id: &str) -> bool {
        let (key, instance) = self.place(id);
        match self.profile {
            RedisProfile::Set => self.get(&["SISMEMBER", &key, instance]).await,
            RedisProfile::SortedSet { .. } => {
                let now: (u64, u64) = self.get(&["TIME"]).await;
                let score: Option<u64> = self.get(&["ZSCORE", &key, instance]).await;
                score.is_some_and(|score| now.0 - score <= 30)
            }
            RedisProfile::Hash => self.get(&["HEXISTS", &key, instance]).await,
            RedisProfile::TtlKey => self.get(&["EXISTS", &key]).await,
            RedisProfile::Dubbo => {
                let now: (u64, u64) = self.get(&["TIME"]).await;
                let ends: Option<u64> = self.get(&["HGET", &key, &provider(id)]).await;
                let overrides: Vec<String> = self.get(&["HKEYS", &key.replace("providers", "configurators")]).await;
                let prefix = format!("override://{instance}/");
                let ours = |url: &String| url.contains("&group=blue") && url.contains("&version=1.0");
                let disabled = |url: &String| url.starts_with(&prefix) && url.contains("disabled=true") && ours(url);
                ends.is_some_and(|ends| ends >= now.0 * 1000) && !overrides.iter().any(disabled)
            }
        }
    }

    async fn set_healthy(&self, id: &str, healthy: bool) {
        self.heartbeat(id, if healthy { 0 } else { 60 }).await;
    }

    async fn isolate(&self, _id: &str, _reason: Option<&str>) {}

    async fn deregister(&self, id: &str) {
        let (key, instance) = self.place(id);
        match self.profile {
            RedisProfile::Set => self.redis.ask(&["SREM", &key, instance]).await,
            RedisProfile::SortedSet { .. } => self.redis.ask(&["ZREM", &key, instance]).await,
            RedisProfile::Hash => self.redis.ask(&["HDEL", &key, instance]).await,
            RedisProfile::TtlKey => self.redis.ask(&["DEL", &key]).await,
            RedisProfile::Dubbo => self.redis.ask(&["HDEL", &key, &provider(id)]).await,
        };
    }

    async fn comes_back(&self, id: &str) {
        self.heartbeat(id, 0).await;
    }

    async fn by_hand(&self, id: &str) {
        let overrides = self.place(id).0.replace("providers", "configurators");
        match self.profile {
            RedisProfile::Dubbo => drop(self.redis.ask(&["DEL", &overrides]).await),
            _ => self.heartbeat(id, 0).await,
        }
    }

    fn looked(&self) -> Duration {
        10 * OFTEN
    }

    async fn renew(&self, id: &str) {
        let (key, instance) = self.place(id);
        match self.profile {
            RedisProfile::Hash => drop(self.redis.ask(&["HSET", &key, instance, "{\"weight\":5}"]).await),
            RedisProfile::TtlKey => drop(self.redis.ask(&["SET", &key, "newer", "PX", "60000"]).await),
            _ => self.heartbeat(id, 7).await,
        }
    }

    async fn record(&self, id: &str) -> String {
        let (key, instance) = self.place(id);
        match self.profile {
            RedisProfile::Set => String::new(),
            RedisProfile::SortedSet { .. } => self.get(&["ZSCORE", &key, instance]).await,
            RedisProfile::Hash => self.get(&["HGET", &key, instance]).await,
            RedisProfile::TtlKey => self.get(&["GET", &key]).await,
            RedisProfile::Dubbo => self.get(&["HGET", &key, &provider(id)]).await,
        }
    }
}

#[tokio::test]
async fn redis_conforms_in_every_profile() {
    for profile in PROFILES {
        eprintln!("{profile:?}");
        conforms(&RedisWorld::new(profile, OFTEN).await).await;
    }
}

/// Of which a script may have the keys of one slot alone.
#[tokio::test]
async fn redis_conforms_in_every_profile_in_a_cluster() {
    for profile in PROFILES {
        eprintln!("{profile:?}");
        let TestCluster { nodes } = TestCluster::start_alone(Make::Valkey).await;
        let redis = nodes.into_iter().next().unwrap();
        conforms(&RedisWorld::of(redis, true, profile, OFTEN).await).await;
    }
}

#[tokio::test]
async fn an_entry_that_a_heartbeat_writes_again_is_taken_out_again_until_it_is_put_back() {
    for profile in PROFILES.into_iter().filter(|profile| *profile != RedisProfile::Dubbo) {
        let world = RedisWorld::new(profile, NEVER).await;
        world.registry.drain(US, &marker("i")).await.unwrap();
        world.heartbeat(US, 0).await;
        assert!(world.finds(US).await, "{profile:?}");
        assert!(world.registry.hold(US, &marker("i")).await.unwrap());
        assert!(!world.finds(US).await, "{profile:?}");
        assert!(!world.registry.hold(US, &marker("i")).await.unwrap());
        assert!(!world.registry.hold(US, &marker("another")).await.unwrap());

        // Nobody asks: the adapter itself looks. One that was started later knows the drain from the list of markers.
        let later = world.another(OFTEN, "bj1-03", None);
        world.heartbeat(US, 0).await;
        assert_eq!(later.markers().await.unwrap(), [FoundMarker { id: US.into(), marker: marker("i") }]);
        wait_for("the heartbeat to be undone", async || !world.finds(US).await).await;

        // Another host's drain is neither listed nor held by this one.
        let elsewhere = world.another(OFTEN, "bj1-04", None);
        assert!(elsewhere.markers().await.unwrap().is_empty());

        assert_eq!(world.registry.restore(US, &marker("i"), &serde_json::Value::Null).await.unwrap(), Restored::Done);
        assert!(world.finds(US).await);
        // The other adapter's task finds the drain gone, and leaves the entry alone.
        tokio::time::sleep(10 * OFTEN).await;
        assert!(world.finds(US).await, "{profile:?}");
        assert!(!world.get::<bool>(&["EXISTS", DRAINS]).await);
    }
}

#[tokio::test]
async fn what_is_put_back_is_exactly_what_was_taken() {
    let null = serde_json::Value::Null;
    for (profile, write, read) in [
        (SORTED_SET, vec!["ZADD", "rpc:[v1]:rpc-order", "1700000000.125", "127.0.0.1:7801"], "ZSCORE"),
        (RedisProfile::Hash, vec!["HSET", "rpc:[v1]:rpc-order", "127.0.0.1:7801", "a\nb\n\n\u{0}c"], "HGET"),
    ] {
        let world = RedisWorld::new(profile, NEVER).await;
        world.redis.ask(&write).await;
        let before: String = world.get(&[read, "rpc:[v1]:rpc-order", "127.0.0.1:7801"]).await;
        world.registry.drain(US, &marker("i")).await.unwrap();
        assert_eq!(world.registry.restore(US, &marker("i"), &null).await.unwrap(), Restored::Done);
        assert_eq!(world.get::<String>(&[read, "rpc:[v1]:rpc-order", "127.0.0.1:7801"]).await, before);
        // The key holds others as well: it had no end, and has none.
        assert_eq!(world.get::<i64>(&["PTTL", "rpc:[v1]:rpc-order"]).await, -1);
    }
    // The only member takes its key along, and the time that the key had left.
    let world = RedisWorld::new(RedisProfile::Set, NEVER).await;
    let cart = "rpc-cart/127.0.0.1:7901";
    world.redis.ask(&["PEXPIRE", "rpc:[v1]:rpc-cart", "500000"]).await;
    world.registry.drain(cart, &marker("i")).await.unwrap();
    world.registry.restore(cart, &marker("i"), &null).await.unwrap();
    let left: i64 = world.get(&["PTTL", "rpc:[v1]:rpc-cart"]).await;
    assert!((400_000..=500_000).contains(&left), "{left}");
    // A key of any type, with the time that it had left; and one without an end has none.
    let world = RedisWorld::new(RedisProfile::TtlKey, NEVER).await;
    let key = "rpc:rpc-order:127.0.0.1:7801";
    for (end, expected) in [(Some("40000"), 30_000..=40_000), (None, -1..=-1)] {
        world.redis.ask(&["DEL", key]).await;
        world.redis.ask(&["HSET", key, "weight", "3"]).await;
        if let Some(end) = end {
            world.redis.ask(&["PEXPIRE", key, end]).await;
        }
        world.registry.drain(US, &marker("i")).await.unwrap();
        assert!(!world.get::<bool>(&["EXISTS", key]).await);
        world.registry.restore(US, &marker("i"), &null).await.unwrap();
        assert_eq!(world.get::<String>(&["HGET", key, "weight"]).await, "3");
        assert!(expected.contains(&world.get::<i64>(&["PTTL", key]).await));
    }
}

/// Redis 7.4 and Valkey 9 know fields with a time to live of their own; servers before them are asked in vain.
#[tokio::test]
async fn a_field_keeps_the_time_that_it_had_left() {
    let world = RedisWorld::on(TestRedis::start_valkey().await, RedisProfile::Hash, OFTEN).await;
    let (key, field, null) = ("rpc:[v1]:rpc-order", "127.0.0.1:7801", serde_json::Value::Null);
    for (left, expected) in [(Some("40000"), 30_000..=40_000), (None, -1..=-1)] {
        world.heartbeat(US, 0).await;
        if let Some(left) = left {
            world.redis.ask(&["HPEXPIRE", key, left, "FIELDS", "1", field]).await;
        }
        world.registry.drain(US, &marker("i")).await.unwrap();
        assert!(!world.finds(US).await);
        assert_eq!(world.registry.restore(US, &marker("i"), &null).await.unwrap(), Restored::Done);
        assert_eq!(world.get::<String>(&["HGET", key, field]).await, "{\"weight\":3}");
        let [of_it] = world.get::<[i64; 1]>(&["HPTTL", key, "FIELDS", "1", field]).await;
        assert!(expected.contains(&of_it), "{of_it}");
    }
    conforms(&world).await;
    // A user that may not ask how long a field has left is told so, and the field stays.
    world.redis.ask(&["ACL", "SETUSER", "short", "on", ">hush", "~*", "+@all", "-hpttl"]).await;
    let refused = world.another(NEVER, "bj1-03", user("short")).drain(US, &marker("i")).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Refused { .. }) && refused.to_string().contains("'hpttl'"), "{refused}");
    assert!(world.finds(US).await);
}

#[tokio::test]
async fn what_is_newer_stays_and_what_was_kept_is_forgotten() {
    let world = RedisWorld::new(RedisProfile::Hash, NEVER).await;
    let (key, null) = ("rpc:[v1]:rpc-order", serde_json::Value::Null);
    world.registry.drain(US, &marker("i")).await.unwrap();
    world.redis.ask(&["HSET", key, "127.0.0.1:7801", "newer"]).await;
    assert_eq!(world.registry.restore(US, &marker("i"), &null).await.unwrap(), Restored::Done);
    assert_eq!(world.get::<String>(&["HGET", key, "127.0.0.1:7801"]).await, "newer");
    assert!(matches!(world.registry.restore(US, &marker("i"), &null).await.unwrap(), Restored::NotOurs(_)));

    // Held meanwhile, what the heartbeat wrote last is what is put back.
    world.registry.drain(US, &marker("j")).await.unwrap();
    world.redis.ask(&["HSET", key, "127.0.0.1:7801", "newest"]).await;
    assert!(world.registry.hold(US, &marker("j")).await.unwrap());
    assert_eq!(world.registry.restore(US, &marker("j"), &null).await.unwrap(), Restored::Done);
    assert_eq!(world.get::<String>(&["HGET", key, "127.0.0.1:7801"]).await, "newest");
}

#[tokio::test]
async fn an_instance_without_a_fresh_heartbeat_is_not_counted_as_healthy() {
    for profile in [SORTED_SET, RedisProfile::Dubbo] {
        let world = RedisWorld::new(profile, NEVER).await;
        world.heartbeat("rpc-order/10.0.0.2:7801", 90).await;
        assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 1, registered: 3 }, "{profile:?}");
        // Drained by another host, it is registered still, and no more healthy.
        let other = Marker { host: "bj1-05".into(), ..marker("there") };
        world.another(NEVER, "bj1-05", None).drain("rpc-order/10.0.0.3:7801", &other).await.unwrap();
        assert_eq!(world.registry.others(US).await.unwrap(), Others { healthy: 0, registered: 3 }, "{profile:?}");
    }
}

fn user(name: &str) -> Option<User> {
    Some(User { name: name.into(), password: "hush".to_owned().into() })
}

#[tokio::test]
async fn an_answer_that_permissions_cut_is_never_absence_and_the_documented_ones_suffice() {
    let mut world = RedisWorld::new(SORTED_SET, OFTEN).await;
    let acl = |name: &'static str, rules: &'static str| {
        let words: Vec<&str> = ["ACL", "SETUSER", name, "on", ">hush"].into_iter().chain(rules.split(' ')).collect();
        words
    };
    let commands =
        "+info +eval +time +scan +hget +hgetall +hset +hdel +exists +pttl +pexpire +zscore +zrange +zadd +zrem";
    world.redis.ask(&acl("short", "~unwait:* +@all")).await;
    world
        .redis
        .ask(&[&acl("full", "~unwait:* ~rpc:*")[..], &commands.split(' ').collect::<Vec<_>>()[..]].concat())
        .await;
    let short = world.another(OFTEN, "bj1-03", user("short"));
    for error in [
        short.observe(US).await.unwrap_err(),
        short.others(US).await.unwrap_err(),
        short.drain(US, &marker("i")).await.unwrap_err(),
        world.another(OFTEN, "bj1-03", user("nobody")).markers().await.unwrap_err(),
    ] {
        assert!(matches!(error, RegistryError::Refused { .. }) && !error.to_string().contains("hush"), "{error}");
    }
    assert!(!format!("{short:?}").contains("hush"));
    world.registry = world.another(OFTEN, "bj1-03", user("full"));
    conforms(&world).await;
}

#[tokio::test]
async fn a_redis_that_is_away_is_worth_trying_again_and_something_else_is_not() {
    let access = RedisAccess::by_url("redis://127.0.0.1:1", None).unwrap();
    let away = Redis::new("redis", access, layout(SORTED_SET, NEVER), "h");
    assert!(away.observe(US).await.unwrap_err().is_passing());
    let world = RedisWorld::new(SORTED_SET, NEVER).await;
    for wrong in ["rpc-order", "/x", "rpc-order/"] {
        assert!(matches!(away.observe(wrong).await, Err(RegistryError::Refused { .. })), "{wrong}");
    }
    world.redis.ask(&["SET", "rpc:[v1]:rpc-odd", "1"]).await;
    let error = world.registry.observe("rpc-odd/127.0.0.1:1").await.unwrap_err();
    assert!(matches!(&error, RegistryError::Refused { detail, .. } if detail.contains("WRONGTYPE")), "{error}");
    world.redis.ask(&["HSET", DRAINS, US, "somebody's note"]).await;
    assert!(matches!(world.registry.observe(US).await, Err(RegistryError::Refused { .. })));
}
