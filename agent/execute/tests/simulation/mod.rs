//! A fleet in virtual time: many agents, one fleet store, one registry, and a seed that says what becomes of them.
//!
//! Each host runs the loop of the agent over the agent's own parts: detector, gate, saga, journal in a store of its own,
//! driver, recovery, the shared rules of the fleet's slots. Around them everything fails by the seed: agents are killed
//! or asked to end at any crossing, parties do not hear, answers get lost or late, releases come up ill for ever, clocks
//! differ, hosts are gone. An observer outside watches each effect; [`rest`] says what has to be so in the end.
//!
//! An own harness, and not turmoil: nothing here has a socket. One thread, tokio's paused time and seeded dice make a run
//! a function of its seed, as long as no part takes chance or time from elsewhere; a test compares two runs.
//!
//! ```text
//! UNWAIT_SIMULATION_SEEDS=10000 cargo nextest run simulation           # more seeds (of 200 agents: a twentieth)
//! UNWAIT_SIMULATION_SEED=123 cargo nextest run --no-capture twenty     # one seed alone, with its trace
//! ```

mod agent;
mod dice;
mod doors;
mod host;
mod observer;
mod rest;
mod scenario;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strum::IntoEnumIterator;
use tokio::task::JoinSet;

use super::run::all_kept;
use host::{Broken, Host, Shared};
use observer::Counts;
use scenario::{CHAOS_ENDS, Scenario};

/// What one run came to.
struct Run {
    counts: Counts,
    trace: Vec<String>,
    broken: Option<String>,
}

fn run(seed: u64, hosts: usize, broken: Broken) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let shared = runtime.block_on(async { Arc::new(Shared::new(Scenario::new(seed, hosts), broken)) });
    // A fake that finds an unhealthy instance put into traffic panics.
    let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(play(&shared))));
    let broken = match played {
        Ok(ended) => ended.err(),
        Err(panic) => Some(words_of(panic.as_ref())),
    };
    let mut observer = shared.observer();
    observer.trace.push(broken.clone().unwrap_or("all at rest".into()));
    Run { counts: observer.counts, trace: std::mem::take(&mut observer.trace), broken }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or("a panic".into())
}

/// Lets time pass until a promise is broken, or everything rests.
async fn play(shared: &Arc<Shared>) -> Result<(), String> {
    const LOOK_EVERY: Duration = Duration::from_secs(10);
    let hosts: Vec<Arc<Host>> = (0..shared.scenario.fates.len()).map(|index| Host::new(shared, index)).collect();
    let mut tasks = JoinSet::new();
    for host in &hosts {
        tasks.spawn(Arc::clone(host).fortune());
        tasks.spawn(Arc::clone(host).power());
    }
    loop {
        tokio::select! {
            biased;
            Some(ended) = tasks.join_next() => {
                if let Err(panicked) = ended {
                    return Err(words_of(panicked.into_panic().as_ref()));
                }
            }
            () = tokio::time::sleep(LOOK_EVERY) => {
                if let Some(broken) = shared.observer().broken.clone() {
                    return Err(broken);
                }
                // An illness may end at that very moment.
                if shared.at() <= CHAOS_ENDS {
                    continue;
                }
                match rest::unrest(shared, &hosts) {
                    None => return rest::promises(shared, &hosts),
                    Some(unrest) if shared.at() > rest::bound(shared) => return Err(format!("no rest: {unrest}")),
                    Some(_) => {}
                }
            }
        }
    }
}

/// A number that a person asks for by the environment.
fn asked(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}

const ONE_SEED: &str = "UNWAIT_SIMULATION_SEED";

/// Plays the seeds on every core; the first that breaks a promise is shown, with how to play it alone.
fn sweep(test: &str, seeds: u64, hosts: usize) {
    if let Some(seed) = asked(ONE_SEED) {
        let run = run(seed, hosts, Broken::Nothing);
        println!("{}\n{}", run.trace.join("\n"), run.counts);
        return assert_eq!(run.broken, None, "seed {seed}, {hosts} agents");
    }
    let (next, counts, broken) = (AtomicU64::new(0), Mutex::new(Counts::default()), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || broken.lock().unwrap().is_some() {
                        return;
                    }
                    let run = run(seed, hosts, Broken::Nothing);
                    *counts.lock().unwrap() += run.counts;
                    if let Some(what) = run.broken {
                        let last = run.trace.len().saturating_sub(40);
                        let tail = run.trace[last..].join("\n");
                        broken.lock().unwrap().get_or_insert(format!(
                            "{tail}\nseed {seed}, {hosts} agents: {what}\nplay it alone: {ONE_SEED}={seed} cargo nextest run --no-capture {test}"
                        ));
                    }
                }
            });
        }
    });
    if let Some(broken) = broken.into_inner().unwrap() {
        panic!("\n{broken}");
    }
    let counts = counts.into_inner().unwrap();
    all_kept(counts.ends, format_args!("{seeds} seeds of {hosts} agents, {counts}"));
    for (what, count, a_seed) in
        [("restarts", counts.restarts, 2.0), ("ends", counts.ends, 1.0), ("stuck", counts.stuck, 0.2)]
    {
        assert!(count as f64 > a_seed * seeds as f64, "hardly anything happened: {count} {what}");
    }
}

/// How many seeds of twenty agents; of two hundred, a twentieth.
fn seeds() -> u64 {
    const SEEDS: u64 = 1_000;
    asked("UNWAIT_SIMULATION_SEEDS").unwrap_or(SEEDS)
}

#[test]
fn twenty_agents_keep_every_promise() {
    sweep("twenty_agents_keep_every_promise", seeds(), 20);
}

#[test]
fn two_hundred_agents_keep_every_promise() {
    sweep("two_hundred_agents_keep_every_promise", seeds().div_ceil(20), 200);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..10 {
        let [first, second] = [0, 1].map(|_| run(seed, 20, Broken::Nothing));
        let differ = first.trace.iter().zip(&second.trace).find(|(first, second)| first != second);
        assert_eq!(differ, None, "seed {seed}");
        assert_eq!((first.trace.len(), first.counts), (second.trace.len(), second.counts), "seed {seed}");
    }
}

#[test]
fn each_broken_rule_is_found_within_few_seeds() {
    const FEW: u64 = 30;
    for broken in Broken::iter().filter(|broken| *broken != Broken::Nothing) {
        let found = (0..FEW).find_map(|seed| run(seed, 20, broken).broken.map(|what| (seed, what)));
        let (seed, what) = found.unwrap_or_else(|| panic!("{broken:?} is not found in {FEW} seeds"));
        println!("{broken:?}: seed {seed}: {what}");
    }
}
