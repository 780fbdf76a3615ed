//! One service as a line of the table: what it is sorted by, and the words of each cell. Pure.

use std::time::Duration;

use super::text::Emphasis;
use crate::model::{Reason, ServiceName, Signal};
use crate::store::ApprovalState;
use crate::view::services::ServiceRow;
use crate::view::status::Status;

/// Of those that an agent measures, this one is shown where it is among them.
const USUAL_AGE: Duration = Duration::from_secs(300);
/// A forecast at most: it stands for none in sight.
const NONE_IN_SIGHT: f64 = 7.0 * 86_400.0;

/// What the table is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortBy {
    #[default]
    CloseWait,
    Aged,
    Growth,
    FdRatio,
    FdClosed,
    ExhaustedIn,
}

impl SortBy {
    /// Each with its key, and its heading where the signal has no argument.
    pub const ALL: [(Self, char, &'static str); 6] = [
        (Self::CloseWait, 'c', "CLOSE_WAIT"),
        (Self::Aged, 'a', "AGED"),
        (Self::Growth, 'g', "GROWTH/m"),
        (Self::FdRatio, 'f', "FD RATIO"),
        (Self::FdClosed, 'd', "FD CLOSED"),
        (Self::ExhaustedIn, 'e', "FDS LAST"),
    ];

    pub fn by_key(key: char) -> Option<Self> {
        Self::ALL.iter().find(|(_, its, _)| *its == key).map(|(by, ..)| *by)
    }

    pub fn next(self) -> Self {
        let at = Self::ALL.iter().position(|(by, ..)| *by == self).unwrap_or_default();
        Self::ALL[(at + 1) % Self::ALL.len()].0
    }

    fn value(self, service: &ServiceRow) -> Option<f64> {
        match self {
            Self::CloseWait => service.known(Signal::CloseWait),
            Self::Aged => aged(service).and_then(|signal| service.known(signal)),
            Self::Growth => growth(service).map(|(per_minute, _)| per_minute),
            Self::FdRatio => service.known(Signal::FdRatio),
            Self::FdClosed => service.known(Signal::FdClosed),
            // The least first.
            Self::ExhaustedIn => service.known(Signal::FdExhaustedIn).map(|seconds| -seconds),
        }
    }

    /// The cell; `-` where it is not known.
    pub fn cell(self, service: &ServiceRow) -> String {
        let show = |signal: Signal| service.known(signal).map(|_| service.signals.show(signal));
        let text = match self {
            Self::CloseWait => show(Signal::CloseWait),
            Self::Aged => aged(service).and_then(show),
            Self::Growth => growth(service).map(|(per_minute, measured)| {
                let about = if measured { "" } else { "~" };
                format!("{about}{per_minute:+.1}")
            }),
            Self::FdRatio => show(Signal::FdRatio),
            Self::FdClosed => show(Signal::FdClosed),
            Self::ExhaustedIn => match service.known(Signal::FdExhaustedIn) {
                Some(seconds) if seconds >= NONE_IN_SIGHT => Some("> 7d".into()),
                _ => show(Signal::FdExhaustedIn),
            },
        };
        text.unwrap_or_else(|| "-".into())
    }
}

/// The count by age that is shown.
pub fn aged(service: &ServiceRow) -> Option<Signal> {
    let ages = service.signals.iter().map(|(signal, _)| signal);
    let ages: Vec<Signal> = ages.filter(|signal| matches!(signal, Signal::CloseWaitAged(_))).collect();
    let usual = Signal::CloseWaitAged(USUAL_AGE);
    ages.iter().find(|signal| **signal == usual).or(ages.first()).copied()
}

/// A minute, and whether a policy's window measured it; else it is the difference between the first and the last of the counts
/// that are shown.
fn growth(service: &ServiceRow) -> Option<(f64, bool)> {
    let measured = service.signals.iter().find(|(signal, _)| matches!(signal, Signal::CloseWaitGrowth(_)));
    if let Some((_, per_minute)) = measured {
        return Some((per_minute, true));
    }
    let minutes = service.over.as_secs_f64() / 60.0;
    let (first, last) = service.counts.first().zip(service.counts.last())?;
    (minutes >= 0.5).then(|| ((*last as f64 - *first as f64) / minutes, false))
}

/// Those whose name holds the filter, in order; what is not known comes last.
pub fn chosen<'a>(services: &'a [ServiceRow], by: SortBy, filter: &str) -> Vec<&'a ServiceRow> {
    let filter = filter.to_lowercase();
    let fits = |service: &&ServiceRow| service.service.as_str().to_lowercase().contains(&filter);
    let mut chosen: Vec<&ServiceRow> = services.iter().filter(fits).collect();
    let most_first = |a: &ServiceRow, b: &ServiceRow, by: SortBy| {
        let value = |service: &ServiceRow| by.value(service).unwrap_or(f64::NEG_INFINITY);
        value(b).total_cmp(&value(a))
    };
    chosen.sort_by(|a, b| {
        let by_count = || most_first(a, b, SortBy::CloseWait);
        most_first(a, b, by).then_with(by_count).then_with(|| a.service.cmp(&b.service))
    });
    chosen
}

/// What is being done about a service, or what holds it, in a few words.
pub fn stands(service: &ServiceRow, status: Option<&Status>) -> (Emphasis, String) {
    status.and_then(|status| of_status(&service.service, status)).unwrap_or_else(|| of_policies(service))
}

fn of_status(service: &ServiceName, status: &Status) -> Option<(Emphasis, String)> {
    let words = |word: &str| word.replace('_', " ");
    let is_it = |name: &str| name == service.as_str();
    if let Some(open) = status.open.iter().find(|open| open.service == *service) {
        let dry = if open.dry_run { ", dry-run" } else { "" };
        return Some((Emphasis::Warn, format!("{}: {}{dry}", open.runbook, words(&open.step))));
    }
    if let Some(latch) = status.latches.iter().find(|latch| is_it(&latch.service)) {
        return Some((Emphasis::Bad, format!("locked: {}", words(latch.reason.as_str()))));
    }
    let asked = status.approvals.iter().find(|one| is_it(&one.service) && one.state != ApprovalState::Approved);
    if let Some(approval) = asked {
        return Some((Emphasis::Warn, format!("{}: to be approved", approval.policy)));
    }
    if let Some(silence) = status.silences.iter().find(|silence| silence.concerns(service)) {
        return Some((Emphasis::Plain, format!("silenced by {}", silence.who)));
    }
    let held = status.agent.iter().flat_map(|agent| &agent.held).find(|held| held.service == *service);
    if let Some(held) = held {
        return Some((Emphasis::Warn, format!("{}: {}", held.policy, words(held.reason.as_str()))));
    }
    let breaker = status.breakers.iter().find(|breaker| is_it(&breaker.service));
    breaker.map(|breaker| (Emphasis::Warn, format!("{}: dry-run again", breaker.policy)))
}

/// First what is about to act, then what holds, then what is quiet.
fn of_policies(service: &ServiceRow) -> (Emphasis, String) {
    let of = |wanted: &dyn Fn(Option<Reason>) -> bool| service.policies.iter().find(|stands| wanted(stands.reason));
    if let Some(acts) = of(&|reason| reason.is_none()) {
        return (Emphasis::Warn, format!("{}: about to act", acts.policy));
    }
    let holds = of(&|reason| !matches!(reason, Some(Reason::Quiet | Reason::SignalUnknown)));
    if let Some(stands) = holds.or_else(|| of(&|reason| reason == Some(Reason::SignalUnknown))) {
        let reason = stands.reason.map(Reason::as_str).unwrap_or_default().replace('_', " ");
        return (Emphasis::Plain, format!("{}: {reason}", stands.policy));
    }
    (Emphasis::Dim, if service.policies.is_empty() { String::new() } else { "quiet".into() })
}

/// The counts as bars, the last ones at the right; where there are more than fit, the highest of each few.
pub fn bars(counts: &[u64], width: usize) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let each = counts.len().div_ceil(width.max(1)).max(1);
    let peaks: Vec<u64> = counts.rchunks(each).rev().map(|few| few.iter().copied().max().unwrap_or_default()).collect();
    let most = peaks.iter().copied().max().unwrap_or_default().max(1);
    let height = |peak: &u64| HEIGHTS[(*peak as f64 / most as f64 * (HEIGHTS.len() - 1) as f64).round() as usize];
    let line: String = peaks.iter().map(height).collect();
    format!("{line:>width$}")
}
