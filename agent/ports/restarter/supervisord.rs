//! supervisord's programs, over XML-RPC on its unix socket.
//!
//! supervisord knows no restart, only a stop and a start, and an agent may die between the two. So the restart has two
//! halves, and the saga journals between them:
//!
//! ```text
//! RUNNING ── stopProcess ──> STOPPING ──> STOPPED ── startProcess ──> STARTING ──> RUNNING for STABLE_FOR
//!              restart()  │ journaled        │                    start()
//!                         └──────────────────┴─> a next agent goes on here
//! ```
//!
//! The second half starts a program only where the lifetime that ended is the one that was to be ended: what somebody
//! started, and then stopped, in the meantime is theirs. An incarnation is when supervisord started it, its pid and that
//! process' own start time. supervisord names processes by its own pid namespace: one whose parent is not supervisord
//! is no process of this host, and is refused.
//!
//! A program of several processes (`numprocs`) is several services: `program:GROUP:NAME`, as `supervisorctl status`
//! shows them.
//!
//! `getAllConfigInfo` (supervisor 4.0) tells the times and `killasgroup`, but not `stopasgroup`; without it the
//! program's children stay behind when it is stopped, and hold on to its sockets. Where it cannot be set (it implies
//! `killasgroup`), and there are children, that is said beforehand.

mod xmlrpc;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use procfs::process::Process;
use tokio::time::Instant;

use self::xmlrpc::{CallError, Value, call};
use super::pidfd::{self, start_time};
use super::{Before, Liveness, RestartError, Restarted, Restarter, Revival, RunState};
use crate::clock::Clock;
use crate::model::{Incarnation, duration, plan};

/// Beyond supervisord's own `startsecs` (1 s unless it is set): what dies of a taken port or a bad configuration was
/// seen to die within 300 ms.
const STABLE_FOR: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(200);
/// Where the settings cannot be asked for: stopwaitsecs is 10 s by default, startsecs 1 s with 3 more tries.
const USUAL: Duration = Duration::from_secs(30);
/// For the tries to start it: `startretries` may be any number.
const MOST: Duration = Duration::from_secs(15 * 60);

/// Faults (supervisor/xmlrpc.py: Faults).
const BAD_NAME: i64 = 10;
const ALREADY_STARTED: i64 = 60;
const NOT_RUNNING: i64 = 70;

/// States (supervisor/states.py: ProcessStates).
const STOPPED: i64 = 0;
const STARTING: i64 = 10;
const RUNNING: i64 = 20;
const BACKOFF: i64 = 30;
const STOPPING: i64 = 40;
const EXITED: i64 = 100;

pub struct SupervisordRestarter {
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for SupervisordRestarter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SupervisordRestarter").finish_non_exhaustive()
    }
}

/// A program of one supervisord.
struct Program<'a> {
    name: &'a str,
    socket: &'a Path,
}

/// What supervisord says of a program, and /proc of its process.
#[derive(Clone, Debug, PartialEq)]
struct ProgramState {
    state: i64,
    state_name: String,
    /// When supervisord last started it; seconds since 1970.
    last_start: i64,
    /// Why it could not be started.
    spawn_error: String,
    exit_status: i64,
    /// Its pid and start time; `None` where no process is.
    process: Option<(i32, u64)>,
}

impl ProgramState {
    fn incarnation(&self) -> Option<Incarnation> {
        let (pid, began) = self.process?;
        Some(Incarnation(format!("{}/{pid}@{began}", self.last_start)))
    }

    /// Is this the lifetime, or what is left of it?
    fn is_of(&self, before: &Incarnation) -> bool {
        before.0.split_once('/').is_some_and(|(start, _)| start == self.last_start.to_string())
    }

    fn state(&self) -> RunState {
        match self.state {
            // Its process has just ended, and supervisord has not seen it yet.
            RUNNING if self.process.is_none() => RunState::Changing,
            RUNNING => RunState::Active,
            STARTING | BACKOFF | STOPPING => RunState::Changing,
            STOPPED => RunState::Inactive,
            EXITED if self.exit_status == 0 => RunState::Inactive,
            // EXITED with an error, FATAL, UNKNOWN
            _ => RunState::Failed,
        }
    }

    fn shown(&self) -> String {
        match self.spawn_error.as_str() {
            "" => self.state_name.clone(),
            error => format!("{}: {error}", self.state_name),
        }
    }
}

impl SupervisordRestarter {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

impl<'a> Program<'a> {
    fn of(target: &'a plan::Restart) -> Result<Self, RestartError> {
        match target {
            plan::Restart::Supervisord { program, socket } => Ok(Self { name: program, socket }),
            other => Err(super::foreign(other, "supervisord")),
        }
    }

    fn service(&self) -> String {
        format!("program:{}", self.name)
    }

    fn refused(&self, detail: String) -> RestartError {
        RestartError::Refused { service: self.service(), detail }
    }

    fn failed(&self, detail: String) -> RestartError {
        RestartError::Failed { service: self.service(), detail }
    }

    fn unreachable(&self, detail: String) -> RestartError {
        RestartError::Unreachable { service: self.service(), detail }
    }

    async fn call(&self, method: &str, arguments: &[Value]) -> Result<Value, CallError> {
        call(self.socket, &format!("supervisor.{method}"), arguments).await
    }

    /// A call about this program that does not wait for its end: what follows is polled, whoever's connection breaks.
    async fn ask_to(&self, method: &str) -> Result<(), CallError> {
        self.call(method, &[Value::Text(self.name.into()), Value::Boolean(false)]).await.map(|_| ())
    }

    async fn look(&self) -> Result<ProgramState, RestartError> {
        let told = match self.call("getProcessInfo", &[Value::Text(self.name.into())]).await {
            Ok(told) => told,
            Err(CallError::Fault { code: BAD_NAME, .. }) => return Err(self.unknown().await),
            Err(error) => return Err(self.unreachable(error.to_string())),
        };
        let number = |name: &str| {
            told.integer(name).ok_or_else(|| self.unreachable(format!("supervisord's answer lacks `{name}`")))
        };
        let pid = i32::try_from(number("pid")?).unwrap_or(0);
        let process = match pid {
            0 => None,
            pid => self.process(pid).await?,
        };
        Ok(ProgramState {
            state: number("state")?,
            state_name: told.text("statename").unwrap_or("in a state without a name").into(),
            last_start: number("start")?,
            spawn_error: told.text("spawnerr").unwrap_or_default().into(),
            exit_status: told.integer("exitstatus").unwrap_or(0),
            process,
        })
    }

    /// The process that supervisord calls by this pid; `None` where it has ended.
    async fn process(&self, pid: i32) -> Result<Option<(i32, u64)>, RestartError> {
        let parent = match self.call("getPID", &[]).await {
            Ok(Value::Integer(parent)) => parent,
            Ok(_) => return Err(self.unreachable("supervisord did not answer with its own pid".into())),
            Err(error) => return Err(self.unreachable(error.to_string())),
        };
        let began = start_time(pid).map_err(|error| self.unreachable(format!("cannot read pid {pid}: {error}")))?;
        let Some(began) = began else { return Ok(None) };
        match Process::new(pid).and_then(|process| process.stat()) {
            Ok(stat) if i64::from(stat.ppid) == parent && stat.starttime == began => Ok(Some((pid, began))),
            Ok(stat) => Err(self.refused(format!(
                "supervisord (pid {parent}) reports pid {pid}, which is a child of pid {} here: supervisord may run in a container",
                stat.ppid
            ))),
            Err(_) => Ok(None),
        }
    }

    async fn unknown(&self) -> RestartError {
        let group = format!("{}:", self.name);
        let all = self.call("getAllProcessInfo", &[]).await;
        let mut names: Vec<String> = match &all {
            Ok(Value::List(all)) => all
                .iter()
                .filter_map(|one| Some((one.text("group")?, one.text("name")?)))
                .map(|(group, name)| if group == name { name.to_owned() } else { format!("{group}:{name}") })
                .collect(),
            _ => Vec::new(),
        };
        let several = names.iter().any(|name| name.starts_with(&group));
        names.retain(|name| !several || name.starts_with(&group));
        let detail = match (several, names.is_empty()) {
            (true, _) => {
                format!(
                    "the name is a group, and each of its processes is a service: program:{}",
                    names.join(", program:")
                )
            }
            (false, false) => format!("supervisord has no program of that name; its programs: {}", names.join(", ")),
            (false, true) => "supervisord has no program of that name".into(),
        };
        RestartError::Unknown { service: self.service(), detail }
    }

    /// Its settings; `None` where this supervisord does not tell.
    async fn settings(&self) -> Option<Value> {
        let (group, name) = self.name.split_once(':').unwrap_or((self.name, self.name));
        let Ok(Value::List(all)) = self.call("getAllConfigInfo", &[]).await else { return None };
        all.into_iter().find(|one| one.text("group") == Some(group) && one.text("name") == Some(name))
    }
}

#[async_trait]
impl Restarter for SupervisordRestarter {
    async fn observe(&self, target: &plan::Restart) -> Result<Liveness, RestartError> {
        let seen = Program::of(target)?.look().await?;
        let up_for = seen.process.map(|(_, began)| pidfd::age(began, self.clock.as_ref()));
        Ok(Liveness {
            state: seen.state(),
            incarnation: seen.incarnation(),
            main_pid: seen.process.and_then(|(pid, _)| u32::try_from(pid).ok()),
            up_for,
        })
    }

    async fn would(&self, revival: Revival, target: &plan::Restart) -> Result<String, RestartError> {
        let program = Program::of(target)?;
        let (name, socket) = (program.name, program.socket.display());
        Ok(match revival {
            Revival::Restart => format!(
                "supervisor.stopProcess(\"{name}\", false) to unix:{socket}, then supervisor.startProcess(\"{name}\", false)"
            ),
            Revival::Reload => "nothing: supervisord has no reload of a program".into(),
        })
    }

    /// The first half.
    async fn restart(&self, target: &plan::Restart, _deadline: Duration) -> Result<Restarted, RestartError> {
        let program = Program::of(target)?;
        let seen = program.look().await?;
        if seen.state() != RunState::Active {
            return Err(
                program.refused(format!("the service is {}; only a running service is restarted", seen.shown()))
            );
        }
        match program.ask_to("stopProcess").await {
            Ok(()) => Ok(Restarted::Stopping),
            Err(CallError::Fault { code: NOT_RUNNING, .. }) => {
                Err(program.refused("the process has just ended by itself; only a running service is restarted".into()))
            }
            Err(error @ CallError::Fault { .. }) => Err(program.refused(error.to_string())),
            // Whether supervisord has heard us is not known.
            Err(error @ CallError::Silent(_)) => Err(program.unreachable(error.to_string())),
        }
    }

    async fn start(
        &self,
        target: &plan::Restart,
        before: &Before,
        deadline: Duration,
    ) -> Result<Incarnation, RestartError> {
        let program = Program::of(target)?;
        let before = &before.incarnation;
        let mut until = Instant::now() + deadline;
        let mut asked = false;
        let mut steady: Option<(ProgramState, Instant)> = None;
        loop {
            let look = program.look().await;
            if let Ok(now) = &look {
                let new = now.incarnation().filter(|new| new != before);
                match (now.state(), new, &steady) {
                    (RunState::Active, Some(new), Some((same, since))) if same == now => {
                        if since.elapsed() >= STABLE_FOR {
                            return Ok(new);
                        }
                    }
                    (RunState::Active, Some(_), _) => {
                        steady = Some((now.clone(), Instant::now()));
                        // One that came in time is given the time to prove itself.
                        until = until.max(Instant::now() + STABLE_FOR + POLL * 4);
                    }
                    // The old one, not yet ended; or on the way.
                    (RunState::Active | RunState::Changing | RunState::Frozen, ..) => steady = None,
                    (RunState::Inactive | RunState::Failed, ..) if asked => {
                        let detail = format!("the program was started and is now {}", now.shown());
                        return Err(
                            program.failed(format!("{detail}; see `supervisorctl tail {} stderr`", program.name))
                        );
                    }
                    (RunState::Inactive | RunState::Failed, ..) if !now.is_of(before) => {
                        let detail = "another process was started, and ended, since the agent stopped the program";
                        return Err(program.refused(format!("the program is {}: {detail}", now.shown())));
                    }
                    (RunState::Inactive | RunState::Failed, ..) => match program.ask_to("startProcess").await {
                        Ok(()) | Err(CallError::Fault { code: ALREADY_STARTED, .. }) => asked = true,
                        Err(error @ CallError::Fault { .. }) => return Err(program.failed(error.to_string())),
                        // Asked again, if it turns out that it was not heard.
                        Err(error @ CallError::Silent(_)) => {
                            let (name, pause) = (&program.name, duration::format(POLL));
                            tracing::warn!(
                                %error,
                                "supervisord did not answer the start of {name}: {error}; retrying in {pause}",
                            )
                        }
                    },
                }
            }
            if Instant::now() >= until {
                return Err(match look {
                    Ok(now) => program.failed(format!(
                        "no new process had stayed up by the deadline; the service is {}",
                        now.shown()
                    )),
                    Err(error) => error,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn would_not_start(&self, _target: &plan::Restart) -> Result<Option<String>, RestartError> {
        Ok(super::room::full())
    }

    async fn own_deadline(&self, target: &plan::Restart) -> Result<Duration, RestartError> {
        let program = Program::of(target)?;
        let Some(settings) = program.settings().await else { return Ok(USUAL + super::DEADLINE_MARGIN) };
        let setting = |name: &str| settings.integer(name).and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        let tries = setting("startretries");
        // Between two tries one second more each time (supervisor/process.py: give_up, backoff).
        let start = setting("startsecs").saturating_mul(tries + 1).saturating_add(tries.saturating_mul(tries + 1) / 2);
        let both = Duration::from_secs(setting("stopwaitsecs")) + Duration::from_secs(start).min(MOST);
        Ok(both + super::DEADLINE_MARGIN)
    }

    /// supervisord knows of no relation between programs.
    async fn dependents(&self, _target: &plan::Restart) -> Result<Vec<String>, RestartError> {
        Ok(Vec::new())
    }

    async fn caveats(&self, target: &plan::Restart) -> Vec<String> {
        let Ok(program) = Program::of(target) else { return Vec::new() };
        let (Ok(seen), Some(settings)) = (program.look().await, program.settings().await) else { return Vec::new() };
        let children = seen.process.map_or(0, |(pid, _)| children(pid));
        if children == 0 || settings.boolean("killasgroup") != Some(false) {
            return Vec::new();
        }
        vec![format!(
            "supervisord stops only the first process, and its {children} children may stay behind with their sockets: set \
             `stopasgroup=true` and `killasgroup=true` for {}, unless that process ends its children itself",
            program.name
        )]
    }

    async fn settles_within(&self, _target: &plan::Restart) -> Result<Duration, RestartError> {
        Ok(Duration::ZERO)
    }
}

fn children(parent: i32) -> usize {
    let all = procfs::process::all_processes().into_iter().flatten();
    all.filter_map(|process| process.ok()?.stat().ok()).filter(|stat| stat.ppid == parent).count()
}

#[cfg(test)]
#[path = "supervisord_tests.rs"]
mod tests;
