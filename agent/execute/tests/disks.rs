//! Every write, sync, truncation and opening that SQLite makes in a whole saga fails, the opening of the store
//! included: once, and from then on for ever; as a disk that is full, that errs, and that is read-only.
//!
//! No panic; what was begun ends, and a service that is left out meanwhile is told; the next start, on a disk that is
//! well, finds a file that is sound and goes on from it.

use std::sync::Arc;
use std::time::Duration;

use super::run::{Life, Run, all_kept};
use crate::execute::driver::drive;
use crate::execute::fakes::{self, Fault, Shape};
use crate::execute::journal::Journal;
use crate::execute::saga::Saga;
use crate::model::EventKind;
use crate::ports::registry::Traffic;
use crate::store::Store;
use crate::store::faulty::{self, Disk};

/// More than a saga takes, and many tries of what the disk does not take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is swept in `tests/run`; with `UNWAIT_FAULTS=long`, all of it.
fn faults() -> Vec<Fault> {
    use strum::IntoEnumIterator;
    match std::env::var("UNWAIT_FAULTS").as_deref() {
        Ok("long") => Fault::iter().collect(),
        _ => vec![Fault::Nothing, Fault::RestartRefused],
    }
}

#[derive(Default, Debug)]
struct Counts {
    refused_at_start: u32,
    not_begun: u32,
    driven: u32,
}

#[test]
fn every_write_that_fails_once_or_for_ever_strands_nothing() {
    let mut counts = Counts::default();
    for fault in faults() {
        for disk in [Disk::Full, Disk::Erring, Disk::ReadOnly] {
            for for_ever in [false, true] {
                for at in 0.. {
                    if !play(fault, disk, for_ever, at, &mut counts) {
                        break;
                    }
                }
            }
        }
    }
    let Counts { refused_at_start, not_begun, driven } = counts;
    all_kept(refused_at_start + not_begun + driven, format_args!("each write failed once or for ever, {counts:?}"));
    assert!(counts.refused_at_start > 50 && counts.driven > 500, "{counts:?}");
}

/// False where the whole saga passed without a fault.
fn play(fault: Fault, disk: Disk, for_ever: bool, at: u64, counts: &mut Counts) -> bool {
    let what = format!("{fault:?}, {disk:?}, {} {at}", if for_ever { "from write" } else { "at write" });
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("unwait.db");
    let mut run = Run::of(what.clone(), fakes::steps(Shape::IsolateRestartRecover, fault), fault);
    let stop = run.scene.trip.stop.subscribe();

    faulty::fail(disk, at, for_ever);
    let begun = match Store::open_faulty(&path) {
        Err(error) => {
            counts.refused_at_start += 1;
            assert!(error.to_string().contains("unwait.db"), "{what}: {error}");
            false
        }
        Ok(store) => {
            run.world.store = Arc::new(store);
            let (world, plan) = (&run.world, &run.plan);
            match world.store.begin_incident(plan, world.clock.now(), &world.audience, &[]) {
                Err(_) => {
                    counts.not_begun += 1;
                    false
                }
                Ok(()) => {
                    counts.driven += 1;
                    run.scene.trip.reset();
                    let life = run.runtime.block_on(async {
                        let driven = drive(Saga::new(plan.clone()), Journal::new(), world, stop);
                        tokio::time::timeout(PATIENCE, driven).await
                    });
                    let service = run.scene.service().clone();
                    let drained = matches!(run.traffic(), Some(Traffic::DrainedBy(_)));
                    let told = run.is_told(EventKind::Stuck);
                    assert!((!drained && service.healthy) || told, "nobody was told: {what}: {life:?}, {service:?}");
                    true
                }
            }
        }
    };
    let struck = faulty::end();

    // The agent dies with what it could not write, and starts on a disk that is well.
    run.world.store = Arc::new(Store::open_faulty(&path).unwrap_or_else(|error| panic!("{what}: {error}")));
    if !begun {
        let service = run.scene.service();
        assert!(service.restarts == 0 && !service.drained_once, "{what}: {service:?}");
        drop(service);
        // Its beginning may be there all the same: what failed was the word that it is.
        if run.world.store.open_incidents().unwrap().is_empty() {
            return struck;
        }
    }
    run.scene.trip.reset();
    run.recover();
    run.keeps_the_promise();
    struck
}

#[test]
fn disk_that_errs_once_at_any_write_ends_the_incident_by_itself() {
    let mut count = 0;
    for at in 0.. {
        let what = format!("a write failed once, at {at}");
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut run = Run::of(what, fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing), Fault::Nothing);
        run.world.store = Arc::new(Store::open_faulty(&dir.path().join("unwait.db")).unwrap());
        let world = &run.world;
        world.store.begin_incident(&run.plan, world.clock.now(), &world.audience, &[]).unwrap();
        run.scene.trip.reset();
        faulty::fail(Disk::Erring, at, false);
        let life = run.first_life();
        assert!(matches!(life, Life::Rested(_)), "{}: {life:?}", run.what);
        run.keeps_the_promise();
        if !faulty::end() {
            break;
        }
        count += 1;
    }
    all_kept(count, "a write failed once, and the agent lived on");
    assert!(count > 30, "{count}");
}

#[test]
fn every_write_that_is_given_up_and_takes_place_all_the_same_strands_nothing() {
    let mut count = 0;
    for fault in faults() {
        for for_ever in [false, true] {
            for at in 0.. {
                let what =
                    format!("{fault:?}, a disk that hangs {} {at}", if for_ever { "from commit" } else { "at commit" });
                let dir = tempfile::tempdir_in("/dev/shm").unwrap();
                let path = dir.path().join("unwait.db");
                let mut run = Run::of(what.clone(), fakes::steps(Shape::IsolateRestartRecover, fault), fault);
                run.world.store = Arc::new(Store::open_faulty(&path).unwrap());
                let (world, plan) = (&run.world, &run.plan);
                world.store.begin_incident(plan, world.clock.now(), &world.audience, &[]).unwrap();
                run.scene.trip.reset();
                let stop = run.scene.trip.stop.subscribe();
                faulty::give_up(at, for_ever);
                let ended = run.runtime.block_on(async {
                    let driven = drive(Saga::new(plan.clone()), Journal::new(), world, stop);
                    tokio::time::timeout(PATIENCE, driven).await
                });
                let struck = faulty::end();
                assert!(for_ever || ended.is_ok(), "{what}");

                run.world.store = Arc::new(Store::open_faulty(&path).unwrap_or_else(|error| panic!("{what}: {error}")));
                run.scene.trip.reset();
                run.recover();
                run.keeps_the_promise();
                if !struck {
                    break;
                }
                count += 1;
            }
        }
    }
    all_kept(count, "a write was given up, and is in the file all the same");
    assert!(count > 30, "{count}");
}
