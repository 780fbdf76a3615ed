//! A real Docker on the machine itself, beside the labs: a container's network namespace and cgroups are then what an
//! agent on a host of this kind meets, hybrid cgroups included.
//!
//! dockerd is the first process of pid, mount and network namespaces of its own, with all of its files in a scratch
//! directory; killing it ends containerd, the shims and the containers, and takes every mount away. It makes no bridge
//! and no packet filter. What lies outside of all that are the cgroups `/docker/ID`, which are removed by their names.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::deadline::wait_until_seen;
use super::installed::installed;
use super::keeper::{cgroup_mounts, cgroup2_mount};
use super::net::{Network, loopback};

const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
const BUSYBOX: &str = "/bin/busybox";
const IMAGE: &str = "busybox";
/// Where [`Docker::run_leaky`]'s container listens, in its own network.
pub const PORT: u16 = 7000;

/// A running dockerd. Dropping it ends its containers too.
pub struct Docker {
    /// `unshare`, whose only child is dockerd.
    outer: Child,
    scratch: TempDir,
    containers: Vec<String>,
}

/// A container that runs.
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    pub network: Network,
}

impl Docker {
    /// Returns when it answers, with an image of busybox.
    pub fn start() -> Self {
        let own = installed("docker");
        let scratch = tempfile::Builder::new().prefix("unwait-docker-").tempdir().expect("a scratch directory");
        let at = scratch.path().display();
        // Its own /run, so that nothing of it is met under the machine's names.
        let script = format!(
            "mount -t tmpfs tmpfs /run && exec dockerd --data-root {at}/data --exec-root {at}/exec \
             --host unix://{at}/docker.sock --pidfile {at}/docker.pid --storage-driver vfs --bridge none \
             --iptables=false --ip-forward=false --ip-masq=false --exec-opt native.cgroupdriver=cgroupfs"
        );
        let log = fs::File::create(scratch.path().join("log")).expect("the scratch directory is writable");
        let mut command = Command::new("unshare");
        command
            .args(["--kill-child=KILL", "--fork", "--pid", "--mount-proc", "--net", "--propagation", "private"])
            .args(["sh", "-c", &script])
            .env("PATH", path(&own))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log);
        // SAFETY: prctl is async-signal-safe. A test that is killed takes dockerd with it.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        }
        let outer = command.spawn().expect("unshare starts");
        let docker = Self { outer, scratch, containers: Vec::new() };
        wait_until_seen("dockerd to answer", ANSWERS_WITHIN, || match docker.client(&["version"]).output() {
            Ok(said) if said.status.success() => Ok(()),
            said => Err(format!("{said:?}\n{}", docker.log())),
        });
        docker.import_busybox();
        docker
    }

    pub fn socket(&self) -> PathBuf {
        self.scratch.path().join("docker.sock")
    }

    /// A container with a network of its own, whose program accepts on [`PORT`] and never reads: whoever connects and
    /// goes away leaves a socket in CLOSE_WAIT.
    pub fn run_leaky(&mut self, name: &str) -> Container {
        let listen = [BUSYBOX, "nc", "-ll", "-p", &PORT.to_string(), "-e", BUSYBOX, "sleep", "100000"];
        let id = self.say(&[&["run", "--detach", "--net", "none", "--name", name, IMAGE], &listen[..]].concat());
        self.containers.push(id.clone());
        let network = self.network(&id);
        Container { id, network }
    }

    /// A restart gives it another one.
    fn network(&self, id: &str) -> Network {
        // Docker itself tells the pid of its own namespace.
        let members = cgroup2_mount().join("docker").join(id).join("cgroup.procs");
        wait_until_seen("the container's process", ANSWERS_WITHIN, || {
            let pids = fs::read_to_string(&members).map_err(|error| format!("{members:?}: {error}"))?;
            let pid = pids.lines().next().and_then(|pid| pid.parse().ok()).ok_or("no process")?;
            Network::of(pid).map_err(|error| error.to_string())
        })
    }

    /// When the container's present lifetime began.
    pub fn started_at(&self, container: &Container) -> String {
        self.say(&["inspect", "--format", "{{.State.StartedAt}}", &container.id])
    }

    /// Ends it at once.
    pub fn remove(&self, container: &Container) {
        self.say(&["rm", "--force", &container.id]);
    }

    fn import_busybox(&self) {
        let root = self.scratch.path().join("image");
        let target = root.join(BUSYBOX.trim_start_matches('/'));
        fs::create_dir_all(target.parent().expect("below the root")).expect("the scratch directory is writable");
        fs::copy(BUSYBOX, target).unwrap_or_else(|error| panic!("{BUSYBOX}: {error}: `tests/run` installs it"));
        let tar = self.scratch.path().join("image.tar");
        let made = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status();
        assert!(made.expect("tar starts").success());
        self.say(&["import", tar.to_str().expect("UTF-8"), IMAGE]);
    }

    /// What the client prints, without the last line's end.
    fn say(&self, arguments: &[&str]) -> String {
        let said = self.client(arguments).output().expect("docker starts");
        assert!(said.status.success(), "docker {arguments:?}: {said:?}\n{}", self.log());
        String::from_utf8(said.stdout).expect("UTF-8").trim_end().to_owned()
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(installed("docker").join("usr/bin/docker"));
        let host = format!("unix://{}", self.socket().display());
        command.args(["--config", self.scratch.path().to_str().expect("UTF-8"), "--host", &host]).args(arguments);
        command
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// dockerd, as the machine sees it.
    fn init(&self) -> Option<i32> {
        let outer = self.outer.id();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
        children.trim().parse().ok()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("dockerd:\n{}", self.log());
        }
        // The first process of a pid namespace is reaped when all others in it are gone, and `unshare` ends after that.
        match self.init() {
            Some(pid) => drop(kill(Pid::from_raw(pid), Signal::SIGKILL)),
            None => drop(self.outer.kill()),
        }
        drop(self.outer.wait());
        for mount in cgroup_mounts() {
            for id in &self.containers {
                drop(fs::remove_dir(mount.join("docker").join(id)));
            }
            // Where another Docker has containers, it is not empty.
            drop(fs::remove_dir(mount.join("docker")));
        }
    }
}

impl Container {
    /// As `docker ps` shows it, and the agent names it.
    pub fn service(&self) -> String {
        format!("container:{}", &self.id[..12])
    }

    /// So many clients connect and go away.
    pub fn leak(&self, sockets: usize) {
        for _ in 0..sockets {
            // Its program may have been started a moment ago; what is refused leaves nothing behind.
            wait_until_seen("the container to listen", ANSWERS_WITHIN, || {
                self.network.connect(loopback(PORT)).map(drop).map_err(|error| error.to_string())
            });
        }
    }
}

/// The unpacked programs first: dockerd finds containerd, its shim and runc by it.
fn path(installed: &Path) -> String {
    let own = ["usr/sbin", "usr/bin"].map(|part| installed.join(part).display().to_string());
    format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", own.join(":"))
}
