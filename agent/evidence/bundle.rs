//! A bundle as it lies on disk: its manifest, and whether its files are still what was written.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::draft::{self, COMMANDS, OPEN_DIRECTORY};
use super::error::EvidenceError;
use crate::model::{IncidentId, ServiceName};

pub(super) const MANIFEST: &str = "manifest.json";

/// The form of the bundle that this version writes and reads.
pub(super) const FORMAT: u32 = 1;

/// A manifest names some forty files; one that is longer than this is none of ours.
const MANIFEST_MAX: u64 = 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// The agent's version.
    pub unwait: String,
    pub incident: IncidentId,
    pub service: ServiceName,
    pub host: String,
    /// The moment of the breach.
    pub at: Timestamp,
    pub files: Vec<FileEntry>,
    /// What could not be captured, or not in full, and why.
    pub missing: Vec<Missing>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the bundle.
    pub name: String,
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub what: String,
    pub why: String,
}

/// A whole bundle.
#[derive(Clone, Debug)]
pub struct Bundle {
    pub dir: PathBuf,
    pub manifest: Manifest,
    /// Of all files that the manifest names.
    pub bytes: u64,
}

/// How a file differs from what the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub file: String,
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.why)
    }
}

impl Bundle {
    pub(super) fn new(dir: PathBuf, manifest: Manifest) -> Self {
        let bytes = manifest.files.iter().map(|file| file.bytes).sum();
        Self { dir, manifest, bytes }
    }

    /// Opens the bundle `name` under `root`, following nothing.
    pub(super) fn open(root: &OwnedFd, root_path: &Path, name: &str) -> Result<Self, EvidenceError> {
        let dir = root_path.join(name);
        let directory = openat(root, name, OPEN_DIRECTORY, Mode::empty()).map_err(|errno| match errno {
            Errno::ENOENT => EvidenceError::Absent { path: dir.clone() },
            errno => EvidenceError::errno("opening", &dir)(errno),
        })?;
        let path = dir.join(MANIFEST);
        let file = open_file(&directory, MANIFEST).map_err(EvidenceError::errno("opening", &path))?;
        let mut text = Vec::new();
        file.take(MANIFEST_MAX).read_to_end(&mut text).map_err(EvidenceError::io("reading", &path))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| EvidenceError::Manifest { path: path.clone(), detail: error.to_string() })?;
        if manifest.format != FORMAT {
            let detail = format!("the format is {}, and this version reads {FORMAT}", manifest.format);
            return Err(EvidenceError::Manifest { path, detail });
        }
        Ok(Self::new(dir, manifest))
    }

    /// Compares every file to its hash. Empty: all is as it was written.
    pub fn verify(&self) -> Vec<Fault> {
        let fault = |file: &str, why: String| Fault { file: file.into(), why };
        let mut faults = Vec::new();
        for entry in &self.manifest.files {
            match self.hash(&entry.name) {
                Err(error) => faults.push(fault(&entry.name, error.to_string())),
                Ok((bytes, _)) if bytes != entry.bytes => {
                    faults.push(fault(&entry.name, format!("{bytes} bytes, the manifest says {}", entry.bytes)));
                }
                Ok((_, sha256)) if sha256 != entry.sha256 => {
                    faults.push(fault(
                        &entry.name,
                        "the content has changed since it was written: the SHA-256 differs".into(),
                    ));
                }
                Ok(_) => {}
            }
        }
        faults
    }

    /// The text of one of the bundle's files; only what the manifest names is read.
    pub fn text(&self, file: &str) -> Result<String, EvidenceError> {
        let path = self.dir.join(file);
        if !self.manifest.files.iter().any(|entry| entry.name == file) {
            return Err(EvidenceError::Absent { path });
        }
        let mut text = Vec::new();
        self.open_named(file)?.read_to_end(&mut text).map_err(EvidenceError::io("reading", &path))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn hash(&self, name: &str) -> Result<(u64, String), EvidenceError> {
        let mut file = self.open_named(name)?;
        let mut sha256 = Sha256::new();
        let mut chunk = vec![0u8; 64 * 1024];
        let mut bytes = 0;
        loop {
            match file.read(&mut chunk).map_err(EvidenceError::io("reading", &self.dir.join(name)))? {
                0 => return Ok((bytes, draft::hex(&sha256.finalize()))),
                count => {
                    sha256.update(&chunk[..count]);
                    bytes += count as u64;
                }
            }
        }
    }

    /// A manifest may have been tampered with: its names lead to files of this directory or to nothing.
    fn open_named(&self, name: &str) -> Result<File, EvidenceError> {
        let path = self.dir.join(name);
        let parts: Vec<Component<'_>> = Path::new(name).components().collect();
        let base = match parts.as_slice() {
            [Component::Normal(base)] => (None, *base),
            [Component::Normal(folder), Component::Normal(base)] if *folder == COMMANDS => (Some(*folder), *base),
            _ => return Err(EvidenceError::NotADirectory { path }),
        };
        let directory = nix::fcntl::open(&self.dir, OPEN_DIRECTORY, Mode::empty())
            .map_err(EvidenceError::errno("opening", &self.dir))?;
        let directory = match base.0 {
            None => directory,
            Some(folder) => openat(&directory, folder, OPEN_DIRECTORY, Mode::empty())
                .map_err(EvidenceError::errno("opening", &path))?,
        };
        open_file(&directory, base.1).map_err(EvidenceError::errno("opening", &path))
    }
}

/// `O_NONBLOCK`: a pipe put in a file's place must not hold the reader up.
fn open_file<P: ?Sized + nix::NixPath>(directory: &OwnedFd, name: &P) -> nix::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    openat(directory, name, flags, Mode::empty()).map(File::from)
}
