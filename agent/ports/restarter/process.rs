//! A program that nobody supervises, found by its pid file: SIGTERM by pidfd, SIGKILL when it does not end, then its
//! argv again, in a session of its own, as the user it ran as.
//!
//! A pid file is somebody's claim, so it is believed only so far: never pid 0, 1 or our own; never a file that anyone
//! may write; and a file that belongs to a user other than root or ourselves may name that user's processes alone.
//! Signals go to a pidfd whose process has been compared by its start time, so no recycled pid is ever hit.
//!
//! The new process gets a small environment of its own (`PATH`, `LANG`, `LC_ALL`, `TZ`; anything else is said in argv,
//! by `env`), the old one's working directory, and nothing of ours: no descriptors, no credentials.
//! Its limit of open descriptors is the old one's. It stays in the
//! agent's cgroup: where systemd runs the agent, that unit needs `KillMode=process`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{AccessFlags, Gid, Uid};
use procfs::process::{LimitValue, Process};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::pidfd::{self, Held, start_time};
use super::{Liveness, RestartError, Restarted, Restarter, RunState};
use crate::clock::Clock;
use crate::model::Incarnation;
use crate::model::plan::{self, ProcessRestart};

/// A new process must live this long under one pid before it counts: what fails at once (a port in use, a missing
/// file) fails within it.
const STABLE_FOR: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);
/// From SIGKILL to the end: the kernel's own work, unless the process hangs in it.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// Until the pid file names the new process. Nobody tells how long a program may take to start; systemd's
/// DefaultTimeoutStartSec (90 s) is what the field is used to.
const START_ALLOWANCE: Duration = Duration::from_secs(90);

pub struct ProcessRestarter {
    clock: Arc<dyn Clock>,
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
    Alive(Box<Alive>),
}

struct Alive {
    pid: i32,
    start_time: u64,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    directory: PathBuf,
    leads_its_group: bool,
    /// Soft and hard limit of open descriptors.
    descriptors: Option<(u64, u64)>,
}

impl Alive {
    fn incarnation(&self) -> Incarnation {
        Incarnation(format!("{}@{}", self.pid, self.start_time))
    }
}

impl ProcessRestarter {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
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

fn descriptor_limits(pid: i32) -> Option<(u64, u64)> {
    let limit = Process::new(pid).ok()?.limits().ok()?.max_open_files;
    let number = |value| match value {
        LimitValue::Value(number) => number,
        LimitValue::Unlimited => libc::RLIM_INFINITY,
    };
    Some((number(limit.soft_limit), number(limit.hard_limit)))
}

fn find(spec: &ProcessRestart) -> Result<Found, RestartError> {
    let refused = |detail: String| RestartError::Refused { service: service(spec), detail };
    let unreadable =
        |error: io::Error| RestartError::Unreachable { service: service(spec), detail: format!("reading it: {error}") };
    // O_NONBLOCK: opening a fifo must not hang.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(&spec.pid_file);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::NoFile),
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(refused("the pid file is no regular file".into()));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(refused("anyone may write the pid file; `chmod o-w` it".into()));
    }
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).map_err(unreadable)?;
    let pid: i32 = match text.trim() {
        // Some programs create it first and fill it in later.
        "" => return Ok(Found::Dead),
        digits => digits.parse().map_err(|_| refused("the pid file holds no pid".into()))?,
    };
    if pid <= 1 || pid == std::process::id() as i32 {
        return Err(refused(format!("the pid file names pid {pid}, which is no service's")));
    }
    let Some(start_time) = start_time(pid).map_err(unreadable)? else {
        return Ok(Found::Dead);
    };
    let Ok(status) = Process::new(pid).and_then(|process| Ok((process.status()?, process.stat()?.pgrp))) else {
        return Ok(Found::Dead);
    };
    let (status, group) = status;
    let owner = metadata.uid();
    if owner != 0 && owner != Uid::effective().as_raw() && owner != status.ruid {
        return Err(refused(format!(
            "the pid file belongs to uid {owner} but names pid {pid} of uid {}; whoever may write it could aim us at \
             any process",
            status.ruid
        )));
    }
    let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).ok().filter(|directory| directory.is_dir());
    Ok(Found::Alive(Box::new(Alive {
        pid,
        start_time,
        uid: status.ruid,
        gid: status.rgid,
        groups: status.groups,
        directory: directory.unwrap_or_else(|| "/".into()),
        leads_its_group: group == pid,
        descriptors: descriptor_limits(pid),
    })))
}

/// Ends the process; true once it has ended.
async fn end(old: &Alive, stop_timeout: Duration) -> io::Result<bool> {
    let Some(held) = Held::hold(old.pid, old.start_time)? else {
        return Ok(true);
    };
    held.signal(libc::SIGTERM)?;
    if held.ended_within(stop_timeout).await {
        return Ok(true);
    }
    // Workers that their killed leader leaves behind would hold on to its port.
    let workers = if old.leads_its_group { pidfd::group_of(old.pid) } else { Vec::new() };
    // Its group's number is its own for as long as it has not ended; had it ended, those may be somebody else's.
    if start_time(old.pid)? != Some(old.start_time) {
        return Ok(true);
    }
    held.signal(libc::SIGKILL)?;
    for worker in &workers {
        worker.signal(libc::SIGKILL)?;
    }
    Ok(held.ended_within(KILL_DEADLINE).await)
}

/// Starts argv in a session of its own as the old one's user; the receiver is told how the started process ended
/// (one that puts itself into the background ends at once).
fn start(spec: &ProcessRestart, old: &Alive) -> io::Result<oneshot::Receiver<ExitStatus>> {
    let mut command = Command::new(&spec.argv[0]);
    command.args(&spec.argv[1..]).current_dir(&old.directory).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(false);
    for name in ["PATH", "LANG", "LC_ALL", "TZ"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let user = (Uid::effective().is_root()).then(|| {
        let groups: Vec<libc::gid_t> = old.groups.clone();
        (Uid::from_raw(old.uid), Gid::from_raw(old.gid), groups)
    });
    let descriptors = old.descriptors;
    let detach = move || {
        // A session of its own: no terminal's hang-up and no signal to our group reaches it.
        nix::unistd::setsid()?;
        if let Some((soft, hard)) = descriptors {
            // The agent's own limit is often lower, and would bring a leak nearer to its end. Not to be able to raise
            // it (we are not root) is no reason to leave the service down.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
        if let Some((uid, gid, groups)) = &user {
            // SAFETY: setgroups(2) reads `len` gids from a vector that lives until the exec.
            if unsafe { libc::setgroups(groups.len(), groups.as_ptr()) } != 0 {
                return Err(io::Error::last_os_error());
            }
            nix::unistd::setresgid(*gid, *gid, *gid)?;
            nix::unistd::setresuid(*uid, *uid, *uid)?;
        }
        // Descriptors of ours that some library opened without close-on-exec.
        // SAFETY: close_range(2) with CLOEXEC only marks descriptors; the exec closes them. ENOSYS before Linux 5.11.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made; nothing is allocated and no lock is taken.
    unsafe { command.pre_exec(detach) };
    let mut child = command.spawn()?;
    let (tell, told) = oneshot::channel();
    // Somebody must wait for it, or it stays a zombie whose pid file looks alive.
    tokio::spawn(async move {
        if let Ok(status) = child.wait().await {
            let _ = tell.send(status);
        }
    });
    Ok(told)
}

/// Waits until the pid file names another lifetime, the same one for `STABLE_FOR`.
async fn appear(
    spec: &ProcessRestart,
    old: &Incarnation,
    mut started: oneshot::Receiver<ExitStatus>,
    until: Instant,
) -> Result<Incarnation, String> {
    let mut seen: Option<(Incarnation, Instant)> = None;
    let mut ended = None;
    loop {
        if ended.is_none() {
            ended = started.try_recv().ok();
        }
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
        if let (None, Some(status)) = (&new, ended)
            && !status.success()
        {
            return Err(format!("`{}` was started and ended: {status}", spec.argv[0]));
        }
        if Instant::now() >= until {
            let pid_file = spec.pid_file.display();
            return Err(match new {
                Some(new) => format!("the new process {new} has not lasted {STABLE_FOR:?} at the deadline"),
                None => format!("`{}` was started, but {pid_file} named no new process in time", spec.argv[0]),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

#[async_trait]
impl Restarter for ProcessRestarter {
    async fn observe(&self, target: &plan::Restart) -> Result<Liveness, RestartError> {
        Ok(match find(spec(target)?)? {
            Found::NoFile => Liveness { state: RunState::Inactive, incarnation: None, main_pid: None, up_for: None },
            // Who stops on purpose takes the pid file away.
            Found::Dead => Liveness { state: RunState::Failed, incarnation: None, main_pid: None, up_for: None },
            Found::Alive(alive) => {
                // Both count from boot, suspend included (fs/proc/array.c: start_boottime).
                let millis = alive.start_time.saturating_mul(1_000) / procfs::ticks_per_second();
                Liveness {
                    state: RunState::Active,
                    incarnation: Some(alive.incarnation()),
                    main_pid: Some(alive.pid as u32),
                    up_for: Some(self.clock.monotonic().saturating_sub(Duration::from_millis(millis))),
                }
            }
        })
    }

    async fn restart(&self, target: &plan::Restart, deadline: Duration) -> Result<Restarted, RestartError> {
        let until = Instant::now() + deadline;
        let spec = spec(target)?;
        let refused = |detail: String| RestartError::Refused { service: service(spec), detail };
        let old = match find(spec)? {
            Found::Alive(old) => old,
            Found::NoFile => return Err(refused("it does not run (no pid file); it is not ours to start".into())),
            Found::Dead => return Err(refused("it does not run (its pid is gone); it is not ours to start".into())),
        };
        // Known before anything is ended, as far as it can be.
        match spec.argv.first() {
            Some(program) if program.starts_with('/') => nix::unistd::access(program.as_str(), AccessFlags::X_OK)
                .map_err(|error| refused(format!("`{program}` could not be started again: {error}")))?,
            _ => return Err(refused("argv must begin with an absolute path".into())),
        }
        match end(&old, spec.stop_timeout.min(deadline)).await {
            Ok(true) => {}
            Ok(false) => {
                let detail = format!("pid {} has not ended {KILL_DEADLINE:?} after SIGKILL", old.pid);
                return Err(RestartError::Unreachable { service: service(spec), detail });
            }
            Err(error) => return Err(refused(format!("pid {} cannot be signalled: {error}", old.pid))),
        }
        // Whatever is left of the deadline: what has been ended is started again.
        let failed = |detail: String| RestartError::Failed { service: service(spec), detail };
        let started =
            start(spec, &old).map_err(|error| failed(format!("`{}` could not be started: {error}", spec.argv[0])))?;
        let until = until.max(Instant::now() + STABLE_FOR * 2);
        appear(spec, &old.incarnation(), started, until).await.map(Restarted::Anew).map_err(failed)
    }

    async fn no_reload(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        let lacks = || "nothing says how it is reloaded: add `reload_signal` to its `restart: { process: … }`".into();
        Ok(spec(target)?.reload_signal.is_none().then(lacks))
    }

    /// A signal says nothing of its end: what is proven is that the process lives on, for STABLE_FOR.
    async fn reload(&self, target: &plan::Restart, _deadline: Duration) -> Result<(), RestartError> {
        let spec = spec(target)?;
        let refused = |detail: String| RestartError::Refused { service: service(spec), detail };
        let Some(signal) = spec.reload_signal else {
            return Err(refused(self.no_reload(target).await?.unwrap_or_default()));
        };
        let Found::Alive(old) = find(spec)? else { return Err(refused("it does not run".into())) };
        let held = Held::hold(old.pid, old.start_time).and_then(|held| {
            if let Some(held) = &held {
                held.signal(pidfd::number(signal))?;
            }
            Ok(held)
        });
        match held {
            Err(error) => Err(refused(format!("pid {} cannot be signalled: {error}", old.pid))),
            Ok(Some(held)) if !held.ended_within(STABLE_FOR).await => Ok(()),
            Ok(_) => {
                let detail = format!("pid {} ended of SIG{signal}", old.pid);
                Err(RestartError::NotReloaded { service: service(spec), detail })
            }
        }
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
