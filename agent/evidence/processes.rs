//! The processes that hold leaked sockets, as /proc tells (proc(5)): command line, state, limits, descriptors by kind,
//! and where each thread waits. Environment values are never read.
//!
//! A process may go, or be replaced by another of the same number, while it is read: everything is read through
//! one open /proc/PID, which is of one process only, and its start time is kept with it.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use procfs::ProcError;
use procfs::process::{FDTarget, LimitValue, Process};
use serde::{Deserialize, Serialize};

use super::redact;

/// Descriptors that are looked at, of one process: 65,536 readlinks are some 0.2 s.
const DESCRIPTORS: usize = 65_536;
/// Threads that are shown, of one process.
const THREADS: usize = 64;
/// Of a command line: Linux sets it no small bound.
const COMMAND_BYTES: u64 = 16 * 1024;

/// One line of `processes.jsonl`. What is absent could not be read; `unreadable` says why.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Facts {
    pub pid: u32,
    /// Leaked sockets that it holds, as the caller counted them.
    pub leaked: usize,
    pub ppid: Option<i32>,
    /// Seconds since boot.
    pub started_after_boot_seconds: Option<u64>,
    /// For how long it had been running when it was read.
    #[serde(default)]
    pub running_seconds: Option<u64>,
    /// Redacted.
    pub command_line: Option<Vec<String>>,
    pub exe: Option<String>,
    pub status: Option<Status>,
    pub open_files: Option<OpenFiles>,
    pub descriptors: Option<BTreeMap<String, usize>>,
    /// Not all descriptors were looked at: there are more than the bound.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub descriptors_cut: bool,
    pub threads: Vec<Thread>,
    /// Threads that are not shown.
    pub more_threads: usize,
    pub unreadable: Vec<String>,
    /// Inodes of its sockets; for the join with the service's own, not for the file.
    #[serde(skip)]
    pub sockets: Vec<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    pub state: String,
    pub uid: u32,
    pub gid: u32,
    pub threads: u64,
    pub resident_bytes: Option<u64>,
    pub voluntary_switches: Option<u64>,
    pub involuntary_switches: Option<u64>,
}

/// RLIMIT_NOFILE; `None` is unlimited.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenFiles {
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Thread {
    pub tid: i32,
    pub name: Option<String>,
    /// One letter, as in proc(5).
    pub state: Option<char>,
    /// The kernel function it sleeps in; `0` where it runs or where we may not know.
    pub wchan: Option<String>,
}

/// Reads one process. Blocks, and may block for long: /proc/PID/cmdline waits for the process's memory map.
pub(super) fn read(pid: u32, leaked: usize) -> Facts {
    let mut facts = Facts { pid, leaked, ..Facts::default() };
    let process = match i32::try_from(pid).map_err(|_| ProcError::NotFound(None)).and_then(Process::new) {
        Ok(process) => process,
        Err(error) => {
            facts.unreadable.push(format!("/proc/{pid}: {}", words(&error)));
            return facts;
        }
    };
    let mut unreadable = Vec::new();
    let mut note = |what: &str, error: ProcError| unreadable.push(format!("{what}: {}", words(&error)));

    // Descriptors first: of all this they change soonest.
    match descriptors(&process) {
        Ok(seen) => {
            facts.descriptors = Some(seen.by_kind);
            facts.descriptors_cut = seen.cut;
            facts.sockets = seen.sockets;
        }
        Err(error) => note("fd", error),
    }
    match process.stat() {
        Ok(stat) => {
            facts.ppid = Some(stat.ppid);
            let started = stat.starttime / procfs::ticks_per_second();
            facts.started_after_boot_seconds = Some(started);
            facts.running_seconds = running(started);
        }
        Err(error) => note("stat", error),
    }
    match command_line(&process) {
        Ok(arguments) => facts.command_line = Some(redact::argv(&arguments)),
        Err(error) => note("cmdline", error),
    }
    match process.exe() {
        Ok(exe) => facts.exe = Some(exe.to_string_lossy().into_owned()),
        Err(error) => note("exe", error),
    }
    match process.status() {
        Ok(status) => {
            facts.status = Some(Status {
                name: redact::text(&status.name),
                state: status.state,
                uid: status.ruid,
                gid: status.rgid,
                threads: status.threads,
                resident_bytes: status.vmrss.map(|kib| kib * 1024),
                voluntary_switches: status.voluntary_ctxt_switches,
                involuntary_switches: status.nonvoluntary_ctxt_switches,
            });
        }
        Err(error) => note("status", error),
    }
    match process.limits() {
        Ok(limits) => {
            let value = |limit: LimitValue| match limit {
                LimitValue::Unlimited => None,
                LimitValue::Value(value) => Some(value),
            };
            let limit = limits.max_open_files;
            facts.open_files = Some(OpenFiles { soft: value(limit.soft_limit), hard: value(limit.hard_limit) });
        }
        Err(error) => note("limits", error),
    }
    match process.tasks() {
        Ok(tasks) => {
            for task in tasks.flatten() {
                if facts.threads.len() == THREADS {
                    facts.more_threads += 1;
                    continue;
                }
                let stat = task.stat().ok();
                facts.threads.push(Thread {
                    tid: task.tid,
                    state: stat.as_ref().map(|stat| stat.state),
                    name: stat.map(|stat| redact::text(&stat.comm)),
                    wchan: wchan(&process, task.tid),
                });
            }
        }
        Err(error) => note("task", error),
    }
    facts.unreadable = unreadable;
    facts
}

/// Since it began, `started` seconds after boot.
fn running(started: u64) -> Option<u64> {
    let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok()?;
    u64::try_from(boot.tv_sec()).ok()?.checked_sub(started)
}

struct Descriptors {
    by_kind: BTreeMap<String, usize>,
    sockets: Vec<u64>,
    cut: bool,
}

fn descriptors(process: &Process) -> Result<Descriptors, ProcError> {
    let mut seen = Descriptors { by_kind: BTreeMap::new(), sockets: Vec::new(), cut: false };
    // One that was closed meanwhile is no error.
    for (index, descriptor) in process.fd()?.flatten().enumerate() {
        if index == DESCRIPTORS {
            seen.cut = true;
            break;
        }
        let kind = match descriptor.target {
            FDTarget::Socket(inode) => {
                seen.sockets.push(inode);
                "socket"
            }
            FDTarget::Pipe(_) => "pipe",
            FDTarget::Path(path) if path.starts_with("/dev") => "device",
            FDTarget::Path(_) => "file",
            FDTarget::AnonInode(_) => "anon_inode",
            FDTarget::MemFD(_) => "memfd",
            FDTarget::Net(_) => "namespace",
            FDTarget::Other(..) | FDTarget::Unknown(..) => "other",
        };
        *seen.by_kind.entry(kind.into()).or_default() += 1;
    }
    Ok(seen)
}

/// In bytes: an argument need not be UTF-8. A process may have written one text over it all (`php-fpm: pool www`).
fn command_line(process: &Process) -> Result<Vec<String>, ProcError> {
    let mut bytes = Vec::new();
    process
        .open_relative("cmdline")?
        .take(COMMAND_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| ProcError::Io(error, None))?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(bytes.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect())
}

fn wchan(process: &Process, tid: i32) -> Option<String> {
    let mut text = String::new();
    process.open_relative(format!("task/{tid}/wchan")).ok()?.take(256).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Without the path that the caller's message has already.
fn words(error: &ProcError) -> String {
    match error {
        ProcError::NotFound(_) => "it is gone".into(),
        ProcError::PermissionDenied(_) => "not permitted; grant CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH".into(),
        other => other.to_string(),
    }
}

/// Inode of a socket to the processes that hold it, of those that were read.
pub(super) fn holders_by_inode(facts: &[Facts]) -> HashMap<u64, Vec<u32>> {
    let mut holders: HashMap<u64, Vec<u32>> = HashMap::new();
    for process in facts {
        for inode in &process.sockets {
            let pids = holders.entry(*inode).or_default();
            // A duplicated descriptor names its socket twice.
            if pids.last() != Some(&process.pid) {
                pids.push(process.pid);
            }
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_read_in_full() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = {
            use std::os::fd::AsFd;
            nix::sys::stat::fstat(listener.as_fd()).unwrap().st_ino
        };
        let (_reader, _writer) = std::io::pipe().unwrap();
        let facts = read(std::process::id(), 3);
        assert_eq!(facts.unreadable, [] as [&str; 0]);
        assert_eq!((facts.pid, facts.leaked), (std::process::id(), 3));
        assert_eq!(facts.ppid, Some(nix::unistd::getppid().as_raw()));
        assert_eq!(facts.exe, std::env::current_exe().ok().map(|exe| exe.to_string_lossy().into_owned()));
        assert_eq!(facts.command_line.unwrap()[0], std::env::args().next().unwrap());
        assert!(facts.sockets.contains(&inode));
        let descriptors = facts.descriptors.unwrap();
        assert!(descriptors["socket"] >= 1 && descriptors["pipe"] >= 2, "{descriptors:?}");
        let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        let limits = facts.open_files.unwrap();
        let finite = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
        assert_eq!((finite(limits.soft), finite(limits.hard)), (soft, hard));
        assert!(facts.threads.iter().any(|thread| thread.tid == nix::unistd::gettid().as_raw()));
        assert!(facts.threads.iter().all(|thread| thread.wchan.is_some() && thread.state.is_some()));
    }

    #[test]
    fn a_process_that_is_gone_is_said_to_be_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let facts = read(child.id(), 1);
        assert_eq!(facts.unreadable, [format!("/proc/{}: it is gone", child.id())]);
    }

    #[test]
    fn a_secret_on_a_command_line_is_not_kept() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read x", "gate", "--token", "hunter2", "--port", "80"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Until exec has taken place, the command line is still ours.
        let facts = loop {
            let facts = read(child.id(), 1);
            if facts.command_line.as_ref().is_some_and(|line| line.first().is_some_and(|word| word == "sh")) {
                break facts;
            }
            std::thread::yield_now();
        };
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(
            facts.command_line.as_deref(),
            Some(["sh", "-c", "read x", "gate", "--token", "[redacted]", "--port", "80"].map(String::from).as_slice())
        );
        assert!(!serde_json::to_string(&facts).unwrap().contains("hunter2"));
    }
}
