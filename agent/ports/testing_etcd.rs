//! A real etcd for the tests beside the adapters: own ports, own data directory, ended by its pid.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::installed::installed;
use super::testing_consul::{free_ports, wait_for};

fn run(release: Release, options: &[String]) -> Child {
    let mut command = Command::new(release.binary());
    command.args(options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Debian's, and the newest. Each test of the adapters is played on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    V3_4,
    V3_7,
}

impl Release {
    fn binary(self) -> PathBuf {
        let folder = match self {
            Self::V3_4 => installed("etcd"),
            Self::V3_7 => installed("etcd-3.7.3"),
        };
        folder.join("usr/bin/etcd")
    }
}

/// One member, alone or of a cluster.
pub struct TestEtcd {
    release: Release,
    child: Child,
    _data: tempfile::TempDir,
    options: Vec<String>,
    pub url: String,
    client: reqwest::Client,
    /// Root's, once access control is on.
    token: Mutex<Option<String>>,
}

impl TestEtcd {
    pub async fn start(release: Release) -> Self {
        Self::start_with(release, &[]).await
    }

    /// Whose tokens are JSON web tokens.
    pub async fn start_with_jwt(release: Release) -> Self {
        Self::start_with(release, &["--auth-token=jwt,priv-key=DATA/key,sign-method=HS256"]).await
    }

    /// Takes some 100 kB and then no more.
    pub async fn start_small(release: Release) -> Self {
        Self::start_with(release, &["--quota-backend-bytes=200000"]).await
    }

    /// `DATA` in an option stands for its directory, in which `key` is a secret for signing; `CLIENT` for its address.
    pub async fn start_with(release: Release, options: &[&str]) -> Self {
        let [client, peer] = free_ports().map(|port| format!("http://127.0.0.1:{port}"));
        let member = Self::spawn(release, "n1", &client, &peer, &format!("n1={peer}"), options);
        member.serves().await;
        member
    }

    /// Three members of one cluster, which elect within a second.
    pub async fn cluster(release: Release) -> [Self; 3] {
        let ports: [u16; 6] = free_ports();
        let peer = |nth: usize| format!("http://127.0.0.1:{}", ports[3 + nth]);
        let all = [0, 1, 2].map(|nth| format!("n{nth}={}", peer(nth))).join(",");
        let members = [0, 1, 2].map(|nth| {
            let client = format!("http://127.0.0.1:{}", ports[nth]);
            Self::spawn(release, &format!("n{nth}"), &client, &peer(nth), &all, &[])
        });
        for member in &members {
            member.serves().await;
        }
        members
    }

    fn spawn(release: Release, name: &str, client: &str, peer: &str, cluster: &str, options: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("key"), "a secret of the tests, of 32 bytes or more").unwrap();
        let own = [
            format!("--data-dir={}", data.path().join("data").display()),
            format!("--name={name}"),
            format!("--initial-cluster={cluster}"),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            "--logger=zap".into(),
            "--log-level=panic".into(),
            "--heartbeat-interval=50".into(),
            "--election-timeout=500".into(),
        ];
        let options: Vec<String> = own
            .into_iter()
            .chain(
                options
                    .iter()
                    .map(|option| option.replace("DATA", &data.path().display().to_string()).replace("CLIENT", client)),
            )
            .collect();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let child = run(release, &options);
        Self { release, child, _data: data, options, url: client.into(), client: http, token: Mutex::default() }
    }

    async fn serves(&self) {
        wait_for("etcd to serve", async || {
            let health = self.client.get(format!("{}/health", self.url)).send().await;
            match health {
                Ok(answer) => answer.text().await.is_ok_and(|text| text.contains("true")),
                Err(_) => false,
            }
        })
        .await;
    }

    /// Killed, and started again on its data.
    pub async fn restart(&mut self) {
        self.stop();
        self.child = run(self.release, &self.options);
        self.serves().await;
    }

    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Which member of a cluster leads, once they have agreed.
    pub async fn leader(members: &[Self]) -> usize {
        for _ in 0..600 {
            for (nth, member) in members.iter().enumerate() {
                let asked = member.send("maintenance/status", &json!({}), None).await;
                let status = asked.json::<Value>().await.unwrap_or_default();
                if status["leader"].is_string() && status["leader"] == status["header"]["member_id"] {
                    return nth;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("waited 30 s for a leader");
    }

    /// As root, where access control is on.
    pub async fn post(&self, method: &str, body: Value) -> Value {
        let token = self.token.lock().unwrap().clone();
        let mut answer = self.send(method, &body, token.as_deref()).await;
        // A JWT ends with any change of users.
        if answer.status() == reqwest::StatusCode::BAD_REQUEST && token.is_some() {
            self.log_in_as_root().await;
            let token = self.token.lock().unwrap().clone();
            answer = self.send(method, &body, token.as_deref()).await;
        }
        answer.error_for_status().unwrap().json().await.unwrap()
    }

    async fn send(&self, method: &str, body: &Value, token: Option<&str>) -> reqwest::Response {
        let request = self.client.post(format!("{}/v3/{method}", self.url)).json(body);
        let request = match token {
            Some(token) => request.header("Authorization", token),
            None => request,
        };
        request.send().await.unwrap()
    }

    pub async fn put(&self, key: &str, text: &str) {
        self.post("kv/put", json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(text) })).await;
    }

    pub async fn get(&self, key: &str) -> Option<String> {
        let answer = self.post("kv/range", json!({ "key": STANDARD.encode(key) })).await;
        let pair = answer["kvs"].get(0)?;
        let text = STANDARD.decode(pair["value"].as_str().unwrap_or_default()).unwrap();
        Some(String::from_utf8(text).unwrap())
    }

    /// Until it takes no more.
    pub async fn fill(&self) {
        let value = STANDARD.encode([0; 16_384]);
        for nth in 0..100 {
            let put = json!({ "key": STANDARD.encode(format!("filler/{nth}")), "value": value });
            if self.send("kv/put", &put, None).await.status() == reqwest::StatusCode::TOO_MANY_REQUESTS {
                return;
            }
        }
        panic!("it takes ever more");
    }

    /// Access control, with a user who may use `prefix` and nothing else.
    pub async fn lock_down(&self, user: &str, password: &str, prefix: &str) {
        self.post("auth/user/add", json!({ "name": "root", "password": "root" })).await;
        self.post("auth/role/add", json!({ "name": "root" })).await;
        self.post("auth/user/grant", json!({ "user": "root", "role": "root" })).await;
        self.add_user(user, password, &[("READWRITE", prefix)]).await;
        self.post("auth/enable", json!({})).await;
        self.log_in_as_root().await;
    }

    async fn log_in_as_root(&self) {
        let answer = self.send("auth/authenticate", &json!({ "name": "root", "password": "root" }), None).await;
        let answer: Value = answer.error_for_status().unwrap().json().await.unwrap();
        *self.token.lock().unwrap() = Some(answer["token"].as_str().unwrap().to_owned());
    }

    /// A user, with a role of the same name.
    pub async fn add_user(&self, user: &str, password: &str, may: &[(&str, &str)]) {
        self.post("auth/role/add", json!({ "name": user })).await;
        for (what, prefix) in may {
            self.post("auth/role/grant", json!({ "name": user, "perm": permission(what, prefix) })).await;
        }
        self.post("auth/user/add", json!({ "name": user, "password": password })).await;
        self.post("auth/user/grant", json!({ "user": user, "role": user })).await;
    }
}

fn permission(what: &str, prefix: &str) -> Value {
    let end = format!("{}{}", &prefix[..prefix.len() - 1], char::from(prefix.as_bytes()[prefix.len() - 1] + 1));
    json!({ "permType": what, "key": STANDARD.encode(prefix), "range_end": STANDARD.encode(end) })
}

impl Drop for TestEtcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
