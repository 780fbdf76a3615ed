//! SIGKILL of the agent at every point of every shipped runbook, and a second one while the next start goes on.
//!
//! Nothing here lists points or runbooks. A run without a kill tells which points a runbook passes; then one is killed
//! at each of them, started again, perhaps killed again, and started once more. The outside lives in other processes: a
//! service ([`outside`](../lab/outside/main.rs)), a Redis for the fleet, and this one, which is the webhook and the
//! keeper of the registry's file. By the seed the service is slow, registers itself at its start, leaks again or dies
//! while nobody watches, the registry is away, the configuration is broken at the second start.
//!
//! However it went, within [`ENDS_WITHIN`] of the last start the service is in traffic and healthy, or latched and told:
//! no drain without a latch, one restart a plan at most, no slot that is held by nobody, no second copy of the service.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::lab::cast::{Peer, REDIS_PORT};
use crate::lab::{Lab, Redis};

#[path = "crash_sweep/case.rs"]
mod case;
#[path = "crash_sweep/promise.rs"]
mod promise;

use case::{Case, Played};

/// Each waits for most of its time, and has a database of its own in Redis, which has sixteen.
const AT_ONCE: usize = 16;
/// How many seeds each point is killed with. Where nobody asks, every third point is, with one.
const SEEDS: &str = "UNWAIT_CRASH_SEEDS";
/// One case alone: `RUNBOOK POINT SEED`.
const ALONE: &str = "UNWAIT_CRASH_CASE";

fn runbooks() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("runbooks");
    let files = std::fs::read_dir(dir).expect("the runbooks are shipped");
    let names =
        files.map(|file| file.expect("an entry").path()).filter(|path| path.extension() == Some("yaml".as_ref()));
    let mut names: Vec<String> = names
        .map(|path| path.file_stem().and_then(|stem| stem.to_str()).expect("a runbook's name").to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn agent_killed_at_every_point_of_every_runbook_and_again_while_it_recovers_keeps_the_promise() {
    let lab = Lab::start();
    let _redis = Redis::start(&lab, REDIS_PORT, 0);
    let peer = Peer::listen(&lab);
    if let Ok(alone) = std::env::var(ALONE) {
        let case = Case::parse(&alone).unwrap_or_else(|| panic!("{ALONE}: expected `RUNBOOK POINT SEED`: {alone:?}"));
        println!("{:#?}", case.play(&lab, &peer, 0));
        return;
    }
    let (seeds, every): (u64, usize) = match std::env::var(SEEDS) {
        Ok(seeds) => (seeds.parse().expect("a number of seeds"), 1),
        Err(_) => (1, 3),
    };

    let whole: Vec<Case> = runbooks().iter().map(|runbook| Case::unharmed(runbook)).collect();
    let sweep = Sweep::new(&lab, &peer);
    sweep.play(&whole);
    let points: Vec<(String, Vec<String>)> = sweep.points();
    for (runbook, points) in &points {
        println!("{runbook}: {} points", points.len());
        assert!(points.len() > 10, "{runbook}: {points:?}");
    }
    let kills = points.iter().flat_map(|(runbook, points)| points.iter().map(move |point| (runbook, point)));
    let cases: Vec<Case> = kills
        .enumerate()
        .step_by(every)
        // With few seeds each point still meets another one than its neighbours do.
        .flat_map(|(nth, (runbook, point))| {
            (0..seeds).map(move |seed| Case::new(runbook, point, seed + nth as u64 * 7))
        })
        .collect();
    sweep.play(&cases);
    sweep.report(cases.len());
}

struct Sweep<'lab> {
    lab: &'lab Lab,
    peer: &'lab Peer,
    played: Mutex<Vec<(Case, Played)>>,
    broken: Mutex<Vec<String>>,
}

impl<'lab> Sweep<'lab> {
    fn new(lab: &'lab Lab, peer: &'lab Peer) -> Self {
        Self { lab, peer, played: Mutex::default(), broken: Mutex::default() }
    }

    fn play(&self, cases: &[Case]) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for lane in 0..AT_ONCE {
                let next = &next;
                scope.spawn(move || {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let played = catch_unwind(AssertUnwindSafe(|| case.play(self.lab, self.peer, lane)));
                        match played {
                            Ok(played) => lock(&self.played).push((case.clone(), played)),
                            Err(_) => {
                                // What went wrong was printed as the panic went by.
                                println!("{}", case.replay());
                                lock(&self.broken).push(case.replay());
                            }
                        }
                    }
                });
            }
        });
        let broken = lock(&self.broken);
        assert!(broken.is_empty(), "{} of {} broke the promise:\n{}", broken.len(), cases.len(), broken.join("\n"));
    }

    /// What each runbook passed: every point as often as it was.
    fn points(&self) -> Vec<(String, Vec<String>)> {
        let played = lock(&self.played);
        played.iter().map(|(case, played)| (case.runbook.clone(), played.points.clone())).collect()
    }

    fn report(&self, cases: usize) {
        let played = lock(&self.played);
        let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
        let names: BTreeSet<&str> = played.iter().filter_map(|(case, _)| case.point.as_deref()).collect();
        let kills: usize = played.iter().map(|(_, played)| played.kills).sum();
        let twice = played.iter().filter(|(_, played)| played.kills == 2).count();
        for end in played.iter().flat_map(|(_, played)| &played.ends) {
            *ends.entry(end).or_default() += 1;
        }
        println!(
            "{cases} of {cases} kept the promise: the real agent killed {kills} times at {} points, {twice} runs twice",
            names.len()
        );
        println!("ended: {ends:#?}");
        // A sweep that kills nothing proves nothing, and neither does one that only ever ends in the arms of a person.
        assert!(kills * 10 > cases * 9, "only {kills} of {cases} were killed");
        let in_service =
            ends.iter().filter(|(end, _)| !end.starts_with("stuck")).map(|(_, count)| count).sum::<usize>();
        assert!(in_service * 2 > cases, "only {in_service} of {cases} ended in service");
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().expect("nothing panics while it holds this")
}
