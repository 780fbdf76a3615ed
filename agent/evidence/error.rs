//! What can go wrong with evidence, said to the person who has to put it right.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// Never met with ids of our own; keeps a path from leaving the state directory.
    #[error("`{id}` is no incident id: letters, digits and - _ . : @ only, at most 200 of them, no dot in front")]
    Id { id: String },
    #[error(
        "{path}: only {free_bytes} bytes are free, and evidence.min_free requires {wanted_bytes}: free space on its \
         filesystem, or lower evidence.min_free"
    )]
    Space { path: PathBuf, free_bytes: u64, wanted_bytes: u64 },
    /// The kernel refused; `source` holds its words.
    #[error("{path}: {doing} failed: {source}{}", advice(.source))]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// What matters most could not be written in time; a disk that hangs does that.
    #[error(
        "{path}: the evidence was not written within {}, the `deadline` of the `snapshot` step: check for a hanging disk (dmesg), \
         or raise the `deadline`",
        crate::model::duration::format(*.deadline)
    )]
    Deadline { path: PathBuf, deadline: Duration },
    #[error("{path}: the path is a symbolic link or no directory, and evidence follows no links: remove it")]
    NotADirectory { path: PathBuf },
    #[error("{path}: the directory belongs to uid {uid}, not to the agent: chown it to the agent's user, or remove it")]
    NotOurs { path: PathBuf, uid: u32 },
    #[error("{path}: the evidence of this incident exists already, and is never overwritten")]
    Exists { path: PathBuf },
    #[error("{path}: no evidence of this incident exists; evidence.keep or its limits may have removed it")]
    Absent { path: PathBuf },
    #[error("{path}: not a manifest of this version: {detail}")]
    Manifest { path: PathBuf, detail: String },
}

impl EvidenceError {
    /// An error of the kernel's about `path`, while `doing` it.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| match Errno::from_raw(source.raw_os_error().unwrap_or(0)) {
            // O_NOFOLLOW on a link is ELOOP; with O_DIRECTORY it is ENOTDIR (open(2)).
            Errno::ELOOP | Errno::ENOTDIR => Self::NotADirectory { path },
            _ => Self::Io { doing, path, source },
        }
    }

    pub(super) fn errno(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        let to_error = Self::io(doing, path);
        move |errno| to_error(errno.into())
    }

    /// The disk, or the agent's share of it, is full.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Space { .. } => true,
            Self::Io { source, .. } => {
                matches!(Errno::from_raw(source.raw_os_error().unwrap_or(0)), Errno::ENOSPC | Errno::EDQUOT)
            }
            _ => false,
        }
    }
}

fn advice(source: &io::Error) -> &'static str {
    match Errno::from_raw(source.raw_os_error().unwrap_or(0)) {
        Errno::ENOSPC => ": free space on its filesystem, or lower evidence.keep and evidence.max_bytes",
        Errno::EDQUOT => ": the quota of the agent's user is spent: raise it, or lower evidence.keep",
        Errno::EROFS => ": its filesystem is read-only: remount it, or move `state`",
        Errno::EACCES | Errno::EPERM => ": the agent may not write there: check the directory's owner and mode",
        Errno::EIO => ": the disk fails: see the kernel's log",
        Errno::EFBIG => ": the agent's file size limit is too low: raise LimitFSIZE",
        Errno::EMFILE | Errno::ENFILE => ": too many open files: raise LimitNOFILE",
        _ => "",
    }
}
