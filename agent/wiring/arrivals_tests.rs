//! The last word on a drain, with real connections: clients that follow the registry, clients that do not, and a service so
//! quiet that nothing can be told.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::testing::wire;
use super::*;
use crate::execute::saga::{Event, Saga};
use crate::execute::steps::{self, Done, Failure};
use crate::model::plan::Binding;
use crate::model::{Plan, PlannedStep, Reason, ServiceName, Trigger};

/// Answers each connection by closing it; says where it listens.
const SERVICE: &str = "
import socket
server = socket.create_server(('127.0.0.1', 0))
print(server.getsockname()[1], flush=True)
while True:
    server.accept()[0].close()
";

const STEPS: &str = "snapshot, drain: { settle: 0s }, restart, health_check, restore";

/// A service, and a client of its.
struct Set {
    wiring: Wiring,
    store: Arc<Store>,
    ends: Arc<AtomicBool>,
    client: Option<JoinHandle<()>>,
    service: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Set {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.client.take().unwrap().join().unwrap();
        self.service.kill().unwrap();
        self.service.wait().unwrap();
    }
}

/// `each`: from one connection of the client to the next. `follows`: it looks into the registry before each.
fn set(each: Duration, follows: bool) -> Set {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Command::new("/usr/bin/python3")
        .args(["-c", SERVICE])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is there");
    let mut port = String::new();
    BufReader::new(service.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap()));
    let registry = dir.path().join("registry.json");
    let instance = |id: &str, at: &str| {
        format!(r#"{{"id": "{id}", "name": "gate", "address": "{at}", "healthy": true, "drained": null}}"#)
    };
    let instances = [instance("gate-1", &address.to_string()), instance("gate-2", "10.0.0.2:1")].join(", ");
    std::fs::write(&registry, format!(r#"{{"instances": [{instances}]}}"#)).unwrap();
    let pid_file = dir.path().join("pid");
    std::fs::write(&pid_file, service.id().to_string()).unwrap();
    let agent = format!(
        "registries: {{ file: {{ path: {} }} }}\nservices:\n  - service: process:gate\n    match: {{ ports: [{}] }}\n    \
         register: [{{ registry: file, id: gate-1 }}]\n    health: {{ exec: [/usr/bin/true] }}\n    restart: {{ process: \
         {{ argv: [/usr/bin/true], pid_file: {} }} }}\n",
        registry.display(),
        address.port(),
        pid_file.display()
    );
    let ends = Arc::new(AtomicBool::new(false));
    let client_ends = Arc::clone(&ends);
    let client = std::thread::spawn(move || {
        while !client_ends.load(Ordering::Relaxed) {
            if !follows || is_in_traffic(&registry) {
                drop(TcpStream::connect(address));
            }
            std::thread::sleep(each);
        }
    });
    let store = Arc::new(Store::open(Path::new(":memory:")).unwrap());
    Set {
        wiring: wire(dir.path(), &agent, "process:gate", STEPS),
        store,
        ends,
        client: Some(client),
        service,
        _dir: dir,
    }
}

fn is_in_traffic(registry: &PathBuf) -> bool {
    let text = std::fs::read(registry).unwrap_or_default();
    let read: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    read["instances"][0]["drained"].is_null()
}

impl Set {
    /// Carries the step `drain` out.
    async fn drain(&self) -> Result<Done, Failure> {
        let policy = &self.wiring.config.policies[0];
        let service = ServiceName::parse("process:gate").unwrap();
        let trigger = Trigger::Person { who: "test".into() };
        let proposed = plans::propose(&self.wiring, &self.store, policy, &service, trigger, false).await;
        let step = proposed.plan.steps.iter().find(|planned| planned.step.name() == "drain").unwrap().clone();
        let plan = Plan { steps: vec![PlannedStep { ..step }], ..proposed.plan };
        assert_eq!(plan.target.bindings, [Binding::new("file", "gate-1")]);
        let world = self.wiring.world(&self.store, Duration::ZERO);
        let mut saga = Saga::new(plan);
        let before = steps::measured_before(&saga, 0, &world).await;
        let preimage = steps::preimage(&saga, 0, &world).await?;
        saga.apply(Event::Intended { step: 0, preimage }).unwrap();
        steps::apply(&saga, 0, before, &world).await
    }
}

#[tokio::test]
async fn clients_that_stay_are_told_from_those_that_follow_and_from_a_quiet_service() {
    let often = Duration::from_millis(20);
    let [following, staying, quiet] = [set(often, true), set(often, false), set(Duration::from_secs(1), false)];
    let (followed, stayed, unknown) = tokio::join!(following.drain(), staying.drain(), quiet.drain());

    let followed = followed.unwrap().detail;
    assert!(followed.contains(" before the drain, 0.0 new connections/s after it"), "{followed}");

    let stayed = stayed.unwrap_err();
    assert_eq!(stayed.reason, Reason::DrainIneffective, "{}", stayed.detail);
    assert!(stayed.detail.starts_with("the drain is ineffective, clients go on coming: "), "{}", stayed.detail);

    let unknown = unknown.unwrap().detail;
    assert!(unknown.contains("too quiet to tell"), "{unknown}");
}
