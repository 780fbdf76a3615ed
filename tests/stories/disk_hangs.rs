//! A state directory whose disk hangs: whoever writes to it does not come back, and no signal ends that. The agent looks on,
//! answers people and begins nothing; once the disk is well it acts.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::deadline::{holds_for, wait_until_seen};
use crate::lab::net::loopback;
use crate::lab::quick::{ENDS_WITHIN, Quick, SOON};
use crate::lab::{HangingDisk, Lab, http, service};
use crate::silent::ticked;

/// The agent's own aim is 100 ms, and 2 s for an end.
const AT_ONCE: Duration = Duration::from_secs(4);

fn stage_on<'lab>(lab: &'lab Lab, disk: &HangingDisk<'_>) -> Quick<'lab> {
    let stage = Quick::set_with_state(lab, disk.path().join("state"));
    // A disk counts as hanging after five seconds.
    stage.edit("agent.yaml", "warm_up: 0s", "warm_up: 15s\nhttp: {}");
    stage
}

fn wait_for_agent(stage: &Quick<'_>) {
    wait_until_seen("the agent to look", SOON, || {
        let status = stage.unwait(&["status", "--json"]);
        let says: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        if says["agent"]["last_snapshot"].is_string() { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

fn wait_until_it_hangs(stage: &Quick<'_>) -> Value {
    wait_until_seen("the agent to say that its disk hangs", SOON, || {
        let status = stage.ask(&["status"]);
        match status["agent"]["disk_hangs"].as_str() {
            Some(says) if says.contains("a write has not ended for ") => Ok(status),
            _ => Err(format!("{status:#}")),
        }
    })
}

#[test]
fn a_disk_that_hangs_holds_up_what_is_to_be_written_and_nothing_else() {
    let lab = Lab::start();
    let disk = HangingDisk::mount(&lab, "disk");
    let stage = stage_on(&lab, &disk);
    let agent = stage.run(None);
    wait_for_agent(&stage);
    let hanging = disk.hang();

    let status = wait_until_it_hangs(&stage);
    assert_eq!(status["agent"]["observe_only"], true, "{status:#}");
    // Of the warm-up people were told before; another reason is told half a minute later.
    stage.wait_until_told("that the breach is held, from memory", SOON * 3, |told| {
        told["event"] == "held"
            && told["reason"] == "observe_only"
            && told["lines"].to_string().contains("the disk of the state directory hangs")
    });
    let mut seen = status["agent"]["last_snapshot"].clone();
    holds_for("looks go on, and people are answered at once", Duration::from_secs(6), || {
        let asked = Instant::now();
        let status = stage.ask(&["status"]);
        let explained = stage.unwait(&["explain", service::UNIT]);
        let healthy =
            http::ask(lab.network(), loopback(9817), "GET", "/healthz", None, "").map_err(|e| e.to_string())?;
        let page = http::ask(lab.network(), loopback(9817), "GET", "/", None, "").map_err(|e| e.to_string())?;
        let answered = asked.elapsed();
        if answered > AT_ONCE || !explained.status.success() || healthy.status != 200 {
            return Err(format!("after {answered:?}: {explained:?}; {healthy:?}"));
        }
        if !["state unreadable", "directory hangs", service::UNIT].iter().all(|says| page.body.contains(says)) {
            return Err(format!("{page:?}"));
        }
        seen = status["agent"]["last_snapshot"].clone();
        Ok(())
    });
    assert_ne!(seen, status["agent"]["last_snapshot"], "no look since");
    let history = stage.unwait(&["history"]);
    assert_eq!(history.status.code(), Some(3), "a verb that reads the file leaves it alone: {history:?}");
    assert!(String::from_utf8_lossy(&history.stderr).contains("hangs"), "{history:?}");
    assert_eq!(stage.starts(), 1);
    assert!(stage.is_in_traffic());

    drop(hanging);

    stage.wait_until_told_end("completed", "recovered");
    stage.assert_in_service();
    assert_eq!(stage.starts(), 2, "the breach is acted on now");
    let said = agent.output();
    assert_eq!(said.matches("the agent observes only").count(), 1, "{said}");
    assert_eq!(said.matches("the agent acts again").count(), 1, "{said}");
}

#[test]
fn a_disk_that_hangs_while_the_service_is_drained_does_not_keep_it_out_of_traffic() {
    let lab = Lab::start();
    let disk = HangingDisk::mount(&lab, "disk");
    let stage = stage_on(&lab, &disk);
    stage.edit("agent.yaml", "warm_up: 15s", "warm_up: 0s");
    let client = stage.lingering_client();
    let _agent = stage.run(None);
    stage.wait_for_drain();
    let hanging = disk.hang();
    wait_until_it_hangs(&stage);

    drop(client);

    stage.wait_for_traffic(ENDS_WITHIN);
    assert_eq!(stage.starts(), 1, "no intent, no restart");
    drop(hanging);
    let end = stage.wait_for_first_end(ENDS_WITHIN);
    assert_eq!(end["outcome"], "unwound", "{end:#}");
    stage.assert_in_service();
}

#[test]
fn an_agent_without_a_saga_ends_although_its_disk_hangs() {
    let lab = Lab::start();
    let disk = HangingDisk::mount(&lab, "disk");
    let stage = stage_on(&lab, &disk);
    let mut agent = stage.run(None);
    wait_for_agent(&stage);
    let hanging = disk.hang();
    wait_until_it_hangs(&stage);

    let pid = agent.pid();
    agent.signal(Signal::SIGTERM);

    // The kernel keeps the process for as long as one of its threads is in state D; all others are gone.
    wait_until_seen("its main thread to be gone", AT_ONCE, || match state_of(pid) {
        None | Some('Z') => Ok(()),
        Some(other) => Err(format!("{other}: {}", agent.output())),
    });
    drop(hanging);
    assert_eq!(agent.wait(SOON).code(), Some(0), "{}", agent.output());
}

/// What tests/README.md says: the same host with a disk that is well, and with one that hangs.
#[test]
#[ignore = "prints figures, and takes a minute and a half"]
fn figures() {
    for hangs in [false, true] {
        let lab = Lab::start();
        let disk = HangingDisk::mount(&lab, "disk");
        let stage = stage_on(&lab, &disk);
        stage.edit("agent.yaml", "warm_up: 15s", "warm_up: 1h");
        let agent = stage.run(None);
        wait_for_agent(&stage);
        let hanging = hangs.then(|| disk.hang());
        if hangs {
            wait_until_it_hangs(&stage);
        }
        let get = |path| http::ask(lab.network(), loopback(9817), "GET", path, None, "").expect("it answers");
        let (ticks, from) = (ticked(&get("/metrics").body), Instant::now());
        let mut slowest = [Duration::ZERO; 3];
        while from.elapsed() < Duration::from_secs(30) {
            let ways: [&dyn Fn(); 3] = [&|| drop(get("/healthz")), &|| drop(stage.unwait(&["status"])), &|| {
                drop(stage.unwait(&["explain", service::UNIT]));
            }];
            for (way, slowest) in ways.iter().zip(&mut slowest) {
                let asked = Instant::now();
                way();
                *slowest = asked.elapsed().max(*slowest);
            }
        }
        let per_second = (ticked(&get("/metrics").body) - ticks) / from.elapsed().as_secs_f64();
        let (pid, asked) = (agent.pid(), Instant::now());
        agent.signal(Signal::SIGTERM);
        while !matches!(state_of(pid), None | Some('Z')) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let ([healthz, status, explain], ended) = (slowest, asked.elapsed());
        println!(
            "disk {}: {per_second:.2} ticks a second of 1; slowest /healthz {healthz:.0?}, status {status:.0?}, explain \
             {explain:.0?}; ended {ended:.1?} after SIGTERM",
            if hangs { "hangs" } else { "is well" },
        );
        drop(hanging);
    }
}

/// The state of the main thread, as proc(5) has it.
fn state_of(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
