//! The directory of all bundles: keeping one, reading one, and removing what is too old or too much.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::bundle::{Bundle, MANIFEST};
use super::draft::{self, DIRECTORY_MODE, Draft, OPEN_DIRECTORY};
use super::error::EvidenceError;
use super::retention::{self, Cause, Kept, Limits, Removed, Room};
use super::{Request, capture};
use crate::model::IncidentId;

/// Written when the incident has ended.
const REPORT: &str = "report.html";

/// Where bundles lie: `evidence` in the state directory.
#[derive(Clone, Debug)]
pub struct Vault {
    root: PathBuf,
    limits: Limits,
}

impl Vault {
    /// `root` need not exist yet; the directory that it is in must.
    pub fn new(root: PathBuf, limits: Limits) -> Self {
        Self { root, limits }
    }

    /// Captures the evidence of one incident. When this returns `Ok`, it is on the disk; on an error, and where the
    /// future is dropped, nothing of it stays.
    pub async fn keep(&self, request: &Request<'_>) -> Result<Bundle, EvidenceError> {
        let name = component(request.incident)?.to_string();
        let dir = self.root.join(&name);
        let vault = self.clone();
        let manifest = capture::into_draft(request, dir.clone(), move || {
            let root = vault.open_or_make()?;
            vault.has_room(&root)?;
            Draft::begin(root, &vault.root, &name)
        })
        .await?;
        Ok(Bundle::new(dir, manifest))
    }

    /// The bundle of an incident. Blocks on the disk.
    pub fn read(&self, incident: &IncidentId) -> Result<Bundle, EvidenceError> {
        let name = component(incident)?;
        let root = self.open().map_err(|error| match error {
            EvidenceError::Absent { .. } => EvidenceError::Absent { path: self.root.join(name) },
            other => other,
        })?;
        Bundle::open(&root, &self.root, name)
    }

    /// Puts a page beside the evidence, in place of one that is there: whole, or not at all. It is no part of what was kept,
    /// and the manifest does not name it. Blocks on the disk.
    pub fn put_report(&self, incident: &IncidentId, page: &str) -> Result<PathBuf, EvidenceError> {
        let dir = self.read(incident)?.dir;
        let path = dir.join(REPORT);
        let directory =
            nix::fcntl::open(&dir, OPEN_DIRECTORY, Mode::empty()).map_err(EvidenceError::errno("opening", &dir))?;
        self.has_room(&self.open()?)?;
        let draft = format!("{}{REPORT}", draft::PREFIX);
        let put = write_page(&directory, &draft, page).map_err(EvidenceError::io("writing", &path)).and_then(|()| {
            renameat(&directory, draft.as_str(), &directory, REPORT).map_err(EvidenceError::errno("naming", &path))
        });
        if put.is_err() {
            let _ = unlinkat(&directory, draft.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        put.map(|()| path)
    }

    /// An error where less than the limit is free.
    fn has_room(&self, root: &OwnedFd) -> Result<(), EvidenceError> {
        let room = room(root, &self.root)?;
        let wanted_bytes = self.limits.min_free.of(room.total_bytes);
        match room.free_bytes < wanted_bytes {
            true => Err(EvidenceError::Space { path: self.root.clone(), free_bytes: room.free_bytes, wanted_bytes }),
            false => Ok(()),
        }
    }

    /// Removes old bundles by age, count, bytes and free space, the oldest first, and drafts that nobody writes any
    /// more. `spare` are the incidents that are open or stuck: theirs stay. Blocks on the disk. What is no bundle
    /// is left alone.
    pub fn retain(&self, now: Timestamp, spare: &BTreeSet<IncidentId>) -> Result<Vec<Removed>, EvidenceError> {
        let root = match self.open() {
            Ok(root) => root,
            Err(EvidenceError::Absent { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut removed = Vec::new();
        let mut kept = Vec::new();
        for name in self.directories()? {
            let path = self.root.join(&name);
            if let Some(incident) = name.strip_prefix(draft::PREFIX) {
                if is_abandoned(&root, &name) {
                    let bytes = size(&path)?;
                    std::fs::remove_dir_all(&path).map_err(EvidenceError::io("removing", &path))?;
                    removed.push(Removed { incident: IncidentId(incident.into()), cause: Cause::Unfinished, bytes });
                }
                continue;
            }
            let incident = IncidentId(name);
            let manifest = path.join(MANIFEST);
            let (Ok(name), Ok(metadata)) = (component(&incident), manifest.symlink_metadata()) else { continue };
            // A manifest that cannot be read any more has its file's time at least.
            let at = match Bundle::open(&root, &self.root, name) {
                Ok(bundle) => bundle.manifest.at,
                Err(_) => metadata.modified().ok().and_then(|at| Timestamp::try_from(at).ok()).unwrap_or(now),
            };
            kept.push(Kept { at, bytes: size(&path)?, incident });
        }
        for chosen in retention::choose(kept, &self.limits, room(&root, &self.root)?, now, spare) {
            // Renamed first: what is half removed must not look like a bundle.
            let path = self.root.join(&chosen.incident.0);
            let draft = self.root.join(format!("{}{}", draft::PREFIX, chosen.incident));
            std::fs::rename(&path, &draft).map_err(EvidenceError::io("removing", &path))?;
            std::fs::remove_dir_all(&draft).map_err(EvidenceError::io("removing", &draft))?;
            removed.push(chosen);
        }
        Ok(removed)
    }

    /// The names of the directories in the root; links and files are not among them.
    fn directories(&self) -> Result<Vec<String>, EvidenceError> {
        let failed = |error| EvidenceError::io("listing", &self.root)(error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn open_or_make(&self) -> Result<OwnedFd, EvidenceError> {
        match nix::unistd::mkdir(&self.root, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EEXIST) => self.open(),
            Err(errno) => Err(EvidenceError::errno("making the directory", &self.root)(errno)),
        }
    }

    /// The root, which must be the agent's own; others' right to look is taken away.
    fn open(&self) -> Result<OwnedFd, EvidenceError> {
        let path = &self.root;
        let root = nix::fcntl::open(path, OPEN_DIRECTORY, Mode::empty()).map_err(|errno| match errno {
            Errno::ENOENT => EvidenceError::Absent { path: path.clone() },
            errno => EvidenceError::errno("opening", path)(errno),
        })?;
        let stat = fstat(&root).map_err(EvidenceError::errno("looking at", path))?;
        if stat.st_uid != nix::unistd::geteuid().as_raw() {
            return Err(EvidenceError::NotOurs { path: path.clone(), uid: stat.st_uid });
        }
        if Mode::from_bits_truncate(stat.st_mode).intersects(Mode::S_IRWXG | Mode::S_IRWXO) {
            fchmod(&root, DIRECTORY_MODE).map_err(EvidenceError::errno("closing to others", path))?;
        }
        Ok(root)
    }
}

fn write_page(directory: &OwnedFd, name: &str, page: &str) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    file.write_all(page.as_bytes())?;
    file.sync_all()
}

/// An incident's id as a directory's name: one path component, not hidden, of the characters that ids have.
fn component(incident: &IncidentId) -> Result<&str, EvidenceError> {
    let id = incident.0.as_str();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    if id.is_empty() || id.len() > 200 || id.starts_with('.') || !id.chars().all(allowed) {
        return Err(EvidenceError::Id { id: id.escape_debug().to_string() });
    }
    Ok(id)
}

fn room(root: &OwnedFd, path: &Path) -> Result<Room, EvidenceError> {
    let stat = fstatvfs(root).map_err(EvidenceError::errno("asking for free space", path))?;
    // The casts widen where the target's C types are 32 bits wide.
    #[allow(clippy::unnecessary_cast)]
    let (free, total, block) = (stat.blocks_available() as u64, stat.blocks() as u64, stat.fragment_size() as u64);
    Ok(Room { free_bytes: free.saturating_mul(block), total_bytes: total.saturating_mul(block) })
}

/// Does nobody write this draft any more? Its writer holds a lock, which ends with the writer.
fn is_abandoned(root: &OwnedFd, name: &str) -> bool {
    openat(root, name, OPEN_DIRECTORY, Mode::empty())
        .is_ok_and(|directory| Flock::lock(directory, FlockArg::LockExclusiveNonblock).is_ok())
}

/// Bytes of the files in a bundle and in the directories inside it; no link is followed.
fn size(path: &Path) -> Result<u64, EvidenceError> {
    fn sum(path: &Path) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            bytes += match entry.file_type()?.is_dir() {
                true => sum(&entry.path())?,
                false => entry.metadata()?.len(),
            };
        }
        Ok(bytes)
    }
    sum(path).map_err(EvidenceError::io("measuring", path))
}

#[cfg(test)]
mod tests;
