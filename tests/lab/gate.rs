//! A service with clients, in a bare lab: two instances of `gate.php`, real HAProxies before them where a story wants any,
//! `clients.py`, and a configuration by which the first instance is drained and restarted within seconds of its leak.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::agent::{self, PROGRAM, Said, WEBHOOK_KEY};
use super::cast::{self, Peer};
use super::deadline::wait_until_seen;
use super::installed::installed;
use super::net::loopback;
use super::{Lab, Spawned, Webhook};

pub const SERVICE: &str = "process:gate";
const SOON: Duration = Duration::from_secs(20);
/// From the start of the agent to the end of an incident: two samples of the traffic, 5 s and 15 s, are most of it.
const WHOLE: Duration = Duration::from_secs(90);

pub struct Gate<'lab> {
    pub lab: &'lab Lab,
    pub webhook: Webhook<'lab>,
    /// What it listens on; the other instance and the balancers have those that follow.
    port: u16,
    _instances: Vec<Spawned>,
}

/// A balancer before both instances, which asks each every second how it is.
pub struct Balancer {
    _runs: Spawned,
    pub socket: PathBuf,
    pub port: u16,
}

impl<'lab> Gate<'lab> {
    /// `port` and some that follow are this story's alone. Returns when both instances answer; the first one leaks.
    pub fn open(lab: &'lab Lab, port: u16) -> Self {
        let peer = Peer::listen(lab).address();
        let start = |name, port| lab.spawn(&words(&instance(lab, name, port, peer)));
        let instances = vec![start("gate-1", port), start("gate-2", port + 1)];
        let dir = lab.dir().display();
        let service = format!(
            "    health: {{ http: \"http://{}/\" }}\n    \
             restart: {{ process: {{ argv: {}, pid_file: {dir}/gate-1.pid, stop_timeout: 5s }} }}\n",
            loopback(port),
            json!(instance(lab, "gate-1", port, peer)),
        );
        let gate = Self::of(lab, port, instances, &service);
        for port in [port, port + 1] {
            gate.wait_for_listener(port);
        }
        gate
    }

    /// Of other instances: the first one's pid stands in `gate-1.pid`. `service` are further lines of the host's
    /// file.
    pub fn of(lab: &'lab Lab, port: u16, instances: Vec<Spawned>, service: &str) -> Self {
        let webhook = Webhook::start(lab);
        let gate = Self { lab, webhook, port, _instances: instances };
        gate.write_configuration(service);
        gate
    }

    pub fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// Of `mode` `http` or `tcp`; `nth` tells it from others.
    pub fn balancer(&self, mode: &str, nth: u16) -> Balancer {
        let [socket, config] = ["sock", "cfg"].map(|kind| self.lab.dir().join(format!("haproxy-{nth}.{kind}")));
        let (port, own, other) = (self.port + 2 + nth, self.port, self.port + 1);
        let check = if mode == "http" { "  option httpchk\n" } else { "" };
        let text = format!(
            "global\n  stats socket {} mode 600 level admin\ndefaults\n  mode {mode}\n{check}  timeout connect 5s\n  \
             timeout client 60s\n  timeout server 60s\n  default-server check inter 1s\nlisten gate\n  \
             bind 127.0.0.1:{port}\n  server gate-1 127.0.0.1:{own}\n  server gate-2 127.0.0.1:{other}\n",
            socket.display()
        );
        fs::write(&config, text).expect("the lab's directory is writable");
        let program = installed("haproxy").join("usr/sbin/haproxy");
        let runs = self.lab.spawn(&[path(&program), "-db", "-f", path(&config)]);
        self.wait_for_listener(port);
        Balancer { _runs: runs, socket, port }
    }

    /// See `clients.py`.
    pub fn clients(&self, kind: &str, port: u16, sources: &[&str]) -> Spawned {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/clients.py");
        self.lab.spawn(&[&["/usr/bin/python3", script, kind, &port.to_string()], sources].concat())
    }

    /// How often the first instance was started.
    pub fn starts(&self) -> usize {
        let starts = fs::read_to_string(self.lab.dir().join("gate-1.starts")).expect("it was started");
        starts.lines().count()
    }

    fn wait_for_listener(&self, port: u16) {
        wait_until_seen(&format!("a listener on port {port}"), SOON, || self.lab.network().connect(loopback(port)));
    }

    // The agent.

    pub fn etc(&self) -> PathBuf {
        self.lab.dir().join("etc")
    }

    /// Where it is registered: what stands in `registries`, and the words of its binding.
    pub fn register(&self, registries: &str, binding: &str) {
        let file = self.etc().join("agent.yaml");
        let text = fs::read_to_string(&file).expect("it was written");
        let text = text.replace("registries: {}", &format!("registries: {{ {registries} }}"));
        cast::write(&file, &text.replace("register: []", &format!("register: [{{ {binding} }}]")));
    }

    pub fn register_with(&self, balancers: &[&Balancer]) {
        let sockets: Vec<&str> = balancers.iter().map(|balancer| path(&balancer.socket)).collect();
        self.register(&format!("haproxy: {{ sockets: {} }}", json!(sockets)), "registry: haproxy, id: gate/gate-1");
    }

    pub fn run(&self) -> Spawned {
        self.lab.spawn(&[PROGRAM, "run", "--log", "json", "--config", path(&self.etc())])
    }

    pub fn unwait(&self, arguments: &[&str]) -> Said {
        let etc = self.etc();
        let argv = [&[PROGRAM], arguments, &["--config", path(&etc)]].concat();
        Said::of(&self.lab.command(&argv).output().unwrap_or_else(|error| panic!("{argv:?}: {error}")))
    }

    /// See [`agent::an_hour_passes`].
    pub fn an_hour_passes(&self) {
        agent::an_hour_passes(&self.lab.dir().join("state"));
    }

    /// The incidents that are no dry-run, oldest first.
    pub fn incidents(&self) -> Vec<Value> {
        let mut incidents = self.unwait(&["history", "--json"]).json().as_array().expect("a list").clone();
        incidents.retain(|incident| incident["dry_run"] == false);
        incidents.reverse();
        incidents
    }

    /// What people hear at the end of the first incident: how and why it ended, and the lines below.
    pub fn end(&self) -> (String, String, String) {
        let is_end = |request: &super::http::Request| request.json()["event"] == "end";
        let told = self.webhook.wait_for("the end", WHOLE, is_end).json();
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        (text("outcome"), text("reason"), told["lines"].to_string())
    }

    /// What `show` tells of the first incident's drain.
    pub fn drain(&self) -> String {
        let id = self.incidents()[0]["incident"].as_str().expect("an id").to_owned();
        let shown = self.unwait(&["show", &id]).out;
        shown.lines().filter(|line| line.contains("drain")).collect::<Vec<_>>().join("\n")
    }

    fn write_configuration(&self, service: &str) {
        let (dir, etc) = (self.lab.dir().display(), self.etc());
        let agent = format!(
            "interval: 1s\ncpu_budget: 100%\nwarm_up: 0s\nrestart_grace: 0s\nregistries: {{}}\n\
             services:\n  - service: {SERVICE}\n    match: {{ pid_file: {dir}/gate-1.pid }}\n    register: []\n{service}\
             evidence: {{ min_free: 1MiB }}\n\
             notify:\n  - to: {{ generic: {{ url_file: {dir}/etc/webhook, key_file: {dir}/etc/webhook-key }} }}\n    \
             events: [breach, held, start, step, end, stuck, recovered]\n\
             state: {dir}/state\n",
        );
        let policy = format!(
            "policy: leak\ndescription: Acts within seconds.\nservices: [\"{SERVICE}\"]\nwhen: close_wait > 2\nfor: 2s\n\
             mode: auto\nrunbook: recover\nlimits: {{ cooldown: 1m, per_service: 5 per 6h, per_host: 5 per 6h }}\n\
             guards: {{ min_healthy: 1, fleet_slots: none }}\n"
        );
        let runbook = "runbook: recover\ndescription: Short waits.\nsteps:\n  - snapshot: { deadline: 10s, required: true }\n  \
                       - drain: { settle: 1s }\n  - wait_drained: { inbound_at_most: 0, timeout: 1s, on_timeout: proceed }\n  \
                       - restart: {}\n  - health_check: { timeout: 30s, successes: 2, interval: 200ms }\n  - restore: {}\n  \
                       - verify: { soak: 1s, expect: [close_wait < 2] }\n";
        for (file, text) in [
            ("agent.yaml", agent.as_str()),
            ("policies/leak.yaml", &policy),
            ("runbooks/recover.yaml", runbook),
            ("webhook", &self.webhook.url("/unwait")),
            ("webhook-key", WEBHOOK_KEY),
        ] {
            cast::write(&etc.join(file), text);
        }
    }

    /// A program that a hook may be.
    pub fn program(&self, name: &str, text: &str) -> PathBuf {
        let program = self.lab.dir().join(name);
        fs::write(&program, text).expect("the lab's directory is writable");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        program
    }
}

fn instance(lab: &Lab, name: &str, port: u16, peer: SocketAddr) -> [String; 6] {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/gate.php");
    ["/usr/bin/php", script, name, path(lab.dir()), &port.to_string(), &peer.to_string()].map(str::to_owned)
}

fn words(argv: &[String]) -> Vec<&str> {
    argv.iter().map(String::as_str).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the lab's paths are UTF-8")
}
