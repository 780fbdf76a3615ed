use proptest::prelude::*;

use super::*;

const STEPS: u16 = 72;

fn roundtrip(steps: &Steps) -> Vec<u8> {
    let mut signals = vec!["a.signal.of.another.version".to_owned()];
    let row = encode(steps, STEPS, &mut signals);
    assert_eq!(decode(&row, STEPS, &signals).as_ref(), Ok(steps));
    row
}

fn series(signal: Signal, values: impl IntoIterator<Item = i64>) -> Steps {
    (0..).zip(values).map(|(index, value)| (index, Known::from([(signal, Range::of(value))]))).collect()
}

#[test]
fn a_gap_an_unknown_and_a_zero_are_three_things() {
    let mut steps = series(Signal::CloseWait, [0, 288, 0]);
    // Looked at, and nothing was known.
    steps.insert(5, Known::new());
    steps.insert(9, Known::from([(Signal::FdUsed, Range { last: 5, least: 3, most: 9 })]));
    roundtrip(&steps);
    roundtrip(&Steps::new());
}

#[test]
fn what_changes_little_takes_little() {
    let header = 4 + 9 + 2;
    for (what, values, bytes) in [
        ("a constant", (0..72).map(|_| 288).collect::<Vec<i64>>(), 10),
        ("a steady climb", (0..72).map(|step| 60 * step + 17).collect(), 10),
        ("one that moves by one now and then", (0..72).map(|step| 288 + step / 5).collect(), 26),
        ("one peak", (0..72).map(|step| if step == 40 { 100_000 } else { 3 }).collect(), 36),
        ("noise of seven", (0..72).map(|step| 288 + step * step % 7).collect(), 45),
    ] {
        let taken = roundtrip(&series(Signal::CloseWait, values)).len() - header;
        assert!(taken <= bytes, "{what}: {taken} bytes");
    }
}

#[test]
fn a_signal_of_another_argument_is_another_signal() {
    let aged = |minutes| Signal::CloseWaitAged(std::time::Duration::from_mins(minutes));
    let mut signals = Vec::new();
    let before = encode(&series(aged(5), [1, 2]), STEPS, &mut signals);
    let after = encode(&series(aged(7), [3]), STEPS, &mut signals);
    assert_eq!(signals, ["close_wait.aged(5m)", "close_wait.aged(7m)"]);
    assert_eq!(decode(&before, STEPS, &signals), Ok(series(aged(5), [1, 2])));
    assert_eq!(decode(&after, STEPS, &signals), Ok(series(aged(7), [3])));
}

#[test]
fn values_are_kept_as_precisely_as_they_are_shown() {
    for (signal, value, kept) in [
        (Signal::CloseWait, 288.0, Some(288)),
        (Signal::CloseWaitOldest, 59.99, Some(59)),
        (Signal::FdRatio, 0.123_46, Some(123)),
        (Signal::CloseWaitGrowth(std::time::Duration::from_secs(600)), -2.345, Some(-23)),
        (Signal::CloseWaitOldest, 1e300, Some(1 << 53)),
        (Signal::CloseWaitOldest, f64::INFINITY, None),
        (Signal::FdRatio, f64::NAN, None),
    ] {
        assert_eq!(scaled(signal, value), kept, "{signal} {value}");
    }
}

fn any_steps() -> impl Strategy<Value = Steps> {
    const MOST: i64 = 1 << 53;
    let value = prop_oneof![4 => -300..300i64, 2 => 0..70_000i64, 1 => -MOST..=MOST, 1 => Just(MOST), 1 => Just(-MOST)];
    let signal = prop::sample::select(Signal::SPELLINGS.as_slice()).prop_map(|name| Signal::parse(name).unwrap());
    let range = prop::collection::vec(value, 1..4)
        .prop_map(|values| values.into_iter().map(Range::of).reduce(Range::and_then).unwrap());
    let known = prop::collection::btree_map(signal, range, 0..6);
    prop::collection::btree_map(0..STEPS, known, 0..40)
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(steps in any_steps()) {
        roundtrip(&steps);
    }

    #[test]
    fn a_damaged_row_is_an_error(steps in any_steps(), at in any::<prop::sample::Index>(), by in 1..=255u8, cut in any::<bool>()) {
        let mut signals = Vec::new();
        let mut row = encode(&steps, STEPS, &mut signals);
        let at = at.index(row.len());
        row[at] ^= by;
        if cut {
            row.truncate(at);
        }
        prop_assert!(decode(&row, STEPS, &signals).is_err());
    }

    /// Whoever gets past the checksum, by a defect of ours or on purpose, meets a decoder that trusts nothing.
    #[test]
    fn bytes_that_nobody_encoded_do_no_harm(steps in any_steps(), at in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut signals = Vec::new();
        let mut body = encode(&steps, STEPS, &mut signals).split_off(4);
        let _ = decode_body(&noise, STEPS, &signals);
        let from = at.index(body.len());
        body.splice(from..body.len().min(from + 2), noise);
        let _ = decode_body(&body, STEPS, &signals);
    }
}
