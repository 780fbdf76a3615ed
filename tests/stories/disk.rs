//! A state directory whose disk is full, at each moment that matters; and a state file that cannot be used.
//!
//! Before anything is touched, nothing is. Once the service is drained, a full disk must not keep it out of traffic.
//! Either way people are told, although the message cannot be written down first.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::deadline::{holds_for, wait_until_seen};
use crate::lab::quick::{ENDS_WITHIN, PROGRAM, Quick, SOON};
use crate::lab::{Disk, Lab, Spawned};

const DISK_BYTES: u64 = 16 * 1024 * 1024;
/// From free space to the agent's trust in it: a look each second, a journal's retry every five.
const RECOVERS_WITHIN: Duration = Duration::from_secs(15);

fn stage_on_a_disk(lab: &Lab) -> (Quick<'_>, Disk<'_>) {
    let disk = Disk::mount(lab, "disk", DISK_BYTES);
    let stage = Quick::set_with_state(lab, disk.path().join("state"));
    (stage, disk)
}

#[test]
fn a_disk_that_is_full_before_the_breach_keeps_everything_as_it_is_until_it_is_freed() {
    let lab = Lab::start();
    let (stage, disk) = stage_on_a_disk(&lab);
    // Long enough for the disk to be filled after the agent's start.
    stage.edit("agent.yaml", "warm_up: 0s", "warm_up: 5s");
    let before = stage.service.invocation_id();
    let _agent = stage.run(None);
    wait_for_agent(&stage);
    disk.fill();

    stage.wait_until_told("that it only observes", SOON, |told| {
        told["event"] == "held"
            && ["observe_only", "journal_not_writable"].iter().any(|reason| told["reason"] == *reason)
    });

    wait_for_observe_only(&stage, true);
    assert!(text(&stage, "status").contains("OBSERVE-ONLY"));
    holds_for("nothing is changed", Duration::from_secs(3), || {
        if stage.is_in_traffic() && stage.starts() == 1 { Ok(()) } else { Err("it is") }
    });
    assert_eq!(stage.service.invocation_id(), before);
    assert!(stage.incidents().is_empty());

    disk.free();

    wait_for_observe_only(&stage, false);
    stage.wait_until_told_end("completed", "recovered");
    stage.assert_in_service();
    assert_eq!(stage.starts(), 2, "the breach is acted on now");
}

#[test]
fn evidence_that_does_not_fit_ends_the_saga_before_anything_is_touched() {
    let lab = Lab::start();
    let (stage, disk) = stage_on_a_disk(&lab);
    // The journal fits; evidence would leave less free than the file asks for.
    stage.edit("agent.yaml", "min_free: 1MiB", "min_free: 12MiB");
    disk.fill();
    let filler = disk.path().join("filler");
    lab.run(&["truncate", "--size", "8M", filler.to_str().expect("UTF-8")]);
    let before = stage.service.invocation_id();

    let _agent = stage.run(None);

    let told = stage.wait_until_told_end("unwound", "evidence_not_kept");
    assert!(told["lines"].to_string().contains("free"), "{told:#}");
    assert_eq!(stage.service.invocation_id(), before);
    assert_eq!(stage.starts(), 1);
    assert!(!stage.told().iter().any(|told| told["step"]["name"] == "drain"));
    assert_eq!(stage.incidents()[0]["changed"], false);
    assert!(stage.is_in_traffic());
}

#[test]
fn a_disk_that_fills_up_while_the_service_is_drained_puts_it_back() {
    let lab = Lab::start();
    let (stage, disk) = stage_on_a_disk(&lab);
    let client = stage.lingering_client();
    let _agent = stage.run(None);
    stage.wait_for_drain();
    disk.fill();

    drop(client);

    stage.wait_for_traffic(ENDS_WITHIN);
    let told = stage.wait_until_told_end("unwound", "guard_refused");
    assert!(told["lines"].to_string().contains("observe_only"), "{told:#}");
    assert_eq!(stage.starts(), 1, "no intent, no restart");
    wait_for_observe_only(&stage, true);
    holds_for("everything is told once", Duration::from_secs(3), || {
        let requests = stage.webhook.requests();
        let ids: BTreeSet<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
        if ids.len() == requests.len() { Ok(()) } else { Err(format!("{} of {}", ids.len(), requests.len())) }
    });
    disk.free();
    let end = stage.wait_for_first_end(RECOVERS_WITHIN);
    assert_eq!((&end["outcome"], &end["reason"]), (&"unwound".into(), &"guard_refused".into()), "{end:#}");
    assert_eq!(end["changed"], true, "it starts the cooldown");
    wait_for_observe_only(&stage, false);
    stage.assert_in_service();
}

#[test]
fn a_disk_that_fills_up_after_the_restart_does_not_keep_a_healthy_service_out() {
    let lab = Lab::start();
    let (stage, disk) = stage_on_a_disk(&lab);
    let client = stage.lingering_client();
    let _agent = stage.run(None);
    stage.wait_for_drain();
    stage.sicken();
    drop(client);
    stage.wait_until_told("the restart", SOON, |told| told["step"]["name"] == "restart");
    disk.fill();

    stage.mend();

    stage.wait_for_traffic(ENDS_WITHIN);
    stage.wait_until_told_end("completed", "recovered");
    disk.free();
    let end = stage.wait_for_first_end(RECOVERS_WITHIN);
    assert_eq!((&end["outcome"], &end["reason"]), (&"completed".into(), &"recovered".into()), "{end:#}");
    stage.assert_in_service();
    assert_eq!(stage.starts(), 2);
}

#[test]
fn an_agent_killed_on_a_full_disk_and_started_on_it_puts_the_service_back() {
    let lab = Lab::start();
    let (mut stage, disk) = stage_on_a_disk(&lab);
    stage.service.wait_for_leak();
    stage.run_until_killed_at("drain:effected");
    disk.fill();
    // Nobody hears of what cannot be written down before the webhook is there again.
    stage.webhook.refuse();

    let mut agent = stage.run(None);

    stage.wait_for_traffic(ENDS_WITHIN);
    stage.webhook.listen();
    stage.wait_until_told_end("unwound", "agent_restarted");
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait(SOON).code(), Some(0), "{}", agent.output());
    assert!(stage.is_in_traffic());
    assert_eq!(stage.starts(), 1);

    disk.free();
    let _agent = stage.run(None);
    let end = stage.wait_for_first_end(RECOVERS_WITHIN);
    assert_eq!((&end["outcome"], &end["reason"]), (&"unwound".into(), &"agent_restarted".into()), "{end:#}");
    stage.assert_in_service();
}

#[test]
fn an_agent_killed_in_mid_saga_and_started_on_a_read_only_disk_says_so_and_goes_on_once_it_can() {
    let lab = Lab::start();
    let (stage, disk) = stage_on_a_disk(&lab);
    stage.service.wait_for_leak();
    stage.run_until_killed_at("drain:effected");
    disk.refuse_writes();

    let mut agent = stage.run(None);

    let told = stage.wait_until_told("that it cannot open its state", SOON, |told| told["event"] == "stuck");
    let said = told.to_string();
    for word in ["the agent cannot open its state", "Read-only file system", "may still be out of traffic"] {
        assert!(said.contains(word), "no {word:?} in {told:#}");
    }
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait(SOON).code(), Some(0), "it can be ended meanwhile: {}", agent.output());

    let _agent = stage.run(None);
    stage.wait_until_told("it again, by the next one", SOON, |again| {
        again["title"] == told["title"] && again["at"] != told["at"]
    });
    disk.allow_writes();

    stage.wait_until_told("that it goes on", SOON, |told| told["event"] == "recovered");
    stage.wait_until_told_end("unwound", "agent_restarted");
    stage.assert_in_service();
    assert_eq!(stage.starts(), 1);
    let untrue = stage.told().iter().filter(|told| told["event"] == "stuck").count();
    assert_eq!(untrue, 2, "once by each: not at each try");
}

/// An agent that has nothing to do but to start, and what it leaves when it ends.
struct Plain<'lab> {
    lab: &'lab Lab,
    etc: String,
    state: PathBuf,
    sound: Vec<u8>,
}

impl<'lab> Plain<'lab> {
    fn set(lab: &'lab Lab) -> Self {
        let (etc, state) = (lab.dir().join("etc"), lab.dir().join("state"));
        fs::create_dir(&etc).expect("the lab's directory is writable");
        fs::set_permissions(&etc, fs::Permissions::from_mode(0o755)).expect("the directory is ours");
        let text = format!("interval: 1s\nstate: {}\n", state.display());
        fs::write(etc.join("agent.yaml"), text).expect("the lab's directory is writable");
        let etc = etc.to_str().expect("UTF-8").to_owned();
        let mut plain = Self { lab, etc, state, sound: Vec::new() };
        plain.run_until_it_says("watching");
        plain.sound = fs::read(plain.database()).expect("the agent made it");
        plain
    }

    fn database(&self) -> PathBuf {
        self.state.join("unwait.db")
    }

    fn run(&self) -> Spawned {
        self.lab.spawn(&[PROGRAM, "run", "--log", "json", "--config", &self.etc])
    }

    /// What it said from its start to its end.
    fn run_until_it_says(&self, word: &str) -> String {
        let mut agent = self.run();
        wait_until_seen(&format!("the agent to say {word:?}"), SOON, || {
            if agent.output().contains(word) { Ok(()) } else { Err(agent.output()) }
        });
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.wait(SOON).code(), Some(0), "{}", agent.output());
        agent.output()
    }

    /// The state as the agent left it, but for this.
    fn damage(&self, damage: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut file = self.sound.clone();
        damage(&mut file);
        remove(&[&self.database(), &self.state.join("unwait.db-wal"), &self.state.join("unwait.db-shm")]);
        fs::write(self.database(), &file).expect("the state directory is ours");
        file
    }

    fn status(&self) -> Output {
        self.lab.command(&[PROGRAM, "status", "--json", "--config", &self.etc]).output().expect("it starts")
    }
}

#[test]
fn a_state_file_of_a_newer_version_is_refused_with_a_clear_word() {
    /// The version of the tables in SQLite's header (file format, 1.3.12: `PRAGMA user_version`).
    const USER_VERSION: std::ops::Range<usize> = 60..64;
    let lab = Lab::start();
    let plain = Plain::set(&lab);
    let file = plain.damage(|file| file[USER_VERSION].copy_from_slice(&99u32.to_be_bytes()));

    let mut agent = plain.run();

    let (code, output) = (agent.wait(SOON).code(), agent.output());
    assert_eq!(code, Some(3), "{output}");
    let database = plain.database();
    for word in ["newer", "version 99", database.to_str().expect("UTF-8")] {
        assert!(output.contains(word), "no {word:?} in {output}");
    }
    assert_eq!(fs::read(&database).expect("it is still there"), file, "it is kept for whoever looks");
    assert_eq!(plain.status().status.code(), Some(3));
}

#[test]
fn a_state_file_that_is_damaged_is_set_aside_and_the_agent_is_paused() {
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Damage, &str); 3] = [
        ("with garbage in it", |file| file[..512].fill(b'x'), "not a database"),
        ("that was cut", |file| file.truncate(file.len() / 2), "malformed"),
        ("with damaged pages", |file| file[4096..].fill(0xA5), "malformed"),
    ];
    let lab = Lab::start();
    let plain = Plain::set(&lab);
    for (what, damage, says) in cases {
        let file = plain.damage(damage);
        assert_eq!(plain.status().status.code(), Some(3), "a file {what}: no verb sets it aside");

        let output = plain.run_until_it_says("has lost its memory");

        for word in [says, "the store was damaged", "has lost its memory"] {
            assert!(output.contains(word), "a file {what}: no {word:?} in {output}");
        }
        assert!(!output.contains("panicked"), "a file {what}: {output}");
        let kept = fs::read_dir(&plain.state).expect("it is there").map(|file| file.expect("it can be read").path());
        let kept: Vec<PathBuf> = kept.filter(|path| path.to_string_lossy().contains("unwait.db.damaged-")).collect();
        let [kept] = kept.as_slice() else { panic!("a file {what}: {kept:?}") };
        assert_eq!(fs::read(kept).expect("it is kept"), file, "a file {what}, for whoever looks");
        let status = plain.status();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_else(|_| panic!("{status:?}"));
        assert_eq!(status["paused"]["who"], "unwait", "a file {what}: {status:#}");
        remove(&[kept]);
    }
}

fn remove(files: &[&PathBuf]) {
    for file in files.iter().filter(|file| file.exists()) {
        fs::remove_file(file).expect("the state directory is ours");
    }
}

fn wait_for_agent(stage: &Quick<'_>) {
    wait_until_seen("the agent to answer", SOON, || {
        let status = stage.unwait(&["status"]);
        if status.status.success() { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

fn wait_for_observe_only(stage: &Quick<'_>, expected: bool) {
    wait_until_seen(&format!("observe_only: {expected}"), RECOVERS_WITHIN, || {
        let status = stage.ask(&["status"]);
        if status["agent"]["observe_only"] == Value::Bool(expected) { Ok(()) } else { Err(format!("{status:#}")) }
    });
}

fn text(stage: &Quick<'_>, verb: &str) -> String {
    String::from_utf8_lossy(&stage.unwait(&[verb]).stdout).into_owned()
}
