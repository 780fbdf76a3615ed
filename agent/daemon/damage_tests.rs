//! The state's file cut at every page, and with bits flipped in every page, after each event of a saga's journal; then
//! the agent's own start over it: what is open is gone on with, and the registries are asked for drains of ours.
//!
//! No panic, and no drain is forgotten: at the end the service is in traffic, or latched and told.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;

use super::agent::Agent;
use crate::clock::{Clock, VirtualClock};
use crate::config;
use crate::execute::driver::drive;
use crate::execute::fakes::{self, Crash, Fake, Fault, ID, Scene, Shape};
use crate::execute::journal::Journal;
use crate::execute::saga::Saga;
use crate::execute::tests::run::all_kept;
use crate::model::{EventKind, Message, Plan};
use crate::ports::Ports;
use crate::ports::notifier::{DeliveryError, Letter, Notifier, Pace, ThreadKey};
use crate::ports::registry::{Registry, Traffic};
use crate::store::{AGENT, Person, Store};
use crate::wiring::{Host, Wiring};

/// In the host's file, and in the plan.
const REGISTRY: &str = "file";
const HOST_FILE: &str = "\
registries: { file: { path: /nonexistent } }
notify: [{ to: { slack: { url_file: URL } }, events: [stuck] }]
services: [{ service: rpc-order.service, register: [{ registry: file, id: rpc-order-1 }] }]
state: STATE
";

/// SQLite's own, unless it is told otherwise; and what its log has before the first frame, and before each page of one
/// (sqlite.org/fileformat2.html, 4.1).
const PAGE: usize = 4096;
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// The world as an agent left it that died: its files, its service, its registry.
struct Left {
    after: usize,
    file: Vec<u8>,
    log: Option<Vec<u8>>,
    service: fakes::Service,
    traffic: Option<Traffic>,
    /// People had been told that it is stuck.
    told: bool,
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Cut { log: bool, at: usize },
    Flip { log: bool, at: usize, bit: u8 },
}

/// Where the files lie: in memory, where a sync costs nothing.
fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn plan() -> Plan {
    let mut plan = fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing));
    plan.target.bindings[0].registry = REGISTRY.into();
    plan
}

pub(crate) fn ports(scene: &Arc<Scene>) -> Ports {
    let fake = Arc::new(Fake(Arc::clone(scene)));
    Ports { registries: [(REGISTRY.to_string(), fake as Arc<dyn Registry>)].into(), ..fakes::ports(scene) }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", path.display()))
}

/// One agent that dies at this moment; with its log beside the file, or written back into it.
fn leaves(at: u64, fault: Fault, with_log: bool) -> Option<Left> {
    let dir = dir();
    let path = dir.path().join("unwait.db");
    let scene = Scene::new(fault);
    let mut world = fakes::world(&scene);
    world.ports = ports(&scene);
    world.store = Arc::new(Store::open_with(&path, Arc::new(Fake(Arc::clone(&scene)))).unwrap());
    let plan = plan();
    world.store.begin_incident(&plan, world.clock.now(), &world.audience, &[]).unwrap();
    scene.trip.reset();
    scene.trip.crash_at(at);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let stop = scene.trip.stop.subscribe();
    let driven = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(drive(Saga::new(plan.clone()), Journal::new(), &world, stop))
    }));
    match driven {
        Err(panic) if !panic.is::<Crash>() => resume_unwind(panic),
        _ => {}
    }
    let moments = scene.trip.count();
    scene.trip.reset();
    let after = world.store.journal(&plan.incident).unwrap().len();
    let told = world.store.undelivered(99).unwrap().iter().any(|waits| waits.message.event == EventKind::Stuck);
    let log = with_log.then(|| std::fs::read(beside(&path, "-wal")).unwrap());
    if !with_log {
        drop(world);
    }
    let (service, traffic) = (scene.service().clone(), scene.registry.traffic(ID));
    (at <= moments).then(|| Left { after, file: std::fs::read(&path).unwrap(), log, service, traffic, told })
}

/// What each event of the journal leaves, and one more that is at rest.
fn all_that_is_left(fault: Fault, with_log: bool) -> Vec<Left> {
    let mut all: Vec<Left> = Vec::new();
    for at in 0.. {
        let Some(left) = leaves(at, fault, with_log) else { return all };
        if all.last().is_none_or(|last| last.after != left.after) {
            all.push(left);
        }
    }
    unreachable!("it comes to an end")
}

/// The same at each run, and spread over the file.
fn scattered(seed: usize) -> usize {
    (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29) as usize
}

/// How often a bit is flipped in each page.
const FLIPS: usize = 4;

fn damages(left: &Left) -> Vec<Damage> {
    let mut damages = Vec::new();
    for at in (0..left.file.len()).step_by(PAGE) {
        damages.push(Damage::Cut { log: false, at });
    }
    for page in 0..left.file.len() / PAGE {
        for flip in 0..FLIPS {
            let seed = scattered(page * FLIPS + flip + left.after);
            damages.push(Damage::Flip { log: false, at: page * PAGE + seed % PAGE, bit: (seed >> 20) as u8 % 8 });
        }
    }
    if let Some(log) = &left.log {
        for at in std::iter::once(0).chain((LOG_HEADER..log.len()).step_by(FRAME_HEADER + PAGE)) {
            damages.push(Damage::Cut { log: true, at });
            let seed = scattered(at + left.after);
            let at = at + seed % (FRAME_HEADER + PAGE);
            if at < log.len() {
                damages.push(Damage::Flip { log: true, at, bit: (seed >> 20) as u8 % 8 });
            }
        }
    }
    damages
}

/// Every n-th in `tests/run`; all of them with `UNWAIT_FAULTS=long`.
fn stride() -> usize {
    if std::env::var("UNWAIT_FAULTS").is_ok_and(|how| how == "long") { 1 } else { 5 }
}

#[derive(Debug, Default)]
struct Counts {
    refused: u32,
    set_aside: u32,
    opened: u32,
}

#[derive(Default)]
pub(crate) struct Ears(pub Mutex<Vec<Message>>);

#[async_trait]
impl Notifier for Ears {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        self.0.lock().unwrap().push(letter.message.clone());
        Ok(None)
    }

    fn pace(&self) -> Pace {
        Pace::UNLIMITED
    }
}

pub(crate) fn wiring(dir: &Path) -> Wiring {
    crate::trust::write_secret(&dir.join("url"), "https://127.0.0.1:1/nobody");
    let text = HOST_FILE
        .replace("URL", &dir.join("url").display().to_string())
        .replace("STATE", &dir.join("state").display().to_string());
    std::fs::write(dir.join("agent.yaml"), text).unwrap();
    let config = config::load(dir).unwrap_or_else(|wrong| panic!("{wrong}"));
    let host =
        Host { name: fakes::HOST.into(), clock: Arc::new(crate::clock::SystemClock), on_message: Arc::new(|_| {}) };
    Wiring::new(config, host, None).unwrap()
}

/// The agent's start over the damaged files, and what becomes of the service.
async fn start(dir: &Path, left: &Left, wiring: &Wiring, counts: &mut Counts) {
    let scene = Scene::new(Fault::Nothing);
    *scene.service() = left.service.clone();
    if let Some(Traffic::DrainedBy(marker)) = &left.traffic {
        scene.registry.drain(ID, marker).await.unwrap();
    }
    let mut wiring = wiring.clone();
    let clock = Arc::new(VirtualClock::start());
    let ears = Arc::new(Ears::default());
    let told: Arc<Mutex<Vec<Message>>> = Arc::default();
    let hears = Arc::clone(&told);
    wiring.host.clock = clock.clone();
    wiring.host.on_message = Arc::new(move |message| hears.lock().unwrap().push(message.clone()));
    wiring.ports = ports(&scene);
    for notifier in wiring.notifiers.values_mut() {
        *notifier = ears.clone();
    }
    let store = match Store::open_or_set_aside(&dir.join("unwait.db"), clock.clone()) {
        Ok(store) => Arc::new(store),
        Err(error) => {
            assert!(!error.is_damage() && error.to_string().contains("unwait.db"), "{error}");
            counts.refused += 1;
            return;
        }
    };
    let forgot = store.paused(clock.now()).unwrap().is_some_and(|pause| pause.who == AGENT);
    *if forgot { &mut counts.set_aside } else { &mut counts.opened } += 1;
    let kept = std::fs::read_dir(dir).unwrap().filter_map(Result::ok);
    let kept = kept.filter(|file| file.file_name().to_string_lossy().contains("unwait.db.damaged-")).count();
    assert_eq!(kept > 0, forgot, "what is set aside is kept");
    let (_keeps, stop) = watch::channel(false);
    Agent::start(dir, wiring, store.clone(), stop).await.unwrap().finish().await;

    let (service, traffic) = (scene.service().clone(), scene.registry.traffic(ID));
    assert!(service.restarts <= 1, "{service:?}");
    let is_stuck = |message: &Message| message.event == EventKind::Stuck;
    let heard = ears.0.lock().unwrap().iter().any(is_stuck);
    assert!(!forgot || heard, "its memory is lost, and nobody was told");
    if traffic != Some(Traffic::Passing) {
        let latch = store.latch(&plan().target.service).unwrap();
        assert!(latch.is_some(), "forgotten: {traffic:?}");
        let told = told.lock().unwrap().iter().any(is_stuck);
        assert!(left.told || (told && heard), "latched, and nobody was told: {latch:?}");
    }
}

fn sweep_over(fault: Fault, with_log: bool) {
    let config = dir();
    let wiring = wiring(config.path());
    let mut counts = Counts::default();
    let mut number = 0;
    for left in all_that_is_left(fault, with_log) {
        for damage in damages(&left) {
            number += 1;
            if number % stride() != 0 {
                continue;
            }
            let (mut file, mut log) = (left.file.clone(), left.log.clone().unwrap_or_default());
            match damage {
                Damage::Cut { log: false, at } => file.truncate(at),
                Damage::Cut { log: true, at } => log.truncate(at),
                Damage::Flip { log: false, at, bit } => file[at] ^= 1 << bit,
                Damage::Flip { log: true, at, bit } => log[at] ^= 1 << bit,
            }
            let dir = dir();
            std::fs::write(dir.path().join("unwait.db"), file).unwrap();
            if left.log.is_some() {
                std::fs::write(dir.path().join("unwait.db-wal"), log).unwrap();
            }
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            let started = catch_unwind(AssertUnwindSafe(|| {
                runtime.block_on(start(dir.path(), &left, &wiring, &mut counts));
            }));
            if let Err(panic) = started {
                eprintln!("after event {} of {fault:?}: {damage:?}", left.after);
                resume_unwind(panic);
            }
        }
    }
    let which = if with_log { "with its log" } else { "written back" };
    all_kept(counts.opened + counts.set_aside, format_args!("the state damaged, {fault:?}, {which}, {counts:?}"));
    // A log is valid up to where it is damaged: what follows is as if it had not been written.
    assert!(counts.opened > 50 && (with_log || counts.set_aside > 10), "{counts:?}");
}

#[test]
fn a_state_file_that_is_cut_or_flipped_anywhere_forgets_no_drain() {
    sweep_over(Fault::Nothing, false);
    sweep_over(Fault::RestartDies, false);
}

#[test]
fn a_log_that_is_cut_or_flipped_anywhere_forgets_no_drain() {
    sweep_over(Fault::Nothing, true);
}

#[test]
fn an_agent_that_dies_while_it_sets_a_damaged_file_aside_is_as_one_that_has() {
    let clock = || Arc::new(crate::clock::SystemClock);
    let now = || clock().now();
    // What may stand beside the damaged file: what was being made; the whole new file; an old log beside that.
    for (fresh, log) in [(None, false), (Some(".making"), false), (Some(".fresh"), true), (Some(".fresh"), false)] {
        let dir = dir();
        let path = dir.path().join("unwait.db");
        std::fs::write(&path, "garbage ".repeat(2_000)).unwrap();
        if let Some(ending) = fresh {
            let whole = dir.path().join("whole.db");
            std::fs::write(&whole, "garbage ".repeat(2_000)).unwrap();
            drop(Store::open_or_set_aside(&whole, clock()).unwrap());
            std::fs::rename(&whole, beside(&path, ending)).unwrap();
        }
        if log {
            std::fs::write(beside(&path, "-wal"), "garbage").unwrap();
        }
        let store = Store::open_or_set_aside(&path, clock()).unwrap();
        assert_eq!(store.paused(now()).unwrap().map(|pause| pause.who), Some(AGENT.into()), "{fresh:?}");
        drop(store);
        let store = Store::open_or_set_aside(&path, clock()).unwrap();
        assert_eq!(store.paused(now()).unwrap().map(|pause| pause.who), Some(AGENT.into()), "until it is resumed");
        store.resume(&Person::default(), now()).unwrap();
        drop(store);
        assert_eq!(Store::open_or_set_aside(&path, clock()).unwrap().paused(now()).unwrap(), None, "{fresh:?}");
    }
}
