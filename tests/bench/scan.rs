//! `cargo bench --bench scan`: what one look costs, beside `ss -tanp state close-wait` of the same moment.
//!
//! 5,000 connections over loopback are 10,000 sockets; of 1,000 of them the peer has closed its half, so that 1,000
//! are in CLOSE_WAIT and stay there. Collect and attribute run in this process; `ss` is a process, as whoever
//! runs it by cron pays for it. The rounds take turns; minimum and median of each are printed, and the ratio of the
//! minima. The machine's other load is in the figures: trust ratios and minima.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use unwait::attribute::{Attributor, DescriptorAsk};
use unwait::clock::{Clock, SystemClock};
use unwait::collect::{Ask, Collector};

const CONNECTIONS: usize = 5_000;
const LEAKED: usize = 1_000;
const ROUNDS: usize = 15;

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scan bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> anyhow::Result<()> {
    let needed = 2 * CONNECTIONS as u64 + 256;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let hard = hard.max(needed);
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard).with_context(|| format!("raising the limit to {needed} files"))?;
    let _sockets = connections()?;

    let mut collector = Collector::new()?;
    let mut attributor = Attributor::new(vec![]);
    let (mut collect, mut look, mut ss, mut ss_with_processes) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let begin = SystemClock.monotonic();
        let snapshot = collector.snapshot(&SystemClock, Ask::default())?;
        collect.push(SystemClock.monotonic() - begin);
        let census = attributor.attribute(&snapshot, DescriptorAsk::Skip);
        look.push(SystemClock.monotonic() - begin);
        ensure!(census.host_close_wait() >= LEAKED, "only {} sockets in CLOSE_WAIT", census.host_close_wait());

        for (arguments, took) in [("-tan", &mut ss), ("-tanp", &mut ss_with_processes)] {
            let begin = SystemClock.monotonic();
            let output = Command::new("ss").args([arguments, "state", "close-wait"]).stdin(Stdio::null()).output();
            took.push(SystemClock.monotonic() - begin);
            let rows = output.context("ss (package iproute2)")?.stdout.iter().filter(|byte| **byte == b'\n').count();
            ensure!(rows > LEAKED, "ss {arguments} shows only {rows} lines");
        }
    }
    println!("{} sockets, {LEAKED} of them in CLOSE_WAIT; {ROUNDS} rounds, interleaved", 2 * CONNECTIONS);
    let base = minimum_and_median(&mut look).0;
    for (what, took) in [
        ("collect, in process", &mut collect),
        ("collect + attribute, in process", &mut look),
        ("ss -tan state close-wait", &mut ss),
        ("ss -tanp state close-wait", &mut ss_with_processes),
    ] {
        let (minimum, median) = minimum_and_median(took);
        let ratio = minimum.as_secs_f64() / base.as_secs_f64();
        println!("{what:32} min {minimum:>10.2?}  median {median:>10.2?}  {ratio:>7.1}x");
    }
    Ok(())
}

fn minimum_and_median(took: &mut [Duration]) -> (Duration, Duration) {
    took.sort();
    (took[0], took[took.len() / 2])
}

/// Both ends of each connection, so that they stay open.
fn connections() -> anyhow::Result<Vec<(TcpStream, TcpStream)>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut pairs = Vec::with_capacity(CONNECTIONS);
    for index in 0..CONNECTIONS {
        let client = TcpStream::connect(address).context("connecting over loopback")?;
        let (server, _) = listener.accept()?;
        if index < LEAKED {
            // Closed by half only: the other end of a whole close would go from FIN-WAIT-2 within a minute.
            server.shutdown(Shutdown::Write)?;
        }
        pairs.push((client, server));
    }
    Ok(pairs)
}
