use super::*;
use crate::model::census::{Descriptors, NoOwner};
use crate::model::socket::PassedOver;
use crate::model::{Brief, Reading, Truth};

const MINUTE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_secs(15);

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

/// A socket that has been in CLOSE_WAIT for so many seconds.
fn socket(age: u64) -> Brief {
    Brief::new(1_000, Duration::from_secs(age), false, false)
}

fn sockets(count: u64) -> Vec<Brief> {
    (0..count).map(|_| socket(0)).collect()
}

fn census(tick: u32, services: Vec<(&str, Vec<Brief>)>) -> Census {
    let start: Timestamp = "2026-11-22T18:43:29Z".parse().unwrap();
    let held = |sockets| ServiceCensus { outbound: sockets, ..ServiceCensus::default() };
    Census {
        at: start + STEP * tick,
        monotonic: MINUTE + STEP * tick,
        services: services.into_iter().map(|(service, sockets)| (name(service), held(sockets))).collect(),
        unattributed: BTreeMap::new(),
        of_no_service: BTreeMap::new(),
        unowned_listeners: 0,
        passed_over: PassedOver::default(),
        quality: Quality::Complete,
    }
}

fn value(readings: &Readings, signal: Signal) -> f64 {
    match readings.get(signal) {
        Reading::Known(value) => value,
        Reading::Unknown => panic!("{signal} is unknown"),
    }
}

/// One tick of a service with one leaked socket and its counted descriptors.
fn counted(tick: u32, sockets: u64, descriptors: Option<Descriptors>) -> Census {
    let mut census = census(tick, vec![("a.service", self::sockets(sockets))]);
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

/// The gate counts on it: a service without a socket needs no look for its growth.
#[test]
fn what_holds_no_socket_does_not_grow() {
    let growth = Signal::CloseWaitGrowth(MINUTE);
    let mut meter = Meter::new([growth]);
    // Below ten, a count that comes and goes is one run.
    for (tick, count) in (0..).zip([0, 2, 4, 6, 8, 0]) {
        let readings = meter.feed(&census(tick, vec![("a.service", sockets(count))])).of(&name("a.service"));
        if tick >= 4 {
            assert_eq!(value(&readings, growth) > 0.0, count > 0, "tick {tick}: {readings:?}");
        }
    }
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
    let whole = census(0, vec![("a.service", vec![socket(0)])]);
    meter.feed(&whole);
    let mut partial = census(1, vec![("a.service", vec![socket(0), socket(0)])]);
    partial.quality = Quality::Partial { why: "interrupted".into() };
    let measured = meter.feed(&partial);
    assert_eq!(measured.untrusted.as_deref(), Some("interrupted"));
    for service in ["a.service", "quiet.service"] {
        assert_eq!(measured.of(&name(service)), Readings::default(), "{service}");
    }
    assert_eq!(meter.history(&name("a.service")).len(), 1, "and is no part of the history");
}

#[test]
fn a_service_without_such_sockets_has_a_known_none() {
    let asked = Signal::CloseWaitAged(MINUTE);
    let mut meter = Meter::new([asked]);
    let measured = meter.feed(&census(0, vec![("a.service", vec![socket(0)])]));
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
    let ten_minutes = |inode, unread, sending| Brief::new(inode, 10 * MINUTE, unread, sending);
    let held = ServiceCensus {
        inbound: vec![ten_minutes(0, false, false), ten_minutes(2, true, false)],
        outbound: vec![
            ten_minutes(3, false, false),
            ten_minutes(4, false, true),
            ten_minutes(5, false, false),
            socket(599),
        ],
        established: Some(41),
        descriptors: Some(Descriptors { used: 900, worst_ratio: 0.9, oldest: Duration::from_secs(9) }),
        ..ServiceCensus::default()
    };
    counted.services.insert(name("a.service"), held);
    counted.unattributed = [(NoOwner::NotAService, 2)].into();
    let aged = Signal::CloseWaitAged(10 * MINUTE);
    let too_old = Signal::CloseWaitAged(10 * MINUTE + Duration::from_millis(1));
    let readings = Meter::new([aged, too_old]).feed(&counted).of(&name("a.service"));
    for (signal, expected) in [
        (Signal::CloseWait, 6.0),
        (Signal::CloseWaitInbound, 2.0),
        (Signal::CloseWaitOutbound, 4.0),
        (Signal::CloseWaitUnaccepted, 1.0),
        (Signal::CloseWaitUnread, 1.0),
        (Signal::CloseWaitSending, 1.0),
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
fn where_a_namespace_was_passed_over_nothing_is_known_of_who_was_not_seen() {
    let mut meter = Meter::new([]);
    meter.feed(&census(0, vec![("a.service", vec![socket(1)]), ("b.service", vec![socket(1)])]));
    let mut gated = census(1, vec![("b.service", vec![socket(16)])]);
    gated.passed_over = PassedOver { namespaces: 1, at_most: 40 };
    let measured = meter.feed(&gated);
    assert_eq!(measured.of(&name("a.service")), Readings::default());
    let seen = measured.of(&name("b.service"));
    assert_eq!(value(&seen, Signal::CloseWait), 1.0);
    for of_the_host in [Signal::HostCloseWait, Signal::CloseWaitHostShare] {
        assert_eq!(seen.get(of_the_host), Reading::Unknown);
    }
}

#[test]
fn history_is_bounded_in_length_and_in_services() {
    let mut meter = Meter::new([Signal::CloseWaitGrowth(MINUTE), Signal::FdExhaustedIn]);
    for tick in 0..(HISTORY as u32 * 3) {
        let leaky = ("leaky.service", vec![socket(0)]);
        let passing = format!("job-{}.service", tick % HISTORY as u32 + if tick < 200 { 0 } else { 1_000 });
        let mut all = vec![leaky];
        if tick < 2 * HISTORY as u32 {
            all.push((passing.as_str(), vec![socket(0)]));
        }
        meter.feed(&census(tick, all));
        assert!(meter.history(&name("leaky.service")).len() <= HISTORY);
    }
    for tick in HISTORY as u32 * 3..HISTORY as u32 * 4 {
        meter.feed(&census(tick, vec![("leaky.service", vec![socket(0)])]));
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
