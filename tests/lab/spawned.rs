//! A command that runs in the lab in the background, and ends with its guard.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::deadline::wait_until_seen;

static STARTED: AtomicUsize = AtomicUsize::new(0);

/// The guard. Dropping it kills the command; what it printed stays in the lab's directory until then.
pub struct Spawned {
    /// `nsenter`, which waits for the command and ends as the command ends.
    outer: Child,
    output: PathBuf,
}

impl Spawned {
    pub(super) fn start(mut command: Command, dir: &Path) -> Self {
        let output = dir.join(format!("spawned-{}.log", STARTED.fetch_add(1, Ordering::Relaxed)));
        let log = File::create(&output).expect("a log in the scratch directory");
        let outer = command
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { outer, output }
    }

    /// Everything that it has printed so far, on both streams.
    pub fn output(&self) -> String {
        let output = fs::read(&self.output).expect("the log in the scratch directory");
        String::from_utf8_lossy(&output).into_owned()
    }

    /// The command's pid as the machine sees it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> i32 {
        wait_until_seen("the command's process", Duration::from_secs(5), || {
            self.inner().map_err(|seen| format!("{seen}; output:\n{}", self.output()))
        })
    }

    /// The only child that `nsenter` has.
    fn inner(&self) -> Result<i32, String> {
        let outer = self.outer.id();
        let children =
            fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).map_err(|error| error.to_string())?;
        children.trim().parse().map_err(|_| format!("children {children:?}"))
    }

    /// Sends a signal to the command itself.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the command runs");
        if signal == Signal::SIGCONT {
            self.go_on();
        }
    }

    /// `nsenter` stops where its child was stopped, and does not go on with it.
    fn go_on(&self) {
        let _ = kill(Pid::from_raw(self.outer.id() as i32), Signal::SIGCONT);
    }

    /// The same, where it may be ending by itself at this very moment.
    pub fn signal_if_it_runs(&self, signal: Signal) {
        if let Ok(pid) = self.inner() {
            // An error is that it has ended.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended by then, with what it printed.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let (outer, output) = (&mut self.outer, &self.output);
        wait_until_seen("the command's end", deadline, || match outer.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("it runs; output:\n{}", fs::read_to_string(output).unwrap_or_default())),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Kills it, and returns when it is gone.
    pub fn kill(&mut self) {
        if !self.runs() {
            return;
        }
        match self.inner() {
            // `nsenter` has not reaped it yet, so the pid is still its own.
            Ok(pid) => drop(kill(Pid::from_raw(pid), Signal::SIGKILL)),
            Err(_) => drop(self.outer.kill()),
        }
        self.go_on();
        drop(self.outer.wait());
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.outer.try_wait(), Ok(None))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.output.display(), fs::read_to_string(&self.output).unwrap_or_default());
        }
        self.kill();
    }
}

/// The signal that ended it, if one did.
pub fn ended_by(status: ExitStatus) -> Option<Signal> {
    status.signal().and_then(|number| Signal::try_from(number).ok())
}
