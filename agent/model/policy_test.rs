//! A policy's own test, compiled: samples of signals over time, and when the policy is to breach. `unwait test`
//! lets `decide` run them, with no network and no root.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Reading, Readings, Signal};

#[derive(Clone, Debug, PartialEq)]
pub struct PolicyTest {
    pub name: String,
    /// From one sample to the next; the first is at zero.
    pub step: Duration,
    /// All of one length: a shorter one goes on as unknown. A signal of the policy that is not here is unknown.
    pub series: BTreeMap<Signal, Vec<Reading>>,
    pub expect: Expect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Since the first sample; `None`: never.
    pub breach_at: Option<Duration>,
    pub clear_at: Expected,
}

/// Whether a test says anything of the breach's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Unsaid,
    Never,
    /// Since the first sample.
    At(Duration),
}

impl PolicyTest {
    /// How many samples there are.
    pub fn ticks(&self) -> usize {
        self.series.values().map(Vec::len).max().unwrap_or(0)
    }

    /// Each tick's time since the first, with what was read.
    pub fn samples(&self) -> impl Iterator<Item = (Duration, Readings)> + '_ {
        (0..self.ticks()).map(|tick| {
            let mut readings = Readings::default();
            for (signal, series) in &self.series {
                if let Some(Reading::Known(value)) = series.get(tick) {
                    readings.set(*signal, *value);
                }
            }
            (self.step * u32::try_from(tick).unwrap_or(u32::MAX), readings)
        })
    }
}
