//! Windows: the hours of the week in which a policy may act, or may not.
//!
//! A window belongs to the day on which it begins: `fri 22:00-06:00` ends on Saturday. Any deny-window that matches
//! wins; where there are allow-windows, one of them must match.
//!
//! A time that a wall clock shows twice, or never, is no reason to act. In the hour that is repeated in autumn a
//! deny-window begins at the first and ends at the last such moment, an allow-window the other way round. A time that
//! is left out in spring is the moment of the change.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum WindowAction {
    /// Act within it; with other allow-windows, within any of them.
    Allow,
    /// Do not act within it, whatever allows it.
    Deny,
}

/// One entry of a policy's `windows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub days: Days,
    pub hours: Hours,
    /// A name of the time zone database. Kept as a name: a plan must be readable where the database is gone.
    pub tz: String,
    pub action: WindowAction,
}

/// `mon-fri 09:00-18:00 Asia/Shanghai`
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.days, self.hours, self.tz)
    }
}

const WEEK: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// Days of the week: bit 0 is Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Days(u8);

impl Days {
    pub const ALL: Self = Self(0b111_1111);

    /// Reads `sat`, `mon-fri`, `fri-mon` (over the week's end), and several of them with commas.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || format!("expected days such as mon, mon-fri or sat,sun, found `{text}`");
        let day = |name: &str| WEEK.iter().position(|(day, _)| *day == name.trim()).ok_or_else(expected);
        if text == "daily" {
            return Ok(Self::ALL);
        }
        let mut days = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (day(first)?, day(last)?);
            let count = (last + WEEK.len() - first) % WEEK.len() + 1;
            days |= (first..first + count).fold(0, |days, at| days | 1 << (at % WEEK.len()));
        }
        Ok(Self(days))
    }

    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    fn contains(self, weekday: Weekday) -> bool {
        self.0 >> weekday.to_monday_zero_offset() & 1 == 1
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = WEEK.iter().filter(|(_, day)| self.contains(*day)).map(|(name, _)| *name).collect();
        match names.as_slice() {
            _ if *self == Self::ALL => f.write_str("daily"),
            [first, .., last] if names.len() > 2 && Self::parse(&format!("{first}-{last}")) == Ok(*self) => {
                write!(f, "{first}-{last}")
            }
            names => f.write_str(&names.join(",")),
        }
    }
}

/// From one time of the day to another, in minutes since midnight; on the next day where it does not come later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours {
    from: u16,
    until: u16,
}

/// Minutes of a day.
const DAY: u16 = 24 * 60;

impl Hours {
    pub const ALL: Self = Self { from: 0, until: DAY };

    /// Reads `09:00-18:00`, `22:00-06:00` (past midnight) and `00:00-24:00`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || format!("expected hours such as 09:00-18:00 or 22:00-06:00, found `{text}`");
        let minute = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            let number = |digits: &str| (digits.len() == 2).then(|| digits.parse::<u16>().ok()).flatten();
            let (hour, minute) = (number(hour)?, number(minute)?);
            (minute < 60 && hour * 60 + minute <= DAY).then_some(hour * 60 + minute)
        };
        let (from, until) = text.split_once('-').ok_or_else(expected)?;
        let (from, until) = (minute(from).ok_or_else(expected)?, minute(until).ok_or_else(expected)?);
        match (from, until) {
            (DAY, _) => Err(expected()),
            (from, until) if from == until => {
                Err("the window ends at its beginning: the whole day is 00:00-24:00".into())
            }
            (from, until) => Ok(Self { from, until }),
        }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, until } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                Self::parse(&text)
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}

as_text!(Days, Hours);

/// Why the windows are against acting now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed<'a> {
    /// The deny-window that matches; `None` where no allow-window does.
    pub by: Option<&'a Window>,
    /// The first moment at which they are not against it any more; `None` where there is none in sight.
    pub until: Option<Timestamp>,
}

/// A week's windows come again after a week; two are enough to have met a change of the clocks as well.
const HORIZON_DAYS: i64 = 15;

/// The windows' objection to an action at `now`; `None` where an action is allowed. Each window comes with its zone.
///
/// # Errors
/// Where a moment lies outside of what calendars cover.
pub fn closed<'a>(windows: &'a [(Window, TimeZone)], now: Timestamp) -> Result<Option<Closed<'a>>, jiff::Error> {
    let mut spans = Vec::new();
    for (window, zone) in windows {
        for (begins, ends) in window.spans(zone, now)? {
            spans.push((window, begins, ends));
        }
    }
    let some_allow = windows.iter().any(|(window, _)| window.action == WindowAction::Allow);
    let mut by = None;
    let mut at = now;
    let horizon = now + jiff::SignedDuration::from_hours(24 * HORIZON_DAYS);
    while at < horizon {
        let matches = |action| {
            spans.iter().filter(move |(window, begins, ends)| window.action == action && *begins <= at && at < *ends)
        };
        let next_at = if let Some((window, _, ends)) = matches(WindowAction::Deny).max_by_key(|(.., ends)| *ends) {
            by = by.or((at == now).then_some(*window));
            Some(*ends)
        } else if some_allow && matches(WindowAction::Allow).next().is_none() {
            let later = spans.iter().filter(|(window, begins, _)| window.action == WindowAction::Allow && *begins > at);
            later.map(|(_, begins, _)| *begins).min()
        } else {
            return Ok((at > now).then_some(Closed { by, until: Some(at) }));
        };
        match next_at {
            Some(next_at) => at = next_at,
            None => break,
        }
    }
    Ok(Some(Closed { by, until: None }))
}

impl Window {
    /// From when to when, each time that it comes within the horizon; one that the clocks leave out is not there.
    fn spans(&self, zone: &TimeZone, now: Timestamp) -> Result<Vec<(Timestamp, Timestamp)>, jiff::Error> {
        let today = zone.to_datetime(now).date();
        let denies = self.action == WindowAction::Deny;
        let mut spans = Vec::new();
        // One that began yesterday may go on past midnight.
        for ahead in -2..=HORIZON_DAYS {
            let day = today.checked_add(jiff::Span::new().days(ahead))?;
            if !self.days.contains(day.weekday()) {
                continue;
            }
            let over_midnight = self.hours.until <= self.hours.from;
            let last = if over_midnight { day.tomorrow()? } else { day };
            let begins = moment(zone, on(day, self.hours.from)?, !denies)?;
            let ends = moment(zone, on(last, self.hours.until)?, denies)?;
            if begins < ends {
                spans.push((begins, ends));
            }
        }
        Ok(spans)
    }
}

fn on(day: Date, minute: u16) -> Result<DateTime, jiff::Error> {
    if minute == DAY {
        return Ok(day.tomorrow()?.to_datetime(Time::midnight()));
    }
    // Both are below 60: they were minutes of one day.
    Ok(day.at((minute / 60) as i8, (minute % 60) as i8, 0, 0))
}

/// The moment at which a clock on the wall reaches `civil`; where it does so twice, the last one if `last`.
fn moment(zone: &TimeZone, civil: DateTime, last: bool) -> Result<Timestamp, jiff::Error> {
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => ambiguous.compatible(),
        AmbiguousOffset::Fold { .. } if last => ambiguous.later(),
        AmbiguousOffset::Fold { .. } => ambiguous.earlier(),
        AmbiguousOffset::Gap { .. } => {
            let before = ambiguous.earlier()?;
            Ok(zone.following(before).next().map_or(before, |change| change.timestamp()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &str, hours: &str, tz: &str, action: WindowAction) -> (Window, TimeZone) {
        let (days, hours) = (Days::parse(days).unwrap(), Hours::parse(hours).unwrap());
        (Window { days, hours, tz: tz.into(), action }, TimeZone::get(tz).unwrap())
    }

    fn deny(days: &str, hours: &str, tz: &str) -> (Window, TimeZone) {
        window(days, hours, tz, WindowAction::Deny)
    }

    fn allow(days: &str, hours: &str, tz: &str) -> (Window, TimeZone) {
        window(days, hours, tz, WindowAction::Allow)
    }

    /// `-` where nothing is against it, `never` where nothing ends it.
    fn until(windows: &[(Window, TimeZone)], now: &str) -> String {
        match closed(windows, now.parse().unwrap()).unwrap() {
            None => "-".into(),
            Some(Closed { until, .. }) => until.map_or("never".into(), |until| until.to_string()),
        }
    }

    #[test]
    fn days_and_hours_read_as_they_are_written() {
        for (text, shown) in [
            ("mon", "mon"),
            ("mon-fri", "mon-fri"),
            ("sat,sun", "sat,sun"),
            ("fri-mon", "mon,fri,sat,sun"),
            ("mon-wed, fri", "mon,tue,wed,fri"),
            ("mon-sun", "daily"),
            ("daily", "daily"),
        ] {
            let days = Days::parse(text).unwrap();
            assert_eq!(days.to_string(), shown, "{text}");
        }
        for wrong in ["", "monday", "mon-", "mon-fri-sat", "1", "mon;tue"] {
            assert!(Days::parse(wrong).is_err(), "{wrong:?} was read");
        }
        for text in ["09:00-18:00", "22:30-06:00", "00:00-24:00", "22:00-00:00"] {
            assert_eq!(Hours::parse(text).unwrap().to_string(), text);
        }
        for wrong in ["", "9-18", "09:00", "09:00-09:00", "24:00-01:00", "09:60-10:00", "09:00-25:00", "9:00-18:00"] {
            assert!(Hours::parse(wrong).is_err(), "{wrong:?} was read");
        }
    }

    #[test]
    fn a_window_is_kept_with_its_first_moment_and_without_its_last() {
        let office = [deny("mon-fri", "09:00-18:00", "Asia/Shanghai")];
        for (now, shut) in [
            // 2026-11-20 is a Friday; Shanghai is 8 hours ahead.
            ("2026-11-20T00:59:59.999Z", "-"),
            ("2026-11-20T01:00:00Z", "2026-11-20T10:00:00Z"),
            ("2026-11-20T09:59:59.999Z", "2026-11-20T10:00:00Z"),
            ("2026-11-20T10:00:00Z", "-"),
            ("2026-11-21T02:00:00Z", "-"),
        ] {
            assert_eq!(until(&office, now), shut, "{now}");
        }
    }

    #[test]
    fn one_that_goes_past_midnight_belongs_to_the_day_on_which_it_begins() {
        let nights = [deny("fri", "22:00-06:00", "UTC")];
        for (now, shut) in [
            ("2026-11-20T21:59:00Z", "-"),
            ("2026-11-20T22:00:00Z", "2026-11-21T06:00:00Z"),
            ("2026-11-21T05:59:00Z", "2026-11-21T06:00:00Z"),
            ("2026-11-21T22:00:00Z", "-"),
            ("2026-11-20T05:00:00Z", "-"),
        ] {
            assert_eq!(until(&nights, now), shut, "{now}");
        }
    }

    #[test]
    fn any_deny_wins_and_where_there_are_allows_one_must_match() {
        let allowed = allow("mon-fri", "01:00-05:00", "UTC");
        let freeze = deny("thu", "02:00-03:00", "UTC");
        let second = deny("thu", "03:00-04:00", "UTC");
        let whole = deny("mon-sun", "00:00-24:00", "UTC");
        for (windows, now, shut) in [
            (vec![], "2026-11-19T00:30:00Z", "-"),
            (vec![allowed.clone()], "2026-11-19T00:30:00Z", "2026-11-19T01:00:00Z"),
            (vec![allowed.clone()], "2026-11-19T01:00:00Z", "-"),
            (vec![allowed.clone()], "2026-11-20T05:00:00Z", "2026-11-23T01:00:00Z"),
            (vec![allowed.clone(), allow("thu", "00:00-02:00", "UTC")], "2026-11-19T00:30:00Z", "-"),
            (vec![allowed.clone(), freeze.clone()], "2026-11-19T02:30:00Z", "2026-11-19T03:00:00Z"),
            (vec![allowed.clone(), freeze.clone(), second], "2026-11-19T02:30:00Z", "2026-11-19T04:00:00Z"),
            // The end of the deny lies outside of every allow.
            (vec![allowed.clone(), deny("thu", "04:00-07:00", "UTC")], "2026-11-19T04:30:00Z", "2026-11-20T01:00:00Z"),
            (vec![allowed, whole.clone()], "2026-11-19T02:30:00Z", "never"),
            (vec![whole], "2026-11-19T02:30:00Z", "never"),
        ] {
            assert_eq!(until(&windows, now), shut, "{windows:?} at {now}");
        }
    }

    #[test]
    fn who_is_against_it_is_the_deny_of_now_and_none_outside_of_the_allows() {
        let windows = [allow("mon", "01:00-05:00", "UTC"), deny("thu", "02:00-03:00", "UTC")];
        let by = |now: &str| closed(&windows, now.parse().unwrap()).unwrap().unwrap().by;
        assert_eq!(by("2026-11-19T02:30:00Z"), Some(&windows[1].0));
        assert_eq!(by("2026-11-19T01:30:00Z"), None);
    }

    #[test]
    fn the_hour_that_is_left_out_in_spring_is_the_moment_of_the_change() {
        // Berlin 2026-03-29: 02:00 is followed by 03:00, at 01:00 UTC. New York 2026-03-08: at 07:00 UTC.
        for (zone, day, change) in [
            ("Europe/Berlin", "2026-03-29", "2026-03-29T01:00:00Z"),
            ("America/New_York", "2026-03-08", "2026-03-08T07:00:00Z"),
        ] {
            let at = |offset_minutes: i64| {
                (change.parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_mins(offset_minutes)).to_string()
            };
            for (hours, now, shut) in [
                // Begins in the gap: at the change, and not half an hour off.
                ("02:30-05:00", -1, "-".to_string()),
                ("02:30-05:00", 0, at(120)),
                // Ends in the gap.
                ("01:00-02:30", -1, at(0)),
                ("01:00-02:30", 0, "-".into()),
                // Lies in it altogether: it is not there.
                ("02:10-02:50", -1, "-".into()),
                ("02:10-02:50", 0, "-".into()),
            ] {
                assert_eq!(until(&[deny("sun", hours, zone)], &at(now)), shut, "{zone} {day} {hours} at {now}");
            }
        }
    }

    #[test]
    fn the_hour_that_is_repeated_in_autumn_is_denied_twice_and_allowed_never_in_doubt() {
        // Berlin 2026-10-25: 03:00 is followed by 02:00, at 01:00 UTC; New York 2026-11-01: 02:00 by 01:00, at 06:00 UTC.
        for (zone, repeated, change) in
            [("Europe/Berlin", "02:30", "2026-10-25T01:00:00Z"), ("America/New_York", "01:30", "2026-11-01T06:00:00Z")]
        {
            let at = |offset_minutes: i64| {
                (change.parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_mins(offset_minutes)).to_string()
            };
            let begins_in_it = format!("{repeated}-05:00");
            let ends_in_it = format!("00:30-{repeated}");
            let shut = |window, minute: i64| until(&[window], &at(minute)) != "-";
            // 30 minutes before the change the clock shows it for the first time, 30 minutes after for the second.
            for (minute, denied_from, denied_until, allowed_from, allowed_until) in [
                (-31, false, true, false, true),
                (-30, true, true, false, false),
                (29, true, true, false, false),
                (30, true, false, true, false),
            ] {
                let found = (
                    shut(deny("sun", &begins_in_it, zone), minute),
                    shut(deny("sun", &ends_in_it, zone), minute),
                    !shut(allow("sun", &begins_in_it, zone), minute),
                    !shut(allow("sun", &ends_in_it, zone), minute),
                );
                assert_eq!(found, (denied_from, denied_until, allowed_from, allowed_until), "{zone} at {minute}");
            }
            assert_eq!(until(&[deny("sun", &ends_in_it, zone)], &at(0)), at(30), "{zone}");
        }
    }

    #[test]
    fn a_window_is_read_back_from_a_journaled_plan() {
        let (window, _) = deny("mon-fri", "22:00-06:00", "Europe/Berlin");
        let text = serde_json::to_string(&window).unwrap();
        assert_eq!(text, r#"{"days":"mon-fri","hours":"22:00-06:00","tz":"Europe/Berlin","action":"deny"}"#);
        assert_eq!(serde_json::from_str::<Window>(&text).unwrap(), window);
    }
}
