//! What speaks for one cause of a leak or another, read from the evidence alone. A hint, never a verdict: it says what was
//! counted, so that who reads it can judge.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::evidence::{Facts, Holders, SocketLine, Thread};
use crate::model::Direction;

/// Why sockets stay in CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    /// A pool keeps connections for longer than its peer does.
    IdlePool,
    /// The same, in far more workers than the traffic keeps busy.
    TooManyWorkers,
    /// The program has read the end of the connection, and did not close it.
    ClosePathForgotten,
    /// Handlers that have not returned hold the connections of clients that have left.
    HandlersStuck,
    /// Clients left before the program accepted them.
    AcceptQueueNotServed,
    /// Several processes hold the same connection.
    DescriptorsHandedOn,
    /// Sockets whose CLOSE_WAIT has ended without a close: the count is less than the leak.
    KeepaliveHidesIt,
}

/// One cause, and what speaks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    pub cause: Cause,
    /// What was counted.
    pub because: String,
    /// What mends it, in the service or beside it.
    pub remedy: String,
}

/// Fewer sockets than this say nothing.
const FEWEST: usize = 3;
/// Fewer workers than this are not many.
const MANY_WORKERS: usize = 8;
/// A worker that wakes up less often than each so many seconds has little to do.
const SELDOM: f64 = 10.0;
/// Peers that close by an idle timeout do it within this part of it, or within a second.
const SPREAD: f64 = 0.1;

/// The evidence that a diagnosis reads.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub sockets: &'a [SocketLine],
    pub processes: &'a [Facts],
    pub holders: &'a Holders,
}

/// The causes that something speaks for, the one with the most sockets first; empty where nothing does.
pub fn diagnose(seen: Seen<'_>) -> Vec<Hint> {
    let all = seen.sockets.len();
    let many = |count: usize| count >= FEWEST && count * 2 >= all;
    let mut found: Vec<(usize, Hint)> = Vec::new();
    let mut add = |count: usize, cause, because: String, remedy: &str| {
        found.push((count, Hint { cause, because, remedy: remedy.into() }));
    };

    let closed = seen.holders.closed_descriptors.unwrap_or(0) as usize;
    if closed >= FEWEST && closed * 5 >= all {
        add(
            closed,
            Cause::KeepaliveHidesIt,
            format!(
                "the leak is larger than its {all} sockets in CLOSE_WAIT: {closed} more descriptors lead to connections that \
                 the kernel has ended already (a keepalive was answered by a reset)"
            ),
            "let the policy count `fd.closed` too; the program must close the connections that it has given up",
        );
    }

    let queued = count(seen.sockets, is_queued);
    if many(queued) {
        add(
            queued,
            Cause::AcceptQueueNotServed,
            format!(
                "{queued} of {all} sockets were never accepted: their clients connected to {}, waited in the accept queue and \
                 left",
                ports(seen.sockets.iter().filter(|socket| is_queued(socket)))
            ),
            "find out why the program does not call accept: all workers busy, or its loop blocked",
        );
    }

    let shared = count(seen.sockets, is_shared);
    if many(shared) {
        add(
            shared,
            Cause::DescriptorsHandedOn,
            format!(
                "{shared} of {all} sockets are held by two or more processes ({}): the connection ends only once each of them \
                 has closed its descriptor",
                commands(seen, is_shared)
            ),
            "open sockets with close-on-exec, and close in the parent what was handed to a child",
        );
    }

    let (stuck, waits) = stuck_handlers(seen);
    if many(stuck) {
        add(
            stuck,
            Cause::HandlersStuck,
            format!(
                "{stuck} of {all} sockets are of clients that have left, and processes that hold them have threads that wait \
                 in {waits}, not for new work"
            ),
            "give handlers a timeout; a graceful reload does not end them, a restart or `kill_after` does",
        );
    }

    // One read takes the last data and the end together: a handler that is stuck behind it has not seen the end yet.
    let read = count(seen.sockets, |socket| socket.recv_q == 0 && !is_queued(socket) && !is_shared(socket));
    let forgotten = read.saturating_sub(stuck);
    if many(forgotten) {
        add(
            forgotten,
            Cause::ClosePathForgotten,
            format!(
                "{forgotten} of {all} sockets have nothing left to read: the program has read the end of the connection, and \
                 did not close it"
            ),
            "close the connection on the path that reads its end (a read of 0 bytes)",
        );
    }

    if let Some(pool) = idle_pool(seen).filter(|pool| many(pool.sockets)) {
        let closed_after = format!(
            "the peer closes idle connections before the service does: {} closed {} of {all} sockets after {}",
            pool.peer,
            pool.sockets,
            pool.says(),
        );
        match idle_workers(seen) {
            Some(workers) => add(
                pool.sockets,
                Cause::TooManyWorkers,
                format!("{workers}. {closed_after}"),
                "run fewer workers, or let the pool close idle connections sooner than the peer does",
            ),
            None => add(
                pool.sockets,
                Cause::IdlePool,
                closed_after,
                "let the pool close idle connections sooner than the peer does, or test a connection before it is used",
            ),
        }
    }
    found.sort_by_key(|(count, hint)| (std::cmp::Reverse(*count), hint.cause));
    found.into_iter().map(|(_, hint)| hint).collect()
}

fn count(sockets: &[SocketLine], is: impl Fn(&SocketLine) -> bool) -> usize {
    sockets.iter().filter(|socket| is(socket)).count()
}

/// In the accept queue: no process has a descriptor yet.
fn is_queued(socket: &SocketLine) -> bool {
    socket.inode == 0
}

fn is_shared(socket: &SocketLine) -> bool {
    socket.pids.len() > 1
}

/// `port 7801`, `ports 7801 and 7802`.
fn ports<'a>(sockets: impl Iterator<Item = &'a SocketLine>) -> String {
    let ports: std::collections::BTreeSet<u16> = sockets.map(|socket| socket.local.port()).collect();
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    match ports.as_slice() {
        [one] => format!("port {one}"),
        ports => format!("ports {}", listed(ports)),
    }
}

/// `a`, `a and b`, `a, b and 3 more`.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [names @ .., last] if names.len() < SHOWN => format!("{} and {last}", names.join(", ")),
        names => format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN),
    }
}

/// The processes that hold such sockets: `pid 812 php-fpm and pid 813 sleep`.
fn commands(seen: Seen<'_>, is: impl Fn(&SocketLine) -> bool) -> String {
    let pids: std::collections::BTreeSet<u32> =
        seen.sockets.iter().filter(|socket| is(socket)).flat_map(|socket| socket.pids.iter().copied()).collect();
    let named = |pid: &u32| {
        let name =
            seen.processes.iter().find(|process| process.pid == *pid).and_then(|process| process.status.as_ref());
        name.map_or_else(|| format!("pid {pid}"), |status| format!("pid {pid} {}", status.name))
    };
    listed(&pids.iter().map(named).collect::<Vec<_>>())
}

/// Kernel functions in which a thread waits for new work: for a connection, an event, a task of its pool. A thread that
/// waits elsewhere is in the middle of something.
const WAITS_FOR_WORK: [&str; 15] = [
    "inet_csk_accept",
    "ep_poll",
    "io_cqring_wait",
    "do_epoll_wait",
    "do_poll",
    "do_sys_poll",
    "poll_schedule_timeout",
    "do_select",
    "core_sys_select",
    "futex_wait",
    "futex_wait_queue",
    "futex_wait_queue_me",
    "do_sigtimedwait",
    "sigsuspend",
    "do_wait",
];

fn is_stuck(thread: &Thread) -> bool {
    let in_kernel = thread.wchan.as_deref().filter(|at| !matches!(*at, "" | "0"));
    in_kernel.is_some_and(|at| !WAITS_FOR_WORK.iter().any(|waits| at.starts_with(waits)))
}

/// Accepted sockets of clients that have left, whose holders have threads that are in the middle of something; and where.
fn stuck_handlers(seen: Seen<'_>) -> (usize, String) {
    let mut at: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sockets = 0;
    for process in seen.processes {
        let stuck = process.threads.iter().filter(|thread| is_stuck(thread));
        let threads: Vec<&str> = stuck.filter_map(|thread| thread.wchan.as_deref()).collect();
        let holds = count(seen.sockets, |socket| {
            socket.direction == Direction::Inbound && !is_queued(socket) && socket.pids == [process.pid]
        });
        // Each handler holds the one connection that it serves. Of threads that are not listed nothing is known.
        if holds > 0 && !threads.is_empty() {
            sockets += holds.min(threads.len());
            threads.into_iter().for_each(|waits| *at.entry(waits).or_default() += 1);
        }
    }
    let mut at: Vec<(&str, usize)> = at.into_iter().collect();
    at.sort_by_key(|(waits, count)| (std::cmp::Reverse(*count), *waits));
    (sockets, listed(&at.iter().map(|(waits, count)| format!("{waits} ({count})")).collect::<Vec<_>>()))
}

/// The service's own connections, closed by their peer once they had been idle for a time that is the same for all.
struct Pool {
    sockets: usize,
    peer: String,
    /// Seconds.
    median: f64,
    least: f64,
    most: f64,
}

impl Pool {
    fn says(&self) -> String {
        match (self.most - self.least) < 0.2 {
            true => format!("{:.1} s without data", self.median),
            false => format!(
                "{:.1} s without data (most of them after {:.1} to {:.1} s)",
                self.median, self.least, self.most
            ),
        }
    }
}

fn idle_pool(seen: Seen<'_>) -> Option<Pool> {
    let mut by_peer: BTreeMap<std::net::SocketAddr, Vec<f64>> = BTreeMap::new();
    let unread = |socket: &&SocketLine| socket.direction == Direction::Outbound && socket.recv_q > 0;
    for socket in seen.sockets.iter().filter(unread) {
        by_peer.entry(socket.remote).or_default().extend(socket.idle_seconds);
    }
    let (peer, mut idle) = by_peer.into_iter().max_by_key(|(_, idle)| idle.len())?;
    if idle.len() < FEWEST {
        return None;
    }
    idle.sort_by(f64::total_cmp);
    let part = |of: f64| idle[((idle.len() - 1) as f64 * of).round() as usize];
    let (median, least, most) = (part(0.5), part(0.1), part(0.9));
    let regular = most - least <= (2.0 * SPREAD * median).max(1.0);
    (median >= 1.0 && regular).then(|| Pool { sockets: idle.len(), peer: peer.to_string(), median, least, most })
}

/// Many workers of one kind, each of which seldom wakes up.
fn idle_workers(seen: Seen<'_>) -> Option<String> {
    let workers = seen.holders.processes.len() + seen.holders.not_listed;
    if workers < MANY_WORKERS {
        return None;
    }
    let every = |process: &Facts| {
        let wakes = process.status.as_ref()?.voluntary_switches? as f64;
        Some(process.running_seconds? as f64 / wakes.max(1.0))
    };
    let mut wakes: Vec<f64> = seen.processes.iter().filter_map(every).collect();
    wakes.sort_by(f64::total_cmp);
    let median = *wakes.get(wakes.len() / 2)?;
    (median >= SELDOM)
        .then(|| format!("the traffic needs far fewer than {workers} workers: a worker wakes up once in {median:.0} s"))
}

#[cfg(test)]
#[path = "diagnosis_tests.rs"]
mod tests;
