//! Processes held by pidfd (pidfd_open(2), Linux 5.3): a signal reaches the process that was meant, or none.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use procfs::process::Process;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::model::runbook::StopSignal;

/// Start time and liveness in one read; a zombie has ended.
pub fn start_time(pid: i32) -> io::Result<Option<u64>> {
    match Process::new(pid).and_then(|process| process.stat()) {
        Ok(stat) if matches!(stat.state, 'Z' | 'X' | 'x') => Ok(None),
        Ok(stat) => Ok(Some(stat.starttime)),
        Err(procfs::ProcError::NotFound(_)) => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    }
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
pub struct Held(AsyncFd<OwnedFd>);

impl Held {
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
        Ok(Some(Self(fd)))
    }

    /// The same of a process that must still be the child of this one.
    pub fn hold_child(pid: i32, began: u64, parent: i32) -> io::Result<Option<Self>> {
        let held = Self::hold(pid, began)?;
        match Process::new(pid).and_then(|process| process.stat()) {
            // Held, so what is read under its pid is its own.
            Ok(stat) if stat.starttime == began && stat.ppid == parent => Ok(held),
            Ok(_) | Err(procfs::ProcError::NotFound(_)) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Sending to what has ended is harmless.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let fd = self.0.get_ref().as_raw_fd();
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
        tokio::time::timeout(patience, self.0.readable()).await.is_ok_and(|ready| ready.is_ok())
    }
}

/// The other members of this leader's process group, each held; what ends meanwhile is left out. (Linux signals a
/// whole group by pidfd only since 6.9, and kill(2) on a group knows it by a number alone.)
pub fn group_of(leader: i32) -> Vec<Held> {
    let Ok(processes) = procfs::process::all_processes() else {
        return Vec::new();
    };
    let stats = processes.filter_map(|process| process.ok()?.stat().ok());
    let members = stats.filter(|stat| stat.pgrp == leader && stat.pid != leader);
    members.filter_map(|stat| Held::hold(stat.pid, stat.starttime).ok().flatten()).collect()
}
