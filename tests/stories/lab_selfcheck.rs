//! The lab itself: each component is what the stories take it for, and nothing outlives a lab.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::lab::closewait::close_wait_count;
use crate::lab::deadline::{holds_for, wait_until, wait_until_seen};
use crate::lab::http::ask;
use crate::lab::spawned::ended_by;
use crate::lab::webhook::Reply;
use crate::lab::{Behaviour, Consul, Disk, Lab, Redis, RpcOrder, Webhook, service};

const SOON: Duration = Duration::from_secs(30);
const REDIS_PORT: u16 = 6390;
const REDIS_TIMEOUT_SECONDS: u32 = 2;

#[test]
fn a_restarted_unit_has_a_new_invocation_id() {
    let lab = Lab::start();
    lab.add_unit("idle.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    lab.start_unit("idle.service");
    let first = lab.show("idle.service", "InvocationID");
    assert_eq!(first.len(), 32);

    lab.restart_unit("idle.service");

    assert_ne!(lab.show("idle.service", "InvocationID"), first);
    assert_eq!(lab.show("idle.service", "ActiveState"), "active");
}

#[test]
fn the_system_bus_answers_for_systemd() {
    let lab = Lab::start();
    let answer = lab.stdout(&[
        "busctl",
        "--system",
        "get-property",
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
        "Version",
    ]);
    assert!(answer.starts_with("s \""), "{answer}");
}

#[test]
fn a_lab_cannot_write_to_the_machine() {
    let lab = Lab::start();
    lab.run(&["touch", "/etc/of-the-lab", "/run/of-the-lab", "/tmp/of-the-lab", "/var/lib/of-the-lab"]);
    for path in ["/etc/of-the-lab", "/run/of-the-lab", "/tmp/of-the-lab", "/var/lib/of-the-lab"] {
        assert!(!Path::new(path).exists(), "{path} is the machine's");
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/of-the-lab");
    for path in ["/usr/of-the-lab", "/of-the-lab", source, "/proc/sys/kernel/hostname"] {
        let output = lab.command(&["tee", path]).output().expect("tee starts");
        assert!(!output.status.success(), "{path} can be written");
    }
    let own = lab.dir().join("of-the-lab");
    lab.run(&["touch", own.to_str().expect("UTF-8")]);
    assert!(own.exists());
}

#[test]
fn a_lab_has_nothing_of_an_unwait_that_the_machine_has() {
    // This thread, and what it starts, sees a machine that has one.
    let machine = tempfile::tempdir().expect("a scratch directory");
    unshare(CloneFlags::CLONE_NEWNS).expect("root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("root");
    let copied = Command::new("cp").arg("--archive").arg("/etc/.").arg(machine.path()).status();
    assert!(copied.expect("cp starts").success());
    mount(Some(machine.path()), "/etc", None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("root");
    for file in ["/etc/unwait/agent.yaml", "/etc/systemd/system/unwait.service.d/of-the-machine.conf"] {
        let file = Path::new(file);
        std::fs::create_dir_all(file.parent().expect("below /etc")).expect("the scratch directory is writable");
        std::fs::write(file, "of the machine").expect("the scratch directory is writable");
    }

    let lab = Lab::start();
    for absent in ["/etc/unwait", "/etc/systemd/system/unwait.service.d", "/var/lib/unwait"] {
        assert!(!lab.inside(absent).exists(), "{absent}");
    }
}

#[test]
fn two_labs_have_ports_of_their_own() {
    let (one, other) = (Lab::start(), Lab::start());
    Redis::start(&one, REDIS_PORT, 0);
    let redis = Redis::start(&other, REDIS_PORT, 0);
    redis.stop();
    assert!(other.network().connect(redis.address()).is_err());
    assert!(one.network().redis_ping(redis.address()).expect("the other's Redis runs"));
}

#[test]
fn a_spawned_command_can_be_signalled_and_killed() {
    let lab = Lab::start();
    let mut sleeper = lab.spawn(&["sleep", "infinity"]);
    sleeper.signal(Signal::SIGTERM);
    assert_eq!(ended_by(sleeper.wait(SOON)), Some(Signal::SIGTERM));

    let mut speaker = lab.spawn(&["echo", "a word"]);
    assert!(speaker.wait(SOON).success());
    assert_eq!(speaker.output(), "a word\n");

    let sleeper = lab.spawn(&["sleep", "infinity"]);
    let process = format!("/proc/{}", sleeper.pid());
    drop(sleeper);
    assert!(!Path::new(&process).exists());
}

#[test]
fn maintenance_hides_an_instance_from_passing_and_survives_a_restart_of_consul() {
    let lab = Lab::start();
    let consul = Consul::start(&lab);
    consul.register(&json!({ "ID": "rpc-order-1", "Name": "rpc-order", "Port": 7801 }));
    consul.register_peers("rpc-order");
    wait_for_passing(&consul, &["rpc-order-1", "rpc-order-2", "rpc-order-3"]);
    assert_eq!(consul.maintenance("rpc-order-1"), None);

    consul.put_maintenance("rpc-order-1", "by hand: new disk");
    wait_for_passing(&consul, &["rpc-order-2", "rpc-order-3"]);
    assert!(consul.maintenance_log().contains("rpc-order-1"), "{}", consul.maintenance_log());

    consul.stop();
    assert!(consul.ask("GET", "/v1/status/leader", "").is_err());
    consul.start_again();
    assert_eq!(consul.maintenance("rpc-order-1").as_deref(), Some("by hand: new disk"));
    wait_for_passing(&consul, &["rpc-order-2", "rpc-order-3"]);

    consul.end_maintenance("rpc-order-1");
    wait_for_passing(&consul, &["rpc-order-1", "rpc-order-2", "rpc-order-3"]);

    consul.deregister_peer("rpc-order", 3);
    consul.deregister("rpc-order-1");
    wait_for_passing(&consul, &["rpc-order-2"]);
}

#[test]
fn a_key_of_consul_is_read_as_it_was_put() {
    let lab = Lab::start();
    let consul = Consul::start(&lab);
    assert_eq!(consul.kv_get("a/key"), None);
    consul.put("/v1/kv/a/key", &json!({ "holder": "host-1" }));
    assert_eq!(consul.kv_get("a/key").as_deref(), Some(r#"{"holder":"host-1"}"#));
}

#[test]
fn a_token_that_may_not_read_services_gets_an_empty_answer() {
    let lab = Lab::start();
    let (consul, tokens) = Consul::start_with_acl(&lab);
    consul.register(&json!({ "ID": "rpc-order-1", "Name": "rpc-order", "Port": 7801, "Token": tokens.management }));
    wait_for_passing(&consul, &["rpc-order-1"]);

    let path = "/v1/health/service/rpc-order?passing&consistent";
    let answer = ask(lab.network(), consul.address(), "GET", path, Some(&tokens.blind), "").expect("an answer");
    assert_eq!((answer.status, answer.body.trim()), (200, "[]"));
}

#[test]
fn the_service_leaks_until_it_has_been_restarted_once() {
    let lab = Lab::start();
    let redis = Redis::start(&lab, REDIS_PORT, REDIS_TIMEOUT_SECONDS);
    let service = RpcOrder::start(&lab, &redis, Behaviour::LeakUntilRestarted);
    service.wait_for_leak();
    assert_eq!(close_wait_count(&lab), service::LEAKED);
    let (before, master) = (service.invocation_id(), lab.show(service::UNIT, "MainPID"));
    assert!(service.answers(), "it still serves while it leaks");
    assert_eq!(lab.show(service::UNIT, "MainPID"), master);

    lab.restart_unit(service::UNIT);
    service.wait_for_pong();

    assert_ne!(service.invocation_id(), before);
    let longer_than_idle = Duration::from_secs(2 * u64::from(REDIS_TIMEOUT_SECONDS));
    // The service's own: Redis may be late to close what the service has closed.
    let leaks = || match service.close_wait() {
        0 => Ok(()),
        count => Err(count),
    };
    wait_until_seen("the last PING's connection to be closed", SOON, leaks);
    holds_for("no leak after the restart", longer_than_idle, leaks);
}

#[test]
fn a_service_that_leaks_always_leaks_again_after_a_restart() {
    let lab = Lab::start();
    let redis = Redis::start(&lab, REDIS_PORT, REDIS_TIMEOUT_SECONDS);
    let service = RpcOrder::start(&lab, &redis, Behaviour::LeakAlways);
    service.wait_for_leak();
    lab.restart_unit(service::UNIT);
    assert_eq!(service.close_wait(), 0, "a restart closes everything");
    service.wait_for_leak();
    service.behave(Behaviour::Sound);
    lab.restart_unit(service::UNIT);
    service.wait_for_pong();
}

#[test]
fn a_service_that_falls_sick_runs_after_the_restart_but_does_not_listen() {
    let lab = Lab::start();
    let redis = Redis::start(&lab, REDIS_PORT, REDIS_TIMEOUT_SECONDS);
    let service = RpcOrder::start(&lab, &redis, Behaviour::LeakThenSick);
    service.wait_for_leak();

    lab.restart_unit(service::UNIT);

    holds_for("no answer to PING", Duration::from_secs(1), || if service.answers() { Err("PONG") } else { Ok(()) });
    assert_eq!(lab.show(service::UNIT, "ActiveState"), "active");
}

#[test]
fn a_service_can_register_itself_at_its_start() {
    let lab = Lab::start();
    let consul = Consul::start(&lab);
    let redis = Redis::start(&lab, REDIS_PORT, REDIS_TIMEOUT_SECONDS);
    let service = RpcOrder::start(&lab, &redis, Behaviour::Sound);
    assert!(consul.passing("rpc-order").is_empty());
    service.register_at_start(&consul, &json!({ "ID": "rpc-order-1", "Name": "rpc-order", "Port": 7801 }));
    lab.restart_unit(service::UNIT);
    wait_for_passing(&consul, &["rpc-order-1"]);
}

#[test]
fn the_webhook_records_requests_and_answers_as_told() {
    let lab = Lab::start();
    let mut webhook = Webhook::start(&lab);
    let url = webhook.url("");
    let address = url.strip_prefix("http://").expect("a plain url").parse().expect("an address");
    let post = |body: &str| ask(lab.network(), address, "POST", "/hook", None, body);

    let answer = post(r#"{"event":"start"}"#).expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    let seen = webhook.wait_for("the start", SOON, |request| request.json()["event"] == "start");
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/hook"));
    assert_eq!(seen.header("content-type"), Some("application/json"));

    webhook.reply_with(Reply { status: 503, body: "later".to_owned(), delay: Duration::from_millis(50) });
    let answer = post("{}").expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (503, "later"));

    webhook.refuse();
    let refused = post("{}").expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    webhook.listen();
    webhook.reply_with(Reply::new(200, "ok"));
    assert_eq!(post("{}").expect("it listens again").status, 200);
    assert_eq!(webhook.requests().len(), 3);
}

#[test]
fn a_full_disk_takes_nothing_more_until_it_is_freed() {
    let lab = Lab::start();
    let disk = Disk::mount(&lab, "small", 256 * 1024);
    let file = disk.path().join("file");
    let write = || lab.command(&["cp", "/etc/hostname", file.to_str().expect("UTF-8")]).output().expect("cp starts");
    std::fs::write(disk.outside().join("first"), "kept").expect("there is room");

    disk.fill();
    assert!(!write().status.success());
    assert_eq!(std::fs::read_to_string(disk.outside().join("first")).expect("it is there"), "kept");

    disk.free();
    assert!(write().status.success());
}

#[test]
fn a_lab_that_ends_leaves_nothing_behind() {
    let lab = Lab::start();
    let _sleeper = lab.spawn(&["sleep", "infinity"]);
    let _disk = Disk::mount(&lab, "small", 64 * 1024);
    let (dir, cgroup) = (lab.dir().to_owned(), lab.cgroup().to_owned());
    assert!(dir.exists() && cgroup.exists());
    drop(lab);
    assert!(!dir.exists() && !cgroup.exists());
}

/// Plays two parts: itself, and the test that is killed.
#[test]
fn a_lab_whose_test_is_killed_leaves_nothing_behind() {
    const PART: &str = "UNWAIT_LAB_IS_KILLED";
    const NAME: &str = "lab_selfcheck::a_lab_whose_test_is_killed_leaves_nothing_behind";
    if std::env::var_os(PART).is_some() {
        let lab = Lab::start();
        let _sleeper = lab.spawn(&["sleep", "infinity"]);
        println!("\nLAB {} {}", lab.dir().display(), lab.cgroup().display());
        std::io::stdout().flush().expect("stdout");
        loop {
            std::thread::park();
        }
    }

    let mut killed = Command::new(std::env::current_exe().expect("its own path"))
        .args(["--exact", "--nocapture", NAME])
        .env(PART, "1")
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("the test program starts");
    let stdout = BufReader::new(killed.stdout.take().expect("a pipe"));
    let line = stdout.lines().map_while(Result::ok).find(|line| line.starts_with("LAB ")).expect("the lab starts");
    let places: Vec<_> = line.split(' ').skip(1).map(Path::new).collect();
    assert!(places.iter().all(|place| place.exists()), "{places:?}");

    killed.kill().expect("it runs");
    killed.wait().expect("it was started here");

    wait_until("the lab to be taken away", SOON, || places.iter().all(|place| !place.exists()).then_some(()));
}

#[test]
#[should_panic(expected = "waited 50ms for the moon; last seen: clouds")]
fn a_missed_deadline_says_what_was_awaited_and_seen() {
    wait_until_seen::<(), _>("the moon", Duration::from_millis(50), || Err("clouds"));
}

fn wait_for_passing(consul: &Consul, expected: &[&str]) {
    wait_until_seen(&format!("{expected:?} to be passing"), SOON, || {
        let passing = consul.passing("rpc-order");
        if passing == expected { Ok(()) } else { Err(format!("{passing:?}")) }
    });
}
