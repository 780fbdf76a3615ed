//! A program that nobody supervises, found by its pid file: SIGTERM by pidfd, SIGKILL when it does not end, then its
//! argv again, so that it outlives us and is what it was before.
//!
//! A pid file is somebody's claim, so it is believed only so far: never pid 0, 1 or our own; never a file that anyone
//! may write; and a file that belongs to a user other than root or ourselves may name that user's processes alone.
//! Signals go to a pidfd whose process has been compared by its start time, so no recycled pid is ever hit.
//!
//! A restart has two halves, since an agent may die between them:
//!
//! ```text
//! running ── SIGTERM ──> ending ──> ended (SIGKILL after stop_timeout) ── argv ──> another pid for STABLE_FOR
//!         restart() │ journaled                       start()
//!                   └───────────┴─> a next agent goes on here, unless the host has been booted since
//! ```
//!
//! The new process has the old one's user, groups, directory, umask, niceness, OOM score and limit of descriptors
//! ([`former`]), which are journaled, and its environment, which is not: after a crash between the halves it gets a small
//! one (`PATH`, `LANG`, `LC_ALL`, `TZ`). It gets nothing else of ours: no descriptors, no credentials, no sandbox, and one
//! variable at most, by which a next agent knows it ([`successor`]).

mod former;
mod successor;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nix::unistd::{AccessFlags, Uid};
use procfs::process::Process;
use serde_json::Value;
use tokio::time::Instant;

use self::former::Former;
use self::successor::{Environment, Started};
use super::pidfd::{self, ProcessHandle, start_time};
use super::{Before, Liveness, RestartError, Restarted, Restarter, Revival, RunState};
use crate::clock::Clock;
use crate::crash;
use crate::model::plan::{self, ProcessRestart};
use crate::model::{Incarnation, duration};

/// A new process must live this long under one pid before it counts: what fails at once (a port in use, a missing
/// file) fails within it.
const STABLE_FOR: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);
/// Whether what was started still runs: on systemd that takes a command.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Until the pid file names the new process. Nobody tells how long a program may take to start; systemd's
/// DefaultTimeoutStartSec (90 s) is what the field is used to.
const START_ALLOWANCE: Duration = Duration::from_secs(90);

pub struct ProcessRestarter {
    clock: Arc<dyn Clock>,
    /// Of those that were asked to end, until they are started again.
    environments: Mutex<HashMap<PathBuf, (Incarnation, Environment)>>,
}

impl std::fmt::Debug for ProcessRestarter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessRestarter").finish_non_exhaustive()
    }
}

/// What a pid file leads to.
enum Found {
    NoFile,
    /// It names a process that is no more.
    Dead,
    Alive(Alive),
}

#[derive(Clone, Copy)]
struct Alive {
    pid: i32,
    start_time: u64,
}

impl Alive {
    fn incarnation(&self) -> Incarnation {
        Incarnation(format!("{}@{}", self.pid, self.start_time))
    }
}

impl ProcessRestarter {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, environments: Mutex::default() }
    }

    fn environments(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Incarnation, Environment)>> {
        self.environments.lock().expect("nothing panics while it holds them")
    }
}

fn spec(target: &plan::Restart) -> Result<&ProcessRestart, RestartError> {
    match target {
        plan::Restart::Process(spec) => Ok(spec),
        other => Err(super::foreign(other, "process")),
    }
}

fn service(spec: &ProcessRestart) -> String {
    spec.pid_file.display().to_string()
}

fn find(spec: &ProcessRestart) -> Result<Found, RestartError> {
    let refused = |detail: String| RestartError::Refused { service: service(spec), detail };
    let unreadable = |error: io::Error| RestartError::Unreachable {
        service: service(spec),
        detail: format!("cannot read the pid file: {error}"),
    };
    // O_NONBLOCK: opening a fifo must not hang.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(&spec.pid_file);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::NoFile),
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(refused("the pid file is not a regular file".into()));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(refused("the pid file is world-writable; `chmod o-w` it".into()));
    }
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).map_err(unreadable)?;
    let pid: i32 = match text.trim() {
        // Some programs create it first and fill it in later.
        "" => return Ok(Found::Dead),
        digits => digits.parse().map_err(|_| refused("the pid file holds no number".into()))?,
    };
    if pid <= 1 || pid == std::process::id() as i32 {
        return Err(refused(format!("the pid file names pid {pid}, which belongs to no service")));
    }
    let Some(start_time) = start_time(pid).map_err(unreadable)? else {
        return Ok(Found::Dead);
    };
    let Ok(status) = Process::new(pid).and_then(|process| process.status()) else {
        return Ok(Found::Dead);
    };
    let owner = metadata.uid();
    if owner != 0 && owner != Uid::effective().as_raw() && owner != status.ruid {
        return Err(refused(format!(
            "the pid file belongs to uid {owner} but names pid {pid} of uid {}: uid {owner} could make unwait end any process. Let \
             root or the user of that process own the pid file",
            status.ruid
        )));
    }
    Ok(Found::Alive(Alive { pid, start_time }))
}

/// Why its argv could not be started, as far as that is known before anything is ended.
fn no_program(spec: &ProcessRestart) -> Option<String> {
    match spec.argv.first() {
        Some(program) if program.starts_with('/') => nix::unistd::access(program.as_str(), AccessFlags::X_OK)
            .err()
            .map(|error| format!("`{program}` could not be started again: {error}")),
        _ => Some("argv must begin with an absolute path".into()),
    }
}

/// Waits until the pid file names another lifetime, the same one for `STABLE_FOR`. An error says also whether nobody
/// but us knows of what was started.
async fn appear(
    spec: &ProcessRestart,
    old: &Incarnation,
    started: Option<&Started>,
    until: Instant,
) -> Result<Incarnation, (String, bool)> {
    let mut seen: Option<(Incarnation, Instant)> = None;
    let mut ask_at = Instant::now();
    loop {
        let new = match find(spec) {
            Ok(Found::Alive(alive)) => Some(alive.incarnation()).filter(|new| new != old),
            _ => None,
        };
        match (&new, &seen) {
            (Some(new), Some((same, since))) if new == same => {
                if since.elapsed() >= STABLE_FOR {
                    return Ok(new.clone());
                }
            }
            (Some(new), _) => seen = Some((new.clone(), Instant::now())),
            (None, _) => seen = None,
        }
        if let (None, Some(started)) = (&new, started)
            && Instant::now() >= ask_at
        {
            ask_at = Instant::now() + ASK_EVERY;
            if let Some(how) = started.failed().await {
                return Err((format!("`{}` was started and ended: {how}", spec.argv[0]), true));
            }
        }
        if Instant::now() >= until {
            let pid_file = spec.pid_file.display();
            return Err(match new {
                Some(new) => (format!("the new process {new} has not stayed up {STABLE_FOR:?} by the deadline"), false),
                None => {
                    let what = "was started, but its pid file named no new process by the deadline; the start has been ended again";
                    (format!("`{}` {what} ({pid_file})", spec.argv[0]), true)
                }
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Sees to the end of what was asked to end.
async fn end(spec: &ProcessRestart, before: &Incarnation) -> Result<(), RestartError> {
    let Some(old) = before.0.split_once('@').and_then(|(pid, began)| Some((pid.parse().ok()?, began.parse().ok()?)))
    else {
        let detail =
            format!("the journal of the incident names the process `{before}`, which is no pid and start time");
        return Err(RestartError::Failed { service: service(spec), detail });
    };
    let (pid, began): (i32, u64) = old;
    let unreachable = |detail: String| RestartError::Unreachable { service: service(spec), detail };
    let ended = match ProcessHandle::hold(pid, began) {
        Ok(Some(held)) => held.end(spec.stop_timeout).await,
        Ok(None) => Ok(true),
        Err(error) => Err(error),
    };
    match ended {
        Ok(true) => Ok(()),
        Ok(false) => Err(unreachable(format!("pid {pid} has not ended {:?} after SIGKILL", pidfd::KILL_DEADLINE))),
        Err(error) => Err(unreachable(format!("pid {pid} cannot be signalled: {error}"))),
    }
}

#[async_trait]
impl Restarter for ProcessRestarter {
    async fn observe(&self, target: &plan::Restart) -> Result<Liveness, RestartError> {
        Ok(match find(spec(target)?)? {
            Found::NoFile => Liveness { state: RunState::Inactive, incarnation: None, main_pid: None, up_for: None },
            // Who stops on purpose takes the pid file away.
            Found::Dead => Liveness { state: RunState::Failed, incarnation: None, main_pid: None, up_for: None },
            Found::Alive(alive) => Liveness {
                state: RunState::Active,
                incarnation: Some(alive.incarnation()),
                main_pid: Some(alive.pid as u32),
                up_for: Some(pidfd::age(alive.start_time, self.clock.as_ref())),
            },
        })
    }

    async fn remember(&self, target: &plan::Restart, incarnation: &Incarnation) -> Result<Value, RestartError> {
        let spec = spec(target)?;
        let refused = |detail: String| RestartError::Refused { service: service(spec), detail };
        let former = match find(spec)? {
            Found::Alive(alive) if alive.incarnation() == *incarnation => Former::read(alive.pid),
            _ => return Err(refused("the process has ended, or the pid file names another one".into())),
        };
        let former = former.map_err(|error| refused(format!("the process cannot be read: {error}")))?;
        Ok(serde_json::to_value(former).expect("plain data"))
    }

    async fn would(&self, revival: Revival, target: &plan::Restart) -> Result<String, RestartError> {
        let spec = spec(target)?;
        let Found::Alive(alive) = find(spec)? else {
            return Ok(format!("nothing: no process is named by {}", spec.pid_file.display()));
        };
        let program = spec.argv.first().map(String::as_str).unwrap_or_default();
        Ok(match (revival, spec.reload_signal) {
            (Revival::Restart, _) => format!(
                "SIGTERM to pid {}, SIGKILL after {}, then {program} started as the same user",
                alive.pid,
                duration::format(spec.stop_timeout)
            ),
            (Revival::Reload, Some(signal)) => format!("SIG{signal} to pid {}", alive.pid),
            (Revival::Reload, None) => "nothing: no `reload_signal` is given".into(),
        })
    }

    /// The first half.
    async fn restart(&self, target: &plan::Restart, _deadline: Duration) -> Result<Restarted, RestartError> {
        let spec = spec(target)?;
        let refused = |detail: String| RestartError::Refused { service: service(spec), detail };
        let old = match find(spec)? {
            Found::Alive(old) => old,
            Found::NoFile => {
                return Err(refused("the service does not run (no pid file); unwait starts no stopped service".into()));
            }
            Found::Dead => {
                return Err(refused(
                    "the service does not run (its pid is gone); unwait starts no stopped service".into(),
                ));
            }
        };
        if let Some(why) = no_program(spec) {
            return Err(refused(why));
        }
        let held = ProcessHandle::hold(old.pid, old.start_time)
            .map_err(|error| refused(format!("pid {} cannot be held: {error}", old.pid)))?
            .ok_or_else(|| refused("the process has just ended by itself".into()))?;
        let environment = former::environment(old.pid);
        held.signal(libc::SIGTERM).map_err(|error| refused(format!("pid {} cannot be signalled: {error}", old.pid)))?;
        if let Some(environment) = environment {
            self.environments().insert(spec.pid_file.clone(), (old.incarnation(), environment));
        }
        Ok(Restarted::Stopping)
    }

    async fn start(
        &self,
        target: &plan::Restart,
        before: &Before,
        deadline: Duration,
    ) -> Result<Incarnation, RestartError> {
        let until = Instant::now() + deadline;
        let spec = spec(target)?;
        let failed = |detail: String| RestartError::Failed { service: service(spec), detail };
        let former: Former = serde_json::from_value(before.kept.clone()).map_err(|error| {
            failed(format!("the journal of the incident does not describe the former process: {error}"))
        })?;
        if former::boot().ok().as_ref() != Some(&former.boot) {
            let detail = "the host has booted since the process was ended: unwait leaves the start to the boot";
            return Err(RestartError::Refused { service: service(spec), detail: detail.into() });
        }
        let known = self.environments().remove(&spec.pid_file);
        let environment = known.filter(|(of, _)| *of == before.incarnation).map(|(_, environment)| environment);
        end(spec, &before.incarnation).await?;
        // One that somebody else has started meanwhile counts.
        let started = match find(spec)? {
            Found::Alive(_) => None,
            Found::NoFile | Found::Dead => {
                let environment = environment.unwrap_or_else(successor::clean);
                crash::point("restart", "ended");
                let started = successor::start(spec, &former, &before.incarnation, &environment).await;
                crash::point("restart", "started");
                Some(started.map_err(|why| failed(format!("`{}` could not be started: {why}", spec.argv[0])))?)
            }
        };
        // A start in time is given the time to prove itself.
        let until = until.max(Instant::now() + STABLE_FOR * 2);
        let appeared = appear(spec, &before.incarnation, started.as_ref(), until).await;
        match (appeared, started) {
            (Err((why, true)), Some(started)) => {
                started.end(spec.stop_timeout).await;
                Err(failed(why))
            }
            (appeared, started) => {
                started.into_iter().for_each(Started::settle);
                appeared.map_err(|(why, _)| failed(why))
            }
        }
    }

    async fn would_not_start(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        Ok(no_program(spec(target)?).or_else(super::room::full))
    }

    async fn no_reload(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        let lacks = || "the service has no reload: add `reload_signal` to its `restart: { process: … }`".into();
        Ok(spec(target)?.reload_signal.is_none().then(lacks))
    }

    /// A signal says nothing of its end: what is proven is that the process lives on, for STABLE_FOR.
    async fn reload(&self, target: &plan::Restart, _deadline: Duration) -> Result<(), RestartError> {
        let spec = spec(target)?;
        let refused = |detail: String| RestartError::Refused { service: service(spec), detail };
        let Some(signal) = spec.reload_signal else {
            return Err(refused(self.no_reload(target).await?.unwrap_or_default()));
        };
        let Found::Alive(old) = find(spec)? else { return Err(refused("the service does not run".into())) };
        let held = ProcessHandle::hold(old.pid, old.start_time).and_then(|held| {
            if let Some(held) = &held {
                held.signal(pidfd::number(signal))?;
            }
            Ok(held)
        });
        match held {
            Err(error) => Err(refused(format!("pid {} cannot be signalled: {error}", old.pid))),
            Ok(Some(held)) if !held.ended_within(STABLE_FOR).await => Ok(()),
            Ok(_) => {
                let detail = format!("pid {} ended after SIG{signal}, which should reload it", old.pid);
                Err(RestartError::NotReloaded { service: service(spec), detail })
            }
        }
    }

    /// To end what was started in vain: nobody supervises it, so nobody else would. And before that, where the deadline is
    /// shorter, what was to be restarted.
    fn overtime(&self, target: &plan::Restart) -> Duration {
        spec(target).map_or(Duration::ZERO, |spec| (spec.stop_timeout + pidfd::KILL_DEADLINE) * 2)
    }

    /// Nobody shows that it was asked to end.
    async fn settles_within(&self, target: &plan::Restart) -> Result<Duration, RestartError> {
        Ok(spec(target)?.stop_timeout + super::SETTLE_MARGIN)
    }

    async fn own_deadline(&self, target: &plan::Restart) -> Result<Duration, RestartError> {
        Ok(spec(target)?.stop_timeout + START_ALLOWANCE + super::DEADLINE_MARGIN)
    }

    /// Nobody knows what depends on a process that nobody supervises.
    async fn dependents(&self, _target: &plan::Restart) -> Result<Vec<String>, RestartError> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
