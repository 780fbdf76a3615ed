//! The supervisord restarter on a real supervisord, started by the test on a socket of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::clock::SystemClock;
use crate::ports::installed::installed;

const LONG: Duration = Duration::from_secs(30);

struct Supervisord {
    child: Child,
    directory: tempfile::TempDir,
}

impl Supervisord {
    /// `programs` is what its configuration says behind its own sections; `%DIR%` is a directory for their files.
    async fn with(programs: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().to_str().unwrap();
        let config = format!(
            "[unix_http_server]\nfile={dir}/sock\nchmod=0700\n\
             [supervisord]\nnodaemon=true\nuser=root\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={dir}/pid\n\
             [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\
             {}",
            programs.replace("%DIR%", dir)
        );
        std::fs::write(directory.path().join("conf"), config).unwrap();
        let own = installed("supervisor");
        let child = Command::new("/usr/bin/python3")
            .env("PYTHONPATH", own.join("usr/lib/python3/dist-packages"))
            .arg(own.join("usr/bin/supervisord"))
            .arg("-c")
            .arg(directory.path().join("conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("python3: {error}: `tests/run` installs it"));
        let supervisord = Self { child, directory };
        until("supervisord to answer", async || supervisord.ask("getState", &[]).await.is_ok()).await;
        supervisord
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    fn target(&self, program: &str) -> plan::Restart {
        plan::Restart::Supervisord { program: program.into(), socket: self.socket() }
    }

    async fn ask(&self, method: &str, arguments: &[Value]) -> Result<Value, CallError> {
        call(&self.socket(), &format!("supervisor.{method}"), arguments).await
    }

    async fn stop(&self, program: &str) {
        self.ask("stopProcess", &[Value::Text(program.into()), Value::Boolean(true)]).await.unwrap();
    }

    async fn start(&self, program: &str) {
        self.ask("startProcess", &[Value::Text(program.into()), Value::Boolean(true)]).await.unwrap();
    }

    async fn running(&self, program: &str) -> Liveness {
        until("the program to run", async || {
            restarter().observe(&self.target(program)).await.is_ok_and(|seen| seen.state == RunState::Active)
        })
        .await;
        restarter().observe(&self.target(program)).await.unwrap()
    }
}

/// SIGTERM: it ends its programs first.
impl Drop for Supervisord {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        for _ in 0..400 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited 20 s in vain for {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

fn restarter() -> SupervisordRestarter {
    SupervisordRestarter::new(Arc::new(SystemClock))
}

fn lifetime(incarnation: &Incarnation) -> Before {
    Before { incarnation: incarnation.clone(), kept: serde_json::Value::Null }
}

async fn whole_restart(target: &plan::Restart) -> Result<Incarnation, RestartError> {
    let before = restarter().observe(target).await?.incarnation.expect("it runs");
    assert_eq!(restarter().restart(target, LONG).await?, Restarted::Stopping);
    restarter().start(target, &lifetime(&before), LONG).await
}

#[tokio::test]
async fn a_restart_is_stopped_and_started_and_another_process() {
    let supervisord = Supervisord::with("[program:gate]\ncommand=/bin/sleep 600\nstartsecs=1\n").await;
    let before = supervisord.running("gate").await;
    let main = before.main_pid.unwrap();
    assert!(std::fs::read_to_string(format!("/proc/{main}/cmdline")).unwrap().contains("sleep"));
    assert!(before.up_for.unwrap() < LONG, "{before:?}");

    let target = supervisord.target("gate");
    let new = whole_restart(&target).await.unwrap();
    let after = restarter().observe(&target).await.unwrap();
    assert_eq!((after.state, after.incarnation.as_ref()), (RunState::Active, Some(&new)));
    assert!(after.incarnation != before.incarnation && after.main_pid != before.main_pid);
    assert!(after.up_for.unwrap() >= STABLE_FOR);
    // The second half, done again by a next agent: what runs by now is the new one.
    let again = restarter().start(&target, &lifetime(&before.incarnation.unwrap()), LONG).await.unwrap();
    assert_eq!(again, new);
}

#[tokio::test]
async fn an_agent_that_died_between_the_halves_leaves_a_program_that_the_next_one_starts() {
    // It takes a second to end.
    let supervisord = Supervisord::with(
        "[program:slow]\ncommand=/bin/sh -c \"trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done\"\n",
    )
    .await;
    let target = supervisord.target("slow");
    let before = supervisord.running("slow").await.incarnation.unwrap();
    assert_eq!(restarter().restart(&target, LONG).await.unwrap(), Restarted::Stopping);
    assert_eq!(restarter().observe(&target).await.unwrap().state, RunState::Changing);
    until("it to be stopped", async || {
        restarter().observe(&target).await.unwrap()
            == Liveness { state: RunState::Inactive, incarnation: None, main_pid: None, up_for: None }
    })
    .await;
    let new = restarter().start(&target, &lifetime(&before), LONG).await.unwrap();
    assert_ne!(new, before);
}

#[tokio::test]
async fn what_a_person_stopped_is_not_started() {
    // A SIGTERM between its fork and its exec is lost in supervisord's own handler; then SIGKILL follows.
    let programs = "[program:gate]\ncommand=/bin/sleep 600\nstartsecs=0\nstopwaitsecs=1\n";
    let supervisord = Supervisord::with(programs).await;
    let target = supervisord.target("gate");
    let before = supervisord.running("gate").await.incarnation.unwrap();
    // Stopped at our word; then started, and stopped again, by somebody else.
    restarter().restart(&target, LONG).await.unwrap();
    until("it to be stopped", async || restarter().observe(&target).await.unwrap().state == RunState::Inactive).await;
    let began: i64 = before.0.split_once('/').unwrap().0.parse().unwrap();
    until("the next second", async || SystemClock.now().as_second() > began).await;
    supervisord.start("gate").await;
    supervisord.stop("gate").await;
    let refused = restarter().start(&target, &lifetime(&before), LONG).await;
    assert!(matches!(&refused, Err(RestartError::Refused { .. })), "{refused:?}");
    // And the first half: only what runs.
    let refused = restarter().restart(&target, LONG).await;
    assert!(matches!(&refused, Err(RestartError::Refused { .. })), "{refused:?}");
    assert_eq!(restarter().observe(&target).await.unwrap().state, RunState::Inactive);
}

#[tokio::test]
async fn a_program_that_does_not_come_up_is_a_failure_that_says_so() {
    // Its second lifetime ends at once, and every one after it.
    let programs = "[program:once]\ncommand=/bin/sh -c \"mkdir %DIR%/once && exec sleep 600\"\nstartsecs=1\nstartretries=1\n\
                    [program:gone]\ncommand=%DIR%/program\nstartsecs=1\nstartretries=0\nautostart=false\n";
    let supervisord = Supervisord::with(programs).await;
    supervisord.running("once").await;
    let error = whole_restart(&supervisord.target("once")).await.unwrap_err();
    assert!(matches!(error, RestartError::Failed { .. }) && error.to_string().contains("FATAL"), "{error}");
    assert_eq!(restarter().observe(&supervisord.target("once")).await.unwrap().state, RunState::Failed);

    let program = supervisord.directory.path().join("program");
    std::os::unix::fs::symlink("/bin/cat", &program).unwrap();
    let sleeper = "#!/bin/sh\nexec sleep 600\n";
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, sleeper).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    supervisord.start("gone").await;
    std::fs::remove_file(&program).unwrap();
    let error = whole_restart(&supervisord.target("gone")).await.unwrap_err();
    assert!(matches!(error, RestartError::Failed { .. }) && error.to_string().contains("NO_FILE"), "{error}");
}

#[tokio::test]
async fn programs_are_named_as_supervisorctl_names_them() {
    let programs = "[program:workers]\ncommand=/bin/sleep 600\nprocess_name=%(program_name)s_%(process_num)02d\nnumprocs=2\n\
                    stopwaitsecs=7\nstartsecs=2\nstartretries=3\n";
    let supervisord = Supervisord::with(programs).await;
    supervisord.running("workers:workers_01").await;
    for (name, says) in [
        ("workers", "program:workers:workers_00, program:workers:workers_01"),
        ("x", "its programs: workers:workers_00"),
    ] {
        let error = restarter().observe(&supervisord.target(name)).await.unwrap_err();
        assert!(matches!(error, RestartError::Unknown { .. }) && error.to_string().contains(says), "{error}");
    }
    // 7 to stop, four tries of 2 s with 1, 2 and 3 s between, and ten.
    let deadline = restarter().own_deadline(&supervisord.target("workers:workers_00")).await.unwrap();
    assert_eq!(deadline, Duration::from_secs(7 + 8 + 6 + 10));
}

#[tokio::test]
async fn children_that_would_stay_behind_are_said() {
    let family = "command=/bin/sh -c \"sleep 600 & sleep 600 & wait\"\n";
    let programs = format!(
        "[program:leaves]\n{family}[program:group]\n{family}stopasgroup=true\nkillasgroup=true\n[program:single]\ncommand=/bin/sleep 600\nstopasgroup=true\n"
    );
    let supervisord = Supervisord::with(&programs.replace("leaves]\n", "leaves]\nstopwaitsecs=2\n")).await;
    let mut family = Vec::new();
    for name in ["leaves", "group", "single"] {
        let main = supervisord.running(name).await.main_pid.unwrap() as i32;
        if name != "single" {
            until("its children", async || children(main) == 2).await;
        }
        if name == "leaves" {
            let all = procfs::process::all_processes().unwrap().filter_map(|process| process.ok()?.stat().ok());
            family = all.filter(|stat| stat.ppid == main).map(|stat| (stat.pid, stat.starttime)).collect();
        }
    }
    let said = restarter().caveats(&supervisord.target("leaves")).await;
    assert!(said.len() == 1 && said[0].contains("2 children"), "{said:?}");
    for name in ["group", "single"] {
        assert_eq!(restarter().caveats(&supervisord.target(name)).await, Vec::<String>::new());
    }
    // And it is so: they are ended by the test alone.
    supervisord.stop("leaves").await;
    for (pid, began) in family {
        assert_eq!(start_time(pid).unwrap(), Some(began));
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
}

#[tokio::test]
async fn a_supervisord_that_is_not_there_is_unreachable_by_its_socket() {
    let target = plan::Restart::Supervisord { program: "gate".into(), socket: "/nowhere/supervisor.sock".into() };
    let error = restarter().observe(&target).await.unwrap_err();
    assert!(matches!(error, RestartError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/supervisor.sock"), "{error}");
    assert_eq!(restarter().caveats(&target).await, Vec::<String>::new());
    assert_eq!(restarter().own_deadline(&target).await.unwrap(), USUAL + super::super::DEADLINE_MARGIN);
}
