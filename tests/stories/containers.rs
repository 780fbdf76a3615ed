//! Real Docker containers with networks of their own, on the machine itself: they leak, are seen by their names, and are
//! restarted by them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::lab::Docker;
use crate::lab::agent::{PROGRAM, Said, WEBHOOK_KEY};
use crate::lab::deadline::wait_until_seen;
use crate::lab::docker::{Container, PORT};

const LEAKED: usize = 23;
const SOON: Duration = Duration::from_secs(20);

const EVIDENCE_ONLY: &str = include_str!("../../runbooks/evidence-only.yaml");
const RESTART: &str = "runbook: restart\ndescription: Only that.\nsteps:\n  - restart: {}\n";

#[test]
fn a_container_that_leaks_is_seen_by_its_id() {
    let mut docker = Docker::start();
    let container = docker.run_leaky("leaky");
    container.leak(LEAKED);

    let seen = wait_until_seen("all of them to be accepted", SOON, || {
        let seen = of(&container, &scan(&[], None).json())?;
        if seen["close_wait.unaccepted"] == 0 { Ok(seen) } else { Err(format!("{seen:#}")) }
    });
    is_exact(&seen);
    assert!(seen["fd.used"].as_u64() >= Some(LEAKED as u64), "of its processes: {seen:#}");

    // The machine's processes, tables and descriptors tell it as well.
    let without = scan(&["setpriv", "--bounding-set", "-sys_admin", "--"], None).json();
    is_exact(&of(&container, &without).unwrap_or_else(|seen| panic!("{seen}")));
    assert!(without["not_seen"].to_string().contains("grant CAP_SYS_ADMIN"), "{without:#}");

    let nobody = scan(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"], None).json();
    assert!(of(&container, &nobody).is_err(), "{nobody:#}");
    assert!(nobody["not_seen"].to_string().contains("CAP_SYS_PTRACE and CAP_SYS_ADMIN"), "{nobody:#}");

    let agent = Agent::start(&container.service(), "", "dry-run", EVIDENCE_ONLY);
    let ended = agent.wait_for_end();
    assert_eq!((&ended["service"], &ended["outcome"]), (&container.service().into(), &"completed".into()), "{ended:#}");
    let table = Path::new(ended["evidence"].as_str().expect("evidence")).join("sockets.txt");
    let table = fs::read_to_string(table).expect("the evidence's table");
    let rows = table.lines().filter(|line| line.starts_with("CLOSE-WAIT"));
    assert_eq!(rows.filter(|row| row.contains(&format!(":{PORT} "))).count(), LEAKED, "{table}");

    docker.remove(&container);
    wait_until_seen("the container to be gone", SOON, || match of(&container, &scan(&[], None).json()) {
        Ok(seen) => Err(format!("{seen:#}")),
        Err(_) => Ok(()),
    });
}

#[test]
fn a_container_that_is_called_by_its_name_is_seen_and_restarted_by_it_whatever_its_id() {
    let mut docker = Docker::start();
    let container = docker.run_leaky("web");
    let unnamed = docker.run_leaky("other");
    let host = format!(
        "services: [{{ service: \"container:web\", restart: {{ docker: {{ socket: {:?} }} }} }}]\n",
        docker.socket()
    );
    let agent = Agent::start("container:web", &host, "auto", RESTART);
    container.leak(LEAKED);
    unnamed.leak(LEAKED);
    let begun = docker.started_at(&container);
    let ended = agent.wait_for_end();
    assert_eq!((&ended["service"], &ended["outcome"]), (&"container:web".into(), &"completed".into()), "{ended:#}");
    assert_ne!(docker.started_at(&container), begun, "it was not restarted");

    // Made anew under the same name, it is known by it; the other one by its id.
    docker.remove(&container);
    let anew = docker.run_leaky("web");
    assert_ne!(anew.id, container.id);
    anew.leak(LEAKED);
    let look = || scan(&[], Some(agent.dir.path())).json();
    let seen = wait_until_seen("the new one under its name", SOON, || {
        let seen = look();
        called("container:web", &seen).map(|web| (web, seen))
    });
    is_exact(&seen.0);
    is_exact(&of(&unnamed, &seen.1).unwrap_or_else(|seen| panic!("{seen}")));
    assert!(of(&anew, &seen.1).is_err(), "it stands twice: {:#}", seen.1);
}

fn is_exact(seen: &Value) {
    let count = |key: &str| seen[key].as_u64();
    let found = [count("close_wait"), count("close_wait.inbound"), count("close_wait.outbound")];
    assert_eq!(found, [Some(LEAKED as u64), Some(LEAKED as u64), Some(0)], "{seen:#}");
}

fn of(container: &Container, scan: &Value) -> Result<Value, String> {
    called(&container.service(), scan)
}

fn called(name: &str, scan: &Value) -> Result<Value, String> {
    let services = scan["services"].as_array().expect("services");
    services.iter().find(|one| one["service"] == name).cloned().ok_or_else(|| format!("{scan:#}"))
}

/// `unwait scan --json` of the machine, started by these words, with this configuration or none: the machine's own is
/// nothing that a test may depend on.
fn scan(by: &[&str], config: Option<&Path>) -> Said {
    // Where the build lies, nobody else may be allowed to look.
    let copy = tempfile::Builder::new().permissions(readable()).tempdir().expect("a scratch directory");
    let program = copy.path().join("unwait");
    fs::copy(PROGRAM, &program).expect("a copy of the program");
    let [program, config] = [&program, config.unwrap_or(copy.path())].map(|path| path.to_str().expect("UTF-8"));
    let argv = [by, &[program, "scan", "--json", "--config", config]].concat();
    let said = Command::new(argv[0]).args(&argv[1..]).current_dir("/").output().expect("it starts");
    let said = Said::of(&said);
    assert_eq!(said.code, 0, "{said:?}");
    said
}

fn readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}

/// `unwait run` on the machine, with all that it writes in a directory of its own.
struct Agent {
    child: Child,
    dir: tempfile::TempDir,
}

impl Agent {
    /// It watches this one service; `host` is what its own file says besides.
    fn start(service: &str, host: &str, mode: &str, runbook: &str) -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("below it")).expect("it is ours");
            fs::write(&path, text).expect("it is ours");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        };
        let at = dir.path().display();
        // Nobody listens there, and nobody needs to.
        write("webhook", "http://127.0.0.1:9/");
        write("key", WEBHOOK_KEY);
        write(
            "agent.yaml",
            &format!(
                "interval: 1s\ncpu_budget: 100%\nwarm_up: 0s\nrestart_grace: 0s\nevidence: {{ min_free: 1MiB }}\n\
                 state: {at}/state\n\
                 notify: [{{ to: {{ generic: {{ url_file: {at}/webhook, key_file: {at}/key }} }} }}]\n{host}"
            ),
        );
        let name = runbook.lines().find_map(|line| line.strip_prefix("runbook: ")).expect("its name");
        write(
            "policies/leak.yaml",
            &format!(
                "policy: leak\ndescription: Watches one container.\nservices: [\"{service}\"]\nwhen: close_wait > 20\nfor: 1s\n\
                 mode: {mode}\nrunbook: {name}\n"
            ),
        );
        write("runbooks/own.yaml", runbook);
        let log = fs::File::create(dir.path().join("log")).expect("it is ours");
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--log", "json", "--config"]).arg(dir.path()).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().expect("a second descriptor")).stderr(log).spawn();
        Self { child: child.expect("it starts"), dir }
    }

    fn ask(&self, arguments: &[&str]) -> Said {
        let said = Command::new(PROGRAM).args(arguments).arg("--config").arg(self.dir.path()).output();
        Said::of(&said.expect("it starts"))
    }

    /// The newest incident, once it has ended.
    fn wait_for_end(&self) -> Value {
        wait_until_seen("the breach's incident", SOON, || {
            let said = self.ask(&["history", "--json"]);
            if said.code != 0 {
                return Err(format!("{said:?}\n{}", self.log()));
            }
            let newest = said.json().get(0).cloned().ok_or_else(|| self.log())?;
            if newest["ended"].is_string() { Ok(newest) } else { Err(format!("{newest:#}")) }
        })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
