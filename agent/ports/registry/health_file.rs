//! A file that a balancer's health check reads, such as `/run/rpc-order/up`: where it stands, the instance gets traffic.
//! An instance's id is `SERVICE/FILE`, below the directory that the host's file names.
//!
//! A drain renames the file into that directory, as `unwait~SERVICE~FILE~INCIDENT~HOST`; a restore renames it back. That
//! is one step each, so a crash leaves the one or the other, with the content, mode and owner that were there; and the
//! name is the marker. What a service does to its own directory at its start (systemd removes a `RuntimeDirectory`)
//! does not reach it.
//!
//! - A service that writes its file again is seen and drained again; what it wrote last is what is kept.
//! - A restore replaces nothing: a file that stands there is newer and stays, and what was kept is removed. Where the
//!   service's directory is gone it is tried again, and what was kept stays.
//! - No file, and none kept: not registered, whoever took it away.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::{AccessFlags, access};
use serde_json::{Value, json};

use super::holder::{Holder, HoldsDrains, Look};
use super::{FoundMarker, Others, Registration, Registry, RegistryError, Restored, Traffic, TrafficChange};
use crate::model::{IncidentId, Marker};

const PREFIX: &str = "unwait~";

#[derive(Debug)]
pub struct HealthFile {
    files: Arc<Files>,
    holder: Holder,
}

#[derive(Debug)]
struct Files {
    registry: String,
    host: String,
    directory: PathBuf,
    /// One change at a time: nothing is held while it is being put back.
    changing: tokio::sync::Mutex<()>,
}

/// Where an instance's file stands.
struct InstanceFile<'a> {
    id: &'a str,
    service: &'a str,
    file: &'a str,
    path: PathBuf,
}

/// A file that was taken out.
struct Kept {
    path: PathBuf,
    id: String,
    marker: Marker,
}

impl HealthFile {
    /// `name` is the registry's in the host's file, `host` the one that our markers carry; a file that is written again
    /// is in force for `hold_every` at most.
    pub fn new(name: &str, directory: &Path, hold_every: Duration, host: &str) -> Self {
        let files = Files {
            registry: name.into(),
            host: host.into(),
            directory: directory.into(),
            changing: tokio::sync::Mutex::default(),
        };
        Self { files: Arc::new(files), holder: Holder::new(hold_every) }
    }
}

impl Files {
    fn refused(&self, detail: String) -> RegistryError {
        RegistryError::Refused { registry: self.registry.clone(), detail }
    }

    /// Nothing that the file system says of itself passes by being asked again.
    fn failed(&self, path: &Path, error: impl std::fmt::Display) -> RegistryError {
        self.refused(format!("{}: {error}", path.display()))
    }

    fn place<'a>(&self, id: &'a str) -> Result<InstanceFile<'a>, RegistryError> {
        let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '~', '\0']);
        let (service, file) = id
            .split_once('/')
            .filter(|(service, file)| plain(service) && plain(file))
            .ok_or_else(|| self.refused(format!("`{id}` names no file: expected SERVICE/FILE, as in rpc-order/up")))?;
        Ok(InstanceFile { id, service, file, path: self.directory.join(service).join(file) })
    }

    fn kept_as(&self, place: &InstanceFile, marker: &Marker) -> Result<PathBuf, RegistryError> {
        let InstanceFile { service, file, .. } = place;
        let name = format!("{PREFIX}{service}~{file}~{}~{}", marker.incident, marker.host);
        match kept_in(&self.directory, &name) {
            Some(kept) if kept.marker == *marker && name.len() < 256 => Ok(kept.path),
            _ => Err(self.refused(format!("`{name}` cannot be a file's name"))),
        }
    }

    /// Every file that was taken out of here.
    fn all_kept(&self) -> Result<Vec<Kept>, RegistryError> {
        let entries = fs::read_dir(&self.directory).map_err(|error| self.failed(&self.directory, error))?;
        let mut all = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| self.failed(&self.directory, error))?.file_name();
            all.extend(name.to_str().and_then(|name| kept_in(&self.directory, name)));
        }
        Ok(all)
    }

    /// What was kept of this instance; of two drains nobody knows which to put back.
    fn kept(&self, place: &InstanceFile) -> Result<Option<Kept>, RegistryError> {
        let mut of_it = self.all_kept()?.into_iter().filter(|kept| kept.id == place.id);
        match (of_it.next(), of_it.next()) {
            (kept, None) => Ok(kept),
            (_, Some(second)) => Err(self.failed(&second.path, "a second drain of the same file; remove one of them")),
        }
    }

    /// Does the file stand where the balancer looks? Only a plain file counts: a link would lead elsewhere.
    fn stands(&self, place: &InstanceFile) -> Result<Option<fs::Metadata>, RegistryError> {
        match fs::symlink_metadata(&place.path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
            Ok(_) => Err(self.failed(&place.path, "no plain file")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&place.path, error)),
        }
    }

    fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        let place = self.place(id)?;
        let (kept, stands) = (self.kept(&place)?, self.stands(&place)?);
        let record = match &stands {
            Some(metadata) => json!({ "path": place.path, "mode": metadata.mode() & 0o7777, "uid": metadata.uid() }),
            None => json!({ "path": place.path }),
        };
        let traffic = match (kept, stands) {
            (Some(kept), _) => Traffic::DrainedBy(kept.marker),
            (None, Some(_)) => Traffic::Passing,
            (None, None) => {
                return Err(RegistryError::NotRegistered { registry: self.registry.clone(), id: id.into() });
            }
        };
        Ok(Registration { name: place.service.into(), traffic, record })
    }

    /// Takes the file out where it stands, over what an earlier one has left. True where it stood.
    fn take(&self, place: &InstanceFile, kept: &Path) -> Result<bool, RegistryError> {
        if self.stands(place)?.is_none() {
            return Ok(false);
        }
        fs::rename(&place.path, kept)
            .and_then(|()| self.sync(place))
            .map_err(|error| self.failed(&place.path, error))?;
        match self.stands(place)? {
            None => Ok(true),
            Some(_) => Err(self.failed(&place.path, "the file was removed, and the service wrote it again at once")),
        }
    }

    fn restore(&self, id: &str, marker: &Marker) -> Result<Restored, RegistryError> {
        let place = self.place(id)?;
        let kept = match self.kept(&place)? {
            Some(kept) if kept.marker == *marker => kept,
            Some(other) => return Ok(Restored::NotOurs(super::stands_there(&Traffic::DrainedBy(other.marker)))),
            None => return Ok(Restored::NotOurs("the agent has no copy of the file".into())),
        };
        match renameat2(AT_FDCWD, &kept.path, AT_FDCWD, &place.path, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => self.sync(&place).map_err(|error| self.failed(&place.path, error))?,
            // Newer: it stays.
            Err(Errno::EEXIST) => fs::remove_file(&kept.path).map_err(|error| self.failed(&kept.path, error))?,
            // The service has gone, or is not back yet: what was taken is put back once there is a place for it.
            Err(Errno::ENOENT) => {
                let directory = place.path.parent().unwrap_or(&self.directory).display();
                let detail = format!(
                    "`{id}` cannot be put back, since the directory {directory} does not exist. The drain moved the file to \
                     {}; the file is moved back once the directory exists",
                    kept.path.display()
                );
                return Err(RegistryError::Unreachable { registry: self.registry.clone(), detail });
            }
            Err(error) => return Err(self.failed(&place.path, error)),
        }
        match self.stands(&place)? {
            Some(_) => Ok(Restored::Done),
            None => Err(self.failed(&place.path, "the file was restored, and has disappeared again at once")),
        }
    }

    fn sync(&self, place: &InstanceFile) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()?;
        File::open(place.path.parent().unwrap_or(&self.directory))?.sync_all()
    }
}

/// What a name in the directory says, where it is one of ours.
fn kept_in(directory: &Path, name: &str) -> Option<Kept> {
    let parts: Vec<&str> = name.strip_prefix(PREFIX)?.split('~').collect();
    let [service, file, incident, host] = parts.as_slice() else { return None };
    let marker = Marker { incident: IncidentId((*incident).into()), host: (*host).into() };
    let id = format!("{service}/{file}");
    (!name.contains('/')).then(|| Kept { path: directory.join(name), id, marker })
}

#[async_trait]
impl HoldsDrains for Files {
    async fn look_again(&self, id: &str, marker: &Marker) -> Result<Look, RegistryError> {
        let _one = self.changing.lock().await;
        let place = self.place(id)?;
        match self.kept(&place)? {
            Some(kept) if kept.marker == *marker => {
                Ok(if self.take(&place, &kept.path)? { Look::OutAgain } else { Look::Out })
            }
            _ => Ok(Look::NotOurs),
        }
    }
}

#[async_trait]
impl Registry for HealthFile {
    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.files.observe(id)
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        let files = &self.files;
        let _one = files.changing.lock().await;
        let place = files.place(id)?;
        super::may_drain(&files.registry, id, &files.observe(id)?.traffic, marker)?;
        files.take(&place, &files.kept_as(&place, marker)?)?;
        self.holder.hold(files, id, marker);
        Ok(())
    }

    async fn hold(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let look = self.files.look_again(id, marker).await?;
        if look != Look::NotOurs {
            self.holder.hold(&self.files, id, marker);
            return Ok(look == Look::OutAgain);
        }
        // What was kept is gone (a reboot, where it stands in /run) and the service is in traffic: a drain of its own.
        match self.files.observe(id) {
            Ok(Registration { traffic: Traffic::Passing, .. }) => {
                self.drain(id, marker).await?;
                Ok(true)
            }
            Ok(_) | Err(RegistryError::NotRegistered { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What a rename asks for: that both directories may be written, and that no file system became read-only.
    async fn takes_writes(&self, id: &str, marker: &Marker) -> Result<bool, RegistryError> {
        let files = &self.files;
        let place = files.place(id)?;
        let is_ours = files.kept(&place)?.is_some_and(|kept| kept.marker == *marker);
        for directory in [Some(files.directory.as_path()), place.path.parent()].into_iter().flatten() {
            match access(directory, AccessFlags::W_OK) {
                // The service's own may be away until it is started anew.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(files.failed(directory, error)),
            }
        }
        Ok(is_ours)
    }

    async fn would(&self, change: TrafficChange, id: &str, marker: &Marker) -> Result<Vec<String>, RegistryError> {
        let place = self.files.place(id)?;
        let kept = self.files.kept_as(&place, marker)?;
        let (from, to) = match change {
            TrafficChange::Drain => (&place.path, &kept),
            TrafficChange::Restore => (&kept, &place.path),
        };
        Ok(vec![format!("rename {} to {}", from.display(), to.display())])
    }

    async fn restore(&self, id: &str, marker: &Marker, _record: &Value) -> Result<Restored, RegistryError> {
        let files = &self.files;
        let _one = files.changing.lock().await;
        self.holder.put_back(files, id, marker, async { files.restore(id, marker) }).await
    }

    /// The file that was taken out stays kept.
    async fn forget(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.holder.forget(id, marker).await;
        Ok(())
    }

    async fn others(&self, _id: &str) -> Result<Others, RegistryError> {
        Err(self.files.refused("a health file shows no other hosts".into()))
    }

    fn counts(&self) -> bool {
        false
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        let own = self.files.all_kept()?.into_iter().filter(|kept| kept.marker.host == self.files.host);
        let found: Vec<FoundMarker> = own.map(|Kept { id, marker, .. }| FoundMarker { id, marker }).collect();
        for FoundMarker { id, marker } in &found {
            self.holder.hold(&self.files, id, marker);
        }
        Ok(found)
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        Ok(HashMap::new())
    }

    /// What a balancer's check finds; when it follows, the balancer alone knows.
    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        Ok(self.files.stands(&self.files.place(id)?)?.is_some())
    }

    fn caveats(&self) -> &'static [&'static str] {
        &[
            "the registry counts no other instances: min_healthy needs another registry of the service that does",
            "a balancer sends traffic until its checks have failed: set that time by `clients_follow` of the \
             registration",
            "a service that writes its file again is in traffic until the agent removes the file again (every \
             `hold_every`); without a running agent it stays in traffic",
            "the registry has no health state: a file that somebody removed during the drain is restored all the same",
        ]
    }

    fn clients_follow(&self) -> Duration {
        Duration::ZERO
    }
}
