//! Single processes by /proc: the sockets among their descriptors, and the distance to the descriptor limit.
//!
//! It is handed pids by a cgroup, a pid file, a parent, or the walk in `holders`. A process is held by
//! an open descriptor of its /proc directory for as long as it is looked at: once it has ended, every read through
//! it fails (ESRCH), also where its pid has been given to another. So no fact of one process is ever taken for
//! another's. Called by the attributor.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat};

use crate::clock::Clock;

use super::membership::Membership;
use super::numbers::Numbers;

/// The whole of a file of the kernel's, which says that it has no size: with room from the beginning, one read instead
/// of one for each doubling.
fn read_at_once(mut file: File) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(4096); // `limits` has 1.3 KB
    file.read_to_end(&mut bytes)?;
    // A process may name itself in any bytes.
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Where processes are found: /proc, or a test's own.
#[derive(Clone, Debug)]
pub(super) struct ProcRoot(pub PathBuf);

/// The budget of a look; descriptors beyond it are reported as unread.
pub(super) struct Budget<'a> {
    pub processes: usize,
    pub descriptors: usize,
    /// A moment of the clock's monotonic time.
    pub until: Option<(&'a dyn Clock, Duration)>,
}

impl Budget<'_> {
    /// One attribution: some 0.1 to 0.2 s at the very worst, at about 0.5 µs a descriptor.
    pub fn of_a_tick() -> Self {
        Self { processes: 4096, descriptors: 256 * 1024, until: None }
    }

    /// One search through all processes, by their names: some 10 µs each, so 0.6 s at the very worst.
    pub fn of_a_slow_search() -> Self {
        Self { processes: 64 * 1024, ..Self::of_a_tick() }
    }

    pub fn spend_process(&mut self) -> bool {
        let left = self.processes > 0 && self.until.is_none_or(|(clock, until)| clock.monotonic() < until);
        self.processes = self.processes.saturating_sub(1);
        left
    }

    /// Some process or descriptor may have been left out.
    pub fn is_spent(&self) -> bool {
        self.processes == 0 || self.descriptors == 0
    }

    pub fn spend_descriptor(&mut self) -> bool {
        // The clock is asked every 256 descriptors, some 0.1 ms.
        let late = || self.until.is_some_and(|(clock, until)| clock.monotonic() >= until);
        let left = self.descriptors > 0 && !(self.descriptors.is_multiple_of(256) && late());
        self.descriptors = self.descriptors.saturating_sub(1);
        left
    }
}

/// Why a process could not be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unseen {
    /// The process has ended, which loses nothing: its sockets are closed, or another process holds them.
    Ended,
    /// Another user's, or beyond the budget: what it holds is not known.
    Hidden,
}

impl From<Errno> for Unseen {
    fn from(errno: Errno) -> Self {
        if matches!(errno, Errno::ESRCH | Errno::ENOENT) { Self::Ended } else { Self::Hidden }
    }
}

/// The inode number of the host's own pid namespace (PID_NS_INIT_INO, include/uapi/linux/nsfs.h).
const HOSTS_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

impl ProcRoot {
    /// Is our pid namespace the host's own? Of another one, /proc lists its own processes alone.
    pub(super) fn is_the_hosts(&self) -> bool {
        let namespace = std::fs::metadata(self.0.join("self/ns/pid"));
        namespace.is_ok_and(|found| found.ino() == HOSTS_PID_NAMESPACE)
    }

    /// All pids that are listed.
    pub(super) fn pids(&self) -> Result<Numbers, Unseen> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Numbers::of(nix::fcntl::open(&self.0, flags, Mode::empty())?))
    }

    /// Visits every process that is listed. False where some could not be looked at.
    pub(super) fn all(&self, budget: &mut Budget, visit: &mut impl FnMut(&Process, &mut Budget)) -> bool {
        let Ok(mut pids) = self.pids() else { return false };
        let mut complete = true;
        loop {
            let pid = match pids.next() {
                Ok(Some(pid)) => pid,
                end => return complete && end.is_ok(),
            };
            if !budget.spend_process() {
                return false;
            }
            match self.open(pid) {
                Ok(process) => visit(&process, budget),
                Err(unseen) => complete &= unseen == Unseen::Ended,
            }
        }
    }

    pub(super) fn open(&self, pid: u32) -> Result<Process, Unseen> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(&self.0.join(pid.to_string()), flags, Mode::empty())?;
        Ok(Process { pid, dir })
    }

    /// Opens a process again that was seen before; `Ended` where the pid has gone to another since.
    pub(super) fn reopen(&self, seen: ProcessKey) -> Result<Process, Unseen> {
        let process = self.open(seen.pid)?;
        if process.started()? == seen.started { Ok(process) } else { Err(Unseen::Ended) }
    }

    /// Visits the processes of one cgroup directory, without those below it. The pids are read again once the
    /// processes are held: one that is no longer listed may be a stranger under a recycled pid. Those that `visited`
    /// names are left out, and who is visited is added to it. False where some could not be looked at.
    pub(super) fn members(
        &self,
        cgroup: &Path,
        visited: &mut HashSet<u32>,
        budget: &mut Budget,
        visit: &mut impl FnMut(&Process, &mut Budget),
    ) -> bool {
        let list = || {
            let text = read_at_once(File::open(cgroup.join("cgroup.procs")).ok()?).ok()?;
            Some(text.lines().filter_map(|line| line.parse::<u32>().ok()).collect::<Vec<u32>>())
        };
        let mut ahead = || Some(list()?.into_iter().filter(|pid| !visited.contains(pid)).collect());
        let mut found = Vec::new();
        let complete = self.listed(&mut ahead, budget, &mut |process, budget| {
            found.push(process.pid);
            visit(process, budget);
        });
        visited.extend(found);
        complete
    }

    /// The same of what `list` names, which is asked again for every few processes.
    fn listed(
        &self,
        list: &mut impl FnMut() -> Option<Vec<u32>>,
        budget: &mut Budget,
        visit: &mut impl FnMut(&Process, &mut Budget),
    ) -> bool {
        const AT_ONCE: usize = 64; // each one held is a descriptor of our own
        let Some(pids) = list() else { return false };
        let mut complete = true;
        // 0 stands for a process that our pid namespace does not see.
        let seen: Vec<u32> = pids.iter().copied().filter(|pid| *pid != 0).collect();
        complete &= seen.len() == pids.len();
        for pids in seen.chunks(AT_ONCE) {
            let mut held = Vec::with_capacity(pids.len());
            for &pid in pids {
                if !budget.spend_process() {
                    return false;
                }
                match self.open(pid) {
                    Ok(process) => held.push(process),
                    Err(unseen) => complete &= unseen == Unseen::Ended,
                }
            }
            let Some(still) = list() else { return false };
            let still: HashSet<u32> = still.into_iter().collect();
            held.iter().filter(|process| still.contains(&process.pid)).for_each(|process| visit(process, budget));
        }
        complete
    }

    /// Visits a process and all that descend from it, by `task/*/children`. A child's parent is read again once
    /// the child is held, for the same reason. False where some could not be looked at.
    pub(super) fn family(
        &self,
        head: &Process,
        generations: usize,
        budget: &mut Budget,
        visit: &mut impl FnMut(&Process, &mut Budget),
    ) -> bool {
        visit(head, budget);
        let mut complete = true;
        let children = head.children();
        complete &= !matches!(children, Err(Unseen::Hidden));
        for pid in children.unwrap_or_default() {
            if generations == 0 || !budget.spend_process() {
                return false;
            }
            match self.open(pid).and_then(|child| Ok((child.parent()? == head.pid).then_some(child))) {
                Ok(Some(child)) => complete &= self.family(&child, generations - 1, budget, visit),
                Ok(None) | Err(Unseen::Ended) => {}
                Err(Unseen::Hidden) => complete = false,
            }
        }
        complete
    }
}

/// A process by its pid and when it began (time since boot): together they are never another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessKey {
    pub pid: u32,
    pub started: Duration,
}

/// One process, held.
#[derive(Debug)]
pub(super) struct Process {
    pub pid: u32,
    dir: OwnedFd,
}

impl Process {
    fn read(&self, file: &str) -> Result<String, Unseen> {
        let fd = openat(&self.dir, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        read_at_once(fd.into())
            .map_err(|error| Unseen::from(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))))
    }

    fn directory(&self, name: &str) -> Result<OwnedFd, Unseen> {
        Ok(openat(&self.dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    /// A field of `stat` by its number in proc(5); those behind the command's name alone.
    fn stat_field<T: std::str::FromStr>(&self, number: usize) -> Result<T, Unseen> {
        let stat = self.read("stat")?;
        // The name (field 2) may hold blanks and parentheses: fields are counted from its last parenthesis.
        let behind = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        behind.split_ascii_whitespace().nth(number - 3).and_then(|word| word.parse().ok()).ok_or(Unseen::Hidden)
    }

    /// The user of the process; root where the process may not be dumped (proc(5)).
    pub fn owner(&self) -> Result<nix::unistd::Uid, Unseen> {
        Ok(nix::unistd::Uid::from_raw(fstat(&self.dir)?.st_uid))
    }

    /// Ended, and its parent has not asked yet how: it is listed as before, and does nothing any more.
    pub fn is_zombie(&self) -> Result<bool, Unseen> {
        Ok(matches!(self.stat_field(3)?, 'Z' | 'X' | 'x'))
    }

    /// A thread of the kernel's own.
    pub fn is_the_kernels(&self) -> Result<bool, Unseen> {
        const PF_KTHREAD: u64 = 0x0020_0000; // include/linux/sched.h
        Ok(self.stat_field::<u64>(9)? & PF_KTHREAD != 0)
    }

    pub fn parent(&self) -> Result<u32, Unseen> {
        self.stat_field(4)
    }

    /// When it began, in time since boot.
    pub fn started(&self) -> Result<Duration, Unseen> {
        Ok(Duration::from_secs_f64(self.began()? as f64 / procfs::ticks_per_second() as f64))
    }

    /// The same as the kernel tells it, in clock ticks.
    pub fn began(&self) -> Result<u64, Unseen> {
        self.stat_field(22)
    }

    /// The process' path in the cgroup v2 tree.
    pub fn cgroup(&self) -> Result<String, Unseen> {
        let text = self.read("cgroup")?;
        text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned).ok_or(Unseen::Hidden)
    }

    /// The process' cgroup paths in all hierarchies.
    pub fn membership(&self) -> Result<Membership, Unseen> {
        Ok(Membership::parse(&self.cgroups()?))
    }

    /// The same as the kernel writes them, a line each.
    pub fn cgroups(&self) -> Result<String, Unseen> {
        self.read("cgroup")
    }

    /// The kernel's name of the process (`comm`), at most 15 bytes.
    pub fn comm(&self) -> Result<String, Unseen> {
        Ok(self.read("comm")?.trim_end_matches('\n').to_owned())
    }

    /// The command line; empty for a kernel thread.
    pub fn argv(&self) -> Result<Vec<String>, Unseen> {
        Ok(self.read("cmdline")?.trim_end_matches('\0').split('\0').map(str::to_owned).collect())
    }

    pub fn seen(&self) -> Result<ProcessKey, Unseen> {
        Ok(ProcessKey { pid: self.pid, started: self.started()? })
    }

    /// Is this what it is called: its `comm`, or the last component of its executable's path? The executable of
    /// another user's process is not readable; then its first argument stands for it.
    pub fn is_called(&self, name: &str) -> Result<bool, Unseen> {
        if self.comm()? == name {
            return Ok(true);
        }
        let last = |path: &Path| match name.contains('/') {
            true => path == Path::new(name),
            false => path.file_name().is_some_and(|file| file == name),
        };
        match readlinkat(&self.dir, "exe").map_err(Unseen::from) {
            Ok(path) => Ok(last(Path::new(&path))),
            Err(Unseen::Ended) => Ok(false), // a kernel thread has none either
            Err(Unseen::Hidden) => Ok(self.read("cmdline")?.split('\0').next().is_some_and(|arg| last(Path::new(arg)))),
        }
    }

    pub fn children(&self) -> Result<Vec<u32>, Unseen> {
        let mut pids = Vec::new();
        let mut tasks = nix::dir::Dir::from_fd(self.directory("task")?)?;
        for task in tasks.iter().flatten() {
            let Some(tid) = task.file_name().to_str().ok().filter(|name| !name.starts_with('.')) else { continue };
            if let Ok(text) = self.read(&format!("task/{tid}/children")) {
                pids.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        Ok(pids)
    }

    /// Of a process whose main thread has exited, another thread's: its own is empty by then.
    pub fn descriptor_directory(&self) -> Result<OwnedFd, Unseen> {
        let own = self.directory("fd")?;
        // The count of descriptors since Linux 6.2; 0 before.
        if fstat(&own)?.st_size > 0 || !self.is_zombie()? {
            return Ok(own);
        }
        let mut tasks = nix::dir::Dir::from_fd(self.directory("task")?)?;
        let alive = |tid: &str| match self.read(&format!("task/{tid}/stat")) {
            Ok(stat) => !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X'])),
            Err(_) => false,
        };
        let names = tasks.iter().flatten().filter_map(|task| task.file_name().to_str().ok().map(str::to_owned));
        match names.filter(|name| !name.starts_with('.')).find(|tid| alive(tid)) {
            Some(tid) => self.directory(&format!("task/{tid}/fd")),
            None => Ok(own),
        }
    }

    /// Hands the inode of every socket that stands in the registered files of its io_urings to `visit`: they need no
    /// descriptor (io_uring_register(2), IORING_REGISTER_FILES).
    pub fn registered(&self, visit: &mut impl FnMut(u64)) -> Result<(), Unseen> {
        let directory = self.descriptor_directory()?;
        let mut entries =
            nix::dir::Dir::from_fd(openat(&directory, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?)?;
        for entry in entries.iter().flatten() {
            let is_ring = readlinkat(&directory, entry.file_name()).is_ok_and(|to| to == "anon_inode:[io_uring]");
            let Some(number) = entry.file_name().to_str().ok().filter(|_| is_ring) else { continue };
            match self.read(&format!("fdinfo/{number}")) {
                Ok(info) => info.lines().filter_map(registered_socket).for_each(&mut *visit),
                Err(Unseen::Ended) => {}
                Err(Unseen::Hidden) => return Err(Unseen::Hidden),
            }
        }
        Ok(())
    }

    /// The open descriptors, to be read one after another.
    pub fn descriptors(&self) -> Result<Numbers, Unseen> {
        Ok(Numbers::of(self.descriptor_directory()?))
    }

    /// Hands the inode of every socket among its descriptors to `visit`.
    pub fn sockets(&self, budget: &mut Budget, mut visit: impl FnMut(u64)) -> Result<(), Unseen> {
        let mut descriptors = self.descriptors()?;
        while let Some((_, inode)) = descriptors.next_descriptor()? {
            if !budget.spend_descriptor() {
                return Err(Unseen::Hidden);
            }
            inode.into_iter().for_each(&mut visit);
        }
        Ok(())
    }

    /// How many descriptors are open: the size of its `fd` directory since Linux 6.2, for anyone; their count
    /// before, for its own user.
    pub fn open_descriptors(&self) -> Result<u64, Unseen> {
        let directory = openat(&self.dir, "fd", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        match u64::try_from(fstat(&directory)?.st_size) {
            Ok(size @ 1..) => Ok(size),
            _ => {
                let mut entries = nix::dir::Dir::from_fd(self.directory("fd")?)?;
                Ok(entries.iter().flatten().filter(|e| !e.file_name().to_bytes().starts_with(b".")).count() as u64)
            }
        }
    }

    /// The soft limit of open descriptors; `None` where there is no limit.
    pub fn descriptor_limit(&self) -> Result<Option<u64>, Unseen> {
        let limits = self.read("limits")?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).ok_or(Unseen::Hidden)?;
        match line.split_ascii_whitespace().next() {
            Some("unlimited") => Ok(None),
            Some(soft) => soft.parse().map(Some).map_err(|_| Unseen::Hidden),
            None => Err(Unseen::Hidden),
        }
    }
}

/// A line of an io_uring's `fdinfo`, below `UserFiles`: `    3: socket:[4711]`.
fn registered_socket(line: &str) -> Option<u64> {
    let (number, to) = line.trim_start().split_once(": ")?;
    number.parse::<u32>().ok()?;
    to.trim().strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
#[path = "processes_tests.rs"]
mod tests;
