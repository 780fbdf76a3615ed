//! Containers of podman that a systemd unit runs: the unit alone restarts them, since it removes a container that stops.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use crate::lab::agent::{self, Etc, HOST, POLICY, unwait};
use crate::lab::deadline::wait_until_seen;
use crate::lab::installed::installed;
use crate::lab::net::loopback;
use crate::lab::{Lab, Webhook};

const SOON: Duration = Duration::from_secs(60);
const PORT: u16 = 7000;
const LEAKED: usize = 30;
/// It accepts, and never reads: whoever connects and goes away leaves a socket in CLOSE_WAIT.
const LEAKY: &str = "/bin/busybox nc -ll -p 7000 -e /bin/busybox sleep 100000";
const QUADLET: &str = "usr/libexec/podman/quadlet";
const RUNBOOK: &str =
    "runbook: restart-in-place\ndescription: Only that.\nsteps:\n  - restart: {}\n  - verify: { soak: 1s }\n";

/// The lab's own podman, with an image of busybox and its API on /run/podman.sock.
fn set_up(lab: &Lab) {
    lab.start_unit("dbus.service");
    let (own, dir) = (installed("podman"), lab.dir().display());
    let etc = |path: &str, text: &str| {
        let path = lab.inside("/etc/containers").join(path);
        fs::create_dir_all(path.parent().expect("below it")).expect("the lab's /etc is writable");
        fs::write(path, text).expect("the lab's /etc is writable");
    };
    // runc: crun 1.8 does not run where the machine's cgroups are hybrid. The lab has no controller of pids.
    let conf = format!(
        "[containers]\npids_limit = 0\n[engine]\nevents_logger = \"file\"\nruntime = \"runc\"\n\
         conmon_path = [\"{own}/usr/bin/conmon\"]\n[engine.runtimes]\nrunc = [\"{runc}/usr/sbin/runc\"]\n",
        own = own.display(),
        runc = installed("docker").display()
    );
    etc("containers.conf", &conf);
    etc(
        "storage.conf",
        &format!("[storage]\ndriver = \"vfs\"\nrunroot = \"{dir}/run\"\ngraphroot = \"{dir}/graph\"\n"),
    );
    etc("policy.json", "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}");
    let root = lab.dir().join("image");
    fs::create_dir_all(root.join("bin")).expect("the lab's directory is writable");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static: `tests/run` installs it");
    let tar = lab.dir().join("image.tar").display().to_string();
    let made = Command::new("tar").arg("-C").arg(&root).args(["-cf", &tar, "."]).status();
    assert!(made.expect("tar starts").success());
    podman(lab, &["import", &tar, "localhost/busybox"]);
    let serve = format!("{} system service --time 0 unix:///run/podman.sock", words().join(" "));
    lab.add_unit("podman.service", &format!("[Service]\nExecStart={serve}\n"));
    lab.start_unit("podman.service");
    wait_until_seen("podman's API", SOON, || match lab.inside("/run/podman.sock").exists() {
        true => Ok(()),
        false => Err(lab.journal("podman.service")),
    });
}

/// How it is called: by its full path, with the libraries that lie beside it.
fn words() -> [String; 3] {
    let own = installed("podman");
    let libraries = format!("LD_LIBRARY_PATH={}", own.join("usr/lib/x86_64-linux-gnu").display());
    ["/usr/bin/env".into(), libraries, own.join("usr/bin/podman").display().to_string()]
}

fn podman(lab: &Lab, arguments: &[&str]) -> String {
    let words = words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    lab.stdout(&[&words[..], arguments].concat())
}

fn write(lab: &Lab, webhook: &Webhook<'_>, container: &str, service: &str) {
    agent::write_webhook(lab, webhook);
    let policy = format!(
        "policy: close-wait-leak\ndescription: Restarts.\nservices: [\"{service}\", \"container:{container}\"]\n\
         when: close_wait > 20\nfor: 1s\nmode: auto\nrunbook: restart-in-place\n"
    );
    let host = format!(
        "interval: 1s\ncpu_budget: 100%\nrestart_grace: 0s\nevidence: {{ min_free: 1MiB }}\nnotify:\n  - to: \
         {{ generic: {{ url_file: ${{CREDENTIALS_DIRECTORY}}/webhook, key_file: ${{CREDENTIALS_DIRECTORY}}/webhook-key }} }}\n\
         services: [{{ service: \"container:{container}\", restart: {{ docker: {{ socket: /run/podman.sock }} }} }}]\n"
    );
    Etc::shipped().with(HOST, &host).with(POLICY, &policy).with("runbooks/restart-in-place.yaml", RUNBOOK).write(lab);
}

/// Neither is the container restarted behind its unit's back, nor is that left unsaid.
fn is_refused(lab: &Lab, container: &str, words: &str) {
    let check = unwait(lab, &["check"]);
    let plan = unwait(lab, &["plan", &format!("container:{container}"), "--policy", "close-wait-leak"]);
    assert!(check.all().contains(words) && plan.all().contains(words), "{words}:\n{}\n{}", check.all(), plan.all());
}

#[test]
fn a_container_whose_unit_removes_it_when_it_stops_is_not_restarted_behind_the_units_back() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    set_up(&lab);
    let podman = words().join(" ");
    // As people write it, without what podman's own generators add.
    lab.add_unit(
        "hand.service",
        &format!(
            "[Service]\nExecStart={podman} run --name by-hand --network host localhost/busybox {LEAKY}\n\
             ExecStopPost={podman} rm --force by-hand\n"
        ),
    );
    lab.start_unit("hand.service");
    wait_until_seen("the container", SOON, || match self::podman(&lab, &["ps", "--quiet"]) {
        none if none.is_empty() => Err(lab.journal("hand.service")),
        _ => Ok(()),
    });
    write(&lab, &webhook, "by-hand", "hand.service");
    is_refused(&lab, "by-hand", "container:by-hand is run by hand.service (its ExecStart= names the container)");
}

#[test]
#[ignore = "Quadlet is podman's from 4.4 on: `tests/run --releases` plays it"]
fn a_container_of_quadlet_counts_as_its_units_and_is_restarted_with_it() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    set_up(&lab);
    fs::create_dir_all(lab.inside("/etc/containers/systemd")).expect("the lab's /etc is writable");
    let container = format!("[Container]\nImage=localhost/busybox\nNetwork=host\nExec={LEAKY}\n");
    fs::write(lab.inside("/etc/containers/systemd/web.container"), container).expect("the lab's /etc is writable");
    // The lab shows none of the machine's generators.
    fs::create_dir_all(lab.inside("/run/systemd/system-generators")).expect("the lab's /run is writable");
    symlink(installed("podman").join(QUADLET), lab.inside("/run/systemd/system-generators/quadlet"))
        .expect("the lab's /run is writable");
    lab.run(&["systemctl", "daemon-reload"]);
    lab.start_unit("web.service");
    write(&lab, &webhook, "systemd-web", "web.service");
    let before = podman(&lab, &["ps", "--quiet"]);
    is_refused(&lab, "systemd-web", "container:systemd-web belongs to web.service (label PODMAN_SYSTEMD_UNIT)");

    agent::start_unit(&lab);
    for _ in 0..LEAKED {
        wait_until_seen("the container to listen", SOON, || {
            lab.network().connect(loopback(PORT)).map(drop).map_err(|error| error.to_string())
        });
    }
    let ended = agent::wait_for_end(&lab, SOON);
    let detail = ended["detail"].as_str().expect("a detail");
    assert_eq!((&ended["service"], &ended["reason"]), (&"web.service".into(), &"recovered".into()), "{ended:#}");
    assert!(detail.contains("leaked sockets are gone"), "{ended:#}");
    let after = podman(&lab, &["ps", "--quiet"]);
    assert!(!after.is_empty() && after != before, "{before} {after}");
}
