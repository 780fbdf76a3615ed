//! The network namespaces of the host: which there are, and how to look into one without staying in it.
//!
//! A dump sees one namespace, that of its socket's maker; containers have others. Here they are found by the
//! processes that live in them and by the bind mounts that keep them. A [`Namespace`] is a number and a few ways to
//! get there, never an open descriptor: that would keep alive what its owner has taken down. The agent's own
//! threads never leave their namespace (a way back that fails would send its HTTP calls through a container):
//! [`Namespace::inside`] runs its work on a thread that ends with it. Called by the collector alone.
//!
//! Not found: a namespace that only a thread other than its process's first, an open descriptor or a socket is in.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, readlinkat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;

use super::netlink::{Diag, DumpError};

/// Where `ip netns`, containerd and podman, and where Docker, mount the namespaces that they make.
pub(super) const MOUNTS: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// Several, so that a worker that ends takes its namespace out of sight only until the next discovery.
const PROCESSES_KEPT: usize = 4;

/// One network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespace {
    /// The number in `net:[NUMBER]`, `st_ino` of its file. The kernel gives it again once the namespace is gone.
    pub inode: u64,
    /// True for the agent's own namespace.
    pub own: bool,
    proc: PathBuf,
    /// In the order of discovery, which is that of their numbers on most hosts.
    processes: Vec<i32>,
    mounts: Vec<PathBuf>,
}

/// The namespaces that a discovery found, and the parts that it was not allowed to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Discovery {
    /// The own one first.
    pub namespaces: Vec<Namespace>,
    /// Processes whose namespace may not be read. CAP_SYS_PTRACE would show it.
    pub unreadable_processes: u64,
    /// Directories and mounts that may not be read. CAP_DAC_READ_SEARCH would show them.
    pub unreadable_mounts: Vec<PathBuf>,
}

/// Why a namespace could not be looked into.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnterError {
    /// No process that was known in it is there any more, and no mount: it has ended, or lives on in others that
    /// the next discovery finds.
    #[error("network namespace {inode} has disappeared")]
    Gone { inode: u64 },
    #[error(
        "cannot enter network namespace {inode} by {by}: {errno}; the agent needs CAP_SYS_ADMIN, and CAP_SYS_PTRACE \
         for the processes of other users"
    )]
    Refused { inode: u64, by: String, errno: Errno },
    #[error("cannot start a thread for network namespace {inode}: {source}")]
    Thread { inode: u64, source: io::Error },
    #[error("cannot open {path} of network namespace {inode}: {source}")]
    Open { inode: u64, path: String, source: io::Error },
    #[error("in the network namespace {inode}: {source}")]
    Diag { inode: u64, source: DumpError },
}

impl EnterError {
    /// We may not go in, or ask there: its tables in /proc may still be read. Everything else is a failure of this
    /// one look.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Diag { source, .. } => source.is_refusal(),
            Self::Gone { .. } | Self::Thread { .. } | Self::Open { .. } => false,
        }
    }
}

/// Finds every namespace that a process below `proc` (`/proc`) is in, or that is mounted in one of `mounts`.
///
/// Some 6 µs a process. What ends meanwhile is left out.
///
/// # Errors
/// Where `proc` is not a readable procfs: then not even the own namespace is known.
pub(super) fn discover(proc: &Path, mounts: &[&Path]) -> io::Result<Discovery> {
    let root = File::open(proc)?;
    let own = std::fs::metadata(proc.join("self/ns/net"))?;
    let mut found = Discovery::default();
    found.namespace(own.ino(), proc).own = true;
    for entry in std::fs::read_dir(proc)? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        match readlinkat(&root, &*PathBuf::from(name).join("ns/net")).map(|link| number_in(link.as_bytes())) {
            Ok(Some(inode)) => {
                let namespace = found.namespace(inode, proc);
                if namespace.processes.len() < PROCESSES_KEPT {
                    namespace.processes.push(pid);
                }
            }
            Err(Errno::EACCES | Errno::EPERM) => found.unreadable_processes += 1,
            // It has ended, or is ending.
            Ok(None) | Err(_) => {}
        }
    }
    for directory in mounts {
        for path in mounted_in(directory, &mut found.unreadable_mounts) {
            match std::fs::metadata(&path) {
                // Any other file is one whose mount is gone: all namespaces lie in one nsfs.
                Ok(file) if file.dev() == own.dev() => found.namespace(file.ino(), proc).mounts.push(path),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found.unreadable_mounts.push(path),
                Ok(_) | Err(_) => {}
            }
        }
    }
    Ok(found)
}

/// The entries of a directory of mounts; none where it does not exist.
fn mounted_in(directory: &Path, unreadable: &mut Vec<PathBuf>) -> Vec<PathBuf> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(_) => {
            unreadable.push(directory.to_owned());
            Vec::new()
        }
    }
}

/// The number in `net:[4026531840]`.
fn number_in(link: &[u8]) -> Option<u64> {
    let digits = link.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    str::from_utf8(digits).ok()?.parse().ok()
}

impl Discovery {
    /// Where nothing else can be known.
    pub fn of_our_own() -> Self {
        let own = Namespace { inode: 0, own: true, proc: "/proc".into(), processes: Vec::new(), mounts: Vec::new() };
        Self { namespaces: vec![own], ..Self::default() }
    }

    fn namespace(&mut self, inode: u64, proc: &Path) -> &mut Namespace {
        let at = self.namespaces.iter().position(|known| known.inode == inode).unwrap_or(self.namespaces.len());
        if at == self.namespaces.len() {
            let (processes, mounts) = (Vec::new(), Vec::new());
            self.namespaces.push(Namespace { inode, own: false, proc: proc.to_owned(), processes, mounts });
        }
        &mut self.namespaces[at]
    }
}

impl Namespace {
    /// A netlink socket inside it, for the caller's use until the end of the scan: it keeps the namespace alive.
    pub fn diag(&self) -> Result<Diag, EnterError> {
        self.inside(Diag::here)?.map_err(|source| EnterError::Diag { inode: self.inode, source })
    }

    /// Runs `work` inside, on a thread of its own. Needs CAP_SYS_ADMIN. Some 50 µs.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, EnterError> {
        std::thread::scope(|scope| {
            let entered = std::thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || self.enter().map(|()| work()))
                .map_err(|source| EnterError::Thread { inode: self.inode, source })?;
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread, for good.
    fn enter(&self) -> Result<(), EnterError> {
        let by_process = self.processes.iter().map(|pid| self.proc.join(pid.to_string()).join("ns/net"));
        for path in by_process.chain(self.mounts.iter().cloned()) {
            let refused = |errno| EnterError::Refused { inode: self.inode, by: path.display().to_string(), errno };
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(refused(Errno::EACCES)),
                Err(_) => continue,
            };
            // The number of a process may be another's by now, and that of a mount may be mounted over.
            if !file.metadata().is_ok_and(|file| file.ino() == self.inode) {
                continue;
            }
            return setns(&file, CloneFlags::CLONE_NEWNET).map_err(refused);
        }
        Err(EnterError::Gone { inode: self.inode })
    }

    /// True where the tables can be read without entering: a process that lives in the namespace was found.
    pub fn can_be_read_from_outside(&self) -> bool {
        !self.processes.is_empty()
    }

    /// Hands the namespace's `net` directory of /proc (`snmp`, `sockstat`, `tcp` and the like) to `read`.
    ///
    /// By a process that lives in it, with no privilege beyond having found it; where only a mount keeps it, from
    /// inside. `read` may be called again where a process ends under it.
    pub fn read_net<T: Send>(&self, read: impl Fn(&Path) -> io::Result<T> + Sync) -> Result<T, EnterError> {
        for pid in &self.processes {
            let path = self.proc.join(pid.to_string());
            // Holds on to this very process, not to its number, and to none of its namespaces.
            let Ok(process) = open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) else {
                continue;
            };
            let result = read(&PathBuf::from(format!("/proc/self/fd/{}/net", process.as_raw_fd())));
            // What was read is of this namespace only if the process has not ended, nor moved, nor been another one.
            if readlinkat(&process, "ns/net").is_ok_and(|link| number_in(link.as_bytes()) == Some(self.inode)) {
                return result.map_err(|source| self.unread(&path, source));
            }
        }
        if self.mounts.is_empty() {
            return Err(EnterError::Gone { inode: self.inode });
        }
        let path = Path::new("/proc/thread-self");
        self.inside(|| read(&path.join("net")))?.map_err(|source| self.unread(path, source))
    }

    fn unread(&self, process: &Path, source: io::Error) -> EnterError {
        EnterError::Open { inode: self.inode, path: process.join("net").display().to_string(), source }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::super::proc_table;
    use super::super::wire::{CLOSE_WAIT, Request, Walk};
    use super::*;

    /// A network namespace with a loopback, and the process that it lives in; both end with this.
    pub struct Room {
        process: Child,
    }

    impl Room {
        /// `None` without the right to make one.
        pub fn new() -> Option<Self> {
            if !nix::unistd::geteuid().is_root() {
                eprintln!("skipped: making a network namespace needs root");
                return None;
            }
            Some(Self::ready(Command::new("unshare").args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up && echo && exec sleep 600",
            ])))
        }

        /// Another process in the same namespace.
        pub fn joined(&self) -> Self {
            let namespace = format!("--net=/proc/{}/ns/net", self.process.id());
            Self::ready(Command::new("nsenter").args([&namespace, "sh", "-c", "echo && exec sleep 600"]))
        }

        fn ready(command: &mut Command) -> Self {
            let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            let read = BufReader::new(process.stdout.take().unwrap()).read_line(&mut line);
            let room = Self { process };
            assert_eq!(read.unwrap(), 1, "the process in the namespace did not start");
            room
        }

        fn pid(&self) -> i32 {
            self.process.id().try_into().unwrap()
        }

        fn inode(&self) -> u64 {
            std::fs::metadata(format!("/proc/{}/ns/net", self.pid())).unwrap().ino()
        }

        /// As a discovery of the machine finds it.
        pub fn found(&self) -> Namespace {
            find(self.inode(), &[]).expect("it is found")
        }
    }

    impl Drop for Room {
        fn drop(&mut self) {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }

    fn find(inode: u64, mounts: &[&Path]) -> Option<Namespace> {
        let found = discover("/proc".as_ref(), mounts).unwrap().namespaces;
        assert_eq!(found.iter().map(|n| n.own).collect::<Vec<_>>().iter().filter(|own| **own).count(), 1);
        assert!(found[0].own, "the own one is the first");
        found.into_iter().find(|namespace| namespace.inode == inode)
    }

    fn leak() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        listener.accept().unwrap().0
    }

    fn ports_in_close_wait(diag: &mut Diag) -> BTreeSet<u16> {
        let mut ports = BTreeSet::new();
        let request = Request { walk: Walk::Both, states: 1 << CLOSE_WAIT, info: false };
        diag.dump(request, |entry| _ = ports.insert(entry.identity.local().port())).unwrap();
        ports
    }

    /// With room for so many further descriptors. Each test has a process of its own.
    pub fn with_descriptors<T>(count: u64, work: impl FnOnce() -> T) -> T {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let lowest_free = File::open("/dev/null").unwrap().as_raw_fd() as u64;
        setrlimit(Resource::RLIMIT_NOFILE, lowest_free + count, hard).unwrap();
        let done = work();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        done
    }

    #[test]
    fn out_of_descriptors_a_discovery_is_an_error_and_no_empty_host() {
        let Some(room) = Room::new() else { return };
        let mut failed = 0;
        for count in 0..4 {
            let found = with_descriptors(count, || discover("/proc".as_ref(), &[]));
            match found {
                Ok(found) => assert!(found.namespaces.iter().any(|n| n.inode == room.inode()), "{found:?}"),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                    failed += 1;
                }
            }
        }
        assert!((1..4).contains(&failed), "{failed} of 4");
    }

    fn own_inode() -> u64 {
        std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
    }

    /// The interfaces of a namespace.
    fn interfaces(of: &Namespace) -> String {
        of.read_net(|net| std::fs::read_to_string(net.join("dev"))).unwrap()
    }

    fn within_ten_seconds(mut holds: impl FnMut() -> bool) -> bool {
        (0..1000).any(|_| {
            holds() || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        })
    }

    #[test]
    fn sockets_inside_are_seen_from_any_thread_and_the_own_namespace_is_not_left() {
        let Some(room) = Room::new() else { return };
        let (namespace, at_home) = (room.found(), own_inode());
        assert!(!namespace.own && namespace.processes.contains(&room.pid()));
        let held = namespace.inside(leak).unwrap();
        let port = held.local_addr().unwrap().port();
        let mut diag = namespace.diag().unwrap();
        assert_eq!(ports_in_close_wait(&mut diag), BTreeSet::from([port]));
        assert_eq!(own_inode(), at_home);
        assert!(!ports_in_close_wait(&mut Diag::new()).contains(&port), "it is in the other namespace alone");

        let from_proc = namespace.read_net(|net| proc_table::walk(net).map_err(io::Error::other)).unwrap();
        let in_close_wait: Vec<_> = from_proc.filter(|entry| entry.state == CLOSE_WAIT).collect();
        assert_eq!(in_close_wait.iter().map(|e| e.identity.local().port()).collect::<Vec<_>>(), [port]);
    }

    /// A veth's one end goes when the namespace of the other one does.
    #[test]
    fn a_look_keeps_no_namespace_alive_but_an_open_netlink_socket_would() {
        let (Some(stays), Some(goes)) = (Room::new(), Room::new()) else { return };
        let target = goes.pid().to_string();
        let status = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", stays.pid()))
            .args(["ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", &target])
            .status();
        assert!(status.unwrap().success());
        let (near, far) = (stays.found(), goes.found());
        let is_there = || interfaces(&near).contains("here:");

        let mut diag = far.diag().unwrap();
        ports_in_close_wait(&mut diag);
        far.read_net(|net| std::fs::read(net.join("snmp"))).unwrap();
        drop(goes);
        std::thread::sleep(Duration::from_millis(300));
        assert!(is_there(), "a netlink socket keeps it alive: without this, nothing would be shown below");
        assert_eq!(ports_in_close_wait(&mut diag), BTreeSet::new(), "and can still be asked");
        drop(diag);
        // `far`, the value, is still held.
        assert!(within_ten_seconds(|| !is_there()), "the namespace lives on");
        assert!(matches!(far.diag(), Err(EnterError::Gone { inode }) if inode == far.inode));
    }

    #[test]
    fn a_namespace_whose_known_process_has_ended_is_found_again_by_another_one() {
        let Some(first) = Room::new() else { return };
        let inode = first.inode();
        let before = first.found();
        let second = first.joined();
        let with_both = first.found();
        drop(first);
        assert!(matches!(before.diag(), Err(EnterError::Gone { .. })));
        assert!(matches!(before.read_net(|_| Ok(())), Err(EnterError::Gone { .. })));
        with_both.diag().expect("by the second process, which it knew");
        with_both.read_net(|net| std::fs::read(net.join("tcp"))).unwrap();
        assert_eq!(find(inode, &[]).expect("it lives on").processes, [second.pid()]);
    }

    #[test]
    fn a_namespace_that_came_and_went_is_gone_and_no_error_of_the_next_discovery() {
        let Some(room) = Room::new() else { return };
        let namespace = room.found();
        drop(room);
        assert!(matches!(namespace.inside(|| ()), Err(EnterError::Gone { .. })));
        assert_eq!(find(namespace.inode, &[]), None);
    }

    #[test]
    fn the_number_of_a_process_that_is_another_one_now_leads_nowhere() {
        let own = std::process::id().try_into().unwrap();
        let recycled =
            Namespace { inode: 1, own: false, proc: "/proc".into(), processes: vec![own], mounts: Vec::new() };
        assert!(matches!(recycled.inside(|| ()), Err(EnterError::Gone { inode: 1 })));
        assert!(matches!(recycled.read_net(|_| Ok(())), Err(EnterError::Gone { inode: 1 })));
    }

    #[test]
    fn a_namespace_that_a_mount_alone_keeps_is_found_and_read() {
        struct Mounted(PathBuf);
        impl Drop for Mounted {
            fn drop(&mut self) {
                umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
            }
        }
        let Some(room) = Room::new() else { return };
        let directory = tempfile::tempdir().unwrap();
        let (path, stale) = (directory.path().join("blue"), directory.path().join("stale"));
        std::fs::write(&path, "").unwrap();
        std::fs::write(&stale, "").unwrap();
        let source = format!("/proc/{}/ns/net", room.pid());
        mount(Some(&*source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let mounted = Mounted(path.clone());
        let inode = room.inode();
        drop(room);

        let missing = directory.path().join("missing");
        let mounts = [directory.path(), &missing];
        let namespace = find(inode, &mounts).expect("its mount keeps it");
        assert_eq!((&namespace.processes[..], &namespace.mounts[..]), (&[][..], &[path][..]));
        let held = namespace.inside(leak).unwrap();
        let port = held.local_addr().unwrap().port();
        assert_eq!(ports_in_close_wait(&mut namespace.diag().unwrap()), BTreeSet::from([port]));
        let table = namespace.read_net(|net| std::fs::read_to_string(net.join("tcp"))).unwrap();
        assert!(table.contains(&format!(":{port:04X}")), "{table}");
        drop((mounted, held));
        assert_eq!(find(inode, &mounts), None);
    }

    #[test]
    fn who_may_not_see_is_told_how_much_and_may_still_read_the_tables() {
        let Some(room) = Room::new() else { return };
        let namespace = room.found();
        let held = namespace.inside(leak).unwrap();
        let table = format!("/proc/{}/net", room.pid());
        let seen = std::thread::spawn(move || {
            // SAFETY: by itself the system call changes the calling thread alone; it ends with this test's thread.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) }, 0);
            let found = discover("/proc".as_ref(), &[]).unwrap();
            let errors = [namespace.inside(|| ()), found.namespaces[0].inside(|| ())].map(Result::unwrap_err);
            (found, errors, proc_table::walk(table.as_ref()).unwrap().collect::<Vec<_>>())
        });
        let (found, errors, rows) = seen.join().unwrap();
        assert!(found.unreadable_processes > 0, "{found:?}");
        assert!(found.namespaces.iter().all(|namespace| namespace.inode != room.inode()));
        let refused = errors.each_ref().map(|error| match error {
            EnterError::Refused { errno, .. } => *errno,
            other => panic!("{other}"),
        });
        assert_eq!(refused, [Errno::EACCES, Errno::EPERM], "another user's; the own one, without CAP_SYS_ADMIN");
        let port = held.local_addr().unwrap().port();
        assert!(rows.iter().any(|row| row.state == CLOSE_WAIT && row.identity.local().port() == port));
    }
}
