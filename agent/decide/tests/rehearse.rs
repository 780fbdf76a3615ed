use super::*;
use crate::decide::rehearse::rehearse;
use crate::model::{Expect, Expected, PolicyTest, Reading};

fn test(values: &[f64], breach_at: Option<u64>, clear_at: Expected) -> PolicyTest {
    PolicyTest {
        name: "under test".into(),
        step: seconds(15),
        series: [(Signal::CloseWait, values.iter().map(|value| Reading::Known(*value)).collect())].into(),
        expect: Expect { breach_at: breach_at.map(seconds), clear_at },
    }
}

#[test]
fn a_test_passes_where_both_times_agree_and_says_what_came_instead() {
    let mut leak = vec![210.0; 9];
    leak.extend([0.0, 0.0]);
    let quiet = [0.0; 9];
    for (values, breach_at, clear_at, failure) in [
        (&leak[..], Some(120), Expected::Unsaid, None),
        (&leak, Some(120), Expected::At(seconds(135)), None),
        (&leak, Some(120), Expected::Never, Some("expected clear_at never, found 2m15s")),
        (&leak, Some(105), Expected::Unsaid, Some("expected breach_at 1m45s, found 2m")),
        (&leak, None, Expected::Unsaid, Some("expected breach_at never, found 2m")),
        (&quiet, None, Expected::Never, None),
        (&quiet, Some(120), Expected::Unsaid, Some("expected breach_at 2m, found never")),
    ] {
        assert_eq!(rehearse(&policy(), &test(values, breach_at, clear_at)).failure.as_deref(), failure);
    }
}
