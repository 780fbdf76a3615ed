//! The demo's directory: a whole host's configuration, as a person would write it, with the files beside it that the
//! service, the registry and the agent live in. Nothing of the demo is anywhere else.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::store::StateDir;

pub const WORKERS: usize = 8;
/// Of each worker to the peer.
pub const CONNECTIONS: usize = 6;
/// After this long without a word the peer closes a connection.
pub const PEER_IDLE: Duration = Duration::from_secs(2);

pub const PEER_PORT: &str = "demo-redis.port";
pub const SERVICE_PORT: &str = "demo-rpc.port";
pub const PID_FILE: &str = "demo-rpc.pid";
pub const SERVICE: &str = "process:demo-rpc";
/// The service's own id in the registry; the two others stand for instances on other hosts.
pub const INSTANCE: &str = "demo-rpc-1";
pub const AGENT_LOG: &str = "agent.log";
/// `sun_path` of unix(7), with its closing NUL.
const MAX_SOCKET_PATH: usize = 108;
const REGISTRY: &str = "registry.json";

/// Writes beside and renames, so that whoever reads sees all of it or the former one.
pub fn announce(path: &Path, number: impl std::fmt::Display) -> io::Result<()> {
    let mut written = path.as_os_str().to_owned();
    written.push(".new");
    fs::write(&written, format!("{number}\n"))?;
    fs::rename(written, path)
}

/// The directory, private to its user.
#[derive(Debug)]
pub struct Stage {
    pub dir: PathBuf,
}

/// What the configuration must know of the programs that run.
#[derive(Clone, Copy, Debug)]
pub struct Cues {
    pub peer: SocketAddr,
    pub service: SocketAddr,
    pub chat: SocketAddr,
    pub dry_run: bool,
}

impl Stage {
    /// Makes the directory, under TMPDIR.
    pub fn set() -> io::Result<Self> {
        let under = std::env::temp_dir();
        let refused = |why: &dyn std::fmt::Display| {
            io::Error::other(format!("no directory for it in {}: {why}; name another in TMPDIR", under.display()))
        };
        let template = under.join("unwait-demo-XXXXXX");
        if StateDir::socket_of(&template.join("state")).as_os_str().len() >= MAX_SOCKET_PATH {
            return Err(refused(&"its path is too long for a unix socket"));
        }
        let dir = nix::unistd::mkdtemp(&template).map_err(|errno| refused(&errno.desc()))?;
        Ok(Self { dir: dir.canonicalize()? })
    }

    /// Removes all of it.
    pub fn strike(self) -> io::Result<()> {
        fs::remove_dir_all(&self.dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn evidence(&self, incident: &str) -> PathBuf {
        StateDir::evidence_of(&self.path("state")).join(incident)
    }

    /// Writes the registry's file and the configuration. `argv` starts the service.
    pub fn furnish(&self, cues: &Cues, argv: &[String]) -> io::Result<()> {
        self.write(REGISTRY, &format!("{:#}\n", registry(cues)))?;
        self.write("chat.url", &format!("http://{}/\n", cues.chat))?;
        self.write("chat.key", &signing_key()?)?;
        self.write("agent.yaml", &self.agent(cues, argv))?;
        self.write("policies/close-wait-leak.yaml", &policy(cues.dry_run))?;
        self.write("runbooks/isolate-restart-recover.yaml", RUNBOOK)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        io::Write::write_all(&mut file, text.as_bytes())
    }

    fn agent(&self, cues: &Cues, argv: &[String]) -> String {
        // A JSON string is a YAML string, whatever the directory is called.
        let path = |name: &str| json!(self.path(name));
        let argv = Value::from(argv);
        let service = cues.service;
        format!(
            "\
# What /etc/unwait/agent.yaml is on a production host.
interval: 1s
cpu_budget: 100%
warm_up: 0s
restart_grace: 0s
registries:
  file: {{ path: {registry} }}
services:
  - service: {SERVICE}
    match: {{ pid_file: {pid_file} }}
    register: [{{ registry: file, id: {INSTANCE} }}]
    health: {{ redis_ping: \"{service}\" }}
    restart:
      process:
        argv: {argv}
        pid_file: {pid_file}
        stop_timeout: 5s
notify:
  - to: {{ generic: {{ url_file: {url}, key_file: {key} }} }}
    events: [breach, start, end, stuck]
evidence: {{ min_free: 1MiB }}
state: {state}
",
            registry = path(REGISTRY),
            pid_file = path(PID_FILE),
            url = path("chat.url"),
            key = path("chat.key"),
            state = path("state"),
        )
    }

    /// The instances of the service that clients are sent to now, as the registry's file says.
    pub fn in_traffic(&self) -> io::Result<Vec<String>> {
        let registry: Value = serde_json::from_slice(&fs::read(self.path(REGISTRY))?)?;
        let instances = registry["instances"].as_array().cloned().unwrap_or_default();
        let takes_traffic = |instance: &&Value| {
            instance["name"] == "demo-rpc" && instance["healthy"] == true && instance["drained"].is_null()
        };
        Ok(instances
            .iter()
            .filter(takes_traffic)
            .filter_map(|instance| Some(instance["id"].as_str()?.into()))
            .collect())
    }

    /// What an action would change.
    pub fn as_it_is(&self) -> io::Result<AsItIs> {
        let pid = fs::read_to_string(self.path(PID_FILE))?;
        let pid = pid.trim().parse().map_err(|_| io::Error::other(format!("{PID_FILE} holds no pid")))?;
        Ok(AsItIs { pid, registry: fs::read_to_string(self.path(REGISTRY))? })
    }
}

/// The service's main process and the registry's file, to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsItIs {
    pub pid: i32,
    pub registry: String,
}

fn registry(cues: &Cues) -> Value {
    let instance = |id: &str, name: &str, address: SocketAddr| json!({ "id": id, "name": name, "address": address, "healthy": true, "drained": null });
    // 192.0.2.0/24 is for documentation (RFC 5737): nobody is there.
    let elsewhere = |host: u8| SocketAddr::from((Ipv4Addr::new(192, 0, 2, host), cues.service.port()));
    json!({ "instances": [
        instance(INSTANCE, "demo-rpc", cues.service),
        instance("demo-rpc-2", "demo-rpc", elsewhere(2)),
        instance("demo-rpc-3", "demo-rpc", elsewhere(3)),
        instance("demo-redis-1", "demo-redis", cues.peer),
    ] })
}

fn signing_key() -> io::Result<String> {
    let mut key = [0; 24];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut key)?;
    Ok(STANDARD.encode(key))
}

fn policy(dry_run: bool) -> String {
    let mode = if dry_run { "dry-run" } else { "auto" };
    format!(
        "\
policy: close-wait-leak
description: Sockets that the peer closed seconds ago, still held by the service. Real policies wait for minutes.
services: [\"{SERVICE}\"]
when:
  all:
    - close_wait.aged(2s) > 20
for: 3s
mode: {mode}
runbook: isolate-restart-recover
guards:
  min_healthy: 50%
  fleet_slots: none
"
    )
}

const RUNBOOK: &str = "\
runbook: isolate-restart-recover
description: Keep the evidence, take the service out of traffic, restart it, put it back.
steps:
  - snapshot: { deadline: 10s, required: true }
  - drain: { settle: 1s }
  - wait_drained: { inbound_at_most: 0, timeout: 5s, on_timeout: proceed }
  - restart: { deadline: 20s }
  - health_check: { timeout: 10s, successes: 3, interval: 500ms }
  - restore: {}
  - verify: { soak: 8s, expect: [close_wait.aged(2s) < 5] }
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::model::{Mode, ServiceName, Step};

    fn furnished(dry_run: bool) -> Stage {
        let stage = Stage::set().unwrap();
        let at: SocketAddr = "127.0.0.1:1".parse().unwrap();
        stage.furnish(&Cues { peer: at, service: at, chat: at, dry_run }, &["/bin/true".into()]).unwrap();
        stage
    }

    #[test]
    fn the_configuration_is_one_that_the_agent_takes_and_can_act_on() {
        for (dry_run, mode) in [(true, Mode::DryRun), (false, Mode::Auto)] {
            let stage = furnished(dry_run);
            let config = config::load(&stage.dir).unwrap_or_else(|errors| panic!("{errors}"));
            let [policy] = config.policies.as_slice() else { panic!("one policy") };
            let target = config.target_for(&ServiceName::parse(SERVICE).unwrap());
            assert_eq!((policy.mode, config.lacks(policy, &target)), (mode, Vec::new()));
            let soak = policy.runbook.steps.iter().find_map(|step| match step {
                Step::Verify { soak, .. } => Some(*soak),
                _ => None,
            });
            assert!(soak.is_some_and(|soak| soak > PEER_IDLE), "a soak that the peer outwaits proves nothing");
            stage.strike().unwrap();
        }
    }

    #[test]
    fn a_drained_instance_is_not_in_traffic() {
        let stage = furnished(true);
        assert_eq!(stage.in_traffic().unwrap(), [INSTANCE, "demo-rpc-2", "demo-rpc-3"]);
        let drained = fs::read_to_string(stage.path(REGISTRY)).unwrap().replacen("null", r#"{"by":"somebody"}"#, 1);
        fs::write(stage.path(REGISTRY), drained).unwrap();
        assert_eq!(stage.in_traffic().unwrap(), ["demo-rpc-2", "demo-rpc-3"]);
        stage.strike().unwrap();
    }
}
