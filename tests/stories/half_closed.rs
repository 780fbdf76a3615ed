//! Half-closed by design is no leak: a real HAProxy between clients that have shut down their side and a server that sends
//! them an event now and then. Without the lab: it changes nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::lab::deadline::{dawdle, holds_for, wait_until, wait_until_seen};
use crate::lab::installed::installed;

const SERVICE: &str = "process:haproxy";
const STREAMS: usize = 20;
/// Longer than what counts as still being sent, 10 s.
const EVENT_EVERY: Duration = Duration::from_secs(11);
/// What the server says to each at once.
const GREETING: &[u8] = b"event: here\n\n";
const SOON: Duration = Duration::from_secs(30);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends each of its clients an event in its turn, until it is dropped.
struct Events(Arc<AtomicBool>);

impl Events {
    fn serve() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (ends, streams) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::<TcpStream>::new())));
        let accepted = Arc::clone(&streams);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.write_all(GREETING);
                accepted.lock().unwrap().push(stream);
            }
        });
        let ended = Arc::clone(&ends);
        thread::spawn(move || {
            for turn in (0..STREAMS).cycle() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                if let Some(mut stream) = streams.lock().unwrap().get(turn) {
                    let _ = stream.write_all(b"event: tick\n\n");
                }
                dawdle(EVENT_EVERY / STREAMS as u32);
            }
        });
        (Self(ends), address)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn explained(config: &Path) -> Value {
    let mut unwait = Command::new(env!("CARGO_BIN_EXE_unwait"));
    let output = unwait.args(["explain", SERVICE, "--json", "--config"]).arg(config).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| Value::String(format!("{output:?}")))
}

#[test]
fn streams_whose_clients_have_shut_down_their_side_never_grow_old() {
    let (_events, server) = Events::serve();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let haproxy = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen events\n  bind {port}\n  server only {server}\n"
    );
    std::fs::write(config.join("haproxy.cfg"), haproxy).unwrap();
    let mut command = Command::new(installed("haproxy").join("usr/sbin/haproxy"));
    let _haproxy = Running(command.args(["-db", "-f"]).arg(config.join("haproxy.cfg")).spawn().unwrap());

    let first = wait_until("HAProxy to listen", SOON, || TcpStream::connect(port).ok());
    let streams: Vec<_> = (1..STREAMS).map(|_| TcpStream::connect(port).unwrap()).chain([first]).collect();
    for mut stream in &streams {
        // HAProxy gives up a client that shuts down its side before the server is reached.
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.read_exact(&mut [0; GREETING.len()]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }

    let host = format!(
        "interval: 1s\nwarm_up: 0s\nstate: {}\nservices:\n  - service: {SERVICE}\n    match: {{ ports: [{}] }}\n",
        config.join("state").display(),
        port.port()
    );
    let policy = format!(
        "policy: leak\nservices: [\"{SERVICE}\"]\nwhen: close_wait.aged(14s) > 0\nfor: 0s\nmode: observe\nrunbook: evidence-only\n"
    );
    std::fs::create_dir(config.join("policies")).unwrap();
    std::fs::create_dir(config.join("runbooks")).unwrap();
    std::fs::write(config.join("agent.yaml"), host).unwrap();
    std::fs::write(config.join("policies/leak.yaml"), policy).unwrap();
    std::fs::write(config.join("runbooks/evidence-only.yaml"), include_str!("../../runbooks/evidence-only.yaml"))
        .unwrap();
    let log = std::fs::File::create(config.join("log")).unwrap();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_unwait"));
    agent.args(["run", "--config"]).arg(config).stdout(log.try_clone().unwrap()).stderr(log);
    let _agent = Running(agent.spawn().unwrap());

    wait_until_seen("all of them in CLOSE_WAIT", SOON, || {
        let seen = explained(config);
        if seen["signals"]["close_wait"] == STREAMS && seen["one_look"] == false {
            Ok(())
        } else {
            Err(format!("{seen:#}"))
        }
    });
    // Twice the time between two events, and the age that counts: had it counted from the FIN, all would be old.
    holds_for("no stream is old", 2 * EVENT_EVERY + Duration::from_secs(3), || {
        let log = std::fs::read_to_string(config.join("log")).unwrap();
        if log.contains("is breached") { Err(log) } else { Ok(()) }
    });
    let seen = explained(config);
    assert_eq!(seen["signals"]["close_wait"], STREAMS, "{seen:#}");
    assert_eq!(seen["signals"]["close_wait.aged(14s)"], 0, "{seen:#}");
}
