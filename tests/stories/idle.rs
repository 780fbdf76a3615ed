//! What an agent costs that has nothing to do. Printed and not judged: the figure that counts is the release build's.

use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::{self, Etc};
use crate::lab::deadline::holds_for;

#[test]
fn an_idle_agent_stays_small() {
    let lab = Lab::start();
    Etc::shipped().edit(agent::HOST, "interval: 15s", "interval: 1s").write(&lab);
    let agent = agent::run(&lab);
    let status = || std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it runs");
    // Some ticks, so that what is allocated at first use has been.
    holds_for(
        "it runs",
        Duration::from_secs(3),
        || if status().contains("VmRSS") { Ok(()) } else { Err(agent.output()) },
    );
    let status = status();
    for line in
        status.lines().filter(|line| ["VmRSS", "VmHWM", "RssAnon", "Threads"].iter().any(|key| line.starts_with(key)))
    {
        println!("idle: {line}");
    }
}
