//! `unwait demo-service`: the programs that the demo is about, each a process of its own with real sockets.
//!
//! | part | what it does |
//! |---|---|
//! | peer | stands for a Redis with an idle timeout: answers PING, and closes what has been idle |
//! | master | a pre-forked service: listens, starts its workers, ends them on SIGTERM |
//! | worker | accepts on the master's listener, answers PING, and holds a pool of connections to the peer |
//!
//! The service has the defect of the story: its workers use a connection once and never look at it again, so the
//! peer's close is not noticed and the kernel keeps the socket in CLOSE_WAIT. It has the defect in its first lifetime
//! only; from the second on its workers notice, close and connect anew.
//!
//! None of them outlives who started it, however that ends: the kernel kills it (PR_SET_PDEATHSIG).

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid};

use super::super::{Failure, Outcome};
use super::redis;
use super::stage::{self, CONNECTIONS, PEER_IDLE, WORKERS};

#[derive(Debug, Args)]
pub struct ServiceArguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    Peer {
        #[arg(long)]
        dir: PathBuf,
        #[command(flatten)]
        bond: Bond,
    },
    Master {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        peer: SocketAddr,
        #[command(flatten)]
        bond: Bond,
    },
    /// Standard input is the listener.
    Worker {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        peer: SocketAddr,
        #[arg(long)]
        leak: bool,
        #[command(flatten)]
        bond: Bond,
    },
}

/// Whom the process dies with.
#[derive(Clone, Copy, Debug, Args)]
struct Bond {
    #[arg(long, value_name = "PID")]
    dies_with: i32,
}

impl Bond {
    fn tie(self) -> io::Result<()> {
        set_pdeathsig(Signal::SIGKILL)?;
        // It may have ended before the line above took effect; then we have another parent by now.
        match getppid() == Pid::from_raw(self.dies_with) {
            true => Ok(()),
            false => Err(io::Error::other("whoever started this has ended")),
        }
    }
}

/// Plays one part, until it is ended.
pub fn service(arguments: ServiceArguments) -> Outcome {
    let played = match arguments.part {
        Part::Peer { dir, bond } => bond.tie().and_then(|()| peer(&dir)),
        Part::Master { dir, peer, bond } => bond.tie().and_then(|()| master(&dir, peer)),
        Part::Worker { peer, leak, bond, .. } => bond.tie().and_then(|()| worker(peer, leak)),
    };
    played.map_err(|error| Failure::Unreachable(format!("demo-service: {error}")))
}

fn peer(dir: &Path) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    stage::announce(&dir.join(stage::PEER_PORT), listener.local_addr()?.port())?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || redis::serve(stream, PEER_IDLE));
    }
    Ok(())
}

fn master(dir: &Path, peer: SocketAddr) -> io::Result<()> {
    // Blocked before the pid file tells anyone whom to signal; taken by the wait at the end.
    let mut terminate = SigSet::empty();
    terminate.add(Signal::SIGTERM);
    terminate.thread_block()?;

    let port_file = dir.join(stage::SERVICE_PORT);
    let port = fs::read_to_string(&port_file).ok().and_then(|port| port.trim().parse().ok()).unwrap_or(0);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let leak = is_first_lifetime(dir)?;
    let mut workers = (0..WORKERS).map(|_| start_worker(dir, &listener, peer, leak)).collect::<io::Result<Vec<_>>>()?;
    stage::announce(&port_file, listener.local_addr()?.port())?;
    stage::announce(&dir.join(stage::PID_FILE), std::process::id())?;

    terminate.wait()?;
    for worker in &mut workers {
        worker.kill()?;
    }
    for worker in &mut workers {
        worker.wait()?;
    }
    Ok(())
}

/// Told by a file that the first lifetime leaves.
fn is_first_lifetime(dir: &Path) -> io::Result<bool> {
    match OpenOptions::new().write(true).create_new(true).open(dir.join("demo-rpc.started-once")) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// The listener becomes the worker's standard input, so that all of them accept on the same one.
fn start_worker(dir: &Path, listener: &TcpListener, peer: SocketAddr, leak: bool) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    // The directory is for whoever looks at `ps`: it says which demo this worker is of.
    command.args(["demo-service", "worker", "--dir"]).arg(dir).args(["--peer", &peer.to_string()]);
    command.args(["--dies-with", &std::process::id().to_string()]);
    if leak {
        command.arg("--leak");
    }
    command.stdin(Stdio::from(OwnedFd::from(listener.try_clone()?))).spawn()
}

/// From accepting a client to its next word; the demo's clients say theirs at once.
const CLIENT_IDLE: Duration = Duration::from_secs(1);

fn worker(peer: SocketAddr, leak: bool) -> io::Result<()> {
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut never_read_again = Vec::new();
    for _ in 0..CONNECTIONS {
        match leak {
            true => never_read_again.push(redis::connect(peer)?),
            false => drop(thread::spawn(move || stay_connected(peer))),
        }
    }
    loop {
        let (client, _) = listener.accept()?;
        // A client that goes away or says nothing is no concern of the next one.
        let _ = redis::serve(client, CLIENT_IDLE);
    }
}

/// What the leaking lifetime should have done: notice that the peer has closed, close too, and connect anew.
fn stay_connected(peer: SocketAddr) -> io::Result<()> {
    loop {
        let mut connection = redis::connect(peer)?;
        connection.set_read_timeout(None)?;
        while connection.read(&mut [0; 64])? > 0 {}
    }
}
