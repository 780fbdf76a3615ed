use super::*;
use crate::decide::detector::{Change, Detector, Watch};
use crate::model::{Readings, ServiceName};

const STEP: u64 = 15;

fn service() -> ServiceName {
    ServiceName::parse("rpc-order.service").unwrap()
}

/// What was read at a tick; `None`: unknown.
fn reads(value: Option<f64>) -> Readings {
    let mut readings = Readings::default();
    if let Some(value) = value {
        readings.set(Signal::CloseWait, value);
    }
    readings
}

/// Ticks at these seconds with these values; says when what changed.
fn changes(policy: &Policy, ticks: &[(u64, Option<f64>)]) -> Vec<(u64, Change)> {
    let mut detector = Detector::default();
    ticks
        .iter()
        .filter_map(|(at, value)| {
            let change = detector.tick(policy, &service(), &reads(*value), seconds(*at), seconds(STEP))?;
            Some((*at, change))
        })
        .collect()
}

fn steady(values: impl IntoIterator<Item = Option<f64>>) -> Vec<(u64, Option<f64>)> {
    values.into_iter().enumerate().map(|(tick, value)| (tick as u64 * STEP, value)).collect()
}

const LEAK: Option<f64> = Some(210.0);

#[test]
fn a_breach_is_at_exactly_its_for_and_not_a_tick_sooner() {
    assert_eq!(changes(&policy(), &steady(vec![LEAK; 8])), [], "105 s of 120");
    assert_eq!(changes(&policy(), &steady(vec![LEAK; 9])), [(120, Change::Breach)]);
    assert_eq!(changes(&policy(), &steady(vec![LEAK; 40])), [(120, Change::Breach)], "and once");
    let at_once = Policy { hold: seconds(0), ..policy() };
    assert_eq!(changes(&at_once, &steady([LEAK])), [(0, Change::Breach)]);
    let between = Policy { hold: seconds(121), ..policy() };
    assert_eq!(changes(&between, &steady(vec![LEAK; 12])), [(135, Change::Breach)], "the first tick at or after it");
    assert_eq!(changes(&policy(), &steady(vec![Some(200.0); 40])), [], "the threshold itself is not above it");
}

#[test]
fn anything_but_true_breaks_the_for() {
    for broken in [Some(199.0), Some(200.0), None] {
        let mut values = vec![LEAK; 8];
        values.push(broken);
        values.extend(vec![LEAK; 8]);
        assert_eq!(changes(&policy(), &steady(values.clone())), [], "{broken:?}");
        values.push(LEAK);
        assert_eq!(changes(&policy(), &steady(values)), [(9 * STEP + 120, Change::Breach)], "{broken:?}");
    }
}

#[test]
fn a_gap_of_two_intervals_breaks_the_for_and_a_shorter_one_does_not() {
    let with_gap = |gap: u64| {
        let mut ticks: Vec<_> = (0..5).map(|tick| (tick * STEP, LEAK)).collect();
        ticks.extend((0..20).map(|tick| (4 * STEP + gap + tick * STEP, LEAK)));
        changes(&policy(), &ticks)
    };
    assert_eq!(with_gap(2 * STEP - 1), [(60 + 29 + 45, Change::Breach)], "counted from the first tick");
    assert_eq!(with_gap(2 * STEP), [(60 + 30 + 120, Change::Breach)], "counted from behind the gap");
    assert_eq!(with_gap(3_600), [(60 + 3_600 + 120, Change::Breach)]);
}

#[test]
fn a_breach_is_over_once_it_clears_and_an_unknown_does_not_clear_it() {
    let breached = vec![LEAK; 9];
    let then = |policy: &Policy, values: &[Option<f64>]| {
        let mut all = breached.clone();
        all.extend(values);
        changes(policy, &steady(all)).split_off(1)
    };
    assert_eq!(then(&policy(), &[Some(200.0)]), [(135, Change::Cleared)], "without `clear`: `when` is false");
    assert_eq!(then(&policy(), &[None, None]), []);
    let hysteresis = Policy { clear: Some(below(20.0)), ..policy() };
    assert_eq!(then(&hysteresis, &[Some(100.0), Some(20.0), None]), []);
    assert_eq!(then(&hysteresis, &[Some(100.0), Some(19.0)]), [(150, Change::Cleared)]);
    let mut again = vec![Some(19.0)];
    again.extend(vec![LEAK; 9]);
    assert_eq!(then(&hysteresis, &again), [(135, Change::Cleared), (270, Change::Breach)], "the whole `for` again");
}

#[test]
fn rearming_wants_the_whole_for_again_for_that_service_alone() {
    let (ours, other) = (service(), ServiceName::parse("other.service").unwrap());
    let mut detector = Detector::default();
    let tick = |detector: &mut Detector, at: u64, service: &ServiceName| {
        detector.tick(&policy(), service, &reads(LEAK), seconds(at), seconds(STEP))
    };
    for at in (0..=120).step_by(STEP as usize) {
        tick(&mut detector, at, &ours);
        tick(&mut detector, at, &other);
    }
    assert!(matches!(detector.watch("close-wait-leak", &ours), Watch::Breached { since } if since == seconds(120)));
    detector.rearm(&ours);
    assert_eq!(detector.watch("close-wait-leak", &ours), Watch::Quiet);
    assert!(matches!(detector.watch("close-wait-leak", &other), Watch::Breached { .. }));
    let second: Vec<u64> = (135..=270)
        .step_by(STEP as usize)
        .filter(|at| tick(&mut detector, *at, &ours) == Some(Change::StillBreached))
        .collect();
    assert_eq!(second, [255]);
}

#[test]
fn policies_and_services_are_watched_apart() {
    let mut detector = Detector::default();
    let slow = Policy { name: "slow".into(), hold: seconds(600), ..policy() };
    for at in (0..=120).step_by(STEP as usize) {
        for policy in [&policy(), &slow] {
            detector.tick(policy, &service(), &reads(LEAK), seconds(at), seconds(STEP));
        }
    }
    assert!(matches!(detector.watch("close-wait-leak", &service()), Watch::Breached { .. }));
    assert_eq!(detector.watch("slow", &service()), Watch::Holding { since: seconds(0), last: seconds(120) });
    assert_eq!(detector.watched().count(), 2);
    assert!(!detector.is_quiet());
    assert_eq!(detector.breached("close-wait-leak").collect::<Vec<_>>(), [&service()]);
    assert_eq!(detector.breached_since("close-wait-leak", &service()), Some(seconds(120)));
    // What only holds is no breach yet.
    assert_eq!(detector.breached("slow").count(), 0);
    assert_eq!(detector.breached_since("slow", &service()), None);
    detector.rearm(&service());
    assert_eq!(detector.watch("close-wait-leak", &service()), Watch::Quiet);
    assert!(!detector.is_quiet(), "the breach is not over");
}

#[test]
fn a_breach_is_news_once_until_it_is_over_also_over_an_incident() {
    for clear in [None, Some(below(20.0))] {
        let policy = Policy { clear: clear.clone(), ..policy() };
        let mut detector = Detector::default();
        let mut changes = Vec::new();
        let mut at = 0;
        let mut look = |detector: &mut Detector, value: Option<f64>, ticks: u64| {
            for _ in 0..ticks {
                let change = detector.tick(&policy, &service(), &reads(value), seconds(at), seconds(STEP));
                changes.extend(change.map(|change| (at, change)));
                at += STEP;
            }
        };
        look(&mut detector, LEAK, 10);
        for _ in 0..2 {
            detector.rearm(&service());
            look(&mut detector, LEAK, 10);
            assert_eq!(detector.held_since(&policy.name, &service()), Some(seconds(0)));
        }
        // An incident helped: the breach is over at the first look that says so, and the next one is news.
        detector.rearm(&service());
        look(&mut detector, Some(0.0), 1);
        assert_eq!(detector.held_since(&policy.name, &service()), None);
        assert!(detector.is_quiet());
        look(&mut detector, LEAK, 9);
        let expected = [
            (120, Change::Breach),
            (270, Change::StillBreached),
            (420, Change::StillBreached),
            (450, Change::Cleared),
            (585, Change::Breach),
        ];
        assert_eq!(changes, expected, "{clear:?}");
    }
}

#[test]
fn a_new_configuration_keeps_what_it_says_alike_and_begins_the_rest_anew() {
    let is_kept = |changed: Option<Policy>, selects: bool| {
        let mut detector = Detector::default();
        for at in (0..=120).step_by(STEP as usize) {
            detector.tick(&policy(), &service(), &reads(LEAK), seconds(at), seconds(STEP));
        }
        detector.keep_unchanged(&[policy()], &changed.into_iter().collect::<Vec<_>>(), |_, _| selects);
        let watched = detector.watched().count();
        let breached = matches!(detector.watch("close-wait-leak", &service()), Watch::Breached { .. });
        assert_eq!(breached, watched == 1 && !detector.is_quiet(), "nothing is left of what is not kept");
        breached
    };
    let breach = |changed| is_kept(changed, true);
    assert!(breach(Some(policy())));
    assert!(!is_kept(Some(policy()), false), "it speaks of that service no more");
    assert!(breach(Some(Policy { mode: Mode::DryRun, ..policy() })), "what it does about a breach is another thing");
    assert!(!breach(None));
    assert!(!breach(Some(Policy { when: above(100.0), ..policy() })));
    assert!(!breach(Some(Policy { hold: seconds(600), ..policy() })));
    assert!(!breach(Some(Policy { clear: Some(below(5.0)), ..policy() })));
    assert!(!breach(Some(Policy { name: "renamed".into(), ..policy() })));
}
