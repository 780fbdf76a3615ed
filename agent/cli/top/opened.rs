//! One service, opened: its signals, what holds it, and its sockets, peers or processes. Pure.

use std::time::Duration;

use ratatui::buffer::Buffer;

use super::draw::{Body, says};
use super::state::{OpenService, Tab, TopState};
use super::text::{Emphasis, put};
use crate::cli::render::{self, width};
use crate::model::{Reading, duration};
use crate::view::services::{SocketNow, SocketsOfService};
use crate::view::sockets::SocketsRow;

/// Lines of what holds it, on a screen that is high enough.
const SAYS: usize = 3;

/// Rows that the open tab has.
pub fn rows(open: &OpenService) -> usize {
    open.seen.as_ref().map_or(0, |seen| table(open, seen).1.len())
}

/// Rows that fit.
pub fn fit(state: &TopState, open: &OpenService) -> usize {
    // The tabs, and the headings.
    state.body().saturating_sub(about(state, open).len() + 2)
}

pub fn draw(body: &Body<'_>, open: &OpenService, buffer: &mut Buffer) {
    let state = body.state;
    let mut at = 0;
    let mut line = |tone: Emphasis, text: &str, buffer: &mut Buffer| {
        if at < body.height {
            put(buffer, (body.x, body.line(at)), body.width, text, tone.style(state.colours));
        }
        at += 1;
    };
    for (tone, text) in about(state, open) {
        line(tone, &text, buffer);
    }
    line(Emphasis::Bold, &tabs(open), buffer);
    let said = match (&open.seen, &open.failed) {
        _ if state.past.is_some() => "Single sockets are not recorded; End goes back to now.".to_owned(),
        (None, Some(why)) => format!("Its sockets could not be looked at: {why}"),
        (None, None) => "looking ...".to_owned(),
        (Some(seen), _) => {
            let (headings, rows) = table(open, seen);
            let rows: Vec<Vec<String>> =
                rows.into_iter().skip(open.first).take(fit(state, open)).map(|row| row.map(shown).to_vec()).collect();
            let text = render::aligned(&headings, &rows);
            for (at, text) in text.lines().enumerate() {
                line(if at == 0 { Emphasis::Dim } else { Emphasis::Plain }, text, buffer);
            }
            return;
        }
    };
    line(Emphasis::Plain, &said, buffer);
}

/// In a cell of a table that is laid out before it is written.
fn shown(text: String) -> String {
    super::text::harmless(&text)
}

fn about(state: &TopState, open: &OpenService) -> Vec<(Emphasis, String)> {
    let mut lines = vec![(Emphasis::Bold, open.service.to_string())];
    let service = state.services().and_then(|seen| seen.services.iter().find(|one| one.service == open.service));
    match service {
        None if state.services().is_none() => {}
        None => lines.push((Emphasis::Plain, "holds no socket in CLOSE_WAIT".into())),
        Some(service) => {
            let signals = service.signals.iter().filter(|(signal, _)| !signal.is_of_the_host());
            let shown = signals.filter(|(signal, _)| matches!(service.signals.get(*signal), Reading::Known(_)));
            let each = shown.map(|(signal, _)| format!("{signal} {}", service.signals.show(signal)));
            lines.extend(wrapped(each, state.size.width.into()).into_iter().map(|line| (Emphasis::Plain, line)));
            lines.extend(says(service, state).into_iter().take(SAYS));
        }
    }
    if state.past.is_none() {
        let seen = open.seen.iter().flat_map(|seen| &seen.not_seen);
        lines.extend(seen.take(1).map(|what| (Emphasis::Warn, format!("NOT SEEN: {what}"))));
    }
    // The sockets have at least half of the screen.
    lines.truncate((state.body() / 2).max(1));
    lines
}

fn tabs(open: &OpenService) -> String {
    let count = |tab: Tab| {
        open.seen.as_ref().map_or_else(String::new, |seen| match tab {
            Tab::Sockets => format!(" {}", seen.of),
            Tab::Peers => format!(" {}", seen.peers.len()),
            Tab::Processes => format!(" {}", seen.processes.len()),
        })
    };
    let tab = |(at, tab): (usize, Tab)| {
        let name = match tab {
            Tab::Sockets => "sockets",
            Tab::Peers => "peers",
            Tab::Processes => "processes",
        };
        let text = format!("{} {name}{}", at + 1, count(tab));
        if tab == open.tab { format!("[{text}]") } else { format!(" {text} ") }
    };
    Tab::ALL.into_iter().enumerate().map(tab).collect::<Vec<_>>().join(" ")
}

/// Headings and rows of the tab.
fn table(open: &OpenService, seen: &SocketsOfService) -> ([&'static str; 5], Vec<[String; 5]>) {
    let named = |what: &str| open.names.get(what).map(|name| format!("{what} ({name})")).unwrap_or_else(|| what.into());
    let counted = |row: &SocketsRow| {
        let share = row.sockets * 100 / seen.of.max(1);
        let oldest = row.oldest.map_or_else(|| "-".into(), |age| age_of(age, false));
        [row.sockets.to_string(), format!("{share}%"), oldest, row.unread.to_string(), named(&row.what)]
    };
    match open.tab {
        Tab::Sockets => {
            let socket = |one: &SocketNow| {
                let age = one.age.map_or_else(|| "-".into(), |age| age_of(age, one.at_least));
                let peer = match one.inbound {
                    true => format!("{} called {}", one.peer, one.local.port()),
                    false => named(&one.peer.to_string()),
                };
                let holders = if one.holders.is_empty() { "nobody seen".into() } else { one.holders.join(", ") };
                [age, one.unread.to_string(), one.unsent.to_string(), peer, holders]
            };
            let mut rows: Vec<[String; 5]> = seen.sockets.iter().map(socket).collect();
            if seen.of > seen.sockets.len() {
                let more = format!("and {} younger ones", seen.of - seen.sockets.len());
                rows.push([String::new(), String::new(), String::new(), more, String::new()]);
            }
            ([">AGE", ">UNREAD", ">UNSENT", "PEER", "HELD BY"], rows)
        }
        Tab::Peers => ([">SOCKETS", ">OF ALL", ">OLDEST", ">UNREAD", "PEER"], seen.peers.iter().map(counted).collect()),
        Tab::Processes => {
            ([">SOCKETS", ">OF ALL", ">OLDEST", ">UNREAD", "PROCESS"], seen.processes.iter().map(counted).collect())
        }
    }
}

/// To the second; to the minute from an hour on.
fn age_of(age: Duration, at_least: bool) -> String {
    let seconds = if age.as_secs() >= 3_600 { age.as_secs() / 60 * 60 } else { age.as_secs() };
    let bound = if at_least { ">= " } else { "" };
    format!("{bound}{}", duration::format(Duration::from_secs(seconds)))
}

/// As many on a line as fit.
fn wrapped(parts: impl Iterator<Item = String>, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut().filter(|line| width(line) + 2 + width(&part) <= columns) {
            Some(line) => line.push_str(&format!("  {part}")),
            None => lines.push(part),
        }
    }
    lines
}
