//! The state directory: private to its owner, and one agent's at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    #[error("{path}: {source}; `state:` must name a directory that this user can write")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {why}; make it a directory of mode 0700 owned by the user that runs the agent")]
    NotPrivate { path: PathBuf, why: String },
    #[error("{path}: another unwait (pid {pid}) uses this state directory; run only one agent per host")]
    Taken { path: PathBuf, pid: String },
}

/// The directory, held by a lock for as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory where it is missing, and takes its lock.
    pub fn take(path: &Path) -> Result<Self, StateDirError> {
        Self::make(path)?;
        let lock_path = path.join("agent.lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&lock_path)
            .map_err(|source| StateDirError::Io { path: lock_path.clone(), source })?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                // The pid is for the message below; on a full disk the lock alone must do.
                let _ =
                    lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| write!(lock, "{}", std::process::id()));
                Ok(Self { path: path.into(), _lock: lock })
            }
            Err((mut file, _)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                Err(StateDirError::Taken {
                    path: path.into(),
                    pid: if pid.is_empty() { "unknown".into() } else { pid },
                })
            }
        }
    }

    /// Makes the directory where it is missing. One that an agent of this user would not take is refused.
    pub fn make(path: &Path) -> Result<(), StateDirError> {
        let io = |source| StateDirError::Io { path: path.into(), source };
        DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(io)?;
        let refuse = |why: &str| Err(StateDirError::NotPrivate { path: path.into(), why: why.into() });
        let metadata = path.symlink_metadata().map_err(io)?;
        if !metadata.is_dir() {
            return refuse("the path is no directory (a symbolic link is not followed)");
        }
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            return refuse("the directory belongs to another user");
        }
        if metadata.mode() & 0o077 != 0 {
            return refuse("other users can read or write the directory");
        }
        Ok(())
    }

    pub fn database(&self) -> PathBuf {
        Self::database_of(&self.path)
    }

    pub fn database_of(state: &Path) -> PathBuf {
        state.join("unwait.db")
    }

    pub fn evidence_of(state: &Path) -> PathBuf {
        state.join("evidence")
    }

    /// Whose drains stand, where a registry itself keeps no reason.
    pub fn drains_of(state: &Path) -> PathBuf {
        state.join("drains.json")
    }

    /// The same, of one registry among several that keep none.
    pub fn drains_by(state: &Path, registry: &str) -> PathBuf {
        state.join(format!("drains-{registry}.json"))
    }

    pub fn socket_of(state: &Path) -> PathBuf {
        state.join("control.sock")
    }
}
