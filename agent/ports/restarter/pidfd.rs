//! Processes held by pidfd (pidfd_open(2), Linux 5.3): a signal reaches the process that was meant, or none.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use procfs::process::{Process, Stat};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::clock::Clock;
use crate::command::carries_variable;
use crate::model::runbook::StopSignal;

/// From SIGKILL to the end: the kernel's own work, unless the process hangs in it.
pub(super) const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Start time and liveness in one read; a zombie has ended.
pub fn start_time(pid: i32) -> io::Result<Option<u64>> {
    match Process::new(pid).and_then(|process| process.stat()) {
        Ok(stat) if matches!(stat.state, 'Z' | 'X' | 'x') => Ok(None),
        Ok(stat) => Ok(Some(stat.starttime)),
        Err(procfs::ProcError::NotFound(_)) => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// How long a process has lived that began then. Both count from boot, suspend included (fs/proc/array.c:
/// start_boottime).
pub(super) fn age(began: u64, clock: &dyn Clock) -> Duration {
    let began = Duration::from_millis(began.saturating_mul(1_000) / procfs::ticks_per_second());
    clock.monotonic().saturating_sub(began)
}

/// The number of a signal.
pub fn number(signal: StopSignal) -> i32 {
    match signal {
        StopSignal::Term => libc::SIGTERM,
        StopSignal::Quit => libc::SIGQUIT,
        StopSignal::Int => libc::SIGINT,
        StopSignal::Hup => libc::SIGHUP,
        StopSignal::Usr1 => libc::SIGUSR1,
        StopSignal::Usr2 => libc::SIGUSR2,
    }
}

/// A process held by pidfd: a signal reaches that process or none.
#[derive(Debug)]
pub struct ProcessHandle {
    pid: i32,
    began: u64,
    fd: AsyncFd<OwnedFd>,
}

impl ProcessHandle {
    /// `None` where the process of that start time has ended.
    pub fn hold(pid: i32, began: u64) -> io::Result<Option<Self>> {
        // SAFETY: pidfd_open(2) takes a pid and flags, and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
        }
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // Compared after opening: from here on the descriptor and the start time mean the same process.
        if start_time(pid)? != Some(began) {
            return Ok(None);
        }
        // SAFETY: the descriptor is owned, and stays the same open one as long as the AsyncFd has it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)?;
        Ok(Some(Self { pid, began, fd }))
    }

    /// The same of a process that must still be the child of this one.
    pub fn hold_child(pid: i32, began: u64, parent: i32) -> io::Result<Option<Self>> {
        let held = Self::hold(pid, began)?;
        match Process::new(pid).and_then(|process| process.stat()) {
            // ProcessHandle, so what is read under its pid is its own.
            Ok(stat) if stat.starttime == began && stat.ppid == parent => Ok(held),
            Ok(_) | Err(procfs::ProcError::NotFound(_)) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Sending to what has ended is harmless.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let fd = self.fd.get_ref().as_raw_fd();
        let no_siginfo = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open, and a null siginfo is allowed: it means what kill(2) would send.
        if unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_siginfo, 0) } == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        }
    }

    /// A pidfd becomes readable when its process has ended.
    pub async fn ended_within(&self, patience: Duration) -> bool {
        tokio::time::timeout(patience, self.fd.readable()).await.is_ok_and(|ready| ready.is_ok())
    }

    /// Waits for the end of what has been asked to end, and after `patience` kills it with the group that it leads;
    /// true once it has ended.
    pub async fn end(&self, patience: Duration) -> io::Result<bool> {
        if self.ended_within(patience).await {
            return Ok(true);
        }
        // Workers that their killed leader leaves behind would hold on to its port.
        let workers = group_of(self.pid);
        // Its group's number is its own for as long as it has not ended; had it ended, those may be somebody else's.
        if start_time(self.pid)? != Some(self.began) {
            return Ok(true);
        }
        self.signal(libc::SIGKILL)?;
        for worker in &workers {
            worker.signal(libc::SIGKILL)?;
        }
        Ok(self.ended_within(KILL_DEADLINE).await)
    }
}

/// The other members of the process group that this process leads, each held. (Linux signals a whole group by pidfd only
/// since 6.9, and kill(2) on a group knows it by a number alone.)
fn group_of(leader: i32) -> Vec<ProcessHandle> {
    let leads = Process::new(leader).and_then(|process| process.stat()).is_ok_and(|stat| stat.pgrp == leader);
    if leads { all(|stat| stat.pgrp == leader && stat.pid != leader) } else { Vec::new() }
}

/// The members of the session that this process began, each held. It must not have been waited for: its number is the
/// session's own only for so long.
pub(super) fn session_of(leader: i32) -> Vec<ProcessHandle> {
    all(|stat| stat.session == leader)
}

/// The members of each session in which a process carries this variable (`NAME=value`), each held: not all need to carry
/// it, since a worker's environment may be another.
pub(super) fn sessions_with(variable: &str) -> Vec<ProcessHandle> {
    let carries = |stat: &Stat| carries_variable(stat.pid, variable);
    let sessions: BTreeSet<i32> = stats().filter(carries).map(|stat| stat.session).collect();
    all(|stat| sessions.contains(&stat.session))
}

/// Processes of this kind; what ends meanwhile is left out.
fn all(is_meant: impl Fn(&Stat) -> bool) -> Vec<ProcessHandle> {
    stats().filter(is_meant).filter_map(|stat| ProcessHandle::hold(stat.pid, stat.starttime).ok().flatten()).collect()
}

fn stats() -> impl Iterator<Item = Stat> {
    procfs::process::all_processes().into_iter().flatten().filter_map(|process| process.ok()?.stat().ok())
}
