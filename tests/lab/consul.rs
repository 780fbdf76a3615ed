//! A real Consul: one server with a data directory, as a unit of the lab, asked over its HTTP API.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::Lab;
use super::deadline::wait_until_seen;
use super::http::{self, Answer};
use super::installed::installed;
use super::net::loopback;

pub const UNIT: &str = "consul.service";
pub const RELEASE: &str = "consul-1.8.7";
const PORT: u16 = 8500;
const LEADS_WITHIN: Duration = Duration::from_secs(30);

/// The running agent. It lives as long as the lab.
pub struct Consul<'lab> {
    lab: &'lab Lab,
    management: Option<String>,
}

/// Tokens of a Consul that has access control on.
pub struct Tokens {
    /// May do everything.
    pub management: String,
    /// May do everything but read or write services: what it asks about them is answered `200` and empty.
    pub blind: String,
}

impl<'lab> Consul<'lab> {
    /// Starts Consul and returns when it leads and can be written to.
    pub fn start(lab: &'lab Lab) -> Self {
        Self::start_with(lab, json!({}), None)
    }

    /// Starts Consul with access control on, where who has no token may nothing.
    pub fn start_with_acl(lab: &'lab Lab) -> (Self, Tokens) {
        let management = "5d9d8c5c-0000-4000-8000-000000000001".to_owned();
        let acl = json!({ "acl": {
            "enabled": true,
            "default_policy": "deny",
            "tokens": { "master": management, "agent": management },
        }});
        let consul = Self::start_with(lab, acl, Some(management.clone()));
        let rules = r#"agent_prefix "" { policy = "write" } node_prefix "" { policy = "read" }
            session_prefix "" { policy = "write" } key_prefix "" { policy = "write" }"#;
        consul.put("/v1/acl/policy", &json!({ "Name": "blind", "Rules": rules }));
        let token = consul.put("/v1/acl/token", &json!({ "Policies": [{ "Name": "blind" }] }));
        let token: Value = serde_json::from_str(&token).expect("Consul answers a new token in JSON");
        let blind = token["SecretID"].as_str().expect("a token has a secret").to_owned();
        (consul, Tokens { management, blind })
    }

    fn start_with(lab: &'lab Lab, extra: Value, management: Option<String>) -> Self {
        let mut config = json!({
            "server": true,
            "bootstrap_expect": 1,
            "node_name": "host-1",
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "data_dir": lab.dir().join("consul-data"),
            "disable_update_check": true,
            "ports": { "dns": -1, "serf_wan": -1 },
            // The shortest election timeouts that Consul allows.
            "performance": { "raft_multiplier": 1 },
        });
        let merged = config.as_object_mut().expect("an object");
        merged.extend(extra.as_object().expect("an object").clone());
        let config_file = lab.dir().join("consul.json");
        std::fs::write(&config_file, config.to_string()).expect("the lab's directory is writable");

        let program = installed(RELEASE).join("usr/bin/consul");
        let command = format!("{} agent -config-file={}", program.display(), config_file.display());
        lab.add_unit(UNIT, &format!("[Service]\nExecStart={command}\n"));
        let consul = Self { lab, management };
        consul.start_again();
        consul
    }

    /// Stops the agent; its data stay.
    pub fn stop(&self) {
        self.lab.stop_unit(UNIT);
    }

    /// Starts the agent on the data that it has, and waits as [`Consul::start`] does.
    pub fn start_again(&self) {
        self.lab.start_unit(UNIT);
        wait_until_seen("Consul to lead", LEADS_WITHIN, || {
            let written = self.ask("PUT", "/v1/kv/lab/leads", "yes").map_err(|error| error.to_string())?;
            let own = self.ask("GET", "/v1/health/node/host-1", "").map_err(|error| error.to_string())?;
            // serfHealth comes with the node's own registration, without which no service passes.
            let registered = own.body.contains("serfHealth");
            if written.status == 200 && registered { Ok(()) } else { Err(format!("{written:?}, {own:?}")) }
        });
    }

    pub fn address(&self) -> SocketAddr {
        loopback(PORT)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Asks as a person with every right would, and returns whatever was answered.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        http::ask(self.lab.network(), self.address(), method, path, self.management.as_deref(), body)
    }

    /// # Panics
    /// When Consul does not answer 200.
    pub fn get(&self, path: &str) -> Value {
        let body = self.expect_ok("GET", path, "");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("GET {path}: {error}: {body}"))
    }

    /// Returns the body as it came; it is often empty.
    ///
    /// # Panics
    /// When Consul does not answer 200.
    pub fn put(&self, path: &str, body: &Value) -> String {
        self.expect_ok("PUT", path, &body.to_string())
    }

    /// A PUT that says all in its path. Consul would reset the connection over a body that it does not read.
    fn order(&self, path: &str) {
        self.expect_ok("PUT", path, "");
    }

    /// Registers a service of this host with the agent.
    pub fn register(&self, service: &Value) {
        self.put("/v1/agent/service/register", service);
    }

    pub fn deregister(&self, id: &str) {
        self.order(&format!("/v1/agent/service/deregister/{id}"));
    }

    /// Registers healthy instances of `name` on two other hosts, as `NAME-2` and `NAME-3`.
    pub fn register_peers(&self, name: &str) {
        for number in [2, 3] {
            self.register_peer(name, number, "passing");
        }
    }

    /// Another host's instance fails its check from now on.
    pub fn fail_peer(&self, name: &str, number: u8) {
        self.register_peer(name, number, "critical");
    }

    fn register_peer(&self, name: &str, number: u8, status: &str) {
        let address = format!("127.0.0.{number}");
        let id = format!("{name}-{number}");
        self.put(
            "/v1/catalog/register",
            &json!({
                "Node": format!("host-{number}"),
                "Address": address,
                "Service": { "ID": id, "Service": name, "Address": address, "Port": 7801 },
                "Check": { "Name": "answers", "Status": status, "ServiceID": id },
            }),
        );
    }

    /// Takes another host's instance away.
    pub fn deregister_peer(&self, name: &str, number: u8) {
        let peer = json!({ "Node": format!("host-{number}"), "ServiceID": format!("{name}-{number}") });
        self.put("/v1/catalog/deregister", &peer);
    }

    /// The ids of the instances that clients would be sent to, in order.
    pub fn passing(&self, name: &str) -> Vec<String> {
        let instances = self.get(&format!("/v1/health/service/{name}?passing&consistent"));
        let instances = instances.as_array().expect("a list of instances");
        let mut ids: Vec<_> =
            instances.iter().map(|one| one["Service"]["ID"].as_str().expect("an id").to_owned()).collect();
        ids.sort();
        ids
    }

    /// Why an instance of this host is in maintenance, if it is.
    pub fn maintenance(&self, id: &str) -> Option<String> {
        let checks = self.get("/v1/agent/checks");
        let check = checks.get(format!("_service_maintenance:{id}"))?;
        Some(check["Notes"].as_str().expect("a check has notes").to_owned())
    }

    /// What Consul has logged of maintenance so far: it tells of one that was over before anybody looked.
    pub fn maintenance_log(&self) -> String {
        let journal = self.lab.journal(UNIT);
        journal.lines().filter(|line| line.contains("maintenance mode")).map(|line| format!("{line}\n")).collect()
    }

    /// Puts an instance in maintenance, as a person would.
    pub fn put_maintenance(&self, id: &str, reason: &str) {
        let reason: String = reason.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.order(&format!("/v1/agent/service/maintenance/{id}?enable=true&reason={reason}"));
    }

    pub fn end_maintenance(&self, id: &str) {
        self.order(&format!("/v1/agent/service/maintenance/{id}?enable=false"));
    }

    /// A key's value, if there is such a key.
    pub fn kv_get(&self, key: &str) -> Option<String> {
        let answer = self.ask("GET", &format!("/v1/kv/{key}?raw&consistent"), "").expect("Consul answers");
        match answer.status {
            200 => Some(answer.body),
            404 => None,
            _ => panic!("GET of key {key}: {answer:?}"),
        }
    }

    fn expect_ok(&self, method: &str, path: &str, body: &str) -> String {
        let answer = self.ask(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        answer.body
    }
}
