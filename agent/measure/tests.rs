use proptest::prelude::*;

use super::*;
use crate::model::census::{Descriptors, NoOwner, Owned, Unattributed};
use crate::model::{Reading, Truth};

const MINUTE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_secs(15);

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

fn socket(cookie: u64, last_ack_received: Option<Duration>) -> Socket {
    Socket {
        cookie,
        local: "127.0.0.1:40000".parse().unwrap(),
        remote: "127.0.0.1:6379".parse().unwrap(),
        inode: cookie + 1_000,
        uid: 0,
        cgroup_id: None,
        recv_q: 1,
        send_q: 0,
        last_ack_received,
        last_data_sent: None,
    }
}

fn census(tick: u32, services: Vec<(&str, Vec<Socket>)>) -> Census {
    let start: Timestamp = "2026-11-22T18:43:29Z".parse().unwrap();
    let held = |sockets: Vec<Socket>| ServiceCensus {
        sockets: sockets.into_iter().map(|socket| Owned { socket, direction: Direction::Outbound }).collect(),
        ..ServiceCensus::default()
    };
    Census {
        at: start + STEP * tick,
        monotonic: MINUTE + STEP * tick,
        services: services.into_iter().map(|(service, sockets)| (name(service), held(sockets))).collect(),
        unattributed: Vec::new(),
        quality: Quality::Complete,
    }
}

fn value(readings: &Readings, signal: Signal) -> f64 {
    match readings.get(signal) {
        Reading::Known(value) => value,
        Reading::Unknown => panic!("{signal} is unknown"),
    }
}

/// A socket of the model: when its FIN came, and when it is gone.
#[derive(Clone, Debug)]
struct Life {
    cookie: u64,
    fin: Duration,
    gone: Duration,
    /// The application writes now and then: the last acknowledgement is newer than the FIN.
    writes_every: Option<Duration>,
    /// The kernel tells when the last acknowledgement came.
    told: bool,
}

impl Life {
    fn seen_at(&self, now: Duration) -> Option<Socket> {
        (self.fin <= now && now < self.gone).then(|| {
            let age = now - self.fin;
            let since_ack = match self.writes_every {
                Some(every) => Duration::from_millis((age.as_millis() % every.as_millis()) as u64),
                None => age,
            };
            socket(self.cookie, self.told.then_some(since_ack))
        })
    }
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let life = (0u64..1_200_000, 0u64..900_000, proptest::option::of(1_000u64..200_000), any::<bool>());
    proptest::collection::vec(life, 0..25).prop_map(|lives| {
        let ms = Duration::from_millis;
        let one = |(index, (fin, lasts, writes, told)): (usize, (u64, u64, Option<u64>, bool))| Life {
            cookie: index as u64 + 1,
            fin: ms(fin),
            gone: ms(fin + lasts),
            writes_every: writes.map(ms),
            told,
        };
        lives.into_iter().enumerate().map(one).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ages_are_never_overstated_and_exact_where_the_kernel_tells(lives in lives(), skipped in proptest::collection::vec(any::<bool>(), 80)) {
        let aged = Signal::CloseWaitAged(5 * MINUTE);
        let mut meter = Meter::new([aged]);
        // When the meter was first shown each socket.
        let mut shown: BTreeMap<u64, Duration> = BTreeMap::new();
        for (tick, skipped) in skipped.into_iter().enumerate() {
            let tick = tick as u32;
            let now = MINUTE + STEP * tick;
            let alive: Vec<&Life> = lives.iter().filter(|life| life.seen_at(now).is_some()).collect();
            let mut census = census(tick, vec![("rpc-order.service", alive.iter().map(|life| life.seen_at(now).unwrap()).collect())]);
            if skipped {
                census.quality = Quality::Partial { why: "interrupted".into() };
                let measured = meter.feed(&census);
                prop_assert!(measured.untrusted.is_some());
                continue;
            }
            for life in &alive {
                shown.entry(life.cookie).or_insert(now);
            }
            let readings = meter.feed(&census).of(&name("rpc-order.service"));
            let mut known_ages: Vec<Duration> = Vec::new();
            for life in &alive {
                let socket = life.seen_at(now).unwrap();
                let age = meter.age(&socket, now);
                let truth = now - life.fin;
                prop_assert!(age <= truth, "overstated: {age:?} of {truth:?}");
                let watched = now - shown[&life.cookie];
                prop_assert!(age >= watched, "understated: {age:?}, watched for {watched:?}");
                if life.told && life.writes_every.is_none() {
                    prop_assert_eq!(age, truth);
                }
                known_ages.push(age);
            }
            let oldest = known_ages.iter().max().copied().unwrap_or_default();
            prop_assert_eq!(value(&readings, Signal::CloseWaitOldest), oldest.as_secs_f64());
            prop_assert_eq!(value(&readings, aged), known_ages.iter().filter(|age| **age >= 5 * MINUTE).count() as f64);
            prop_assert_eq!(value(&readings, Signal::CloseWait), alive.len() as f64);
        }
    }
}

/// One tick of a service with one leaked socket and its counted descriptors.
fn counted(tick: u32, sockets: u64, descriptors: Option<Descriptors>) -> Census {
    let held = (0..sockets).map(|cookie| socket(cookie + 1, None)).collect();
    let mut census = census(tick, vec![("a.service", held)]);
    census.services.get_mut(&name("a.service")).unwrap().descriptors = descriptors;
    census
}

#[test]
fn growth_and_the_forecast_are_unknown_until_their_window_was_watched_and_again_after_a_restart() {
    let (growth, forecast) = (Signal::CloseWaitGrowth(5 * MINUTE), Signal::FdExhaustedIn);
    let mut meter = Meter::new([growth, forecast]);
    let mut tick = 0;
    for began in [Duration::from_secs(9), MINUTE + STEP * 60 - Duration::from_secs(1)] {
        for seen in 0..60u32 {
            // Two sockets and one percent of the limit each quarter of a minute.
            let descriptors = Descriptors { used: 1, worst_ratio: 0.2 + f64::from(seen) / 100.0, oldest: began };
            let census = counted(tick, u64::from(seen) * 2, Some(descriptors));
            let readings = meter.feed(&census).of(&name("a.service"));
            match readings.get(growth) {
                Reading::Known(per_minute) => assert!(seen >= 20 && (per_minute - 8.0).abs() < 1e-9, "{per_minute}"),
                Reading::Unknown => assert!(seen < 20, "growth at tick {seen}"),
            }
            match readings.get(forecast) {
                Reading::Known(left) => {
                    let truth = (0.8 - f64::from(seen) / 100.0) * 100.0 * STEP.as_secs_f64();
                    assert!(seen >= 40 && (left - truth).abs() < 1.0, "{left} of {truth}");
                }
                Reading::Unknown => assert!(seen < 40, "forecast at tick {seen}"),
            }
            tick += 1;
        }
    }
    let uncounted = meter.feed(&counted(tick, 9, None)).of(&name("a.service"));
    assert_eq!(uncounted.get(forecast), Reading::Unknown, "what cannot be counted now has no forecast");
}

#[test]
fn a_forecast_that_nobody_asks_for_is_not_kept() {
    let mut meter = Meter::new([]);
    let full = Descriptors { used: 1, worst_ratio: 1.0, oldest: Duration::ZERO };
    let readings = meter.feed(&counted(0, 1, Some(full))).of(&name("a.service"));
    assert_eq!(readings.get(Signal::FdExhaustedIn), Reading::Unknown);
    assert!(meter.exhaustion.is_empty());
}

#[test]
fn a_partial_census_gives_no_signal_to_anybody() {
    let mut meter = Meter::new([Signal::CloseWaitAged(MINUTE)]);
    let whole = census(0, vec![("a.service", vec![socket(1, None)])]);
    meter.feed(&whole);
    let mut partial = census(1, vec![("a.service", vec![socket(1, None), socket(2, None)])]);
    partial.quality = Quality::Partial { why: "interrupted".into() };
    let measured = meter.feed(&partial);
    assert_eq!(measured.untrusted.as_deref(), Some("interrupted"));
    for service in ["a.service", "quiet.service"] {
        assert_eq!(measured.of(&name(service)), Readings::default(), "{service}");
    }
    assert_eq!(meter.history(&name("a.service")).len(), 1, "and is no part of the history");
    let later = meter.feed(&census(2, vec![("a.service", vec![socket(1, None)])])).of(&name("a.service"));
    assert_eq!(value(&later, Signal::CloseWaitOldest), 30.0, "the age goes on from the first sight");
}

#[test]
fn a_service_without_such_sockets_has_a_known_none() {
    let asked = Signal::CloseWaitAged(MINUTE);
    let mut meter = Meter::new([asked]);
    let measured = meter.feed(&census(0, vec![("a.service", vec![socket(1, None)])]));
    let quiet = measured.of(&name("quiet.service"));
    for signal in [Signal::CloseWait, Signal::CloseWaitOldest, Signal::CloseWaitHostShare, asked] {
        assert_eq!(quiet.get(signal), Reading::Known(0.0), "{signal}");
    }
    assert_eq!(value(&quiet, Signal::HostCloseWait), 1.0);
    for unmeasured in [Signal::Established, Signal::FdUsed, Signal::FdRatio, Signal::FdExhaustedIn] {
        assert_eq!(quiet.get(unmeasured), Reading::Unknown, "{unmeasured}");
    }
    // Once its sockets are gone, it is known to have none, and not forgotten.
    let gone = meter.feed(&census(1, Vec::new())).of(&name("a.service"));
    assert_eq!(value(&gone, Signal::CloseWait), 0.0);
}

#[test]
fn each_count_counts_its_own() {
    let mut counted = census(0, Vec::new());
    let with = |change: fn(&mut Socket), cookie: u64, direction: Direction| {
        let mut socket = socket(cookie, Some(10 * MINUTE));
        change(&mut socket);
        Owned { socket, direction }
    };
    let held = ServiceCensus {
        sockets: vec![
            with(|_| {}, 1, Direction::Outbound),
            with(|socket| socket.inode = 0, 2, Direction::Inbound),
            with(|socket| socket.recv_q = 2, 3, Direction::Inbound),
            with(|socket| socket.send_q = 9, 4, Direction::Outbound),
            with(|socket| socket.last_data_sent = Some(Duration::from_secs(9)), 5, Direction::Outbound),
            with(|socket| socket.last_data_sent = Some(Duration::from_secs(10)), 6, Direction::Outbound),
        ],
        listening: Vec::new(),
        established: Some(41),
        descriptors: Some(Descriptors { used: 900, worst_ratio: 0.9, oldest: Duration::from_secs(9) }),
    };
    counted.services.insert(name("a.service"), held);
    counted.unattributed = vec![Unattributed { socket: socket(7, None), why: NoOwner::NotAService }; 2];
    let aged = Signal::CloseWaitAged(10 * MINUTE);
    let too_old = Signal::CloseWaitAged(10 * MINUTE + Duration::from_millis(1));
    let readings = Meter::new([aged, too_old]).feed(&counted).of(&name("a.service"));
    for (signal, expected) in [
        (Signal::CloseWait, 6.0),
        (Signal::CloseWaitInbound, 2.0),
        (Signal::CloseWaitOutbound, 4.0),
        (Signal::CloseWaitUnaccepted, 1.0),
        (Signal::CloseWaitUnread, 1.0),
        (Signal::CloseWaitSending, 2.0),
        (Signal::HostCloseWait, 8.0),
        (Signal::CloseWaitHostShare, 0.75),
        (Signal::CloseWaitOldest, 600.0),
        (aged, 4.0),
        (too_old, 0.0),
        (Signal::Established, 41.0),
        (Signal::FdUsed, 900.0),
        (Signal::FdRatio, 0.9),
    ] {
        assert_eq!(value(&readings, signal), expected, "{signal}");
    }
}

#[test]
fn a_socket_without_a_cookie_is_the_same_only_with_the_same_inode() {
    let mut meter = Meter::new([]);
    let mut first = socket(0, None);
    first.inode = 10;
    meter.feed(&census(0, vec![("a.service", vec![first.clone()])]));
    meter.feed(&census(4, vec![("a.service", vec![first.clone()])]));
    assert_eq!(meter.age(&first, MINUTE * 2), MINUTE);
    let another = Socket { inode: 11, ..first };
    assert_eq!(meter.age(&another, MINUTE * 2), Duration::ZERO, "a new connection from the same port is young");
}

#[test]
fn a_socket_that_was_gone_is_young_again() {
    let mut meter = Meter::new([]);
    meter.feed(&census(0, vec![("a.service", vec![socket(1, None)])]));
    meter.feed(&census(1, Vec::new()));
    meter.feed(&census(2, vec![("a.service", vec![socket(1, None)])]));
    assert_eq!(meter.age(&socket(1, None), MINUTE + STEP * 2), Duration::ZERO);
}

#[test]
fn history_is_bounded_in_length_and_in_services() {
    let mut meter = Meter::new([Signal::CloseWaitGrowth(MINUTE), Signal::FdExhaustedIn]);
    for tick in 0..(HISTORY as u32 * 3) {
        let leaky = ("leaky.service", vec![socket(1, None)]);
        let passing = format!("job-{}.service", tick % HISTORY as u32 + if tick < 200 { 0 } else { 1_000 });
        let mut all = vec![leaky];
        if tick < 2 * HISTORY as u32 {
            all.push((passing.as_str(), vec![socket(2, None)]));
        }
        meter.feed(&census(tick, all));
        assert!(meter.history(&name("leaky.service")).len() <= HISTORY);
    }
    for tick in HISTORY as u32 * 3..HISTORY as u32 * 4 {
        meter.feed(&census(tick, vec![("leaky.service", vec![socket(1, None)])]));
    }
    assert_eq!(meter.history.len(), 1, "what held nothing for its whole history is forgotten");
    assert_eq!((meter.growth.len(), meter.exhaustion.len()), (1, 1));
    assert_eq!(meter.history(&name("leaky.service")).len(), HISTORY);
}

#[test]
fn a_quiet_service_that_is_still_there_keeps_its_windows() {
    let growth = Signal::CloseWaitGrowth(10 * MINUTE);
    let mut meter = Meter::new([growth]);
    let rising = crate::model::Condition::Compare(crate::model::Comparison {
        signal: growth,
        operator: crate::model::policy::Operator::AtLeast,
        threshold: 0.0,
    });
    for tick in 0..(HISTORY as u32 * 3) {
        let readings = meter.feed(&census(tick, vec![("a.service", Vec::new())])).of(&name("a.service"));
        if tick >= 40 {
            assert_eq!(rising.truth(&readings), Truth::True, "tick {tick}");
        }
    }
}
