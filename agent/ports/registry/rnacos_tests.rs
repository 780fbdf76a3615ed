//! The Nacos adapter on a real r-nacos, which no package has: `tests/run --releases` builds it, and plays these.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::conformance::{OURS, Tells, World, conforms, marker, nobody_answers};
use super::nacos::Nacos;
use super::nacos_tests::{NEVER, NULL, NacosWorld, OFTEN, US, layout, user};
use super::*;
use crate::model::NacosApi;
use crate::ports::installed::installed;
use crate::ports::testing_consul::{free_ports, wait_for};

const ALL: [&str; 4] = [US, "rpc-order/10.0.0.2:7801", "rpc-order/10.0.0.3:7801", "rpc-cart/127.0.0.1:7901"];
const PASSWORD: &str = "hush-hush";

/// A server, and what has registered by HTTP and lives: its heartbeat goes on.
struct RNacos {
    child: Child,
    url: String,
    state: tempfile::TempDir,
    registry: Nacos,
    client: reqwest::Client,
    beating: Arc<Mutex<BTreeSet<String>>>,
}

impl RNacos {
    /// `auth`: it asks for a login.
    async fn start(auth: bool) -> Self {
        let state = tempfile::tempdir().unwrap();
        let ports = free_ports();
        let url = format!("http://127.0.0.1:{}/nacos", ports[0]);
        let registry = NacosWorld::of(&[&url], &state, NEVER, auth.then(|| user("admin", PASSWORD)).flatten());
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let child = serve(state.path(), ports, auth);
        let server = Self { child, url, state, registry, client, beating: Arc::default() };
        let listens = async || server.client.get(&server.url).send().await.is_ok();
        wait_for("r-nacos to answer", listens).await;
        server
    }

    async fn with_instances() -> Self {
        let server = Self::start(false).await;
        for id in ALL {
            server.register(id, "a").await;
        }
        let (client, url, beating) = (server.client.clone(), server.url.clone(), Arc::clone(&server.beating));
        tokio::spawn(async move {
            loop {
                // Held until it is answered: a beat for what has gone would make it anew.
                for id in beating.lock().await.iter() {
                    let beat = format!("{url}/v1/ns/instance/beat?{}&ephemeral=true", words(id));
                    let _ = client.put(beat).send().await;
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        server
    }

    async fn ask(&self, method: Method, what: &str) -> Value {
        let answer = self.client.request(method, format!("{}/v1/ns/{what}", self.url)).send().await.unwrap();
        answer.json().await.unwrap_or_default()
    }

    /// As a client of Nacos 1 does it.
    async fn register(&self, id: &str, zone: &str) {
        let metadata = json!({ "zone": zone }).to_string().replace('"', "%22");
        let words = format!("instance?{}&ephemeral=true&weight=2.5&metadata={metadata}", words(id));
        self.ask(Method::POST, &words).await;
        self.beating.lock().await.insert(id.into());
    }

    async fn shown(&self, id: &str) -> Value {
        self.ask(Method::GET, &format!("instance?{}", words(id))).await
    }

    fn another(&self, hold_every: Duration) -> Nacos {
        NacosWorld::of(&[&self.url], &self.state, hold_every, None)
    }
}

impl Drop for RNacos {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(state: &Path, [http, grpc, console]: [u16; 3], auth: bool) -> Child {
    Command::new(installed("rnacos-0.8.8").join("bin/rnacos"))
        .env("RNACOS_HTTP_PORT", http.to_string())
        .env("RNACOS_GRPC_PORT", grpc.to_string())
        .env("RNACOS_HTTP_CONSOLE_PORT", console.to_string())
        .env("RNACOS_DATA_DIR", state.join("data"))
        .env("RNACOS_ENABLE_OPEN_API_AUTH", auth.to_string())
        .env("RNACOS_INIT_ADMIN_USERNAME", "admin")
        .env("RNACOS_INIT_ADMIN_PASSWORD", PASSWORD)
        // In place of 15 s and 30 s.
        .env("RNACOS_NAMING_HEALTH_TIMEOUT_SECOND", "3")
        .env("RNACOS_NAMING_INSTANCE_TIMEOUT_SECOND", "300")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn words(id: &str) -> String {
    let (service, address) = id.split_once('/').unwrap();
    let (ip, port) = address.split_once(':').unwrap();
    format!("serviceName={service}&groupName=SHOP&namespaceId=prod&clusterName=BJ&ip={ip}&port={port}")
}

#[async_trait(?Send)]
impl World for RNacos {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(self.another(OFTEN))
    }

    fn silent(&self) -> Option<Arc<dyn Registry>> {
        let (deadline, url) = (Duration::from_millis(200), format!("http://{}/nacos", nobody_answers()));
        let (ledger, layout) = (self.state.path().join("silent.json"), layout(NacosApi::Auto));
        Some(Arc::new(Nacos::within(deadline, NEVER, "nacos", &[url], None, layout, ledger).unwrap()))
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
        // It takes every change of an instance for a heartbeat: see below.
        Tells { isolation: false, health: false, ..Tells::ALL }
    }

    async fn finds(&self, id: &str) -> bool {
        let (service, address) = id.split_once('/').unwrap();
        let list = format!("instance/list?serviceName={service}&groupName=SHOP&namespaceId=prod&healthyOnly=true");
        let list = self.ask(Method::GET, &list).await;
        let stands = |host: &Value| format!("{}:{}", host["ip"].as_str().unwrap(), host["port"]) == address;
        list["hosts"].as_array().unwrap().iter().any(stands)
    }

    async fn set_healthy(&self, id: &str, healthy: bool) {
        match healthy {
            true => self.beating.lock().await.insert(id.into()),
            false => self.beating.lock().await.remove(id),
        };
        wait_for("its health", async || self.shown(id).await["healthy"] == healthy).await;
    }

    async fn isolate(&self, _id: &str, _reason: Option<&str>) {}

    /// A person enables it.
    async fn comes_back(&self, id: &str) {
        self.ask(Method::PUT, &format!("instance?{}&weight=2.5&enabled=true", words(id))).await;
    }

    fn looked(&self) -> Duration {
        10 * OFTEN
    }

    async fn deregister(&self, id: &str) {
        self.beating.lock().await.remove(id);
        self.ask(Method::DELETE, &format!("instance?{}&ephemeral=true", words(id))).await;
    }

    async fn renew(&self, id: &str) {
        self.register(id, "b").await;
    }

    async fn record(&self, id: &str) -> String {
        self.shown(id).await["metadata"]["zone"].to_string()
    }
}

#[tokio::test]
#[ignore = "`tests/run --releases` builds r-nacos"]
async fn r_nacos_conforms() {
    conforms(&RNacos::with_instances().await).await;
}

/// What fails is seen so; a change makes it healthy until the heartbeat is missed once more.
#[tokio::test]
#[ignore = "`tests/run --releases` builds r-nacos"]
async fn r_nacos_takes_a_restore_for_a_heartbeat() {
    let server = RNacos::with_instances().await;
    server.set_healthy(US, false).await;
    let before = server.registry.observe(US).await.unwrap();
    assert_eq!(before.traffic, Traffic::Failing);
    server.registry.drain(US, &marker("i")).await.unwrap();
    assert_eq!(server.registry.restore(US, &marker("i"), &before.record).await.unwrap(), Restored::Done);
    assert_eq!(server.registry.observe(US).await.unwrap().traffic, Traffic::Passing);
    wait_for("the heartbeat to be missed", async || {
        server.registry.observe(US).await.unwrap().traffic == Traffic::Failing
    })
    .await;
}

/// It forgets all that registered, and who registers anew is enabled.
#[tokio::test]
#[ignore = "`tests/run --releases` builds r-nacos"]
async fn a_drain_that_a_restart_of_r_nacos_forgot_is_made_anew_and_put_back_wholly() {
    let mut server = RNacos::start(false).await;
    let port = |url: &str| url.trim_end_matches("/nacos").rsplit(':').next().unwrap().parse().unwrap();
    let http: u16 = port(&server.url);
    server.register(US, "a").await;
    let before = server.registry.observe(US).await.unwrap();
    server.registry.drain(US, &marker("i")).await.unwrap();
    assert!(!server.finds(US).await);

    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let [grpc, console] = free_ports();
    server.child = serve(server.state.path(), [http, grpc, console], false);
    wait_for("r-nacos to answer", async || server.client.get(&server.url).send().await.is_ok()).await;
    wait_for("r-nacos to take a registration", async || {
        server.register(US, "a").await;
        server.finds(US).await
    })
    .await;

    assert_eq!(server.registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert!(server.registry.hold(US, &marker("i")).await.unwrap());
    assert!(!server.finds(US).await);
    assert_eq!(server.registry.restore(US, &marker("i"), &before.record).await.unwrap(), Restored::Done);
    assert!(server.finds(US).await);
    assert_eq!(server.shown(US).await["metadata"], json!({ "zone": "a" }));
}

#[tokio::test]
#[ignore = "`tests/run --releases` builds r-nacos"]
async fn r_nacos_asks_for_a_login_and_says_who_is_refused() {
    let server = RNacos::start(true).await;
    // Its first user is there a moment after it listens.
    wait_for("a login", async || matches!(server.registry.observe(US).await, Err(RegistryError::NotRegistered { .. })))
        .await;
    let drained = server.registry.drain(US, &marker("i")).await;
    assert!(matches!(drained, Err(RegistryError::NotRegistered { .. })), "{drained:?}");
    for wrong in [None, user("admin", "wrong-word")] {
        let registry = NacosWorld::of(&[&server.url], &server.state, NEVER, wrong);
        let refused = registry.observe(US).await.unwrap_err();
        assert!(!matches!(refused, RegistryError::NotRegistered { .. }), "{refused}");
        assert!(!format!("{refused:?} {registry:?}").contains("wrong-word"), "{refused}");
    }
    assert!(matches!(server.registry.restore(US, &marker("i"), &NULL).await, Ok(Restored::NotOurs(_))));
}
