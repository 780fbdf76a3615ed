//! The lines above the table: which host, who looked and when, what is paused, the host's total, and what a person should know. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::state::{TopLook, TopState};
use super::text::Emphasis;
use crate::cli::render;
use crate::model::duration;

/// Lines for what a person should know, where the screen has the room.
const NOTES: usize = 4;
/// A look that is so many intervals old is late.
const LATE: u32 = 2;
/// So often at least an agent looks at everything; between these looks at what may bring a policy to a breach alone.
const WHOLE: Duration = Duration::from_secs(60);
/// And so much older at least: a look takes its time.
const GRACE: Duration = Duration::from_secs(5);

pub fn lines(state: &TopState) -> Vec<(Emphasis, String)> {
    let mut lines = vec![first(state), second(state)];
    let mut notes = notes(state);
    let room = usize::from(state.size.height / 4).min(NOTES);
    if notes.len() > room {
        let kept = room.saturating_sub(1);
        let left_out = notes.len() - kept;
        notes.truncate(kept);
        if room > 0 {
            notes.push((Emphasis::Warn, format!("{left_out} more notes: `unwait status` and `unwait scan` show them")));
        }
    }
    lines.extend(notes);
    lines
}

fn first(state: &TopState) -> (Emphasis, String) {
    let host = state.live.as_ref().map(|seen| seen.services.host.as_str()).unwrap_or("unwait top");
    if let Some(past) = &state.past {
        let (at, ago) = (render::time(past.at), ago(state.now, past.at));
        let reading = if past.seen.is_none() { ", being read" } else { "" };
        return (Emphasis::Warn, format!("{host}  THE PAST: {at}, {ago}{reading}  End: back to now"));
    }
    let Some(seen) = &state.live else { return (Emphasis::Bold, format!("{host}  looking ...")) };
    let age = match seen.services.at {
        Some(at) if is_late(state, seen, at) => format!("LATE: last look {}", ago(state.now, at)),
        Some(at) => format!("looked {}", ago(state.now, at)),
        None => "no look yet".into(),
    };
    let tone = if age.starts_with("LATE") { Emphasis::Warn } else { Emphasis::Bold };
    (tone, format!("{host}  {age}, every {}  {}", duration::format(seen.every), whose(seen)))
}

fn whose(seen: &TopLook) -> String {
    if !seen.by_agent {
        return "own looks: no agent answers".into();
    }
    let modes: Vec<String> = seen.services.modes.iter().map(|(mode, count)| format!("{count} {mode}")).collect();
    match modes.is_empty() {
        true => "agent without policies".into(),
        false => format!("policies: {}", modes.join(", ")),
    }
}

fn second(state: &TopState) -> (Emphasis, String) {
    let Some(services) = state.services() else { return (Emphasis::Plain, String::new()) };
    let mut parts = Vec::new();
    let mut tone = Emphasis::Plain;
    if let Some(pause) = state.status().and_then(|status| status.paused.as_ref()) {
        let until = pause.until.map_or("`unwait resume`".into(), render::time);
        parts.push(format!("PAUSED by {} until {until}", pause.who));
        tone = Emphasis::Warn;
    }
    if let Some(count) = services.host_close_wait {
        let mut host = format!("{count} CLOSE_WAIT");
        if let Some(limit) = &services.host_limit {
            let over = if count as f64 > limit.above { "OVER " } else { "" };
            host.push_str(&format!(", {over}limit {} ({})", limit.above, limit.policy));
            tone = if over.is_empty() { tone } else { Emphasis::Warn };
        }
        parts.push(host);
    }
    let unowned: u64 = services.unattributed.values().sum();
    if unowned > 0 {
        let why = services.unattributed.iter().map(|(why, count)| format!("{count} {}", why.replace('_', " ")));
        parts.push(format!("{unowned} of no service ({})", why.collect::<Vec<_>>().join(", ")));
    }
    (tone, parts.join("  "))
}

fn notes(state: &TopState) -> Vec<(Emphasis, String)> {
    let past = state.past.as_ref().and_then(|past| past.seen.as_ref()?.as_ref().err());
    let said = state.live.iter().filter(|_| state.past.is_none()).flat_map(|seen| &seen.notes);
    let failed = state.failed.iter().filter(|_| state.past.is_none());
    failed.chain(past).chain(said).map(|note| (Emphasis::Warn, note.clone())).collect()
}

fn is_late(state: &TopState, seen: &TopLook, at: Timestamp) -> bool {
    let age = Duration::try_from(state.now.duration_since(at)).unwrap_or_default();
    let often = if seen.by_agent { WHOLE } else { Duration::ZERO };
    age > (seen.every * LATE).max(often) + GRACE
}

/// `12s ago`, `1h2m ago`: to the minute where it is longer than one hour.
fn ago(now: Timestamp, at: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0).unsigned_abs();
    let rounded = if seconds >= 3_600 { seconds - seconds % 60 } else { seconds };
    format!("{} ago", duration::format(Duration::from_secs(rounded)))
}
