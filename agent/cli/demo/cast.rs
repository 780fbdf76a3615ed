//! The demo's own processes: starting them, and seeing to it that none is left.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use procfs::process::Process;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::stage::{PEER_PORT, PID_FILE, SERVICE_PORT, Stage};

/// Starting takes some ten milliseconds; a busy machine takes longer.
const START_WITHIN: Duration = Duration::from_secs(10);
/// The service ends its workers at once.
const END_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOG: &str = "demo-programs.log";

/// The two programs, while they run.
#[derive(Debug)]
pub struct Cast {
    peer: Child,
    pub peer_at: SocketAddr,
    pub service_at: SocketAddr,
    /// What starts the service, the first time and again.
    pub service_argv: Vec<String>,
}

impl Cast {
    /// Starts the peer, then the service, and returns once both are there.
    pub async fn start(stage: &Stage) -> Result<Self, String> {
        let mut peer = start(stage, &argv(stage, "peer", &[])?)?;
        let peer_at = loopback(&appears(stage, &mut peer, PEER_PORT).await?)?;
        let service_argv = argv(stage, "master", &["--peer", &peer_at.to_string()])?;
        let mut service = start(stage, &service_argv)?;
        appears(stage, &mut service, PID_FILE).await?;
        let service_at = loopback(&appears(stage, &mut service, SERVICE_PORT).await?)?;
        // Ended by the agent's restart, and then to be reaped as init would do it.
        tokio::spawn(async move { service.wait().await });
        Ok(Self { peer, peer_at, service_at, service_argv })
    }

    /// Ends whatever of it runs by now, and returns when it has ended.
    pub async fn end(mut self, stage: &Stage) {
        if let Ok(found) = stage.as_it_is() {
            end_child(Pid::from_raw(found.pid)).await;
        }
        // An error is that it has ended already.
        let _ = self.peer.kill().await;
    }
}

/// `current_exe` reads /proc/self/exe: whatever this very program is called and wherever it lies.
fn argv(stage: &Stage, part: &str, more: &[&str]) -> Result<Vec<String>, String> {
    let program = std::env::current_exe().map_err(|error| format!("/proc/self/exe: {error}"))?;
    let utf8 = |path: &std::path::Path| {
        path.to_str().map(String::from).ok_or_else(|| format!("{}: a path that is not UTF-8", path.display()))
    };
    let dies_with = getpid().to_string();
    let mut argv = vec![utf8(&program)?, "demo-service".into(), part.into(), "--dir".into(), utf8(&stage.dir)?];
    argv.extend(["--dies-with", &dies_with].iter().chain(more).map(|word| word.to_string()));
    Ok(argv)
}

fn start(stage: &Stage, argv: &[String]) -> Result<Child, String> {
    let spawn = || -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(stage.path(LOG))?;
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A Ctrl-C in the terminal is for the demo, which unwinds first and ends these then.
        command.process_group(0).spawn()
    };
    spawn().map_err(|error| format!("{} cannot be started: {error}", argv[0]))
}

fn loopback(port: &str) -> Result<SocketAddr, String> {
    let port: u16 = port.parse().map_err(|_| format!("expected a port, found `{port}`"))?;
    Ok((Ipv4Addr::LOCALHOST, port).into())
}

/// Waits for the file in which a program says its port or pid.
async fn appears(stage: &Stage, program: &mut Child, file: &str) -> Result<String, String> {
    let path = stage.path(file);
    let until = Instant::now() + START_WITHIN;
    loop {
        if let Ok(number) = fs::read_to_string(&path) {
            return Ok(number.trim().into());
        }
        let ended = program.try_wait().ok().flatten();
        if ended.is_some() || Instant::now() >= until {
            let how = ended.map_or("it still runs".into(), |status| format!("it has ended: {status}"));
            let said = fs::read_to_string(stage.path(LOG)).unwrap_or_default();
            return Err(format!("{file} has not appeared in {}; {how}\n{}", stage.dir.display(), said.trim_end()));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// SIGTERM, and SIGKILL where that is not enough. A pid file is only a claim: what is no child of ours is left alone.
async fn end_child(pid: Pid) {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let until = Instant::now() + END_WITHIN;
        if !is_our_child(pid) || kill(pid, signal).is_err() {
            return;
        }
        while is_our_child(pid) && Instant::now() < until {
            sleep(LOOK_EVERY).await;
        }
    }
}

/// A zombie has ended, and is about to be reaped.
fn is_our_child(pid: Pid) -> bool {
    let stat = Process::new(pid.as_raw()).and_then(|process| process.stat());
    stat.is_ok_and(|stat| stat.ppid == getpid().as_raw() && stat.state != 'Z')
}
