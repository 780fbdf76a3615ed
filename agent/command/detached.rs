//! Commands that outlive the agent: a transient unit under systemd (which also keeps them out of the agent's sandbox), a
//! process group of their own elsewhere.
//!
//! One that is dropped half-way may run on, and one whose agent was killed does. Where that would matter it has a name:
//! the unit's, and elsewhere a variable of its environment; by that name a later one finds and ends it ([`end`]).

use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::AsRawFd;
use std::time::Duration;

use tokio::time::Instant;

use super::{Captured, capture};

/// Holds the name of a command, where no unit does.
const NAME: &str = "UNWAIT_COMMAND";
/// From SIGTERM to SIGKILL, of a unit that is ended.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// For a command to be ended, one way or the other.
const END_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Runs `argv` as [`capture`] does, apart from the agent. What a unit said is known only where it failed: its last line.
pub async fn detached(
    argv: &[String],
    environment: &[(String, String)],
    deadline: Duration,
    max_bytes: usize,
) -> Captured {
    detached_as(&transient_name(), argv, environment, deadline, max_bytes).await
}

/// The same, under a name that [`end`] knows it by. A second one of that name does not start while the first one runs.
pub async fn detached_as(
    name: &str,
    argv: &[String],
    environment: &[(String, String)],
    deadline: Duration,
    max_bytes: usize,
) -> Captured {
    if !under_systemd() {
        let environment = [environment, &[(NAME.into(), name.into())]].concat();
        return capture(argv, &environment, deadline, max_bytes).await;
    }
    let unit = unit(name);
    let (name, limit) = (format!("--unit={unit}"), format!("--property=RuntimeMaxSec={}", deadline.as_secs().max(1)));
    let stop = format!("--property=TimeoutStopSec={}", STOP_WITHIN.as_secs());
    // No --pipe: a pipe to the agent would break with it, and end the command at its next word.
    let mut whole: Vec<String> =
        ["systemd-run", "--quiet", "--collect", "--wait", &name, &limit, &stop].map(String::from).into();
    whole.extend(environment.iter().map(|(name, value)| format!("--setenv={name}={value}")));
    whole.push("--".into());
    // systemd puts variables into arguments (systemd.service(5), "Command lines"); `$$` is a `$`.
    whole.extend(argv.iter().map(|argument| argument.replace('$', "$$")));
    let mut ran = capture(&whole, &[], deadline + Duration::from_secs(1), max_bytes).await;
    // systemd-run's own words come first: why it could not start the command at all.
    if !ran.ended.is_success() && ran.output.trim().is_empty() {
        ran.output = last_of_journal(&unit, max_bytes).await;
    }
    ran
}

/// Ends what runs under that name, whoever began it, and returns once it has ended. The error says what runs still.
pub async fn end(name: &str) -> Result<(), String> {
    match under_systemd() {
        true => end_unit(&unit(name)).await,
        false => end_processes(name).await,
    }
}

async fn end_unit(unit: &str) -> Result<(), String> {
    let systemctl = |arguments: &[&str]| [&["systemctl"], arguments].concat().iter().map(ToString::to_string).collect();
    let argv: Vec<String> = systemctl(&["stop", unit]);
    // An error too where it is not loaded: what is so is asked for.
    let stopped = capture(&argv, &[], END_WITHIN, SYSTEMCTL_BYTES).await;
    let argv: Vec<String> = systemctl(&["show", "--property=ActiveState", "--value", unit]);
    let shown = capture(&argv, &[], END_WITHIN, SYSTEMCTL_BYTES).await;
    match shown.output.trim() {
        "inactive" | "failed" if shown.ended.is_success() => Ok(()),
        said => Err(format!("{unit} cannot be ended ({}), it is {said}", stopped.ended)),
    }
}

async fn end_processes(name: &str) -> Result<(), String> {
    let deadline = Instant::now() + END_WITHIN;
    loop {
        let running = running(name);
        match running.first() {
            None => return Ok(()),
            Some((pid, _)) if Instant::now() >= deadline => return Err(format!("process {pid} cannot be ended")),
            // Again and again: it may have started others meanwhile.
            Some(_) => running.iter().for_each(|(_, held)| kill(held)),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Those that carry the name in their environment, each held by its directory in /proc; what has ended carries nothing.
fn running(name: &str) -> Vec<(i32, File)> {
    let named = format!("{NAME}={name}");
    let carries = |pid: i32| {
        // Opened before it is looked at: a number that is given away meanwhile is nobody's death.
        let held = File::open(format!("/proc/{pid}")).ok()?;
        carries_variable(pid, &named).then_some((pid, held))
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(carries).collect()
}

/// Whether a process was started with this variable (`NAME=value`); what may not be read carries nothing.
pub fn carries_variable(pid: i32, variable: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|carried| carried == variable.as_bytes())
}

fn kill(held: &File) {
    // SAFETY: pidfd_send_signal(2) takes a descriptor, which may be that of a directory in /proc, a signal, no siginfo
    // and no flags. An error says that it has ended, or may not be ended by us: who asks looks again.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            held.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        );
    }
}

fn under_systemd() -> bool {
    nix::unistd::geteuid().is_root() && std::path::Path::new("/run/systemd/system").is_dir()
}

fn unit(name: &str) -> String {
    format!("{name}.service")
}

const SYSTEMCTL_BYTES: usize = 4096;

/// A name that no command of a former agent has, which may be running still.
fn transient_name() -> String {
    // RandomState is seeded by the operating system; nothing here needs more randomness than that.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("unwait-run-{random:016x}")
}

/// How long the journal may take to say what a command said.
const JOURNAL_WITHIN: Duration = Duration::from_secs(3);

/// The last line that a unit wrote; empty where the journal does not have it.
async fn last_of_journal(unit: &str, max_bytes: usize) -> String {
    let journal =
        |arguments: &[&str]| ["journalctl"].iter().chain(arguments).map(ToString::to_string).collect::<Vec<_>>();
    // What was written just now may still be on its way.
    capture(&journal(&["--sync"]), &[], JOURNAL_WITHIN, max_bytes).await;
    // By the unit that wrote it: what systemd says about the unit is not what the command said.
    let (by, lines) = (format!("_SYSTEMD_UNIT={unit}"), ["--quiet", "--output=cat", "--lines=1", "--no-pager"]);
    let said = capture(&journal(&[&lines[..], &[&by]].concat()), &[], JOURNAL_WITHIN, max_bytes).await;
    if said.ended.is_success() { said.output } else { String::new() }
}
