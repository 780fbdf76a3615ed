//! Durations and sizes as people write them: `30s`, `2m30s`, `6h`, `7d`, `2GiB`.

use std::time::Duration;

/// Reads `30s`, `2m30s`, `1h 30m`, `500ms`, `7d`. Units are required: a bare number is an error.
pub fn parse(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a duration such as 30s, 2m30s or 6h, found `{text}`");
    let trimmed = text.trim();
    // jiff leaves days out of absolute durations; an operator's day is 24 hours.
    let (days, rest) = match trimmed.split_once('d') {
        Some((digits, rest)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            (digits.parse::<u64>().map_err(|_| expected())?, rest.trim())
        }
        _ => (0, trimmed),
    };
    let whole_days = rest.is_empty() && trimmed.contains('d');
    let rest = if whole_days || trimmed == "0" {
        Duration::ZERO
    } else {
        let signed: jiff::SignedDuration = rest.parse().map_err(|_| expected())?;
        Duration::try_from(signed).map_err(|_| expected())?
    };
    days.checked_mul(86_400).map(Duration::from_secs).and_then(|d| d.checked_add(rest)).ok_or_else(expected)
}

/// Writes a duration as [`parse`] reads it, at the coarsest exact units: `2m30s`, `7d`, `1.5s`.
pub fn format(duration: Duration) -> String {
    let total = duration.as_secs();
    let millis = duration.subsec_millis();
    if total == 0 {
        return if millis == 0 { "0s".into() } else { format!("{millis}ms") };
    }
    let mut text = String::new();
    for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
        let count = match unit {
            "d" => total / size,
            "h" => total % 86_400 / size,
            _ => total % 3_600 / size,
        };
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    let seconds = total % 60;
    match (seconds, millis) {
        (0, 0) => {}
        (s, 0) => text.push_str(&format!("{s}s")),
        (s, ms) => {
            let fraction = format!("{ms:03}");
            text.push_str(&format!("{s}.{}s", fraction.trim_end_matches('0')));
        }
    }
    text
}

/// Reads `512`, `64KiB`, `2GiB`, `10MB` (powers of 1,000 without the i) into bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a size such as 64KiB, 500MiB or 2GiB, found `{text}`");
    let trimmed = text.trim();
    let digits = trimmed.len() - trimmed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let count: u64 = trimmed[..digits].parse().map_err(|_| expected())?;
    let unit: u64 = match trimmed[digits..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(expected()),
    };
    count.checked_mul(unit).ok_or_else(expected)
}

/// Serde for a duration written as text; used by journaled plans.
pub mod as_text {
    use super::*;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text).map_err(serde::de::Error::custom)
    }
}

/// As `as_text`, for a duration that may be absent.
pub mod as_optional_text {
    use super::*;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        value.map(format).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| parse(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_they_are_written() {
        for (text, seconds) in
            [("30s", 30.0), ("2m30s", 150.0), ("6h", 21_600.0), ("7d", 604_800.0), ("1d12h", 129_600.0), ("1.5s", 1.5)]
        {
            let parsed = parse(text).unwrap();
            assert_eq!(parsed.as_secs_f64(), seconds, "{text}");
            assert_eq!(format(parsed), text);
        }
        assert_eq!(format(Duration::from_millis(250)), "250ms");
        assert_eq!(parse("0").unwrap(), Duration::ZERO);
        for wrong in ["", "5", "-5s", "5 apples", "m", "99999999999999999999d"] {
            assert!(parse(wrong).is_err(), "{wrong:?} was read");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024_with_the_i_and_of_1000_without() {
        assert_eq!(parse_bytes("2GiB"), Ok(2 << 30));
        assert_eq!(parse_bytes("10MB"), Ok(10_000_000));
        assert_eq!(parse_bytes("512"), Ok(512));
        for wrong in ["", "GiB", "2 Gig", "-1", "99999999999GiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong:?} was read");
        }
    }
}
