//! Configurations that cannot be used: what is said, by which exit code, and that nothing is lost by it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::Lab;
use crate::lab::agent::{self, Etc, HOST, POLICY, RUNBOOK, Said, unwait, unwait_as_nobody};
use crate::lab::deadline::wait_until_seen;

const SOON: Duration = Duration::from_secs(30);

/// `run` must end by itself, with this code, and `check` must say the same.
fn refuses(lab: &Lab, code: i32, words: &[&str]) -> Said {
    let run = lab_run(lab);
    let check = unwait(lab, &["check"]);
    for said in [&run, &check] {
        assert_eq!(said.code, code, "{said:?}");
        for word in words {
            assert!(said.err.contains(word), "no {word:?} in {}", said.err);
        }
    }
    run
}

/// `run`, ended after a while where it does not end by itself.
fn lab_run(lab: &Lab) -> Said {
    agent::unwait_within(lab, SOON, &["run", "--log", "json"])
}

fn write_story(lab: &Lab) -> Etc {
    agent::write_credential(lab, "webhook", "http://127.0.0.1:9/");
    agent::write_credential(lab, "webhook-key", agent::WEBHOOK_KEY);
    let etc = Etc::of_the_story();
    etc.write(lab);
    etc
}

#[test]
fn an_absent_configuration_is_said_with_what_to_do() {
    let lab = Lab::start();
    refuses(&lab, 2, &["/etc/unwait", "agent.yaml"]);
    assert!(!lab.inside(agent::STATE).exists(), "nothing was begun");
    let scan = unwait(&lab, &["scan"]);
    assert_eq!((scan.code, scan.err.as_str()), (0, ""), "a look needs none");

    fs::create_dir(lab.inside("/etc/unwait")).expect("the lab's /etc is writable");
    refuses(&lab, 2, &["/etc/unwait/agent.yaml", "interval: 15s"]);
}

#[test]
fn every_error_of_a_broken_configuration_is_said_with_its_place() {
    let lab = Lab::start();
    Etc::shipped()
        .edit(HOST, "interval: 15s", "intervall: 15s")
        .edit(POLICY, "close_wait.aged(5m) > 200", "close_wate.aged(5m) > 200")
        .edit(RUNBOOK, "settle: 5s", "settl: 5s")
        .write(&lab);

    let said = refuses(
        &lab,
        2,
        &[
            "/etc/unwait/agent.yaml:5:1",
            "`interval`",
            "/etc/unwait/policies/close-wait-leak.yaml:7:7",
            "close_wait.aged",
            "/etc/unwait/runbooks/isolate-restart-recover.yaml:6:14",
            "`settle`",
            // The line itself.
            "  - drain: { settl: 5s }",
        ],
    );
    assert!(!lab.inside(agent::STATE).exists(), "nothing was begun: {said:?}");
}

#[test]
fn what_is_shipped_checks_and_passes_its_own_tests() {
    let lab = Lab::start();
    let etc = Etc::shipped();
    etc.write(&lab);

    let check = unwait(&lab, &["check"]);
    assert_eq!(check.code, 0, "{check:?}");
    let counts = format!("{} policies, {} runbooks, 1 services named", etc.count("policies"), etc.count("runbooks"));
    assert!(check.out.contains(&format!("{counts}: no errors.")), "{check:?}");
    let test = unwait_as_nobody(&lab, &["test"]);
    assert_eq!(test.code, 0, "no root is needed: {test:?}");
    assert!(test.out.contains("passed, 0 failed"), "{test:?}");
    let failing = Etc::shipped().edit(POLICY, "breach_at: 2m30s", "breach_at: 2m15s");
    failing.write(&lab);
    let test = unwait(&lab, &["test"]);
    assert_eq!(test.code, 1, "{test:?}");
    assert!(test.out.contains("expected breach_at 2m15s, found 2m30s"), "{test:?}");
    let junit = unwait(&lab, &["test", "--junit"]);
    assert_eq!(junit.code, 1, "{junit:?}");
    assert!(junit.out.contains("failures=\"1\">") && junit.out.contains("<failure message=\"expected"), "{junit:?}");
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    let lab = Lab::start();
    Etc::shipped().write(&lab);
    let file = lab.inside("/etc/unwait").join(RUNBOOK);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o646)).expect("the file is ours");
    refuses(&lab, 2, &[RUNBOOK, "can be written by anyone", "chmod o-w"]);

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    lab.run(&["chown", "nobody", "/etc/unwait/agent.yaml"]);
    refuses(&lab, 2, &["agent.yaml", "belongs to uid 65534"]);
}

#[test]
fn a_token_that_cannot_be_read_is_said_by_its_path() {
    let lab = Lab::start();
    write_story(&lab).edit(HOST, "    #token_file:", "    token_file:").write(&lab);
    let run = lab_run(&lab);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.err.contains("/etc/unwait/credentials/consul") && run.err.contains("the ACL token"), "{run:?}");
    let check = unwait(&lab, &["check"]);
    assert_eq!(check.code, 2, "{check:?}");
    for word in ["/etc/unwait/agent.yaml:14:17", "/etc/unwait/credentials/consul: No such file", "token_file: $"] {
        assert!(check.err.contains(word), "no {word:?} in {check:?}");
    }
}

#[test]
fn an_unknown_unit_turns_action_off_for_itself_alone() {
    let lab = Lab::start();
    write_story(&lab)
        .edit(HOST, "services:\n", "services:\n  - service: rpc-old.service\n    health: { redis_ping: \"127.0.0.1:7809\" }\n    register: [{ registry: consul, id: rpc-old-1 }]\n")
        .write(&lab);

    let check = unwait(&lab, &["check"]);
    assert_eq!(check.code, 0, "{check:?}");
    let cannot = "close-wait-leak: cannot act on rpc-old.service: rpc-old.service: no such service for this restarter";
    assert!(check.out.contains(cannot), "{check:?}");
    let plan = unwait(&lab, &["plan", "rpc-old.service"]);
    assert_eq!(plan.code, 1, "{plan:?}");
    assert!(plan.out.contains("not_actionable: rpc-old.service: no such service"), "{plan:?}");
    let _agent = agent::run(&lab);
    assert_eq!(unwait(&lab, &["status"]).code, 0, "it watches the others");
}

/// A unit's secrets are systemd's; nobody who calls a verb has its environment.
#[test]
fn every_verb_works_without_the_credentials_of_the_unit_as_long_as_its_agent_runs() {
    let lab = Lab::start();
    let etc = write_story(&lab);
    let bare = |arguments: &[&str]| {
        let argv = [&[agent::PROGRAM], arguments].concat();
        Said::of(&lab.command(&argv).output().expect("it starts"))
    };
    let alone = bare(&["check"]);
    assert_eq!(alone.code, 2, "{alone:?}");
    let why = "no unit unwait.service runs, whose credentials could be read: set CREDENTIALS_DIRECTORY to";
    assert!(alone.err.contains(why) && alone.err.ends_with("1 error\n"), "{alone:?}");

    agent::start_unit(&lab);

    for verb in [
        &["check"][..],
        &["check", "--ask", "--json"],
        &["explain", "rpc-order.service"],
        &["plan", "rpc-order.service", "--policy", "close-wait-leak"],
        &["status"],
        &["history"],
        &["pause", "--why", "a test"],
        &["notify", "test", "--help"],
    ] {
        let said = bare(verb);
        assert!(said.code < 2 && !said.err.contains("CREDENTIALS_DIRECTORY"), "{verb:?}: {said:?}");
    }
    // The agent's answer is of the configuration that it has, and check's of the files.
    etc.edit(RUNBOOK, "settle: 1s", "settl: 1s").write(&lab);
    let plan = bare(&["plan", "rpc-order.service", "--policy", "close-wait-leak", "--json"]);
    assert!(plan.code < 2 && plan.json()["plan"]["runbook"] == "isolate-restart-recover", "{plan:?}");
    let check = bare(&["check"]);
    assert!(check.code == 2 && check.err.contains("settl: 1s"), "{check:?}");
    let json = bare(&["check", "--json"]).json();
    assert!(json["ok"] == false && json["errors"][0]["line"] == 6, "{json:#}");
    // A file that root may not believe is refused by the agent as well.
    lab.run(&["chmod", "o+w", "/etc/unwait/agent.yaml"]);
    let check = bare(&["check"]);
    assert!(check.code == 2 && check.err.contains("can be written by anyone"), "{check:?}");
}

#[test]
fn what_a_configuration_will_not_do_is_found_with_its_consequence() {
    let lab = Lab::start();
    let again = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/policies/close-wait-climb.yaml"));
    write_story(&lab)
        .with("policies/close-wait-climb.yaml", &again.replace("breach_at: 2m30s", "breach_at: 2m45s"))
        .edit(POLICY, "[\"rpc-*.service\"]", "[rpc-order.service, absent.service, process:nobody]")
        .edit(RUNBOOK, "soak: 8s", "soak: 2s")
        .write(&lab);

    let check = unwait(&lab, &["check", "--json"]);

    assert_eq!(check.code, 1, "{check:?}");
    let json = check.json();
    let findings = json["findings"].as_array().expect("a list");
    for (finding, place) in [
        ("failing_test", "close-wait-climb"),
        ("both_leak_policies", "close-wait-leak, close-wait-climb"),
        ("no_such_service", "close-wait-leak"),
        ("short_soak", "isolate-restart-recover"),
    ] {
        let found: Vec<_> = findings.iter().filter(|one| one["finding"] == finding).collect();
        assert!(!found.is_empty(), "no {finding} in {json:#}");
        for one in found {
            assert!(
                one["where"] == place && one["consequence"].as_str().is_some_and(|says| !says.is_empty()),
                "{one:#}"
            );
        }
    }
    let absent: Vec<_> = findings.iter().filter(|one| one["finding"] == "no_such_service").collect();
    assert_eq!(absent.len(), 2, "{absent:#?}");
    let text = unwait(&lab, &["check"]);
    assert!(text.out.contains("close-wait-climb: its test `a few workers that leak are caught"), "{text:?}");
    assert!(text.err.contains("1 test of a policy fails"), "{text:?}");

    // Consul does not answer here.
    let asked = unwait(&lab, &["check", "--ask", "--json"]);
    assert_eq!(asked.code, 1, "{asked:?}");
    let found = asked.json()["findings"].as_array().cloned().unwrap_or_default();
    assert!(found.iter().any(|one| one["finding"] == "no_answer" && one["where"] == "registry consul"), "{found:#?}");
}

/// A user of this host writes files whose `state:` is a directory of their own, listens there, and calls all of it good.
const LISTENS: &str = "\
import socket
server = socket.socket(socket.AF_UNIX)
server.bind('/run/stranger/control.sock')
server.listen()
open('/run/stranger/ready', 'w').close()
while True:
    peer, _ = server.accept()
    peer.makefile().readline()
    try:
        peer.sendall(b'{\"ok\": true, \"text\": \"\", \"detail\": {\"ok\": true}}\\n')
    except OSError:
        pass
";

#[test]
fn check_says_whose_answer_it_shows_and_believes_no_stranger() {
    let lab = Lab::start();
    write_story(&lab);
    let alone = unwait(&lab, &["check"]);
    assert!(
        alone.out.contains("Judged by this command, by what it may read: no agent runs on /var/lib/unwait"),
        "{alone:?}"
    );
    let _agent = agent::run(&lab);
    let pid = unwait(&lab, &["status", "--json"]).json()["agent"]["pid"].clone();

    let check = unwait(&lab, &["check"]);
    let json = unwait(&lab, &["check", "--json"]).json();
    lab.run(&["cp", "-a", "/etc/unwait", "/etc/unwait-new"]);
    let staged = unwait(&lab, &["check", "--config", "/etc/unwait-new"]);

    let by = format!(
        "Judged by the running agent (pid {pid}, unwait {}), which reads /etc/unwait.",
        env!("CARGO_PKG_VERSION")
    );
    assert!(check.out.contains(&by) && !check.out.contains("not these files"), "{check:?}");
    assert_eq!(
        (&json["judged_by"]["pid"], &json["judged_by"]["agent_reads"]),
        (&pid, &"/etc/unwait".into()),
        "{json:#}"
    );
    let another =
        format!("/etc/unwait-new: the agent that runs on this state (pid {pid}) reads /etc/unwait, not these files");
    assert!(staged.code == 0 && staged.out.contains(&by) && staged.out.contains(&another), "{staged:?}");

    lab.run(&["install", "-d", "-o", "65534", "/run/stranger"]);
    let etc = lab.inside("/etc/unwait-new/agent.yaml");
    let text = fs::read_to_string(&etc).expect("it was copied");
    fs::write(&etc, format!("state: /run/stranger\n{text}")).expect("the file is ours");
    let _stranger = lab.spawn(&["setpriv", "--reuid=65534", "--clear-groups", "--", "/usr/bin/python3", "-c", LISTENS]);
    wait_until_seen("the stranger", SOON, || match lab.inside("/run/stranger/ready").exists() {
        true => Ok(()),
        false => Err("it does not listen".to_owned()),
    });
    let check = unwait(&lab, &["check", "--config", "/etc/unwait-new"]);
    assert!(
        check.out.contains("Judged by this command") && check.out.contains("uid 65534, neither root's"),
        "{check:?}"
    );
    let status = unwait(&lab, &["status", "--config", "/etc/unwait-new"]);
    assert!(status.code == 3 && status.err.contains("its answer is not believed"), "{status:?}");
}

#[test]
fn a_new_configuration_is_taken_whole_or_not_at_all() {
    let lab = Lab::start();
    let etc = write_story(&lab);
    let agent = agent::run(&lab);
    let status = || unwait(&lab, &["status", "--json"]).json();
    let pid = status()["agent"]["pid"].clone();
    unwait(&lab, &["pause", "--why", "to be kept"]);
    let fourth = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/policies/fd-exhaustion.yaml"));
    let fourth = fourth.replace("policy: fd-exhaustion", "policy: fourth");

    etc.clone().with("policies/fourth.yaml", &fourth).edit(RUNBOOK, "settle: 1s", "settl: 1s").write(&lab);
    agent.signal(Signal::SIGHUP);
    wait_until_seen("that the new one is refused", SOON, || match agent.output() {
        output if output.contains("stays in force") && output.contains("settle") => Ok(()),
        output => Err(output),
    });
    let agent_now = status()["agent"].clone();
    assert_eq!((&agent_now["policies"], &agent_now["pid"]), (&3.into(), &pid));

    etc.with("policies/fourth.yaml", &fourth).edit(HOST, "interval: 1s", "interval: 2s").write(&lab);
    agent.signal(Signal::SIGHUP);
    wait_until_seen("the new one in force", SOON, || match status() {
        status if status["agent"]["policies"] == 4 && status["agent"]["interval"] == "2s" => Ok(()),
        status => Err(format!("{status:#}")),
    });
    let now = status();
    assert_eq!((&now["agent"]["pid"], &now["paused"]["why"]), (&pid, &"to be kept".into()));
}

#[test]
fn without_root_it_says_what_it_cannot_have() {
    let lab = Lab::start();
    Etc::shipped().write(&lab);

    let run = unwait_as_nobody(&lab, &["run", "--log", "json"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.err.contains(agent::STATE) && run.err.contains("ermission denied"), "{run:?}");
    assert!(!lab.inside(agent::STATE).exists());
    let scan = unwait_as_nobody(&lab, &["scan"]);
    assert_eq!(scan.code, 0, "a look needs no root: {scan:?}");
    assert!(scan.out.contains("this is not root"), "{scan:?}");
}

#[test]
fn a_second_agent_on_the_same_state_refuses() {
    let lab = Lab::start();
    write_story(&lab);
    let first = agent::run(&lab);
    let pid = unwait(&lab, &["status", "--json"]).json()["agent"]["pid"].clone();

    let second = lab_run(&lab);

    assert_eq!(second.code, 3, "{second:?}");
    assert!(second.err.contains("another unwait") && second.err.contains(&pid.to_string()), "{second:?}");
    assert_eq!(unwait(&lab, &["status", "--json"]).json()["agent"]["pid"], pid, "the first goes on");
    drop(first);
}
