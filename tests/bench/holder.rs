//! A server that leaks: holds connections to itself, of some of which the peer has closed its half.
//!
//! Runs as a process of its own, in a cgroup of its own. `CONNECTIONS CLOSE_WAIT` on standard input makes it hold so
//! many, never fewer than before; the answer is `held`, or why the machine does not let it. At the end of its input it
//! resets all of them, so that nothing of it stays in TIME-WAIT.

use std::io::BufRead;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};

pub const ROLE: &str = "--as-a-holder";
/// One in so many connections is IPv6.
pub const IPV6_IN: usize = 4;

/// Which end the leak is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum Leaks {
    /// Those who connected closed.
    Inbound,
    /// Those who had accepted closed.
    Outbound,
}

struct Holder {
    leaks: Leaks,
    v4: TcpListener,
    /// `None` where the machine has no IPv6.
    v6: Option<TcpListener>,
    /// Who connected, and who accepted.
    pairs: Vec<(TcpStream, TcpStream)>,
    leaked: usize,
}

pub fn main(arguments: &[String]) -> anyhow::Result<()> {
    let [leaks, cgroup @ ..] = arguments else { bail!("{ROLE} takes where it leaks, and a cgroup") };
    let leaks = leaks.parse().with_context(|| format!("{ROLE} {leaks}"))?;
    if let [cgroup] = cgroup {
        // Before it listens: what it accepts has the listener's.
        let procs = Path::new(cgroup).join("cgroup.procs");
        std::fs::write(&procs, "0").with_context(|| procs.display().to_string())?;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on 127.0.0.1")?;
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok();
    let mut holder = Holder { leaks, v4, v6, pairs: Vec::new(), leaked: 0 };
    println!("listening");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (connections, leaked) = line.split_once(' ').with_context(|| format!("two numbers, not `{line}`"))?;
        match holder.hold(connections.parse()?, leaked.parse()?) {
            Ok(()) => println!("held"),
            Err(error) => println!("{error:#}"),
        }
    }
    Ok(())
}

impl Holder {
    fn hold(&mut self, connections: usize, leaked: usize) -> anyhow::Result<()> {
        while self.pairs.len() < connections {
            let listener = match &self.v6 {
                Some(v6) if self.pairs.len().is_multiple_of(IPV6_IN) => v6,
                _ => &self.v4,
            };
            let at = listener.local_addr()?;
            let refused = || format!("connection {} of {connections} to {at}", self.pairs.len() + 1);
            let pair = connect(listener, at).with_context(refused)?;
            self.pairs.push(pair);
        }
        let pairs = self.pairs.get(self.leaked..leaked).context("fewer connections than leaks")?;
        for (connected, accepted) in pairs {
            // By half only: the other end of a whole close would go from FIN-WAIT-2 within a minute.
            match self.leaks {
                Leaks::Inbound => connected.shutdown(Shutdown::Write)?,
                Leaks::Outbound => accepted.shutdown(Shutdown::Write)?,
            }
        }
        self.leaked = leaked;
        Ok(())
    }
}

fn connect(listener: &TcpListener, at: SocketAddr) -> anyhow::Result<(TcpStream, TcpStream)> {
    let connected = TcpStream::connect(at)?;
    let (accepted, _) = listener.accept()?;
    for end in [&connected, &accepted] {
        setsockopt(end, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    }
    Ok((connected, accepted))
}
