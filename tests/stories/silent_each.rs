//! Each party by itself that accepts and never answers: what depends on it waits, and nothing else does. [`crate::silent`]
//! plays the same with a real Consul that is stopped.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::lab::agent::{PROGRAM, Said, WEBHOOK_KEY};
use crate::lab::cast::{Peer, outside, write};
use crate::lab::deadline::{holds_for, wait_until, wait_until_seen};
use crate::lab::net::loopback;
use crate::lab::{Lab, Spawned, Webhook, http};
use crate::silent::ticked;

/// Depends on the party.
const BOUND: &str = "process:bound";
/// Depends on nobody.
const ALONE: &str = "process:alone";
const SOON: Duration = Duration::from_secs(60);
/// The agent's own aim is 100 ms.
const AT_ONCE: Duration = Duration::from_secs(4);
/// The agent's own aim is 2 s.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Nobody ever accepts what the kernel takes in here.
const PORT: u16 = 7999;
const BOUNDS_PORT: u16 = 7811;
const ALONES_PORT: u16 = 7812;

/// How the host's file names the party.
#[derive(Default)]
struct Party {
    registries: &'static str,
    /// Of the service that depends on it.
    binding: &'static str,
    fleet: &'static str,
    notify: &'static str,
    /// Before the program's name.
    environment: &'static str,
}

struct Host<'lab> {
    lab: &'lab Lab,
    etc: PathBuf,
    _services: Vec<Spawned>,
    _tcp: TcpListener,
    _unix: UnixListener,
    webhook: Webhook<'lab>,
}

impl<'lab> Host<'lab> {
    /// In its words `PORT`, `SOCKET` and `SILENT` (a file with the party's address) stand for the party that is silent.
    fn set(lab: &'lab Lab, party: &Party) -> Self {
        let tcp = lab.network().listen(loopback(PORT)).expect("a port in the lab");
        let socket = lab.dir().join("silent.sock");
        let unix = UnixListener::bind(&socket).expect("the lab's directory is writable");
        let (etc, webhook) = (lab.dir().join("etc"), Webhook::start(lab));
        let peer = Peer::listen(lab).address().to_string();
        let (bound, bounds) = start(lab, "bound", BOUNDS_PORT, &peer);
        let (alone, alones) = start(lab, "alone", ALONES_PORT, &peer);
        let dir = lab.dir().display();
        let agent = format!(
            "interval: 1s\ncpu_budget: 100%\nwarm_up: 0s\nrestart_grace: 0s\nregistries: {{ {registries} }}\nhttp: {{}}\n\
             services:\n{bound}    {binding}\n{alone}{fleet}\nevidence: {{ min_free: 1MiB }}\n\
             notify:\n  - to: {{ generic: {{ url_file: {dir}/etc/webhook, key_file: {dir}/etc/webhook-key }} }}\n    \
             events: [breach, held, start, step, end, stuck, recovered]\n{notify}\nstate: {dir}/state\n",
            registries = party.registries,
            binding = party.binding,
            fleet = party.fleet,
            notify = party.notify,
        );
        let words = [("PORT", PORT.to_string()), ("SOCKET", socket.display().to_string())];
        let said = |text: &str| words.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        write(&etc.join("agent.yaml"), &said(&agent).replace("SILENT", &format!("{dir}/etc/silent")));
        for (name, service, guards, runbook) in [
            (
                "bound",
                BOUND,
                if party.fleet.is_empty() { "fleet_slots: none" } else { "fleet_slots: 1" },
                runbook(party),
            ),
            ("alone", ALONE, "fleet_slots: none", IN_PLACE.into()),
        ] {
            let policy = format!(
                "policy: {name}\nservices: [\"{service}\"]\nwhen: close_wait > 2\nfor: 0s\nmode: auto\nrunbook: {name}\n\
                 limits: {{ cooldown: 1h, per_service: 5 per 6h, per_host: 5 per 6h }}\nguards: {{ {guards} }}\n"
            );
            write(&etc.join(format!("policies/{name}.yaml")), &policy);
            write(&etc.join(format!("runbooks/{name}.yaml")), &format!("runbook: {name}\nsteps:\n{runbook}"));
        }
        write(&etc.join("webhook"), &webhook.url("/unwait"));
        write(&etc.join("webhook-key"), WEBHOOK_KEY);
        write(&etc.join("silent"), &said("http://127.0.0.1:PORT/hook"));
        let host = Self { lab, etc, _services: vec![bounds, alones], _tcp: tcp, _unix: unix, webhook };
        wait_until("both services to leak", SOON, || {
            let listing = lab.stdout(&["ss", "--tcp", "--numeric", "--no-header", "state", "close-wait"]);
            (listing.lines().count() >= 8).then_some(())
        });
        host
    }

    fn run(&self, party: &Party) -> Spawned {
        let socket = self.lab.dir().join("silent.sock").display().to_string();
        let environment = party.environment.replace("SOCKET", &socket);
        let etc = self.etc.display().to_string();
        let run = ["env", &environment, PROGRAM, "run", "--log", "json", "--config", &etc];
        self.lab.spawn(&run.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>())
    }

    /// What a verb says, which is to end at once.
    fn ask(&self, arguments: &[&str]) -> Result<Value, String> {
        let (seconds, etc) = (AT_ONCE.as_secs().to_string(), self.etc.display().to_string());
        let argv = [&["timeout", &seconds, PROGRAM], arguments, &["--json", "--config", &etc]].concat();
        let said = Said::of(&self.lab.command(&argv).output().expect("it starts"));
        serde_json::from_str(&said.out).map_err(|error| format!("{arguments:?}: {error}: {}", said.all()))
    }

    fn starts(&self, service: &str) -> usize {
        let text = std::fs::read_to_string(self.lab.dir().join(service).join("starts")).expect("it was started");
        text.lines().count()
    }
}

const IN_PLACE: &str =
    "  - snapshot: {}\n  - restart: {}\n  - health_check: { timeout: 30s, successes: 1, interval: 200ms }\n";

/// Of the service that depends on the party: with a drain, where that is a registry.
fn runbook(party: &Party) -> String {
    match party.registries.is_empty() {
        true => IN_PLACE.into(),
        false => IN_PLACE.replace("  - restart", "  - drain: { settle: 0s }\n  - restart") + "  - restore: {}\n",
    }
}

/// Starts a service that leaks until it is restarted; its lines of the host's file.
fn start(lab: &Lab, name: &str, port: u16, peer: &str) -> (String, Spawned) {
    let dir = lab.dir().join(name);
    std::fs::create_dir(&dir).expect("the lab's directory is writable");
    write(&dir.join("behaviour"), "listens_after 300\n");
    let dir = dir.display().to_string();
    let argv = [outside(), dir.clone(), port.to_string(), peer.to_owned()];
    let lines = format!(
        "  - service: process:{name}\n    match: {{ pid_file: {dir}/service.pid }}\n    health: {{ tcp: \"{}\" }}\n    \
         restart: {{ process: {{ argv: {}, pid_file: {dir}/service.pid, stop_timeout: 5s }} }}\n",
        loopback(port),
        json!(argv),
    );
    (lines, lab.spawn(&argv.each_ref().map(String::as_str)))
}

/// The agent beside the party: it looks, it answers people, it remedies the other service, and it ends when it is asked to.
fn play(party: &Party, bound_is_held: bool) {
    let lab = Lab::start();
    play_in(&lab, party, bound_is_held);
}

fn play_in(lab: &Lab, party: &Party, bound_is_held: bool) {
    let host = Host::set(lab, party);
    let mut agent = host.run(party);
    let get = |path| http::ask(lab.network(), loopback(9817), "GET", path, None, "");
    let healthy = || get("/healthz").is_ok_and(|answer| answer.status == 200);
    let ticks = || Some(ticked(&get("/metrics").ok()?.body));

    wait_until_seen("the other service to be remedied", SOON, || match host.starts("alone") {
        2 => Ok(()),
        _ => Err(format!("{:?}\n{}", host.ask(&["status"]), agent.output())),
    });
    let from = wait_until("the agent to serve", SOON, ticks);
    holds_for("people are answered at once", Duration::from_secs(6), || {
        for asks in [["status", ""], ["explain", BOUND], ["explain", ALONE]] {
            host.ask(asks.split(|word| word.is_empty()).next().expect("a verb"))?;
        }
        if healthy() { Ok(()) } else { Err("/healthz is not well".to_owned()) }
    });
    wait_until("the agent to look on", SOON, || (ticks()? >= from + 4.0).then_some(()));
    wait_until_seen("the other incident's end to be told", SOON, || {
        let told = host.webhook.requests();
        let ends = told.iter().any(|one| one.json()["event"] == "end" && one.json()["service"] == ALONE);
        if ends { Ok(()) } else { Err(agent.output()) }
    });
    if bound_is_held {
        wait_until_seen("the bound service to be held", SOON, || {
            let status = host.ask(&["status"])?;
            let held = status["agent"]["held"].as_array().cloned().unwrap_or_default();
            match held.iter().any(|held| held["service"] == BOUND) {
                true => Ok(()),
                false => Err(format!("{status:#}\n{}", agent.output())),
            }
        });
        assert_eq!(host.starts("bound"), 1, "{}", agent.output());
    }
    agent.signal(Signal::SIGTERM);
    agent.wait(ENDS_WITHIN);
}

#[test]
fn consul() {
    let registries = "consul: { url: \"http://127.0.0.1:PORT\" }";
    play(&Party { registries, binding: "register: [{ registry: consul, id: a-1 }]", ..Party::default() }, true);
}

#[test]
fn etcd() {
    let registries = "etcd: { url: \"http://127.0.0.1:PORT\", key: \"/s/{service}/{instance}\", override: \"/o/{service}/{instance}\" }";
    play(&Party { registries, binding: "register: [{ registry: etcd, id: a/1 }]", ..Party::default() }, true);
}

#[test]
fn nacos() {
    let registries = "nacos: { url: \"http://127.0.0.1:PORT/nacos\" }";
    play(
        &Party { registries, binding: "register: [{ registry: nacos, id: \"a/127.0.0.1:7811\" }]", ..Party::default() },
        true,
    );
}

#[test]
fn eureka() {
    let registries = "eureka: { url: \"http://127.0.0.1:PORT/eureka\" }";
    play(&Party { registries, binding: "register: [{ registry: eureka, id: A/a-1 }]", ..Party::default() }, true);
}

#[test]
fn zookeeper() {
    let registries = "zookeeper: { servers: [\"127.0.0.1:PORT\"] }";
    play(
        &Party {
            registries,
            binding: "register: [{ registry: zookeeper, id: \"a/127.0.0.1:7811\" }]",
            ..Party::default()
        },
        true,
    );
}

#[test]
fn redis() {
    let registries = "redis: { url: \"redis://127.0.0.1:PORT\", profile: set, key: \"rpc:{service}\" }";
    play(
        &Party { registries, binding: "register: [{ registry: redis, id: \"a/127.0.0.1:7811\" }]", ..Party::default() },
        true,
    );
}

#[test]
fn haproxy() {
    let registries = "haproxy: { sockets: [SOCKET] }";
    play(&Party { registries, binding: "register: [{ registry: haproxy, id: a/s1 }]", ..Party::default() }, true);
}

#[test]
fn the_fleets_etcd() {
    play(&Party { fleet: "fleet: { etcd: { url: \"http://127.0.0.1:PORT\" } }", ..Party::default() }, true);
}

#[test]
fn the_fleets_redis() {
    let fleet = "fleet: { redis: { url: \"redis://127.0.0.1:PORT\", may_lose_slots: true } }";
    play(&Party { fleet, ..Party::default() }, true);
}

#[test]
fn the_fleets_fleetlock() {
    play(&Party { fleet: "fleet: { fleetlock: { url: \"http://127.0.0.1:PORT\" } }", ..Party::default() }, true);
}

#[test]
fn a_destination_of_messages() {
    let notify =
        "  - to: { slack: { url_file: SILENT } }\n    events: [breach, held, start, step, end, stuck, recovered]\n";
    play(&Party { notify, ..Party::default() }, false);
}

/// Its name is looked up at a server that says nothing.
#[test]
fn the_servers_of_names() {
    let lab = Lab::start();
    std::fs::write(lab.inside("/etc/resolv.conf"), "nameserver 127.0.0.1\n").expect("the lab's /etc is writable");
    std::fs::write(lab.inside("/etc/nsswitch.conf"), "hosts: dns\npasswd: files\ngroup: files\n").expect("as above");
    let listens = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('127.0.0.1', 53))\n\
                   print('listens', flush=True)\ntime.sleep(3600)\n";
    let names = lab.spawn(&["python3", "-c", listens]);
    wait_until("the server of names", SOON, || names.output().contains("listens").then_some(()));
    let registries = "consul: { url: \"http://consul.example:8500\" }";
    let binding = "register: [{ registry: consul, id: a-1 }]";
    play_in(&lab, &Party { registries, binding, ..Party::default() }, true);
}

/// What the agent knows of units it asks systemd over the bus.
#[test]
fn the_system_bus() {
    let environment = "DBUS_SYSTEM_BUS_ADDRESS=unix:path=SOCKET";
    let binding = "\n  - service: rpc-web.service\n    health: { tcp: \"127.0.0.1:7811\" }";
    play(&Party { environment, binding, ..Party::default() }, false);
}

/// The daemon that knows containers by their names is asked at each look.
#[test]
fn a_daemon_of_containers() {
    let binding = "\n  - service: \"container:web\"\n    restart: { docker: { socket: SOCKET } }";
    play(&Party { binding, ..Party::default() }, false);
}
