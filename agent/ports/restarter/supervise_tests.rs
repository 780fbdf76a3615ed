//! The restarter of runit and s6 on real ones: a `runsv` or an `s6-supervise` of its own for each service.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::clock::SystemClock;
use crate::ports::installed::installed;

const LONG: Duration = Duration::from_secs(30);
const BOTH: [Supervisor; 2] = [Supervisor::Runit, Supervisor::S6];

const SLEEPS: &str = "exec /bin/sleep 600";
const IGNORES_TERM: &str = "trap '' TERM; while :; do /bin/sleep 0.1; done";

struct Service {
    by: Supervisor,
    supervisor: Child,
    directory: tempfile::TempDir,
}

impl Service {
    /// Supervised, and up. `finish` is its finish script.
    async fn up(by: Supervisor, run: &str, finish: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, script) in [("run", run), ("finish", finish)] {
            let path = directory.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let programs = installed("supervise").join("usr");
        let mut supervisor = Command::new(programs.join("bin").join(match by {
            Supervisor::Runit => "runsv",
            Supervisor::S6 => "s6-supervise",
        }));
        supervisor
            .arg(directory.path())
            .env("LD_LIBRARY_PATH", programs.join("lib/x86_64-linux-gnu"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: prctl(2) alone between fork and exec. A test that is killed takes its supervisor with it.
        unsafe { supervisor.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        let supervisor = supervisor.spawn().unwrap();
        let service = Self { by, supervisor, directory };
        service.until("the service to be up", |seen| seen.state == RunState::Active).await;
        service
    }

    /// Up, and its shell has come as far as to ignore SIGTERM.
    async fn ignoring_sigterm(by: Supervisor) -> Self {
        let service = Self::up(by, IGNORES_TERM, "exit 0").await;
        let ignores = |seen: &Liveness| {
            let main = seen.main_pid.expect("it is up");
            let status = std::fs::read_to_string(format!("/proc/{main}/status")).unwrap_or_default();
            let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t"));
            let ignored = ignored.and_then(|bits| u64::from_str_radix(bits, 16).ok()).unwrap_or_default();
            ignored >> (libc::SIGTERM - 1) & 1 == 1
        };
        service.until("its shell to ignore SIGTERM", ignores).await;
        service
    }

    fn spec(&self) -> SuperviseRestart {
        SuperviseRestart { by: self.by, dir: self.directory.path().into(), stop_timeout: Duration::from_secs(1) }
    }

    fn target(&self) -> plan::Restart {
        plan::Restart::Supervise(self.spec())
    }

    async fn observe(&self) -> Liveness {
        restarter().observe(&self.target()).await.unwrap()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Liveness) -> bool) -> Liveness {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let seen = restarter().observe(&self.target()).await;
            if let Ok(seen) = &seen
                && is_so(seen)
            {
                return seen.clone();
            }
            assert!(Instant::now() < deadline, "waited 10 s in vain for {what}: {seen:?}");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// As `sv` and `s6-svc` say it.
    fn tell(&self, byte: u8) {
        Directory(&self.spec()).control().unwrap().write_all(&[byte]).unwrap();
    }

    async fn refused(&self) -> String {
        match restarter().restart(&self.target(), LONG).await {
            Err(error @ RestartError::Refused { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

/// The supervisor first, or it would start the service again.
impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        let works_here = |pid: &i32| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|works_in| works_in == self.directory.path())
        };
        let all = procfs::process::all_processes().into_iter().flatten();
        for pid in all.filter_map(|process| Some(process.ok()?.pid)).filter(works_here) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn restarter() -> SuperviseRestarter {
    SuperviseRestarter::new(Arc::new(SystemClock))
}

/// The story of one service for each supervisor, at once.
async fn of_both(story: impl AsyncFn(Supervisor)) {
    let [runit, s6] = BOTH;
    tokio::join!(story(runit), story(s6));
}

#[tokio::test]
async fn a_restart_is_another_process_after_the_finish_script() {
    of_both(async |by| {
        let service = Service::up(by, SLEEPS, "sleep 0.3; echo >> finished").await;
        // Between its fork and its exec it still is the supervisor by its command line.
        let sleeps = |seen: &Liveness| {
            let main = seen.main_pid.expect("it is up");
            std::fs::read_to_string(format!("/proc/{main}/cmdline")).is_ok_and(|line| line.contains("sleep"))
        };
        let before = service.until("the service's own process", sleeps).await;
        assert!(before.up_for.unwrap() < LONG, "{before:?}");
        let new = restarter().restart(&service.target(), LONG).await.unwrap().new_incarnation();
        let after = service.observe().await;
        assert_eq!((after.state, after.incarnation.as_ref()), (RunState::Active, Some(&new)), "{by:?}");
        assert!(after.incarnation != before.incarnation && after.main_pid != before.main_pid);
        assert!(after.up_for.unwrap() >= STABLE_FOR);
        assert_eq!(std::fs::read_to_string(service.directory.path().join("finished")).unwrap().lines().count(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_ignores_its_end_is_killed_after_the_stop_timeout() {
    of_both(async |by| {
        let service = Service::ignoring_sigterm(by).await;
        let before = service.observe().await.incarnation;
        let asked = Instant::now();
        let new = restarter().restart(&service.target(), LONG).await.unwrap().new_incarnation();
        assert!(asked.elapsed() >= service.spec().stop_timeout);
        assert_ne!(Some(new), before, "{by:?}");
    })
    .await;
}

#[tokio::test]
async fn what_was_asked_to_end_and_has_not_yet_is_not_called_untouched() {
    of_both(async |by| {
        let service = Service::ignoring_sigterm(by).await;
        let before = service.observe().await;
        service.tell(Directory(&service.spec()).restart_byte());
        match by {
            Supervisor::Runit => {
                let ending = service.until("runsv to say so", |seen| seen.state == RunState::Changing).await;
                assert_eq!(ending.incarnation, before.incarnation);
                assert!(service.refused().await.contains("was sent TERM"));
            }
            // s6-supervise does not tell, so the lifetime must last for longer than it may take to end.
            Supervisor::S6 => {
                let patience = restarter().settles_within(&service.target()).await.unwrap();
                assert!(patience > service.spec().stop_timeout);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_person_took_down_paused_or_runs_once_is_left_alone() {
    of_both(async |by| {
        let service = Service::up(by, SLEEPS, "exit 0").await;
        service.tell(b'p');
        service.until("the service to be paused", |seen| seen.state == RunState::Inactive).await;
        assert!(service.refused().await.contains("paused"));
        service.tell(b'c');
        service.until("the service to go on", |seen| seen.state == RunState::Active).await;

        service.tell(b'd');
        let down = Liveness { state: RunState::Inactive, incarnation: None, main_pid: None, up_for: None };
        service.until("the service to be down", |seen| *seen == down).await;
        assert!(service.refused().await.contains("down, and wanted down"));
        assert_eq!(service.observe().await, down);

        service.tell(b'o');
        let once = service.until("the service to run once", |seen| seen.main_pid.is_some()).await;
        assert_eq!(once.state, RunState::Changing, "{by:?}");
        assert!(service.refused().await.contains("up, and wanted down"));
        assert_eq!(service.observe().await.main_pid, once.main_pid);
        let caveats = restarter().caveats(&service.target()).await;
        assert!(caveats.len() == 1 && caveats[0].contains("runs once"), "{caveats:?}");

        service.tell(b'u');
        service.until("the service to be wanted up", |seen| seen.state == RunState::Active).await;
        assert_eq!(restarter().caveats(&service.target()).await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn what_a_person_takes_down_meanwhile_stays_down() {
    of_both(async |by| {
        let service = Service::up(by, SLEEPS, "sleep 1").await;
        let (restarter, target) = (restarter(), service.target());
        let (restarted, ()) = tokio::join!(restarter.restart(&target, LONG), async {
            service.until("its finish script to run", |seen| seen.main_pid.is_none()).await;
            service.tell(b'd');
        });
        let error = restarted.unwrap_err();
        assert!(matches!(error, RestartError::Failed { .. }) && error.to_string().contains("wanted down"), "{error}");
        assert_eq!(service.observe().await.state, RunState::Inactive, "{by:?}");
    })
    .await;
}

#[tokio::test]
async fn what_dies_again_and_again_is_a_failure_at_the_deadline() {
    of_both(async |by| {
        // Its second lifetime, and each from then on, ends at once.
        let service = Service::up(by, &format!("mkdir once || exit 3\n{SLEEPS}"), "exit 0").await;
        let error = restarter().restart(&service.target(), Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, RestartError::Failed { .. }), "{by:?}: {error}");
        assert!(error.to_string().contains("no new process had stayed up"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_status_that_nobody_keeps_is_not_believed() {
    of_both(async |by| {
        let mut service = Service::up(by, SLEEPS, "exit 0").await;
        let main = service.observe().await.main_pid.unwrap();
        service.supervisor.kill().unwrap();
        service.supervisor.wait().unwrap();
        assert!(Path::new(&format!("/proc/{main}")).exists(), "the service outlives its supervisor");
        for asked in [
            restarter().observe(&service.target()).await.map(drop),
            restarter().restart(&service.target(), LONG).await.map(drop),
        ] {
            let error = asked.unwrap_err();
            assert!(matches!(error, RestartError::Unreachable { .. }), "{error}");
            assert!(error.to_string().contains("runs for this directory"), "{error}");
        }
        assert!(Path::new(&format!("/proc/{main}")).exists(), "it was ended without its supervisor");

        let elsewhere = SuperviseRestart { dir: service.directory.path().join("nowhere"), ..service.spec() };
        let error = restarter().observe(&plan::Restart::Supervise(elsewhere)).await.unwrap_err();
        assert!(matches!(error, RestartError::Unknown { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_status_that_names_a_stranger_is_refused() {
    let service = Service::up(Supervisor::Runit, SLEEPS, "exit 0").await;
    let mut bystander = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    let path = service.directory.path().join("supervise/status");
    let mut status = std::fs::read(&path).unwrap();
    status[12..16].copy_from_slice(&bystander.id().to_le_bytes());
    std::fs::write(&path, status).unwrap();
    let refused = restarter().restart(&service.target(), LONG).await;
    let lives = bystander.try_wait().unwrap().is_none();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(matches!(&refused, Err(RestartError::Refused { .. })), "{refused:?}");
    assert!(lives);
}

#[tokio::test]
async fn a_service_that_announces_its_readiness_counts_from_then_on() {
    let service =
        Service::up(Supervisor::S6, "mkdir once && exec sleep 600; sleep 1; echo >&5; exec sleep 600", "").await;
    std::fs::write(service.directory.path().join("notification-fd"), "5\n").unwrap();
    service.until("the service to be called not ready", |seen| seen.state == RunState::Changing).await;
    service.tell(b'r');
    let ready = service.until("the service to be ready", |seen| seen.state == RunState::Active).await;
    assert!(ready.up_for.unwrap() >= Duration::from_secs(1), "{ready:?}");
}

#[test]
fn a_status_is_read_as_each_supervisor_writes_it() {
    let hex = |text: &str| -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    };
    let up = Status { pid: 26363, wanted_up: true, finishing: false, paused: false, ending: false, ready: true };
    let down = Status { pid: 0, wanted_up: false, ..up };
    let runit = "40000000 6b060684 31ed269c";
    let s6 = "40000000 6b06069f 32223cd1 40000000 6b06069f 321c82d0 00000000";
    use Supervisor::{Runit, S6};
    for (by, text, expected) in [
        (Runit, format!("{runit} fb660000 00750001"), Some(up)),
        (Runit, format!("{runit} fb660000 00750101"), Some(Status { ending: true, ..up })),
        (Runit, format!("{runit} fb660000 00750002"), Some(Status { finishing: true, ..up })),
        (Runit, format!("{runit} fb660000 01640001"), Some(Status { paused: true, wanted_up: false, ..up })),
        (Runit, format!("{runit} 00000000 00640000"), Some(down)),
        (S6, format!("{s6} 000066fb 0000 0c"), Some(up)),
        (S6, format!("{s6} 000066fb 0000 04"), Some(Status { ready: false, ..up })),
        (S6, format!("{s6} 000066fb 000f 0e"), Some(Status { finishing: true, ..up })),
        (S6, format!("{s6} 00000000 000f 08"), Some(down)),
        // With the process group, as since 2.11.4.
        (S6, format!("{s6} 000066fb 00000000000066fb 0000 0c"), Some(up)),
        (Runit, format!("{s6} 00000000 000f 08"), None),
        (S6, format!("{runit} 00000000 00640000"), None),
        (Runit, String::new(), None),
    ] {
        assert_eq!(Status::parse(by, &hex(&text)), expected, "{by:?} {text}");
    }
}
