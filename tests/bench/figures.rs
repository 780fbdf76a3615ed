//! The figures, and the tables that they are printed in.

use std::fmt;
use std::time::Duration;

/// Rounds of what takes turns; what counts is the least of each.
pub const ROUNDS: usize = 15;

/// How long each round took.
#[derive(Debug, Default)]
pub struct Took(Vec<Duration>);

impl Took {
    pub fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub fn least(&self) -> Duration {
        self.0.iter().min().copied().unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Unit {
    Times,
    PercentOfACore,
    Milliseconds,
    Microseconds,
    Megabytes,
    Bytes,
}

impl Unit {
    pub fn show(self, value: f64) -> String {
        let digits = if value.abs() < 10.0 { 2 } else { 1 };
        match self {
            Self::Times if value != 0.0 && value.abs() < 0.1 => format!("1/{:.0}", 1.0 / value),
            Self::Times => format!("{value:.digits$}"),
            Self::PercentOfACore => format!("{value:.3} %"),
            Self::Milliseconds => format!("{value:.digits$} ms"),
            Self::Microseconds => format!("{value:.digits$} µs"),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Bytes => format!("{value:.0} B"),
        }
    }
}

/// One figure with its aim.
#[derive(Debug)]
struct Figure {
    at: String,
    what: String,
    measured: f64,
    unit: Unit,
    at_most: Option<f64>,
    from: String,
}

/// One part's figures.
#[derive(Debug)]
pub struct Table {
    title: &'static str,
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Table {
    pub fn new(title: &'static str) -> Self {
        Self { title, figures: Vec::new(), notes: Vec::new() }
    }

    /// `from` says what the figure was reckoned from.
    pub fn figure(
        &mut self,
        at: impl fmt::Display,
        what: impl Into<String>,
        (measured, unit): (f64, Unit),
        at_most: Option<f64>,
        from: impl Into<String>,
    ) {
        let (at, what, from) = (at.to_string(), what.into(), from.into());
        self.figures.push(Figure { at, what, measured, unit, at_most, from });
    }

    /// A ratio of what took the least of all rounds, with both in milliseconds.
    pub fn ratio(&mut self, at: impl fmt::Display, what: &str, took: &Took, base: &Took, at_most: Option<f64>) {
        let (took, base) = (1e3 * took.least().as_secs_f64(), 1e3 * base.least().as_secs_f64());
        let from = format!("{} / {}", Unit::Milliseconds.show(took), Unit::Milliseconds.show(base));
        self.figure(at, what, (took / base, Unit::Times), at_most, from);
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.figures.is_empty() && self.notes.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{}", self.title)?;
        let head = ["SOCKETS", "FIGURE", "MEASURED", "AIM", "", "FROM"].map(str::to_owned);
        let rows = self.figures.iter().map(|figure| {
            let met = figure.at_most.map(|most| if figure.measured <= most { "met" } else { "missed" });
            [
                figure.at.clone(),
                figure.what.clone(),
                figure.unit.show(figure.measured),
                figure.at_most.map_or_else(String::new, |most| format!("<= {}", figure.unit.show(most))),
                met.unwrap_or_default().to_owned(),
                figure.from.clone(),
            ]
        });
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [0, 1, 2, 3, 4].map(width);
        for [at, what, measured, aim, met, from] in &rows {
            let [a, b, c, d, e] = widths;
            writeln!(f, "{at:a$}  {what:b$}  {measured:>c$}  {aim:>d$}  {met:e$}  {from}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "- {note}"))
    }
}
