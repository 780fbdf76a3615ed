//! The lab itself: a systemd as PID 1 of its own pid, mount, network, uts, ipc and cgroup namespaces.
//!
//! `boot.sh` says what the inside looks like, `keeper.sh` how it ends. The keeper is a process of its own
//! that waits for the end of a pipe which only the test holds; so a lab is taken away by the same code
//! whether its test returns, panics or is killed.
//!
//! A bare lab has no systemd and no pid namespace: see `bare.sh`.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::Spawned;
use super::keeper::{BOOT_WITHIN, cgroup2_mount, end_keeper, start_keeper, wait_for_ready};
use super::net::Network;

/// A running systemd with an empty machine around it. Dropping it ends and removes all of it.
pub struct Lab {
    kind: Kind,
    keeper: Child,
    dir: PathBuf,
    cgroup: PathBuf,
    init: i32,
    network: Network,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Systemd,
    Bare,
}

impl Kind {
    fn script(self) -> &'static str {
        match self {
            Self::Systemd => "boot",
            Self::Bare => "bare",
        }
    }

    /// Those that a command enters. It forks by `--pid`, which is the machine's own in a bare lab.
    fn namespaces(self) -> &'static [&'static str] {
        match self {
            Self::Systemd => &["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup"],
            Self::Bare => &["--mount", "--pid", "--net"],
        }
    }
}

impl Lab {
    /// Boots a lab and returns when systemd says that the boot is over.
    ///
    /// # Panics
    /// When not root, and when the boot is not over in time (with systemd's own words).
    pub fn start() -> Self {
        Self::of(Kind::Systemd)
    }

    /// One whose processes are the machine's own, without systemd: the kernel counts connections only for an agent that
    /// sees all of the host. What listens in it listens on ports that no other test uses.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn bare() -> Self {
        Self::of(Kind::Bare)
    }

    fn of(kind: Kind) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "a lab needs root: it makes namespaces and cgroups");
        let dir = tempfile::Builder::new().prefix("unwait-lab-").tempdir().expect("a scratch directory").keep();
        let cgroup = cgroup2_mount().join(dir.file_name().expect("a scratch directory has a name"));
        let booted = UnixDatagram::bind(dir.join("booted")).expect("a socket in the scratch directory");
        let mut keeper = start_keeper(kind.script(), &dir, &cgroup);

        if let Err(seen) = wait_for_ready(&booted) {
            let console = fs::read_to_string(dir.join("console.log")).unwrap_or_default();
            let errors = end_keeper(&mut keeper).err().unwrap_or_default();
            panic!("the lab did not boot within {BOOT_WITHIN:?} ({seen}); its console:\n{console}{errors}");
        }
        let init = fs::read_to_string(dir.join("init.pid")).expect("the boot script wrote its pid");
        let init = init.trim().parse().expect("the boot script wrote a number");
        let network = Network::of(init).expect("the lab's network namespace");
        Self { kind, keeper, dir, cgroup, init, network }
    }

    /// A scratch directory of this lab, at the same path inside and outside; removed at the end.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cgroup, as the machine sees it, that is the lab's root.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Where the test finds a path of the inside, such as `/etc/systemd/system`.
    pub fn inside(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let below_root = path.strip_prefix("/").unwrap_or_else(|_| panic!("{path:?} is not absolute"));
        Path::new("/proc").join(self.init.to_string()).join("root").join(below_root)
    }

    /// A command that runs as root inside all of the lab's namespaces, in a cgroup of the lab that is no
    /// unit's, with a clean environment. It dies with the process that this `Command` starts.
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string()])
            .args(self.kind.namespaces())
            .arg("--")
            .args(["setpriv", "--pdeathsig", "KILL", "--"])
            .args(argv)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null());
        let cgroup_procs = self.cgroup.join("commands/cgroup.procs");
        let join = fs::OpenOptions::new().write(true).open(&cgroup_procs).expect("the cgroup for commands");
        // SAFETY: between fork and exec there is one write, which is async-signal-safe.
        unsafe {
            command.pre_exec(move || nix::unistd::write(&join, b"0").map(drop).map_err(Into::into));
        }
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it fails, with everything it said.
    pub fn run(&self, argv: &[&str]) -> Output {
        let output = self.command(argv).output().unwrap_or_else(|error| panic!("{argv:?}: {error}"));
        assert!(
            output.status.success(),
            "{argv:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    /// What a command that succeeds prints, without the last line's end.
    pub fn stdout(&self, argv: &[&str]) -> String {
        let stdout = String::from_utf8(self.run(argv).stdout).expect("output in UTF-8");
        stdout.trim_end().to_owned()
    }

    /// Starts a command that goes on in the background until the guard is dropped.
    pub fn spawn(&self, argv: &[&str]) -> Spawned {
        Spawned::start(self.command(argv), &self.dir)
    }

    /// Writes a unit file and has systemd read it.
    pub fn add_unit(&self, name: &str, text: &str) {
        let path = self.inside("/etc/systemd/system").join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        self.run(&["systemctl", "daemon-reload"]);
    }

    /// Starts a unit and returns when its start job is done.
    pub fn start_unit(&self, unit: &str) {
        self.run(&["systemctl", "start", unit]);
    }

    pub fn stop_unit(&self, unit: &str) {
        self.run(&["systemctl", "stop", unit]);
    }

    pub fn restart_unit(&self, unit: &str) {
        self.run(&["systemctl", "restart", unit]);
    }

    /// One property of a unit, as `systemctl show` prints it.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.stdout(&["systemctl", "show", "--property", property, "--value", "--", unit])
    }

    /// The unit's journal so far.
    pub fn journal(&self, unit: &str) -> String {
        self.stdout(&["journalctl", "--no-pager", "--quiet", "--output", "cat", "--unit", unit])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() && self.kind == Kind::Systemd {
            let journal = self.command(&["journalctl", "--no-pager", "--quiet", "--lines", "60"]).output();
            let journal = journal.map(|output| output.stdout).unwrap_or_default();
            eprintln!("the lab's journal:\n{}", String::from_utf8_lossy(&journal));
        }
        if let Err(errors) = end_keeper(&mut self.keeper) {
            eprintln!("the lab was not taken away whole: {errors}");
            assert!(std::thread::panicking(), "the lab was not taken away whole: {errors}");
        }
    }
}
