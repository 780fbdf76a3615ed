//! What `unwait run` costs while nothing happens.

use std::time::Duration;

use crate::agent::{Agent, FAR, OUT_OF_REACH};
use crate::crowd::Crowd;
use crate::figures::{ROUNDS, Table, Took, Unit};
use crate::look::Eyes;
use crate::parts::walk::cpu_of;

pub const TITLE: &str = "idle: `unwait run` while nothing happens (CPU time)";
const INTERVAL: Duration = Duration::from_secs(15);
const TICKS: u32 = 4;
const PERCENT_AT_MOST: f64 = 0.2;
const QUIET_MICROSECONDS_AT_MOST: f64 = 50.0;
const QUIET_INTERVAL: Duration = Duration::from_secs(1);
const QUIET_TICKS: u32 = 10;

/// Before there is any socket: a tick that has nothing to find in the one network namespace there is.
pub fn measure_quiet(table: &mut Table) -> anyhow::Result<()> {
    let mut eyes = Eyes::open()?;
    let mut took = Took::default();
    eyes.quiet()?;
    for _ in 0..ROUNDS {
        took.push(cpu_of(|| eyes.quiet())?);
    }
    let microseconds = 1e6 * took.least().as_secs_f64();
    let measured = (microseconds, Unit::Microseconds);
    let from = format!("least of {ROUNDS} rounds, in process");
    table.figure("none", "a quiet tick, a network namespace", measured, Some(QUIET_MICROSECONDS_AT_MOST), from);

    let agent = Agent::start(QUIET_INTERVAL, OUT_OF_REACH)?;
    let cpu = agent.cpu_within(QUIET_TICKS * QUIET_INTERVAL)?;
    let microseconds = 1e6 * cpu.as_secs_f64() / f64::from(QUIET_TICKS);
    let from = format!("mean of {QUIET_TICKS} ticks of the process");
    table.figure("none", "a quiet tick, all that the agent does", (microseconds, Unit::Microseconds), None, from);
    Ok(())
}

/// Two agents at once: for one, no tick can be spared the walk; for the other the number of open connections alone
/// says that nothing can be near the threshold.
pub fn measure(crowd: &Crowd, table: &mut Table) -> anyhow::Result<()> {
    let walking = Agent::start(INTERVAL, FAR)?;
    let spared = Agent::start(INTERVAL, OUT_OF_REACH)?;
    walking.wait_for_count(crowd.size().close_wait)?;
    let before = [walking.cpu()?, spared.cpu()?];
    std::thread::sleep(TICKS * INTERVAL);
    let after = [walking.cpu()?, spared.cpu()?];
    let what = ["at 15s, policy far from its threshold", "at 15s, policy out of reach of all connections"];
    for ((what, before), after) in what.into_iter().zip(before).zip(after) {
        let cpu = (after - before).as_secs_f64();
        let percent = 100.0 * cpu / (TICKS * INTERVAL).as_secs_f64();
        let from = format!("{TICKS} ticks, {:.1} ms each", 1e3 * cpu / f64::from(TICKS));
        table.figure(crowd.size(), what, (percent, Unit::PercentOfACore), Some(PERCENT_AT_MOST), from);
    }
    Ok(())
}
