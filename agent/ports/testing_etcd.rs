//! A real etcd for the tests beside the adapters: own ports, own data directory, ended by its pid.

use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::installed::installed;
use super::testing_consul::{free_ports, wait_for};

pub struct TestEtcd {
    child: Child,
    _data: tempfile::TempDir,
    pub url: String,
    client: reqwest::Client,
    /// Root's, once access control is on.
    token: OnceLock<String>,
}

impl TestEtcd {
    pub async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let [client, peer] = free_ports().map(|port| format!("http://127.0.0.1:{port}"));
        let child = Command::new(installed("etcd").join("usr/bin/etcd"))
            .arg(format!("--data-dir={}", data.path().join("data").display()))
            .args(["--name=n1", &format!("--initial-cluster=n1={peer}")])
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .args(["--logger=zap", "--log-level=panic"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let etcd = Self { child, _data: data, url: client, client: http, token: OnceLock::new() };
        wait_for("etcd to serve", async || {
            let health = etcd.client.get(format!("{}/health", etcd.url)).send().await;
            match health {
                Ok(answer) => answer.text().await.is_ok_and(|text| text.contains("true")),
                Err(_) => false,
            }
        })
        .await;
        etcd
    }

    pub async fn post(&self, method: &str, body: Value) -> Value {
        let mut request = self.client.post(format!("{}/v3/{method}", self.url)).json(&body);
        if let Some(token) = self.token.get() {
            request = request.header("Authorization", token);
        }
        request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
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

    /// Access control, with a user who may use `prefix` and nothing else.
    pub async fn lock_down(&self, user: &str, password: &str, prefix: &str) {
        let root = json!({ "name": "root", "password": "root" });
        self.post("auth/user/add", root.clone()).await;
        self.post("auth/role/add", json!({ "name": "root" })).await;
        self.post("auth/user/grant", json!({ "user": "root", "role": "root" })).await;
        self.add_user(user, password, &[("READWRITE", prefix)]).await;
        self.post("auth/enable", json!({})).await;
        let answer = self.post("auth/authenticate", root).await;
        self.token.set(answer["token"].as_str().unwrap().to_owned()).unwrap();
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
