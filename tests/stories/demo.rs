//! The demo, as a new user runs it: unprivileged, with nothing installed, and nothing left of it afterwards.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::deadline::{wait_until, wait_until_seen};

const NOBODY: u32 = 65534;
/// The demo promises a minute.
const WHOLE_STORY: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(5);
const STEPS: [&str; 7] = ["snapshot", "drain", "wait_drained", "restart", "health_check", "restore", "verify"];

/// A demo that runs, with a TMPDIR of its own.
struct Demo {
    scratch: TempDir,
    child: Child,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Where the build lies, nobody else may be allowed to look.
        let program = scratch.path().join("unwait");
        fs::copy(env!("CARGO_BIN_EXE_unwait"), &program).unwrap();
        let tmpdir = scratch.path().join("tmp");
        fs::create_dir(&tmpdir).unwrap();
        let mut command = Command::new(program);
        command.arg("demo").args(arguments).current_dir("/").env_clear().env("TMPDIR", &tmpdir);
        command.process_group(0).stdin(Stdio::null()).stdout(File::create(scratch.path().join("out")).unwrap());
        command.stderr(File::create(scratch.path().join("err")).unwrap());
        if geteuid().is_root() {
            chown(&tmpdir, Some(NOBODY), Some(NOBODY)).unwrap();
            command.uid(NOBODY).gid(NOBODY);
        }
        let child = command.spawn().unwrap();
        Self { scratch, child }
    }

    fn tmpdir(&self) -> PathBuf {
        self.scratch.path().join("tmp")
    }

    /// A file of the demo's own directory, once it is there.
    fn file(&self, name: &str) -> Option<String> {
        let directory = fs::read_dir(self.tmpdir()).unwrap().flatten().next()?.path();
        fs::read_to_string(directory.join(name)).ok()
    }

    fn output(&self) -> String {
        fs::read_to_string(self.scratch.path().join("out")).unwrap()
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.scratch.path().join("err")).unwrap()
    }

    /// As a terminal does it: to the whole process group.
    fn ctrl_c(&self) {
        killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
    }

    fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let child = &mut self.child;
        wait_until("the demo's end", deadline, || child.try_wait().unwrap())
    }

    /// Command lines that name the demo's directory: its service, the workers, the peer.
    fn processes(&self) -> Vec<String> {
        let tmpdir = self.tmpdir();
        let tmpdir = tmpdir.to_str().unwrap();
        let command_line = |process: &Path| fs::read(process.join("cmdline")).ok();
        let text = |line: Vec<u8>| String::from_utf8_lossy(&line).replace('\0', " ");
        let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| command_line(&entry.path()));
        all.map(text).filter(|line| line.contains(tmpdir)).collect()
    }

    /// All nine of the service, and the peer.
    fn wait_for_its_processes(&self) {
        wait_until_seen("the demo's processes", SOON, || match self.processes() {
            all if all.len() == 10 => Ok(()),
            some => Err(format!("{some:#?}")),
        });
    }

    fn expect_no_process_left(&self) {
        assert_eq!(self.processes(), Vec::<String>::new());
    }

    /// Each line as JSON, with a time that never goes back.
    fn events(&self) -> Vec<Value> {
        let output = self.output();
        let events: Vec<Value> = output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        let times: Vec<Timestamp> = events.iter().map(|event| event["at"].as_str().unwrap().parse().unwrap()).collect();
        assert!(times.is_sorted(), "{output}");
        events
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.output(), self.errors());
        }
        // What it has started dies with it. An error is that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

fn steps(events: &[Value]) -> Vec<(&str, &str)> {
    let steps = events.iter().filter(|event| event["event"] == "step");
    steps.map(|step| (step["step"].as_str().unwrap(), step["outcome"].as_str().unwrap())).collect()
}

/// The whole story, in its order.
fn expect_the_story(events: &[Value]) {
    let mut expected = vec!["breach", "decision"];
    expected.extend(["step"; STEPS.len()]);
    expected.push("end");
    assert_eq!(names(events), expected);
    assert_eq!(steps(events), STEPS.map(|step| (step, "done")));
}

/// The bundle is there, and the peer is the first that it names.
fn expect_evidence(end: &Value) {
    let evidence = Path::new(end["evidence"].as_str().unwrap());
    let peers: Value = serde_json::from_slice(&fs::read(evidence.join("peers.json")).unwrap()).unwrap();
    let first = &peers["peers"][0];
    assert_eq!((&first["names"][0], &first["count"]), (&"demo-redis".into(), &48.into()), "{peers:#}");
    let summary = fs::read_to_string(evidence.join("summary.txt")).unwrap();
    assert!(summary.contains("48 sockets in CLOSE_WAIT: 48 outbound, 0 inbound"), "{summary}");
    assert!(evidence.join("manifest.json").exists());
}

#[test]
fn demo_plays_the_whole_story_unprivileged_and_leaves_nothing_running() {
    let mut demo = Demo::start(&["--json"]);
    demo.wait_for_its_processes();
    assert!(demo.wait(WHOLE_STORY).success(), "{}", demo.errors());
    demo.expect_no_process_left();

    let events = demo.events();
    expect_the_story(&events);
    let in_traffic = |step: &str| {
        let told = events.iter().find(|event| event["step"] == step).unwrap();
        told["in_traffic"].as_array().unwrap().contains(&"demo-rpc-1".into())
    };
    assert_eq!(["snapshot", "drain", "health_check", "restore"].map(in_traffic), [true, false, false, true]);
    let end = events.last().unwrap();
    assert_eq!((&end["outcome"], &end["reason"]), (&"completed".into(), &"recovered".into()), "{end:#}");
    expect_evidence(end);
    assert_eq!(demo.errors(), "");
}

#[test]
fn dry_run_decides_the_same_and_changes_nothing() {
    let mut demo = Demo::start(&["--dry-run", "--json"]);
    demo.wait_for_its_processes();
    let registry =
        wait_until("the registry's file", SOON, || demo.file("registry.json").filter(|text| !text.is_empty()));
    let mut pids = BTreeSet::new();
    let mut registries = BTreeSet::from([registry]);
    let status = wait_until("the demo's end", WHOLE_STORY, || {
        pids.extend(demo.file("demo-rpc.pid"));
        registries.extend(demo.file("registry.json"));
        demo.child.try_wait().unwrap()
    });
    assert!(status.success(), "{}", demo.errors());
    demo.expect_no_process_left();

    assert_eq!((pids.len(), registries.len()), (1, 1), "{pids:?} {registries:#?}");
    let events = demo.events();
    expect_the_story(&events);
    let end = events.last().unwrap();
    assert_eq!((&end["outcome"], &end["changed"]), (&"completed".into(), &false.into()), "{end:#}");
    expect_evidence(end);
}

#[test]
fn ctrl_c_after_the_drain_puts_the_service_back_and_ends_everything() {
    let mut demo = Demo::start(&["--json"]);
    demo.wait_for_its_processes();
    wait_until("the drain", WHOLE_STORY, || {
        demo.file("registry.json").filter(|registry| registry.contains("unwait: drained")).map(drop)
    });
    demo.ctrl_c();
    assert_eq!(demo.wait(Duration::from_secs(15)).code(), Some(1));
    demo.expect_no_process_left();

    let events = demo.events();
    assert_eq!(steps(&events).last(), Some(&("drain", "undone")));
    assert_eq!(events.last().unwrap()["outcome"], "unwound");
    assert!(!demo.file("registry.json").unwrap().contains("unwait: drained"));
}

#[test]
fn ctrl_c_before_anything_is_seen_leaves_neither_processes_nor_files() {
    let mut demo = Demo::start(&[]);
    demo.wait_for_its_processes();
    wait_until("the agent", SOON, || demo.output().contains("agent").then_some(()));
    demo.ctrl_c();
    assert_eq!(demo.wait(SOON).code(), Some(1));
    demo.expect_no_process_left();
    assert_eq!(fs::read_dir(demo.tmpdir()).unwrap().count(), 0);
}

#[test]
fn a_killed_demo_takes_the_restarted_service_with_it() {
    let mut demo = Demo::start(&["--json"]);
    demo.wait_for_its_processes();
    let first = wait_until("the pid file", SOON, || demo.file("demo-rpc.pid"));
    wait_until("the restart", WHOLE_STORY, || demo.file("demo-rpc.pid").filter(|pid| *pid != first));
    demo.wait_for_its_processes();
    demo.child.kill().unwrap();
    demo.wait(SOON);
    wait_until_seen("the end of its processes", SOON, || match demo.processes() {
        all if all.is_empty() => Ok(()),
        some => Err(format!("{some:#?}")),
    });
}
