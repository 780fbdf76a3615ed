//! Traffic is the last word on a drain: a hook that lies, balancers that drain and balancers that nobody named, sessions that
//! stay, and a service so quiet that nothing can be told. The agent runs in the machine's own pid namespace, where the kernel
//! counts every connection for it; once under the shipped unit's sandbox.

use std::fs;
use std::time::Duration;

use crate::lab::deadline::{holds_for, wait_until_seen};
use crate::lab::gate::{Gate, SERVICE};
use crate::lab::shop::Shop;
use crate::lab::{Lab, Spawned};

const SOON: Duration = Duration::from_secs(60);

/// Of four addresses, so many requests a second.
const CLIENTS: [&str; 4] = ["127.0.0.2=10", "127.0.0.3=6", "127.0.0.4=4", "127.0.0.5=1"];

/// Says that the gate is drained, where that was asked for; no client looks at what it says.
fn register_with_a_liar(gate: &Gate<'_>) {
    let said = gate.lab.dir().join("said");
    fs::write(&said, "passing").expect("the lab's directory is writable");
    let said = said.display();
    let text = format!(
        "#!/bin/sh -e\ncase $1 in\nisolate) echo drained >{said} ;;\nrestore) echo passing >{said} ;;\n\
         observe) echo \"{{\\\"traffic\\\": \\\"$(cat {said})\\\"}}\" ;;\n\
         count) echo '{{\"healthy\": 1, \"registered\": 2}}' ;;\nesac\n"
    );
    let hook = gate.program("hook", &text);
    let verbs = ["isolate", "restore", "observe", "count"].map(|verb| format!("{verb}: [{}, {verb}]", hook.display()));
    gate.register(&format!("exec: {{ liar: {{ {} }} }}", verbs.join(", ")), "registry: liar, id: gate/gate-1");
}

/// The rates before and after, of "40.0 new connections/s before the drain, 39.2 new connections/s after it".
fn rates(says: &str) -> [f64; 2] {
    let mut rates = says.split(" new connections/s").filter_map(|before| before.rsplit(' ').next()?.parse().ok());
    [(); 2].map(|()| rates.next().unwrap_or_else(|| panic!("no two rates in {says:?}")))
}

fn ended_as(gate: &Gate<'_>, agent: &Spawned, outcome: &str, reason: &str) -> String {
    let (ended, why, lines) = gate.end();
    assert_eq!((ended.as_str(), why.as_str()), (outcome, reason), "{lines}\n{}", agent.output());
    lines
}

#[test]
fn a_hook_that_lies_is_told_once_by_both_rates_and_not_tried_again_until_a_person_rearms_it() {
    let lab = Lab::bare();
    let gate = Gate::open(&lab, 27_000);
    let _clients = gate.clients("request", gate.address().port(), &CLIENTS);
    register_with_a_liar(&gate);

    let agent = gate.run();

    let lines = ended_as(&gate, &agent, "unwound", "drain_ineffective");
    // 21 a second, counted by the kernel, whatever a busy machine makes of it.
    assert!(!lines.contains("at least"), "{lines}");
    let [before, after] = rates(&lines);
    assert!(before > 10.0 && after > before / 2.0, "{lines}");
    let (_, peers) = lines.split_once("busiest peers: ").unwrap_or_else(|| panic!("no peers: {lines}"));
    let named = ["127.0.0.2 (", "127.0.0.3 (", "127.0.0.4 (", "127.0.0.5 ("].map(|peer| peers.contains(peer));
    assert_eq!(named, [true, true, true, false], "{peers}");

    let breaker = |told: &serde_json::Value| told["event"] == "stuck" && told["reason"] == "breaker_open";
    gate.webhook.wait_for("the breaker", SOON, |request| breaker(&request.json()));
    // Neither is it tried once the cooldown is over.
    gate.an_hour_passes();
    wait_until_seen("what it would do", SOON, || {
        let said = gate.unwait(&["history", "--json"]).json();
        if said.as_array().is_some_and(|all| all.iter().any(|one| one["dry_run"] == true)) {
            Ok(())
        } else {
            Err(format!("{said:#}"))
        }
    });
    holds_for("it is not tried again", Duration::from_secs(3), || match (gate.incidents().len(), gate.starts()) {
        (1, 1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let told: Vec<_> = gate.webhook.requests().iter().map(|request| request.json()).collect();
    let real_end = |told: &&serde_json::Value| told["event"] == "end" && told["dry_run"] == false;
    assert_eq!(told.iter().filter(real_end).count(), 1, "{told:#?}");
    assert_eq!(told.iter().filter(|told| breaker(told)).count(), 1, "{told:#?}");

    gate.an_hour_passes();
    let rearmed = gate.unwait(&["rearm", "leak", "--service", SERVICE]);
    assert_eq!(rearmed.code, 0, "{rearmed:?}");
    wait_until_seen("a second try", SOON, || match gate.incidents() {
        two if two.len() == 2 => Ok(()),
        other => Err(format!("{other:#?}\n{}", agent.output())),
    });
    assert_eq!(gate.starts(), 1);
}

#[test]
fn a_service_that_a_balancer_drains_is_restarted_once_no_request_comes_but_the_checks() {
    let lab = Lab::bare();
    let gate = Gate::open(&lab, 27_010);
    let balancer = gate.balancer("http", 0);
    let _clients = gate.clients("request", balancer.port, &["127.0.0.2=40"]);
    gate.register_with(&[&balancer]);

    let agent = gate.run();

    ended_as(&gate, &agent, "completed", "recovered");
    let drain = gate.drain();
    let [before, after] = rates(&drain);
    assert!(before > 10.0 && after < 5.0 && !drain.contains("at least"), "{drain}");
    assert_eq!(gate.starts(), 2);
}

#[test]
fn a_balancer_that_nobody_named_goes_on_sending_and_the_service_is_not_restarted_under_it() {
    let lab = Lab::bare();
    let gate = Gate::open(&lab, 27_020);
    let [named, other] = [0, 1].map(|nth| gate.balancer("http", nth));
    let _few = gate.clients("request", named.port, &["127.0.0.2=10"]);
    let _most = gate.clients("request", other.port, &["127.0.0.3=40"]);
    gate.register_with(&[&named]);

    let agent = gate.run();

    let lines = ended_as(&gate, &agent, "unwound", "drain_ineffective");
    let [before, after] = rates(&lines);
    assert!(before > 10.0 && after > before / 2.0 && after < before, "{lines}");
    assert_eq!(gate.starts(), 1);
}

#[test]
fn sessions_that_stay_over_a_drain_are_restarted_under_and_the_end_says_so() {
    let lab = Lab::bare();
    let gate = Gate::open(&lab, 27_030);
    let balancer = gate.balancer("tcp", 0);
    let _clients = gate.clients("session", balancer.port, &["127.0.0.2=20", "127.0.0.3=20", "127.0.0.4=20"]);
    gate.register_with(&[&balancer]);

    let agent = gate.run();

    let lines = ended_as(&gate, &agent, "completed", "recovered");
    let share = lines.split_once("the restart came at ").and_then(|(_, rest)| rest.split_once("% of the traffic"));
    let share: f64 = share.and_then(|(share, _)| share.parse().ok()).unwrap_or_else(|| panic!("no share: {lines}"));
    assert!((50.0..150.0).contains(&share), "{lines}");
    assert_eq!(gate.starts(), 2);
}

#[test]
fn a_service_that_only_its_checks_ask_is_too_quiet_to_tell_and_is_restarted() {
    let lab = Lab::bare();
    let gate = Gate::open(&lab, 27_040);
    let balancer = gate.balancer("http", 0);
    gate.register_with(&[&balancer]);

    let agent = gate.run();

    ended_as(&gate, &agent, "completed", "recovered");
    let drain = gate.drain();
    assert!(drain.contains(" new connections/s, too quiet to tell whether clients follow"), "{drain}");
    assert_eq!(gate.starts(), 2);
}

/// Dubbo's connections stay open, so it is the calls over them that tell.
#[test]
fn consumers_of_dubbo_3_that_do_not_heed_the_old_override_have_it_taken_back() {
    let lab = Lab::bare();
    let shop = Shop::open(&lab, 27_060);
    shop.register_with_the_old_override();

    let agent = shop.gate.run();

    let lines = ended_as(&shop.gate, &agent, "unwound", "drain_ineffective");
    assert!(lines.contains("the drain is ineffective, open connections stay busy: "), "{lines}");
    assert!(lines.contains("busiest peers: 10.77.0.1 ("), "{lines}");
    shop.wait_for_calls_to_both();
}

/// The shipped unit's sandbox around the agent, in the machine's own pid namespace: a systemd that is not PID 1 manages a
/// user's units, and is told this one.
fn run_under_the_shipped_sandbox(gate: &Gate<'_>) -> Spawned {
    let units = gate.lab.dir().join("units");
    fs::create_dir(&units).expect("the lab's directory is writable");
    let shipped = include_str!("../../deploy/systemd/unwait.service");
    fs::write(units.join("unwait.service"), shipped).expect("the lab's directory is writable");
    let dir = gate.lab.dir().display();
    let changes = format!(
        "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=\nExecStart={} run --log json --config {}\n\
         StandardOutput=file:{dir}/log\nStandardError=file:{dir}/log\n\
         # Its state is the lab's.\nStateDirectory=\nReadWritePaths={dir}\n",
        crate::lab::agent::PROGRAM,
        gate.etc().display(),
    );
    fs::create_dir(units.join("unwait.service.d")).expect("the lab's directory is writable");
    fs::write(units.join("unwait.service.d/lab.conf"), changes).expect("the lab's directory is writable");
    fs::write(units.join("lab.target"), "[Unit]\nDefaultDependencies=no\nWants=unwait.service\n")
        .expect("the lab's directory is writable");
    // What systemd has made for itself on a host where it is PID 1.
    for words in [
        "mkdir -p /run/user/0 /run/systemd/system /run/systemd/inaccessible/dir",
        "touch /run/systemd/inaccessible/reg",
        "mkfifo /run/systemd/inaccessible/fifo",
        "mknod /run/systemd/inaccessible/chr c 0 0",
    ] {
        gate.lab.run(&words.split(' ').collect::<Vec<_>>());
    }
    let path = format!("SYSTEMD_UNIT_PATH={}", units.display());
    let home = format!("HOME={dir}");
    let systemd = ["/lib/systemd/systemd", "--user", "--unit=lab.target", "--log-target=console"];
    gate.lab.spawn(&[&["env", &path, &home, "XDG_RUNTIME_DIR=/run/user/0"], &systemd[..]].concat())
}

#[test]
fn the_shipped_units_sandbox_lets_the_kernel_count() {
    let lab = Lab::bare();
    let gate = Gate::open(&lab, 27_050);
    let [named, other] = [0, 1].map(|nth| gate.balancer("http", nth));
    let _clients = gate.clients("request", other.port, &["127.0.0.3=40"]);
    gate.register_with(&[&named]);

    let manager = run_under_the_shipped_sandbox(&gate);

    let lines = ended_as(&gate, &manager, "unwound", "drain_ineffective");
    assert!(!lines.contains("at least"), "{lines}\n{}", fs::read_to_string(lab.dir().join("log")).unwrap_or_default());
}
