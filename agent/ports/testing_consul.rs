//! A real Consul for the tests beside the adapters: own ports, own data directory, ended by its pid.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::installed::installed;

/// All permissions, where access control is on.
pub const MASTER: &str = "5d3c2f1a-0000-4000-8000-00000000aaaa";

#[derive(Debug)]
pub struct TestConsul {
    child: Child,
    _data: tempfile::TempDir,
    pub url: String,
    client: reqwest::Client,
    /// Where access control is on.
    pub token: Option<String>,
}

/// Free, and nobody else's for as long as this process lives, a server that is started there again too: from below those that
/// the kernel gives to connections, and each taken by its name, which no other test then gets.
pub fn free_ports<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| free_port())
}

fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 10_240..32_768;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        // Tests that run at once begin at places of their own.
        let nth = std::process::id().wrapping_mul(7_919).wrapping_add(tried);
        let port = (PORTS.start + nth % (PORTS.end - PORTS.start)) as u16;
        let name = SocketAddr::from_abstract_name(format!("unwait-tests-port-{port}")).unwrap();
        let Ok(taken) = UnixListener::bind_addr(&name) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            std::mem::forget(taken);
            return port;
        }
    }
}

pub async fn wait_for(what: &str, is_so: impl AsyncFn() -> bool) {
    // Far beyond what it takes: a busy machine starts no server late enough to fail.
    wait_at_most(Duration::from_secs(120), what, is_so).await;
}

/// For what takes longer by its own settings.
pub async fn wait_at_most(most: Duration, what: &str, is_so: impl AsyncFn() -> bool) {
    let until = tokio::time::Instant::now() + most;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < until, "waited {most:?} for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl TestConsul {
    pub async fn start() -> Self {
        Self::start_with("", None).await
    }

    /// Denies everything that no token allows.
    pub async fn start_with_acl() -> Self {
        let acl = format!(
            r#"acl {{ enabled = true default_policy = "deny" tokens {{ master = "{MASTER}" agent = "{MASTER}" }} }}"#
        );
        Self::start_with(&acl, Some(MASTER.into())).await
    }

    /// With further words of its configuration.
    pub async fn start_with(config: &str, token: Option<String>) -> Self {
        let data = tempfile::tempdir().unwrap();
        let [http, server, serf] = free_ports();
        let file = data.path().join("test.hcl");
        std::fs::write(&file, format!("{config}\nperformance {{ raft_multiplier = 1 }}\n")).unwrap();
        let child = Command::new(installed("consul-1.8.7").join("usr/bin/consul"))
            .args(["agent", "-server", "-bootstrap-expect=1", "-bind=127.0.0.1", "-node=n1", "-log-level=err"])
            .args(["-dns-port=-1", "-grpc-port=-1", "-serf-wan-port=-1"])
            .arg(format!("-http-port={http}"))
            .arg(format!("-server-port={server}"))
            .arg(format!("-serf-lan-port={serf}"))
            .arg(format!("-data-dir={}", data.path().join("data").display()))
            .arg(format!("-config-file={}", file.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let consul = Self { child, _data: data, url: format!("http://127.0.0.1:{http}"), client, token };
        consul
            .wait_for("an elected leader and its own node in the catalog", async || {
                consul.try_get("/v1/health/node/n1").await.is_some_and(|checks| checks[0]["Status"] == "passing")
            })
            .await;
        consul
    }

    pub async fn wait_for(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        wait_for(what, is_so).await;
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.header("X-Consul-Token", token),
            None => request,
        }
    }

    async fn try_get(&self, path: &str) -> Option<Value> {
        self.request(reqwest::Method::GET, path).send().await.ok()?.error_for_status().ok()?.json().await.ok()
    }

    pub async fn get(&self, path: &str) -> Value {
        self.try_get(path).await.unwrap_or_else(|| panic!("GET {path} was not answered"))
    }

    pub async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> String {
        let answer = self.request(reqwest::Method::PUT, path).body(body).send().await.unwrap();
        answer.error_for_status().unwrap().text().await.unwrap()
    }

    /// A token with these rules.
    pub async fn token(&self, rules: &str) -> String {
        let name = format!("p{}", rules.bytes().map(u32::from).sum::<u32>());
        self.put("/v1/acl/policy", json!({ "Name": name, "Rules": rules }).to_string()).await;
        let token = self.put("/v1/acl/token", json!({ "Policies": [{ "Name": name }] }).to_string()).await;
        serde_json::from_str::<Value>(&token).unwrap()["SecretID"].as_str().unwrap().into()
    }

    /// An instance of the local agent, with a TTL check that a test sets.
    pub async fn register(&self, id: &str, name: &str, port: u16) {
        let service = json!({
            "ID": id, "Name": name, "Address": "127.0.0.1", "Port": port, "Token": self.token,
            "Checks": [{ "CheckID": format!("check:{id}"), "Name": "ttl", "TTL": "10m", "Status": "passing" }],
        });
        self.put("/v1/agent/service/register", service.to_string()).await;
        self.wait_for("the registration in the catalog", async || {
            self.get(&format!("/v1/health/service/{name}?passing")).await.to_string().contains("\"n1\"")
        })
        .await;
    }

    /// A passing instance on another node.
    pub async fn register_elsewhere(&self, node: &str, id: &str, name: &str, port: u16) {
        let entry = json!({
            "Node": node, "Address": "127.0.0.2",
            "Service": { "ID": id, "Service": name, "Address": "127.0.0.2", "Port": port },
            "Check": { "CheckID": format!("check:{id}"), "Name": "t", "Status": "passing", "ServiceID": id },
        });
        self.put("/v1/catalog/register", entry.to_string()).await;
    }
}

impl Drop for TestConsul {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
