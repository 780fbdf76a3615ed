//! `unwait scan --by`: the host's sockets in CLOSE_WAIT by peer, process, port or user.

use std::fmt::Write as _;

use super::{Failure, Outcome, out, render};
use crate::model::duration;
use crate::sense::sensor::every_socket::SocketsFound;
use crate::sense::sensor::{Sensor, on_blocking_thread};
use crate::view::sockets::{CountedBy, SocketsRow, SocketsShown};

/// Rows that the table shows.
const MOST_ROWS: usize = 40;

pub async fn scan(mut sensor: Sensor, by: CountedBy, json: bool) -> Outcome {
    let seen = on_blocking_thread(move || sensor.every_socket()).await;
    let SocketsFound { at, sockets, not_seen } = seen.map_err(|error| Failure::Unreachable(error.to_string()))?;
    let shown = SocketsShown::count(at, by, &sockets, user, not_seen);
    match json {
        true => render::json(&shown),
        false => print!("{}", table(&shown)),
    }
    out::finish()
}

fn user(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    }
}

fn table(shown: &SocketsShown) -> String {
    let row = |SocketsRow { what, sockets, oldest, unread }: &SocketsRow| {
        let oldest =
            oldest.map_or("-".into(), |oldest| duration::format(std::time::Duration::from_secs(oldest.as_secs())));
        vec![what.clone(), sockets.to_string(), oldest, unread.to_string()]
    };
    let rows: Vec<Vec<String>> = shown.rows.iter().take(MOST_ROWS).map(row).collect();
    let heading = shown.by.to_string().to_uppercase();
    let mut text = match rows.is_empty() {
        true => "No socket of this host is in CLOSE_WAIT.\n".to_owned(),
        false => render::aligned(&[&heading, ">CLOSE_WAIT", ">OLDEST", ">UNREAD"], &rows),
    };
    if shown.rows.len() > MOST_ROWS {
        let _ = writeln!(text, "and {} more; see --json", shown.rows.len() - MOST_ROWS);
    }
    if !shown.not_seen.is_empty() {
        text.push_str("\nNot seen:\n");
        shown.not_seen.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}
