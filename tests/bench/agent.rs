//! `unwait run`, as it runs on a host: a process with a configuration of its own.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use unwait::clock::{Clock, SystemClock};

use super::child::{end, ends_with_us};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_unwait");

/// Beyond what any of the bench's servers holds, but not beyond what all of them have open: each tick has to look.
pub const FAR: &str = "close_wait.aged(5m) > 5000";
/// Beyond what the host could hold with the sockets that it has: nothing needs to be looked at.
pub const OUT_OF_REACH: &str = "close_wait.aged(5m) > 10000000";

const MOST_FOR_A_LOOK: Duration = Duration::from_secs(60);
const MOST_FOR_ENDING: Duration = Duration::from_secs(10);
const POLICY: &str = "policy: far\nservices: [\"*\"]\nfor: 2m\nmode: observe\nrunbook: keep\nwhen: ";
const RUNBOOK: &str = "runbook: keep\nsteps:\n  - snapshot: {}\n";

/// It ends when this is dropped.
#[derive(Debug)]
pub struct Agent {
    process: std::process::Child,
    directory: TempDir,
}

impl Agent {
    /// With one policy of this condition. It has begun to look when this returns.
    pub fn start(interval: Duration, condition: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let at = directory.path();
        for part in ["policies", "runbooks"] {
            std::fs::create_dir(at.join(part))?;
        }
        let host =
            format!("interval: {}s\ncpu_budget: 100%\nstate: {}\n", interval.as_secs(), at.join("state").display());
        std::fs::write(at.join("agent.yaml"), host)?;
        std::fs::write(at.join("policies/far.yaml"), format!("{POLICY}{condition}\n"))?;
        std::fs::write(at.join("runbooks/keep.yaml"), RUNBOOK)?;
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--log", "json", "--config"]).arg(at).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(File::create(at.join("log"))?);
        ends_with_us(&mut command);
        let process = command.spawn().with_context(|| format!("starting {PROGRAM} run"))?;
        let agent = Self { process, directory };
        agent.wait_for("a first look", |status| status["last_snapshot"].is_string())?;
        Ok(agent)
    }

    /// Waits for a look that counted so many in CLOSE_WAIT on the host.
    pub fn wait_for_count(&self, close_wait: usize) -> anyhow::Result<()> {
        self.wait_for(&format!("a look that counts {close_wait} in CLOSE_WAIT"), |status| {
            status["host.close_wait"] == close_wait
        })
    }

    fn wait_for(&self, what: &str, met: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        let deadline = SystemClock.monotonic() + MOST_FOR_A_LOOK;
        loop {
            let mut command = Command::new(PROGRAM);
            command.args(["status", "--json", "--config"]).arg(self.directory.path());
            let output = command.output().with_context(|| format!("starting {PROGRAM} status"))?;
            let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if met(&said["agent"]) {
                return Ok(());
            }
            if SystemClock.monotonic() > deadline {
                let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                bail!("the agent never had {what}; its status: {said}; its log:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// CPU time since it began, of all its threads, also of those that have ended.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let clock = ClockId::pid_cpu_clock_id(self.pid()).context("the agent's CPU clock")?;
        Ok(clock.now().context("the agent's CPU clock")?.into())
    }

    /// CPU time that it takes within this time.
    pub fn cpu_within(&self, time: Duration) -> anyhow::Result<Duration> {
        let before = self.cpu()?;
        std::thread::sleep(time);
        Ok(self.cpu()? - before)
    }

    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).context("the agent's status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = line.and_then(|line| line.split_whitespace().next()).context("VmRSS of the agent")?.parse()?;
        Ok(kib * 1024)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = kill(self.pid(), Signal::SIGTERM);
        end(&mut self.process, MOST_FOR_ENDING);
    }
}
