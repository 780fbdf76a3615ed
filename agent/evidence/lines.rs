//! The files of one JSON object a line.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::census::Owned;
use crate::model::{Direction, Sample};

/// Text of whole lines, and how many did not fit.
pub(super) struct Lines {
    pub text: String,
    pub left_out: usize,
}

/// Writes one line a value, up to `max_bytes`.
pub(super) fn write<T: Serialize>(values: impl IntoIterator<Item = T>, max_bytes: usize) -> Lines {
    let mut lines = Lines { text: String::new(), left_out: 0 };
    for value in values {
        if lines.left_out > 0 {
            lines.left_out += 1;
            continue;
        }
        let line = serde_json::to_string(&value).expect("these values have string keys and finite numbers only");
        if lines.text.len() + line.len() + 1 > max_bytes {
            lines.left_out = 1;
            continue;
        }
        lines.text.push_str(&line);
        lines.text.push('\n');
    }
    lines
}

/// One line of `sockets.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SocketLine {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub direction: Direction,
    pub recv_q: u32,
    pub send_q: u32,
    pub inode: u64,
    pub cookie: u64,
    pub uid: u32,
    /// Whole seconds, rounded down: an age is never overstated.
    pub age_seconds: Option<u64>,
    /// It may be more: a keepalive was answered meanwhile, or the socket could not be asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub age_is_at_least: bool,
    /// For how long no data had come or gone when the peer closed, to a tenth; absent where that moment is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<f64>,
    /// Of the processes that were read in full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pids: Vec<u32>,
}

/// `sockets.jsonl`.
pub(super) fn sockets(sockets: &[Owned], holders: &HashMap<u64, Vec<u32>>, max_bytes: usize) -> Lines {
    let line = |owned| {
        let Owned { socket, direction, .. }: &Owned = owned;
        // Inode 0 is "in the accept queue": nobody holds it, whatever has inode 0 elsewhere.
        let pids = holders.get(&socket.inode).filter(|_| socket.inode != 0).cloned().unwrap_or_default();
        SocketLine {
            local: socket.local,
            remote: socket.remote,
            direction: *direction,
            recv_q: socket.recv_q,
            send_q: socket.send_q,
            inode: socket.inode,
            cookie: socket.cookie,
            uid: socket.uid,
            age_seconds: socket.age.map(|age| age.as_secs()),
            age_is_at_least: socket.at_least,
            idle_seconds: socket.idle.map(|idle| (idle.as_secs_f64() * 10.0).round() / 10.0),
            pids,
        }
    };
    write(sockets.iter().map(line), max_bytes)
}

/// `signals.jsonl`: the signals' own names as keys, and the step of what is down-sampled. The newest are what matters: the
/// oldest do not fit first.
pub(super) fn history(history: &[Sample], max_bytes: usize) -> Lines {
    let newest_first = history.iter().rev();
    let mut lines = write(newest_first, max_bytes);
    let in_order: Vec<&str> = lines.text.lines().rev().collect();
    lines.text = in_order.iter().flat_map(|line| [*line, "\n"]).collect();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::peers::tests::socket;
    use crate::model::{Readings, Signal};
    use jiff::Timestamp;

    #[test]
    fn a_socket_is_one_line_with_age_and_holders() {
        let known = socket("10.0.0.1:40001", "10.0.0.2:6379", Direction::Outbound, 30);
        let mut queued = socket("[::1]:7801", "[::1]:5000", Direction::Inbound, 0);
        queued.socket.inode = 0;
        let holders = HashMap::from([(130, vec![812, 813]), (0, vec![1])]);
        let lines = sockets(&[known, queued], &holders, 4096);
        assert_eq!(
            lines.text,
            concat!(
                r#"{"local":"10.0.0.1:40001","remote":"10.0.0.2:6379","direction":"outbound","recv_q":1,"send_q":0,"#,
                r#""inode":130,"cookie":30,"uid":0,"age_seconds":30,"pids":[812,813]}"#,
                "\n",
                r#"{"local":"[::1]:7801","remote":"[::1]:5000","direction":"inbound","recv_q":1,"send_q":0,"#,
                r#""inode":0,"cookie":0,"uid":0,"age_seconds":null}"#,
                "\n"
            )
        );
    }

    #[test]
    fn history_keeps_the_newest_within_its_bound_in_order() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut readings = Readings::default();
        readings.set(Signal::CloseWait, 288.0);
        readings.set(Signal::FdRatio, 0.25);
        let entries: Vec<_> = (1..=5).map(|second| Sample::moment(at(second), readings.clone())).collect();
        let line =
            |second| format!("{{\"at\":\"1970-01-01T00:00:0{second}Z\",\"close_wait\":288,\"fd.ratio\":0.25}}\n");
        assert_eq!(history(&entries, 4096).text, (1..=5).map(line).collect::<String>());
        let cut = history(&entries, line(1).len() * 2 + 1);
        assert_eq!((cut.text, cut.left_out), (line(4) + &line(5), 3));
    }
}
