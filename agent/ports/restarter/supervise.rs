//! Services of runit and s6: the directory that `runsv` or `s6-supervise` looks after. Neither `sv` nor `s6-svc` is
//! started, nor believed (`sv restart` was seen to answer 0 with the same pid); the supervisor is spoken to as they do:
//! bytes into the fifo `supervise/control`, and `supervise/status` read back.
//!
//! ```text
//! up ── control: t (runit), r (s6: `down-signal`) ──> its process ends ──> ./finish ──> up for STABLE_FOR
//!                       └ not within stop_timeout: SIGKILL by pidfd ┘
//! ```
//!
//! What is wanted up is started again by its supervisor, so there is one restart and no second half, whatever becomes
//! of us. What is wanted down (`sv down`), paused, or runs once (`sv once`) is a person's doing: nobody would start it
//! again, so it is left alone. A service of s6 that announces its readiness (`notification-fd`) counts as up from then on.
//!
//! `status` is a claim, and believed only so far: while somebody reads the fifo, and where the process that it names is the
//! child of a process that works in that directory, as every supervisor does. So neither the status that a killed
//! supervisor left, nor a pid of another pid namespace, leads to a stranger.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use procfs::process::Process;
use tokio::time::Instant;

use super::pidfd::{self, ProcessHandle, start_time};
use super::{Liveness, RestartError, Restarted, Restarter, Revival, RunState};
use crate::clock::Clock;
use crate::model::Incarnation;
use crate::model::plan::{self, SuperviseRestart, Supervisor};

/// What dies of a taken port or a bad configuration was seen to die within 300 ms; ten times that, for slow starters.
const STABLE_FOR: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(100);
/// For `./finish` (s6 kills it after 5 s), the second that both wait before they start what ended at once, and readiness.
const START_ALLOWANCE: Duration = Duration::from_secs(60);
/// The fifo that its supervisor reads.
const CONTROL: &str = "supervise/control";
/// The longest status is that of s6 since 2.11.4: 43 bytes.
const MAX_STATUS_BYTES: u64 = 64;

pub struct SuperviseRestarter {
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for SuperviseRestarter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SuperviseRestarter").finish_non_exhaustive()
    }
}

/// `supervise/status`, as far as it is read.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Status {
    /// Of `./run`, or of `./finish`; 0 where neither runs.
    pid: i32,
    wanted_up: bool,
    finishing: bool,
    paused: bool,
    /// SIGTERM was sent to what runs, and it has not ended yet; runit alone knows (runsv.c: C_TERM).
    ending: bool,
    /// s6 alone knows; what says nothing counts as ready.
    ready: bool,
}

impl Status {
    /// runit's is 20 bytes (runit 2.1.2, sv.c): 12 of time, the pid (little-endian), paused, `u` or `d`, TERM was sent, and
    /// what runs (0 nothing, 1 run, 2 finish). s6's is 35 (43 from 2.11.4 on, with the process group): two times of 12,
    /// the pid (big-endian), all the way at the end the flags (libs6, s6_svstatus_unpack.c).
    fn parse(by: Supervisor, bytes: &[u8]) -> Option<Self> {
        match (by, bytes.len()) {
            (Supervisor::Runit, 20) => Some(Self {
                pid: i32::from_le_bytes(bytes[12..16].try_into().ok()?),
                wanted_up: bytes[17] == b'u',
                finishing: bytes[19] == 2,
                paused: bytes[16] != 0,
                ending: bytes[18] != 0,
                ready: true,
            }),
            (Supervisor::S6, 35 | 43) => {
                let flags = bytes.last()?;
                Some(Self {
                    pid: i32::try_from(u64::from_be_bytes(bytes[24..32].try_into().ok()?)).ok()?,
                    wanted_up: flags & 4 != 0,
                    finishing: flags & 2 != 0,
                    paused: flags & 1 != 0,
                    ending: false,
                    ready: flags & 8 != 0,
                })
            }
            _ => None,
        }
    }
}

/// What its supervisor says of a service, and /proc of its process.
#[derive(Clone, Copy, Debug, PartialEq)]
struct SupervisedState {
    status: Status,
    /// The pid and start time of `./run`, where it runs.
    process: Option<(i32, u64)>,
}

impl SupervisedState {
    fn incarnation(&self) -> Option<Incarnation> {
        self.process.map(|(pid, began)| Incarnation(format!("{pid}@{began}")))
    }

    fn runs_once(&self) -> bool {
        self.process.is_some() && !self.status.wanted_up
    }

    fn state(&self) -> RunState {
        match (self.process, self.status) {
            (_, Status { paused: true, .. }) => RunState::Inactive,
            (Some(_), Status { wanted_up: true, ready: true, ending: false, .. }) => RunState::Active,
            (None, Status { pid: 0, wanted_up: false, finishing: false, .. }) => RunState::Inactive,
            // On its way up or down; what runs once cannot be told from it.
            _ => RunState::Changing,
        }
    }

    fn shown(&self) -> String {
        let is = match (self.process, self.status) {
            (_, Status { paused: true, .. }) => "paused",
            (_, Status { finishing: true, .. }) => "in its finish script",
            (Some(_), Status { ready: false, .. }) => "up, but not ready",
            (Some(_), Status { ending: true, .. }) => "up, but was sent TERM",
            (Some(_), _) => "up",
            (None, _) => "down",
        };
        format!("{is}, and wanted {}", if self.status.wanted_up { "up" } else { "down" })
    }
}

/// A service directory, and who looks after it.
struct Directory<'a>(&'a SuperviseRestart);

impl<'a> Directory<'a> {
    fn of(target: &'a plan::Restart) -> Result<Self, RestartError> {
        match target {
            plan::Restart::Supervise(spec) => Ok(Self(spec)),
            other => Err(super::foreign(other, "runit and s6")),
        }
    }

    fn service(&self) -> String {
        self.0.dir.display().to_string()
    }

    fn refused(&self, detail: String) -> RestartError {
        RestartError::Refused { service: self.service(), detail }
    }

    fn failed(&self, detail: String) -> RestartError {
        RestartError::Failed { service: self.service(), detail }
    }

    fn unreachable(&self, detail: String) -> RestartError {
        RestartError::Unreachable { service: self.service(), detail }
    }

    /// The program that reads the fifo.
    fn supervisor(&self) -> &'static str {
        match self.0.by {
            Supervisor::Runit => "runsv",
            Supervisor::S6 => "s6-supervise",
        }
    }

    /// What ends the process of a service that stays wanted up.
    fn restart_byte(&self) -> u8 {
        match self.0.by {
            Supervisor::Runit => b't',
            Supervisor::S6 => b'r',
        }
    }

    /// The fifo; that it opens proves that the supervisor lives.
    fn control(&self) -> Result<File, RestartError> {
        let path = self.0.dir.join(CONTROL);
        // Without a reader, O_NONBLOCK makes it fail rather than wait (fifo(7)).
        let opened = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(&path);
        let fifo = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let detail = format!("{} does not exist: {} has never run there", path.display(), self.supervisor());
                return Err(RestartError::Unknown { service: self.service(), detail });
            }
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                return Err(self.unreachable(format!("no {} runs for this directory", self.supervisor())));
            }
            Err(error) => return Err(self.unreachable(format!("{}: {error}", path.display()))),
        };
        match fifo.metadata() {
            Ok(metadata) if metadata.file_type().is_fifo() => Ok(fifo),
            _ => Err(self.refused(format!("{} is no fifo", path.display()))),
        }
    }

    fn look(&self) -> Result<SupervisedState, RestartError> {
        self.control()?;
        let path = self.0.dir.join("supervise/status");
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_STATUS_BYTES).read_to_end(&mut bytes))
            .map_err(|error| self.unreachable(format!("{}: {error}", path.display())))?;
        let Some(mut status) = Status::parse(self.0.by, &bytes) else {
            let detail =
                format!("{} has {} bytes, and is no status file of {}", path.display(), bytes.len(), self.supervisor());
            return Err(self.unreachable(detail));
        };
        // One that does not announce its readiness is never called ready.
        status.ready |= !self.0.dir.join("notification-fd").exists();
        let process = match status {
            Status { pid: 0, .. } | Status { finishing: true, .. } => None,
            Status { pid, .. } => self.process(pid)?,
        };
        Ok(SupervisedState { status, process })
    }

    /// The process that the supervisor calls by this pid; `None` where it has ended.
    fn process(&self, pid: i32) -> Result<Option<(i32, u64)>, RestartError> {
        let began = start_time(pid).map_err(|error| self.unreachable(format!("cannot read pid {pid}: {error}")))?;
        let Some(began) = began else { return Ok(None) };
        let parent = match Process::new(pid).and_then(|process| process.stat()) {
            Ok(stat) if stat.starttime == began => stat.ppid,
            _ => return Ok(None),
        };
        let place = |path: &str| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
        let own = place(&self.service()).map_err(|error| self.unreachable(error.to_string()))?;
        match place(&format!("/proc/{parent}/cwd")) {
            Ok(works_in) if works_in == own => Ok(Some((pid, began))),
            Ok(_) => Err(self.refused(format!(
                "{} reports pid {pid}, which is a child of pid {parent} here, in another directory: the supervisor may run in a container",
                self.supervisor()
            ))),
            // The child of a supervisor that has just ended.
            Err(error) => Err(self.unreachable(format!("cannot read pid {parent}, its parent: {error}"))),
        }
    }
}

impl SuperviseRestarter {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

#[async_trait]
impl Restarter for SuperviseRestarter {
    async fn observe(&self, target: &plan::Restart) -> Result<Liveness, RestartError> {
        let seen = Directory::of(target)?.look()?;
        Ok(Liveness {
            state: seen.state(),
            incarnation: seen.incarnation(),
            main_pid: seen.process.and_then(|(pid, _)| u32::try_from(pid).ok()),
            up_for: seen.process.map(|(_, began)| pidfd::age(began, self.clock.as_ref())),
        })
    }

    async fn would(&self, revival: Revival, target: &plan::Restart) -> Result<String, RestartError> {
        let directory = Directory::of(target)?;
        Ok(match revival {
            Revival::Restart => format!(
                "the byte `{}` into {}",
                char::from(directory.restart_byte()),
                directory.0.dir.join(CONTROL).display()
            ),
            Revival::Reload => format!("nothing: {} has no reload", directory.supervisor()),
        })
    }

    async fn restart(&self, target: &plan::Restart, deadline: Duration) -> Result<Restarted, RestartError> {
        let until = Instant::now() + deadline;
        let directory = Directory::of(target)?;
        let before = directory.look()?;
        let (RunState::Active, Some((pid, began))) = (before.state(), before.process) else {
            return Err(
                directory.refused(format!("the service is {}; only a running service is restarted", before.shown()))
            );
        };
        let ended_itself =
            || directory.refused("the process has just ended by itself; only a running service is restarted".into());
        let held = ProcessHandle::hold(pid, began).map_err(|error| directory.refused(format!("pid {pid}: {error}")))?;
        let held = held.ok_or_else(ended_itself)?;
        // One byte into a fifo is written whole, or not at all.
        directory
            .control()?
            .write_all(&[directory.restart_byte()])
            .map_err(|error| directory.refused(format!("cannot write to {}: {error}", directory.supervisor())))?;
        match held.end(directory.0.stop_timeout.min(deadline)).await {
            Ok(true) => {}
            Ok(false) => return Err(directory.unreachable(format!("pid {pid} has not ended after SIGKILL"))),
            Err(error) => return Err(directory.unreachable(format!("pid {pid} cannot be signalled: {error}"))),
        }
        // A restart that was done in time is given the time to prove itself.
        let until = until.max(Instant::now() + STABLE_FOR + POLL * 4);
        let mut steady: Option<(Incarnation, Instant)> = None;
        loop {
            let look = directory.look();
            if let Ok(now) = &look {
                match (now.state(), now.incarnation(), &steady) {
                    (RunState::Active, Some(new), Some((same, since))) if *same == new => {
                        if since.elapsed() >= STABLE_FOR {
                            return Ok(Restarted::NewIncarnation(new));
                        }
                    }
                    (RunState::Active, Some(new), _) => steady = Some((new, Instant::now())),
                    (RunState::Inactive, ..) => {
                        let detail = "the service was taken down meanwhile, by a person or its finish script";
                        return Err(directory
                            .failed(format!("the process has ended, and the service is {}: {detail}", now.shown())));
                    }
                    _ => steady = None,
                }
            }
            if Instant::now() >= until {
                return Err(match look {
                    Ok(now) => directory.failed(format!(
                        "no new process had stayed up by the deadline; the service is {}",
                        now.shown()
                    )),
                    Err(error) => error,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// s6 shows nothing of it, nor runit where a `control/t` of the service's own ends it.
    async fn settles_within(&self, target: &plan::Restart) -> Result<Duration, RestartError> {
        Ok(Directory::of(target)?.0.stop_timeout + super::SETTLE_MARGIN)
    }

    async fn would_not_start(&self, _target: &plan::Restart) -> Result<Option<String>, RestartError> {
        Ok(super::room::full())
    }

    async fn own_deadline(&self, target: &plan::Restart) -> Result<Duration, RestartError> {
        Ok(Directory::of(target)?.0.stop_timeout + START_ALLOWANCE + super::DEADLINE_MARGIN)
    }

    /// Neither knows of a relation between services.
    async fn dependents(&self, _target: &plan::Restart) -> Result<Vec<String>, RestartError> {
        Ok(Vec::new())
    }

    async fn caveats(&self, target: &plan::Restart) -> Vec<String> {
        let Ok(directory) = Directory::of(target) else { return Vec::new() };
        match directory.look() {
            Ok(seen) if seen.runs_once() => vec![format!(
                "{} runs, but is wanted down (it runs once, or is being stopped): it is not restarted until it is wanted up (`sv up`, `s6-svc -u`)",
                directory.service()
            )],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
#[path = "supervise_tests.rs"]
mod tests;
