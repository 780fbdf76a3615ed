//! From the test's side: starting the keeper that holds a lab (`keeper.sh`), hearing that it has booted, and letting the
//! keeper take the lab away.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::consul;
use super::installed::installed;

pub(super) const BOOT_WITHIN: Duration = Duration::from_secs(20);
const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// `kind` is what boots: `boot` or `bare`.
pub(super) fn start_keeper(kind: &str, dir: &Path, cgroup: &Path) -> Child {
    let mut keeper = Command::new("bash");
    keeper
        .arg(Path::new(SOURCE).join("tests/lab/keeper.sh"))
        .arg(kind)
        .args([dir, cgroup])
        .args(visible_directories())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // A session of its own: what ends the test by its process group must not end the keeper.
    // SAFETY: setsid is async-signal-safe.
    unsafe {
        keeper.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
    }
    keeper.spawn().expect("bash starts")
}

/// Lets the keeper take the lab away, and returns what it complained of.
pub(super) fn end_keeper(keeper: &mut Child) -> Result<(), String> {
    drop(keeper.stdin.take());
    let mut errors = String::new();
    let mut stderr = keeper.stderr.take().expect("the keeper's stderr is a pipe");
    let read = stderr.read_to_string(&mut errors);
    let status = keeper.wait().map_err(|error| error.to_string())?;
    match read {
        Ok(_) if status.success() && errors.is_empty() => Ok(()),
        _ => Err(format!("{status}: {errors}")),
    }
}

/// systemd says READY=1 in a datagram of its own, among others (sd_notify(3)).
pub(super) fn wait_for_ready(booted: &UnixDatagram) -> Result<(), String> {
    let start = Instant::now();
    let mut datagram = [0; 4096];
    loop {
        let left = BOOT_WITHIN.checked_sub(start.elapsed()).filter(|left| !left.is_zero());
        booted.set_read_timeout(Some(left.ok_or("not ready")?)).map_err(|error| error.to_string())?;
        let length = booted.recv(&mut datagram).map_err(|error| error.to_string())?;
        if datagram[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            return Ok(());
        }
    }
}

/// What a lab must see although the machine's /tmp and /var are hidden from it: this source tree, the
/// built programs and Consul.
fn visible_directories() -> Vec<PathBuf> {
    let test = std::env::current_exe().expect("the test knows its own path");
    let built = test.ancestors().nth(2).expect("a test lies in TARGET/PROFILE/deps").to_owned();
    vec![PathBuf::from(SOURCE), built, installed(consul::RELEASE)]
}

/// Where the cgroup v2 tree is mounted: /sys/fs/cgroup, or below it where v1 is used as well.
pub(super) fn cgroup2_mount() -> PathBuf {
    mounts_of("cgroup2").into_iter().next().expect("a cgroup2 file system is mounted")
}

/// Where every hierarchy of cgroups is mounted, of v1 and v2.
pub(super) fn cgroup_mounts() -> Vec<PathBuf> {
    [mounts_of("cgroup2"), mounts_of("cgroup")].concat()
}

fn mounts_of(wanted: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    mounts
        .lines()
        .filter_map(|line| {
            // proc(5): the fields before " - " end with optional ones; the file system's type follows it.
            let (mount, filesystem) = line.split_once(" - ")?;
            let of_type = filesystem.split(' ').next() == Some(wanted);
            of_type.then(|| PathBuf::from(mount.split(' ').nth(4).unwrap_or_default()))
        })
        .collect()
}
