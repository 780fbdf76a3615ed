//! One look in this process, scan and attribution, beside the raw walk in C.

use anyhow::{Context, bail};
use nix::time::ClockId;
use nix::unistd::Pid;
use std::time::Duration;

use crate::crowd::Crowd;
use crate::figures::{ROUNDS, Table, Took};
use crate::look::Eyes;
use crate::machine::OnOneCpu;
use crate::walker::{Walk, Walker};

pub const TITLE: &str =
    "walk: scan and attribution in process, beside the raw walk in C (CPU time, least of 15 rounds)";
const TO_TWO_WALKS_AT_MOST: f64 = 0.6;

pub fn measure(crowd: &Crowd, walker: &mut Walker, table: &mut Table) -> anyhow::Result<()> {
    let mut eyes = Eyes::open()?;
    settle(&mut eyes)?;
    let _on_one_cpu = OnOneCpu::hold(&[Pid::this(), walker.pid()])?;
    let (mut look, mut one, mut two) = (Took::default(), Took::default(), Took::default());
    for round in 0..=ROUNDS {
        let took = cpu_of(|| eyes.look())?;
        crowd.check("a look", &eyes.seen())?;
        let walks = [walker.walk(Walk::One)?, walker.walk(Walk::Two)?];
        for walked in walks {
            crowd.check_total("the walk in C", walked.sockets)?;
        }
        // The first round makes room for what the others find.
        if round > 0 {
            look.push(took);
            one.push(walks[0].took);
            two.push(walks[1].took);
        }
    }
    let size = crowd.size();
    let to_one_walk_at_most = if size.sockets < 100_000 { 1.15 } else { 1.05 };
    table.ratio(size, "a look / one walk in C, both families", &look, &one, Some(to_one_walk_at_most));
    table.ratio(size, "a look / two walks in C, IPv4 then IPv6", &look, &two, Some(TO_TWO_WALKS_AT_MOST));
    Ok(())
}

/// Waits until the sockets are what a leak is: for ten seconds after its last word, a socket may be one that is still
/// sent on, and each look asks such ones anew.
fn settle(eyes: &mut Eyes) -> anyhow::Result<()> {
    for _ in 0..30 {
        eyes.look()?;
        if eyes.seen().sending == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    bail!("after half a minute there are sockets that still send")
}

/// CPU time of this thread.
pub fn cpu_of(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let now = || ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from).context("CLOCK_THREAD_CPUTIME_ID");
    let begin = now()?;
    run()?;
    Ok(now()? - begin)
}
