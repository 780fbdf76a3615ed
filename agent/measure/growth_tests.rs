use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
const STEP: Duration = Duration::from_secs(15);

/// Counts each 15 s from `first` on, the service's oldest process not known; then the growth over ten minutes.
fn over_ten_minutes(growth: &mut Growth, first: u32, counts: impl IntoIterator<Item = f64>) -> Vec<Option<f64>> {
    let see = |(tick, count)| {
        growth.see(MINUTE + STEP * (first + tick as u32), count, None, 10 * MINUTE);
        growth.per_minute(10 * MINUTE)
    };
    counts.into_iter().enumerate().map(see).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_steady_growth_is_found_exactly_as_soon_as_the_window_is_covered(
        step in 1u32..120,
        jitter in proptest::collection::vec(0u64..900, 300),
        a_second in -3i32..4,
        minutes in 1u32..15,
    ) {
        let window = MINUTE * minutes;
        let mut growth = Growth::default();
        let mut began = None;
        for (tick, jitter) in jitter.iter().enumerate() {
            let now = 1_000 * SECOND + SECOND * step * tick as u32 + Duration::from_millis(*jitter);
            let began = *began.get_or_insert(now);
            growth.see(now, 1e6 + now.as_secs_f64() * f64::from(a_second), None, window);
            match growth.per_minute(window) {
                Some(per_minute) => {
                    prop_assert!(now - began >= window, "known after {:?} of {window:?}", now - began);
                    prop_assert!((per_minute - 60.0 * f64::from(a_second)).abs() < 1e-6, "{per_minute}");
                }
                // A step of a quarter of the window has the five points; a longer one may have them.
                None => prop_assert!(now - began < window || SECOND * (step + 1) > window / 4, "step {step} s"),
            }
        }
    }

    #[test]
    fn whatever_is_counted_the_growth_is_a_number(counts in proptest::collection::vec(0u32..100_000, 1..120)) {
        let mut growth = Growth::default();
        for found in over_ten_minutes(&mut growth, 0, counts.into_iter().map(f64::from)).into_iter().flatten() {
            prop_assert!(found.is_finite());
        }
    }
}

#[test]
fn a_minute_and_a_day_are_known_from_one_series_of_seconds() {
    let mut growth = Growth::default();
    for tick in 0..=86_400u32 {
        // A socket each ten minutes for a day; in the last minute one each second.
        let burst = f64::from(tick.saturating_sub(86_340));
        growth.see(SECOND * (tick + 1), f64::from(tick) / 600.0 + burst, None, DAY);
    }
    let (minute, day) = (growth.per_minute(MINUTE).unwrap(), growth.per_minute(DAY).unwrap());
    assert!((minute - 60.1).abs() < 1e-6, "{minute}");
    assert!((day - 0.1).abs() < 0.001, "{day}: the last minute is no growth of the day");
}

#[test]
fn a_count_that_jumps_once_does_not_grow() {
    let jump = (0..41).map(|tick| if tick < 35 { 100.0 } else { 400.0 });
    assert_eq!(over_ten_minutes(&mut Growth::default(), 0, jump).last(), Some(&Some(0.0)));
}

#[test]
fn after_a_restart_it_is_unknown_until_the_window_holds_the_new_incarnation_alone() {
    let mut growth = Growth::default();
    let restart = MINUTE + STEP * 60 - SECOND;
    for tick in 0..160u32 {
        let now = MINUTE + STEP * tick;
        let old = tick < 60;
        let (count, began) = if old { (500.0, SECOND) } else { (f64::from(tick - 60) + 400.0, restart) };
        // It is known at some ticks only.
        growth.see(now, count, (tick % 3 == 0).then_some(began), 10 * MINUTE);
        let expected = match tick {
            40..60 => Some(0.0),
            100.. => Some(4.0),
            _ => None,
        };
        assert_eq!(growth.per_minute(10 * MINUTE), expected, "tick {tick}");
    }
}

#[test]
fn a_count_that_is_let_go_begins_a_new_run_and_a_small_one_that_toggles_does_not() {
    let mut growth = Growth::default();
    over_ten_minutes(&mut growth, 0, [300.0; 60]);
    // It fell to a tenth at once, and leaks again at two a minute: unknown for ten minutes, and never a fall.
    let again = over_ten_minutes(&mut growth, 60, (0..60).map(|tick| 30.0 + f64::from(tick) / 2.0));
    assert_eq!(again[..40], [None; 40]);
    assert!(again[40..].iter().all(|found| *found == Some(2.0)), "{again:?}");

    let mut growth = Growth::default();
    over_ten_minutes(&mut growth, 0, [9.0; 60]);
    let toggling = over_ten_minutes(&mut growth, 60, [0.0, 1.0, 0.0, 9.0].repeat(30));
    assert!(toggling.iter().all(Option::is_some), "{toggling:?}");
    assert_eq!(toggling.last(), Some(&Some(0.0)));

    let mut growth = Growth::default();
    over_ten_minutes(&mut growth, 0, [300.0; 60]);
    let halved = over_ten_minutes(&mut growth, 60, [150.0; 20]);
    assert!(halved.iter().all(Option::is_some), "half of it is still the same run");
}

#[test]
fn too_few_samples_or_a_gap_of_more_than_a_third_is_unknown() {
    for (missing, known) in [(1, true), (12, true), (13, false), (30, false)] {
        let mut growth = Growth::default();
        over_ten_minutes(&mut growth, 0, [5.0; 50]);
        // Twelve ticks missing are 3m15s from one sample to the next, thirteen 3m30s; a third is 3m20s.
        let after = over_ten_minutes(&mut growth, 50 + missing, [5.0]);
        assert_eq!(after, [known.then_some(0.0)], "{missing} ticks missing");
    }
    let mut growth = Growth::default();
    for tick in 0..20 {
        growth.see(MINUTE + MINUTE * 3 * tick, 5.0, None, 10 * MINUTE);
    }
    assert_eq!(growth.per_minute(10 * MINUTE), Some(0.0), "each three minutes: five points, with the one before");
    assert_eq!(growth.per_minute(8 * MINUTE), None, "four points");
}
