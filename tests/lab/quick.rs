//! A stage with short waits, for stories of agents that die, disks that fill up and signals that come at the wrong
//! moment: the leaking service, Consul with two healthy peers, a webhook, and a configuration that acts within
//! seconds of a leak.
//!
//! Each start of the service leaves a file behind, so that restarts are counted and not guessed from ids. Health is a
//! file too, beside the service's own PING: a story decides with it when a health check may pass.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::deadline::wait_until_seen;
use super::http::Request;
use super::spawned::ended_by;
use super::{Behaviour, Consul, Lab, Redis, RpcOrder, Spawned, Webhook, agent, service};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_unwait");
/// The instance of this host; two peers stand beside it.
pub const OWN: &str = "rpc-order-1";
/// From a start of the agent to the end of what a former one had begun.
pub const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// From a cause to what the agent is seen to do about it.
pub const SOON: Duration = Duration::from_secs(20);

const NAME: &str = "rpc-order";
const SLOTS: &str = "unwait/slots/rpc-order";
const KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const STEPS: &str = "\
steps:
  - snapshot: { deadline: 10s, required: true }
  - drain: { settle: 0s }
  - wait_drained: { inbound_at_most: 0, timeout: 30s, on_timeout: proceed }
  - restart: {}
  - health_check: { timeout: 30s, successes: 2, interval: 200ms }
  - restore: {}
  - verify: { soak: 1s, expect: [close_wait < 20] }
";

/// The stage. The service leaks, or soon will; the agent does not run yet.
pub struct Quick<'lab> {
    pub lab: &'lab Lab,
    pub consul: Consul<'lab>,
    pub service: RpcOrder<'lab>,
    pub webhook: Webhook<'lab>,
    state: PathBuf,
}

impl<'lab> Quick<'lab> {
    pub fn set(lab: &'lab Lab) -> Self {
        Self::set_with_state(lab, lab.dir().join("state"))
    }

    /// The state directory lies elsewhere: on a disk that is full, or where a unit may write.
    pub fn set_with_state(lab: &'lab Lab, state: PathBuf) -> Self {
        let consul = Consul::start(lab);
        count_starts(lab);
        let redis = Redis::start(lab, 6390, 1);
        let service = RpcOrder::start(lab, &redis, Behaviour::LeakUntilRestarted);
        consul.register(&json!({ "ID": OWN, "Name": NAME, "Address": "127.0.0.1", "Port": service::PORT }));
        consul.register_peers(NAME);
        let webhook = Webhook::start(lab);
        let quick = Self { lab, consul, service, webhook, state };
        quick.mend();
        quick.write_config();
        quick.wait_for_traffic(SOON);
        quick
    }

    // The configuration.

    pub fn etc(&self) -> PathBuf {
        self.lab.dir().join("etc")
    }

    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Replaces words of a file of the configuration: `agent.yaml`, `policies/leak.yaml`, `runbooks/recover.yaml`.
    pub fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.etc().join(file);
        let text = fs::read_to_string(&path).expect("the file was written");
        assert!(text.contains(from), "{file} does not say {from:?}:\n{text}");
        fs::write(path, text.replace(from, to)).expect("the lab's directory is writable");
    }

    fn write_config(&self) {
        let (etc, state, consul) = (self.etc(), self.state.display(), self.consul.url());
        let (url, key) = (etc.join("webhook"), etc.join("webhook-key"));
        let healthy = self.healthy();
        let agent = format!(
            "interval: 1s\ncpu_budget: 100%\nwarm_up: 0s\nrestart_grace: 0s\n\
             registries: {{ consul: {{ url: \"{consul}\" }} }}\n\
             services:\n  - service: {unit}\n    register: [{{ registry: consul, id: {OWN} }}]\n    \
             health: {{ exec: [/usr/bin/test, -e, {healthy}] }}\n\
             fleet: {{ consul: {{}} }}\n\
             evidence: {{ min_free: 1MiB }}\n\
             notify:\n  - to: {{ generic: {{ url_file: {url}, key_file: {key} }} }}\n    \
             events: [breach, held, start, step, end, stuck, recovered]\n\
             state: {state}\n",
            unit = service::UNIT,
            healthy = healthy.display(),
            url = url.display(),
            key = key.display(),
        );
        let policy = format!(
            "policy: leak\ndescription: Acts within seconds.\nservices: [{}]\nwhen: close_wait > 100\nfor: 1s\n\
             mode: auto\nrunbook: recover\nlimits: {{ cooldown: 1h, per_service: 5 per 6h, per_host: 5 per 6h }}\n\
             guards: {{ min_healthy: 1, fleet_slots: 1 }}\n",
            service::UNIT
        );
        let runbook = format!("runbook: recover\ndescription: Short waits.\n{STEPS}");
        for (file, text) in [
            ("agent.yaml", agent),
            ("policies/leak.yaml", policy),
            ("runbooks/recover.yaml", runbook),
            ("webhook", self.webhook.url("/unwait")),
            ("webhook-key", KEY.to_owned()),
        ] {
            let path = etc.join(file);
            fs::create_dir_all(path.parent().expect("below etc")).expect("the lab's directory is writable");
            fs::write(&path, text).expect("the lab's directory is writable");
            // Everybody may read what is no secret.
            let mode = if file.ends_with(".yaml") { 0o644 } else { 0o600 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the file is ours");
        }
        self.lab.run(&["chmod", "--recursive", "go-w", path_str(&etc)]);
    }

    // The agent.

    /// `unwait run` in the background. It may be on its way to `crash_at`, or to refuse its configuration.
    pub fn run(&self, crash_at: Option<&str>) -> Spawned {
        let crash_at = format!("UNWAIT_CRASH_AT={}", crash_at.unwrap_or("never"));
        self.lab.spawn(&["env", &crash_at, PROGRAM, "run", "--log", "json", "--config", path_str(&self.etc())])
    }

    /// The same, with a further word in its environment.
    pub fn run_with(&self, words: &[&str]) -> Spawned {
        let etc = self.etc();
        let run = [PROGRAM, "run", "--log", "json", "--config", path_str(&etc)];
        self.lab.spawn(&[&["env"][..], words, &run[..]].concat())
    }

    /// Runs the agent until it kills itself at this point.
    pub fn run_until_killed_at(&self, point: &str) {
        let mut agent = self.run(Some(point));
        let status = agent.wait(Duration::from_secs(45));
        assert_eq!(ended_by(status), Some(Signal::SIGKILL), "at {point}: {}", agent.output());
    }

    pub fn unwait(&self, arguments: &[&str]) -> Output {
        let etc = self.etc();
        let argv = [&[PROGRAM], arguments, &["--config", path_str(&etc)]].concat();
        self.lab.command(&argv).output().unwrap_or_else(|error| panic!("{argv:?}: {error}"))
    }

    /// What a verb says in JSON, whatever its exit code.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let output = self.unwait(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
    }

    /// The incidents so far, oldest first.
    pub fn incidents(&self) -> Vec<Value> {
        let mut incidents = self.ask(&["history"]).as_array().expect("a list of incidents").clone();
        incidents.reverse();
        incidents
    }

    /// Waits until the first incident has ended, and returns its row.
    pub fn wait_for_first_end(&self, deadline: Duration) -> Value {
        wait_until_seen("the first incident's end", deadline, || match self.incidents().first() {
            Some(first) if first["ended"].is_string() => Ok(first.clone()),
            other => Err(format!("{other:#?}")),
        })
    }

    /// Waits until people hear that an incident ended so.
    pub fn wait_until_told_end(&self, outcome: &str, reason: &str) -> Value {
        // Who asks for both is told of one that is stuck by `stuck` alone.
        let event = if outcome == "stuck" { "stuck" } else { "end" };
        let fits = |told: &Value| told["event"] == event && told["outcome"] == outcome && told["reason"] == reason;
        self.wait_until_told(&format!("the end: {outcome}, {reason}"), ENDS_WITHIN, fits)
    }

    pub fn wait_until_told(&self, what: &str, deadline: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        self.webhook.wait_for(what, deadline, |request| fits(&request.json())).json()
    }

    pub fn told(&self) -> Vec<Value> {
        self.webhook.requests().iter().map(Request::json).collect()
    }

    /// See [`agent::an_hour_passes`].
    pub fn an_hour_passes(&self) {
        agent::an_hour_passes(&self.state);
    }

    // What is so.

    /// How often the service was started, the first time included.
    pub fn starts(&self) -> usize {
        fs::read_dir(self.lab.dir().join("starts")).expect("the directory was made").count()
    }

    /// Clients are sent to this host's instance.
    pub fn is_in_traffic(&self) -> bool {
        self.consul.passing(NAME).iter().any(|id| id == OWN)
    }

    pub fn wait_for_traffic(&self, deadline: Duration) {
        wait_until_seen("the service in traffic", deadline, || {
            if self.is_in_traffic() { Ok(()) } else { Err(format!("{:?}", self.consul.maintenance(OWN))) }
        });
    }

    pub fn wait_for_drain(&self) {
        wait_until_seen("the drain", SOON, || {
            if self.is_in_traffic() { Err(format!("{:#?}", self.told())) } else { Ok(()) }
        });
    }

    /// The fleet's slots for the service that anybody holds.
    pub fn slots(&self) -> Vec<Value> {
        let document: Value = match self.consul.kv_get(SLOTS) {
            Some(text) => serde_json::from_str(&text).expect("the document of the slots"),
            None => return Vec::new(),
        };
        document["slots"].as_array().expect("a list of slots").clone()
    }

    /// In service and healthy, nothing of ours left behind.
    ///
    /// # Panics
    /// When it is not so, or not within some seconds where a slot is concerned: those are given back by the loop.
    pub fn assert_in_service(&self) {
        assert!(self.is_in_traffic(), "out of traffic: {:?}", self.consul.maintenance(OWN));
        assert_eq!(self.consul.maintenance(OWN), None, "a marker is left");
        assert!(self.service.answers(), "it does not answer");
        wait_until_seen("the slot to be given back", SOON, || {
            if self.slots().is_empty() { Ok(()) } else { Err(format!("{:?}", self.slots())) }
        });
    }

    // What a story does to it.

    /// A client's connection that does not end: `wait_drained` waits for as long as it lives.
    pub fn lingering_client(&self) -> TcpStream {
        self.lab.network().connect(self.service.address()).expect("the service listens")
    }

    pub fn mend(&self) {
        fs::write(self.healthy(), "").expect("the lab's directory is writable");
    }

    /// Health checks fail from now on.
    pub fn sicken(&self) {
        fs::remove_file(self.healthy()).expect("it was healthy");
    }

    fn healthy(&self) -> PathBuf {
        self.lab.dir().join("healthy")
    }
}

/// Each start of the service makes a file.
fn count_starts(lab: &Lab) {
    let starts = lab.dir().join("starts");
    fs::create_dir(&starts).expect("the lab's directory is writable");
    let drop_in = lab.inside("/etc/systemd/system").join(format!("{}.d", service::UNIT));
    fs::create_dir(&drop_in).expect("the lab's /etc is writable");
    let text = format!("[Service]\nExecStartPre=/usr/bin/mktemp --tmpdir={} start.XXXXXX\n", starts.display());
    fs::write(drop_in.join("count.conf"), text).expect("the lab's /etc is writable");
}

fn path_str(path: &Path) -> &str {
    path.to_str().expect("the lab's paths are UTF-8")
}
