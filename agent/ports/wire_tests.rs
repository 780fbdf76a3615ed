//! What goes wrong on the wire, with real sockets under the real adapters: nobody listens, a question that is never
//! answered, an answer that never ends, a server's error, a connection that is closed once it was written to. Each call
//! is an error by its deadline.
//!
//! All of them at once: the longest deadline is what it costs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;
use strum::IntoEnumIterator;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::RedisAccess;
use super::fleet::{self, Fleet};
use super::notifier::{Letter, Notifier, generic::Generic, slack::Slack};
use super::probe::{Probe, real::Probes};
use super::registry::{
    Registry, consul::Consul, etcd::Etcd, eureka::Eureka, haproxy::HaProxy, nacos::Nacos, redis::Redis,
    zookeeper::ZooKeeper,
};
use super::tls::TlsContext;
use crate::clock::SystemClock;
use crate::model::plan::{Health, HttpHealth};
use crate::model::{
    EtcdLayout, EventKind, IncidentId, Marker, Message, NacosApi, NacosLayout, RedisLayout, RedisProfile, Tls,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
enum Wire {
    Refused,
    /// Accepts, and never says a word.
    HalfOpen,
    /// A byte a second, and no end.
    Slow,
    ServerError,
    ClosedOnceWrittenTo,
}

/// What the far end speaks, for its errors.
#[derive(Clone, Copy, Debug)]
enum Speaks {
    Http,
    Redis,
    HaProxy,
    ZooKeeper,
}

/// By when every call has ended, and more than the longest deadline of any adapter here (10 s).
const ENDED_BY: Duration = Duration::from_secs(30);

/// A far end, until the runtime ends.
async fn far_end(wire: Wire, speaks: Speaks) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    if wire == Wire::Refused {
        return address;
    }
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, wire, speaks));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, wire: Wire, speaks: Speaks) {
    let mut question = [0; 4096];
    match wire {
        Wire::Refused => unreachable!("nobody listens"),
        Wire::HalfOpen => std::future::pending().await,
        Wire::ClosedOnceWrittenTo => drop(stream.read(&mut question).await),
        Wire::Slow => {
            let _ = stream.read(&mut question).await;
            let begins: &[u8] = match speaks {
                Speaks::Http => b"HTTP/1.1 200 OK\r\nX-Slow: ",
                Speaks::Redis => b"$100000\r\n",
                Speaks::HaProxy => b"1\n",
                // A length.
                Speaks::ZooKeeper => &[0, 0, 1, 0],
            };
            let _ = stream.write_all(begins).await;
            while stream.write_all(b"#").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Wire::ServerError => {
            while stream.read(&mut question).await.is_ok_and(|read| read > 0) {
                let error: &[u8] = match speaks {
                    Speaks::Http => b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
                    Speaks::Redis => b"-LOADING Redis is loading the dataset in memory\r\n",
                    Speaks::HaProxy => b"Internal error\n\n",
                    // A session without time.
                    Speaks::ZooKeeper => &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0],
                };
                if stream.write_all(error).await.is_err() {
                    return;
                }
                if matches!(speaks, Speaks::HaProxy) {
                    return;
                }
            }
        }
    }
}

type Call = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Every call of every adapter that goes over a socket, to this far end.
async fn calls(wire: Wire, dir: &std::path::Path) -> Vec<(String, Call)> {
    let (http, redis) = (far_end(wire, Speaks::Http).await, far_end(wire, Speaks::Redis).await);
    let (haproxy, zookeeper) = (far_end(wire, Speaks::HaProxy).await, far_end(wire, Speaks::ZooKeeper).await);
    let http_url = format!("http://{http}");
    let of_redis = || RedisAccess::by_url(&format!("redis://{redis}"), None).unwrap();
    let mut calls: Vec<(String, Call)> = Vec::new();

    let layout =
        RedisLayout { profile: RedisProfile::Set, key: "rpc:{service}".into(), hold_every: Duration::from_secs(3_600) };
    let keys = EtcdLayout {
        key: "/services/{service}/{instance}".into(),
        override_key: "/overrides/{service}/{instance}".into(),
        value: "{marker}".into(),
    };
    let naming =
        NacosLayout { api: NacosApi::Auto, namespace: None, group: "DEFAULT_GROUP".into(), cluster: "DEFAULT".into() };
    let ledger = |name: &str| PathBuf::from(dir).join(format!("{name}-{wire:?}.json"));
    let servers = vec![zookeeper.to_string()];
    let registries: [(&str, Arc<dyn Registry>); 7] = [
        ("registry/consul", Arc::new(Consul::new("consul", &http_url, None, "bj1-03").unwrap())),
        ("registry/redis", Arc::new(Redis::new("redis", of_redis(), layout, "bj1-03"))),
        ("registry/haproxy", Arc::new(HaProxy::new("haproxy", vec![haproxy.to_string()], ledger("haproxy")))),
        ("registry/etcd", Arc::new(Etcd::new("etcd", std::slice::from_ref(&http_url), None, keys, "bj1-03").unwrap())),
        ("registry/zookeeper", Arc::new(ZooKeeper::new("zookeeper", servers, None, "/dubbo", false, "bj1-03"))),
        (
            "registry/nacos",
            Arc::new(Nacos::new("nacos", std::slice::from_ref(&http_url), None, naming, ledger("nacos")).unwrap()),
        ),
        (
            "registry/eureka",
            Arc::new(Eureka::new("eureka", std::slice::from_ref(&http_url), None, ledger("eureka")).unwrap()),
        ),
    ];
    let marker = || Marker { incident: IncidentId("i-1".into()), host: "bj1-03".into() };
    const ID: &str = "rpc-order/127.0.0.1:7801";
    for (name, registry) in registries {
        let mut add = |what: &str, call: Call| calls.push((format!("{name} {what}"), call));
        let r = registry.clone();
        add("observe", Box::pin(async move { ended(r.observe(ID).await) }));
        let r = registry.clone();
        add("drain", Box::pin(async move { ended(r.drain(ID, &marker()).await) }));
        let r = registry.clone();
        add("restore", Box::pin(async move { ended(r.restore(ID, &marker(), &Value::Null).await) }));
        let r = registry.clone();
        add("others", Box::pin(async move { ended(r.others(ID).await) }));
        // These drains are noted in a ledger of ours; nobody is asked where that is empty.
        if !["registry/haproxy", "registry/nacos", "registry/eureka"].contains(&name) {
            let r = registry.clone();
            add("hold", Box::pin(async move { ended(r.hold(ID, &marker()).await) }));
            add("markers", Box::pin(async move { ended(registry.markers().await) }));
        }
    }

    let clock = || Arc::new(SystemClock);
    let lock = fleet::fleetlock::Lock { group: None, id: "{host}/{service}".into() };
    let fleets: [(&str, Arc<dyn Fleet>); 4] = [
        ("fleet/consul", fleet::consul::consul(std::slice::from_ref(&http_url), None, "bj1-03", clock()).unwrap()),
        ("fleet/etcd", fleet::etcd::etcd(std::slice::from_ref(&http_url), None, "bj1-03", clock()).unwrap()),
        ("fleet/redis", fleet::redis::redis(of_redis(), "bj1-03", clock())),
        ("fleet/fleetlock", Arc::new(fleet::fleetlock::FleetLock::new(&http_url, lock, "bj1-03", clock()).unwrap())),
    ];
    for (name, fleet) in fleets {
        let mut add = |what: &str, call: Call| calls.push((format!("{name} {what}"), call));
        let f = fleet.clone();
        add("acquire", Box::pin(async move { ended(f.acquire("rpc-order", "i-1", 1).await) }));
        let f = fleet.clone();
        add("begin", Box::pin(async move { ended(f.begin("rpc-order", "i-1").await) }));
        add("release", Box::pin(async move { ended(fleet.release("rpc-order", "i-1").await) }));
    }

    let via = TlsContext::plain("a test").into();
    let secret = |text: String| SecretString::from(text);
    let key = secret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into());
    let notifiers: [(&str, Arc<dyn Notifier>); 2] = [
        ("notifier/slack", Arc::new(Slack::new(secret(http_url.clone()), &via).unwrap())),
        ("notifier/generic", Arc::new(Generic::new(secret(http_url.clone()), &via, Some(key), clock()).unwrap())),
    ];
    for (name, notifier) in notifiers {
        calls.push((name.into(), Box::pin(async move { ended(notifier.deliver(Letter::new("1", &message())).await) })));
    }

    for (name, health) in [
        ("http", Health::Http(HttpHealth { url: http_url, tls: Tls::default() })),
        ("redis_ping", Health::RedisPing(redis)),
    ] {
        let asked = async move { ended(Probes::default().ask(&health, Duration::from_secs(5)).await) };
        calls.push((format!("probe/{name}"), Box::pin(asked)));
    }
    calls
}

fn ended<T, E: ToString>(answer: Result<T, E>) -> Result<(), String> {
    answer.map(drop).map_err(|error| error.to_string())
}

fn message() -> Message {
    Message::new(EventKind::Test, "bj1-03", jiff::Timestamp::UNIX_EPOCH, "is anybody there?")
}

#[test]
fn whatever_goes_wrong_on_the_wire_each_call_is_an_error_by_its_deadline() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let mut all = JoinSet::new();
        for wire in Wire::iter() {
            for (what, call) in calls(wire, dir.path()).await {
                all.spawn(async move { (wire, what, tokio::time::timeout(ENDED_BY, call).await) });
            }
        }
        let count = all.len();
        let mut wrong = Vec::new();
        while let Some(ended) = all.join_next().await {
            match ended.unwrap() {
                (_, _, Ok(Err(error))) if !error.is_empty() => {}
                (wire, what, ended) => wrong.push(format!("{what}, {wire:?}: {ended:?}")),
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        println!("{count} calls over a broken wire");
        assert!(count > 150, "{count}");
    });
}
