//! What the number of processes on the host has to do with the cost of a tick: nothing, it should be.

use std::time::Duration;

use crate::agent::Agent;
use crate::crowd::Crowd;
use crate::figures::{ROUNDS, Table, Took, Unit};
use crate::look::Eyes;
use crate::parts::walk::cpu_of;
use crate::sleepers::Sleepers;

pub const TITLE: &str = "processes: a tick beside 5,000 further processes / beside 100 (CPU time)";
const FEW: usize = 100;
const MANY: usize = 5_000;
const RATIO_AT_MOST: f64 = 1.1; // flat, but for the noise of the machine
const INTERVAL: Duration = Duration::from_secs(1);
const TICKS: u32 = 10;
/// Asks for descriptors too, which processes are looked at for.
const CONDITION: &str = "{ any: [close_wait.aged(5m) > 5000, fd.ratio > 99%] }";

pub fn measure(crowd: &Crowd, table: &mut Table) -> anyhow::Result<()> {
    let mut sleepers = Sleepers::start()?;
    let mut eyes = Eyes::open()?;
    let agent = Agent::start(INTERVAL, CONDITION)?;
    agent.wait_for_count(crowd.size().close_wait)?;
    let mut beside = |count| -> anyhow::Result<(Took, Duration)> {
        sleepers.be(count)?;
        let mut look = Took::default();
        for round in 0..=ROUNDS {
            let took = cpu_of(|| eyes.look())?;
            crowd.check("a look", &eyes.seen())?;
            if round > 0 {
                look.push(took);
            }
        }
        Ok((look, agent.cpu_within(TICKS * INTERVAL)? / TICKS))
    };
    let (look_beside_few, tick_beside_few) = beside(FEW)?;
    let (look_beside_many, tick_beside_many) = beside(MANY)?;
    let size = crowd.size();
    table.ratio(size, "a look in process", &look_beside_many, &look_beside_few, Some(RATIO_AT_MOST));
    let [few, many] = [tick_beside_few, tick_beside_many].map(|tick| 1e3 * tick.as_secs_f64());
    let from = format!("{many:.2} ms / {few:.2} ms, mean of {TICKS} ticks");
    table.figure(size, "a tick of `unwait run`", (many / few, Unit::Times), Some(RATIO_AT_MOST), from);
    Ok(())
}
