//! Scalars that are read from their text: durations, sizes, addresses, modes. YAML's own types do not matter here:
//! `7801` and `"7801"` are the same text.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::model::Mode;
use crate::model::message::EventKind;
use crate::model::policy::{Budget, Comparison, MinHealthy};
use crate::model::runbook::{Floor, OnTimeout, StopSignal};
use crate::model::window::{Days, Hours, WindowAction};
use crate::model::words::Language;
use crate::model::{ServiceName, Signal, duration};

use super::super::{comparison, words};
use super::Items;

/// What can be read from the text of one scalar.
pub trait FromText: Sized {
    /// Completes "expected …" where something else than a scalar was found.
    const EXPECTED: &'static str;

    /// An error says what was expected, and never holds what may be a secret.
    fn from_text(text: &str) -> Result<Self, String>;
}

/// Begins an error about a key itself: serde's path tells a key from its value no more than a person would.
pub const OF_KEY: &str = "key: ";

/// A scalar of the YAML, read from its text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Typed<T>(pub T);

impl<'de, T: FromText> Deserialize<'de> for Typed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Scalar(PhantomData)).map(Typed)
    }
}

struct Scalar<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_bool<E: de::Error>(self, truth: bool) -> Result<T, E> {
        self.visit_str(if truth { "true" } else { "false" })
    }
}

/// One scalar, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OneOrMany<T> {
    One(T),
    Many(Items<Typed<T>>),
}

impl<'de, T: FromText> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ScalarOrList(PhantomData))
    }
}

struct ScalarOrList<T>(PhantomData<T>);

impl<'de, T: FromText> Visitor<'de> for ScalarOrList<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a list of such", T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        T::from_text(text).map(OneOrMany::One).map_err(E::custom)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        Deserialize::deserialize(de::value::SeqAccessDeserializer::new(list)).map(OneOrMany::Many)
    }
}

impl FromText for String {
    const EXPECTED: &'static str = "text";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl FromText for Duration {
    const EXPECTED: &'static str = "a duration such as 30s";

    fn from_text(text: &str) -> Result<Self, String> {
        duration::parse(text)
    }
}

impl FromText for ServiceName {
    const EXPECTED: &'static str = "a service such as rpc-order.service";

    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl FromText for Comparison {
    const EXPECTED: &'static str = "a comparison such as `close_wait.aged(5m) > 200`";

    fn from_text(text: &str) -> Result<Self, String> {
        comparison::parse(text)
    }
}

impl FromText for Signal {
    const EXPECTED: &'static str = "a signal such as close_wait.aged(5m)";

    fn from_text(text: &str) -> Result<Self, String> {
        comparison::parse_signal(text)
    }
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromText for Bytes {
    const EXPECTED: &'static str = "a size such as 2GiB";

    fn from_text(text: &str) -> Result<Self, String> {
        duration::parse_bytes(text).map(Self)
    }
}

/// Free space: a share of the file system, or a size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Free {
    Share(f64),
    Bytes(u64),
}

impl FromText for Free {
    const EXPECTED: &'static str = "a percentage such as 5% or a size such as 1GiB";

    fn from_text(text: &str) -> Result<Self, String> {
        let expected = || format!("expected {}, found `{text}`", Self::EXPECTED);
        match text.strip_suffix('%') {
            Some(percent) => share(percent).map(Self::Share).ok_or_else(expected),
            None => duration::parse_bytes(text).map(Self::Bytes).map_err(|_| expected()),
        }
    }
}

/// A share, written as a percentage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentage(pub f64);

impl FromText for Percentage {
    const EXPECTED: &'static str = "a percentage such as 0.5%";

    fn from_text(text: &str) -> Result<Self, String> {
        let read = text.strip_suffix('%').and_then(share);
        read.map(Self).ok_or_else(|| format!("expected {}, found `{text}`", Self::EXPECTED))
    }
}

/// A percentage without its sign, 0 to 100, as a share.
fn share(percent: &str) -> Option<f64> {
    percent.trim().parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent)).map(|percent| percent / 100.0)
}

impl FromText for MinHealthy {
    const EXPECTED: &'static str = "a count such as 2, a percentage such as 50%, or N-1";

    /// Zero is refused: it would let the last healthy instance be taken out.
    fn from_text(text: &str) -> Result<Self, String> {
        let read = match text.strip_suffix('%') {
            Some(percent) => share(percent).map(Self::Share),
            None if text == "N-1" => Some(Self::AllOthers),
            None => text.parse().ok().map(Self::Count),
        };
        match read {
            Some(Self::Count(0)) => Err("0 would allow taking out the last healthy instance: at least 1".into()),
            Some(Self::Share(share)) if share <= 0.0 => {
                Err("0% would allow taking out the last healthy instance: above 0%".into())
            }
            Some(read) => Ok(read),
            None => Err(format!("expected {}, found `{text}`", Self::EXPECTED)),
        }
    }
}

/// A part of all, above 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

impl FromText for Share {
    const EXPECTED: &'static str = "a percentage such as 55%";

    fn from_text(text: &str) -> Result<Self, String> {
        let read = text.strip_suffix('%').and_then(share).filter(|share| *share > 0.0);
        read.map(Self).ok_or_else(|| format!("expected {}, above 0%, found `{text}`", Self::EXPECTED))
    }
}

/// Hosts that may work on one service at once, or `none`: without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slots {
    None,
    Count(u32),
}

impl FromText for Slots {
    const EXPECTED: &'static str = "a count of hosts such as 1, or none";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "none" => Ok(Self::None),
            Ok(0) => Err("with 0 slots no host could ever act: at least 1, or none for acting without slots".into()),
            Ok(count) => Ok(Self::Count(count)),
            Err(_) => Err(format!("expected {}, found `{text}`", Self::EXPECTED)),
        }
    }
}

impl FromText for Budget {
    const EXPECTED: &'static str = "a budget such as 2 per 6h";

    fn from_text(text: &str) -> Result<Self, String> {
        let expected = || format!("expected {}, found `{text}`", Self::EXPECTED);
        let (count, per) = text.split_once(" per ").ok_or_else(expected)?;
        let incidents: u32 = count.trim().parse().map_err(|_| expected())?;
        let per = duration::parse(per)?;
        if incidents == 0 || per.is_zero() {
            return Err("with a budget of 0 the policy could never act: use `mode: observe` for that".into());
        }
        Ok(Self { incidents, per })
    }
}

impl FromText for Language {
    const EXPECTED: &'static str = "en or zh";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "en" => Ok(Self::En),
            "zh" => Ok(Self::Zh),
            other => Err(format!("`{other}` is no language here: {}", words::offer(other, &["en", "zh"], "languages"))),
        }
    }
}

impl FromText for Mode {
    const EXPECTED: &'static str = "observe, dry-run, approve or auto";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "observe" => Ok(Self::Observe),
            "dry-run" => Ok(Self::DryRun),
            "auto" => Ok(Self::Auto),
            "approve" => Ok(Self::Approve),
            other => Err(format!(
                "`{other}` is no mode: {}",
                words::offer(other, &["observe", "dry-run", "approve", "auto"], "modes")
            )),
        }
    }
}

impl FromText for Days {
    const EXPECTED: &'static str = "days such as mon-fri";

    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl FromText for Hours {
    const EXPECTED: &'static str = "hours such as 09:00-18:00";

    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl FromText for WindowAction {
    const EXPECTED: &'static str = "allow or deny";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            other => Err(format!("`{other}` is no action: {}", words::offer(other, &["allow", "deny"], "actions"))),
        }
    }
}

/// The name of a time zone that this host knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(pub String);

impl FromText for Zone {
    const EXPECTED: &'static str = "a time zone such as Asia/Shanghai";

    /// The host's own database is asked (/usr/share/zoneinfo); where it has none, the one that the agent brings along.
    fn from_text(text: &str) -> Result<Self, String> {
        let database = jiff::tz::db();
        if database.get(text).is_ok() {
            return Ok(Self(text.into()));
        }
        let known: Vec<String> = database.available().map(|name| name.to_string()).collect();
        let names = known.iter().map(String::as_str);
        // People write the city, or what comes before it, alone.
        let city = |name: &&str| name.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(text));
        let near = names.clone().find(city).or_else(|| words::nearest(text, names));
        Err(match near {
            Some(near) => format!("`{text}` is no time zone: did you mean `{near}`?"),
            None => format!("`{text}` is no time zone: expected a name such as Asia/Shanghai, Europe/Berlin or UTC"),
        })
    }
}

impl FromText for Floor {
    const EXPECTED: &'static str = "a count of workers such as 4, or a percentage such as 50%";

    /// Nothing is refused: it would let all workers be ended at once.
    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| format!("expected {}, above 0, found `{text}`", Self::EXPECTED))
    }
}

impl FromText for StopSignal {
    const EXPECTED: &'static str = "a signal such as TERM";

    /// With or without `SIG`. KILL is none: it asks for nothing.
    fn from_text(text: &str) -> Result<Self, String> {
        const SIGNALS: [&str; 6] = ["TERM", "QUIT", "INT", "HUP", "USR1", "USR2"];
        let name = text.strip_prefix("SIG").unwrap_or(text);
        name.parse()
            .map_err(|_| format!("`{text}` is no signal that can be sent: {}", words::offer(text, &SIGNALS, "signals")))
    }
}

impl FromText for OnTimeout {
    const EXPECTED: &'static str = "proceed or unwind";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "proceed" => Ok(Self::Proceed),
            "unwind" => Ok(Self::Unwind),
            other => Err(format!("`{other}` is no way on: {}", words::offer(other, &["proceed", "unwind"], "ways"))),
        }
    }
}

impl FromText for EventKind {
    const EXPECTED: &'static str = "an event such as stuck";

    fn from_text(text: &str) -> Result<Self, String> {
        const EVENTS: [&str; 10] =
            ["breach", "held", "approval", "start", "step", "end", "stuck", "recovered", "operator", "review"];
        match text {
            "breach" => Ok(Self::Breach),
            "held" => Ok(Self::Held),
            "start" => Ok(Self::Start),
            "step" => Ok(Self::Step),
            "end" => Ok(Self::End),
            "stuck" => Ok(Self::Stuck),
            "recovered" => Ok(Self::Recovered),
            "approval" => Ok(Self::Approval),
            "operator" => Ok(Self::Operator),
            "review" => Ok(Self::Review),
            other => Err(format!("`{other}` is no event: {}", words::offer(other, &EVENTS, "events"))),
        }
    }
}

/// When a policy's test expects something: a time, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Never,
    At(Duration),
}

impl FromText for When {
    const EXPECTED: &'static str = "a time such as 2m30s, or never";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self::Never),
            text => {
                duration::parse(text).map(Self::At).map_err(|_| format!("expected {}, found `{text}`", Self::EXPECTED))
            }
        }
    }
}

/// How a `run` says what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    ReadOnly,
    Compensable,
    Pivot,
    Retryable,
}

impl FromText for Declared {
    const EXPECTED: &'static str = "read_only, compensable, pivot or retryable";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "read_only" => Ok(Self::ReadOnly),
            "compensable" => Ok(Self::Compensable),
            "pivot" => Ok(Self::Pivot),
            "retryable" => Ok(Self::Retryable),
            other => Err(format!(
                "`{other}` is no effect: {}",
                words::offer(other, &["read_only", "compensable", "pivot", "retryable"], "effects")
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_undo_a_guard_is_refused() {
        for text in ["0", "0%"] {
            assert!(MinHealthy::from_text(text).unwrap_err().contains("last healthy instance"), "{text}");
        }
        assert!(Slots::from_text("0").is_err());
        assert!(Budget::from_text("0 per 6h").is_err());
        assert!(EventKind::from_text("test").is_err());
    }

    #[test]
    fn each_scalar_is_read_as_it_is_documented() {
        assert_eq!(MinHealthy::from_text("50%"), Ok(MinHealthy::Share(0.5)));
        assert_eq!(MinHealthy::from_text("N-1"), Ok(MinHealthy::AllOthers));
        assert_eq!(MinHealthy::from_text("2"), Ok(MinHealthy::Count(2)));
        assert_eq!(Free::from_text("5%"), Ok(Free::Share(0.05)));
        assert_eq!(Free::from_text("1GiB"), Ok(Free::Bytes(1 << 30)));
        assert_eq!(Slots::from_text("none"), Ok(Slots::None));
        assert_eq!(Budget::from_text("2 per 6h"), Ok(Budget { incidents: 2, per: Duration::from_secs(21_600) }));
        assert_eq!(Zone::from_text("Asia/Shanghai"), Ok(Zone("Asia/Shanghai".into())));
        for (text, near) in [("Asia/Shangai", "Asia/Shanghai"), ("berlin", "Europe/Berlin"), ("New_York", "New_York")] {
            let wrong = Zone::from_text(text).unwrap_err();
            assert!(wrong.contains("is no time zone: did you mean") && wrong.contains(near), "{wrong}");
        }
        assert!(Zone::from_text("../etc/passwd").unwrap_err().contains("expected a name"));
        assert_eq!(When::from_text("2m30s"), Ok(When::At(Duration::from_secs(150))));
    }
}
