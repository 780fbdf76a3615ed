//! `close_wait.aged(5m) > 200`: a comparison as a policy writes it, read into a typed one.

use crate::model::policy::{Comparison, Operator};
use crate::model::signal::{Signal, Unit};
use crate::model::{Reading, duration};

use super::words;

/// Reads SIGNAL OPERATOR THRESHOLD. The threshold is in the signal's own unit: a count, a duration
/// (`close_wait.oldest > 30m`), a ratio (`0.2` or `20%`), or a growth a minute (`5` or `5/min`).
pub fn parse(text: &str) -> Result<Comparison, String> {
    let expected = || {
        format!(
            "expected a comparison such as `close_wait.aged(5m) > 200`, found `{text}`: a signal, one of > >= < <=, and a threshold"
        )
    };
    let at = text.find(['<', '>', '=', '!']).ok_or_else(expected)?;
    let (name, rest) = text.split_at(at);
    let symbol = &rest[..rest.len() - rest.trim_start_matches(['<', '>', '=', '!']).len()];
    let operator = match symbol {
        ">" => Operator::Above,
        ">=" => Operator::AtLeast,
        "<" => Operator::Below,
        "<=" => Operator::AtMost,
        other => return Err(format!("`{other}` is no comparison: expected >, >=, < or <=")),
    };
    let signal = parse_signal(name.trim())?;
    let threshold = parse_value(signal, rest[symbol.len()..].trim())?;
    Ok(Comparison { signal, operator, threshold })
}

/// Reads a signal's name, and offers the nearest one for a wrong one.
pub fn parse_signal(text: &str) -> Result<Signal, String> {
    let base = |spelling: &'static str| spelling.split('(').next().unwrap_or(spelling);
    let name = text.split('(').next().unwrap_or(text).trim();
    if !Signal::SPELLINGS.iter().any(|spelling| base(spelling) == name)
        && let Some(near) = words::nearest(name, Signal::SPELLINGS.map(base))
    {
        return Err(format!("`{name}` is no signal: did you mean `{near}`?"));
    }
    Signal::parse(text)
}

/// Reads a value in the signal's own unit.
pub fn parse_value(signal: Signal, text: &str) -> Result<f64, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|value| value.is_finite());
    let wrong = |expected: &str| format!("`{signal}` is compared with {expected}, found `{text}`");
    match signal.unit() {
        Unit::Count => number(text).filter(|value| *value >= 0.0).ok_or_else(|| wrong("a count such as 200")),
        Unit::Time => duration::parse(text).map(|time| time.as_secs_f64()).map_err(|_| wrong("a duration such as 30m")),
        Unit::PerMinute => number(text.strip_suffix("/min").unwrap_or(text))
            .ok_or_else(|| wrong("a growth a minute such as 5 or 5/min")),
        Unit::Ratio => match text.strip_suffix('%') {
            Some(percent) => number(percent).map(|value| value / 100.0),
            None => number(text),
        }
        .filter(|value| (0.0..=1.0).contains(value))
        .ok_or_else(|| wrong("a ratio from 0 to 1 or a percentage, such as 0.2 or 20%")),
    }
}

/// A reading in a policy's test: a value, or `unknown`.
pub fn parse_reading(signal: Signal, text: &str) -> Result<Reading, String> {
    match text {
        "unknown" => Ok(Reading::Unknown),
        text => parse_value(signal, text).map(Reading::Known),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_unit_is_read_as_people_write_it() {
        let minutes = |m: u64| Duration::from_secs(m * 60);
        for (text, signal, operator, threshold) in [
            ("close_wait.aged(5m) > 200", Signal::CloseWaitAged(minutes(5)), Operator::Above, 200.0),
            ("close_wait>=1", Signal::CloseWait, Operator::AtLeast, 1.0),
            ("close_wait.oldest > 30m", Signal::CloseWaitOldest, Operator::Above, 1_800.0),
            ("fd.ratio >= 80%", Signal::FdRatio, Operator::AtLeast, 0.8),
            ("fd.exhausted_in < 30m", Signal::FdExhaustedIn, Operator::Below, 1_800.0),
            ("close_wait.host_share >= 0.2", Signal::CloseWaitHostShare, Operator::AtLeast, 0.2),
            ("close_wait.growth(10m) > 5/min", Signal::CloseWaitGrowth(minutes(10)), Operator::Above, 5.0),
            ("close_wait.growth(10m) <= -5", Signal::CloseWaitGrowth(minutes(10)), Operator::AtMost, -5.0),
        ] {
            assert_eq!(parse(text), Ok(Comparison { signal, operator, threshold }), "{text}");
        }
    }

    #[test]
    fn a_wrong_comparison_says_what_was_expected() {
        for (text, says) in [
            ("close_wait", "expected a comparison such as"),
            ("", "expected a comparison such as"),
            ("close_wait == 5", "`==` is no comparison"),
            ("close_wait => 5", "`=>` is no comparison"),
            ("close_wait > many", "a count such as 200, found `many`"),
            ("close_wait > -1", "a count such as 200"),
            ("close_wait > NaN", "a count such as 200"),
            ("close_wait.oldest > 30", "a duration such as 30m, found `30`"),
            ("fd.ratio > 20", "a ratio from 0 to 1 or a percentage"),
            ("close_wait.aged > 1", "needs a duration"),
            ("close_wate > 1", "`close_wate` is no signal: did you mean `close_wait`?"),
            ("sockets > 1", "`sockets` is no signal; the signals are"),
            ("fd.exhausted_in < 30", "a duration such as 30m, found `30`"),
            ("fd.exhaust_in < 30m", "did you mean `fd.exhausted_in`?"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
