//! Which bundles go: the oldest, by count, bytes, age and free space. Pure; the vault removes them.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::IncidentId;

/// How much of the filesystem must stay free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MinFree {
    /// Of the filesystem's size, 0 to 100.
    Percent(f64),
    Bytes(u64),
}

impl MinFree {
    /// In bytes, on a filesystem of this size.
    pub fn of(self, total_bytes: u64) -> u64 {
        match self {
            Self::Percent(percent) => (total_bytes as f64 * percent / 100.0) as u64,
            Self::Bytes(bytes) => bytes,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// At most so many bundles.
    pub keep: usize,
    /// At most so many bytes in all bundles together.
    pub max_bytes: u64,
    /// Also asked for before a bundle is begun.
    pub min_free: MinFree,
    pub max_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keep: 50,
            max_bytes: 2 << 30,
            min_free: MinFree::Percent(5.0),
            max_age: Duration::from_secs(90 * 86_400),
        }
    }
}

/// The filesystem's room, as statvfs says it: `free_bytes` is what is left without the reserve of root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// A bundle that is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    pub incident: IncidentId,
    pub at: Timestamp,
    pub bytes: u64,
}

/// Why a bundle was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    Age,
    Count,
    Bytes,
    FreeSpace,
    /// A draft whose writer is gone.
    Unfinished,
}

/// A bundle that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    pub incident: IncidentId,
    pub cause: Cause,
    pub bytes: u64,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {} bytes)", self.incident, self.cause, self.bytes)
    }
}

/// The bundles to remove, oldest first. What is `spare` is never among them, and counts all the same.
pub(super) fn choose(
    mut kept: Vec<Kept>,
    limits: &Limits,
    room: Room,
    now: Timestamp,
    spare: &BTreeSet<IncidentId>,
) -> Vec<Removed> {
    kept.sort_by(|a, b| (a.at, &a.incident).cmp(&(b.at, &b.incident)));
    let mut count = kept.len();
    let mut bytes: u64 = kept.iter().map(|bundle| bundle.bytes).sum();
    let mut free = room.free_bytes;
    let wanted = limits.min_free.of(room.total_bytes);
    let mut removed = Vec::new();
    for bundle in kept.into_iter().filter(|bundle| !spare.contains(&bundle.incident)) {
        // A bundle from the future (the clock was set back) has no age yet.
        let age = Duration::try_from(now.duration_since(bundle.at)).unwrap_or(Duration::ZERO);
        let cause = if age > limits.max_age {
            Cause::Age
        } else if count > limits.keep {
            Cause::Count
        } else if bytes > limits.max_bytes {
            Cause::Bytes
        } else if free < wanted {
            Cause::FreeSpace
        } else {
            break;
        };
        count -= 1;
        bytes -= bundle.bytes;
        free = free.saturating_add(bundle.bytes);
        removed.push(Removed { incident: bundle.incident, cause, bytes: bundle.bytes });
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const ROOMY: Room = Room { free_bytes: 500 * MIB, total_bytes: 1000 * MIB };

    fn now() -> Timestamp {
        "2026-11-22T18:00:00Z".parse().unwrap()
    }

    /// Five bundles of 10 MiB, `a` (5 days old) to `e` (1 day old).
    fn five() -> Vec<Kept> {
        let day = |days: u64| now() - Duration::from_secs(days * 86_400);
        [("e", 1), ("d", 2), ("c", 3), ("b", 4), ("a", 5)]
            .map(|(id, days)| Kept { incident: IncidentId(id.into()), at: day(days), bytes: 10 * MIB })
            .into()
    }

    fn ids(names: &str) -> BTreeSet<IncidentId> {
        names.chars().map(|name| IncidentId(name.into())).collect()
    }

    #[test]
    fn the_oldest_go_by_each_limit_and_what_is_open_stays() {
        let wide = Limits {
            keep: 99,
            max_bytes: u64::MAX,
            min_free: MinFree::Bytes(0),
            max_age: Duration::from_secs(1 << 40),
        };
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let tight = Room { free_bytes: 35 * MIB, total_bytes: 1000 * MIB };
        for (limits, room, spare, gone, cause) in [
            (wide, ROOMY, "", "", Cause::Count),
            (Limits { keep: 5, ..wide }, ROOMY, "", "", Cause::Count),
            (Limits { keep: 3, ..wide }, ROOMY, "", "ab", Cause::Count),
            (Limits { keep: 3, ..wide }, ROOMY, "a", "bc", Cause::Count),
            (Limits { keep: 0, ..wide }, ROOMY, "ce", "abd", Cause::Count),
            (Limits { max_bytes: 50 * MIB, ..wide }, ROOMY, "", "", Cause::Bytes),
            (Limits { max_bytes: 50 * MIB - 1, ..wide }, ROOMY, "", "a", Cause::Bytes),
            (Limits { max_age: days(3), ..wide }, ROOMY, "", "ab", Cause::Age),
            (Limits { max_age: days(3), ..wide }, ROOMY, "b", "a", Cause::Age),
            (Limits { min_free: MinFree::Bytes(35 * MIB), ..wide }, tight, "", "", Cause::FreeSpace),
            (Limits { min_free: MinFree::Percent(5.0), ..wide }, tight, "", "ab", Cause::FreeSpace),
            (Limits { min_free: MinFree::Percent(99.0), ..wide }, tight, "abcde", "", Cause::FreeSpace),
        ] {
            let removed = choose(five(), &limits, room, now(), &ids(spare));
            let names: String = removed.iter().map(|removed| removed.incident.0.as_str()).collect();
            assert_eq!(names, gone, "{limits:?} spare {spare:?}");
            assert!(removed.iter().all(|removed| removed.cause == cause), "{removed:?}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_removes_nothing_by_age() {
        let limits = Limits { max_age: Duration::from_secs(60), ..Limits::default() };
        let past = now() - Duration::from_secs(30 * 86_400);
        assert_eq!(choose(five(), &limits, ROOMY, past, &BTreeSet::new()), []);
    }
}
