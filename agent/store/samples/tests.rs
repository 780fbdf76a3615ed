use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::model::{Sample, Signal};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// 2026-11-22T00:00:00Z.
const START: i64 = 1_795_305_600 * SECOND;

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap()
}

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

fn order() -> ServiceName {
    service("rpc-order.service")
}

fn holding(close_wait: f64) -> Readings {
    let mut readings = Readings::default();
    readings.set(Signal::CloseWait, close_wait);
    readings.set(Signal::CloseWaitAged(Duration::from_secs(300)), (close_wait - 10.0).max(0.0));
    readings.set(Signal::FdUsed, close_wait + 40.0);
    readings.set(Signal::HostCloseWait, close_wait + 3.0);
    readings
}

fn reading(readings: &Readings, name: &str) -> Reading {
    readings.get(Signal::parse(name).unwrap())
}

/// An agent that ticks: wall time is whatever the test says, monotonic time goes on (at a twelfth of its pace where a
/// month is played: then an hour is written at once).
struct Ticking {
    store: Store,
    monotonic: Duration,
    pace: u32,
}

impl Ticking {
    fn on(store: Store) -> Self {
        Self { store, monotonic: Duration::from_secs(1_000), pace: 1 }
    }

    /// A tick at `at`, `every` after the one before.
    fn tick(&mut self, at: i64, every: Duration, services: &[(&str, f64)]) {
        let held: BTreeMap<ServiceName, Readings> =
            services.iter().map(|(name, close_wait)| (service(name), holding(*close_wait))).collect();
        let host = 3.0 + services.iter().map(|(_, close_wait)| close_wait).sum::<f64>();
        self.monotonic += every / self.pace;
        self.store.record(time(at), self.monotonic, Reading::Known(host), held.iter());
    }

    fn leak(&mut self, from: i64, until: i64, every: i64, close_wait: f64) {
        let mut at = from;
        while at < until {
            self.tick(at, Duration::from_millis(every as u64), &[("rpc-order.service", close_wait)]);
            at += every;
        }
    }

    /// A look that could not be trusted.
    fn blind(&mut self, at: i64) {
        self.store.record(time(at), self.monotonic, Reading::Unknown, std::iter::empty());
    }
}

fn memory() -> Ticking {
    Ticking::on(Store::open(Path::new(":memory:")).unwrap())
}

fn for_a_month() -> Ticking {
    Ticking { pace: 12, ..memory() }
}

fn all(store: &Store) -> Vec<Sample> {
    store.samples(&order(), time(0), time(START + 3650 * DAY)).unwrap()
}

/// Beginning in minutes from the start, step in minutes, and the last, least and most of `close_wait`.
fn told(samples: &[Sample]) -> Vec<(i64, u64, [Reading; 3])> {
    let of = |sample: &Sample| {
        let spread = sample.spread.as_ref().unwrap();
        let three = [&sample.readings, &spread.least, &spread.most].map(|readings| reading(readings, "close_wait"));
        ((sample.at.as_millisecond() - START) / MINUTE, spread.step.as_secs() / 60, three)
    };
    samples.iter().map(of).collect()
}

fn rows(store: &Store) -> Vec<(i64, String)> {
    store
        .read(|connection| {
            connection
                .prepare("SELECT step, service FROM sample JOIN sample_block ON sample_block.id = block ORDER BY 1, 2")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .unwrap()
}

#[test]
fn a_gap_an_unknown_a_quiet_step_and_a_leak_are_told_apart_before_and_after_the_write() {
    let second = Duration::from_secs(15);
    let mut agent = memory();
    agent.tick(START, second, &[]);
    agent.tick(START + MINUTE, second, &[("rpc-order.service", 288.0)]);
    agent.tick(START + MINUTE + 15 * SECOND, second, &[("rpc-order.service", 250.0)]);
    agent.tick(START + MINUTE + 30 * SECOND, second, &[("rpc-order.service", 270.0)]);
    agent.blind(START + 2 * MINUTE);
    // Minute 3: the agent did not look. Minute 4: quiet, then a leak within the step.
    agent.tick(START + 4 * MINUTE, second, &[]);
    agent.tick(START + 4 * MINUTE + 15 * SECOND, second, &[("rpc-order.service", 5.0)]);
    // Minute 5: the service is not seen any more within the step.
    agent.tick(START + 5 * MINUTE, second, &[("rpc-order.service", 5.0)]);
    agent.tick(START + 5 * MINUTE + 15 * SECOND, second, &[]);

    let known = |three: [f64; 3]| three.map(Reading::Known);
    let expected = [
        (0, 1, known([0.0, 0.0, 0.0])),
        (1, 1, known([270.0, 250.0, 288.0])),
        (2, 1, [Reading::Unknown; 3]),
        (4, 1, known([5.0, 0.0, 5.0])),
        (5, 1, known([0.0, 0.0, 5.0])),
    ];
    let from_memory = all(&agent.store);
    assert_eq!(told(&from_memory), expected);
    agent.store.write_samples();
    assert!(agent.store.samples.lock().pending.0.is_empty());
    assert_eq!(all(&agent.store), from_memory);

    let [quiet, leak, blind, ..] = from_memory.as_slice() else { panic!("{from_memory:?}") };
    for (sample, name, expected) in [
        (quiet, "close_wait.aged(5m)", Reading::Known(0.0)),
        (quiet, "host.close_wait", Reading::Known(3.0)),
        (quiet, "fd.used", Reading::Unknown),
        (leak, "close_wait.aged(5m)", Reading::Known(260.0)),
        (leak, "host.close_wait", Reading::Known(273.0)),
        (leak, "fd.used", Reading::Known(310.0)),
        (blind, "host.close_wait", Reading::Unknown),
    ] {
        assert_eq!(reading(&sample.readings, name), expected, "{name} at {}", sample.at);
    }
}

#[test]
fn an_agent_that_starts_again_goes_on_within_the_step_and_readers_see_it_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unwait.db");
    let mut agent = Ticking::on(Store::open(&path).unwrap());
    agent.leak(START, START + MINUTE + 30 * SECOND, 15 * SECOND, 10.0);
    agent.store.write_samples();
    drop(agent);

    let mut agent = Ticking::on(Store::open(&path).unwrap());
    agent.leak(START + MINUTE + 30 * SECOND, START + 2 * MINUTE, 15 * SECOND, 30.0);
    agent.store.write_samples();
    let reader = Store::open_to_read(&path, std::sync::Arc::new(crate::clock::SystemClock)).unwrap();
    assert_eq!(reader.services_with_samples().unwrap(), ["rpc-order.service"]);
    let known = |three: [f64; 3]| three.map(Reading::Known);
    assert_eq!(told(&all(&reader)), [(0, 1, known([10.0; 3])), (1, 1, known([30.0, 10.0, 30.0]))]);
    assert!(reader.test_write(time(START)).is_err(), "it was opened to read");
}

#[test]
fn what_is_older_than_a_day_is_told_coarsely_each_moment_once_and_bounded_for_ever() {
    let mut agent = for_a_month();
    let days = 35;
    agent.leak(START, START + (days - 2) * DAY, 10 * MINUTE, 288.0);
    agent.leak(START + (days - 2) * DAY, START + days * DAY, MINUTE, 288.0);
    agent.store.write_samples();

    let samples = all(&agent.store);
    let gaps = samples.windows(2).filter(|pair| pair[0].until() != pair[1].at).count();
    assert_eq!(gaps, 0, "each sample goes on where the one before ends");
    let end = START + days * DAY;
    assert_eq!(samples.last().unwrap().until(), time(end));
    let fine = samples.iter().filter(|sample| sample.spread.as_ref().unwrap().step == TIERS[0].step).count() as i64;
    assert!((24 * 60..=25 * 60).contains(&fine), "{fine} minutes");
    let oldest = end - samples[0].at.as_millisecond();
    assert!((31 * DAY..=32 * DAY).contains(&oldest), "{oldest} ms");

    // A part of it, up to a moment within a step.
    let part = agent.store.samples(&order(), time(end - 90 * SECOND), time(end)).unwrap();
    assert_eq!(told(&part).iter().map(|(minute, ..)| *minute).collect::<Vec<_>>(), [days * 1440 - 2, days * 1440 - 1]);
}

#[test]
fn a_wall_clock_that_is_set_years_ahead_and_back_costs_little_and_leaves_nothing() {
    for wrong in [START + 3000 * DAY, START - 3000 * DAY, 0] {
        let mut agent = for_a_month();
        agent.leak(START, START + 2 * DAY, MINUTE, 288.0);
        let before = all(&agent.store).len();
        agent.leak(wrong, wrong + 10 * MINUTE, MINUTE, 1.0);
        // And for a while it is never the same twice.
        for flap in 0..20 {
            agent.leak(
                wrong + flap % 2 * DAY + flap * MINUTE,
                wrong + flap % 2 * DAY + (flap + 1) * MINUTE,
                MINUTE,
                1.0,
            );
        }
        agent.leak(START + 2 * DAY, START + 2 * DAY + HOUR, MINUTE, 288.0);
        let right = |store: &Store| store.samples(&order(), time(START), time(START + 40 * DAY)).unwrap();
        let after = right(&agent.store);
        assert!(after.len() + 180 > before, "{} of {before} steps are left", after.len());
        assert_eq!(after[0].at, time(START));
        assert_eq!(after.last().unwrap().until(), time(START + 2 * DAY + HOUR));

        agent.leak(START + 2 * DAY + HOUR, START + 34 * DAY, 10 * MINUTE, 288.0);
        agent.store.write_samples();
        let whole = agent.store.samples(&order(), time(-9000 * DAY), time(START + 9000 * DAY)).unwrap();
        assert_eq!(whole, right(&agent.store), "what the wrong clock left is gone");
    }
}

#[test]
fn a_service_that_is_quiet_costs_nothing_and_one_that_goes_away_is_forgotten() {
    let minute = Duration::from_secs(60);
    let mut agent = for_a_month();
    let block = TIERS[0].block_millis() / MINUTE;
    for step in 0..block {
        agent.tick(START + step * MINUTE, minute, &[("quiet.service", 0.0), ("rpc-order.service", 1.0)]);
    }
    // In the next block it is quiet as well.
    for step in block..2 * block {
        agent.tick(START + step * MINUTE, minute, &[("quiet.service", 0.0), ("rpc-order.service", 0.0)]);
    }
    agent.store.write_samples();
    let [fine, coarse] = [MINUTE, 10 * MINUTE];
    let host = |step| (step, String::new());
    let leaks = |step| (step, "rpc-order.service".to_owned());
    assert_eq!(rows(&agent.store), [host(fine), host(fine), leaks(fine), host(coarse), leaks(coarse)]);

    for step in 12..33 * DAY / (10 * MINUTE) {
        let name = format!("job-{}.service", step / 6);
        agent.tick(START + step * 10 * MINUTE, 10 * minute, &[(&name, 2.0)]);
    }
    agent.store.write_samples();
    let left = agent.store.services_with_samples().unwrap();
    assert!(!left.contains(&"rpc-order.service".into()), "{left:?}");
    assert!((31 * 24..=32 * 24).contains(&left.len()), "{} services", left.len());
}

#[test]
fn a_disk_that_refuses_disturbs_nothing_and_what_cannot_wait_is_counted() {
    let mut agent = memory();
    agent.leak(START, START + 2 * MINUTE, MINUTE, 288.0);
    agent.store.refuse_writes(true);
    agent.leak(START + 2 * MINUTE, START + 40 * MINUTE, MINUTE, 288.0);
    assert_eq!(agent.store.health(), Health::Sound, "the history alone is late");
    assert!(agent.store.samples_lost() >= 20, "{}", agent.store.samples_lost());
    assert!(agent.store.samples.lock().pending.0.len() <= 2 * (MOST_WAITING + 5));

    agent.store.refuse_writes(false);
    agent.leak(START + 40 * MINUTE, START + 46 * MINUTE, MINUTE, 288.0);
    agent.store.write_samples();
    assert!(agent.store.samples.lock().pending.0.is_empty());
    let minutes: Vec<i64> = told(&all(&agent.store)).iter().map(|(minute, ..)| *minute).collect();
    let oldest = 46 - minutes.len() as i64;
    assert!(oldest <= 31, "{minutes:?}");
    assert_eq!(minutes, (oldest..46).collect::<Vec<_>>(), "the newest were kept");
}

#[test]
fn a_failing_store_is_left_to_the_journal() {
    let mut agent = memory();
    agent.store.refuse_writes(true);
    assert!(agent.store.test_write(time(START)).is_err());
    agent.store.refuse_writes(false);
    agent.leak(START, START + 10 * MINUTE, MINUTE, 288.0);
    assert_eq!((rows(&agent.store).len(), agent.store.health()), (0, Health::Failing));
    agent.store.test_write(time(START)).unwrap();
    agent.store.write_samples();
    assert_eq!(all(&agent.store).len(), 10);
}

#[test]
fn a_damaged_row_is_a_gap_never_quiet_and_is_begun_anew() {
    for damaged in ["", "rpc-order.service"] {
        let mut agent = memory();
        agent.leak(START, START + 30 * MINUTE, MINUTE, 288.0);
        agent.store.write_samples();
        let damage = |step: i64| {
            let sql = "UPDATE sample SET steps = x'0102030405' WHERE service = ?1
                       AND block IN (SELECT id FROM sample_block WHERE step = ?2)";
            agent
                .store
                .transact(|transaction| transaction.execute(sql, rusqlite::params![damaged, step]), false)
                .unwrap();
        };
        damage(MINUTE);
        let coarse: Vec<(i64, u64)> = told(&all(&agent.store)).iter().map(|(at, step, _)| (*at, *step)).collect();
        assert_eq!(coarse, [(0, 10), (10, 10), (20, 10)], "the coarser tier still knows");
        damage(10 * MINUTE);
        assert_eq!(all(&agent.store), []);

        agent.leak(START + 30 * MINUTE, START + 31 * MINUTE, MINUTE, 7.0);
        agent.store.write_samples();
        assert_eq!(told(&all(&agent.store)).last().unwrap(), &(30, 1, [Reading::Known(7.0); 3]));
    }
}

mod month;
