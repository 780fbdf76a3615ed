//! Processes that do nothing, to see what a busy host's process table costs.

use std::io::BufRead;

use anyhow::{Context, ensure};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getppid, pause};

use super::child::Child;

pub const ROLE: &str = "--as-sleepers";

/// Their parent. They end when this is dropped.
#[derive(Debug)]
pub struct Sleepers(Child);

impl Sleepers {
    pub fn start() -> anyhow::Result<Self> {
        Ok(Self(Child::of_this_program("the parent of idle processes", &[ROLE])?))
    }

    /// Has so many of them, never fewer than before.
    pub fn be(&mut self, count: usize) -> anyhow::Result<()> {
        let answer = self.0.ask(&count.to_string())?;
        ensure!(answer == "asleep", "this machine does not run {count} further processes: {answer}");
        Ok(())
    }
}

/// Forks as many as standard input says, and ends them with its end.
pub fn main() -> anyhow::Result<()> {
    let mut asleep = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let count: usize = line?.parse().context("a number of processes")?;
        match more(&mut asleep, count) {
            Ok(()) => println!("asleep"),
            Err(error) => println!("{error:#}"),
        }
    }
    for pid in asleep {
        kill(pid, Signal::SIGKILL)?;
        waitpid(pid, None)?;
    }
    Ok(())
}

fn more(asleep: &mut Vec<Pid>, count: usize) -> anyhow::Result<()> {
    let parent = nix::unistd::getpid();
    while asleep.len() < count {
        // SAFETY: this process has one thread, so that no lock can be held by another in the child.
        match unsafe { fork() }.with_context(|| format!("process {} of {count}", asleep.len() + 1))? {
            ForkResult::Parent { child } => asleep.push(child),
            ForkResult::Child => sleep(parent),
        }
    }
    Ok(())
}

fn sleep(parent: Pid) -> ! {
    // A parent that had ended before this sends no signal any more.
    if prctl::set_pdeathsig(Signal::SIGKILL).is_ok() && getppid() == parent {
        loop {
            pause();
        }
    }
    // SAFETY: _exit(2) ends this copy of the process at once, without what its parent has at exit.
    unsafe { libc::_exit(1) }
}
