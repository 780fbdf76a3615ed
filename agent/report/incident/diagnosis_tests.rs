use std::net::SocketAddr;

use super::*;
use crate::evidence::Facts;

const REDIS: &str = "10.0.0.2:6379";

fn socket(direction: Direction, remote: &str, recv_q: u32, idle: Option<f64>, pids: &[u32]) -> SocketLine {
    SocketLine {
        local: "10.0.0.1:7801".parse().unwrap(),
        remote: remote.parse::<SocketAddr>().unwrap(),
        direction,
        recv_q,
        send_q: 0,
        inode: 7,
        cookie: 1,
        uid: 0,
        age_seconds: Some(90),
        age_is_at_least: false,
        idle_seconds: idle,
        pids: pids.into(),
    }
}

fn thread(wchan: &str) -> Thread {
    Thread { tid: 1, name: None, state: Some('S'), wchan: Some(wchan.into()) }
}

fn process(pid: u32, waits: &[&str]) -> Facts {
    Facts { pid, threads: waits.iter().map(|waits| thread(waits)).collect(), ..Facts::default() }
}

/// Running for an hour, in which it woke up so often.
fn worker(pid: u32, wakes: u64) -> Facts {
    let status = serde_json::json!({"name": "php-fpm", "state": "S", "uid": 33, "gid": 33, "threads": 1,
        "resident_bytes": null, "voluntary_switches": wakes, "involuntary_switches": 0});
    Facts {
        status: Some(serde_json::from_value(status).unwrap()),
        running_seconds: Some(3600),
        ..process(pid, &["ep_poll"])
    }
}

fn causes(sockets: &[SocketLine], processes: &[Facts], holders: &Holders) -> Vec<Cause> {
    diagnose(Seen { sockets, processes, holders }).into_iter().map(|hint| hint.cause).collect()
}

fn pool(idle: impl Fn(usize) -> f64) -> Vec<SocketLine> {
    (0..40).map(|at| socket(Direction::Outbound, REDIS, 1, Some(idle(at)), &[8])).collect()
}

fn held_by(workers: u32) -> Holders {
    Holders { processes: (1..=workers).map(|pid| (pid, 3)).collect(), ..Holders::default() }
}

#[test]
fn connections_that_their_peer_closed_after_the_same_idle_time_are_an_idle_pool() {
    let few = held_by(2);
    assert_eq!(causes(&pool(|_| 2.0), &[worker(8, 9)], &few), [Cause::IdlePool]);
    let hint = &diagnose(Seen { sockets: &pool(|_| 300.0), processes: &[], holders: &few })[0];
    assert!(hint.because.contains("40 of 40"), "{hint:?}");
    assert!(hint.because.contains("10.0.0.2:6379 closed 40 of 40 sockets after 300.0 s without data"), "{hint:?}");
    // A peer that was restarted closes all of them at once, however long each had been idle.
    assert_eq!(causes(&pool(|at| at as f64 * 7.0), &[], &few), []);
    // Closed in the middle of a request.
    assert_eq!(causes(&pool(|_| 0.0), &[], &few), []);
    assert_eq!(causes(&pool(|_| 2.0)[..2], &[], &few), [], "two say nothing");
}

#[test]
fn a_pool_in_many_workers_that_seldom_wake_up_is_of_too_many_workers() {
    let workers: Vec<Facts> = (1..=32).map(|pid| worker(pid, 12)).collect();
    assert_eq!(causes(&pool(|_| 2.0), &workers, &held_by(96)), [Cause::TooManyWorkers]);
    let hint = &diagnose(Seen { sockets: &pool(|_| 2.0), processes: &workers, holders: &held_by(96) })[0];
    assert!(hint.because.starts_with("the traffic needs far fewer than 96 workers: a worker wakes up once in 300 s. "));
    let busy: Vec<Facts> = (1..=32).map(|pid| worker(pid, 36_000)).collect();
    assert_eq!(causes(&pool(|_| 2.0), &busy, &held_by(96)), [Cause::IdlePool]);
    assert_eq!(causes(&pool(|_| 2.0), &workers[..4], &held_by(4)), [Cause::IdlePool]);
}

#[test]
fn each_other_fault_is_told_from_the_others() {
    let inbound =
        |recv_q, pids: &[u32]| vec![socket(Direction::Inbound, "10.0.0.9:40000", recv_q, Some(0.0), pids); 20];
    let none = Holders::default();
    let idle = [process(8, &["ep_poll", "futex_wait_queue"])];
    assert_eq!(causes(&inbound(0, &[8]), &idle, &none), [Cause::ClosePathForgotten]);
    let hung = [process(8, &["ep_poll", "hrtimer_nanosleep"].repeat(20))];
    assert_eq!(causes(&inbound(1, &[8]), &hung, &none), [Cause::HandlersStuck]);
    assert_eq!(
        causes(&inbound(0, &[8]), &hung, &none),
        [Cause::HandlersStuck],
        "the end was read with the data before it"
    );
    assert_eq!(causes(&inbound(1, &[8]), &idle, &none), [], "nobody reads, and nobody is stuck");
    let mut queued = inbound(1, &[]);
    queued.iter_mut().for_each(|socket| socket.inode = 0);
    assert_eq!(causes(&queued, &[], &none), [Cause::AcceptQueueNotServed]);
    assert_eq!(causes(&inbound(0, &[8, 9]), &idle, &none), [Cause::DescriptorsHandedOn]);
    let hidden = Holders { closed_descriptors: Some(30), ..Holders::default() };
    assert_eq!(causes(&inbound(1, &[8]), &idle, &hidden), [Cause::KeepaliveHidesIt]);
    assert_eq!(causes(&[], &[], &none), []);
}

/// What the kernel does not tell says nothing: `0` without the right to look, nothing where a thread is gone.
#[test]
fn a_thread_whose_place_is_not_known_is_not_stuck() {
    for wchan in [
        "0",
        "",
        "ep_poll",
        "do_epoll_wait",
        "inet_csk_accept",
        "io_cqring_wait",
        "futex_wait_queue",
        "poll_schedule_timeout.constprop.0",
    ] {
        assert!(!is_stuck(&thread(wchan)), "{wchan}");
    }
    assert!(!is_stuck(&Thread { wchan: None, ..thread("") }));
    for wchan in ["hrtimer_nanosleep", "pipe_read", "wait_woken", "tcp_recvmsg", "locks_lock_inode_wait"] {
        assert!(is_stuck(&thread(wchan)), "{wchan}");
    }
}
