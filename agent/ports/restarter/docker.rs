//! Containers, over the Docker Engine API on its unix socket; podman's compatible API answers the same calls.
//!
//! `POST /containers/ID/restart` is one call to the daemon, which goes on with it whatever becomes of us. It is believed
//! when the container has run under another `StartedAt` for STABLE_FOR. The stop timeout is the container's own. Paths
//! carry no version: each daemon answers by its newest, and the fields read here are as old as API 1.25. podman's list
//! (4.3) tells no network modes, so there each running container is inspected.
//!
//! An incarnation is the container's id and its `StartedAt`. The daemon names processes by its own pid namespace, so no
//! pid of its is taken for one of this host.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::Instant;

use super::owner::{self, Called};
use super::systemd::bus::Bus;
use super::{Liveness, RestartError, Restarted, Restarter, Revival, RunState};
use crate::clock::Clock;
use crate::model::Incarnation;
use crate::model::plan;
use crate::ports::http;

/// What dies of a taken port or a bad configuration was seen to die within 300 ms; ten times that, for slow starters.
const STABLE_FOR: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(250);
/// An inspection takes milliseconds, but the daemon holds a container's lock while it stops it.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// The daemon's own where a container has none (daemon/config: defaultStopTimeout).
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// What a deadline allows for a container that is never killed (`--stop-timeout -1`), as for systemd's `infinity`.
const UNLIMITED_STOP: Duration = Duration::from_secs(15 * 60);
/// For the daemon to make namespaces and mounts anew; a busy one was seen to take tens of seconds.
const START_ALLOWANCE: Duration = Duration::from_secs(90);
const UNIT_LABEL: &str = "PODMAN_SYSTEMD_UNIT";
/// One inspection is some 10 KB; a list of 1,000 containers some 2 MB.
const MAX_ANSWER_BYTES: usize = 8 << 20;

pub struct DockerRestarter {
    clock: Arc<dyn Clock>,
    bus: Bus,
}

impl std::fmt::Debug for DockerRestarter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerRestarter").finish_non_exhaustive()
    }
}

/// `GET /containers/ID/json`, as far as it is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    name: String,
    state: State,
    config: Settings,
    host_config: HostSettings,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    /// created, running, paused, restarting, removing, exited, dead; podman: also stopped, stopping, initialized.
    status: String,
    started_at: String,
    exit_code: i64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Settings {
    /// In seconds. Negative: SIGKILL never follows.
    stop_timeout: Option<i64>,
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
}

/// One of `GET /containers/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    host_config: Option<HostSettings>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostSettings {
    #[serde(default)]
    network_mode: String,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Inspected {
    fn incarnation(&self) -> Incarnation {
        Incarnation(format!("{}@{}", self.id, self.state.started_at))
    }

    fn run_state(&self) -> RunState {
        match self.state.status.as_str() {
            "running" => RunState::Active,
            "restarting" | "removing" | "stopping" => RunState::Changing,
            "dead" => RunState::Failed,
            "paused" => RunState::Frozen,
            // created, exited: by a person as well as by itself; the exit code of what `docker stop` ended
            // is that of a crash.
            _ => RunState::Inactive,
        }
    }

    fn shown(&self) -> String {
        format!("{} (last exit code {})", self.state.status, self.state.exit_code)
    }

    fn stop_seconds(&self) -> i64 {
        self.config.stop_timeout.unwrap_or(STOP_TIMEOUT.as_secs() as i64)
    }

    /// The systemd unit that podman was started by: Quadlet's, or one of `podman generate systemd`.
    fn unit(&self) -> Option<&str> {
        self.config.labels.as_ref()?.get(UNIT_LABEL).map(String::as_str).filter(|unit| !unit.is_empty())
    }

    fn is_never_killed(&self) -> bool {
        self.stop_seconds() < 0
    }

    /// For deadlines.
    fn stop_timeout(&self) -> Duration {
        u64::try_from(self.stop_seconds()).map_or(UNLIMITED_STOP, Duration::from_secs)
    }
}

/// A container of one daemon.
struct Container<'a> {
    name: &'a str,
    socket: &'a Path,
}

impl<'a> Container<'a> {
    fn of(target: &'a plan::Restart) -> Result<Self, RestartError> {
        match target {
            plan::Restart::Docker { container, socket } => Ok(Self { name: container, socket }),
            other => Err(super::foreign(other, "docker")),
        }
    }

    fn service(&self) -> String {
        format!("container:{}", self.name)
    }

    fn refused(&self, detail: String) -> RestartError {
        RestartError::Refused { service: self.service(), detail }
    }

    fn failed(&self, detail: String) -> RestartError {
        RestartError::Failed { service: self.service(), detail }
    }

    fn unreachable(&self, detail: String) -> RestartError {
        let detail = format!("{} did not answer: {detail}", self.socket.display());
        RestartError::Unreachable { service: self.service(), detail }
    }

    fn unknown(&self, detail: &str) -> RestartError {
        RestartError::Unknown { service: self.service(), detail: detail.into() }
    }

    /// The status and the body, by this deadline.
    async fn ask(
        &self,
        method: reqwest::Method,
        path: &str,
        deadline: Duration,
    ) -> Result<(StatusCode, Vec<u8>), RestartError> {
        let asked = async {
            let client = http::Client::local(self.socket, deadline)?;
            // The host is never looked up: the connection is the socket.
            let url = http::address(&format!("http://docker{path}"))?;
            let response = client.send(client.request(method, url)).await.map_err(|failure| failure.words)?;
            Ok((response.status(), http::body(response, MAX_ANSWER_BYTES).await?))
        };
        asked.await.map_err(|why: String| self.unreachable(why))
    }

    /// An id or a name, safe in a path.
    fn path(&self, container: &str, rest: &str) -> Result<String, RestartError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        match container.chars().all(allowed) {
            true => Ok(format!("/containers/{container}/{rest}")),
            false => Err(self.unknown("the name is not valid for a container of Docker or podman")),
        }
    }

    fn restart_path(&self, seen: &Inspected) -> Result<String, RestartError> {
        self.path(self.name, &format!("restart?t={}", seen.stop_seconds()))
    }

    async fn inspect(&self) -> Result<Inspected, RestartError> {
        self.inspect_other(self.name).await
    }

    async fn inspect_other(&self, container: &str) -> Result<Inspected, RestartError> {
        let path = self.path(container, "json")?;
        let (status, body) = self.ask(reqwest::Method::GET, &path, CALL_DEADLINE).await?;
        match status {
            StatusCode::NOT_FOUND => Err(self.unknown("the daemon has no such container; see `docker ps --all`")),
            _ if !status.is_success() => Err(self.unreachable(says(status, &body))),
            _ => serde_json::from_slice(&body)
                .map_err(|error| self.unreachable(format!("its answer cannot be read: {error}"))),
        }
    }

    /// Running containers that live in this one's network namespace, and would be left in the old one.
    async fn guests(&self, host: &Inspected) -> Result<Vec<String>, RestartError> {
        let (status, body) = self.ask(reqwest::Method::GET, "/containers/json", CALL_DEADLINE).await?;
        if !status.is_success() {
            return Err(self.unreachable(says(status, &body)));
        }
        let all: Vec<Listed> = serde_json::from_slice(&body)
            .map_err(|error| self.unreachable(format!("its answer cannot be read: {error}")))?;
        let name = host.name.trim_start_matches('/');
        let mut guests = Vec::new();
        for listed in all.into_iter().filter(|listed| listed.id != host.id) {
            let settings = match listed.host_config {
                Some(settings) => settings,
                None => match self.inspect_other(&listed.id).await {
                    Ok(inspected) => inspected.host_config,
                    // It has gone meanwhile.
                    Err(RestartError::Unknown { .. }) => continue,
                    Err(error) => return Err(error),
                },
            };
            let lives_in = settings.network_mode.strip_prefix("container:");
            if lives_in.is_some_and(|other| other == host.id || other == name) {
                guests.push(listed.names.first().map_or("?", |name| name.trim_start_matches('/')).to_owned());
            }
        }
        Ok(guests)
    }
}

/// The daemon's own words.
fn says(status: StatusCode, body: &[u8]) -> String {
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => format!("{} (HTTP {})", refusal.message.trim(), status.as_u16()),
        Err(_) => format!("HTTP status {status}"),
    }
}

impl DockerRestarter {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, bus: Bus::default() }
    }

    /// Why its unit alone may restart it. Measured on podman 5.8 with Quadlet's unit: the daemon answers 204, and the container
    /// is gone for good, since its unit removes it once it has stopped.
    async fn is_a_units(&self, container: &Container<'_>, seen: &Inspected) -> Option<String> {
        let service = container.service();
        if let Some(unit) = seen.unit() {
            return Some(format!(
                "{service} belongs to {unit} (label {UNIT_LABEL}), and systemd removes the container when the unit stops: write `service: {unit}` instead, and unwait restarts the unit"
            ));
        }
        let called = Called { name: seen.name.trim_start_matches('/'), id: &seen.id };
        let (unit, command) = owner::unit_of(&self.bus, called).await?;
        Some(format!(
            "{service} is run by {unit} (its {command}= names the container), and {unit} ends or restarts when the container stops: restart the unit by `run: {{ argv: [systemctl, restart, {unit}] }}` in place of `restart`"
        ))
    }
}

#[async_trait]
impl Restarter for DockerRestarter {
    async fn container_id(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        Ok(Some(Container::of(target)?.inspect().await?.id))
    }

    async fn observe(&self, target: &plan::Restart) -> Result<Liveness, RestartError> {
        let seen = Container::of(target)?.inspect().await?;
        let runs = matches!(seen.run_state(), RunState::Active | RunState::Changing | RunState::Frozen);
        let started: Option<jiff::Timestamp> = seen.state.started_at.parse().ok();
        let up_for = started.and_then(|started| Duration::try_from(self.clock.now().duration_since(started)).ok());
        Ok(Liveness {
            state: seen.run_state(),
            incarnation: runs.then(|| seen.incarnation()),
            main_pid: None,
            up_for: up_for.filter(|_| seen.run_state() == RunState::Active),
        })
    }

    async fn would(&self, revival: Revival, target: &plan::Restart) -> Result<String, RestartError> {
        let container = Container::of(target)?;
        let path = container.restart_path(&container.inspect().await?)?;
        Ok(match revival {
            Revival::Restart => format!("POST {path} to unix:{}", container.socket.display()),
            Revival::Reload => "nothing: a container has no reload".into(),
        })
    }

    async fn restart(&self, target: &plan::Restart, deadline: Duration) -> Result<Restarted, RestartError> {
        let mut until = Instant::now() + deadline;
        let container = Container::of(target)?;
        let before = container.inspect().await?;
        if before.run_state() != RunState::Active {
            return Err(
                container.refused(format!("the service is {}; only a running service is restarted", before.shown()))
            );
        }
        if let Some(why) = self.is_a_units(&container, &before).await {
            return Err(container.refused(why));
        }
        super::alone(&container.service(), &container.guests(&before).await?)?;
        let path = container.restart_path(&before)?;
        match container.ask(reqwest::Method::POST, &path, deadline).await? {
            (status, _) if status.is_success() => {}
            (StatusCode::NOT_FOUND, _) => return Err(container.unknown("the container has just been removed")),
            // It may have been stopped by then; whoever asked looks what is so.
            (status, body) => return Err(container.failed(says(status, &body))),
        }
        // A restart that was done in time is given the time to prove itself.
        until = until.max(Instant::now() + STABLE_FOR + POLL * 4);
        let mut steady: Option<(Incarnation, Instant)> = None;
        loop {
            let look = container.inspect().await;
            if let Ok(now) = &look {
                let new = now.incarnation();
                match (now.run_state(), &steady) {
                    (RunState::Active, Some((same, since))) if *same == new => {
                        if since.elapsed() >= STABLE_FOR {
                            return Ok(Restarted::NewIncarnation(new));
                        }
                    }
                    (RunState::Active, _) if new != before.incarnation() => steady = Some((new, Instant::now())),
                    // Its restart policy is at work on it, or a person has paused it.
                    (RunState::Changing | RunState::Frozen, _) => steady = None,
                    (RunState::Active, _) => {
                        return Err(container
                            .failed("the daemon accepted the restart, but the container runs on without one".into()));
                    }
                    (RunState::Inactive | RunState::Failed, _) => {
                        let detail = format!(
                            "the container was started and is now {}; see `docker logs {}`",
                            now.shown(),
                            container.name
                        );
                        return Err(container.failed(detail));
                    }
                }
            }
            if Instant::now() >= until {
                return Err(match look {
                    Ok(now) => container.failed(format!(
                        "no new process had stayed up by the deadline; the service is {}",
                        now.shown()
                    )),
                    Err(error) => error,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn unfit(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        let container = Container::of(target)?;
        let seen = container.inspect().await?;
        Ok(self.is_a_units(&container, &seen).await)
    }

    async fn would_not_start(&self, _target: &plan::Restart) -> Result<Option<String>, RestartError> {
        Ok(super::room::full())
    }

    /// Until it has ended, the daemon calls it running (podman: stopping).
    async fn settles_within(&self, target: &plan::Restart) -> Result<Duration, RestartError> {
        Ok(Container::of(target)?.inspect().await?.stop_timeout() + super::SETTLE_MARGIN)
    }

    async fn own_deadline(&self, target: &plan::Restart) -> Result<Duration, RestartError> {
        Ok(Container::of(target)?.inspect().await?.stop_timeout() + START_ALLOWANCE + super::DEADLINE_MARGIN)
    }

    async fn dependents(&self, target: &plan::Restart) -> Result<Vec<String>, RestartError> {
        let container = Container::of(target)?;
        container.guests(&container.inspect().await?).await
    }

    async fn caveats(&self, target: &plan::Restart) -> Vec<String> {
        let Ok(container) = Container::of(target) else { return Vec::new() };
        match container.inspect().await {
            Ok(seen) if seen.is_never_killed() => vec![format!(
                "{} has no stop timeout (`--stop-timeout -1`): the daemon waits for ever and never kills the container; a deadline allows {} s for the stop",
                container.service(),
                UNLIMITED_STOP.as_secs()
            )],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
#[path = "docker_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "podman_tests.rs"]
mod podman_tests;
