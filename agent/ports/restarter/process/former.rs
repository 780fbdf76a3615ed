//! What a process was, as far as its successor is to be the same: read before it is ended.
//!
//! All but the environment is journaled with the restart's intent, so that whoever finds the process ended can start it
//! as it was. The environment may hold secrets: it is kept in memory alone, and a next agent starts without it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use procfs::process::{LimitValue, Process};
use serde::{Deserialize, Serialize};

/// A process that was asked to end, as its successor is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Former {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub directory: PathBuf,
    /// Of 0o777.
    pub umask: u32,
    pub nice: i32,
    /// -1000 to 1000 (proc(5)).
    pub oom_score_adj: i16,
    /// Soft and hard limit of open descriptors. The agent's own is often lower, and would bring a leak nearer to its end.
    pub descriptors: Option<(u64, u64)>,
    /// The kernel's id of this boot: at the next one it is for others to start what is to run.
    pub boot: String,
}

impl Former {
    /// An error where the process has ended, or may not be looked at.
    pub fn read(pid: i32) -> io::Result<Self> {
        let process = Process::new(pid).map_err(io::Error::other)?;
        let status = process.status().map_err(io::Error::other)?;
        let stat = process.stat().map_err(io::Error::other)?;
        let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).ok().filter(|directory| directory.is_dir());
        let oom = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
        Ok(Self {
            uid: status.ruid,
            gid: status.rgid,
            groups: status.groups,
            directory: directory.unwrap_or_else(|| "/".into()),
            // Since Linux 4.7; what is usual before.
            umask: status.umask.unwrap_or(0o022),
            nice: i32::try_from(stat.nice).unwrap_or(0),
            oom_score_adj: oom.trim().parse().unwrap_or(0),
            descriptors: process.limits().ok().map(|limits| {
                let number = |value| match value {
                    LimitValue::Value(number) => number,
                    LimitValue::Unlimited => libc::RLIM_INFINITY,
                };
                (number(limits.max_open_files.soft_limit), number(limits.max_open_files.hard_limit))
            }),
            boot: boot()?,
        })
    }
}

pub(super) fn boot() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// `NAME=value` each, as the process was started with. `None` where it may not be read.
pub(super) fn environment(pid: i32) -> Option<Vec<(OsString, OsString)>> {
    let text = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let pairs = text.split(|byte| *byte == 0).filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        let (name, value) = (pair[..at].to_vec(), pair[at + 1..].to_vec());
        Some((OsString::from_vec(name), OsString::from_vec(value)))
    });
    Some(pairs.collect())
}
