//! A registry in one JSON file, for the demo, for tests, and for hosts whose balancer reads such a file.
//!
//! The format is [`instances`](super::instances)'. The file is replaced whole (written beside, synced, renamed) under
//! a lock on `FILE.lock`, so a reader sees the old or the new one. Whoever writes it too takes the same lock (flock).

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::instances::Instances;
use super::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange};
use crate::model::Marker;

/// For the lock. Its holders write one small file; who holds it longer has died or hangs.
const LOCK_DEADLINE: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Some 20,000 instances at 200 B; a longer file is not one of these.
const MAX_FILE_BYTES: u64 = 4 << 20;

#[derive(Debug)]
pub struct FileRegistry {
    name: String,
    path: PathBuf,
}

impl FileRegistry {
    /// `name` is the registry's in the host's file. The file must be there when it is asked, not before.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), path: path.into() }
    }

    fn unreachable(&self, doing: &str, error: impl std::fmt::Display) -> RegistryError {
        let detail = format!("{doing} {}: {error}", self.path.display());
        RegistryError::Unreachable { registry: self.name.clone(), detail }
    }

    fn refused(&self, detail: String) -> RegistryError {
        RegistryError::Refused { registry: self.name.clone(), detail: format!("{}: {detail}", self.path.display()) }
    }

    fn read(&self) -> Result<Instances, RegistryError> {
        let length = fs::metadata(&self.path).map_err(|error| self.unreachable("reading", error))?.len();
        if length > MAX_FILE_BYTES {
            return Err(self.refused(format!("{length} bytes; a registry file has at most {MAX_FILE_BYTES}")));
        }
        let text = fs::read(&self.path).map_err(|error| self.unreachable("reading", error))?;
        let read: Instances =
            serde_json::from_slice(&text).map_err(|error| self.refused(format!("not a registry file: {error}")))?;
        read.check().map_err(|error| self.refused(error))?;
        Ok(read)
    }

    /// The lock is on a file of its own, because the registry's file is another one after each change.
    async fn lock(&self) -> Result<Flock<File>, RegistryError> {
        let path = beside(&self.path, "lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&path).map_err(|error| self.unreachable("locking", error))?;
        let until = tokio::time::Instant::now() + LOCK_DEADLINE;
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((file, Errno::EWOULDBLOCK)) if tokio::time::Instant::now() < until => file,
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(
                        self.unreachable("locking", format!("another process has held the lock for {LOCK_DEADLINE:?}"))
                    );
                }
                Err((_, error)) => return Err(self.unreachable("locking", error)),
            };
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    /// Applies `change` to the document and, where it changed anything, replaces the file and reads it back.
    async fn change<T>(
        &self,
        change: impl FnOnce(&mut Instances) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let _lock = self.lock().await?;
        let before = self.read()?;
        let mut after = before.clone();
        let answer = change(&mut after)?;
        if after != before {
            replace(&self.path, &after).map_err(|error| self.unreachable("writing", error))?;
            if self.read()? != after {
                return Err(self.unreachable("reading back", "another process wrote the file without taking the lock"));
            }
        }
        Ok(answer)
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Written beside, synced, renamed, and the directory synced; owner and mode stay what they were.
fn replace(path: &Path, content: &Instances) -> io::Result<()> {
    let temporary = beside(path, "tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let old = fs::metadata(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = (|| {
        file.write_all(&serde_json::to_vec_pretty(content)?)?;
        file.write_all(b"\n")?;
        let new = file.metadata()?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o777))?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The error below is the one to tell; a file left over is removed by the next change.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[async_trait]
impl Registry for FileRegistry {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.read()?.observe(&self.name, id)
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.change(|instances| instances.drain(&self.name, id, marker)).await?;
        match self.observe(id).await?.traffic {
            Traffic::DrainedBy(found) if found == *marker => Ok(()),
            other => Err(self.refused(format!("drained, but read back as {}", super::stands_there(&other)))),
        }
    }

    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let _lock = self.lock().await?;
        let content = self.read()?;
        let stands = content.observe(&self.name, id)?.traffic == Traffic::DrainedBy(marker.clone());
        if stands {
            replace(&self.path, &content).map_err(|error| self.unreachable("writing", error))?;
        }
        Ok(stands)
    }

    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError> {
        let drained = match change {
            TrafficChange::Drain => format!("\"{marker}\""),
            TrafficChange::Restore => "null".into(),
        };
        Ok(vec![format!("write {}: \"drained\": {drained} of {id}", self.path.display())])
    }

    async fn restore(&self, id: &str, marker: &Marker, _record: &serde_json::Value) -> Result<Restored, RegistryError> {
        self.change(|instances| instances.restore(&self.name, id, marker)).await
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        self.read()?.others(&self.name, id)
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        Ok(self.read()?.markers())
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        Ok(self.read()?.names())
    }

    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        Ok(self.read()?.addresses())
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        super::found_by_record(self, id).await
    }

    fn clients_follow(&self) -> Duration {
        Duration::ZERO
    }
}
