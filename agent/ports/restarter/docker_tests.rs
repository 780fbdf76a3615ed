//! The docker restarter on a real dockerd, in pid, mount and network namespaces of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::clock::SystemClock;
use crate::ports::installed::installed;

const LONG: Duration = Duration::from_secs(60);

/// dockerd is the first process of its pid namespace: killing it ends the containers, and takes every mount away.
struct Docker {
    /// `unshare`, whose only child is dockerd.
    outer: Child,
    directory: tempfile::TempDir,
    containers: Vec<String>,
}

impl Docker {
    /// With an image `busybox`.
    async fn start() -> Self {
        use std::os::unix::process::CommandExt;
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        let script = format!(
            "mount -t tmpfs tmpfs /run && exec dockerd --data-root {at}/data --exec-root {at}/exec \
             --host unix://{at}/sock --pidfile {at}/pid --storage-driver vfs --bridge none --iptables=false \
             --ip-forward=false --ip-masq=false --exec-opt native.cgroupdriver=cgroupfs"
        );
        let own = installed("docker");
        let path = format!("{0}/usr/sbin:{0}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin", own.display());
        let mut command = Command::new("unshare");
        command
            .args(["--kill-child=KILL", "--fork", "--pid", "--mount-proc", "--net", "--propagation", "private"])
            .args(["sh", "-c", &script])
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: prctl(2) alone between fork and exec.
        unsafe { command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        let docker = Self { outer: command.spawn().unwrap(), directory, containers: Vec::new() };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !docker.client(&["version"]).status.success() {
            assert!(Instant::now() < deadline, "dockerd does not answer within 30 s");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let root = docker.directory.path().join("image");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static: `tests/run` installs it");
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        let tar = docker.directory.path().join("image.tar");
        assert!(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status().unwrap().success());
        docker.say(&["import", tar.to_str().unwrap(), "busybox"]);
        docker
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    fn client(&self, arguments: &[&str]) -> Output {
        Command::new(installed("docker").join("usr/bin/docker"))
            .args(["--config", self.directory.path().to_str().unwrap()])
            .args(["--host", &format!("unix://{}", self.socket().display())])
            .args(arguments)
            .output()
            .unwrap()
    }

    fn say(&self, arguments: &[&str]) -> String {
        let said = self.client(arguments);
        assert!(said.status.success(), "docker {arguments:?}: {said:?}");
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    }

    /// Runs `script`; its id.
    fn run(&mut self, options: &[&str], script: &str) -> String {
        let all = [&["run", "--detach"], options, &["busybox", "/bin/sh", "-c", script]].concat();
        let id = self.say(&all);
        self.containers.push(id.clone());
        id
    }

    fn target(&self, container: &str) -> plan::Restart {
        plan::Restart::Docker { container: container.into(), socket: self.socket() }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let outer = self.outer.id();
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
        match children.trim().parse() {
            Ok(dockerd) => drop(kill(Pid::from_raw(dockerd), Signal::SIGKILL)),
            Err(_) => drop(self.outer.kill()),
        }
        drop(self.outer.wait());
        // Its cgroups lie outside of all that.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let of_cgroups = |line: &&str| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup"));
        for mount in mounts.lines().filter(of_cgroups).filter_map(|line| line.split(' ').nth(1)) {
            for id in &self.containers {
                let _ = std::fs::remove_dir(format!("{mount}/docker/{id}"));
            }
            // Where another Docker has containers, it is not empty.
            let _ = std::fs::remove_dir(format!("{mount}/docker"));
        }
    }
}

const SLEEP: &str = "trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.1; done";

fn restarter() -> DockerRestarter {
    DockerRestarter::new(Arc::new(SystemClock))
}

#[tokio::test]
async fn containers_are_restarted_by_id_and_by_name_and_what_may_not_be_is_refused() {
    let mut docker = Docker::start().await;
    let restarter = restarter();
    let alone = ["--net", "none"];

    let web = docker.run(&["--net", "none", "--name", "web", "--stop-timeout", "7"], SLEEP);
    let by_id = docker.target(&web[..12]);
    let before = restarter.observe(&by_id).await.unwrap();
    assert_eq!((before.state, before.main_pid), (RunState::Active, None));
    assert!(before.up_for.unwrap() < LONG);
    assert_eq!(restarter.own_deadline(&by_id).await.unwrap(), Duration::from_secs(7 + 90 + 10));
    assert_eq!(restarter.settles_within(&by_id).await.unwrap(), Duration::from_secs(7 + 5));
    let new = restarter.restart(&by_id, LONG).await.unwrap().new_incarnation();
    assert_ne!(Some(&new), before.incarnation.as_ref());
    let after = restarter.observe(&docker.target("web")).await.unwrap();
    assert_eq!(after.incarnation, Some(new));
    assert!(after.up_for.unwrap() >= STABLE_FOR && after.up_for < before.up_for.map(|up| up + LONG));

    // Its network namespace is another's too.
    let guest = docker.run(&["--net", "container:web", "--name", "guest"], SLEEP);
    assert_eq!(restarter.dependents(&by_id).await.unwrap(), ["guest"]);
    let refused = restarter.restart(&by_id, LONG).await;
    assert!(matches!(&refused, Err(RestartError::Refused { .. })), "{refused:?}");
    assert_eq!(restarter.observe(&by_id).await.unwrap().incarnation, after.incarnation);
    assert_eq!(restarter.dependents(&docker.target(&guest)).await.unwrap(), Vec::<String>::new());

    // What somebody stopped, or paused, is not started.
    let idle = docker.run(&alone, SLEEP);
    let target = docker.target(&idle);
    docker.say(&["pause", &idle]);
    assert_eq!(restarter.observe(&target).await.unwrap().state, RunState::Frozen);
    let refused = restarter.restart(&target, LONG).await;
    assert!(matches!(&refused, Err(RestartError::Refused { .. })), "{refused:?}");
    docker.say(&["unpause", &idle]);
    docker.say(&["stop", &idle]);
    let stopped = Liveness { state: RunState::Inactive, incarnation: None, main_pid: None, up_for: None };
    assert_eq!(restarter.observe(&target).await.unwrap(), stopped);
    let refused = restarter.restart(&target, LONG).await;
    assert!(matches!(&refused, Err(RestartError::Refused { .. })), "{refused:?}");
    assert_eq!(restarter.observe(&target).await.unwrap(), stopped);

    // Its second lifetime ends at once.
    let once = docker.run(&alone, &format!("/bin/busybox mkdir /once || exit 3; {SLEEP}"));
    let error = restarter.restart(&docker.target(&once), LONG).await.unwrap_err();
    assert!(matches!(error, RestartError::Failed { .. }) && error.to_string().contains("exit code 3"), "{error}");

    // What may take for ever to end is never killed.
    let slow = "trap '/bin/busybox sleep 2; echo its own end; exit 0' TERM; while :; do /bin/busybox sleep 0.1; done";
    let patient = docker.run(&["--net", "none", "--stop-timeout", "-1"], slow);
    let target = docker.target(&patient);
    assert_eq!(restarter.own_deadline(&target).await.unwrap(), Duration::from_secs(15 * 60 + 90 + 10));
    assert!(restarter.caveats(&target).await[0].contains("--stop-timeout -1"));
    assert_eq!(restarter.caveats(&by_id).await, Vec::<String>::new());
    restarter.restart(&target, LONG).await.unwrap().new_incarnation();
    assert_eq!(docker.say(&["logs", &patient]), "its own end");

    for nobody in ["nobody", "lxc:web", "../web"] {
        let error = restarter.observe(&docker.target(nobody)).await.unwrap_err();
        assert!(matches!(error, RestartError::Unknown { .. }), "{nobody}: {error}");
    }
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_unreachable_by_its_socket() {
    let target = plan::Restart::Docker { container: "web".into(), socket: "/nowhere/docker.sock".into() };
    let error = restarter().observe(&target).await.unwrap_err();
    assert!(matches!(error, RestartError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/docker.sock"), "{error}");
}
