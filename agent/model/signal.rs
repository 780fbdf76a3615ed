//! Signals: measured quantities of a service over time, by the names that policies, logs, metrics and
//! `--json` use.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::duration;

/// A signal's name, with its window or age where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Sockets in CLOSE_WAIT.
    CloseWait,
    CloseWaitInbound,
    CloseWaitOutbound,
    /// How many have been in CLOSE_WAIT for at least this long; those that still send are left out.
    CloseWaitAged(Duration),
    /// Seconds that the oldest has been in CLOSE_WAIT, at least.
    CloseWaitOldest,
    /// Sockets a minute, over this window; negative when they become fewer.
    CloseWaitGrowth(Duration),
    /// Still in the accept queue: no process has them yet.
    CloseWaitUnaccepted,
    /// Data besides the FIN waits unread.
    CloseWaitUnread,
    /// Closed by the peer while data still leaves: a proxy or a streamed answer, no leak.
    CloseWaitSending,
    /// This service's part of the host's sockets in CLOSE_WAIT, 0 to 1.
    CloseWaitHostShare,
    /// All sockets in CLOSE_WAIT on the host: what Zabbix's `system close_wait` shows.
    HostCloseWait,
    Established,
    /// Open descriptors of the service's processes.
    FdUsed,
    /// Descriptors used over the soft limit, of the worst process, 0 to 1.
    FdRatio,
    /// Descriptors of the service's processes at TCP sockets that were connected once and that no table lists any more:
    /// keepalive or a reset has ended CLOSE_WAIT, and the program has never closed them.
    FdClosed,
    /// Seconds until the process nearest to its soft limit has no descriptor left, at the growth of the last ten
    /// minutes; at most seven days, which stand for: none in sight.
    FdExhaustedIn,
}

/// The unit of a signal's value; decides how a threshold is written and how a value is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Count,
    /// Seconds.
    Time,
    /// 0 to 1, written as `0.2` or `20%`.
    Ratio,
    /// Sockets a minute.
    PerMinute,
}

/// Of an age or a window: no agent is asked to watch for longer before it acts.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

impl Signal {
    /// Every signal's spelling, for messages and near misses.
    pub const SPELLINGS: [&'static str; 16] = [
        "close_wait",
        "close_wait.inbound",
        "close_wait.outbound",
        "close_wait.aged(5m)",
        "close_wait.oldest",
        "close_wait.growth(10m)",
        "close_wait.unaccepted",
        "close_wait.unread",
        "close_wait.sending",
        "close_wait.host_share",
        "host.close_wait",
        "established",
        "fd.used",
        "fd.ratio",
        "fd.closed",
        "fd.exhausted_in",
    ];

    /// Reads a signal's name as a policy spells it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, argument) = match text.split_once('(') {
            Some((name, rest)) => match rest.strip_suffix(')') {
                Some(argument) => (name.trim(), Some(argument.trim())),
                None => return Err(format!("`{text}` lacks its closing parenthesis")),
            },
            None => (text.trim(), None),
        };
        let plain = |signal| match argument {
            None => Ok(signal),
            Some(_) => Err(format!("`{name}` takes no argument")),
        };
        let windowed = |make: fn(Duration) -> Signal, example: &str| match argument {
            Some(argument) => match duration::parse(argument)? {
                Duration::ZERO => Err(format!("`{text}`: the duration must be above zero")),
                window if window > LONGEST => {
                    Err(format!("`{text}`: the duration is {} at most", duration::format(LONGEST)))
                }
                window => Ok(make(window)),
            },
            None => Err(format!("`{name}` needs a duration, such as {example}")),
        };
        match name {
            "close_wait" => plain(Self::CloseWait),
            "close_wait.inbound" => plain(Self::CloseWaitInbound),
            "close_wait.outbound" => plain(Self::CloseWaitOutbound),
            "close_wait.aged" => windowed(Self::CloseWaitAged, "close_wait.aged(5m)"),
            "close_wait.oldest" => plain(Self::CloseWaitOldest),
            "close_wait.growth" => windowed(Self::CloseWaitGrowth, "close_wait.growth(10m)"),
            "close_wait.unaccepted" => plain(Self::CloseWaitUnaccepted),
            "close_wait.unread" => plain(Self::CloseWaitUnread),
            "close_wait.sending" => plain(Self::CloseWaitSending),
            "close_wait.host_share" => plain(Self::CloseWaitHostShare),
            "host.close_wait" => plain(Self::HostCloseWait),
            "established" => plain(Self::Established),
            "fd.used" => plain(Self::FdUsed),
            "fd.ratio" => plain(Self::FdRatio),
            "fd.closed" => plain(Self::FdClosed),
            "fd.exhausted_in" => plain(Self::FdExhaustedIn),
            other => Err(format!("`{other}` is no signal; the signals are {}", Self::SPELLINGS.join(", "))),
        }
    }

    pub fn unit(self) -> Unit {
        match self {
            Self::CloseWaitOldest | Self::FdExhaustedIn => Unit::Time,
            Self::CloseWaitGrowth(_) => Unit::PerMinute,
            Self::CloseWaitHostShare | Self::FdRatio => Unit::Ratio,
            _ => Unit::Count,
        }
    }

    /// The longest interval at which it can be known at all, where it is taken from a window: a growth needs five looks
    /// in its own (`measure/growth.rs`), a forecast ten in ten minutes (`measure/exhaustion.rs`).
    pub fn longest_interval(self) -> Option<Duration> {
        match self {
            Self::CloseWaitGrowth(window) => Some(window / 4),
            Self::FdExhaustedIn => Some(Duration::from_secs(60)),
            _ => None,
        }
    }

    /// How long a service must have been watched since it began before it is known at all.
    pub fn watched_for(self) -> Option<Duration> {
        match self {
            Self::CloseWaitGrowth(window) => Some(window),
            Self::FdExhaustedIn => Some(Duration::from_secs(600)),
            _ => None,
        }
    }

    /// Speaks of the whole host, not of one service.
    pub fn is_of_the_host(self) -> bool {
        self == Self::HostCloseWait
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CloseWait => f.write_str("close_wait"),
            Self::CloseWaitInbound => f.write_str("close_wait.inbound"),
            Self::CloseWaitOutbound => f.write_str("close_wait.outbound"),
            Self::CloseWaitAged(age) => write!(f, "close_wait.aged({})", duration::format(*age)),
            Self::CloseWaitOldest => f.write_str("close_wait.oldest"),
            Self::CloseWaitGrowth(window) => write!(f, "close_wait.growth({})", duration::format(*window)),
            Self::CloseWaitUnaccepted => f.write_str("close_wait.unaccepted"),
            Self::CloseWaitUnread => f.write_str("close_wait.unread"),
            Self::CloseWaitSending => f.write_str("close_wait.sending"),
            Self::CloseWaitHostShare => f.write_str("close_wait.host_share"),
            Self::HostCloseWait => f.write_str("host.close_wait"),
            Self::Established => f.write_str("established"),
            Self::FdUsed => f.write_str("fd.used"),
            Self::FdRatio => f.write_str("fd.ratio"),
            Self::FdClosed => f.write_str("fd.closed"),
            Self::FdExhaustedIn => f.write_str("fd.exhausted_in"),
        }
    }
}

impl serde::Serialize for Signal {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Signal {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A signal's value now. Unknown is never a breach, and is shown as unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reading {
    /// In the signal's own unit: a count, seconds, a ratio, or a count per minute.
    Known(f64),
    Unknown,
}

/// The signals of one service at one moment. A signal that is absent is unknown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    known: BTreeMap<Signal, f64>,
    /// The signals whose value is a lower bound.
    at_least: BTreeSet<Signal>,
}

impl Readings {
    pub fn set(&mut self, signal: Signal, value: f64) {
        self.known.insert(signal, value);
    }

    /// Known to be at least as much.
    pub fn set_at_least(&mut self, signal: Signal, value: f64) {
        self.set(signal, value);
        self.at_least.insert(signal);
    }

    /// As a person reads it: `11s`, `>= 11s` where it is a lower bound, or `unknown`.
    pub fn show(&self, signal: Signal) -> String {
        let bound = if self.at_least.contains(&signal) { ">= " } else { "" };
        format!("{bound}{}", self.get(signal).show(signal))
    }

    pub fn get(&self, signal: Signal) -> Reading {
        self.known.get(&signal).map_or(Reading::Unknown, |value| Reading::Known(*value))
    }

    pub fn iter(&self) -> impl Iterator<Item = (Signal, f64)> + '_ {
        self.known.iter().map(|(signal, value)| (*signal, *value))
    }

    pub fn extend(&mut self, other: &Readings) {
        self.known.extend(other.iter());
        self.at_least.extend(&other.at_least);
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// These readings without the ones that `other` has alike.
    pub fn that_differ_from(&self, other: &Readings) -> Readings {
        let known = self.iter().filter(|(signal, value)| other.known.get(signal) != Some(value)).collect();
        Readings { known, at_least: self.at_least.clone() }
    }

    /// Each with its value as JSON has it, `>= ` before a lower bound.
    pub fn written(&self) -> impl Iterator<Item = (Signal, String)> + '_ {
        self.known.iter().map(|(signal, value)| {
            let bound = if self.at_least.contains(signal) { ">= " } else { "" };
            let value = serde_json::to_string(&Number(*value)).unwrap_or_default();
            (*signal, format!("{bound}{value}"))
        })
    }

    /// Writes them as entries of a map that has others besides.
    pub fn serialize_into<M: serde::ser::SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        self.known.iter().try_for_each(|(signal, value)| {
            map.serialize_entry(&signal.to_string(), &Number(*value))?;
            match self.at_least.contains(signal) {
                true => map.serialize_entry(&format!("{signal}{AT_LEAST}"), &true),
                false => Ok(()),
            }
        })
    }
}

/// Behind the name of a signal whose value is a lower bound: `"close_wait.oldest.at_least": true`.
pub const AT_LEAST: &str = ".at_least";

/// `{"close_wait": 288, "close_wait.oldest": 41.5}`: the signals' own names as keys.
impl serde::Serialize for Readings {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        self.serialize_into(&mut map)?;
        serde::ser::SerializeMap::end(map)
    }
}

/// Reads the whole mapping: an entry that is neither a signal nor its bound is an error.
impl<'de> serde::Deserialize<'de> for Readings {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut readings = Readings::default();
        for (key, value) in BTreeMap::<String, serde_json::Value>::deserialize(from)? {
            let (name, is_bound) = key.strip_suffix(AT_LEAST).map_or((key.as_str(), false), |name| (name, true));
            let signal = Signal::parse(name).map_err(serde::de::Error::custom)?;
            match (is_bound, value.as_f64()) {
                (true, _) => drop(readings.at_least.insert(signal)),
                (false, Some(value)) => readings.set(signal, value),
                (false, None) => return Err(serde::de::Error::custom(format!("{key} is no number"))),
            }
        }
        Ok(readings)
    }
}

/// A whole number is written without a fraction.
struct Number(f64);

impl serde::Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 && self.0.abs() < 9e15 {
            to.serialize_i64(self.0 as i64)
        } else {
            to.serialize_f64((self.0 * 1e4).round() / 1e4)
        }
    }
}

impl Unit {
    /// Shows a value as a person reads it.
    pub fn show(self, value: f64) -> String {
        match self {
            Unit::Count => format!("{value:.0}"),
            Unit::Time => duration::format(Duration::from_secs(value.max(0.0) as u64)),
            Unit::Ratio => format!("{:.1}%", value * 100.0),
            Unit::PerMinute => format!("{value:+.1}/min"),
        }
    }
}

impl Reading {
    /// Shows a reading of `signal` as a person reads it; `unknown` where it is unknown.
    pub fn show(self, signal: Signal) -> String {
        match self {
            Reading::Known(value) => signal.unit().show(value),
            Reading::Unknown => "unknown".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read_and_written_alike() {
        for text in Signal::SPELLINGS {
            assert_eq!(Signal::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_signal_says_what_is_wrong() {
        for (text, says) in [
            ("close_wate", "is no signal"),
            ("close_wait.aged", "needs a duration"),
            ("close_wait.aged(5m", "closing parenthesis"),
            ("close_wait.aged(0s)", "above zero"),
            ("close_wait.growth(31d)", "is 30d at most"),
            ("close_wait(5m)", "takes no argument"),
            ("fd.exhausted_in(5m)", "takes no argument"),
        ] {
            let error = Signal::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
