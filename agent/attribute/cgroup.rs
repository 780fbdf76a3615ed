//! Cgroup ids to paths.
//!
//! A cgroup's id is the inode number of its directory and, at once, its file handle (`kernfs_fh_to_dentry`, type
//! 0xfe): with CAP_DAC_READ_SEARCH one `open_by_handle_at` finds it. Without, the inode numbers of all cgroup
//! directories are read once, and again (at most once a snapshot) for an id that is not among them. Ids are not
//! used twice, so that a path is kept; it is compared with its directory's inode each time, since a cgroup that has
//! been removed owns nothing any more.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

const MOST_DIRECTORIES: usize = 65_536; // a walk of them takes some 0.2 s; hosts have hundreds

/// The cgroup v2 tree, as it is mounted here.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid host; `None`: there is none.
    mount: Option<Mount>,
    /// systemd's own hierarchy on a v1 or hybrid host, where the processes are that the v2 tree does not have.
    of_systemd: Option<PathBuf>,
    paths: HashMap<u64, String>,
    gone: HashSet<u64>,
    walked_this_time: bool,
    /// Why some path of this snapshot could not be told, where it is not that its cgroup is gone.
    pub failed: Option<Errno>,
}

#[derive(Debug)]
struct Mount {
    at: PathBuf,
    /// For `open_by_handle_at`; `None` once that was found to be forbidden.
    handles: Option<File>,
}

impl Cgroups {
    /// Finds the mounts in /proc/self/mountinfo.
    pub fn find() -> Self {
        let mounts =
            procfs::process::Process::myself().and_then(|me| me.mountinfo()).map(|all| all.0).unwrap_or_default();
        let find = |wanted: &dyn Fn(&&procfs::process::MountInfo) -> bool| {
            mounts.iter().find(wanted).map(|mount| mount.mount_point.clone())
        };
        let v2 = find(&|mount| mount.fs_type == "cgroup2");
        let of_systemd = find(&|mount| mount.fs_type == "cgroup" && mount.super_options.contains_key("name"));
        Self { of_systemd, ..Self::mounted(v2) }
    }

    fn mounted(at: Option<PathBuf>) -> Self {
        let mount = at.map(|at| Mount { handles: File::open(&at).ok(), at });
        Self {
            mount,
            of_systemd: None,
            paths: HashMap::new(),
            gone: HashSet::new(),
            walked_this_time: false,
            failed: None,
        }
    }

    /// As an unprivileged agent has them.
    #[cfg(test)]
    pub fn without_handles() -> Self {
        let mut cgroups = Self::find();
        if let Some(mount) = &mut cgroups.mount {
            mount.handles = None;
        }
        cgroups
    }

    /// As a hybrid host has them.
    #[cfg(test)]
    pub fn hybrid(v2: &Path, of_systemd: &Path) -> Self {
        let mut cgroups = Self { of_systemd: Some(of_systemd.into()), ..Self::mounted(Some(v2.into())) };
        cgroups.mount.iter_mut().for_each(|mount| mount.handles = None);
        cgroups
    }

    /// Begins a snapshot: forgets the ids that are not in it, so that what is kept is bounded by it.
    pub fn begin(&mut self, ids: &HashSet<u64>) {
        self.walked_this_time = false;
        self.failed = None;
        self.gone.retain(|id| ids.contains(id));
        // In the walk's mode the paths of all cgroups are kept: they are what spares the next walk.
        if self.mount.as_ref().is_some_and(|mount| mount.handles.is_some()) {
            self.paths.retain(|id, _| ids.contains(id));
        }
    }

    /// The path from the mount's root, `/` for the root; `None` where the cgroup has been removed, or cannot be
    /// seen from here.
    pub fn path(&mut self, id: u64) -> Option<&str> {
        let mount = self.mount.as_mut()?;
        if self.gone.contains(&id) {
            return None;
        }
        let stands = |path: &str| std::fs::metadata(below(&mount.at, path)).is_ok_and(|found| found.ino() == id);
        if !self.paths.get(&id).is_some_and(|path| stands(path)) {
            self.paths.remove(&id);
            if let Some(handles) = &mount.handles {
                match by_handle(handles, id) {
                    Ok(found) => {
                        if let Some(path) = found.to_str().and_then(|f| f.strip_prefix(mount.at.to_str()?)) {
                            self.paths.insert(id, if path.is_empty() { "/".into() } else { path.into() });
                        }
                    }
                    Err(Errno::ESTALE) => {}
                    // No capability, or a kernel or mount with other handles: the directories' inodes will do.
                    Err(Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => {
                        mount.handles = None;
                    }
                    // Out of descriptors or memory: it says nothing of the cgroup, and passes.
                    Err(errno) => {
                        self.failed = Some(errno);
                        return None;
                    }
                }
            }
            if mount.handles.is_none() && !self.walked_this_time {
                self.walked_this_time = true;
                match walk(&mount.at) {
                    Ok(paths) => self.paths = paths,
                    Err(error) => {
                        self.failed = Some(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)));
                        return None;
                    }
                }
            }
        }
        if !self.paths.contains_key(&id) {
            self.gone.insert(id);
        }
        self.paths.get(&id).map(String::as_str)
    }

    /// The path as it was when it was last asked for, which may have been removed since.
    pub fn remembered(&mut self, id: u64) -> Option<&str> {
        if self.paths.contains_key(&id) { self.paths.get(&id).map(String::as_str) } else { self.path(id) }
    }

    /// The directories of a path, in the v2 tree and in systemd's hierarchy.
    pub fn directories(&self, path: &str) -> impl Iterator<Item = PathBuf> {
        let of_systemd = self.of_systemd.as_ref().map(|mount| below(mount, path));
        self.directory(path).into_iter().chain(of_systemd).filter(|directory| directory.is_dir())
    }

    /// All paths, each with its directory, in both hierarchies; those of one that cannot be read are left out.
    pub fn all(&self) -> impl Iterator<Item = (String, PathBuf)> {
        let mounts = self.mount.iter().map(|mount| &mount.at).chain(&self.of_systemd);
        mounts.flat_map(|mount| {
            let paths = walk(mount).unwrap_or_default().into_values();
            paths.map(|path| (path.clone(), below(mount, &path)))
        })
    }

    /// The cgroups of the v2 tree, by their ids; none where it cannot be read.
    pub fn ids(&self) -> HashMap<u64, String> {
        self.mount.as_ref().and_then(|mount| walk(&mount.at).ok()).unwrap_or_default()
    }

    /// The directory of a path that [`Cgroups::path`] gave.
    pub fn directory(&self, path: &str) -> Option<PathBuf> {
        self.mount.as_ref().map(|mount| below(&mount.at, path))
    }
}

fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// Opens the cgroup by its file handle, and asks where it is.
fn by_handle(mount: &File, id: u64) -> Result<PathBuf, Errno> {
    /// `struct file_handle` with kernfs' eight bytes of id.
    #[repr(C)]
    struct Handle {
        bytes: libc::c_uint,
        kind: libc::c_int,
        id: [u8; 8],
    }
    const FILEID_KERNFS: libc::c_int = 0xfe; // include/linux/exportfs.h
    let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id: id.to_ne_bytes() };
    // SAFETY: `handle` is laid out as the kernel's struct file_handle, states the 8 bytes that follow its head,
    // and outlives the call; the kernel only reads it. The descriptor of `mount` is open for as long as `mount`.
    let opened =
        unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast(), libc::O_PATH | libc::O_CLOEXEC) };
    let fd = Errno::result(opened)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = nix::fcntl::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str())?;
    Ok(PathBuf::from(path))
}

/// The inode number of every cgroup directory, with its path.
fn walk(mount: &Path) -> std::io::Result<HashMap<u64, String>> {
    let mut paths = HashMap::from([(std::fs::metadata(mount)?.ino(), "/".to_owned())]);
    let mut ahead = vec![String::new()];
    while let Some(path) = ahead.pop() {
        let entries = match std::fs::read_dir(below(mount, &path)) {
            Ok(entries) => entries,
            // Removed since it was listed, or another's.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
            let Some(name) = entry.file_name().to_str().map(|name| format!("{path}/{name}")) else { continue };
            if paths.len() < MOST_DIRECTORIES {
                paths.insert(entry.ino(), name.clone());
                ahead.push(name);
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory tree is enough for the walk: a cgroup's id is its directory's inode.
    #[test]
    fn without_handles_a_cgroup_is_found_by_its_inode_and_a_removed_one_is_gone() {
        let tree = tempfile::tempdir().unwrap();
        let inode = |path: &str| std::fs::metadata(tree.path().join(path)).unwrap().ino();
        std::fs::create_dir_all(tree.path().join("system.slice/a.service")).unwrap();
        let mut cgroups = Cgroups::mounted(Some(tree.path().into()));
        cgroups.mount.as_mut().unwrap().handles = None;
        let a = inode("system.slice/a.service");
        assert_eq!(cgroups.path(a), Some("/system.slice/a.service"));
        assert_eq!(cgroups.path(inode("")), Some("/"));

        // A miss in the same snapshot walks no second time; the next snapshot does.
        std::fs::create_dir(tree.path().join("b.service")).unwrap();
        let b = inode("b.service");
        assert_eq!(cgroups.path(b), None);
        cgroups.begin(&HashSet::from([a]));
        cgroups.begin(&HashSet::from([a, b]));
        assert_eq!(cgroups.path(b), Some("/b.service"));

        // A new cgroup stands in the place of the old one, as after a restart.
        std::fs::create_dir(tree.path().join("new")).unwrap();
        std::fs::remove_dir(tree.path().join("b.service")).unwrap();
        std::fs::rename(tree.path().join("new"), tree.path().join("b.service")).unwrap();
        cgroups.begin(&HashSet::from([a, b]));
        assert_eq!(cgroups.path(b), None, "a path that is kept must still lead to the cgroup");
    }

    #[test]
    fn out_of_descriptors_a_cgroup_is_not_known_and_not_gone() {
        use crate::collect::tests_with_descriptors as with_descriptors;
        for find in [Cgroups::find, Cgroups::without_handles] {
            let Some(mount) = find().mount.map(|mount| mount.at) else { return };
            let root = std::fs::metadata(mount).unwrap().ino();
            let mut failed = 0;
            for count in 0..3 {
                let mut cgroups = find();
                match with_descriptors(count, || cgroups.path(root).map(str::to_owned)) {
                    Some(path) => assert_eq!((path.as_str(), cgroups.failed), ("/", None)),
                    None => {
                        assert_eq!((cgroups.failed, cgroups.gone.len()), (Some(Errno::EMFILE), 0));
                        failed += 1;
                    }
                }
                cgroups.begin(&HashSet::from([root]));
                assert_eq!(cgroups.path(root), Some("/"), "it passes");
            }
            assert!((1..3).contains(&failed), "{failed} of 3");
        }
    }

    #[test]
    fn a_host_without_cgroup_v2_knows_no_path() {
        assert_eq!(Cgroups::mounted(None).path(1), None);
    }

    #[test]
    fn the_hosts_own_root_is_found() {
        let mut cgroups = Cgroups::find();
        let Some(mount) = cgroups.mount.as_ref().map(|m| m.at.clone()) else { return };
        let root = std::fs::metadata(mount).unwrap().ino();
        assert_eq!(cgroups.path(root), Some("/"));
        assert_eq!(cgroups.path(u64::MAX - 1), None);
    }
}
