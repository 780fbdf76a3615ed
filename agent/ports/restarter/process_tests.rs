//! The process restarter on real processes: shells and perl-free commands that every Debian has.

use std::path::Path;
use std::process::Child;

use serde_json::json;

use super::*;
use crate::clock::SystemClock;

/// Writes its pid file and stays; asked to end, it does what `on_term` says.
const SERVICE: &str = "#!/bin/sh
trap '%ON_TERM%' TERM
echo $$ > %DIR%/pid
echo \"$(id -u):$(id -g) $(ulimit -n) $(pwd)\" >> %DIR%/starts
env >> %DIR%/env
while :; do sleep 0.1; done
";

struct Service {
    directory: tempfile::TempDir,
    first: Option<Child>,
}

impl Service {
    fn new(on_term: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service");
        let script = SERVICE.replace("%ON_TERM%", on_term).replace("%DIR%", directory.path().to_str().unwrap());
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory, first: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn spec(&self) -> ProcessRestart {
        ProcessRestart {
            argv: vec![self.path("service").display().to_string()],
            pid_file: self.path("pid"),
            stop_timeout: Duration::from_secs(1),
            reload_signal: None,
        }
    }

    fn target(&self) -> plan::Restart {
        plan::Restart::Process(self.spec())
    }

    async fn running(mut self) -> Self {
        let mut command = std::process::Command::new(self.path("service"));
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        self.first = Some(command.current_dir(self.directory.path()).spawn().unwrap());
        until(|| std::fs::read_to_string(self.path("pid")).is_ok_and(|pid| pid.ends_with('\n'))).await;
        self
    }

    fn pid(&self) -> Option<i32> {
        std::fs::read_to_string(self.path("pid")).ok()?.trim().parse().ok()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(pid) = self.pid().filter(|pid| is_ours(*pid, self.directory.path())) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        if let Some(first) = &mut self.first {
            let _ = first.kill();
            let _ = first.wait();
        }
    }
}

fn is_ours(pid: i32, directory: &Path) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|cmdline| String::from_utf8_lossy(&cmdline).contains(directory.to_str().unwrap()))
}

async fn until(is_so: impl Fn() -> bool) {
    for _ in 0..200 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("waited 5 s in vain");
}

fn restarter() -> ProcessRestarter {
    ProcessRestarter::new(Arc::new(SystemClock))
}

/// What is journaled before its end.
async fn before(restarter: &ProcessRestarter, target: &plan::Restart) -> Before {
    let incarnation = restarter.observe(target).await.unwrap().incarnation.expect("it runs");
    let kept = restarter.remember(target, &incarnation).await.unwrap();
    Before { incarnation, kept }
}

async fn whole_restart(
    restarter: &ProcessRestarter,
    target: &plan::Restart,
    deadline: Duration,
) -> Result<Incarnation, RestartError> {
    let before = before(restarter, target).await;
    assert_eq!(restarter.restart(target, deadline).await?, Restarted::Stopping);
    restarter.start(target, &before, deadline).await
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn there_is_time_for_both_ends_beyond_the_deadline() {
    let service = Service::new("exit 0");
    assert!(restarter().overtime(&service.target()) > service.spec().stop_timeout * 2);
}

#[tokio::test]
async fn a_restart_is_another_process_of_the_same_user_directory_and_limit() {
    let service = Service::new("exit 0").running().await;
    let (restarter, target) = (restarter(), service.target());
    let before = restarter.observe(&target).await.unwrap();
    assert_eq!((before.state, before.main_pid), (RunState::Active, service.pid().map(|pid| pid as u32)));
    assert!(before.up_for.unwrap() < Duration::from_secs(60), "{before:?}");

    let new = whole_restart(&restarter, &target, LONG).await.unwrap();
    let after = restarter.observe(&target).await.unwrap();
    assert_eq!(after.incarnation.as_ref(), Some(&new));
    assert_ne!(after.incarnation, before.incarnation);
    assert!(after.up_for.unwrap() >= STABLE_FOR);

    let starts = std::fs::read_to_string(service.path("starts")).unwrap();
    let starts: Vec<&str> = starts.lines().collect();
    assert_eq!((starts.len(), starts[0]), (2, starts[1]));
    let pid = after.main_pid.unwrap() as i32;
    let stat = Process::new(pid).unwrap().stat().unwrap();
    assert_eq!((stat.session, stat.pgrp), (pid, pid), "not in a session of its own");
    for fd in 0..3 {
        assert_eq!(std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap(), Path::new("/dev/null"));
    }
    // The shell itself holds its script open at 10 or 255; nothing of ours is a socket or an epoll.
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let link = std::fs::read_link(entry.unwrap().path()).unwrap().display().to_string();
        assert!(link == "/dev/null" || link.ends_with("/service"), "{link}");
    }

    // And again, now on a process that we have started ourselves: no zombie is left that looks alive.
    let third = whole_restart(&restarter, &target, LONG).await.unwrap();
    assert_ne!(third, new);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the second process stays a zombie");
}

#[tokio::test]
async fn what_ignores_sigterm_is_killed_with_its_group_after_the_stop_timeout() {
    // Asked to end, it starts a worker instead.
    let service = Service::new("sleep 600 & echo $! > %DIR%/worker").running().await;
    let asked = Instant::now();
    whole_restart(&restarter(), &service.target(), LONG).await.unwrap();
    let worker: i32 = std::fs::read_to_string(service.path("worker")).unwrap().trim().parse().unwrap();
    until(|| start_time(worker).unwrap().is_none()).await;
    assert!(asked.elapsed() >= service.spec().stop_timeout);
    assert_eq!(std::fs::read_to_string(service.path("starts")).unwrap().lines().count(), 2);
}

#[tokio::test]
async fn what_does_not_start_again_is_a_failure_that_says_so() {
    // Ended, it takes the script's body away, so that the next start ends at once.
    let service = Service::new("echo exit 3 > $0.new; sed -i \"2s/.*/exit 3/\" $0; exit 0").running().await;
    let error = whole_restart(&restarter(), &service.target(), LONG).await.unwrap_err();
    assert!(matches!(&error, RestartError::Failed { .. }) && error.to_string().contains("exit status: 3"), "{error}");
    assert_eq!(restarter().observe(&service.target()).await.unwrap().state, RunState::Failed);
}

#[tokio::test]
async fn what_does_not_run_is_not_started() {
    let service = Service::new("exit 0");
    let restarter = restarter();
    assert_eq!(restarter.observe(&service.target()).await.unwrap().state, RunState::Inactive);
    assert!(matches!(restarter.restart(&service.target(), LONG).await, Err(RestartError::Refused { .. })));
    // A pid that is free, since its process has been waited for.
    let mut gone = std::process::Command::new("/bin/true").spawn().unwrap();
    gone.wait().unwrap();
    std::fs::write(service.path("pid"), gone.id().to_string()).unwrap();
    assert_eq!(restarter.observe(&service.target()).await.unwrap().state, RunState::Failed);
    assert!(matches!(restarter.restart(&service.target(), LONG).await, Err(RestartError::Refused { .. })));
    assert!(!service.path("starts").exists());
}

#[tokio::test]
async fn a_program_that_cannot_be_started_again_is_not_ended() {
    let service = Service::new("exit 0").running().await;
    let pid = service.pid().unwrap();
    for argv in [vec![], vec!["service".to_owned()], vec!["/nowhere/service".to_owned()]] {
        let target = plan::Restart::Process(ProcessRestart { argv, ..service.spec() });
        assert!(matches!(restarter().restart(&target, LONG).await, Err(RestartError::Refused { .. })));
        assert!(is_ours(pid, service.directory.path()));
    }
}

#[tokio::test]
async fn a_pid_file_that_proves_nothing_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let service = Service::new("exit 0");
    let path = service.path("pid");
    for text in ["0", "1", "-1", "gate", "99999999999", &std::process::id().to_string()] {
        std::fs::write(&path, text).unwrap();
        let refused = restarter().observe(&service.target()).await;
        assert!(matches!(refused, Err(RestartError::Refused { .. })), "{text}: {refused:?}");
    }
    let mut bystander = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
    std::fs::write(&path, bystander.id().to_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let writable = restarter().observe(&service.target()).await;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let foreign = Uid::effective().is_root().then(|| {
        // nobody's file, root's process
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
    });
    let foreign = match foreign {
        Some(()) => Some(restarter().restart(&service.target(), LONG).await.map(|_| ())),
        None => None,
    };
    let lives = bystander.try_wait().unwrap().is_none();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(lives);
    assert!(matches!(writable, Err(RestartError::Refused { .. })), "{writable:?}");
    assert!(matches!(foreign, None | Some(Err(RestartError::Refused { .. }))), "{foreign:?}");
}

#[tokio::test]
async fn a_recycled_pid_is_not_signalled() {
    let service = Service::new("exit 0");
    let mut bystander = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
    let pid = bystander.id() as i32;
    // The one that was meant has ended; that is all there is to do.
    let earlier = Incarnation(format!("{pid}@{}", start_time(pid).unwrap().unwrap() - 1));
    let ended = end(&service.spec(), &earlier).await;
    let lives = bystander.try_wait().unwrap().is_none();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(ended.is_ok() && lives);
}

#[tokio::test]
async fn the_next_process_is_what_the_former_one_was() {
    const OWN: &str = "umask; nice; cat /proc/self/oom_score_adj; echo \"$UNWAIT_TEST_WORD\"";
    let service = Service::new("exit 0");
    let text = std::fs::read_to_string(service.path("service")).unwrap();
    let own = format!("({OWN}) > {}", service.path("own").display());
    std::fs::write(service.path("service"), text.replace("while :", &format!("{own}\nwhile :"))).unwrap();
    let own = || std::fs::read_to_string(service.path("own")).unwrap_or_default();
    let mut command = std::process::Command::new("/bin/sh");
    let script =
        format!("umask 027; echo 123 > /proc/self/oom_score_adj; exec nice -n 5 {}", service.path("service").display());
    command.args(["-c", &script]).env("UNWAIT_TEST_WORD", "a \"word\"\nin two lines");
    let mut first = command.current_dir(service.directory.path()).spawn().unwrap();
    // Who runs the tests may be nice already.
    let nice = (procfs::process::Process::myself().unwrap().stat().unwrap().nice + 5).min(19);
    let was = format!("0027\n{nice}\n123\na \"word\"\nin two lines\n");
    until(|| own() == was).await;
    std::fs::remove_file(service.path("own")).unwrap();

    // By the agent that ended it: with its environment. By a next one: without.
    let (ours, target) = (restarter(), service.target());
    let reaped = std::thread::spawn(move || first.wait());
    whole_restart(&ours, &target, LONG).await.unwrap();
    assert_eq!(own(), was);
    let kept = before(&ours, &target).await;
    assert!(!kept.kept.to_string().contains("word"), "{kept:?}");
    assert_eq!(ours.restart(&target, LONG).await.unwrap(), Restarted::Stopping);
    restarter().start(&target, &kept, LONG).await.unwrap();
    assert_eq!(own(), format!("0027\n{nice}\n123\n\n"));
    reaped.join().unwrap().unwrap();

    // Done again, the new one counts; after the next boot it is for others to start it.
    let again = restarter().start(&target, &kept, LONG).await.unwrap();
    assert_eq!(Some(again), restarter().observe(&target).await.unwrap().incarnation);
    let mut earlier = kept;
    earlier.kept["boot"] = json!("another");
    let refused = restarter().start(&target, &earlier, LONG).await;
    assert!(matches!(refused, Err(RestartError::Refused { .. })), "{refused:?}");
}

#[tokio::test]
async fn what_an_agent_that_was_killed_had_started_does_not_run_beside_the_next() {
    // The second start names itself nowhere, and has a worker with an environment of its own.
    const SLOW: &str = "#!/bin/sh
trap 'exit 0' TERM
echo $$ >> %DIR%/starts
if [ $(wc -l < %DIR%/starts) = 2 ]; then env -i sleep 600 & echo $! > %DIR%/worker; wait; fi
echo $$ > %DIR%/pid
while :; do sleep 0.1; done
";
    let service = Service::new("");
    let directory = service.directory.path().to_str().unwrap().to_owned();
    std::fs::write(service.path("service"), SLOW.replace("%DIR%", &directory)).unwrap();
    let service = service.running().await;
    let numbers = |name: &str| -> Vec<i32> {
        let text = std::fs::read_to_string(service.path(name)).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };

    let (killed, target) = (restarter(), service.target());
    let kept = before(&killed, &target).await;
    killed.restart(&target, LONG).await.unwrap();
    tokio::select! {
        started = killed.start(&target, &kept, LONG) => panic!("it named itself: {started:?}"),
        () = until(|| !numbers("worker").is_empty()) => {}
    }
    restarter().start(&target, &kept, LONG).await.unwrap();

    let starts = numbers("starts");
    assert_eq!((starts.len(), service.pid()), (3, starts.last().copied()));
    for left in [starts[1], numbers("worker")[0]] {
        assert_eq!(start_time(left).unwrap(), None, "it runs beside the next");
    }
}

#[tokio::test]
async fn what_names_itself_nowhere_in_time_is_ended_again_with_its_workers() {
    // Ended, it leaves a script behind that writes no pid file.
    let service =
        Service::new("sed -i s,/pid,/elsewhere, $0; sed -i \"s/^env.*/sleep 600 \\&/\" $0; exit 0").running().await;
    let target = service.target();
    let error = whole_restart(&restarter(), &target, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(&error, RestartError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("named no new process by the deadline"), "{error}");
    let written = std::fs::read_to_string(service.path("elsewhere")).expect("it was started");
    let written: i32 = written.trim().parse().unwrap();
    assert_eq!(start_time(written).unwrap(), None, "it was left running");
    let left = procfs::process::all_processes().unwrap().filter_map(|process| process.ok()?.stat().ok());
    assert_eq!(
        left.filter(|stat| stat.session == written && stat.state != 'Z').count(),
        0,
        "its worker was left running"
    );
}
