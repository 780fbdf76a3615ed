//! The service of the sweeps, as small as a service can be: it listens, it holds sockets in CLOSE_WAIT, it closes them
//! at SIGHUP, it dies of SIGTERM. Each start is counted, in a file that the sweep reads.
//!
//! Usage: `outside DIR PORT PEER`. PEER closes each connection at once; this never does. In DIR stand `service.pid`,
//! `starts` (a pid a line) and `behaviour`, lines of `KEY VALUE` that hold from the second start on:
//!
//! | key | |
//! |---|---|
//! | `listens_after` | milliseconds from the start until it listens |
//! | `leaks` | it leaks again |
//! | `registers` | it writes its own record anew, drained or not: the registry's file |
//!
//! It ends by itself once DIR is gone.

#![allow(clippy::disallowed_methods, reason = "a program of the tests, in real time")]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};

/// Sockets that it leaks.
const LEAKED: usize = 4;
const ID: &str = "svc-1";

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, dir, port, peer] = arguments.as_slice() else {
        return Err(io::Error::other("usage: outside DIR PORT PEER"));
    };
    let dir = PathBuf::from(dir);
    // Before there are threads, so that none of them is ended by it.
    let reload = SigSet::from(Signal::SIGHUP);
    reload.thread_block()?;
    let first = count_start(&dir)?;
    let behaviour = if first { BTreeMap::new() } else { behaviour(&dir)? };
    replace(&dir.join("service.pid"), &std::process::id().to_string())?;
    if behaviour.contains_key("registers") {
        register(&dir.join("registry.json"))?;
    }
    if let Some(milliseconds) = behaviour.get("listens_after") {
        std::thread::sleep(Duration::from_millis(milliseconds.parse().map_err(io::Error::other)?));
    }
    let port: u16 = port.parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let leaks = first || behaviour.contains_key("leaks");
    let count = if leaks { LEAKED } else { 0 };
    let mut never_read = (0..count).map(|_| TcpStream::connect(peer.as_str())).collect::<io::Result<Vec<_>>>()?;
    std::thread::spawn(move || {
        while reload.wait().is_ok() {
            never_read.clear();
        }
    });
    while dir.exists() {
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// True at the first start.
fn count_start(dir: &Path) -> io::Result<bool> {
    let starts = dir.join("starts");
    let first = !starts.exists();
    let mut file = OpenOptions::new().create(true).append(true).open(starts)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(first)
}

fn behaviour(dir: &Path) -> io::Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(dir.join("behaviour"))?;
    Ok(text.lines().filter_map(|line| line.split_once(' ')).map(|(key, value)| (key.into(), value.into())).collect())
}

/// As many do at their start: its record as it was configured, whatever stood there. Under the registry's own lock.
fn register(registry: &Path) -> io::Result<()> {
    let mut lock = registry.as_os_str().to_owned();
    lock.push(".lock");
    let lock = File::options().read(true).write(true).create(true).truncate(false).open(lock)?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
    // Where the registry is away, it has registered nothing.
    let Ok(text) = fs::read_to_string(registry) else { return Ok(()) };
    let mut document: serde_json::Value = serde_json::from_str(&text)?;
    let instances = document["instances"].as_array_mut().ok_or_else(|| io::Error::other("no registry"))?;
    for own in instances.iter_mut().filter(|instance| instance["id"] == ID) {
        own["drained"] = serde_json::Value::Null;
    }
    replace(registry, &document.to_string())
}

/// Written beside and renamed: whoever reads sees all of it, or the former one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".outside");
    fs::write(&beside, text)?;
    fs::rename(beside, path)
}
