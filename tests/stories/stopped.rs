//! The agent is stopped (SIGSTOP) between its slot and the change that the slot is for, for longer than the slot's answer
//! holds. When it goes on, it does not begin: the slot may be another host's by then.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::Lab;
use crate::lab::deadline::{dawdle, wait_until_seen};
use crate::lab::quick::{Quick, SOON};

/// In place of the minute that an answer holds.
const LEASE: &str = "UNWAIT_LEASE=2";
const LONGER: Duration = Duration::from_secs(3);

/// Stops an agent at this point for longer than its lease, and lets it go on.
fn stopped_at(point: &str, drained: bool) {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    stage.service.wait_for_leak();
    let stop_at = format!("UNWAIT_STOP_AT={point}");
    let agent = stage.run_with(&[LEASE, &stop_at]);
    wait_until_seen("the agent to be stopped", SOON, || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.pid())).map_err(|error| error.to_string())?;
        // proc_pid_stat(5): the state follows the name, which is in parentheses.
        match stat.rsplit_once(") ") {
            Some((_, rest)) if rest.starts_with('T') => Ok(()),
            _ => Err(stat),
        }
    });
    assert_eq!(stage.is_in_traffic(), !drained, "at {point}");
    dawdle(LONGER);
    agent.signal(Signal::SIGCONT);

    let told = stage.wait_until_told_end("unwound", "slot_taken");
    assert!(told["lines"].to_string().contains("may be another host's by now"), "{told:#}");
    stage.assert_in_service();
    assert_eq!(stage.starts(), 1, "it was not restarted");
}

#[test]
fn agent_stopped_with_a_slot_for_longer_than_it_holds_does_not_begin_to_drain() {
    stopped_at("drain:intended", false);
}

#[test]
fn agent_stopped_before_the_restart_for_longer_than_its_slot_holds_does_not_restart() {
    stopped_at("restart:intended", true);
}
