//! The story's stage: everything but the agent, running and registered, and a picture of it to compare.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::deadline::wait_until_seen;
use super::{Behaviour, Consul, Lab, Redis, RpcOrder, Webhook, agent, consul, service};

/// The name that hosts contend and clients look under.
pub const NAME: &str = "rpc-order";
pub const OWN: &str = "rpc-order-1";
pub const OTHERS: [&str; 2] = ["rpc-order-2", "rpc-order-3"];
pub const ALL: [&str; 3] = [OWN, OTHERS[0], OTHERS[1]];
/// What the Redis behind the service is registered as.
pub const REDIS_NAME: &str = "order-cache";
pub const REDIS_PORT: u16 = 6390;
/// Redis closes on who is idle for this long.
pub const REDIS_TIMEOUT_SECONDS: u32 = 2;
/// The document of the fleet's slots for the service.
pub const SLOTS: &str = "unwait/slots/rpc-order";

pub struct Stage<'lab> {
    pub lab: &'lab Lab,
    pub consul: Consul<'lab>,
    pub redis: Redis<'lab>,
    pub service: RpcOrder<'lab>,
    pub webhook: Webhook<'lab>,
}

impl<'lab> Stage<'lab> {
    /// Returns when all three instances pass; the service leaks, or soon will.
    pub fn set(lab: &'lab Lab, behaviour: Behaviour) -> Self {
        Self::set_with(lab, behaviour, Consul::start(lab))
    }

    pub fn set_with(lab: &'lab Lab, behaviour: Behaviour, consul: Consul<'lab>) -> Self {
        // It is activated by whoever first talks over it; reading is no change.
        lab.start_unit("dbus.service");
        let redis = Redis::start(lab, REDIS_PORT, REDIS_TIMEOUT_SECONDS);
        let service = RpcOrder::start(lab, &redis, behaviour);
        consul.register(&own_registration());
        consul.register(
            &json!({ "ID": "order-cache-1", "Name": REDIS_NAME, "Address": "127.0.0.1", "Port": REDIS_PORT }),
        );
        consul.register_peers(NAME);
        let webhook = Webhook::start(lab);
        agent::write_webhook(lab, &webhook);
        let stage = Self { lab, consul, redis, service, webhook };
        stage.wait_for_passing(&ALL, Duration::from_secs(30));
        stage
    }

    pub fn wait_for_passing(&self, expected: &[&str], deadline: Duration) {
        wait_until_seen(&format!("exactly {expected:?} to pass"), deadline, || match self.consul.passing(NAME) {
            passing if passing == expected => Ok(()),
            passing => Err(format!("{passing:?}\n{}", agent::unwait(self.lab, &["status"]).all())),
        });
    }

    /// The holders of slots that stand in Consul.
    pub fn slots(&self) -> Vec<Value> {
        let document: Value = match self.consul.kv_get(SLOTS) {
            Some(text) => serde_json::from_str(&text).expect("the document of the slots"),
            None => return Vec::new(),
        };
        document["slots"].as_array().expect("a list of slots").clone()
    }

    /// What must be the same before and after where nothing may be changed.
    pub fn picture(&self) -> Picture {
        Picture(BTreeMap::from([
            ("lifetime", self.service.invocation_id()),
            ("main process", self.lab.show(service::UNIT, "MainPID")),
            ("restarts", self.lab.show(service::UNIT, "NRestarts")),
            ("lifetime of Consul", self.lab.show(consul::UNIT, "InvocationID")),
            ("registrations", sorted(&self.consul.get("/v1/agent/services"))),
            ("checks", sorted(&self.consul.get("/v1/agent/checks"))),
            ("maintenance so far", self.consul.maintenance_log()),
            ("passing", format!("{:?}", self.consul.passing(NAME))),
            ("keys", sorted(&keys_but_of_hosts(self.consul.get("/v1/kv/?recurse=true")))),
            (
                "units",
                self.lab.stdout(&[
                    "systemctl",
                    "list-units",
                    "--all",
                    "--no-legend",
                    "--plain",
                    "--type=service,scope,timer,path",
                ]),
            ),
        ]))
    }
}

/// What a host tells of itself changes nothing for anybody.
fn keys_but_of_hosts(mut keys: Value) -> Value {
    let is_of_a_host = |key: &Value| key["Key"].as_str().is_some_and(|key| key.starts_with("unwait/hosts/"));
    keys.as_array_mut().expect("a list of keys").retain(|key| !is_of_a_host(key));
    keys
}

/// As the service registers: a check that fails where nobody listens.
pub fn own_registration() -> Value {
    json!({
        "ID": OWN,
        "Name": NAME,
        "Address": "127.0.0.1",
        "Port": service::PORT,
        "Check": { "TCP": format!("127.0.0.1:{}", service::PORT), "Interval": "1s", "Timeout": "1s", "Status": "passing" },
    })
}

/// Lines, so that a difference can be read.
fn sorted(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("JSON")
}

#[derive(Debug, PartialEq, Eq)]
pub struct Picture(BTreeMap<&'static str, String>);

impl Picture {
    /// # Panics
    /// When anything is not as it was before, with both.
    pub fn assert_as(&self, before: &Self) {
        for (what, before) in &before.0 {
            assert_eq!(before, &self.0[what], "{what} changed");
        }
    }
}
