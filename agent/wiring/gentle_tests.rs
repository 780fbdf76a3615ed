//! The gentler steps on real processes and sockets: a pre-forked service of PHP, of which some workers leak.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::testing::wire;
use super::*;
use crate::attribute::workers::workers;
use crate::clock::SystemClock;
use crate::execute::saga::{Event, Helped, Saga};
use crate::execute::steps::{self, Done, Failure};
use crate::execute::world::World;
use crate::model::runbook::{Floor, Recycle, StopSignal};
use crate::model::{Plan, PlannedStep, Reason, ServiceName, Step, Trigger, Worker};

const WORKERS: usize = 8;
const LEAKING: usize = 3;
const SOON: Duration = Duration::from_secs(10);

const STEPS: &str = "recycle_workers, health_check";

/// The service, and an agent's wiring that knows it.
struct Set {
    wiring: Wiring,
    store: Arc<Store>,
    master: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Set {
    fn drop(&mut self) {
        // A group of its own: its workers end with it.
        let group = nix::unistd::Pid::from_raw(self.master.id().cast_signed());
        nix::sys::signal::killpg(group, nix::sys::signal::SIGKILL).unwrap();
        self.master.wait().unwrap();
    }
}

fn service() -> ServiceName {
    ServiceName::parse("process:prefork").unwrap()
}

fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let pause = Duration::from_millis(20);
    for _ in 0..SOON.as_millis() / pause.as_millis() {
        if let Some(seen) = look() {
            return seen;
        }
        std::thread::sleep(pause);
    }
    panic!("waited for {what}");
}

/// Returns when the peer has closed on all workers that leak.
fn set(words: &[&str]) -> Set {
    let dir = tempfile::tempdir().unwrap();
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let pid_file = dir.path().join("pid");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/prefork.php");
    let port = peer.local_addr().unwrap().port().to_string();
    let master = Command::new("php")
        .args([script, pid_file.to_str().unwrap(), &port, &WORKERS.to_string(), &LEAKING.to_string()])
        .args(words)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let agent = format!(
        "services:\n  - service: process:prefork\n    health: {{ exec: [/usr/bin/true] }}\n    restart: {{ process: {{ argv: [/usr/bin/php], pid_file: {} }} }}\n",
        pid_file.display()
    );
    wait_until("the pid file", || pid_file.exists().then_some(()));
    let store = Arc::new(Store::open(Path::new(":memory:")).unwrap());
    let set = Set { wiring: wire(dir.path(), &agent, "process:prefork", STEPS), store, master, _dir: dir };
    for _ in 0..LEAKING + usize::from(words.contains(&"nested")) {
        drop(peer.accept().unwrap());
    }
    wait_until("the leak", || {
        let holding = set.workers().iter().filter(|worker| worker.holds == 1).count();
        (holding == LEAKING).then_some(())
    });
    set
}

impl Set {
    fn workers(&self) -> Vec<Worker> {
        let main = self.master.id();
        let leaked = self.wiring.sensor.lock().leaked(&service(), Duration::ZERO).unwrap();
        workers(main, &leaked, &SystemClock, SOON).unwrap()
    }

    fn plan(&self, step: Step) -> Plan {
        let policy = &self.wiring.config.policies[0];
        let trigger = Trigger::Person { who: "test".into() };
        let service = service();
        let proposed = plans::propose(&self.wiring, &self.store, policy, &service, trigger, false);
        let steps = vec![PlannedStep { effect: step.effect(), step }];
        Plan { steps, ..block(proposed).plan }
    }

    /// Carries one step out, for real or dry.
    fn apply(&self, step: Step, dry: bool) -> Result<Done, Failure> {
        self.apply_in(step, &if dry { self.dry_world() } else { self.world() })
    }

    fn world(&self) -> World {
        self.wiring.world(&self.store, Duration::ZERO)
    }

    fn dry_world(&self) -> World {
        self.wiring.dry_world(&self.store, Duration::ZERO)
    }

    fn apply_in(&self, step: Step, world: &World) -> Result<Done, Failure> {
        let mut saga = Saga::new(self.plan(step));
        block(async {
            let preimage = steps::preimage(&saga, 0, world).await?;
            saga.apply(Event::Intended { step: 0, preimage }).unwrap();
            steps::apply(&saga, 0, None, world).await
        })
    }

    fn recycle(&self, how: Recycle) -> Result<Done, Failure> {
        self.apply(Step::RecycleWorkers(how), false)
    }

    fn close(&self) -> Result<Done, Failure> {
        self.apply(Step::CloseSockets { older_than: Duration::ZERO, at_most: 1_000 }, false)
    }
}

fn block<T>(asked: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(asked)
}

fn how() -> Recycle {
    Recycle {
        older_than: Duration::ZERO,
        batch: 2,
        floor: Floor::Share(0.5),
        signal: StopSignal::Term,
        wait: SOON,
        kill_after: None,
    }
}

fn pids(workers: &[Worker]) -> BTreeSet<u32> {
    workers.iter().map(|worker| worker.pid).collect()
}

#[test]
fn workers_that_hold_leaked_sockets_are_replaced_and_the_others_keep_their_pids() {
    let set = set(&[]);
    let before = set.workers();
    let (leaking, sound) = before.split_at(LEAKING);
    let dry = set.apply(Step::RecycleWorkers(how()), true).unwrap();
    assert_eq!(set.workers(), before, "a dry run did something: {dry:?}");

    let done = set.recycle(how()).unwrap();

    let after = set.workers();
    assert_eq!(done.helped, None, "{done:?}");
    assert!(done.detail.starts_with("3 of 8 workers, which held 3 leaked sockets"), "{done:?}");
    assert_eq!((after.len(), after.iter().filter(|worker| worker.holds > 0).count()), (WORKERS, 0));
    assert!(pids(&after).is_superset(&pids(sound)) && pids(&after).is_disjoint(&pids(leaking)), "{before:?} {after:?}");
}

#[test]
fn a_master_below_the_main_process_is_never_touched_though_it_leaks_itself() {
    let set = set(&["nested"]);
    let before = set.workers();
    let master = before[0].parent;
    assert_ne!(master, set.master.id());
    assert_eq!(before.len(), WORKERS);
    let done = set.recycle(how()).unwrap();
    assert!(done.detail.starts_with("3 of 8 workers, which held 3 leaked sockets"), "{done:?}");
    let after = set.workers();
    assert!(after.len() == WORKERS && after.iter().all(|worker| worker.parent == master), "{before:?} {after:?}");
}

#[test]
fn a_master_that_starts_no_new_workers_is_asked_for_no_second_batch() {
    let set = set(&["no-refork"]);
    // What does not come is not waited for.
    let world = World { pace: set.dry_world().pace, ..set.world() };
    let failure = set.apply_in(Step::RecycleWorkers(how()), &world).unwrap_err();
    assert_eq!(failure.reason, Reason::RecycleFailed);
    assert!(failure.detail.contains("there are 6 workers where there were 8"), "{failure:?}");
    let after = set.workers();
    assert_eq!((after.len(), after.iter().filter(|worker| worker.holds > 0).count()), (6, 1), "one batch of two");
}

#[test]
fn the_floor_holds_and_says_so() {
    let set = set(&[]);
    let before = set.workers();
    let done = set.recycle(Recycle { floor: Floor::Count(8), ..how() }).unwrap();
    assert_eq!(done.helped, Some(Helped::No));
    assert!(
        done.detail.contains("3 of 8 workers still leak. unwait ended 0 and may end no more: 8 must keep serving"),
        "{done:?}"
    );
    assert_eq!(set.workers(), before);
    // One at a time, for all that four may go at once.
    let done = set.recycle(Recycle { floor: Floor::Count(7), batch: 4, ..how() }).unwrap();
    assert_eq!((done.helped, set.workers().len()), (None, WORKERS), "{done:?}");
}

#[test]
fn a_worker_that_ignores_the_signal_is_killed_only_where_that_is_said() {
    let set = set(&["stubborn"]);
    let failure = set.recycle(Recycle { wait: Duration::from_secs(1), ..how() }).unwrap_err();
    assert!(failure.detail.contains("did not end of SIGTERM within 1s"), "{failure:?}");
    let left: Vec<Worker> = set.workers().into_iter().filter(|worker| worker.holds > 0).collect();
    assert!(!left.is_empty() && failure.detail.contains(&left[0].pid.to_string()), "{failure:?}, {left:?}");
    let killed = set.recycle(Recycle { kill_after: Some(Duration::from_millis(200)), ..how() }).unwrap();
    assert_eq!(killed.helped, None, "{killed:?}");
    assert!(set.workers().iter().all(|worker| worker.holds == 0));
}

#[test]
fn a_recycled_pid_is_never_signalled() {
    let set = set(&[]);
    let before = set.workers();
    let world = set.world();
    let seen = before[0];
    for other in [Worker { began: seen.began + 1, ..seen }, Worker { parent: seen.parent + 1, ..seen }] {
        let stayed = block(world.kernel.end(&[other], &how()));
        assert_eq!(stayed, Ok(Vec::new()), "what was meant has ended");
    }
    assert_eq!(set.workers(), before);
}

#[test]
fn workers_that_hold_younger_sockets_alone_are_left_and_that_is_said() {
    let set = set(&[]);
    let before = set.workers();
    let failure = set.recycle(Recycle { older_than: Duration::from_secs(3_600), ..how() }).unwrap_err();
    assert_eq!((failure.reason, set.workers()), (Reason::NothingToDo, before));
    let says = "nothing to do yet: 3 sockets are in CLOSE_WAIT in 8 workers, but none of them for 1h (`older_than`); the oldest of \
                the service: ";
    assert!(failure.detail.starts_with(says), "{failure:?}");
}

#[test]
fn closed_sockets_whose_descriptors_stay_leaked_did_not_help() {
    let set = set(&[]);
    let before = set.workers();
    let dry = set.apply(Step::CloseSockets { older_than: Duration::ZERO, at_most: 1_000 }, true).unwrap();
    assert_eq!((dry.helped, set.workers()), (None, before), "{dry:?}");

    let done = set.close().unwrap();

    assert_eq!(done.helped, Some(Helped::No), "{done:?}");
    assert!(done.detail.contains("3 sockets were closed, but 3 of their descriptors STAY LEAKED"), "{done:?}");
    assert!(set.workers().iter().all(|worker| worker.holds == 0), "no look shows them");
    let again = set.close().unwrap_err();
    assert_eq!(again.reason, Reason::NothingToDo);
    assert!(again.detail.contains("no socket has been in CLOSE_WAIT"), "{again:?}");
}

#[test]
fn closed_sockets_that_the_program_lets_go_of_helped() {
    let set = set(&["attentive"]);
    let done = set.close().unwrap();
    assert_eq!(done.helped, None, "{done:?}");
    assert!(done.detail.contains("3 sockets were closed, and their descriptors are free"), "{done:?}");
}

#[test]
fn an_idle_inbound_connection_counts_by_idle_for_and_one_with_traffic_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let agent = format!("services:\n  - service: process:prefork\n    match: {{ ports: [{}] }}\n", address.port());
    let wiring = wire(dir.path(), &agent, "process:prefork", STEPS);
    let inbound = |quiet| wiring.sensor.lock().inbound(&service(), quiet).unwrap();
    let _idle = TcpStream::connect(address).unwrap();
    let mut busy = TcpStream::connect(address).unwrap();
    let _accepted = [listener.accept().unwrap(), listener.accept().unwrap()];
    let seen = wait_until("only one to be active", || {
        busy.write_all(b"x").unwrap();
        let seen = inbound(Duration::from_millis(500));
        (seen.active == 1).then_some(seen)
    });
    assert_eq!(seen.left, 2);
    assert_eq!(inbound(SOON).active, 2, "within a longer time both had traffic, or began");
    let idle = wait_until("both to be idle", || {
        let seen = inbound(Duration::from_millis(500));
        (seen.active == 0).then_some(seen)
    });
    assert_eq!(idle.left, 2);
}
