//! Proxies as registries, run whole: Caddy by the health file, Traefik by the shipped hook.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::conformance::{OURS, Tells, World, conforms, marker};
use super::health_file::HealthFile;
use super::hook::{ExecHooks, Hooked, HttpHooks};
use super::hook_tests::{NEVER, TELLS, exec, words};
use super::*;
use crate::model::{ExecHook, HttpCall, HttpHook, Tls};
use crate::ports::testing_consul::{free_ports, wait_for};
use crate::ports::testing_proxies::{TestProxy, Upstream, no_request_is_lost};
use crate::ports::tls::TlsContext;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("runbooks/hooks").join(name)
}

/// The shipped Caddyfile with the addresses of this test; each edit must be one.
fn caddyfile(edits: &[(&str, String)]) -> String {
    edits.iter().fold(std::fs::read_to_string(shipped("Caddyfile")).unwrap(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text.replace(from, to)
    })
}

#[tokio::test]
async fn behind_caddy_a_drain_by_the_health_file_loses_no_request() {
    let (files, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for directory in [&files, &others] {
        std::fs::create_dir(directory.path().join("rpc-order")).unwrap();
        std::fs::write(directory.path().join("rpc-order/up"), "UP\n").unwrap();
    }
    let mut ours = Upstream::start("ours", "127.0.0.1").await;
    let other = Upstream::start("other", "127.0.0.2").await;
    let [port, checks] = free_ports();
    let on_each_host = format!(
        "http://127.0.0.2:{checks} {{\n\tbind 127.0.0.2\n\troot * {}\n\tfile_server\n}}\n\nhttp://127.0.0.1:{checks} {{\n\t\
         bind 127.0.0.1",
        others.path().display()
    );
    let caddyfile = caddyfile(&[
        (":8080 {", format!("http://127.0.0.1:{port} {{")),
        ("10.0.0.1:7801 10.0.0.2:7801", format!("{} {}", ours.address(), other.address())),
        ("health_port 9101", format!("health_port {checks}")),
        (":9101 {", on_each_host),
        ("/run/health", files.path().display().to_string()),
    ]);
    let _caddy = TestProxy::caddy(&caddyfile, port).await;
    let (registry, us) = (HealthFile::new("health_file", files.path(), NEVER, "bj1-03"), "rpc-order/up");
    let (marker, nothing) = (marker("i"), Value::Null);
    let drain = async { registry.drain(us, &marker).await.unwrap() };
    let restore = async { assert_eq!(registry.restore(us, &marker, &nothing).await.unwrap(), Restored::Done) };
    no_request_is_lost(port, &mut ours, drain, restore).await;
}

#[tokio::test]
async fn a_hooks_ca_file_says_whose_servers_are_believed() {
    let [port] = free_ports();
    let site = format!("https://localhost:{port} {{\n\ttls internal\n\trespond \"\\\"up\\\"\"\n}}\n");
    let caddy = TestProxy::caddy(&site, port).await;
    let root = caddy.directory().join("caddy/pki/authorities/local/root.crt");
    wait_for("Caddy to have an authority of its own", async || root.is_file()).await;
    let url = format!("https://localhost:{port}/");
    let call = || HttpCall { method: "GET".into(), url: url.clone(), ..HttpCall::default() };
    let hook = HttpHook {
        isolate: call(),
        restore: call(),
        observe: call(),
        absent: vec![],
        drained_status: vec![503],
        traffic: String::new(),
        passing: vec!["up".into()],
        failing: vec![],
        drained: vec![],
        isolated: vec![],
        marker: None,
        count: None,
        deadline: Duration::from_secs(5),
        hold_every: NEVER,
    };
    let state = tempfile::tempdir().unwrap();
    let of = |ca_file: Option<&Path>| {
        let tls = Tls { ca_file: ca_file.map(Path::to_owned), ..Tls::default() };
        let via = TlsContext::new("registry gate", tls).unwrap().into();
        let hooks = HttpHooks::new(hook.clone(), &via, None).unwrap();
        Hooked::new("gate", hooks, state.path().join("drains.json"), NEVER, "bj1-03")
    };
    // Its certificate is made at the first connection, and may take a moment.
    let believing = of(Some(&root));
    wait_for("the server to be believed", async || believing.observe("a/b").await.is_ok()).await;
    assert_eq!(believing.observe("a/b").await.unwrap().traffic, Traffic::Passing);
    let strange = of(None).observe("a/b").await.unwrap_err();
    assert!(strange.is_passing() && strange.needs_a_person(), "{strange}");
    assert!(strange.to_string().contains("which the system's CA store does not have"), "{strange}");
}

struct Routed {
    traefik: TestProxy,
    state: tempfile::TempDir,
    api: u16,
    port: u16,
    upstreams: BTreeMap<&'static str, Upstream>,
    registry: Hooked<ExecHooks>,
}

impl Routed {
    async fn new(throttle: &str) -> Self {
        let mut upstreams = BTreeMap::new();
        for name in ["rpc-order-1", "rpc-order-2", "rpc-order-3", "rpc-cart-1"] {
            upstreams.insert(name, Upstream::start(name, "127.0.0.1").await);
        }
        let at = |name: &str| upstreams[name].address().to_owned();
        // As people write it: with and without quotes and weights, lists in and out, a service of the same name elsewhere.
        let dynamic = format!(
            "tcp:\n  services:\n    rpc-order:\n      loadBalancer:\n        servers:\n          - address: \"127.0.0.1:1\"\n\
             http:\n  routers:\n    # rpc-order:\n    rpc-cart: {{ rule: \"PathPrefix(`/rpc-cart`)\", service: rpc-cart }}\n    \
             rpc-order:\n      rule: \"PathPrefix(`/`)\"\n      service: rpc-order\n\n  services:\n    rpc-order:\n      \
             loadBalancer:\n        passHostHeader: true\n        servers:\n        - url: \"http://{}/\"\n        - weight: 2 \
             # the big one\n          url: http://{}\n        - url: 'http://{}'\n    rpc-cart:\n      loadBalancer:\n        \
             servers:\n          - url: http://{}\n            weight: 3\n",
            at("rpc-order-1"),
            at("rpc-order-2"),
            at("rpc-order-3"),
            at("rpc-cart-1")
        );
        let [port, api] = free_ports();
        let traefik = TestProxy::traefik(&dynamic, port, api, throttle).await;
        let state = tempfile::tempdir().unwrap();
        let registry = exec(Self::hook(&traefik, api), &state);
        let world = Self { traefik, state, api, port, upstreams, registry };
        let us = world.id(OURS);
        wait_for("Traefik to load its file", async || world.registry.observe(&us).await.is_ok()).await;
        world
    }

    /// As runbooks/hooks/traefik.yaml has it.
    fn hook(traefik: &TestProxy, api: u16) -> ExecHook {
        let program = shipped("traefik").display().to_string();
        let file = traefik.directory().join("dynamic.yml").display().to_string();
        let api = format!("http://127.0.0.1:{api}/api");
        let argv = |verb| words(&[&program, verb, &file, &api, "{service}", "http://{instance}", "{marker}"]);
        ExecHook {
            isolate: argv("isolate"),
            restore: argv("restore"),
            observe: argv("observe"),
            count: Some(argv("count")),
            files: BTreeMap::new(),
            deadline: Duration::from_secs(10),
            hold_every: NEVER,
        }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.traefik.directory().join("dynamic.yml")).unwrap()
    }

    /// At once: of a file that is being written Traefik loads what stands there so far.
    fn write(&self, text: &str) {
        let beside = self.traefik.directory().join("dynamic.tmp");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.traefik.directory().join("dynamic.yml")).unwrap();
    }

    /// The line of our URL, and the one behind it.
    fn lines(&self, id: &str) -> (String, String) {
        let (_, address) = id.split_once('/').unwrap();
        let text = self.text();
        let mut lines = text.lines().skip_while(|line| !line.contains(address)).map(str::to_owned);
        (lines.next().unwrap(), lines.next().unwrap_or_default())
    }

    async fn loads(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        wait_for(what, is_so).await;
    }
}

#[async_trait(?Send)]
impl World for Routed {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(exec(Self::hook(&self.traefik, self.api), &self.state))
    }

    /// Commands that do not end are the suite's over nginx.
    fn silent(&self) -> Option<Arc<dyn Registry>> {
        None
    }

    async fn finds(&self, id: &str) -> bool {
        let (service, address) = id.split_once('/').unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        for _ in 0..12 {
            let asked = client.get(format!("http://127.0.0.1:{}/{service}", self.port));
            let name = asked.send().await.unwrap().text().await.unwrap();
            if self.upstreams.get(name.as_str()).is_some_and(|found| found.address() == address) {
                return true;
            }
        }
        false
    }

    async fn set_healthy(&self, _id: &str, _healthy: bool) {}

    async fn isolate(&self, id: &str, reason: Option<&str>) {
        let (url, behind) = self.lines(id);
        let rest =
            if behind.contains("weight: 0") { self.text().replace(&format!("{behind}\n"), "") } else { self.text() };
        let by_hand = reason.map_or(format!("{url}\n"), |reason| format!("{url}\n          weight: 0 # {reason}\n"));
        self.write(&rest.replace(&format!("{url}\n"), &by_hand));
        let finds = reason.is_none();
        self.loads("Traefik to load what a person wrote", async || self.finds(id).await == finds).await;
    }

    async fn deregister(&self, id: &str) {
        let (url, behind) = self.lines(id);
        let text = self.text().replace(&format!("{url}\n"), "");
        self.write(&if behind.contains("weight: 0") { text.replace(&format!("{behind}\n"), "") } else { text });
        let gone = async || matches!(self.registry.observe(id).await, Err(RegistryError::NotRegistered { .. }));
        self.loads("Traefik to load what a person wrote", gone).await;
    }

    async fn renew(&self, id: &str) {
        let (url, _) = self.lines(id);
        self.write(&self.text().replace(&url, &format!("{url} # renewed")));
    }

    async fn record(&self, id: &str) -> String {
        self.lines(id).0
    }

    fn id(&self, plain: &str) -> String {
        match plain {
            "rpc-none-1" => "rpc-none/127.0.0.1:1".into(),
            _ => format!("{}/{}", plain.trim_end_matches("-1"), self.upstreams[plain].address()),
        }
    }

    fn tells(&self) -> Tells {
        Tells { health: false, ..TELLS }
    }
}

#[tokio::test]
async fn the_shipped_hook_for_traefik_conforms() {
    let world = Routed::new("50ms").await;
    let before = world.text();
    // What stood there is there again, to the letter.
    for name in ["rpc-order-2", "rpc-order-3", "rpc-cart-1"] {
        let id = format!("{}/{}", name.rsplit_once('-').unwrap().0, world.upstreams[name].address());
        world.registry.drain(&id, &marker("i")).await.unwrap();
        assert!(world.text().contains("weight: 0 # unwait:") && !world.finds(&id).await, "{}", world.text());
        assert_eq!(world.registry.restore(&id, &marker("i"), &Value::Null).await.unwrap(), Restored::Done);
        assert_eq!(world.text(), before);
    }
    conforms(&world).await;
}

#[tokio::test]
async fn behind_traefik_a_drain_by_weight_loses_no_request_and_no_other_strategy_is_believed() {
    let mut world = Routed::new("2s").await;
    let us = world.id(OURS);
    let mut ours = world.upstreams.remove(OURS).unwrap();
    let (marker, nothing) = (marker("i"), Value::Null);
    let drain = async { world.registry.drain(&us, &marker).await.unwrap() };
    let restore = async { assert_eq!(world.registry.restore(&us, &marker, &nothing).await.unwrap(), Restored::Done) };
    no_request_is_lost(world.port, &mut ours, drain, restore).await;

    // Power of two choices sends to a server of weight 0 as to any other.
    world.write(&world.text().replace("passHostHeader: true", "strategy: p2c"));
    let refused = async || match world.registry.drain(&us, &marker).await {
        Err(error) => error.to_string().contains("the strategy p2c of rpc-order does not heed weights"),
        Ok(()) => world.registry.restore(&us, &marker, &nothing).await.is_err(),
    };
    wait_for("the other strategy to be refused", refused).await;
}
