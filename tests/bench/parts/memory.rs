//! What `unwait run` keeps resident, and what a socket in CLOSE_WAIT adds to it.

use std::time::Duration;

use crate::agent::{Agent, FAR};
use crate::crowd::{Crowd, Size};
use crate::figures::{Table, Unit};
use crate::walker::Walker;

pub const TITLE: &str = "memory: `unwait run`, resident (VmRSS, interval 1s)";
pub const BASE: Size = Size::new(100_000, 10_000);
const MORE: [usize; 3] = [10_000, 30_000, 60_000];
const MEGABYTES_AT_MOST: f64 = 20.0;
const BYTES_A_SOCKET_AT_MOST: f64 = 64.0;
const INTERVAL: Duration = Duration::from_secs(1);
const SOME_TICKS: Duration = Duration::from_secs(5);

/// The crowd is at [`BASE`], and grows.
pub fn measure(crowd: &mut Crowd, walker: &mut Walker, table: &mut Table) -> anyhow::Result<()> {
    let agent = Agent::start(INTERVAL, FAR)?;
    let base = resident(&agent, BASE)?;
    let from = format!("after {} s", SOME_TICKS.as_secs());
    table.figure(BASE, "resident", (base as f64 / 1e6, Unit::Megabytes), Some(MEGABYTES_AT_MOST), from);
    for more in MORE {
        let close_wait = BASE.close_wait + more;
        // Each leak needs a connection, which is two sockets.
        let size = Size::new(BASE.sockets.max(2 * close_wait), close_wait);
        if let Some(why) = crowd.grow_to(size, walker)? {
            table.note(format!("{size}: {why}"));
            return Ok(());
        }
        let grown = resident(&agent, size)?;
        let bytes = (grown as f64 - base as f64) / more as f64;
        let from = format!("{:.1} MB with {more} more in CLOSE_WAIT", grown as f64 / 1e6);
        table.figure(size, "growth by a socket", (bytes, Unit::Bytes), Some(BYTES_A_SOCKET_AT_MOST), from);
    }
    Ok(())
}

/// After some ticks that counted all of them.
fn resident(agent: &Agent, size: Size) -> anyhow::Result<u64> {
    agent.wait_for_count(size.close_wait)?;
    std::thread::sleep(SOME_TICKS);
    agent.resident_bytes()
}
