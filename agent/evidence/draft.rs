//! A bundle while it is written: a directory of another name that becomes the bundle by one rename.
//!
//! Everything is opened relative to a directory that is held open, and no link is followed. A draft that is dropped
//! before it is finished removes itself. While it lives it holds a lock, so that what a killed agent left behind
//! can be told from what is being written.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::fsync;
use sha2::{Digest, Sha256};

use super::bundle::{FileEntry, MANIFEST, Manifest};
use super::error::EvidenceError;

/// In front of a draft's name; no incident id begins with a dot.
pub(super) const PREFIX: &str = ".draft-";

/// Only the agent's user may look: 0700.
pub(super) const DIRECTORY_MODE: Mode = Mode::S_IRWXU;
/// 0600.
const FILE_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

pub(super) const OPEN_DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The one directory that a bundle may have inside.
pub(super) const COMMANDS: &str = "commands";

pub(super) struct Draft {
    root: OwnedFd,
    root_path: PathBuf,
    directory: Flock<OwnedFd>,
    commands: Option<OwnedFd>,
    /// The bundle's name once it is whole.
    name: String,
    files: Vec<FileEntry>,
    finished: bool,
}

impl Draft {
    /// Begins the bundle `name` in `root`. Refuses where anything has that name already.
    pub(super) fn begin(root: OwnedFd, root_path: &Path, name: &str) -> Result<Self, EvidenceError> {
        let at = root_path.join(name);
        match fstatat(&root, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => {}
            Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => return Err(EvidenceError::Exists { path: at }),
            Ok(_) => return Err(EvidenceError::NotADirectory { path: at }),
            Err(errno) => return Err(EvidenceError::errno("looking", &at)(errno)),
        }
        let draft = format!("{PREFIX}{name}");
        let path = root_path.join(&draft);
        if let Err(errno) = mkdirat(&root, draft.as_str(), DIRECTORY_MODE) {
            // What an agent that was killed left of the same incident; a link is removed, not followed.
            if errno != Errno::EEXIST {
                return Err(EvidenceError::errno("making the directory", &path)(errno));
            }
            std::fs::remove_dir_all(&path).map_err(EvidenceError::io("removing an old draft", &path))?;
            mkdirat(&root, draft.as_str(), DIRECTORY_MODE)
                .map_err(EvidenceError::errno("making the directory", &path))?;
        }
        let directory = openat(&root, draft.as_str(), OPEN_DIRECTORY, Mode::empty())
            .map_err(EvidenceError::errno("opening", &path))?;
        let directory = Flock::lock(directory, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| EvidenceError::errno("locking", &path)(errno))?;
        Ok(Self {
            root,
            root_path: root_path.to_path_buf(),
            directory,
            commands: None,
            name: name.into(),
            files: Vec::new(),
            finished: false,
        })
    }

    /// Where a file of the bundle will lie; for messages.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root_path.join(&self.name).join(file)
    }

    /// Writes and syncs one file: `name` or `commands/name`.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) -> Result<(), EvidenceError> {
        let path = self.path(name);
        self.write(name, content)?;
        self.files.push(FileEntry {
            name: name.into(),
            bytes: content.len() as u64,
            sha256: hex(&Sha256::digest(content)),
        });
        tracing::debug!(
            path = %path.display(),
            bytes = content.len(),
            "wrote {} bytes of evidence to {}",
            content.len(),
            path.display(),
        );
        Ok(())
    }

    fn write(&mut self, name: &str, content: &[u8]) -> Result<(), EvidenceError> {
        let path = self.path(name);
        let (directory, base) = match name.split_once('/') {
            None => (&*self.directory, name),
            Some((COMMANDS, base)) => {
                if self.commands.is_none() {
                    mkdirat(&*self.directory, COMMANDS, DIRECTORY_MODE)
                        .map_err(EvidenceError::errno("making the directory", &path))?;
                    let opened = openat(&*self.directory, COMMANDS, OPEN_DIRECTORY, Mode::empty())
                        .map_err(EvidenceError::errno("opening the directory", &path))?;
                    self.commands = Some(opened);
                }
                (self.commands.as_ref().expect("opened just above"), base)
            }
            Some(_) => unreachable!("the bundle's file names are our own constants"),
        };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(directory, base, flags, FILE_MODE).map_err(EvidenceError::errno("creating", &path))?;
        let mut file = File::from(file);
        file.write_all(content).map_err(EvidenceError::io("writing", &path))?;
        // Delayed allocation may report a full disk no earlier than here.
        file.sync_all().map_err(EvidenceError::io("syncing", &path))
    }

    /// Writes the manifest, syncs, and gives the bundle its name: from here on it is whole, or it is not there.
    pub(super) fn finish(mut self, mut manifest: Manifest) -> Result<Manifest, EvidenceError> {
        manifest.files = std::mem::take(&mut self.files);
        let mut text =
            serde_json::to_vec_pretty(&manifest).expect("a manifest has string keys and finite numbers only");
        text.push(b'\n');
        self.write(MANIFEST, &text)?;
        let path = self.path("");
        let sync = |directory: &OwnedFd| fsync(directory).map_err(EvidenceError::errno("syncing", &path));
        if let Some(commands) = &self.commands {
            sync(commands)?;
        }
        sync(&self.directory)?;
        let draft = format!("{PREFIX}{}", self.name);
        renameat(&self.root, draft.as_str(), &self.root, self.name.as_str())
            .map_err(EvidenceError::errno("naming the bundle", &path))?;
        self.finished = true;
        sync(&self.root)?;
        Ok(manifest)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // Follows no link (remove_dir_all is openat all the way down). What stays, the next retention removes.
        let path = self.root_path.join(format!("{PREFIX}{}", self.name));
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(
                path = %path.display(),
                %error,
                "cannot remove the unfinished evidence {}: {error}; remove it by hand",
                path.display(),
            );
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
