//! Processes that the bench starts and talks to: a line in, a line out. They end with the bench, however it ends.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use unwait::clock::{Clock, SystemClock};

const MOST_FOR_ENDING: Duration = Duration::from_secs(20); // a holder has thousands of sockets to close

/// A process that answers each line with one line, and ends when there is no more to come.
#[derive(Debug)]
pub struct Child {
    what: &'static str,
    process: std::process::Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Child {
    pub fn start(what: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        ends_with_us(command);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {what} ({})", command.get_program().display()))?;
        let to = process.stdin.take();
        let from = BufReader::new(process.stdout.take().expect("its standard output was asked for as a pipe"));
        Ok(Self { what, process, to, from })
    }

    /// This very program in another role.
    pub fn of_this_program(what: &'static str, arguments: &[impl AsRef<OsStr>]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding the bench's own program")?;
        Self::start(what, Command::new(program).args(arguments))
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    pub fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let to = self.to.as_mut().expect("it is closed only when this is dropped");
        writeln!(to, "{line}").with_context(|| format!("telling {} `{line}`", self.what))
    }

    pub fn answer(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line).with_context(|| format!("reading the answer of {}", self.what))?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => bail!("{} (pid {}) ended without an answer", self.what, self.process.id()),
        }
    }

    pub fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        self.tell(line)?;
        self.answer()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.to.take());
        end(&mut self.process, MOST_FOR_ENDING);
    }
}

/// The kernel kills what the command starts when the bench is gone, also by SIGKILL.
pub fn ends_with_us(command: &mut Command) {
    // SAFETY: between fork and exec, prctl(2) alone is called, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
}

/// Waits until the process has ended by itself, and kills it when it does not.
pub fn end(process: &mut std::process::Child, within: Duration) {
    let deadline = SystemClock.monotonic() + within;
    while matches!(process.try_wait(), Ok(None)) {
        if SystemClock.monotonic() > deadline {
            let _ = process.kill();
            let _ = process.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
