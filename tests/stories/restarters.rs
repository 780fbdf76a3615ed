//! Restarts by each manager of this host, the agent in the sandbox of its unit: what ends in a new lifetime, what ends
//! stuck, and what is not begun at all.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::lab::agent::{self, Etc, HOST, POLICY, unwait};
use crate::lab::deadline::wait_until_seen;
use crate::lab::installed::installed;
use crate::lab::{Lab, Webhook};

const SOON: Duration = Duration::from_secs(30);
const LEAKY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/leaky.php");
const LEAKED: usize = 30;
const RUNBOOK: &str = "runbook: restart-in-place\ndescription: Only that.\nsteps:\n  - restart: {}\n";

/// Acts within seconds on whatever leaks among these, once each.
fn write(lab: &Lab, webhook: &Webhook<'_>, services: &str, host: &str) {
    agent::write_webhook(lab, webhook);
    let policy = format!(
        "policy: close-wait-leak\ndescription: Restarts.\nservices: {services}\nwhen: close_wait > 20\nfor: 1s\n\
         mode: auto\nrunbook: restart-in-place\nlimits: {{ cooldown: 30m, per_service: 1 per 6h, per_host: 20 per 6h }}\n"
    );
    Etc::shipped()
        .with(
            HOST,
            &format!(
                "interval: 1s\ncpu_budget: 100%\nrestart_grace: 0s\nmax_parallel: 4\nevidence: {{ min_free: 1MiB }}\n\
                 notify:\n  - to: {{ generic: {{ url_file: ${{CREDENTIALS_DIRECTORY}}/webhook, \
                 key_file: ${{CREDENTIALS_DIRECTORY}}/webhook-key }} }}\n{host}"
            ),
        )
        .with(POLICY, &policy)
        .with("runbooks/restart-in-place.yaml", RUNBOOK)
        .write(lab);
}

/// Waits until each of these has an incident that has ended: its outcome and reason.
fn wait_for_ends(lab: &Lab, services: &[&str]) -> BTreeMap<String, (String, String)> {
    agent::wait_for_ends(lab, services, SOON, ["outcome", "reason"])
}

fn outcome<'a>(ends: &'a BTreeMap<String, (String, String)>, service: &str) -> (&'a str, &'a str) {
    let (outcome, reason) = &ends[service];
    (outcome, reason)
}

#[test]
fn units_are_restarted_or_told_as_systemd_has_it() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    lab.start_unit("dbus.service");
    let leaky = |port: u16| format!("/usr/bin/php {LEAKY} {port} {LEAKED} 0");
    let dir = lab.dir().display();
    // Two starts are all that it has, of which systemd tells one.
    let limit = format!("[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=1h\n[Service]\nExecStart={}\n", leaky(7301));
    // A second lifetime is `done` at once and dies at 300 ms.
    let brief = format!("mkdir {dir}/brief && exec {}; sleep 0.3; exit 7", leaky(7302));
    let brief = format!("[Service]\nExecStart=/bin/sh -c '{brief}'\n");
    // It takes its time to stop, and systemd reads its units anew meanwhile.
    let slow = format!("[Service]\nExecStart={}\nExecStop=/bin/sh -c 'touch {dir}/stopping; sleep 2'\n", leaky(7303));
    let bound = format!("[Service]\nExecStart={}\n", leaky(7304));
    for (unit, text) in [
        ("leak-limit.service", limit.as_str()),
        ("leak-brief.service", &brief),
        ("leak-slow.service", &slow),
        ("leak-bound.service", &bound),
        ("guest.service", "[Unit]\nBindsTo=leak-bound.service\n[Service]\nExecStart=/bin/sleep infinity\n"),
    ] {
        lab.add_unit(unit, text);
    }
    write(&lab, &webhook, "[\"leak-*.service\"]", "");
    agent::start_unit(&lab);
    // systemd forgets a unit's starts when it reads the units anew.
    lab.start_unit("leak-limit.service");
    lab.run(&["systemctl", "restart", "leak-limit.service"]);
    let ends = wait_for_ends(&lab, &["leak-limit.service"]);
    assert_eq!(outcome(&ends, "leak-limit.service"), ("stuck", "start_limit_hit"));

    let others = ["leak-brief.service", "leak-slow.service", "leak-bound.service", "guest.service"];
    others.iter().for_each(|unit| lab.start_unit(unit));
    let lifetime = |unit: &str| lab.show(unit, "InvocationID");
    let before = ["leak-slow.service", "leak-bound.service", "guest.service"].map(lifetime);
    wait_until_seen("the slow unit to be stopping", SOON, || {
        if lab.dir().join("stopping").exists() { Ok(()) } else { Err(lab.journal(agent::UNIT)) }
    });
    for _ in 0..3 {
        lab.run(&["systemctl", "daemon-reload"]);
    }
    let ends = wait_for_ends(&lab, &["leak-brief.service", "leak-slow.service"]);
    assert_eq!(outcome(&ends, "leak-brief.service"), ("stuck", "restart_failed"));
    assert_eq!(outcome(&ends, "leak-slow.service").0, "completed");
    // Never reset, and never started again.
    assert_eq!(lab.show("leak-limit.service", "ActiveState"), "failed");
    assert_eq!(lab.show("leak-brief.service", "ActiveState"), "failed");
    assert_ne!(lifetime("leak-slow.service"), before[0]);

    let held = agent::held_by(&lab, "leak-bound.service", "close-wait-leak");
    assert!(held.iter().any(|held| held.to_string().contains("would also restart guest.service")), "{held:#?}");
    assert_eq!(["leak-bound.service", "guest.service"].map(lifetime), before[1..]);
    assert!(!ends.contains_key("leak-bound.service"), "{ends:?}");
}

/// Waits until the breach of this service is held for this reason, and returns the words of it.
fn wait_for_held(lab: &Lab, service: &str, reason: &str) -> String {
    wait_until_seen(&format!("{service} to be held: {reason}"), SOON, || {
        let status = unwait(lab, &["status", "--json"]).json();
        let held = status["agent"]["held"].as_array().cloned().unwrap_or_default();
        let found = held.iter().find(|held| held["service"] == service && held["reason"] == reason);
        found.map(|held| held["detail"].as_str().unwrap_or_default().to_owned()).ok_or_else(|| format!("{status:#}"))
    })
}

#[test]
fn what_would_not_start_again_or_is_frozen_is_not_begun() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    lab.start_unit("dbus.service");
    let program = lab.dir().join("gone-php");
    fs::copy("/usr/bin/php", &program).expect("the lab's directory is writable");
    let leaky = |port: u16| format!("/usr/bin/php {LEAKY} {port} {LEAKED} 0");
    let units = [
        ("leak-frozen.service", format!("[Service]\nExecStart={}\n", leaky(7311))),
        ("leak-gone.service", format!("[Service]\nExecStart={} {LEAKY} 7312 {LEAKED} 0\n", program.display())),
        (
            "leak-spent.service",
            format!("[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1h\n[Service]\nExecStart={}\n", leaky(7313)),
        ),
        ("leak-masked.service", format!("[Service]\nExecStart={}\n", leaky(7314))),
    ];
    for (unit, text) in &units {
        lab.add_unit(unit, text);
    }
    write(&lab, &webhook, "[\"leak-*.service\"]", "");
    let names = units.each_ref().map(|(unit, _)| *unit);
    names.iter().for_each(|unit| lab.start_unit(unit));
    fs::remove_file(&program).expect("it is ours");
    lab.run(&["systemctl", "freeze", "leak-frozen.service"]);
    fs::remove_file(lab.inside("/etc/systemd/system/leak-masked.service")).expect("it is ours");
    std::os::unix::fs::symlink("/dev/null", lab.inside("/etc/systemd/system/leak-masked.service")).expect("it is gone");
    lab.run(&["systemctl", "daemon-reload"]);
    agent::start_unit(&lab);
    let lifetimes = || names.map(|unit| lab.show(unit, "InvocationID"));
    let before = lifetimes();

    wait_for_held(&lab, "leak-frozen.service", "frozen");
    for (unit, words) in [
        ("leak-gone.service", "gone-php, the program of leak-gone.service, does not exist any more"),
        (
            "leak-spent.service",
            "a restart may be refused by systemd's start limit: the unit was started up to 1 times in the last 1h, and StartLimitBurst=1",
        ),
        ("leak-masked.service", "systemd reports leak-masked.service as `masked`"),
    ] {
        let detail = wait_for_held(&lab, unit, "would_not_start");
        assert!(detail.contains(words), "{detail}");
    }
    assert_eq!(lifetimes(), before);
    assert_eq!(lab.show("leak-frozen.service", "FreezerState"), "frozen");
    assert!(agent::history(&lab).is_empty(), "{:#?}", agent::history(&lab));

    lab.run(&["systemctl", "thaw", "leak-frozen.service"]);
    let ends = wait_for_ends(&lab, &["leak-frozen.service"]);
    assert_eq!(outcome(&ends, "leak-frozen.service").0, "completed");

    // A person has not told systemd of a new unit file.
    lab.add_unit("leak-new.service", &format!("[Service]\nExecStart={}\n", leaky(7315)));
    lab.start_unit("leak-new.service");
    fs::write(lab.inside("/etc/systemd/system/leak-new.service"), "[Service]\nExecStart=/bin/true\n")
        .expect("it is ours");
    let plan = unwait(&lab, &["plan", "leak-new.service", "--policy", "close-wait-leak"]);
    assert!(plan.out.contains("the unit file has changed since systemd read it"), "{plan:?}");
}

#[test]
fn nothing_is_begun_on_a_full_disk_nor_while_the_host_shuts_down() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    // A shutdown stops whatever does not say otherwise.
    for unit in ["dbus.service", "dbus.socket"] {
        let drop_in = lab.inside("/etc/systemd/system").join(format!("{unit}.d"));
        fs::create_dir_all(&drop_in).expect("the lab's /etc is writable");
        fs::write(drop_in.join("stays.conf"), "[Unit]\nDefaultDependencies=no\n").expect("the lab's /etc is writable");
    }
    let leaky = format!("[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/usr/bin/php {LEAKY} 7321 {LEAKED} 0\n");
    lab.add_unit("leak-stays.service", &leaky);
    let stopping = "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep infinity\nTimeoutStopSec=infinity\n";
    lab.add_unit("slow.service", stopping);
    ["dbus.service", "leak-stays.service", "slow.service"].iter().for_each(|unit| lab.start_unit(unit));
    write(&lab, &webhook, "[\"leak-*.service\"]", "");
    let lifetime = lab.show("leak-stays.service", "InvocationID");
    let filler = lab.inside("/tmp/filler");
    lab.run(&["mount", "-o", "remount,size=1M", "/tmp"]);
    lab.command(&["dd", "if=/dev/zero", "of=/tmp/filler", "bs=64k"]).output().expect("dd starts");

    let _agent = agent::run(&lab);
    let detail = wait_for_held(&lab, "leak-stays.service", "would_not_start");
    assert!(detail.contains("/tmp has no space left"), "{detail}");

    lab.add_unit("down.target", "[Unit]\nDefaultDependencies=no\nRequires=shutdown.target\n");
    lab.run(&["systemctl", "start", "--no-block", "--job-mode=replace-irreversibly", "down.target"]);
    wait_until_seen("the lab to be stopping", SOON, || {
        let said = lab.command(&["systemctl", "is-system-running"]).output().expect("systemctl starts");
        let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        if said == "stopping" { Ok(()) } else { Err(said) }
    });
    fs::remove_file(&filler).expect("it is ours");
    wait_until_seen("the breach to be held for the shutdown", SOON, || {
        let detail = wait_for_held(&lab, "leak-stays.service", "would_not_start");
        if detail.contains("the host is shutting down") { Ok(()) } else { Err(detail) }
    });
    assert_eq!(lab.show("leak-stays.service", "InvocationID"), lifetime);
    assert!(agent::history(&lab).is_empty(), "{:#?}", agent::history(&lab));
}

#[test]
fn a_process_that_lives_in_another_pid_namespace_is_left_to_the_unit_that_it_is_of() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    lab.start_unit("dbus.service");
    let inner = format!("unshare --pid --fork --kill-child=TERM /usr/bin/php {LEAKY} 7321 {LEAKED} 0");
    lab.add_unit("inner.service", &format!("[Service]\nExecStart=/usr/bin/{inner}\n"));
    lab.start_unit("inner.service");
    let main = lab.show("inner.service", "MainPID");
    let pid = wait_until_seen("its process", SOON, || {
        let listed = lab.stdout(&["ps", "--no-headers", "-o", "pid", "--ppid", &main]);
        listed.trim().parse::<u32>().map_err(|error| error.to_string())
    });
    fs::write(lab.inside("/run/inner.pid"), format!("{pid}\n")).expect("the lab's /run is writable");
    let host = "services:\n  - { service: \"process:inner\", \
                restart: { process: { argv: [/usr/bin/php], pid_file: /run/inner.pid } } }\n";
    write(&lab, &webhook, "[\"process:*\"]", host);
    agent::start_unit(&lab);

    let words = "lives in a pid namespace of inner.service, where `restart: { process }` cannot start a process: name \
                 the service `inner.service`";
    let detail = wait_for_held(&lab, "process:inner", "not_actionable");
    assert!(detail.contains(words), "{detail}");
    for verb in [["check"].as_slice(), &["plan", "process:inner", "--policy", "close-wait-leak"]] {
        let said = unwait(&lab, verb);
        assert!(said.out.contains(words), "{said:?}");
    }
    assert_eq!(lab.stdout(&["ps", "--no-headers", "-o", "pid", "--ppid", &main]).trim(), pid.to_string());
}

/// Two services of runit and one of s6 share the cgroup of one unit, and a process that nobody supervises is nobody's
/// unit at all.
#[test]
fn what_systemd_does_not_know_is_told_apart_and_restarted_by_its_own_manager() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    lab.start_unit("dbus.service");
    let programs = copied(&lab);
    let dir = lab.dir().display().to_string();
    for (name, port) in [("gate", 7401), ("other", 7402), ("s6gate", 7403)] {
        executable(
            &lab.dir().join(name).join("run"),
            &format!("#!/bin/sh\nexec /usr/bin/php {LEAKY} {port} {LEAKED} 0\n"),
        );
    }
    let all = format!(
        "{programs}/runsv {dir}/gate & {programs}/runsv {dir}/other & {programs}/s6-supervise {dir}/s6gate & wait"
    );
    lab.add_unit(
        "supervision.service",
        &format!("[Service]\nEnvironment=LD_LIBRARY_PATH={programs}\nExecStart=/bin/sh -c '{all}'\n"),
    );
    lab.start_unit("supervision.service");

    // As nobody, with a umask, a directory and a word in its environment.
    lab.run(&["install", "--directory", "--owner=65534", "--group=65534", "/run/legacy"]);
    let own = lab.inside("/run/legacy");
    fs::copy(LEAKY, own.join("leaky.php")).expect("the lab's /run is writable");
    executable(
        &own.join("legacy"),
        &format!(
            "#!/bin/sh\nprintf '%s %s %s %s\\n' \"$(id -u):$(id -g)\" \"$(umask)\" \"$(pwd)\" \"$WORD\" >> /run/legacy/was\n\
             echo $$ > /run/legacy/pid\nexec /usr/bin/php /run/legacy/leaky.php 7404 {LEAKED} 0\n"
        ),
    );
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let first = "umask 027; cd /run/legacy; export WORD='a \"hunter2\" $word'; exec /run/legacy/legacy";
    let _first = lab.spawn(&[&as_nobody[..], &["sh", "-c", first]].concat());

    let host = format!(
        "services:\n  - {{ service: \"process:gate\", restart: {{ runit: {{ dir: {dir}/gate }} }} }}\n  \
         - {{ service: \"process:s6gate\", restart: {{ s6: {{ dir: {dir}/s6gate, stop_timeout: 5s }} }} }}\n  \
         - {{ service: \"process:legacy\", restart: {{ process: {{ argv: [/run/legacy/legacy], pid_file: /run/legacy/pid }} }} }}\n"
    );
    write(&lab, &webhook, "[\"process:*\"]", &host);
    let services = ["process:gate", "process:legacy", "process:s6gate", "supervision.service"];
    wait_until_seen("each to have its own", SOON, || {
        let seen = unwait(&lab, &["scan", "--json"]).json();
        let rows = seen["services"].as_array().expect("services");
        let mut counts: Vec<_> = rows.iter().map(|row| (row["service"].as_str(), row["close_wait"].as_u64())).collect();
        counts.sort();
        let expected = services.map(|service| (Some(service), Some(LEAKED as u64)));
        if counts == expected { Ok(()) } else { Err(format!("{seen:#}")) }
    });
    let pid = |status: &str| fs::read(lab.dir().join(status).join("supervise/status")).expect("a status");
    let other = pid("other");
    agent::start_unit(&lab);

    let ends = wait_for_ends(&lab, &services[..3]);
    for service in &services[..3] {
        assert_eq!(outcome(&ends, service).0, "completed", "{ends:?}");
    }
    assert_eq!(ends.len(), 3, "{ends:?}");
    assert_eq!(pid("other"), other, "its neighbour was restarted as well");
    let was = fs::read_to_string(own.join("was")).expect("it was started");
    let was: Vec<&str> = was.lines().collect();
    assert_eq!(was, ["65534:65534 0027 /run/legacy a \"hunter2\" $word"; 2]);
    let now = fs::read_to_string(own.join("pid")).expect("a pid file");
    let cgroup = lab.stdout(&["cat", &format!("/proc/{}/cgroup", now.trim())]);
    assert!(cgroup.contains("/unwait-process-run-legacy-pid.service"), "it lives in the agent's sandbox: {cgroup}");
    // What the environment held is nowhere that others see.
    let shown = lab.stdout(&["systemctl", "show", "unwait-process-run-legacy-pid.service"]);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("Description=unwait: /run/legacy/pid\n"), "its argv is in the journal: {shown}");
    let found = lab.command(&["grep", "--recursive", "--files-with-matches", "hunter2", agent::STATE]).output();
    let found = found.expect("grep starts");
    assert!(found.status.code() == Some(1) && found.stdout.is_empty(), "{found:?}");
}

fn executable(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("below the lab")).expect("the lab's directory is writable");
    fs::write(path, text).expect("the lab's directory is writable");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
}

/// The supervisors, as `tests/run` unpacked them, with what they are linked with, where the lab sees them.
fn copied(lab: &Lab) -> String {
    let installed = installed("supervise").join("usr");
    let target = lab.dir().join("programs");
    fs::create_dir(&target).expect("the lab's directory is writable");
    for directory in ["bin", "lib/x86_64-linux-gnu"] {
        for entry in fs::read_dir(installed.join(directory)).expect("the packages' files").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // The folder may be a whole machine's.
            let theirs = ["runsv", "sv", "chpst", "s6-", "libs6", "libskarnet", "libexecline"];
            if theirs.iter().any(|start| name.starts_with(start)) && entry.path().is_file() {
                fs::copy(entry.path(), target.join(entry.file_name())).expect("the lab's directory is writable");
            }
        }
    }
    target.display().to_string()
}
