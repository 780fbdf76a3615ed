use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

/// The same cases at each run: what is checked within a bound of chance is not to fail by chance.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 100, failure_persistence: None, rng_seed: RngSeed::Fixed(29), ..ProptestConfig::default() }
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// One sample each 15 s of a line, with what `error` adds to it.
fn line(points: usize, per_second: f64, error: impl Fn(usize) -> f64) -> Vec<(Duration, f64)> {
    (0..points).map(|i| (secs(1_000.0 + i as f64 * 15.0), 50.0 + i as f64 * 15.0 * per_second + error(i))).collect()
}

fn near(found: f64, truth: f64, share: f64) -> bool {
    (found - truth).abs() <= truth.abs() * share
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_line_is_found_exactly_in_any_order_and_with_uneven_times(
        steps in proptest::collection::vec(1u64..100_000, FEWEST..200),
        per_second in -50i32..50,
        seed in any::<u64>(),
    ) {
        let mut at = 0;
        let mut samples: Vec<(Duration, f64)> = steps
            .iter()
            .map(|step| {
                at += step;
                let at = Duration::from_millis(at);
                (at, 1_000.0 + at.as_secs_f64() * f64::from(per_second))
            })
            .collect();
        let found = slope(&samples).unwrap();
        for value in [found.per_second, found.low, found.high] {
            prop_assert!((value - f64::from(per_second)).abs() < 1e-6 * f64::from(per_second).abs().max(1.0), "{found:?}");
        }
        let pivot = (seed as usize) % samples.len();
        samples.rotate_left(pivot);
        samples[pivot / 2..].reverse();
        prop_assert_eq!(slope(&samples), Some(found));
    }

    /// Proved, not only tried: of n points with n/4 wrong ones, more than half of the pairs are without these, so that
    /// the median lies among pairs that err by twice the noise over the shortest step at most.
    #[test]
    fn a_quarter_of_wrong_points_moves_the_slope_by_no_more_than_half_of_it(
        points in FEWEST..=MOST,
        per_second in prop_oneof![-20.0..-0.01, 0.01..20.0],
        noise in proptest::collection::vec(-1.0..1.0f64, MOST),
        wrong in proptest::collection::vec((any::<prop::sample::Index>(), prop_oneof![Just(1e12), Just(-1e12), -1e6..1e6]), MOST / 4),
    ) {
        // Each good point errs by up to a quarter of a step's growth: pairs err by half of it.
        let most = f64::abs(per_second) * 15.0 / 4.0;
        let mut samples = line(points, per_second, |i| noise[i] * most);
        let mut exact = line(points, per_second, |_| 0.0);
        for (index, value) in &wrong[..points / 4] {
            let index = index.index(points);
            (samples[index].1, exact[index].1) = (*value, *value);
        }
        let found = slope(&samples).unwrap();
        prop_assert!(near(found.per_second, per_second, 0.5 + 1e-9), "{found:?}");
        prop_assert!(near(slope(&exact).unwrap().per_second, per_second, 1e-9), "on a line it is not moved at all");
    }

    #[test]
    fn of_many_samples_a_burst_of_a_fifth_or_three_spikes_of_eight_hardly_move_it(
        points in 14 * MOST..600,
        per_second in prop_oneof![-20.0..-0.01, 0.01..20.0],
        from in 0.0..0.8f64,
        spikes in proptest::collection::vec(prop_oneof![Just(1e12), Just(-1e12)], 600),
    ) {
        let mut burst = line(points, per_second, |_| 0.0);
        let from = (from * points as f64) as usize;
        burst[from..from + points / 5].iter_mut().for_each(|sample| sample.1 = spikes[0]);
        let found = slope(&burst).unwrap().per_second;
        prop_assert!(near(found, per_second, 0.05), "{found} by a burst");
        let mut spiky = line(points, per_second, |_| 0.0);
        for (index, spike) in spikes[..points].iter().enumerate().filter(|(index, _)| index % 8 < 3) {
            spiky[index].1 = *spike;
        }
        let found = slope(&spiky).unwrap().per_second;
        prop_assert!(near(found, per_second, 0.05), "{found} by spikes");
    }

    #[test]
    fn thinning_changes_the_slope_by_less_than_twice_the_noise_over_the_time(
        points in MOST + 1..200,
        per_second in -5.0..5.0f64,
        noise in proptest::collection::vec(-10.0..10.0f64, 200),
    ) {
        let samples = line(points, per_second, |i| noise[i]);
        let mut all = Vec::new();
        for (index, early) in samples.iter().enumerate() {
            all.extend(samples[index + 1..].iter().map(|late| (late.1 - early.1) / (late.0 - early.0).as_secs_f64()));
        }
        all.sort_unstable_by(f64::total_cmp);
        let found = slope(&samples).unwrap();
        prop_assert!(found.points <= MOST);
        let bound = 2.0 * 10.0 / (15.0 * (points - 1) as f64);
        prop_assert!((found.per_second - middle(&all)).abs() < bound, "{found:?}, of all pairs {}", middle(&all));
    }

    #[test]
    fn whatever_comes_the_slope_is_a_number_between_its_quartiles(
        samples in proptest::collection::vec((0u64..50_000, prop_oneof![Just(0.0), -1e15..1e15f64, 0.0..1.0f64]), 0..120),
    ) {
        let samples: Vec<(Duration, f64)> = samples.iter().map(|(at, value)| (Duration::from_millis(*at), *value)).collect();
        if let Some(found) = slope(&samples) {
            prop_assert!(found.low <= found.per_second && found.per_second <= found.high, "{found:?}");
            prop_assert!(found.low.is_finite() && found.high.is_finite() && found.points >= FEWEST);
        }
    }
}

#[test]
fn the_published_example_gives_the_published_slope() {
    // The example of ci.theil in the R package statpsych: 0.5, at 95% from 0.3243 to 0.75.
    let y = [21.0, 4.0, 9.0, 12.0, 35.0, 18.0, 10.0, 22.0, 24.0, 1.0, 6.0, 8.0, 13.0, 16.0, 19.0];
    let x = [67.0, 28.0, 30.0, 28.0, 52.0, 40.0, 25.0, 37.0, 44.0, 10.0, 14.0, 20.0, 28.0, 40.0, 51.0];
    let samples: Vec<(Duration, f64)> = x.iter().map(|x| secs(*x)).zip(y).collect();
    let found = slope(&samples).unwrap();
    assert_eq!(found.per_second, 0.5);
    assert!(found.low <= 0.3244 && found.high >= 0.75, "{found:?}");
}

#[test]
fn the_quartiles_are_no_narrower_than_the_95_percent_by_ranks_from_ten_points_on() {
    for points in 10..=MOST {
        let (n, pairs) = (points as f64, points * (points - 1) / 2);
        let sigma = (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
        let by_ranks = ((pairs as f64 - 1.96 * sigma) / 2.0).round() as usize - 1;
        assert!((pairs - 1) / 4 <= by_ranks, "{points} points: rank {by_ranks} of {pairs}");
    }
}

#[test]
fn too_few_points_or_no_time_between_them_is_no_slope() {
    let at = |seconds: f64, value: f64| (secs(seconds), value);
    assert_eq!(slope(&[]), None);
    assert_eq!(slope(&line(FEWEST - 1, 1.0, |_| 0.0)), None);
    assert_eq!(slope(&line(FEWEST, 1.0, |_| 0.0)).map(|found| found.points), Some(FEWEST));
    for many in [FEWEST, 40] {
        assert_eq!(slope(&vec![at(9.0, 1.0); many]), None, "{many} at one time");
        let two: Vec<_> = (0..many).map(|i| at((i % 2) as f64, i as f64)).collect();
        assert_eq!(slope(&two), None, "{many} at two times");
    }
}
