//! A policy, checked and compiled: which services, which condition, for how long, in which mode, which
//! runbook, which limits. Made by `config`, read by `decide`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::alerts::AlertSelector;
use super::mode::{HeldMode, Mode};
use super::runbook::Runbook;
use super::service::ServiceName;
use super::signal::{Reading, Readings, Signal, Unit};
use super::window::Window;

/// Kleene's three truths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    True,
    False,
    Unknown,
}

impl std::ops::Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    #[serde(rename = ">")]
    Above,
    #[serde(rename = ">=")]
    AtLeast,
    #[serde(rename = "<")]
    Below,
    #[serde(rename = "<=")]
    AtMost,
}

impl Operator {
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Below => "<",
            Self::AtMost => "<=",
        }
    }

    pub fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Above => left > right,
            Self::AtLeast => left >= right,
            Self::Below => left < right,
            Self::AtMost => left <= right,
        }
    }
}

/// `close_wait.aged(5m) > 200`, typed: the threshold is in the signal's own unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub signal: Signal,
    pub operator: Operator,
    pub threshold: f64,
}

impl Comparison {
    pub fn truth(&self, readings: &Readings) -> Truth {
        match readings.get(self.signal) {
            Reading::Unknown => Truth::Unknown,
            Reading::Known(value) if self.operator.holds(value, self.threshold) => Truth::True,
            Reading::Known(_) => Truth::False,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threshold = match self.signal.unit() {
            Unit::PerMinute | Unit::Ratio | Unit::Count => format!("{}", self.threshold),
            Unit::Time => Unit::Time.show(self.threshold),
        };
        write!(f, "{} {} {threshold}", self.signal, self.operator.symbol())
    }
}

/// Comparisons joined by all / any, nested freely.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    #[serde(untagged)]
    Compare(Comparison),
}

impl Condition {
    /// Kleene's logic: `all` is false as soon as one is false, `any` true as soon as one is true, whatever
    /// is unknown beside it.
    pub fn truth(&self, readings: &Readings) -> Truth {
        self.truth_by(&|comparison| comparison.truth(readings))
    }

    /// The same, where what is so of each comparison is known otherwise.
    pub fn truth_by(&self, of: &dyn Fn(&Comparison) -> Truth) -> Truth {
        match self {
            Self::Compare(comparison) => of(comparison),
            Self::All(parts) => fold(parts, of, Truth::False, Truth::True),
            Self::Any(parts) => fold(parts, of, Truth::True, Truth::False),
        }
    }

    /// The least age of the sockets in CLOSE_WAIT that it can come to hold by; zero where it asks for none.
    pub fn least_age(&self) -> Duration {
        self.age().unwrap_or_default()
    }

    /// The same; `None` where it is not about them.
    pub fn age(&self) -> Option<Duration> {
        match self {
            Self::Compare(comparison) => match comparison.signal {
                Signal::CloseWaitAged(least) => Some(least),
                signal if signal.to_string().contains("close_wait") => Some(Duration::ZERO),
                _ => None,
            },
            Self::All(parts) => parts.iter().filter_map(Self::age).max(),
            Self::Any(parts) => parts.iter().filter_map(Self::age).min(),
        }
    }

    /// Every comparison in it, in the order written.
    pub fn comparisons(&self) -> Vec<&Comparison> {
        match self {
            Self::Compare(comparison) => vec![comparison],
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::comparisons).collect(),
        }
    }
}

fn fold(parts: &[Condition], of: &dyn Fn(&Comparison) -> Truth, decisive: Truth, otherwise: Truth) -> Truth {
    let mut result = otherwise;
    for part in parts {
        match part.truth_by(of) {
            truth if truth == decisive => return decisive,
            Truth::Unknown => result = Truth::Unknown,
            _ => {}
        }
    }
    result
}

/// Which services a policy speaks of.
#[derive(Clone, Debug)]
pub enum Selector {
    /// A name in full: the only form that selects a protected service.
    Name(String),
    Glob(globset::GlobMatcher),
    Label {
        key: String,
        value: String,
    },
}

impl Selector {
    /// `labels`: the service's own, not the host's.
    pub fn selects(&self, service: &ServiceName, labels: Option<&BTreeMap<String, String>>) -> bool {
        match self {
            Self::Name(name) => name == service.as_str(),
            Self::Glob(glob) => glob.is_match(service.as_str()),
            Self::Label { key, value } => labels.and_then(|labels| labels.get(key)) == Some(value),
        }
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(a), Self::Name(b)) => a == b,
            (Self::Glob(a), Self::Glob(b)) => a.glob() == b.glob(),
            (Self::Label { key, value }, Self::Label { key: other_key, value: other_value }) => {
                (key, value) == (other_key, other_value)
            }
            _ => false,
        }
    }
}

impl Eq for Selector {}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Glob(glob) => f.write_str(glob.glob().glob()),
            Self::Label { key, value } => write!(f, "{key}: {value}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub incidents: u32,
    #[serde(with = "super::duration::as_text")]
    pub per: Duration,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per {}", self.incidents, super::duration::format(self.per))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Counted from the end of an incident that changed something.
    #[serde(with = "super::duration::as_text")]
    pub cooldown: Duration,
    pub per_service: Budget,
    /// Over all policies of this host.
    pub per_host: Budget,
    /// The longest wait after a breach before acting. `None`: as long as the host's file derives.
    #[serde(default)]
    pub jitter: Option<Duration>,
    /// How long a person has to say their word on a plan, and it to begin.
    #[serde(default = "approval_expires", with = "super::duration::as_text")]
    pub approval_expires: Duration,
}

fn approval_expires() -> Duration {
    Duration::from_secs(30 * 60)
}

impl Default for Limits {
    fn default() -> Self {
        let hours = |h: u64| Duration::from_secs(h * 3_600);
        Self {
            cooldown: Duration::from_secs(30 * 60),
            per_service: Budget { incidents: 2, per: hours(6) },
            per_host: Budget { incidents: 4, per: hours(6) },
            jitter: None,
            approval_expires: approval_expires(),
        }
    }
}

/// How many other instances must be healthy before this one may be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MinHealthy {
    Count(u32),
    /// Others healthy over all registered under that name, 0 to 1.
    Share(f64),
    /// `N-1`: all others.
    AllOthers,
}

impl MinHealthy {
    /// `others` of `registered` (this one included) are healthy: is that enough?
    pub fn allows(self, others_healthy: u32, registered: u32) -> bool {
        match self {
            Self::Count(count) => others_healthy >= count,
            Self::Share(share) => registered > 0 && f64::from(others_healthy) / f64::from(registered) >= share,
            // "All others" of nobody is nobody: the last instance is never taken out.
            Self::AllOthers => others_healthy >= 1 && others_healthy >= registered.saturating_sub(1),
        }
    }
}

impl fmt::Display for MinHealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Share(share) => write!(f, "{}%", share * 100.0),
            Self::AllOthers => f.write_str("N-1"),
        }
    }
}

/// An owner's command that may say no to a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VetoCommand {
    /// The program by its full path, and its arguments.
    pub argv: Vec<String>,
    #[serde(with = "super::duration::as_text")]
    pub deadline: Duration,
}

/// The guards' settings that a policy may change; the guards themselves stand in `decide::guards`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardSettings {
    /// Left out, it is 1 where the runbook drains.
    pub min_healthy: Option<MinHealthy>,
    /// Hosts that may work on one service at once; `None` where the policy says `fleet_slots: none`.
    pub fleet_slots: Option<u32>,
    /// This share, 0 to 1, of the instances registered under the name in breach, where they are three or more: hold.
    #[serde(default)]
    pub common_cause: Option<f64>,
    /// How long `common_cause` and `min_healthy` must not have refused.
    #[serde(default, with = "super::duration::as_optional_text", skip_serializing_if = "Option::is_none")]
    pub calm: Option<Duration>,
    /// While an alert fires that one of these selects: hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<AlertSelector>,
    /// Who is asked before anything is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub veto: Option<VetoCommand>,
    /// When it may act, and when not.
    #[serde(default)]
    pub windows: Vec<Window>,
}

#[derive(Clone, Debug)]
pub struct Policy {
    pub name: String,
    pub description: String,
    pub services: Vec<Selector>,
    pub when: Condition,
    /// `for`: how long the condition must hold without a break.
    pub hold: Duration,
    /// Default: `when` no longer holds.
    pub clear: Option<Condition>,
    /// The mode in force.
    pub mode: Mode,
    /// The policy asks for a mode that its host does not allow.
    pub held_mode: Option<HeldMode>,
    /// With `escalate`, the first rung.
    pub runbook: Runbook,
    /// The further rungs, in order.
    pub further: Vec<Runbook>,
    pub limits: Limits,
    pub guards: GuardSettings,
}

impl Policy {
    /// The mode in force, and where it is less than the policy asks for, why: `auto, held to dry-run by …`.
    pub fn mode_says(&self) -> String {
        self.held_mode.as_ref().map_or_else(|| self.mode.to_string(), ToString::to_string)
    }

    /// The policy's runbooks, in the order in which they are tried.
    pub fn rungs(&self) -> impl Iterator<Item = &Runbook> {
        std::iter::once(&self.runbook).chain(&self.further)
    }

    /// Every signal that the policy's conditions and its runbook's expectations ask for.
    pub fn signals(&self) -> Vec<Signal> {
        let mut signals: Vec<Signal> = std::iter::once(&self.when)
            .chain(&self.clear)
            .flat_map(|condition| condition.comparisons())
            .chain(self.rungs().flat_map(Runbook::expectations))
            .map(|comparison| comparison.signal)
            .collect();
        signals.sort_unstable();
        signals.dedup();
        signals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(threshold: f64) -> Condition {
        Condition::Compare(Comparison { signal: Signal::CloseWait, operator: Operator::Above, threshold })
    }

    fn unknown() -> Condition {
        Condition::Compare(Comparison { signal: Signal::FdUsed, operator: Operator::Above, threshold: 0.0 })
    }

    #[test]
    fn unknown_follows_kleene() {
        let mut readings = Readings::default();
        readings.set(Signal::CloseWait, 10.0);
        let (yes, no) = (compare(5.0), compare(50.0));
        for (condition, truth) in [
            (Condition::All(vec![yes.clone(), unknown()]), Truth::Unknown),
            (Condition::All(vec![unknown(), no.clone()]), Truth::False),
            (Condition::Any(vec![unknown(), yes.clone()]), Truth::True),
            (Condition::Any(vec![no.clone(), unknown()]), Truth::Unknown),
            (Condition::Any(vec![no, Condition::All(vec![yes])]), Truth::True),
        ] {
            assert_eq!(condition.truth(&readings), truth, "{condition:?}");
        }
    }

    #[test]
    fn what_its_conditions_and_each_of_its_rungs_expect_is_measured_for_a_policy() {
        let comparison = |signal| Comparison { signal, operator: Operator::Below, threshold: 20.0 };
        let verify = |signal| super::super::runbook::Step::Verify {
            soak: Duration::from_secs(60),
            expect: vec![comparison(signal)],
        };
        let runbook = |signal| Runbook { name: String::new(), description: String::new(), steps: vec![verify(signal)] };
        let policy = Policy {
            name: String::new(),
            description: String::new(),
            services: Vec::new(),
            when: Condition::All(vec![compare(200.0), Condition::Compare(comparison(Signal::FdRatio))]),
            hold: Duration::ZERO,
            clear: Some(Condition::Compare(comparison(Signal::CloseWaitOldest))),
            mode: Mode::Auto,
            held_mode: None,
            runbook: runbook(Signal::CloseWait),
            further: vec![runbook(Signal::Established)],
            limits: Limits::default(),
            guards: GuardSettings::default(),
        };
        let mut expected = [Signal::CloseWait, Signal::FdRatio, Signal::CloseWaitOldest, Signal::Established].to_vec();
        expected.sort_unstable();
        assert_eq!(policy.signals(), expected);
    }

    #[test]
    fn a_comparison_is_said_as_it_is_written() {
        let said = |signal, operator, threshold| Comparison { signal, operator, threshold }.to_string();
        let aged = Signal::CloseWaitAged(Duration::from_secs(300));
        assert_eq!(said(aged, Operator::Above, 200.0), "close_wait.aged(5m) > 200");
        assert_eq!(said(Signal::FdRatio, Operator::AtLeast, 0.85), "fd.ratio >= 0.85");
        assert_eq!(said(Signal::FdExhaustedIn, Operator::Below, 1_800.0), "fd.exhausted_in < 30m");
        assert_eq!(said(Signal::CloseWait, Operator::AtMost, 20.0), "close_wait <= 20");
    }

    #[test]
    fn thresholds_are_exact_at_the_boundary() {
        let mut readings = Readings::default();
        readings.set(Signal::CloseWait, 200.0);
        for (operator, truth) in [
            (Operator::Above, Truth::False),
            (Operator::AtLeast, Truth::True),
            (Operator::Below, Truth::False),
            (Operator::AtMost, Truth::True),
        ] {
            let comparison = Comparison { signal: Signal::CloseWait, operator, threshold: 200.0 };
            assert_eq!(comparison.truth(&readings), truth, "{comparison}");
        }
    }

    #[test]
    fn the_last_healthy_instance_is_never_spare() {
        for (rule, others, registered, allowed) in [
            (MinHealthy::Count(1), 0, 1, false),
            (MinHealthy::Count(1), 1, 2, true),
            (MinHealthy::Share(0.5), 2, 4, true),
            (MinHealthy::Share(0.5), 1, 4, false),
            (MinHealthy::Share(0.5), 0, 0, false),
            (MinHealthy::AllOthers, 2, 3, true),
            (MinHealthy::AllOthers, 1, 3, false),
            (MinHealthy::AllOthers, 0, 1, false),
        ] {
            assert_eq!(rule.allows(others, registered), allowed, "{rule} of {others}/{registered}");
        }
    }
}
