//! A service's signals over time: what was measured at one moment, or what is kept of the moments of one step.

use std::time::Duration;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::moment::after;
use super::{Readings, duration};

/// The signals of one service at a moment, or over a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The moment; where it is down-sampled, the step's beginning.
    pub at: Timestamp,
    /// The readings; of a down-sampled step, the last ones within the step.
    pub readings: Readings,
    /// `None`: measured at this very moment.
    pub spread: Option<Spread>,
}

/// The extremes of a step, kept besides its last reading for plots and replays: a peak between two steps
/// stays visible in `most`, and `least` above 200 means above 200 for the whole step.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// The sample speaks of `at` up to, and without, `at + step`.
    pub step: Duration,
    pub least: Readings,
    pub most: Readings,
}

impl Sample {
    /// The readings of one moment.
    pub fn moment(at: Timestamp, readings: Readings) -> Self {
        Self { at, readings, spread: None }
    }

    /// The moment from which on the sample says nothing more.
    pub fn until(&self) -> Timestamp {
        self.spread.as_ref().map_or(self.at, |spread| after(self.at, spread.step))
    }
}

/// One flat object: `{"at": …, "close_wait": 288, …}`; where it is down-sampled `"step": "1m"` follows the time, and
/// `"least"` and `"most"` hold the signals that moved within the step.
impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut line = to.serialize_map(None)?;
        line.serialize_entry("at", &self.at)?;
        if let Some(spread) = &self.spread {
            line.serialize_entry("step", &duration::format(spread.step))?;
        }
        self.readings.serialize_into(&mut line)?;
        if let Some(spread) = &self.spread {
            for (name, bound) in [("least", &spread.least), ("most", &spread.most)] {
                let moved = bound.that_differ_from(&self.readings);
                if !moved.is_empty() {
                    line.serialize_entry(name, &moved)?;
                }
            }
        }
        line.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Signal;

    #[test]
    fn a_down_sampled_line_says_its_step_and_what_moved() {
        let of = |close_wait: f64, ratio: f64| {
            let mut readings = Readings::default();
            readings.set(Signal::CloseWait, close_wait);
            readings.set(Signal::FdRatio, ratio);
            readings
        };
        let at: Timestamp = "2026-11-22T18:43:00Z".parse().unwrap();
        let moment = Sample::moment(at, of(288.0, 0.25));
        let line = |sample: &Sample| serde_json::to_string(sample).unwrap();
        assert_eq!(line(&moment), r#"{"at":"2026-11-22T18:43:00Z","close_wait":288,"fd.ratio":0.25}"#);
        let spread = Spread { step: Duration::from_secs(60), least: of(280.0, 0.25), most: of(288.0, 0.5) };
        assert_eq!(
            line(&Sample { spread: Some(spread), ..moment }),
            concat!(
                r#"{"at":"2026-11-22T18:43:00Z","step":"1m","close_wait":288,"fd.ratio":0.25,"#,
                r#""least":{"close_wait":280},"most":{"fd.ratio":0.5}}"#
            )
        );
    }
}
