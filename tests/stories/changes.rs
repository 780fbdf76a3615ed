//! The target, or what is said of it, changes while it is drained: its unit is removed or renamed, its pid is another's,
//! the configuration is another one. The saga ends on the plan that it began with.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::lab::cast::{Host, Peer, REDIS_PORT};
use crate::lab::deadline::{wait_until, wait_until_seen};
use crate::lab::quick::{ENDS_WITHIN, OWN, Quick, SOON};
use crate::lab::{Lab, Redis, service};

const UNITS: &str = "/etc/systemd/system";

#[test]
fn a_unit_that_is_removed_while_it_is_drained_runs_on_and_is_put_back() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    let client = stage.lingering_client();
    let _agent = stage.run(None);
    stage.wait_for_drain();

    remove_unit(&lab);
    drop(client);

    let end = stage.wait_for_first_end(ENDS_WITHIN);
    assert_eq!(end["outcome"], "unwound", "{end:#}");
    stage.assert_in_service();
    assert_eq!(stage.starts(), 1, "systemd restarts nothing that it has no file of");
}

#[test]
fn a_unit_that_is_renamed_while_it_is_drained_is_a_persons() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    // Nobody can count the connections of a service that is gone.
    stage.edit("runbooks/recover.yaml", "timeout: 30s, on_timeout", "timeout: 5s, on_timeout");
    let client = stage.lingering_client();
    let _agent = stage.run(None);
    stage.wait_for_drain();

    rename_unit(&lab);
    drop(client);

    is_a_persons(&stage, "gone_while_drained");
}

#[test]
fn a_unit_that_is_renamed_while_nobody_watches_its_restart_is_a_persons() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.service.wait_for_leak();
    stage.run_until_killed_at("restart:intended");
    rename_unit(&lab);

    let _agent = stage.run(None);

    is_a_persons(&stage, "restart_unknown");
}

#[test]
fn a_pid_that_is_another_processs_by_now_is_neither_put_back_nor_signalled() {
    let lab = Lab::start();
    let _redis = Redis::start(&lab, REDIS_PORT, 0);
    let peer = Peer::listen(&lab);
    let host = Host::set(&lab, &peer, "isolate-restart-recover", "", 0);
    let mut agent = host.run(Some("wait_drained:done"));
    agent.spawned.wait(ENDS_WITHIN);
    assert!(host.drained_by().is_some());
    let pid = host.starts()[0];
    host.kill_service();
    let stranger = Stranger::under(&lab, pid);

    let _agent = host.run(None);

    wait_until_seen("people to be told", ENDS_WITHIN, || {
        let told = host.told();
        let is_told = told.iter().any(|told| told["event"] == "stuck" && told["reason"] == "gone_while_drained");
        if is_told { Ok(()) } else { Err(format!("{told:#?}")) }
    });
    assert!(host.drained_by().is_some(), "drained, and a person's");
    assert!(stranger.lives(), "it was none of ours to end");
}

#[test]
fn a_configuration_that_is_replaced_while_the_service_is_drained_changes_the_next_plan_alone() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    let client = stage.lingering_client();
    let agent = stage.run(None);
    stage.wait_for_drain();

    replace_configuration(&stage);
    agent.signal(Signal::SIGHUP);
    wait_until("the new configuration to be in force", SOON, || {
        agent.output().contains("a new configuration is in force").then_some(())
    });
    drop(client);

    let end = stage.wait_for_first_end(ENDS_WITHIN);
    assert_eq!((&end["outcome"], &end["reason"]), (&"completed".into(), &"recovered".into()), "{end:#}");
    assert_eq!(stage.starts(), 2);
    stage.assert_in_service();
}

#[test]
fn an_agent_that_finds_another_configuration_takes_back_what_the_former_plan_did() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.service.wait_for_leak();
    stage.run_until_killed_at("wait_drained:intended");
    assert!(!stage.is_in_traffic());
    replace_configuration(&stage);

    let _agent = stage.run(None);

    let end = stage.wait_for_first_end(ENDS_WITHIN);
    assert_eq!((&end["outcome"], &end["reason"]), (&"unwound".into(), &"agent_restarted".into()), "{end:#}");
    assert_eq!(stage.starts(), 1);
    stage.assert_in_service();
}

/// Another runbook under the same name, for a service that no registry knows.
fn replace_configuration(stage: &Quick<'_>) {
    stage.edit("agent.yaml", &format!("    register: [{{ registry: consul, id: {OWN} }}]\n"), "");
    let runbook = stage.etc().join("runbooks/recover.yaml");
    fs::write(runbook, "runbook: recover\nsteps: [snapshot: { deadline: 10s }]\n").expect("the file is ours");
}

fn rename_unit(lab: &Lab) {
    let text = fs::read_to_string(lab.inside(UNITS).join(service::UNIT)).expect("the unit's file");
    lab.stop_unit(service::UNIT);
    remove_unit(lab);
    lab.add_unit("rpc-order-2.service", &text);
    lab.start_unit("rpc-order-2.service");
}

/// Stuck for this reason: drained, latched and told.
fn is_a_persons(stage: &Quick<'_>, reason: &str) {
    stage.wait_until_told_end("stuck", reason);
    stage.wait_until_told("that a person is needed", SOON, |told| told["event"] == "stuck");
    assert!(!stage.is_in_traffic(), "nobody has said that what runs now may take traffic");
    assert_eq!(stage.ask(&["status"])["latches"][0]["service"], service::UNIT);
    assert_eq!(stage.starts(), 1);
}

/// Takes the unit's file away while it runs, or after it was stopped.
fn remove_unit(lab: &Lab) {
    let units = lab.inside(UNITS);
    fs::remove_file(units.join(service::UNIT)).expect("the lab's /etc is writable");
    fs::remove_dir_all(units.join(format!("{}.d", service::UNIT))).expect("the lab's /etc is writable");
    lab.run(&["systemctl", "daemon-reload"]);
}

/// A process that was given a pid that had been another's: what a small `pid_max` brings about in time.
struct Stranger {
    process: std::path::PathBuf,
}

impl Stranger {
    /// The lab's pids are its own; the kernel gives the one behind `ns_last_pid` next (proc_sys_kernel(5)).
    fn under(lab: &Lab, pid: i32) -> Self {
        let init = fs::read_to_string(lab.dir().join("init.pid")).expect("the lab runs");
        let process = lab.inside(format!("/proc/{pid}"));
        let script = format!("echo {} >/proc/sys/kernel/ns_last_pid && {{ sleep 600 & }}", pid - 1);
        wait_until_seen("another process under that pid", SOON, || {
            // The machine's own /proc, where this may be written; the kernel goes by the writer's namespace.
            let entered = Command::new("nsenter")
                .args(["--target", init.trim(), "--pid", "--"])
                .args(["sh", "-c", &script])
                .status();
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            if name.trim() == "sleep" { Ok(()) } else { Err(format!("{entered:?}, {name:?}")) }
        });
        Self { process }
    }

    fn lives(&self) -> bool {
        fs::read_to_string(Path::new(&self.process).join("comm")).is_ok_and(|name| name.trim() == "sleep")
    }
}
