use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_secs(15);
const START: Duration = Duration::from_secs(5_000);
/// A process that began long ago.
const OLD: Duration = Duration::from_secs(100);

fn counted(worst_ratio: f64, oldest: Duration) -> Descriptors {
    Descriptors { used: 1, worst_ratio, oldest }
}

/// What is forecast after these ratios, one each 15 s; `None`: could not be counted.
fn after(ratios: impl IntoIterator<Item = Option<f64>>) -> Option<Duration> {
    let mut exhaustion = Exhaustion::default();
    for (tick, ratio) in ratios.into_iter().enumerate() {
        exhaustion.see(START + STEP * tick as u32, ratio.map(|ratio| counted(ratio, OLD)).as_ref());
    }
    exhaustion.exhausted_in()
}

/// Ten minutes of what `ratio` says of each tick.
fn of(ratio: impl Fn(u32) -> f64) -> Option<Duration> {
    after((0..=40).map(|tick| Some(ratio(tick))))
}

proptest! {
    // The same cases at each run: what holds but for a chance of one in thousands is not to fail by chance.
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, rng_seed: RngSeed::Fixed(3), ..ProptestConfig::default() })]

    /// A leak, with connections that come and go on top of it.
    #[test]
    fn what_is_known_of_a_leak_is_within_a_factor_of_three(
        limit in prop_oneof![Just(1_024.0), Just(65_536.0), Just(524_288.0f64)],
        begins in 0.05..0.6f64,
        // Of the limit in ten minutes, from one in a hundred thousand to a third.
        leaks in (-11.5..-1.1f64).prop_map(f64::exp),
        busy in (-9.0..-2.0f64).prop_map(f64::exp),
        step in 5u32..45,
        noise in proptest::collection::vec(-1.0..1.0f64, 200),
    ) {
        let per_second = leaks / 600.0;
        let mut exhaustion = Exhaustion::default();
        let mut now = 0.0;
        for (tick, noise) in noise.iter().enumerate().take(600 / step as usize + 2) {
            let since = f64::from(step) * tick as f64;
            now = ((begins + since * per_second + noise * busy) * limit).floor().max(3.0) / limit;
            exhaustion.see(START + Duration::from_secs_f64(since), Some(&counted(now, OLD)));
        }
        let truth = (1.0 - now) / per_second;
        let found = exhaustion.exhausted_in();
        if let Some(found) = found.map(|found| found.as_secs_f64()) {
            prop_assert!(found <= HORIZON.as_secs_f64());
            let far = FAR.as_secs_f64() / 3.0;
            let within = (truth / 3.0..=truth * 3.0).contains(&found);
            prop_assert!(within || (found > far && truth > far), "{found} of {truth}");
        }
        // And it is known where the leak is well above the coming and going, and above what the count resolves.
        prop_assert!(found.is_some() || leaks < 5.0 * busy || leaks * limit < 5.0, "unknown, of {truth}");
    }

    #[test]
    fn whatever_is_counted_it_is_from_zero_to_the_horizon(
        ratios in proptest::collection::vec(prop_oneof![Just(None), (0.0..=1.0f64).prop_map(Some), Just(Some(0.0)), Just(Some(1.0))], 1..90),
        oldest in 0u64..6_000,
    ) {
        let mut exhaustion = Exhaustion::default();
        for (tick, ratio) in ratios.into_iter().enumerate() {
            exhaustion.see(START + STEP * tick as u32, ratio.map(|ratio| counted(ratio, Duration::from_secs(oldest))).as_ref());
            let found = exhaustion.exhausted_in();
            prop_assert!(found.is_none_or(|found| found <= HORIZON));
            prop_assert_eq!(found == Some(Duration::ZERO), ratio == Some(1.0));
        }
    }
}

#[test]
fn a_steady_leak_is_forecast_to_the_second() {
    // One percent a minute from a half: at the end of ten minutes, forty are left.
    let found = of(|tick| 0.5 + f64::from(tick) / 400.0).unwrap();
    assert!(found.abs_diff(40 * MINUTE) < Duration::from_secs(1), "{found:?}");
    // Whatever the last sample is, the time is counted from it.
    let found = of(|tick| if tick == 40 { 0.8 } else { 0.5 + f64::from(tick) / 400.0 }).unwrap();
    assert!(found.abs_diff(20 * MINUTE) < Duration::from_secs(1), "{found:?}");
}

#[test]
fn what_is_flat_or_falling_is_known_to_be_far() {
    for (what, found) in [
        ("flat", of(|_| 0.9)),
        ("falling", of(|tick| 0.9 - f64::from(tick) / 100.0)),
        ("none open", of(|_| 0.0)),
        ("a descriptor of 65,536 now and then", of(|tick| 0.3 + f64::from(tick % 3) / 65_536.0)),
        ("a spike", of(|tick| if tick == 20 { 0.9 } else { 0.1 })),
        ("one of 524,288 in five minutes", of(|tick| 0.1 + f64::from(tick / 20) / 524_288.0)),
    ] {
        assert_eq!(found, Some(HORIZON), "{what}");
    }
}

#[test]
fn at_the_limit_it_is_zero_whatever_was_seen_before() {
    assert_eq!(after([Some(1.0)]), Some(Duration::ZERO));
    assert_eq!(of(|tick| if tick == 40 { 1.0 } else { 0.1 }), Some(Duration::ZERO));
}

#[test]
fn it_is_unknown_where_its_size_is() {
    let leak = |tick: u32| Some(0.5 + f64::from(tick) / 400.0);
    for (what, found) in [
        ("nothing seen", after([])),
        ("a tick short of ten minutes", after((0..40).map(leak))),
        ("a step in the middle", of(|tick| if tick < 20 { 0.2 } else { 0.5 })),
        ("a sawtooth", of(|tick| 0.3 + f64::from(tick % 8) / 20.0)),
        ("a busy service near its limit", of(|tick| 0.8 + f64::from(tick * 7 % 11) / 100.0)),
        ("not counted now", after((0..=40).map(|tick| if tick == 40 { None } else { leak(tick) }))),
        (
            "a gap of more than a third",
            after((0..=60).map(|tick| if (30..44).contains(&tick) { None } else { leak(tick) })),
        ),
        ("nine points", after((0..=45).map(|tick| if tick % 5 == 0 { leak(tick) } else { None }).skip(5))),
    ] {
        assert_eq!(found, None, "{what}");
    }
    let short_gap = after((0..=60).map(|tick| if (30..42).contains(&tick) { None } else { leak(tick) }));
    assert!(short_gap.is_some(), "a shorter gap is bridged");
}

#[test]
fn after_a_restart_it_is_unknown_until_the_window_holds_the_new_incarnation_alone() {
    let mut exhaustion = Exhaustion::default();
    let began = START + STEP * 50 - Duration::from_secs(2);
    for tick in 0..120u32 {
        let (since, oldest) = if tick < 50 { (tick, OLD) } else { (tick - 50, began) };
        let ratio = 0.1 + f64::from(since) / 400.0;
        exhaustion.see(START + STEP * tick, Some(&counted(ratio, oldest)));
        let known = (40..50).contains(&tick) || tick >= 90;
        let found = exhaustion.exhausted_in();
        assert_eq!(found.is_some(), known, "tick {tick}: {found:?}");
        if let Some(found) = found {
            let truth = Duration::from_secs_f64((1.0 - ratio) * 400.0 * 15.0);
            assert!(found.abs_diff(truth) < Duration::from_secs(1), "tick {tick}: {found:?} of {truth:?}");
        }
    }
}
