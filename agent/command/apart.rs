//! Commands that outlive the agent: a transient unit under systemd (which also keeps them out of the agent's sandbox), a
//! process group of their own elsewhere.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use super::{Captured, capture};

/// Runs `argv` as [`capture`] does, apart from the agent. What a unit said is known only where it failed: its last line.
pub async fn apart(
    argv: &[String],
    environment: &[(String, String)],
    deadline: Duration,
    max_bytes: usize,
) -> Captured {
    let under_systemd = nix::unistd::geteuid().is_root() && std::path::Path::new("/run/systemd/system").is_dir();
    if !under_systemd {
        return capture(argv, environment, deadline, max_bytes).await;
    }
    let unit = transient_unit();
    let (name, limit) = (format!("--unit={unit}"), format!("--property=RuntimeMaxSec={}", deadline.as_secs().max(1)));
    // No --pipe: a pipe to the agent would break with it, and end the command at its next word.
    let mut whole: Vec<String> =
        ["systemd-run", "--quiet", "--collect", "--wait", &name, &limit].map(String::from).into();
    whole.extend(environment.iter().map(|(name, value)| format!("--setenv={name}={value}")));
    whole.push("--".into());
    whole.extend(argv.iter().cloned());
    let mut ran = capture(&whole, &[], deadline + Duration::from_secs(1), max_bytes).await;
    // systemd-run's own words come first: why it could not start the command at all.
    if !ran.ended.is_success() && ran.output.trim().is_empty() {
        ran.output = last_of_journal(&unit, max_bytes).await;
    }
    ran
}

/// A name that no command of a former agent has, which may be running still.
fn transient_unit() -> String {
    // RandomState is seeded by the operating system; nothing here needs more randomness than that.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("unwait-run-{random:016x}.service")
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
