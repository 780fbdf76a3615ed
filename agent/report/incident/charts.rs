//! Plots as SVG, without scripts: how many sockets there were over time, and when the peers closed them.

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;
use maud::{Markup, html};

use super::material::Evidence;
use super::shortened;
use crate::evidence::SocketLine;
use crate::model::{Direction, Reading, Sample, Signal};

const WIDTH: f64 = 900.0;
/// Room on the left for the numbers.
const LEFT: f64 = 44.0;
/// Of a plot; the time stands below it.
const HEIGHT: f64 = 180.0;
/// Points of a line: more than a screen shows.
const POINTS: usize = 450;
/// Peers of the heat map.
const ROWS: usize = 12;
const COLUMNS: usize = 48;
const ROW_HEIGHT: f64 = 20.0;
/// Room on the left of the heat map for a peer's name.
const NAMES: f64 = 230.0;
/// Characters of it that fit there.
const NAME_SHOWN: usize = 26;

/// A moment that is marked in the plot.
#[derive(Clone, Debug)]
pub struct Mark {
    pub at: Timestamp,
    pub says: String,
    /// The incident's beginning, and not a step.
    pub is_beginning: bool,
}

/// A span of time over a width.
#[derive(Clone, Copy)]
struct Span {
    from: Timestamp,
    seconds: f64,
    left: f64,
    width: f64,
}

impl Span {
    fn new(from: Timestamp, until: Timestamp, left: f64) -> Self {
        let seconds = until.duration_since(from).as_secs_f64().max(1.0);
        Self { from, seconds, left, width: WIDTH - left }
    }

    fn x(&self, at: Timestamp) -> f64 {
        let part = at.duration_since(self.from).as_secs_f64() / self.seconds;
        self.left + self.width * part.clamp(0.0, 1.0)
    }
}

/// The count of sockets in CLOSE_WAIT, with the incident's beginning and its steps; `None` where nothing was measured. `ticks`: finer than
/// the samples of the same time.
pub fn count_over_time(samples: &[Sample], ticks: &[(Timestamp, f64)], marks: &[Mark]) -> Option<Markup> {
    let known = |sample: &Sample| match sample.readings.get(Signal::CloseWait) {
        Reading::Known(now) => {
            let most = sample.spread.as_ref().map(|spread| spread.most.get(Signal::CloseWait));
            Some((sample.at, if let Some(Reading::Known(most)) = most { most.max(now) } else { now }))
        }
        Reading::Unknown => None,
    };
    let finer = ticks.first().map(|(at, _)| *at)..=ticks.last().map(|(at, _)| *at);
    let coarse = samples.iter().filter_map(known).filter(|(at, _)| !finer.contains(&Some(*at)));
    let mut points: Vec<(Timestamp, f64)> = coarse.chain(ticks.iter().copied()).collect();
    points.sort_by_key(|(at, _)| *at);
    let (from, until) = (points.first()?.0, points.last()?.0);
    let most = points.iter().map(|(_, count)| *count).fold(1.0, f64::max);
    let span = Span::new(from, until, LEFT);
    let y = |count: f64| 10.0 + (HEIGHT - 20.0) * (1.0 - count / most);
    // Of many points the highest of each few: a peak stays visible.
    let few = points.len().div_ceil(POINTS);
    let mut line = String::new();
    for chunk in points.chunks(few) {
        let (at, count) = chunk.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(chunk[0]);
        let _ = write!(line, "{}{:.1} {:.1}", if line.is_empty() { "M" } else { "L" }, span.x(at), y(count));
    }
    let base = HEIGHT - 10.0;
    let area = format!("{line}L{:.1} {base}L{:.1} {base}Z", span.x(until), span.x(from));
    let says = format!("{:.0} sockets at the most; {} to {}", most, clock(from), clock(until));
    Some(html! {
        figure {
            svg viewBox=(format!("0 0 {WIDTH} {}", HEIGHT + 16.0)) role="img" aria-label=(says) {
                @for count in [0.0, most / 2.0, most] {
                    line class="axis" x1=(LEFT) x2=(WIDTH) y1=(tenth(y(count))) y2=(tenth(y(count))) {}
                    text x=(LEFT - 6.0) y=(tenth(y(count) + 4.0)) text-anchor="end" { (format!("{count:.0}")) }
                }
                path class="area" d=(area) {}
                path class="plot" d=(line) {}
                @for mark in marks {
                    line class=(if mark.is_beginning { "mark" } else { "step" })
                        x1=(tenth(span.x(mark.at))) x2=(tenth(span.x(mark.at))) y1="2" y2=(base) {
                        title { (clock(mark.at)) " " (mark.says) }
                    }
                }
                (times(span, HEIGHT + 10.0))
            }
            figcaption {
                (says) ". The red line is the beginning of the incident"
                @if marks.len() > 1 { ", the grey ones are the steps" }
                "."
            }
        }
    })
}

/// A connection that its peer closed.
struct Closed {
    at: Timestamp,
    /// Seconds without data before that.
    idle: Option<f64>,
}

/// When the peers closed: a row for each of the biggest, beside it for how long its connections had been idle.
pub fn closed_over_time(evidence: &Evidence) -> Option<Markup> {
    let closed_at = |socket: &SocketLine| {
        let age = socket.age_seconds.filter(|_| !socket.age_is_at_least)?;
        evidence.manifest.at.checked_sub(std::time::Duration::from_secs(age)).ok()
    };
    let mut peers: BTreeMap<String, Vec<Closed>> = BTreeMap::new();
    for socket in &evidence.sockets {
        let Some(at) = closed_at(socket) else { continue };
        let peer = match socket.direction {
            Direction::Outbound => socket.remote.to_string(),
            Direction::Inbound => socket.remote.ip().to_canonical().to_string(),
        };
        peers.entry(peer).or_default().push(Closed { at, idle: socket.idle_seconds });
    }
    let from = peers.values().flatten().map(|closed| closed.at).min()?;
    let span = Span::new(from, evidence.manifest.at, NAMES);
    let mut rows: Vec<(String, Vec<Closed>)> = peers.into_iter().collect();
    rows.sort_by(|a, b| (b.1.len(), &a.0).cmp(&(a.1.len(), &b.0)));
    let left_out = rows.len().saturating_sub(ROWS);
    rows.truncate(ROWS);
    let column = span.width / COLUMNS as f64;
    let counted: Vec<[usize; COLUMNS]> = rows.iter().map(|(_, closed)| counts(closed, span, column)).collect();
    let most = counted.iter().flatten().copied().max().unwrap_or(1).max(1);
    let bottom = 6.0 + ROW_HEIGHT * rows.len() as f64;
    Some(html! {
        figure {
            svg viewBox=(format!("0 0 {WIDTH} {}", bottom + 18.0)) role="img"
                aria-label=(format!("When {} peers closed their connections", rows.len())) {
                @for (row, ((peer, closed), counts)) in rows.iter().zip(&counted).enumerate() {
                    @let top = 4.0 + ROW_HEIGHT * row as f64;
                    text x="2" y=(top + 14.0) { (shortened(peer, NAME_SHOWN)) (idle(closed)) }
                    @for (at, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                        rect class="cell" x=(tenth(span.left + column * at as f64)) y=(top) width=(tenth(column - 1.0))
                            height=(ROW_HEIGHT - 2.0) fill-opacity=(opacity(*count, most)) { title { (count) } }
                    }
                }
                (times(span, bottom + 12.0))
            }
            figcaption {
                "When each peer closed; the darker, the more at once (" (most) " at the most). A column is "
                (seconds(span.seconds / COLUMNS as f64)) ". Beside a peer: for how long its connections had been idle then, in the median."
                @if left_out > 0 { " " (left_out) " more peers are not shown." }
            }
        }
    })
}

fn counts(closed: &[Closed], span: Span, column: f64) -> [usize; COLUMNS] {
    let mut counts = [0; COLUMNS];
    for Closed { at, .. } in closed {
        counts[(((span.x(*at) - span.left) / column) as usize).min(COLUMNS - 1)] += 1;
    }
    counts
}

/// ` idle 2.0 s`; nothing where it is not known.
fn idle(closed: &[Closed]) -> String {
    let mut idle: Vec<f64> = closed.iter().filter_map(|closed| closed.idle).collect();
    idle.sort_by(f64::total_cmp);
    idle.get(idle.len() / 2).map(|median| format!(" · idle {}", seconds(*median))).unwrap_or_default()
}

/// Few sockets are visible beside many.
fn opacity(count: usize, most: usize) -> String {
    format!("{:.2}", 0.2 + 0.8 * count as f64 / most as f64)
}

fn times(span: Span, y: f64) -> Markup {
    const LABELS: u32 = 4;
    html! {
        @for step in 0..=LABELS {
            @let at = span.from.saturating_add(std::time::Duration::from_secs_f64(span.seconds * f64::from(step) / f64::from(LABELS)));
            @let anchor = match step { 0 => "start", LABELS => "end", _ => "middle" };
            text x=(tenth(span.left + span.width * f64::from(step) / f64::from(LABELS))) y=(y) text-anchor=(anchor) {
                (at.map(clock).unwrap_or_default())
            }
        }
    }
}

fn tenth(value: f64) -> String {
    format!("{value:.1}")
}

fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}

/// `2.0 s`, `12 min`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}
