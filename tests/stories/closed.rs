//! A leak that no `ss` shows for long: keepalive takes each socket out of CLOSE_WAIT, and the descriptor stays. A real Go
//! server that never closes, which has keepalive without asking for it. Without the lab: it changes nothing.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use serde_json::Value;

use crate::lab::deadline::wait_until_seen;
use crate::lab::installed::installed;

const SERVICE: &str = "process:never-closes";
const LEAKED: u64 = 60;
/// Of descriptors: the server soon has none left.
const LIMIT: u64 = 70;
/// Keepalive takes some seconds, and a loaded machine some more.
const SOON: Duration = Duration::from_secs(60);

/// Ends with its guard.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn server() -> (Running, SocketAddr) {
    let mut command = Command::new(installed("never_closes-1").join("never-closes"));
    command.stdout(Stdio::piped());
    // SAFETY: setrlimit is a system call alone.
    unsafe { command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_NOFILE, LIMIT, LIMIT)?)) };
    let mut server = Running(command.spawn().unwrap());
    let mut port = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    (server, SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap())))
}

/// Connects and closes; what is left of the client's end is gone within a second, in place of 60.
fn come_and_go(to: SocketAddr) {
    let client = TcpStream::connect(to).unwrap();
    let second: libc::c_int = 1;
    // SAFETY: the option's value is an int of ours, and its size is told.
    let set = unsafe {
        let (value, length) = ((&raw const second).cast(), size_of_val(&second) as libc::socklen_t);
        libc::setsockopt(client.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_LINGER2, value, length)
    };
    assert_eq!(set, 0);
}

fn unwait(words: &[&str], config: &Path) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_unwait")).args(words).arg("--config").arg(config).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| Value::String(format!("{output:?}")))
}

#[test]
fn a_go_server_whose_leak_keepalive_hides_is_seen_by_its_descriptors_and_breaches_before_it_dies() {
    let (_server, address) = server();
    let etc = tempfile::tempdir().unwrap();
    let config = etc.path();
    let host = format!(
        "interval: 1s\nwarm_up: 0s\nrestart_grace: 0s\nstate: {}\nservices:\n  - service: {SERVICE}\n    match: {{ ports: [{}] }}\n",
        config.join("state").display(),
        address.port()
    );
    let policy = include_str!("../../policies/fd-exhaustion.yaml");
    let policy = policy
        .split("\ntests:")
        .next()
        .unwrap()
        .replace("for: 1m", "for: 2s")
        .replace("guards: { min_healthy: 50% }\n", "");
    let policy = policy.replace("isolate-restart-recover", "evidence-only");
    std::fs::create_dir(config.join("policies")).unwrap();
    std::fs::create_dir(config.join("runbooks")).unwrap();
    std::fs::write(config.join("agent.yaml"), host).unwrap();
    std::fs::write(config.join("policies/fd-exhaustion.yaml"), policy).unwrap();
    std::fs::write(config.join("runbooks/evidence-only.yaml"), include_str!("../../runbooks/evidence-only.yaml"))
        .unwrap();

    (0..LEAKED).for_each(|_| come_and_go(address));
    wait_until_seen("every descriptor is at a socket that no table lists", SOON, || {
        let seen = unwait(&["scan", "--json"], config);
        let found = seen["services"].as_array().into_iter().flatten().find(|service| service["service"] == SERVICE);
        let Some(found) = found else { return Err(format!("{seen:#}")) };
        let is = (found["fd.closed"].as_u64(), found["close_wait"].as_u64());
        if is == (Some(LEAKED), Some(0)) { Ok(()) } else { Err(format!("{found:#}")) }
    });

    let mut agent = Command::new(env!("CARGO_BIN_EXE_unwait"));
    let log = std::fs::File::create(config.join("log")).unwrap();
    agent.args(["run", "--config"]).arg(config).stdout(log.try_clone().unwrap()).stderr(log);
    let _agent = Running(agent.spawn().unwrap());
    wait_until_seen("the shipped policy is breached", SOON, || {
        let explained = unwait(&["explain", SERVICE, "--json"], config);
        let log = std::fs::read_to_string(config.join("log")).unwrap();
        match explained["policies"][0]["standing"].as_str() {
            Some(standing) if standing.starts_with("breached") => Ok(()),
            _ => Err(format!("{explained:#}\n{log}")),
        }
    });
}
