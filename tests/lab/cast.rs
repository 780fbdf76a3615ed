//! A whole host on a sheet of paper, for what must be played by the hundred: `outside/main.rs` as the service, a file as
//! its registry, a Redis that all of them share for the fleet, and the real agent, whose steps wait a hundred times
//! shorter. A run takes some seconds, most of which is waiting.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use unwait::clock::SystemClock;
use unwait::store::{StateDir, Store};

use super::deadline::wait_until_seen;
use super::net::loopback;
use super::{Lab, Spawned, Webhook};

const PROGRAM: &str = env!("CARGO_BIN_EXE_unwait");
pub const REDIS_PORT: u16 = 6390;
/// The service, as the host's file and the registry name it.
pub const SERVICE: &str = "process:svc";
pub const OWN: &str = "svc-1";
const NAME: &str = "svc";
/// How many times shorter the runbooks' waits are.
const FASTER: u32 = 120;
const SOON: Duration = Duration::from_secs(20);

static HOSTS: AtomicUsize = AtomicUsize::new(0);
static PORTS: AtomicU16 = AtomicU16::new(20_000);

/// Closes each connection as soon as it is made.
pub struct Peer(SocketAddr);

impl Peer {
    /// It listens for as long as the process runs: the lab's network outlives no test.
    pub fn listen(lab: &Lab) -> Self {
        let listener: TcpListener = lab.network().listen(loopback(0)).expect("a port in the lab");
        let address = listener.local_addr().expect("a listener has an address");
        std::thread::spawn(move || listener.incoming().for_each(drop));
        Self(address)
    }

    pub fn address(&self) -> SocketAddr {
        self.0
    }
}

/// One host. Its service leaks; no agent runs yet.
pub struct Host<'lab> {
    lab: &'lab Lab,
    dir: PathBuf,
    port: u16,
    /// The database of the shared Redis.
    database: usize,
    pub webhook: Webhook<'lab>,
    service: Spawned,
    agents: AtomicUsize,
}

impl<'lab> Host<'lab> {
    /// `behaviour` is what the service does from its second start on; `database` nobody else's at this time.
    pub fn set(lab: &'lab Lab, peer: &Peer, runbook: &str, behaviour: &str, database: usize) -> Self {
        let dir = lab.dir().join(format!("h{}", HOSTS.fetch_add(1, Ordering::Relaxed)));
        // Not among the ephemeral ones, so that nobody takes it while the service restarts.
        let port = PORTS.fetch_add(1, Ordering::Relaxed);
        fs::create_dir(&dir).expect("the lab's directory is writable");
        fs::write(dir.join("behaviour"), behaviour).expect("the lab's directory is writable");
        let webhook = Webhook::start(lab);
        let argv = [outside(), path(&dir), port.to_string(), peer.0.to_string()];
        write_registry(&dir, port);
        write_configuration(&dir, port, &argv, runbook, database, &webhook.url("/unwait"));
        let service = lab.spawn(&argv.each_ref().map(String::as_str));
        let host = Self { lab, dir, port, database, webhook, service, agents: AtomicUsize::new(0) };
        // Slots are taken at once only where the line of masters is none that has just come to be.
        let line = "string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')";
        let known = format!("return redis.call('HSET', 'unwait:line:{{unwait:slots}}', 'line', {line}, 'since', 1)");
        host.redis(&format!("SELECT {database}\r\nFLUSHDB\r\nEVAL \"{known}\" 0\r\n"), 3);
        wait_until_seen("the service to listen", SOON, || {
            if host.answers() { Ok(()) } else { Err(host.service.output()) }
        });
        host
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// `unwait run` in the background, on its way to be killed there where it is told to.
    pub fn run(&self, crash_at: Option<&str>) -> Agent {
        let log = self.dir.join(format!("points-{}", self.agents.fetch_add(1, Ordering::Relaxed)));
        let faster = format!("UNWAIT_FASTER={FASTER}");
        let crash_log = format!("UNWAIT_CRASH_LOG={}", log.display());
        let crash_at = format!("UNWAIT_CRASH_AT={}", crash_at.unwrap_or("never"));
        let etc = path(&self.dir.join("etc"));
        let argv = ["env", &faster, &crash_log, &crash_at, PROGRAM, "run", "--log", "json", "--config", &etc];
        Agent { spawned: self.lab.spawn(&argv), log }
    }

    /// What the agent has kept; `None` before its first start.
    pub fn store(&self) -> Option<Store> {
        Store::open_to_read(&StateDir::database_of(&self.state()), Arc::new(SystemClock)).ok()
    }

    /// The reason that stands beside our instance's drain.
    pub fn drained_by(&self) -> Option<String> {
        let text = fs::read_to_string(self.registry()).expect("the registry is there");
        let registry: Value = serde_json::from_str(&text).expect("the registry is JSON");
        let own = registry["instances"].as_array().and_then(|all| all.iter().find(|one| one["id"] == OWN).cloned());
        own.expect("our instance stands there")["drained"]["by"].as_str().map(str::to_owned)
    }

    pub fn registry(&self) -> PathBuf {
        self.dir.join("registry.json")
    }

    pub fn answers(&self) -> bool {
        self.lab.network().connect(loopback(self.port)).is_ok()
    }

    /// The pid of each start, as the lab sees it.
    pub fn starts(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.dir.join("starts")).expect("it was started");
        text.lines().map(|line| line.parse().expect("a pid")).collect()
    }

    /// Those of its processes that run now.
    pub fn running(&self) -> Vec<i32> {
        let runs = |pid: &i32| {
            let process = self.lab.inside(format!("/proc/{pid}"));
            // A process that has ended and waits to be reaped has no command line.
            fs::read(process.join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).split('\0').any(|word| Path::new(word) == self.dir))
        };
        self.starts().into_iter().filter(runs).collect()
    }

    /// The incidents that hold the fleet's slots for the service.
    pub fn slots(&self) -> Vec<String> {
        let answer = self.redis(&format!("SELECT {}\r\nHGET unwait:slots {NAME}\r\n", self.database), 2);
        let Some((_, document)) = answer.split_once(' ') else { return Vec::new() };
        let document: Value = serde_json::from_str(document.trim()).expect("the document of the slots");
        let slots = document["slots"].as_array().expect("a list of slots");
        slots.iter().map(|slot| slot["incident"].as_str().expect("an incident").to_owned()).collect()
    }

    pub fn told(&self) -> Vec<Value> {
        self.webhook.requests().iter().map(super::http::Request::json).collect()
    }

    /// Replaces words of a file of the configuration.
    pub fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.dir.join("etc").join(file);
        let text = fs::read_to_string(&path).expect("the file was written");
        assert!(text.contains(from), "{file} does not say {from:?}:\n{text}");
        fs::write(path, text.replace(from, to)).expect("the lab's directory is writable");
    }

    /// Ends the service for good, without a word.
    pub fn kill_service(&self) {
        for pid in self.running() {
            self.lab.run(&["kill", "-KILL", &pid.to_string()]);
        }
    }

    /// Sends commands, and returns the last of as many answers.
    fn redis(&self, commands: &str, answers: usize) -> String {
        let stream: TcpStream = self.lab.network().connect(loopback(REDIS_PORT)).expect("Redis listens");
        (&stream).write_all(commands.as_bytes()).expect("Redis reads");
        let mut reader = BufReader::new(stream);
        let mut last = String::new();
        for _ in 0..answers {
            last.clear();
            reader.read_line(&mut last).expect("Redis answers");
        }
        match last.trim_end().strip_prefix('$').and_then(|length| length.parse::<usize>().ok()) {
            Some(length) => {
                let mut text = vec![0; length];
                reader.read_exact(&mut text).expect("as much as it says");
                String::from_utf8(text).expect("the document is text")
            }
            None => String::new(),
        }
    }
}

impl Drop for Host<'_> {
    /// The service ends once its directory is gone.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for file in ["registry.json", "starts", "behaviour"] {
                eprintln!("{file}: {}", fs::read_to_string(self.dir.join(file)).unwrap_or_default());
            }
        }
        drop(fs::remove_dir_all(&self.dir));
        // A write that came in between may have made part of it anew.
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// An agent that runs, or has ended.
pub struct Agent {
    pub spawned: Spawned,
    log: PathBuf,
}

impl Agent {
    /// The points that it has passed, each as often as it did.
    pub fn points(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Built beside the agent.
pub fn outside() -> String {
    let program = Path::new(PROGRAM).with_file_name("outside");
    assert!(program.exists(), "{} is missing: build with --features crash-points", program.display());
    path(&program)
}

fn path(path: &Path) -> String {
    path.to_str().expect("the lab's paths are UTF-8").to_owned()
}

fn write_registry(dir: &Path, port: u16) {
    let instance = |id: &str, address: String| json!({ "id": id, "name": NAME, "address": address, "healthy": true, "drained": null });
    let registry = json!({ "instances": [
        instance(OWN, loopback(port).to_string()),
        instance("svc-2", "192.0.2.2:7801".into()),
        instance("svc-3", "192.0.2.3:7801".into()),
    ] });
    fs::write(dir.join("registry.json"), registry.to_string()).expect("the lab's directory is writable");
}

fn write_configuration(dir: &Path, port: u16, argv: &[String], runbook: &str, database: usize, webhook: &str) {
    let etc = dir.join("etc");
    let shown = dir.display();
    let agent = format!(
        "interval: 1s\ncpu_budget: 100%\nwarm_up: 0s\nrestart_grace: 0s\n\
         registries: {{ file: {{ path: {shown}/registry.json }} }}\n\
         services:\n  - service: {SERVICE}\n    match: {{ pid_file: {shown}/service.pid }}\n    \
         register: [{{ registry: file, id: {OWN} }}]\n    health: {{ tcp: \"{address}\" }}\n    \
         restart: {{ process: {{ argv: {argv}, pid_file: {shown}/service.pid, stop_timeout: 5s, reload_signal: HUP }} }}\n\
         fleet: {{ redis: {{ url: \"redis://127.0.0.1:{REDIS_PORT}/{database}\", may_lose_slots: true }} }}\n\
         evidence: {{ min_free: 1MiB }}\n\
         notify:\n  - to: {{ generic: {{ url_file: {shown}/etc/webhook, key_file: {shown}/etc/webhook-key }} }}\n    \
         events: [breach, held, start, step, end, stuck, recovered]\n\
         state: {shown}/state\n",
        address = loopback(port),
        argv = json!(argv),
    );
    let policy = format!(
        "policy: leak\ndescription: Acts at once.\nservices: [\"{SERVICE}\"]\nwhen: close_wait > 2\nfor: 0s\n\
         mode: auto\nrunbook: {runbook}\nlimits: {{ cooldown: 1h, per_service: 5 per 6h, per_host: 5 per 6h }}\n\
         guards: {{ min_healthy: 1, fleet_slots: 1 }}\n"
    );
    write(&etc.join("agent.yaml"), &agent);
    write(&etc.join("policies/leak.yaml"), &policy);
    write(&etc.join("webhook"), webhook);
    write(&etc.join("webhook-key"), super::agent::WEBHOOK_KEY);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("runbooks");
    for file in fs::read_dir(shipped).expect("the runbooks are shipped") {
        let file = file.expect("an entry").path();
        if file.extension().is_some_and(|extension| extension == "yaml") {
            let text = fs::read_to_string(&file).expect("a runbook is text");
            write(&etc.join("runbooks").join(file.file_name().expect("a file has a name")), &text);
        }
    }
}

/// As the agent wants its configuration: nobody else may write it, whatever the umask.
pub fn write(path: &Path, text: &str) {
    let folder = path.parent().expect("below etc");
    fs::create_dir_all(folder).expect("the lab's directory is writable");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("the directory is ours");
    fs::write(path, text).expect("the lab's directory is writable");
    // Two of them are secrets.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
}
