//! Arithmetic on times that others wrote: another host's clock, a row of a damaged file.

use std::time::Duration;

use jiff::Timestamp;

/// So long after `at`; the last moment that there is, where that would be beyond it. `+` panics there.
pub fn after(at: Timestamp, length: Duration) -> Timestamp {
    at.checked_add(length).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_that_anybody_wrote_is_added_up_beyond_the_last_there_is() {
        let near: Timestamp = "9999-12-30T21:58:00Z".parse().unwrap();
        assert_eq!(after(near, Duration::from_secs(60)).to_string(), "9999-12-30T21:59:00Z");
        for (at, length) in [(near, Duration::from_secs(86_400)), (Timestamp::MAX, Duration::MAX)] {
            assert_eq!(after(at, length), Timestamp::MAX);
        }
    }
}
