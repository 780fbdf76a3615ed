//! The docker restarter on a real podman's compatible API, in pid, mount and network namespaces of its own.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::clock::SystemClock;
use crate::ports::installed::installed;

const LONG: Duration = Duration::from_secs(60);
const IMAGE: &str = "localhost/busybox";
const SLEEP: &str = "trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.1; done";

/// podman's service is the first process of its pid namespace: killing it ends the containers and their monitors.
struct Podman {
    /// `unshare`, whose only child is podman.
    outer: Child,
    directory: tempfile::TempDir,
}

impl Podman {
    /// With an image of busybox.
    async fn start() -> Self {
        use std::os::unix::process::CommandExt;
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let write = |name: &str, text: String| {
            let path = at.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let (own, dir) = (installed("podman"), at.display());
        // podman 5 knows netavark alone; Debian's 4.3 is played with what it has without further packages.
        let network = if own.join("usr/lib/podman/netavark").exists() { "netavark" } else { "cni" };
        // runc of Docker's packages: crun 1.8 does not run where cgroups are hybrid.
        write(
            "containers.conf",
            format!(
                "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n\
                 conmon_path = [\"{own}/usr/bin/conmon\"]\n[engine.runtimes]\nrunc = [\"{runc}/usr/sbin/runc\"]\n\
                 [network]\nnetwork_backend = \"{network}\"\n",
                own = own.display(),
                runc = installed("docker").display()
            ),
        );
        write(
            "storage.conf",
            format!("[storage]\ndriver = \"vfs\"\nrunroot = \"{dir}/run\"\ngraphroot = \"{dir}/graph\"\n"),
        );
        write(".config/containers/policy.json", "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}".into());
        let script = format!(
            "mount -t tmpfs tmpfs /run && exec {}/usr/bin/podman system service --time 0 unix://{dir}/sock",
            own.display()
        );
        let mut command = Command::new("unshare");
        command
            .args(["--kill-child=KILL", "--fork", "--pid", "--mount-proc", "--net", "--propagation", "private"])
            .args(["sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        environment(&mut command, at);
        // SAFETY: prctl(2) alone between fork and exec.
        unsafe { command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        let podman = Self { outer: command.spawn().unwrap(), directory };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !podman.client(&["version"]).status.success() {
            assert!(Instant::now() < deadline, "podman does not answer within 30 s");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let root = podman.directory.path().join("image");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static: `tests/run` installs it");
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        let tar = podman.directory.path().join("image.tar");
        assert!(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status().unwrap().success());
        podman.say(&["import", tar.to_str().unwrap(), IMAGE]);
        podman
    }

    fn target(&self, container: &str) -> plan::Restart {
        plan::Restart::Docker { container: container.into(), socket: self.directory.path().join("sock") }
    }

    /// The service itself does what is asked: the client only talks to it.
    fn client(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(installed("podman").join("usr/bin/podman"));
        environment(&mut command, self.directory.path());
        let socket = format!("unix://{}", self.directory.path().join("sock").display());
        command.args(["--remote", "--url", &socket]).args(arguments).output().unwrap()
    }

    fn say(&self, arguments: &[&str]) -> String {
        let said = self.client(arguments);
        assert!(said.status.success(), "podman {arguments:?}: {said:?}");
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    }

    fn run(&self, options: &[&str]) -> String {
        self.say(&[&["run", "--detach", "--stop-timeout", "5"], options, &[IMAGE, "/bin/sh", "-c", SLEEP]].concat())
    }
}

fn environment(command: &mut Command, at: &Path) {
    command
        .env("HOME", at)
        .env("CONTAINERS_CONF", at.join("containers.conf"))
        .env("CONTAINERS_STORAGE_CONF", at.join("storage.conf"))
        .env("LD_LIBRARY_PATH", installed("podman").join("usr/lib/x86_64-linux-gnu"));
}

impl Drop for Podman {
    fn drop(&mut self) {
        let outer = self.outer.id();
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
        match children.trim().parse() {
            Ok(podman) => drop(kill(Pid::from_raw(podman), Signal::SIGKILL)),
            Err(_) => drop(self.outer.kill()),
        }
        drop(self.outer.wait());
        // Its cgroups lie outside of all that; where another podman has containers, they are not empty.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let of_cgroups = |line: &&str| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup"));
        for mount in mounts.lines().filter(of_cgroups).filter_map(|line| line.split(' ').nth(1)) {
            let parent = Path::new(mount).join("libpod_parent");
            for child in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(child.path());
            }
            let _ = std::fs::remove_dir(parent);
        }
    }
}

#[tokio::test]
async fn containers_of_podman_are_restarted_by_name_and_found_again_once_they_are_made_anew() {
    let podman = Podman::start().await;
    let restarter = DockerRestarter::new(Arc::new(SystemClock));
    let id = podman.run(&["--net", "none", "--name", "web"]);
    let web = podman.target("web");
    assert_eq!(restarter.container_id(&web).await.unwrap().as_ref(), Some(&id));
    let before = restarter.observe(&web).await.unwrap();
    assert_eq!(before.state, RunState::Active);
    assert_eq!(restarter.own_deadline(&web).await.unwrap(), Duration::from_secs(5 + 90 + 10));
    let new = restarter.restart(&web, LONG).await.unwrap().new_incarnation();
    assert_ne!(Some(&new), before.incarnation.as_ref());
    assert_eq!(restarter.observe(&podman.target(&id[..12])).await.unwrap().incarnation, Some(new));

    let guest = podman.run(&["--net", "container:web", "--name", "guest"]);
    assert_eq!(restarter.dependents(&web).await.unwrap(), ["guest"]);
    let refused = restarter.restart(&web, LONG).await;
    assert!(matches!(&refused, Err(RestartError::Refused { .. })), "{refused:?}");
    podman.say(&["rm", "--force", &guest]);

    // Quadlet says so of the containers of its units; `podman generate systemd` too.
    podman.run(&["--net", "none", "--name", "owned", "--label", "PODMAN_SYSTEMD_UNIT=owned-web.service"]);
    let owned = podman.target("owned");
    let why = restarter.unfit(&owned).await.unwrap().unwrap();
    assert!(why.contains("write `service: owned-web.service` instead"), "{why}");
    let before = restarter.observe(&owned).await.unwrap().incarnation;
    let refused = restarter.restart(&owned, LONG).await;
    assert!(matches!(&refused, Err(RestartError::Refused { detail, .. }) if *detail == why), "{refused:?}");
    assert_eq!(restarter.observe(&owned).await.unwrap().incarnation, before);
    assert_eq!(restarter.unfit(&web).await.unwrap(), None);

    podman.say(&["stop", "web"]);
    assert_eq!(restarter.observe(&web).await.unwrap().state, RunState::Inactive);
    let refused = restarter.restart(&web, LONG).await;
    assert!(matches!(&refused, Err(RestartError::Refused { .. })), "{refused:?}");

    podman.say(&["rm", "web"]);
    assert!(matches!(restarter.container_id(&web).await, Err(RestartError::Unknown { .. })));
    let again = podman.run(&["--net", "none", "--name", "web"]);
    assert_eq!(restarter.container_id(&web).await.unwrap().as_ref(), Some(&again));
    assert_ne!(again, id);
}
