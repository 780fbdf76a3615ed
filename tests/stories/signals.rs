//! How the agent ends, who may make it act, and what outlives it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::deadline::{wait_until, wait_until_seen};
use crate::lab::quick::{ENDS_WITHIN, PROGRAM, Quick, SOON};
use crate::lab::{Lab, service};

const UNIT: &str = "unwait.service";
/// Far less than what systemd gives before it kills.
const ENDS_QUICKLY: Duration = Duration::from_secs(5);

#[test]
fn sigterm_before_the_restart_unwinds_and_exits_0_quickly() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    let _client = stage.lingering_client();
    let mut agent = stage.run(None);
    stage.wait_for_drain();

    agent.signal(Signal::SIGTERM);

    assert_eq!(agent.wait(ENDS_QUICKLY).code(), Some(0), "{}", agent.output());
    assert!(stage.slots().is_empty(), "the slot is given back before the agent is gone");
    stage.assert_in_service();
    assert_eq!(stage.starts(), 1);
    let end = &stage.incidents()[0];
    assert_eq!((&end["outcome"], &end["reason"]), (&"unwound".into(), &"shutting_down".into()), "{end:#}");
    stage.wait_until_told_end("unwound", "shutting_down");
}

#[test]
fn sigterm_past_the_restart_leaves_tells_and_the_next_start_goes_on_without_a_second_one() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    let client = stage.lingering_client();
    let mut agent = stage.run(None);
    stage.wait_for_drain();
    stage.sicken();
    drop(client);
    stage.wait_until_told("the restart", SOON, |told| told["step"]["name"] == "restart");

    agent.signal(Signal::SIGTERM);

    assert_eq!(agent.wait(ENDS_QUICKLY).code(), Some(0), "{}", agent.output());
    assert!(!stage.is_in_traffic(), "nothing is put into traffic that was not seen healthy");
    let told = stage.wait_until_told("that it is left", SOON, |told| told["event"] == "stuck");
    assert!(told["title"].as_str().is_some_and(|title| title.contains("the agent stops")), "{told:#}");
    assert!(stage.incidents()[0]["ended"].is_null());

    stage.mend();
    let _agent = stage.run(None);

    let end = stage.wait_for_first_end(ENDS_WITHIN);
    assert_eq!((&end["outcome"], &end["reason"]), (&"completed".into(), &"recovered".into()), "{end:#}");
    stage.assert_in_service();
    assert_eq!(stage.starts(), 2, "exactly one restart");
}

#[test]
fn an_agent_that_ends_says_which_services_stay_out_of_traffic() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.edit("runbooks/recover.yaml", "health_check: { timeout: 30s,", "health_check: { timeout: 1s,");
    let client = stage.lingering_client();
    let mut agent = stage.run(None);
    stage.wait_for_drain();
    stage.sicken();
    drop(client);
    let end = stage.wait_for_first_end(ENDS_WITHIN);
    assert_eq!(end["outcome"], "stuck", "{end:#}");

    agent.signal(Signal::SIGTERM);

    assert_eq!(agent.wait(ENDS_QUICKLY).code(), Some(0), "{}", agent.output());
    let title = format!("the agent is stopping, and {} stays drained, without traffic", service::UNIT);
    let is_it = |told: &serde_json::Value| told["title"].as_str().is_some_and(|says| says.ends_with(&title));
    let told = stage.wait_until_told("what stays out", SOON, is_it);
    assert!(told.to_string().contains(&format!("unwait resolve {} --restore", service::UNIT)), "{told:#}");
    assert!(agent.output().contains(&title), "{}", agent.output());
}

#[test]
fn systemd_starts_a_killed_agent_again_and_it_puts_the_service_back() {
    let lab = Lab::start();
    let stage = Quick::set_with_state(&lab, PathBuf::from("/var/lib/unwait"));
    let _client = stage.lingering_client();
    start_unit(&stage);
    stage.wait_for_drain();

    lab.run(&["systemctl", "kill", "--kill-who=main", "--signal=KILL", UNIT]);

    let end = stage.wait_for_first_end(ENDS_WITHIN);
    assert_eq!((&end["outcome"], &end["reason"]), (&"unwound".into(), &"agent_restarted".into()), "{end:#}");
    stage.assert_in_service();
    assert_eq!(stage.starts(), 1);
    assert_eq!(lab.show(UNIT, "NRestarts"), "1");
    stage.wait_until_told_end("unwound", "agent_restarted");
}

#[test]
fn what_a_run_step_started_outlives_the_agent() {
    let lab = Lab::start();
    let stage = Quick::set_with_state(&lab, PathBuf::from("/var/lib/unwait"));
    let (began, go_on, ended) = (lab.dir().join("began"), lab.dir().join("go-on"), lab.dir().join("ended"));
    // The words that it says once the agent is gone must not end it.
    let script = lab.dir().join("command");
    let text = format!(
        "#!/bin/sh -e\ntouch {}\nuntil test -e {}; do sleep 0.05; done\n/bin/echo a word\n/bin/echo another\ntouch {}\n",
        began.display(),
        go_on.display(),
        ended.display()
    );
    fs::write(&script, text).expect("the lab's directory is writable");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    let step =
        format!("  - run: {{ argv: [{}], effect: read_only, deadline: 60s }}\n  - restart: {{}}\n", script.display());
    stage.edit("runbooks/recover.yaml", "  - restart: {}\n", &step);
    start_unit(&stage);
    wait_until("the command to begin", SOON, || began.exists().then_some(()));

    lab.stop_unit(UNIT);

    stage.assert_in_service();
    assert_eq!(lab.show(UNIT, "Result"), "success");
    fs::write(&go_on, "").expect("the lab's directory is writable");
    wait_until("the command to end by itself", SOON, || ended.exists().then_some(()));
    assert_eq!(stage.starts(), 1);
}

/// A registry of hooks beside Consul, whose `isolate` is slow and does its part at the end.
fn add_slow_hook(stage: &Quick) -> (PathBuf, PathBuf) {
    let [script, traffic, begun] = ["hook", "traffic", "begun"].map(|name| stage.lab.dir().join(name));
    let text = format!(
        "#!/bin/sh -e\ncase $1 in\nisolate) touch {begun}; sleep 60; echo drained >{traffic} ;;\n\
         restore) echo passing >{traffic} ;;\nobserve) echo \"{{\\\"traffic\\\": \\\"$(cat {traffic})\\\"}}\" ;;\nesac\n",
        begun = begun.display(),
        traffic = traffic.display()
    );
    fs::write(&script, text).expect("the lab's directory is writable");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    fs::write(&traffic, "passing").expect("the lab's directory is writable");
    let verbs: Vec<String> = ["isolate", "restore", "observe"]
        .iter()
        .map(|verb| format!("{verb}: [{}, {verb}]", script.display()))
        .collect();
    let slow = format!("registries: {{ exec: {{ slow: {{ {}, deadline: 2m }} }}, consul:", verbs.join(", "));
    stage.edit("agent.yaml", "registries: { consul:", &slow);
    stage.edit("agent.yaml", "id: rpc-order-1 }", "id: rpc-order-1 }, { registry: slow, id: rpc-order/here }");
    (traffic, begun)
}

fn assert_no_hook_runs(stage: &Quick, traffic: &Path) {
    let units = stage.lab.stdout(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "unwait-*"]);
    assert_eq!(units, "", "it would take the service out of traffic yet");
    assert_eq!(fs::read_to_string(traffic).expect("it was written").trim(), "passing");
    stage.assert_in_service();
}

#[test]
fn a_hook_that_its_steps_deadline_cut_off_is_ended_before_the_service_is_put_back() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    let (traffic, begun) = add_slow_hook(&stage);
    stage.edit("runbooks/recover.yaml", "settle: 0s", "settle: 0s, deadline: 2s");
    stage.edit("runbooks/recover.yaml", "restart: {}", "restart: { deadline: 2s }");
    let said = String::from_utf8(stage.unwait(&["check"]).stdout).expect("UTF-8");
    for warns in [
        "recover for rpc-order.service: drain: the deadline of 2s is below the 12m that slow may take",
        "recover for rpc-order.service: restart: the deadline of 2s is below the service's own of ",
    ] {
        assert!(said.contains(warns), "{said}");
    }

    let _agent = stage.run(None);

    stage.wait_until_told_end("unwound", "drain_failed");
    assert!(begun.exists());
    assert_no_hook_runs(&stage, &traffic);
}

#[test]
fn a_hook_that_a_killed_agent_left_running_is_ended_before_the_service_is_put_back() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    let (traffic, begun) = add_slow_hook(&stage);
    let mut agent = stage.run(None);
    wait_until("the hook to begin", SOON, || begun.exists().then_some(()));
    agent.signal(Signal::SIGKILL);
    agent.wait(ENDS_QUICKLY);

    let _agent = stage.run(None);

    stage.wait_until_told_end("unwound", "agent_restarted");
    assert_no_hook_runs(&stage, &traffic);
}

#[test]
fn what_a_run_step_that_fails_said_last_is_told() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    let step = "  - run: { argv: [/bin/cat, /nowhere/$HOME], effect: read_only, deadline: 10s }\n  - restart: {}\n";
    stage.edit("runbooks/recover.yaml", "  - restart: {}\n", step);

    let _agent = stage.run(None);

    let told = stage.wait_until_told_end("unwound", "step_failed");
    let says = told["lines"].to_string();
    // Newer ones call themselves `cat`.
    let [by, what] = ["/bin/cat: exit status 1: ", "cat: '/nowhere/$HOME': No such file or directory"];
    assert!(says.contains(by) && says.contains(what), "{told:#}");
    stage.assert_in_service();
}

#[test]
fn of_two_people_who_act_at_once_one_does() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.edit("policies/leak.yaml", "mode: auto", "mode: observe");
    stage.service.wait_for_leak();
    let _agent = stage.run(None);
    wait_for_agent(&stage);
    let etc = stage.etc();
    let argv = [PROGRAM, "act", service::UNIT, "--config", etc.to_str().expect("UTF-8")];

    let mut both = [lab.spawn(&argv), lab.spawn(&argv)];

    let mut codes = both.each_mut().map(|one| one.wait(SOON).code());
    codes.sort();
    assert_eq!(codes, [Some(0), Some(1)], "{:?}", both.each_ref().map(|one| one.output()));
    let refused = both.iter().map(|one| one.output()).find(|output| !output.contains("has begun"));
    assert!(refused.is_some_and(|output| output.contains("saga_running")));
    let end = stage.wait_for_first_end(2 * ENDS_WITHIN);
    assert_eq!(end["outcome"], "completed", "{end:#}");
    assert_eq!(stage.incidents().len(), 1);
    assert_eq!(stage.starts(), 2);
    stage.assert_in_service();
}

#[test]
fn a_user_without_rights_cannot_make_the_agent_act() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.edit("policies/leak.yaml", "mode: auto", "mode: observe");
    stage.service.wait_for_leak();
    let _agent = stage.run(None);
    wait_for_agent(&stage);
    // So that the configuration can be read by anybody.
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755)).expect("the directory is ours");
    let etc = stage.etc();
    let act_as_nobody = || {
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
        let act = [PROGRAM, "act", service::UNIT, "--config", etc.to_str().expect("UTF-8")];
        let output = lab.command(&[&nobody[..], &act[..]].concat()).output().expect("setpriv starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };

    let (code, says) = act_as_nobody();
    assert_eq!(code, Some(3), "{says}");
    assert!(says.contains("Permission denied"), "{says}");

    // Where the directory has been opened to all by mistake, the peer's uid still counts.
    fs::set_permissions(stage.state(), fs::Permissions::from_mode(0o755)).expect("the directory is ours");
    let socket = stage.state().join("control.sock");
    fs::set_permissions(socket, fs::Permissions::from_mode(0o777)).expect("the socket is ours");
    for _ in 0..20 {
        let (code, says) = act_as_nobody();
        assert_eq!(code, Some(1), "{says}");
        assert!(says.contains("uid 65534 may not control this agent"), "{says}");
    }

    assert!(stage.incidents().is_empty());
    stage.assert_in_service();
}

/// The unit as it is shipped, but for where its program and its configuration lie.
fn start_unit(stage: &Quick<'_>) {
    let shipped = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/unwait.service"));
    let unit = ["run", "reload"].iter().fold(shipped.to_owned(), |unit, verb| {
        let from = format!("/usr/bin/unwait {verb} --config /etc/unwait");
        assert!(unit.contains(&from));
        unit.replace(&from, &format!("{PROGRAM} {verb} --config {}", stage.etc().display()))
    });
    stage.lab.add_unit(UNIT, &unit);
    // PrivateDevices= wants it to be there.
    stage.lab.run(&["ln", "-sfn", "pts/ptmx", "/dev/ptmx"]);
    stage.lab.start_unit(UNIT);
}

fn wait_for_agent(stage: &Quick<'_>) {
    wait_until_seen("the agent to answer", SOON, || {
        let status = stage.unwait(&["status"]);
        if status.status.success() { Ok(()) } else { Err(format!("{status:?}")) }
    });
}
