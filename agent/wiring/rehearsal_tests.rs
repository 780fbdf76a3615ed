//! A whole dry incident of a service that fails its health check, with real processes, sockets and files.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::testing::wire;
use super::*;
use crate::execute::driver::{Driven, drive};
use crate::execute::journal::Journal;
use crate::execute::saga::{Event, Saga};
use crate::execute::tell;
use crate::model::incident::Ending;
use crate::model::{Outcome, Reason, ServiceName, Trigger};

/// As the shipped runbook, without the snapshot.
const STEPS: &str = "drain: { settle: 5s }, wait_drained: { inbound_at_most: 0, idle_for: 15s, timeout: 60s, on_timeout: \
                     proceed }, restart, health_check: { timeout: 2m, successes: 3, interval: 2s }, restore, verify: { soak: \
                     2m, expect: [close_wait < 20] }";

struct Set {
    wiring: Wiring,
    store: Arc<Store>,
    asked: Arc<AtomicUsize>,
    service: Child,
    registry: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Set {
    fn drop(&mut self) {
        self.service.kill().unwrap();
        self.service.wait().unwrap();
    }
}

/// Its health is asked for by HTTP, and each answer is `says`.
fn set(says: &'static str) -> Set {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            write!(stream, "HTTP/1.1 {says}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        }
    });
    let service = Command::new("/usr/bin/sleep").arg("1000").spawn().unwrap();
    let (registry, pid_file) = (dir.path().join("registry.json"), dir.path().join("pid"));
    std::fs::write(&pid_file, service.id().to_string()).unwrap();
    let instance = |id: &str| {
        format!(r#"{{"id": "{id}", "name": "gate", "address": "10.0.0.2:1", "healthy": true, "drained": null}}"#)
    };
    std::fs::write(&registry, format!(r#"{{"instances": [{}, {}]}}"#, instance("gate-1"), instance("gate-2"))).unwrap();
    let agent = format!(
        "registries: {{ file: {{ path: {} }} }}\nservices:\n  - service: process:gate\n    register: [{{ registry: file, id: \
         gate-1 }}]\n    health: {{ http: \"http://{at}/health?key=s3cret\" }}\n    restart: {{ process: {{ argv: \
         [/usr/bin/sleep, \"1000\"], pid_file: {} }} }}\n",
        registry.display(),
        pid_file.display()
    );
    let wiring = wire(dir.path(), &agent, "process:gate", STEPS);
    let store = Arc::new(Store::open(Path::new(":memory:")).unwrap());
    Set { wiring, store, asked, service, registry, _dir: dir }
}

impl Set {
    /// Plays the dry incident: its end, and each step as it is told.
    async fn rehearse(&mut self) -> (Ending, Vec<(String, String)>) {
        let before = std::fs::read(&self.registry).unwrap();
        let policy = &self.wiring.config.policies[0];
        let service = ServiceName::parse("process:gate").unwrap();
        let trigger = Trigger::Person { who: "test".into() };
        let plan = plans::propose(&self.wiring, &self.store, policy, &service, trigger, true).await.plan;
        let world = self.wiring.world_of(&plan, &self.store, Duration::ZERO);
        self.store.begin_incident(&plan, world.clock.now(), &world.audience, &[]).unwrap();
        let (_keep, stop) = tokio::sync::watch::channel(false);
        let driven = drive(Saga::new(plan.clone()), Journal::new(), &world, stop).await;
        let Driven::Rested(ending) = driven else { panic!("{driven:?}") };
        assert_eq!(std::fs::read(&self.registry).unwrap(), before);
        assert!(self.service.try_wait().unwrap().is_none(), "a dry run ended the service");
        let events = self.store.journal(&plan.incident).unwrap();
        let told = events.iter().filter_map(|row| {
            let event: Event = serde_json::from_str(&row.event).unwrap();
            let (step, outcome, detail) = tell::step_of(&plan, &event)?;
            Some((format!("{step} {}", tell::went(step, outcome, true)), detail.to_owned()))
        });
        (ending, told.collect())
    }
}

#[tokio::test]
async fn a_probe_that_fails_is_asked_once_and_what_a_restart_would_make_of_it_is_not_guessed() {
    let mut set = set("503 Service Unavailable");
    let (ending, told) = set.rehearse().await;
    assert_eq!(set.asked.load(Ordering::SeqCst), 1);
    assert_eq!((ending.outcome, ending.reason), (Outcome::Completed, Reason::Unverified));
    assert!(ending.detail.contains("nothing was changed, so whether it would help is not known"), "{}", ending.detail);
    let (health, detail) = told.iter().find(|(step, _)| step.starts_with("health_check")).unwrap();
    assert_eq!(health, "health_check would be done");
    for says in [&ending.detail, detail] {
        assert!(says.contains("FAILS NOW") && says.contains("503 Service Unavailable"), "{says}");
        assert!(says.contains("whether the step restart mends it is not known"), "{says}");
        assert!(says.contains("a failure after it would end stuck") && !says.contains("s3cret"), "{says}");
    }
}

#[tokio::test]
async fn every_step_of_a_dry_incident_speaks_of_what_would_be_done() {
    let mut set = set("200 OK");
    let (ending, told) = set.rehearse().await;
    assert_eq!(ending.detail, "nothing was changed, so whether it would help is not known");
    let (verdict, steps) = told.split_last().unwrap();
    assert_eq!((steps.len(), verdict.0.as_str()), (6, "verdict is not known"));
    for (step, detail) in steps {
        assert!(step.ends_with(" would be done") && detail.starts_with("would "), "{step}: {detail}");
    }
    let marks = format!("write {}: \"drained\": \"unwait", set.registry.display());
    assert!(steps[0].1.contains(&marks), "{}", steps[0].1);
    let ends = format!("SIGTERM to pid {}, SIGKILL after ", set.service.id());
    assert!(steps[2].1.contains(&ends), "{}", steps[2].1);
    assert!(steps[3].1.ends_with("/health, which passes now"), "{}", steps[3].1);
    assert!(steps[4].1.ends_with("\"drained\": null of gate-1"), "{}", steps[4].1);
}
