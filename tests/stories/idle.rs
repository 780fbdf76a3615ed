//! What an agent costs that has nothing to do: printed, since the figure that counts is the release build's; and what it
//! does where looking costs more than it may.

use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::{self, Etc};
use crate::lab::deadline::{holds_for, wait_until_seen};

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

#[test]
fn an_agent_whose_looks_cost_too_much_looks_less_often_and_says_so() {
    let lab = Lab::start();
    // No walk of the kernel's table costs less than a tenth of a millisecond, which is the share of one second; and this
    // policy wants a walk at each tick.
    let busy = "policy: busy\nservices: [busy.service]\nwhen: established > 1000000\nfor: 1m\nrunbook: evidence-only\n";
    let etc = Etc::shipped().edit(agent::HOST, "interval: 15s", "interval: 1s\ncpu_budget: 0.01%");
    etc.with("policies/busy.yaml", busy).write(&lab);
    let agent = agent::run(&lab);
    wait_until_seen("it looks less often", Duration::from_secs(20), || {
        let status = agent::unwait(&lab, &["status"]);
        if status.out.contains("LOOKING LESS OFTEN: every ") { Ok(()) } else { Err(format!("{status:?}")) }
    });
    assert!(agent.output().contains("`cpu_budget`"), "{}", agent.output());
}
