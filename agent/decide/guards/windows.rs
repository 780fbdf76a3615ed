//! The windows: a plan's own with the zones that they name, at this moment.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Answer, Verdict, deny};
use crate::model::window::{Closed, closed};
use crate::model::{Reason, Window};

pub(super) fn verdict(windows: &[Window], now: Timestamp) -> Answer {
    let zoned: Vec<(Window, TimeZone)> = windows
        .iter()
        .map(|window| match TimeZone::get(&window.tz) {
            Ok(zone) => Ok((window.clone(), zone)),
            Err(error) => Err(format!("the time zone {}: {error}", window.tz)),
        })
        .collect::<Result<_, String>>()?;
    let Some(Closed { by, until }) = closed(&zoned, now).map_err(|error| error.to_string())? else {
        return Ok(Verdict::Allow);
    };
    let (reason, detail) = match by {
        Some(window) => (Reason::DenyWindow, format!("the window {window} denies actions now")),
        None => (Reason::OutsideWindows, format!("actions are allowed only {}", allowed(windows))),
    };
    Ok(match until {
        Some(until) => Verdict::Defer { until, reason, detail },
        None => deny(
            reason,
            format!("{detail}; in the next two weeks the windows together allow no moment: change `windows`"),
        ),
    })
}

fn allowed(windows: &[Window]) -> String {
    use crate::model::window::WindowAction::Allow;
    let allowed: Vec<String> =
        windows.iter().filter(|window| window.action == Allow).map(ToString::to_string).collect();
    allowed.join("; ")
}
