//! systemd units: `TryRestartUnit` over the system bus, believed only when a new lifetime has been seen to last.
//!
//! ```text
//! observe ── not active, or somebody is at work on it ──> refused
//!    │
//!    └─> match JobRemoved, Subscribe ─> TryRestartUnit(unit, "replace") ─> job
//!                                                                          │  its JobRemoved, or polling (a signal
//!                                                                          v  gets lost when systemd reloads)
//!        failed, or done ─> another InvocationID, active, same main pid for STABLE_FOR ─> the new incarnation
//! ```
//!
//! Measured with systemd 252: a job that hits the start limit is `failed` within milliseconds, with the old
//! InvocationID; `Type=simple` is `done` at 15 ms and may die at 300 ms. A unit that is not running is never started
//! (`TryRestartUnit`, where `RestartUnit` would), and the start limit is never reset.
//!
//! A reload is `ReloadUnit`, refused where the unit has no way to (`CanReload`). systemd leaves a unit active whose
//! ExecReload fails, so the job's result is believed and nothing else; then the same InvocationID must last, active: what
//! reads a bad configuration may die of it a moment later.
//!
//! Needs root, or a polkit rule for `org.freedesktop.systemd1.manage-units` with the unit and the verb.

pub(super) mod bus;
mod start;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use zbus::OwnedObjectPath;

use self::bus::{Bus, BusError, JobsRemoved, Properties};
use super::{Liveness, RestartError, Restarted, Restarter, Revival, RunState};
use crate::clock::Clock;
use crate::model::Incarnation;
use crate::model::plan;

/// A lifetime counts once it has lasted this long: `Type=simple` is `done` as soon as it is forked, and what dies of a
/// bad configuration or a taken port was seen to die within 300 ms; ten times that, for slow starters.
const STABLE_FOR: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(250);
/// For each of TimeoutStopSec and TimeoutStartSec where it is `infinity`; systemd's default is 90 s.
const INFINITE: Duration = Duration::from_secs(15 * 60);
/// Relations by which a restart of this unit restarts the other (systemd.unit(5): Requires, Requisite, BindsTo, PartOf,
/// each seen from the other end).
const TAKEN_ALONG: [&str; 4] = ["RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf"];

pub struct SystemdRestarter {
    bus: Bus,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for SystemdRestarter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemdRestarter").field("bus", &self.bus).finish_non_exhaustive()
    }
}

/// What systemd says of a unit at one moment.
#[derive(Clone, Debug, PartialEq)]
struct Unit {
    active: String,
    sub: String,
    /// The job that is under way; `/` where there is none.
    job: String,
    invocation: Option<Incarnation>,
    main_pid: u32,
    /// `systemctl freeze`: `running` where it is not frozen.
    freezer: String,
    /// Why the last lifetime ended: `success`, `exit-code`, `start-limit-hit`…
    result: String,
}

impl Unit {
    fn read(unit: &Properties, service: &Properties) -> Self {
        let (_, job): (u32, OwnedObjectPath) = unit.get("Job");
        let id: Vec<u8> = unit.get("InvocationID");
        let known = id.len() == 16 && id.iter().any(|byte| *byte != 0);
        Self {
            active: unit.get("ActiveState"),
            sub: unit.get("SubState"),
            job: job.as_str().into(),
            invocation: known.then(|| Incarnation(id.iter().map(|byte| format!("{byte:02x}")).collect())),
            main_pid: service.get("MainPID"),
            freezer: unit.get("FreezerState"),
            result: service.get("Result"),
        }
    }

    fn state(&self) -> RunState {
        match self.active.as_str() {
            _ if self.job != "/" => RunState::Changing,
            // 257 and later drop a job over a frozen unit, 252 thaws what a person froze. Older ones tell nothing.
            "active" if !matches!(self.freezer.as_str(), "" | "running") => RunState::Frozen,
            "active" => RunState::Active,
            "inactive" => RunState::Inactive,
            "failed" => RunState::Failed,
            // activating (also auto-restart: systemd will start it again), deactivating, reloading, maintenance.
            _ => RunState::Changing,
        }
    }

    fn shown(&self) -> String {
        format!("{} ({}, result {})", self.active, self.sub, self.result)
    }

    /// The start limit shows as `Result`, unless an earlier failure stands there already; then as a start that failed
    /// before a lifetime began.
    fn hit_start_limit(&self, before: &Unit, job_result: Option<&str>) -> bool {
        self.result == "start-limit-hit"
            || (job_result == Some("failed") && self.active == "failed" && self.invocation == before.invocation)
    }
}

impl SystemdRestarter {
    /// Over the system bus, or where `DBUS_SYSTEM_BUS_ADDRESS` points. Connects when it is first asked.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { bus: Bus::default(), clock }
    }

    async fn load(&self, unit: &str) -> Result<(OwnedObjectPath, Properties, Properties), RestartError> {
        let told = |error: BusError| unreachable(unit, error);
        let path = self.bus.load(unit).await.map_err(|error| match error {
            BusError::Answered { .. } => RestartError::Unknown { service: unit.into(), detail: error.to_string() },
            BusError::Silent(_) => told(error),
        })?;
        let properties = self.bus.properties(&path, "Unit").await.map_err(told)?;
        // Whose file was removed under way runs on until it is stopped, and is still the lifetime that it was.
        let rests = matches!(properties.get::<String>("ActiveState").as_str(), "inactive" | "failed");
        if properties.get::<String>("LoadState") == "not-found" && rests {
            let detail = "systemd has no unit of that name; see `systemctl list-units`".into();
            return Err(RestartError::Unknown { service: unit.into(), detail });
        }
        let service = self.bus.properties(&path, "Service").await.map_err(told)?;
        Ok((path, properties, service))
    }

    async fn unit(&self, name: &str) -> Result<Unit, RestartError> {
        let (_, unit, service) = self.load(name).await?;
        Ok(Unit::read(&unit, &service))
    }

    /// Since ActiveEnter. systemd's stamp is of CLOCK_MONOTONIC, ours counts suspend too, and wall time may step: the
    /// smaller of the two spans never overstates unless both happened.
    fn up_for(&self, unit: &Properties) -> Option<Duration> {
        let entered = Duration::from_micros(unit.get("ActiveEnterTimestampMonotonic"));
        if entered.is_zero() {
            return None;
        }
        let by_boot = self.clock.monotonic().saturating_sub(entered);
        let wall: u64 = unit.get("ActiveEnterTimestamp");
        let now = u64::try_from(self.clock.now().as_microsecond()).unwrap_or(0);
        let by_wall = now.checked_sub(wall).map(Duration::from_micros);
        Some(by_wall.map_or(by_boot, |by_wall| by_wall.min(by_boot)))
    }

    /// Waits for the job's end; its result where systemd told it.
    async fn job_ended(
        &self,
        name: &str,
        job: &OwnedObjectPath,
        removed: &mut JobsRemoved,
        until: Instant,
    ) -> Result<Option<String>, RestartError> {
        let mut listening = true;
        loop {
            tokio::select! {
                result = removed.result_of(job), if listening => match result {
                    Some(result) => return Ok(Some(result)),
                    None => listening = false,
                },
                () = tokio::time::sleep(POLL) => {}
            }
            let asked = self.unit(name).await;
            // The signal may have come while we asked.
            let gone = matches!(&asked, Ok(unit) if unit.job != job.as_str());
            if gone {
                let last = tokio::time::timeout(POLL, removed.result_of(job)).await;
                return Ok(last.ok().flatten());
            }
            if Instant::now() >= until {
                let seen = asked.map_or_else(|error| error.to_string(), |unit| unit.shown());
                let detail = format!("the deadline passed while systemd's job was still under way: {seen}");
                return Err(RestartError::Unreachable { service: name.into(), detail });
            }
        }
    }

    /// Watches the unit until a lifetime other than `before` has lasted.
    async fn settled(
        &self,
        name: &str,
        before: &Unit,
        job_result: Option<&str>,
        until: Instant,
    ) -> Result<Incarnation, RestartError> {
        let mut steady: Option<(Unit, Instant)> = None;
        loop {
            let asked = self.unit(name).await;
            if let Ok(now) = &asked {
                if now.hit_start_limit(before, job_result) {
                    let detail = format!(
                        "systemd's start limit is hit and the unit is {}; see `systemctl status {name}`, then \
                         `systemctl reset-failed {name}`",
                        now.shown()
                    );
                    return Err(RestartError::StartLimit { service: name.into(), detail });
                }
                let new = now.invocation.clone().filter(|id| Some(id) != before.invocation.as_ref());
                match (now.state(), new, &steady) {
                    (RunState::Active, Some(new), Some((same, since))) if same == now => {
                        if since.elapsed() >= STABLE_FOR {
                            return Ok(new);
                        }
                    }
                    (RunState::Active, Some(_), _) => steady = Some((now.clone(), Instant::now())),
                    // The job is over and the old lifetime goes on; or at rest, and nobody will start it again.
                    (RunState::Active, None, _) | (RunState::Failed | RunState::Inactive, _, _) => {
                        return Err(failed(name, now, job_result));
                    }
                    _ => steady = None,
                }
            }
            if Instant::now() >= until {
                return Err(match asked {
                    Ok(now) => {
                        failed(name, &now, Some(&format!("no new process stayed up {STABLE_FOR:?} by the deadline")))
                    }
                    Err(error) => error,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn failed(name: &str, now: &Unit, job: Option<&str>) -> RestartError {
    let job = job.map_or_else(|| "the result of systemd's job is unknown".into(), |job| format!("job: {job}"));
    let detail = format!("the unit is {} ({job}); see `journalctl -u {name}`", now.shown());
    RestartError::Failed { service: name.into(), detail }
}

fn unreachable(unit: &str, error: BusError) -> RestartError {
    RestartError::Unreachable { service: unit.into(), detail: error.to_string() }
}

fn name(target: &plan::Restart) -> Result<&str, RestartError> {
    match target {
        plan::Restart::Systemd { unit, .. } => Ok(unit),
        other => Err(super::foreign(other, "systemd")),
    }
}

/// `u64::MAX` is systemd's `infinity`.
fn timeout(service: &Properties, property: &str) -> Duration {
    Duration::from_micros(service.get(property)).min(INFINITE)
}

#[async_trait]
impl Restarter for SystemdRestarter {
    async fn observe(&self, target: &plan::Restart) -> Result<Liveness, RestartError> {
        let (_, properties, service) = self.load(name(target)?).await?;
        let unit = Unit::read(&properties, &service);
        let runs = !matches!(unit.active.as_str(), "inactive" | "failed");
        Ok(Liveness {
            state: unit.state(),
            main_pid: Some(unit.main_pid).filter(|pid| runs && *pid != 0),
            // The last lifetime's id stays there after its end.
            incarnation: unit.invocation.filter(|_| runs),
            up_for: self.up_for(&properties).filter(|_| unit.active == "active"),
        })
    }

    async fn would(&self, revival: Revival, target: &plan::Restart) -> Result<String, RestartError> {
        let name = name(target)?;
        let method = match revival {
            Revival::Restart => bus::RESTART,
            Revival::Reload => bus::RELOAD,
        };
        Ok(format!("D-Bus org.freedesktop.systemd1.Manager.{method}(\"{name}\", \"replace\")"))
    }

    async fn restart(&self, target: &plan::Restart, deadline: Duration) -> Result<Restarted, RestartError> {
        let until = Instant::now() + deadline;
        let name = name(target)?;
        let refused = |detail: String| RestartError::Refused { service: name.into(), detail };
        if let plan::Restart::Systemd { with_dependents: false, .. } = target {
            super::alone(name, &self.dependents(target).await?)?;
        }
        let before = self.unit(name).await?;
        if before.state() != RunState::Active {
            return Err(refused(format!("the service is {}; only a running service is restarted", before.shown())));
        }
        let mut removed = self.bus.jobs_removed().await.map_err(|error| refused(error.to_string()))?;
        let job = match self.bus.try_restart(name).await {
            Ok(job) => job,
            Err(error @ BusError::Answered { .. }) => return Err(refused(error.to_string())),
            // Whether systemd has heard us is not known.
            Err(error) => return Err(unreachable(name, error)),
        };
        let result = self.job_ended(name, &job, &mut removed, until).await?;
        // Nobody reads it from here on, and a full queue would hold up the answers to our calls.
        drop(removed);
        // A restart that was done in time is given the time to prove itself.
        let until = until.max(Instant::now() + STABLE_FOR + POLL * 4);
        self.settled(name, &before, result.as_deref(), until).await.map(Restarted::NewIncarnation)
    }

    async fn no_reload(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        let name = name(target)?;
        let (_, unit, _) = self.load(name).await?;
        let lacks = || format!("{name} has no ExecReload=: systemd does not know how to reload it");
        Ok((!unit.get::<bool>("CanReload")).then(lacks))
    }

    async fn reload(&self, target: &plan::Restart, deadline: Duration) -> Result<(), RestartError> {
        let until = Instant::now() + deadline;
        let name = name(target)?;
        let refused = |detail: String| RestartError::Refused { service: name.into(), detail };
        if let Some(why) = self.no_reload(target).await? {
            return Err(refused(why));
        }
        let before = self.unit(name).await?;
        if before.state() != RunState::Active {
            return Err(refused(format!("the service is {}; only a running service is reloaded", before.shown())));
        }
        let mut removed = self.bus.jobs_removed().await.map_err(|error| refused(error.to_string()))?;
        let job = match self.bus.reload(name).await {
            Ok(job) => job,
            Err(error @ BusError::Answered { .. }) => return Err(refused(error.to_string())),
            Err(error) => return Err(unreachable(name, error)),
        };
        let result = self.job_ended(name, &job, &mut removed, until).await?;
        drop(removed);
        let failed = |detail: String| RestartError::NotReloaded { service: name.into(), detail };
        // Its end was not heard, and what failed leaves the unit as active as what did not.
        let result = result.ok_or_else(|| failed("the result of systemd's job is unknown".into()))?;
        if result != "done" {
            return Err(failed(format!("systemd's job ended with `{result}`; see `journalctl -u {name}`")));
        }
        let done = Instant::now();
        loop {
            let now = self.unit(name).await?;
            match now.state() {
                RunState::Active if now.invocation == before.invocation => {
                    if done.elapsed() >= STABLE_FOR {
                        return Ok(());
                    }
                }
                RunState::Changing if Instant::now() < until => {}
                _ => {
                    return Err(failed(format!("the process did not survive the reload: the unit is {}", now.shown())));
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn would_not_start(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        let name = name(target)?;
        if self.bus.system_state().await.map_err(|error| unreachable(name, error))? == "stopping" {
            return Ok(Some("the host is shutting down".into()));
        }
        let (_, unit, service) = self.load(name).await?;
        Ok(start::start_obstacle(name, &unit, &service, self.up_for(&unit)).or_else(super::room::full))
    }

    async fn caveats(&self, target: &plan::Restart) -> Vec<String> {
        let Ok(name) = name(target) else { return Vec::new() };
        let Ok((_, unit, service)) = self.load(name).await else { return Vec::new() };
        let mut caveats = Vec::new();
        if unit.get::<bool>("NeedDaemonReload") {
            caveats.push(format!(
                "{name}: the unit file has changed since systemd read it; a restart uses the old one until `systemctl daemon-reload`"
            ));
        }
        if unit.get::<String>("SubState").starts_with("auto-restart") {
            let restarts: u32 = service.get("NRestarts");
            caveats.push(format!(
                "{name}: systemd has restarted the unit by itself {restarts} times so far (auto-restart)"
            ));
        }
        caveats
    }

    async fn own_deadline(&self, target: &plan::Restart) -> Result<Duration, RestartError> {
        let (_, _, service) = self.load(name(target)?).await?;
        Ok(timeout(&service, "TimeoutStopUSec") + timeout(&service, "TimeoutStartUSec") + super::DEADLINE_MARGIN)
    }

    async fn dependents(&self, target: &plan::Restart) -> Result<Vec<String>, RestartError> {
        let name = name(target)?;
        let (_, unit, _) = self.load(name).await?;
        let mut related: Vec<String> = TAKEN_ALONG.iter().flat_map(|kind| unit.get::<Vec<String>>(kind)).collect();
        related.sort();
        related.dedup();
        let mut running = Vec::new();
        for other in related {
            let told = |error| unreachable(name, error);
            let path = self.bus.load(&other).await.map_err(told)?;
            let state: String = self.bus.properties(&path, "Unit").await.map_err(told)?.get("ActiveState");
            if !matches!(state.as_str(), "inactive" | "failed") {
                running.push(other);
            }
        }
        Ok(running)
    }

    async fn settles_within(&self, _target: &plan::Restart) -> Result<Duration, RestartError> {
        Ok(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: &str, job: &str, invocation: &str, result: &str) -> Unit {
        Unit {
            active: active.into(),
            sub: "any".into(),
            job: job.into(),
            invocation: Some(Incarnation(invocation.into())),
            main_pid: 7,
            freezer: "running".into(),
            result: result.into(),
        }
    }

    #[test]
    fn only_what_is_active_and_left_alone_is_active() {
        for (active, job, state) in [
            ("active", "/", RunState::Active),
            ("active", "/org/freedesktop/systemd1/job/7", RunState::Changing),
            ("inactive", "/", RunState::Inactive),
            ("inactive", "/org/freedesktop/systemd1/job/7", RunState::Changing),
            ("failed", "/", RunState::Failed),
            ("activating", "/", RunState::Changing),
            ("deactivating", "/", RunState::Changing),
            ("reloading", "/", RunState::Changing),
            ("maintenance", "/", RunState::Changing),
            ("a state of a later version", "/", RunState::Changing),
        ] {
            assert_eq!(unit(active, job, "a", "success").state(), state, "{active} {job}");
        }
        for (freezer, state) in [
            ("running", RunState::Active),
            ("frozen", RunState::Frozen),
            ("freezing", RunState::Frozen),
            ("frozen-by-parent", RunState::Frozen),
            ("", RunState::Active),
        ] {
            let unit = Unit { freezer: freezer.into(), ..unit("active", "/", "a", "success") };
            assert_eq!(unit.state(), state, "{freezer}");
        }
    }

    #[test]
    fn the_start_limit_is_told_from_other_failures() {
        let before = unit("active", "/", "a", "success");
        for (what, after, job, hit) in [
            ("by its result", unit("failed", "/", "a", "start-limit-hit"), Some("failed"), true),
            ("by its result, the signal lost", unit("failed", "/", "a", "start-limit-hit"), None, true),
            ("an earlier failure hides it", unit("failed", "/", "a", "exit-code"), Some("failed"), true),
            ("a new lifetime that failed", unit("failed", "/", "b", "exit-code"), Some("failed"), false),
            ("cancelled by somebody", unit("failed", "/", "a", "exit-code"), Some("canceled"), false),
            ("running", unit("active", "/", "b", "success"), Some("done"), false),
        ] {
            assert_eq!(after.hit_start_limit(&before, job), hit, "{what}");
        }
    }
}
