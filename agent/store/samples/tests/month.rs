//! How big the file becomes.
//!
//! By default some services stand for the thousand, and the steps that only the coarse tier still holds are made of fewer
//! ticks. With `UNWAIT_MONTH_SERVICES=1000` that many are played in full, at 15 s for all of the month (minutes; an
//! optimised build is in order: `--config 'profile.dev.package.unwait.opt-level=2'`).

use super::*;

const SERVICES: u64 = 1_000;
const MOST_BYTES: u64 = 200_000_000;
const TICK: i64 = 15 * SECOND;

/// Noise that is the same on each run (xorshift).
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: u64) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11).checked_rem(bound).unwrap_or_default() as f64
    }
}

/// A service that leaks, at its own pace, under a load that comes and goes, and is restarted now and then.
struct Leak {
    name: ServiceName,
    held: f64,
    per_tick: f64,
    oldest: f64,
    load: f64,
    growth: f64,
}

impl Leak {
    fn new(number: u64, noise: &mut Noise) -> Self {
        let name = service(&format!("rpc-some-service-{number:04}.service"));
        let per_tick = 0.01 + noise.below(100) / 100.0;
        Self { name, held: 20.0, per_tick, oldest: 0.0, load: 200.0 + noise.below(400), growth: 0.0 }
    }

    fn tick(&mut self, every: f64, noise: &mut Noise) -> Readings {
        let ticks = every / 15.0;
        self.held += self.per_tick * ticks * noise.below(3) + noise.below(5) - 2.0;
        self.oldest += every;
        if self.held > 4_000.0 || noise.below(20_000) < ticks {
            (self.held, self.oldest) = (0.0, 0.0);
        }
        self.held = self.held.max(1.0);
        self.load = (self.load + noise.below(41) - 20.0).clamp(50.0, 900.0);
        self.growth += (self.per_tick * 4.0 - self.growth) / 8.0 + (noise.below(101) - 50.0) / 100.0;
        let held = self.held.floor();
        let (load, inbound) = (self.load.floor(), (held * 0.2).floor() + noise.below(2));
        let fresh = noise.below(12);
        let used = held + load + 60.0 + noise.below(9);
        let host = 500_000.0 + noise.below(2_000);
        let mut readings = Readings::default();
        for (signal, value) in [
            (Signal::CloseWait, held),
            (Signal::CloseWaitInbound, inbound),
            (Signal::CloseWaitOutbound, (held - inbound).max(0.0)),
            (Signal::CloseWaitAged(Duration::from_secs(300)), (held - fresh).max(0.0)),
            (Signal::CloseWaitOldest, self.oldest),
            (Signal::CloseWaitGrowth(Duration::from_secs(600)), self.growth),
            (Signal::CloseWaitUnaccepted, (noise.below(20) - 17.0).max(0.0)),
            (Signal::CloseWaitUnread, (held * 0.05).floor() + noise.below(3)),
            (Signal::CloseWaitSending, noise.below(4)),
            (Signal::CloseWaitHostShare, held / host),
            (Signal::Established, load),
            (Signal::FdUsed, used),
            (Signal::FdRatio, used / 8_192.0),
            (Signal::HostCloseWait, host),
        ] {
            readings.set(signal, value);
        }
        readings
    }
}

#[test]
fn a_month_of_a_thousand_services_that_all_leak_stays_below_200_mb() {
    let in_full: Option<u64> = std::env::var("UNWAIT_MONTH_SERVICES").ok().map(|count| count.parse().unwrap());
    let services = in_full.unwrap_or(3);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unwait.db");
    let store = Store::open(&path).unwrap();
    let empty = size(&store, dir.path());
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut leaks: Vec<Leak> = (0..services).map(|number| Leak::new(number, &mut noise)).collect();

    // Blocks are dropped only when a newer one begins: both tiers hold the most they ever do.
    let end = START + 32 * DAY - TICK;
    let (mut at, mut monotonic, mut slowest) = (START, Duration::ZERO, Duration::ZERO);
    while at < end {
        let every = if in_full.is_some() || at >= end - 26 * HOUR { TICK } else { 10 * TICK };
        let held: BTreeMap<ServiceName, Readings> =
            leaks.iter_mut().map(|leak| (leak.name.clone(), leak.tick(every as f64 / 1_000.0, &mut noise))).collect();
        let host = Reading::Known(500_000.0 + noise.below(2_000));
        let clock = &crate::clock::SystemClock;
        let began = crate::clock::Clock::monotonic(clock);
        store.record(time(at), monotonic, host, held.iter());
        slowest = slowest.max(crate::clock::Clock::monotonic(clock) - began);
        at += every;
        // An hour is written at once where not all is played in full.
        monotonic += Duration::from_millis(every as u64) / if in_full.is_some() { 1 } else { 12 };
    }
    store.write_samples();
    assert_eq!(store.samples_lost(), 0);
    let grown = size(&store, dir.path()) - empty;
    let of_all = empty + grown * SERVICES / services;
    let rows = "SELECT sum(length(steps)), count(*) FROM sample WHERE service <> ''";
    let (bytes, rows): (i64, i64) =
        store.read(|connection| connection.query_row(rows, [], |row| Ok((row.get(0)?, row.get(1)?)))).unwrap();
    println!("{services} services: {grown} bytes, {bytes} of them in {rows} rows; {SERVICES}: {of_all} bytes");
    println!("the slowest tick with its write: {slowest:?}");
    assert!(of_all < MOST_BYTES, "{of_all} bytes for {SERVICES} services");

    let history = store.samples(&leaks[0].name, time(START), time(at)).unwrap();
    assert!(history.len() > 25 * 60 + 30 * 144, "{} steps of it can be read", history.len());
}

/// The file with its log, after a checkpoint.
fn size(store: &Store, dir: &Path) -> u64 {
    store.read(|connection| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))).unwrap();
    std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
}
