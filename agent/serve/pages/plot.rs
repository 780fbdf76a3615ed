//! Signals as small plots: SVG without scripts, with the limit as a dashed line, and what is to be seen in words.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;
use maud::{Markup, html};

use crate::model::Reading;
use crate::model::policy::Comparison;
use crate::view::service::{History, SignalHistory};

/// How big.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// In a row of a table: without numbers.
    Small,
    /// By itself, with numbers at its left.
    Whole,
}

/// Width and height, and the room for numbers at the left, in the picture's own units.
const SMALL: (f64, f64, f64) = (160.0, 36.0, 0.0);
const WHOLE: (f64, f64, f64) = (640.0, 120.0, 56.0);
/// Above and below, so that no line is cut off.
const EDGE: f64 = 3.0;

/// One signal; `limits`: what is drawn across.
pub fn of(history: &History, signal: &SignalHistory, limits: &[&Comparison], size: Size) -> Markup {
    let (width, height, left) = if size == Size::Small { SMALL } else { WHOLE };
    let known = || signal.most.iter().chain(&signal.least).filter_map(|value| *value);
    let top = known().chain(limits.iter().map(|limit| limit.threshold)).fold(1e-9, f64::max) * 1.05;
    let bottom = known().chain(limits.iter().map(|limit| limit.threshold)).fold(0.0, f64::min);
    let y = |value: f64| EDGE + (height - 2.0 * EDGE) * (1.0 - (value - bottom) / (top - bottom));
    let steps = signal.most.len().max(2) - 1;
    let x = |at: usize| left + 2.0 + (width - left - 4.0) * at as f64 / steps as f64;
    let show = |value: f64| Reading::Known(value).show(signal.signal);
    html! {
        svg.plot-of viewBox=(format!("0 0 {width} {height}")) role="img" aria-label=(says(history, signal, limits)) {
            @if size == Size::Whole {
                @for value in [bottom, known().fold(bottom, f64::max)] {
                    line.axis x1=(left) x2=(width) y1=(tenth(y(value))) y2=(tenth(y(value))) {}
                    text x=(left - 4.0) y=(tenth(y(value).clamp(10.0, height - 2.0))) text-anchor="end" { (show(value)) }
                }
            }
            path.area d=(band(signal, &x, &y)) {}
            path.plot d=(line(&signal.most, &x, &y)) {}
            @for limit in limits {
                line.mark x1=(left) x2=(width) y1=(tenth(y(limit.threshold))) y2=(tenth(y(limit.threshold))) {}
            }
        }
    }
}

/// The picture in words, for who does not see it.
fn says(history: &History, signal: &SignalHistory, limits: &[&Comparison]) -> String {
    let show = |value: f64| Reading::Known(value).show(signal.signal);
    let known = |values: &[Option<f64>]| values.iter().filter_map(|value| *value).collect::<Vec<f64>>();
    let (least, most) = (known(&signal.least), known(&signal.most));
    let mut says = format!("{} in the last {}: ", signal.signal, history.range);
    match (least.iter().copied().reduce(f64::min), most.iter().copied().reduce(f64::max), most.last()) {
        (Some(least), Some(most), Some(last)) => {
            let _ = write!(says, "from {} to {}, last {}", show(least), show(most), show(*last));
        }
        _ => says.push_str("not measured"),
    }
    for limit in limits {
        let beyond = signal.most.iter().zip(&signal.least).filter(|(most, least)| {
            [most, least]
                .into_iter()
                .any(|value| value.is_some_and(|value| limit.operator.holds(value, limit.threshold)))
        });
        let lasts = history.step.saturating_mul(u32::try_from(beyond.count()).unwrap_or(u32::MAX));
        let _ = write!(says, "; {} {}", limit.operator.symbol(), show(limit.threshold));
        says.push_str(&match lasts {
            Duration::ZERO => " at no time".into(),
            lasts => format!(" for {}", crate::model::duration::format(lasts)),
        });
    }
    says
}

/// A line through what is known; where something is not, it breaks, and a single point is a dot.
fn line(values: &[Option<f64>], x: &dyn Fn(usize) -> f64, y: &dyn Fn(f64) -> f64) -> String {
    let mut path = String::new();
    let mut follows = false;
    for (at, value) in values.iter().enumerate() {
        if let Some(value) = value {
            let _ = write!(path, "{}{:.1} {:.1}", if follows { 'L' } else { 'M' }, x(at), y(*value));
            if !follows && values.get(at + 1).is_none_or(Option::is_none) {
                path.push_str("h.1");
            }
        }
        follows = value.is_some();
    }
    path
}

/// Between the least and the most of each step.
fn band(signal: &SignalHistory, x: &dyn Fn(usize) -> f64, y: &dyn Fn(f64) -> f64) -> String {
    let mut path = String::new();
    let values: Vec<Option<(f64, f64)>> =
        signal.least.iter().zip(&signal.most).map(|(least, most)| least.zip(*most)).collect();
    let mut at = 0;
    while at < values.len() {
        let run: Vec<(f64, f64)> = values[at..].iter().map_while(|value| *value).collect();
        if run.len() > 1 && run.iter().any(|(least, most)| least != most) {
            for (n, (_, most)) in run.iter().enumerate() {
                let _ = write!(path, "{}{:.1} {:.1}", if n == 0 { 'M' } else { 'L' }, x(at + n), y(*most));
            }
            for (n, (least, _)) in run.iter().enumerate().rev() {
                let _ = write!(path, "L{:.1} {:.1}", x(at + n), y(*least));
            }
            path.push('Z');
        }
        at += run.len().max(1);
    }
    path
}

fn tenth(value: f64) -> String {
    format!("{value:.1}")
}

/// `2026-11-30 19:24:00 UTC`.
pub fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (at.strftime("%Y-%m-%d %H:%M:%S UTC")) } }
}
