//! What the machine allows: a network and cgroups of the bench's own, and so many sockets.

use std::net::{Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

use super::crowd::{HOLDERS, Size};
use super::holder::IPV6_IN;

const SLICE: &str = "unwait-bench.slice";
const KIB_A_SOCKET: usize = 5; // the socket, its file, its inode and its dentry; some 4.1 KiB were seen
const DESCRIPTORS_BESIDE: usize = 64; // of a holder: the listeners, the pipes, what the runtime has

/// What puts a process into a network of its own, and among processes of its own: a look sees every network namespace
/// that a process is in, and walks the table once for each.
const OWN_WORLD: [&str; 6] = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];

/// Runs the bench again in a world of its own, so that nobody else's sockets are among those that are counted, and
/// nobody else is bothered by these. The error says why this machine does not allow it.
pub fn run_in_own_world(role: &str, arguments: &[String]) -> anyhow::Result<ExitStatus> {
    let unshare = |argv: &[&str]| {
        Command::new("unshare").args(OWN_WORLD).args(argv).status().context("unshare (package util-linux)")
    };
    let tried = unshare(&["ip", "link", "set", "lo", "up"])?;
    ensure!(tried.success(), "unshare {}: {tried}", OWN_WORLD.join(" "));
    let own = std::env::current_exe().context("the bench's own file")?;
    let own = own.to_str().context("the bench's own file has no name in UTF-8")?;
    let argv: Vec<&str> = [own, role].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    unshare(&argv)
}

pub fn bring_up_the_loopback() -> anyhow::Result<()> {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip (package iproute2)")?;
    ensure!(up.success(), "ip link set lo up: {up}");
    Ok(())
}

/// Holds processes to one CPU, the last that they may run on, until it is dropped: what takes turns must take them on the
/// same one, since the CPUs of a machine do not all run at one speed.
#[derive(Debug)]
pub struct OnOneCpu {
    held: Vec<(Pid, CpuSet)>,
}

impl OnOneCpu {
    pub fn hold(processes: &[Pid]) -> anyhow::Result<Self> {
        let mut own = Self { held: Vec::new() };
        for &process in processes {
            let before = sched_getaffinity(process).context("sched_getaffinity")?;
            let last = (0..CpuSet::count()).rev().find(|cpu| before.is_set(*cpu) == Ok(true));
            let mut one = CpuSet::new();
            one.set(last.context("there is no CPU to run on")?).context("a CPU beyond what its set holds")?;
            sched_setaffinity(process, &one).context("sched_setaffinity")?;
            own.held.push((process, before));
        }
        Ok(own)
    }
}

impl Drop for OnOneCpu {
    fn drop(&mut self) {
        for (process, before) in &self.held {
            let _ = sched_setaffinity(*process, before);
        }
    }
}

pub fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// A cgroup for each holder, named as systemd names a unit's. They are removed when this is dropped; by then the
/// holders must have ended.
#[derive(Debug)]
pub struct OwnCgroups {
    slice: PathBuf,
}

impl OwnCgroups {
    /// The error says why this machine does not allow it.
    pub fn make() -> anyhow::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
        let mounted = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let cgroup2 = mounted.into_iter().find(|fields| fields.get(2) == Some(&"cgroup2"));
        let Some(mount) = cgroup2.and_then(|fields| fields.get(1).copied()) else { bail!("no cgroup2 is mounted") };
        let own = Self { slice: Path::new(mount).join(SLICE) };
        // What a bench that was killed has left.
        own.remove();
        ensure!(!own.slice.exists(), "{} is in use: is another bench running?", own.slice.display());
        for index in 0..HOLDERS {
            let directory = own.directory(index);
            std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        }
        Ok(own)
    }

    pub fn service(index: usize) -> String {
        format!("bench-{index:02}.service")
    }

    pub fn directory(&self, index: usize) -> PathBuf {
        self.slice.join(Self::service(index))
    }

    fn remove(&self) {
        for index in 0..HOLDERS {
            let _ = std::fs::remove_dir(self.directory(index));
        }
        let _ = std::fs::remove_dir(&self.slice);
    }
}

impl Drop for OwnCgroups {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Raises how many descriptors a holder may have, where the machine allows that. What is started with the bench's own,
/// lower limit is none the slower: `lsof` closes all that it could have.
pub fn raise_descriptors() {
    if let (Some(most), Ok((soft, _))) = (number_in("/proc/sys/fs/nr_open", 0), getrlimit(Resource::RLIMIT_NOFILE)) {
        // Refused without CAP_SYS_RESOURCE: then it is the limit that there is.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, most as u64);
    }
}

/// Why so many sockets are more than this machine allows, and how many it does allow. `held` are there already.
pub fn refusal(size: Size, held: usize) -> Option<String> {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard as usize);
    let [first, last] = [0, 1].map(|index| number_in("/proc/sys/net/ipv4/ip_local_port_range", index));
    let ports = last.unwrap_or(65_535).saturating_sub(first.unwrap_or(0));
    // Each holder has an address and port of its own to connect to, of each family.
    let connections_a_port = if has_ipv6() { (IPV6_IN, IPV6_IN - 1) } else { (1, 1) };
    let memory = memory_available_kib();
    let limits = [
        (
            HOLDERS * descriptors.saturating_sub(DESCRIPTORS_BESIDE),
            format!("a process may have {descriptors} descriptors (ulimit -Hn; CAP_SYS_RESOURCE raises it)"),
        ),
        (number_in("/proc/sys/fs/file-max", 0).unwrap_or(usize::MAX), "of fs.file-max".to_owned()),
        (
            2 * HOLDERS * ports * connections_a_port.0 / connections_a_port.1,
            format!("net.ipv4.ip_local_port_range has {ports} ports"),
        ),
        (held + memory / KIB_A_SOCKET, format!("{} MiB of memory are available", memory / 1024)),
    ];
    let (most, why) = limits.into_iter().min_by_key(|(most, _)| *most)?;
    (most < size.sockets).then(|| format!("this machine allows only {most} sockets, because {why}"))
}

fn memory_available_kib() -> usize {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(usize::MAX)
}

fn number_in(file: &str, index: usize) -> Option<usize> {
    std::fs::read_to_string(file).ok()?.split_whitespace().nth(index)?.parse().ok()
}
