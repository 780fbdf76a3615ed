//! The real stores.

use std::sync::Arc;

use async_trait::async_trait;

use super::cable::Cable;
use super::{World, conforms};
use crate::clock::{ManualClock, SystemClock};
use crate::ports::fleet::{Fleet, FleetError, User, consul, etcd, redis};
use crate::ports::testing_consul::TestConsul;
use crate::ports::testing_etcd::{Release, TestEtcd};
use crate::ports::testing_redis::TestRedis;
use crate::ports::{Login, RedisAccess, Secret};

/// How a host reaches the store at an address, and how another hand does, past the cable.
#[async_trait(?Send)]
trait Store {
    fn fleet(at: &str, name: &str, clock: Arc<ManualClock>) -> Arc<dyn Fleet>;
    async fn put(&self, service: &str, text: &str);
    async fn get(&self, service: &str) -> Option<String>;
}

#[async_trait(?Send)]
impl Store for TestConsul {
    fn fleet(at: &str, name: &str, clock: Arc<ManualClock>) -> Arc<dyn Fleet> {
        consul::consul(&[format!("http://{at}")], None, name, clock).unwrap()
    }

    async fn put(&self, service: &str, text: &str) {
        self.put(&format!("/v1/kv/unwait/slots/{service}"), text.to_owned()).await;
    }

    async fn get(&self, service: &str) -> Option<String> {
        let answer = reqwest::get(format!("{}/v1/kv/unwait/slots/{service}?raw", self.url)).await.unwrap();
        Some(answer.error_for_status().ok()?.text().await.unwrap())
    }
}

#[async_trait(?Send)]
impl Store for TestEtcd {
    fn fleet(at: &str, name: &str, clock: Arc<ManualClock>) -> Arc<dyn Fleet> {
        etcd::etcd(&[format!("http://{at}")], None, name, clock).unwrap()
    }

    async fn put(&self, service: &str, text: &str) {
        self.put(&format!("unwait/slots/{service}"), text).await;
    }

    async fn get(&self, service: &str) -> Option<String> {
        self.get(&format!("unwait/slots/{service}")).await
    }
}

#[async_trait(?Send)]
impl Store for TestRedis {
    fn fleet(at: &str, name: &str, clock: Arc<ManualClock>) -> Arc<dyn Fleet> {
        redis::redis(RedisAccess::by_url(&format!("redis://{at}"), None).unwrap(), name, clock)
    }

    async fn put(&self, service: &str, text: &str) {
        self.ask(&["HSET", "unwait:slots", service, &format!("7 {text}")]).await;
    }

    async fn get(&self, service: &str) -> Option<String> {
        Some(self.field("unwait:slots", service).await?.split_once(' ').unwrap().1.to_owned())
    }
}

struct Wired<S> {
    store: S,
    cable: Cable,
}

impl<S: Store> Wired<S> {
    async fn new(store: S, url: &str, write: &'static str) -> Self {
        let (_, address) = url.split_once("//").unwrap();
        Self { store, cable: Cable::to(address.parse().unwrap(), write).await }
    }
}

#[async_trait(?Send)]
impl<S: Store> World for Wired<S> {
    fn host(&self, name: &str, clock: &Arc<ManualClock>) -> Arc<dyn Fleet> {
        S::fleet(&self.cable.address.to_string(), name, clock.clone())
    }

    async fn put(&self, service: &str, text: &str) {
        self.store.put(service, text).await;
    }

    async fn get(&self, service: &str) -> Option<String> {
        self.store.get(service).await
    }

    fn lose_answers(&self, writes: u32) {
        self.cable.lose_answers(writes);
    }

    fn lose_requests(&self, writes: u32) {
        self.cable.lose_requests(writes);
    }

    fn set_silent(&self, silent: bool) {
        self.cable.set_silent(silent);
    }
}

#[tokio::test]
async fn consul_conforms() {
    let consul = TestConsul::start().await;
    let url = consul.url.clone();
    conforms(&Wired::new(consul, &url, "PUT /v1/kv/").await).await;
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
    let etcd = TestEtcd::start(release).await;
    let url = etcd.url.clone();
    conforms(&Wired::new(etcd, &url, "POST /v3/kv/txn").await).await;
}

#[tokio::test]
async fn redis_conforms() {
    let redis = TestRedis::start().await;
    redis.known_for_long().await;
    let url = redis.url.clone();
    conforms(&Wired::new(redis, &url, "EVAL").await).await;
}

pub fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock)
}

pub fn user(name: &str, password: &str) -> Option<User> {
    Some(User { name: name.into(), password: password.to_owned().into() })
}

/// A store that refuses us says so, and the error holds no secret.
pub async fn refuses(fleet: &dyn Fleet, words: &str, secret: &str) {
    for error in [
        fleet.acquire("rpc-order", "ia", 1).await.unwrap_err(),
        fleet.services().await.unwrap_err(),
        fleet.publish_breach("rpc-order", jiff::Timestamp::MAX).await.unwrap_err(),
    ] {
        assert!(matches!(error, FleetError::Refused(_)), "{error:?}");
        let says = error.to_string();
        assert!(says.contains(words) && !says.contains(secret), "{says}");
    }
}

#[tokio::test]
async fn a_consul_token_that_may_not_is_refused() {
    let consul = TestConsul::start_with_acl().await;
    let cut = consul.token(r#"key_prefix "other/" { policy = "write" }"#).await;
    let as_whom = |token: &str| {
        consul::consul(std::slice::from_ref(&consul.url), Some(token.to_owned().into()), "a", clock()).unwrap()
    };
    let fleet = as_whom(&cut);
    for error in [fleet.acquire("rpc-order", "ia", 1).await.unwrap_err(), fleet.holders("rpc-order").await.unwrap_err()]
    {
        assert!(error.to_string().contains("permission") && !error.to_string().contains(&cut), "{error}");
    }
    let enough = consul.token(r#"key_prefix "unwait/" { policy = "write" }"#).await;
    as_whom(&enough).acquire("rpc-order", "ia", 1).await.unwrap();
    assert_eq!(as_whom(&enough).services().await.unwrap(), ["rpc-order"]);
}

#[tokio::test]
async fn redis_with_access_control_takes_the_user_who_may_and_no_other() {
    let store = TestRedis::start().await;
    store.known_for_long().await;
    let may = "~unwait:* +info +wait +time +eval +hget +hgetall +hset +hdel +hincrby";
    let rules = |rules: &str| rules.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let set_user = async |user: &str, said: &str| {
        let words = [vec!["ACL".to_owned(), "SETUSER".into(), user.into()], rules(said)].concat();
        store.ask(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    };
    set_user("unwait", &format!("on >hush-hush {may}")).await;
    set_user("blind", "on >hush-hush ~other:* +@all").await;
    let as_whom = |user| redis::redis(store.access(user), "a", clock());
    let fleet = as_whom(user("unwait", "hush-hush"));
    fleet.acquire("rpc-order", "ia", 1).await.unwrap();
    fleet.begin("rpc-order", "ia").await.unwrap();
    fleet.publish_breach("rpc-order", jiff::Timestamp::MAX).await.unwrap();
    fleet.publish_breach("rpc-order", jiff::Timestamp::MIN).await.unwrap();
    assert_eq!(fleet.services().await.unwrap(), ["rpc-order"]);
    refuses(&*as_whom(user("unwait", "wrong-word")), "Password authentication failed", "wrong-word").await;
    refuses(&*as_whom(user("blind", "hush-hush")), "NOPERM", "hush-hush").await;
    set_user("default", "resetpass >secret-of-all").await;
    refuses(&*as_whom(None), "NOAUTH", "secret-of-all").await;
    as_whom(user("", "secret-of-all")).holders("rpc-order").await.unwrap();
}

/// A token, and a password, that are changed while the agent runs: first in the store, then in the file.
#[tokio::test]
async fn a_secret_that_its_store_refuses_is_read_again_from_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, secret: &str| {
        let path = dir.path().join(name);
        crate::trust::write_secret(&path, &format!("{secret}\n"));
        path
    };
    let consul = TestConsul::start_with_acl().await;
    let cut = consul.token(r#"key_prefix "other/" { policy = "write" }"#).await;
    let token = Secret::in_file(file("token", &cut)).unwrap();
    let of_consul = consul::consul(std::slice::from_ref(&consul.url), Some(token), "a", clock()).unwrap();

    let redis = TestRedis::start().await;
    redis.known_for_long().await;
    let set_password = async |word: &str| {
        let rule = format!(">{word}");
        redis.ask(&["ACL", "SETUSER", "unwait", "on", "resetpass", &rule, "~unwait:*", "+@all"]).await;
    };
    set_password("new-word").await;
    let password = Secret::in_file(file("password", "old-word")).unwrap();
    let of_redis = Some(User { name: "unwait".into(), password });
    let of_redis = redis::redis(redis.access(of_redis), "a", clock());
    for fleet in [&of_consul, &of_redis] {
        assert!(matches!(fleet.acquire("rpc-order", "ia", 1).await.unwrap_err(), FleetError::Refused(_)));
    }

    file("token", &consul.token(r#"key_prefix "unwait/" { policy = "write" }"#).await);
    file("password", "new-word");
    for fleet in [of_consul, of_redis] {
        fleet.acquire("rpc-order", "ia", 1).await.unwrap();
        fleet.begin("rpc-order", "ia").await.unwrap();
        fleet.release("rpc-order", "ia").await.unwrap();
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_is_an_error_without_the_secret() {
    let fleets = [
        consul::consul("http://127.0.0.1:1", Some("hush-hush".to_owned().into()), "a", clock()).unwrap(),
        etcd::etcd("http://127.0.0.1:1", user("unwait", "hush-hush").map(Login::new), "a", clock()).unwrap(),
        redis::redis(RedisAccess::by_url("redis://127.0.0.1:1", user("unwait", "hush-hush")).unwrap(), "a", clock()),
    ];
    for fleet in fleets {
        let error = fleet.acquire("rpc-order", "ia", 1).await.unwrap_err();
        assert!(error.is_passing() && error.to_string().contains("refused"), "{error}");
        assert!(!format!("{error:?}").contains("hush"));
    }
}
