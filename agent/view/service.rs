//! Services as the status page and `/api/v1` show them: in which state each is, its signals with their limits, and their
//! history.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::bulletin::Bulletin;
use super::explanation::{Explanation, PolicyExplained};
use super::status::Status;
use crate::model::policy::{Comparison, Operator};
use crate::model::{Reading, Readings, Reason, Sample, ServiceName, Signal, duration};
use crate::store::ApprovalState;

/// How it stands with a service: what needs a person soonest is the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ServiceState {
    /// Latched: nothing is done until `unwait resolve`.
    Stuck,
    /// A plan waits for a person's word.
    ToApprove,
    /// In breach, and a guard or an open breaker is against acting.
    Held,
    /// An incident is being carried out.
    UnderWay,
    /// In breach: about to act, or the policy only observes.
    Breached,
    /// The condition holds, not yet for long enough.
    Holding,
    /// A signal that a policy needs is not known.
    NotMeasured,
    Quiet,
    /// No policy selects it.
    NoPolicy,
}

impl ServiceState {
    /// In plain words.
    pub fn says(self) -> &'static str {
        match self {
            Self::Stuck => "stuck: needs a person",
            Self::ToApprove => "waits for approval",
            Self::Held => "in breach, held",
            Self::UnderWay => "incident under way",
            Self::Breached => "in breach",
            Self::Holding => "above its limit, not for long",
            Self::NotMeasured => "not measured",
            Self::Quiet => "quiet",
            Self::NoPolicy => "no policy selects it",
        }
    }

    fn of(explanation: &Explanation, status: &Status) -> Self {
        let service = explanation.service.as_str();
        let waits = |approval: &&crate::store::Approval| approval.state == ApprovalState::Pending;
        if status.latches.iter().any(|latch| latch.service == service) {
            return Self::Stuck;
        }
        if status.approvals.iter().filter(waits).any(|approval| approval.service == service) {
            return Self::ToApprove;
        }
        if explanation.under_way.is_some() {
            return Self::UnderWay;
        }
        explanation.policies.iter().map(Self::by).min().unwrap_or(Self::NoPolicy)
    }

    /// By one policy.
    fn by(policy: &PolicyExplained) -> Self {
        match policy.nothing_is_done {
            Some(Reason::Quiet) => Self::Quiet,
            Some(Reason::SignalUnknown) => Self::NotMeasured,
            Some(Reason::NotForLong) => Self::Holding,
            None | Some(Reason::DryRun | Reason::ObserveMode) => Self::Breached,
            Some(_) => Self::Held,
        }
    }
}

/// One service now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceNow {
    pub state: ServiceState,
    /// As far as the agent knows without asking anybody: `held_by` has the guard that it noted last.
    pub explanation: Explanation,
    /// What each policy compares, in its order.
    pub limits: Vec<PolicyLimit>,
}

/// One comparison of a policy's condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyLimit {
    pub policy: String,
    pub limit: Comparison,
}

impl ServiceNow {
    fn of(explanation: Explanation, bulletin: &Bulletin, status: &Status) -> Self {
        let limits = explanation.policies.iter().flat_map(|explained| {
            let policy = &explained.policy;
            let limits = bulletin.limits.get(policy).map_or(&[][..], Vec::as_slice);
            limits.iter().map(|limit| PolicyLimit { policy: policy.clone(), limit: limit.clone() })
        });
        Self { state: ServiceState::of(&explanation, status), limits: limits.collect(), explanation }
    }

    /// The comparison that says most: the first of the policy that wants most to be done, and of several the nearest to its
    /// limit.
    pub fn main_limit(&self) -> Option<&PolicyLimit> {
        let policies = &self.explanation.policies;
        let firsts = policies.iter().filter_map(|explained| {
            let limit = self.limits.iter().find(|limit| limit.policy == explained.policy)?;
            Some((ServiceState::by(explained), limit))
        });
        let near = |limit: &PolicyLimit| nearness(&limit.limit, &self.explanation.signals);
        firsts.min_by(|a, b| a.0.cmp(&b.0).then(near(b.1).total_cmp(&near(a.1)))).map(|(_, limit)| limit)
    }

    fn need(&self) -> (ServiceState, f64) {
        let near = self.main_limit().map_or(0.0, |limit| nearness(&limit.limit, &self.explanation.signals));
        (self.state, -near)
    }

    fn sockets(&self) -> f64 {
        match self.explanation.signals.get(Signal::CloseWait) {
            Reading::Known(count) => count,
            Reading::Unknown => -1.0,
        }
    }
}

/// 1 at the limit, more beyond it; 0 where the signal is unknown.
fn nearness(limit: &Comparison, readings: &Readings) -> f64 {
    let Reading::Known(now) = readings.get(limit.signal) else { return 0.0 };
    let part = match limit.operator {
        Operator::Above | Operator::AtLeast => now / limit.threshold,
        Operator::Below | Operator::AtMost => limit.threshold / now,
    };
    if part.is_finite() { part.clamp(0.0, 1e6) } else { 1e6 }
}

/// In which order services are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ServiceOrder {
    /// What needs a person first, then what is nearest to its limit.
    #[default]
    Need,
    Name,
    /// The most sockets in CLOSE_WAIT first.
    Sockets,
}

/// Which services are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceQuery {
    /// Part of the name, of the state or of a policy's name; in any case.
    pub text: String,
    pub order: ServiceOrder,
    /// From 1.
    pub page: usize,
}

/// Services on one page of a list.
pub const SERVICES_ON_A_PAGE: usize = 50;

/// A page of the list of services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServicesShown {
    /// When everything was last looked at.
    pub looked: Option<Timestamp>,
    /// Why the store's part (what is latched, what is to be approved) is missing.
    pub store_unread: Option<String>,
    pub services: Vec<ServiceNow>,
    /// Those that the query fits.
    pub count: usize,
    pub page: usize,
    pub pages: usize,
    /// Services with few sockets that the agent does not list.
    pub left_out: usize,
}

impl ServicesShown {
    pub fn of(bulletin: &Bulletin, status: &Status, query: &ServiceQuery) -> Self {
        let text = query.text.trim().to_lowercase();
        let mut all: Vec<ServiceNow> = bulletin
            .explained
            .iter()
            .map(|explained| ServiceNow::of(explained.clone(), bulletin, status))
            .filter(|service| fits(service, &text))
            .collect();
        let name = |service: &ServiceNow| service.explanation.service.clone();
        match query.order {
            ServiceOrder::Need => all.sort_by(|a, b| {
                let ((state_a, near_a), (state_b, near_b)) = (a.need(), b.need());
                state_a.cmp(&state_b).then(near_a.total_cmp(&near_b)).then(name(a).cmp(&name(b)))
            }),
            ServiceOrder::Name => all.sort_by_key(name),
            ServiceOrder::Sockets => {
                all.sort_by(|a, b| b.sockets().total_cmp(&a.sockets()).then(name(a).cmp(&name(b))))
            }
        }
        let count = all.len();
        let pages = count.div_ceil(SERVICES_ON_A_PAGE).max(1);
        let page = query.page.clamp(1, pages);
        let services = all.into_iter().skip((page - 1) * SERVICES_ON_A_PAGE).take(SERVICES_ON_A_PAGE).collect();
        Self {
            looked: bulletin.looked,
            store_unread: status.store_unread.clone(),
            services,
            count,
            page,
            pages,
            left_out: bulletin.services_left_out,
        }
    }
}

fn fits(service: &ServiceNow, text: &str) -> bool {
    let has = |words: &str| words.to_lowercase().contains(text);
    has(service.explanation.service.as_str())
        || has(&service.state.to_string())
        || has(service.state.says())
        || service.explanation.policies.iter().any(|policy| has(&policy.policy))
}

/// One service whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceShown {
    /// `None`: the agent does not list it now.
    pub now: Option<ServiceNow>,
    pub looked: Option<Timestamp>,
    /// `None`, with the reason in `store_unread`: it cannot be read.
    pub history: Option<History>,
    pub store_unread: Option<String>,
}

impl ServiceShown {
    pub fn now(bulletin: &Bulletin, status: &Status, service: &ServiceName) -> Option<ServiceNow> {
        let explained = bulletin.explained.iter().find(|explained| explained.service == *service)?;
        Some(ServiceNow::of(explained.clone(), bulletin, status))
    }
}

/// For how long back a history is shown.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    strum::Display,
    strum::EnumString,
    strum::EnumIter,
)]
pub enum HistoryRange {
    #[serde(rename = "1h")]
    #[strum(serialize = "1h")]
    Hour,
    #[default]
    #[serde(rename = "6h")]
    #[strum(serialize = "6h")]
    SixHours,
    #[serde(rename = "24h")]
    #[strum(serialize = "24h")]
    Day,
    #[serde(rename = "7d")]
    #[strum(serialize = "7d")]
    Week,
    #[serde(rename = "31d")]
    #[strum(serialize = "31d")]
    Month,
}

impl HistoryRange {
    /// How far back, and by which steps: 124 of them at the most, each a whole number of those that the store keeps.
    fn lasts(self) -> (Duration, Duration) {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        match self {
            Self::Hour => (minutes(60), minutes(1)),
            Self::SixHours => (minutes(6 * 60), minutes(5)),
            Self::Day => (minutes(24 * 60), minutes(15)),
            Self::Week => (minutes(7 * 24 * 60), minutes(120)),
            Self::Month => (minutes(31 * 24 * 60), minutes(360)),
        }
    }
}

/// A service's signals by steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub range: HistoryRange,
    /// Where the first step begins.
    pub from: Timestamp,
    #[serde(with = "duration::as_text")]
    pub step: Duration,
    pub signals: Vec<SignalHistory>,
}

/// One signal, a value a step; `null`: not looked at, or not known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignalHistory {
    pub signal: Signal,
    pub least: Vec<Option<f64>>,
    pub most: Vec<Option<f64>>,
}

impl History {
    /// From when on samples are needed, and by which steps they are shown, at `now`. `period`: from one look to the next; a
    /// step is long enough for one.
    pub fn grid(range: HistoryRange, period: Duration, now: Timestamp) -> (Timestamp, Duration) {
        let (back, step) = range.lasts();
        let minutes = period.as_secs().div_ceil(60);
        let step = step.max(Duration::from_secs(60 * minutes));
        let seconds = i64::try_from(step.as_secs()).unwrap_or(i64::MAX);
        let steps = i64::try_from(back.as_secs().div_ceil(step.as_secs())).unwrap_or(i64::MAX);
        // Whole steps, so that a picture stays the same until the next one begins.
        let from = (now.as_second().div_euclid(seconds) + 1 - steps) * seconds;
        (Timestamp::from_second(from).unwrap_or(Timestamp::UNIX_EPOCH), step)
    }

    /// Of the samples since the beginning of this grid; `only`: the signals that are wanted, or all.
    pub fn of(
        samples: &[Sample],
        range: HistoryRange,
        (from, step): (Timestamp, Duration),
        only: Option<&BTreeSet<Signal>>,
    ) -> Self {
        let seconds = i64::try_from(step.as_secs()).unwrap_or(i64::MAX).max(1);
        let steps = usize::try_from(range.lasts().0.as_secs().div_ceil(step.as_secs().max(1))).unwrap_or_default();
        let place = |at: Timestamp| usize::try_from((at.as_second() - from.as_second()).div_euclid(seconds)).ok();
        let named = samples.iter().flat_map(|sample| sample.readings.iter().map(|(signal, _)| signal));
        let named: BTreeSet<Signal> = named.filter(|signal| only.is_none_or(|only| only.contains(signal))).collect();
        let signals = named.into_iter().map(|signal| {
            let (mut least, mut most) = (vec![None; steps], vec![None; steps]);
            for sample in samples {
                let Some(at) = place(sample.at).filter(|at| *at < steps) else { continue };
                let (low, high) = sample
                    .spread
                    .as_ref()
                    .map_or((&sample.readings, &sample.readings), |spread| (&spread.least, &spread.most));
                join(&mut least[at], low.get(signal), f64::min);
                join(&mut most[at], high.get(signal), f64::max);
            }
            SignalHistory { signal, least, most }
        });
        Self { range, from, step, signals: signals.collect() }
    }
}

fn join(to: &mut Option<f64>, value: Reading, which: fn(f64, f64) -> f64) {
    if let Reading::Known(value) = value {
        *to = Some(to.map_or(value, |before| which(before, value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Spread;

    #[test]
    fn a_history_has_whole_steps_and_is_silent_where_nobody_looked() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let minutes = |count: u64| Duration::from_secs(60 * count);
        // (range, from one look to the next, now, its beginning, its step)
        for (range, period, now, from, step) in [
            (HistoryRange::Hour, 15, 3_600, 60, 1),
            (HistoryRange::Hour, 15, 3_659, 60, 1),
            (HistoryRange::Hour, 600, 3_659, 600, 10),
            (HistoryRange::SixHours, 15, 21_600, 300, 5),
            (HistoryRange::Month, 15, 31 * 86_400, 4 * 3_600, 360),
        ] {
            let grid = History::grid(range, Duration::from_secs(period), at(now));
            assert_eq!(grid, (at(from), minutes(step)), "{range} at {now}");
        }
        let of = |count: f64| {
            let mut readings = Readings::default();
            readings.set(Signal::CloseWait, count);
            readings.set(Signal::Established, 1.0);
            readings
        };
        let spread = Some(Spread { step: minutes(1), least: of(2.0), most: of(9.0) });
        let samples = [
            Sample::moment(at(0), of(77.0)),
            Sample::moment(at(60), of(5.0)),
            Sample { at: at(90), readings: of(4.0), spread },
            Sample::moment(at(3_650), of(1.0)),
        ];
        let grid = History::grid(HistoryRange::Hour, minutes(0), at(3_659));
        let only = BTreeSet::from([Signal::CloseWait]);
        let history = History::of(&samples, HistoryRange::Hour, grid, Some(&only));
        let [signal] = &history.signals[..] else { panic!("{history:?}") };
        assert_eq!((signal.signal, signal.least.len(), signal.most.len()), (Signal::CloseWait, 60, 60));
        assert_eq!((signal.least[0], signal.most[0]), (Some(2.0), Some(9.0)), "before the grid, nothing counts");
        assert_eq!((signal.least[59], signal.most[59]), (Some(1.0), Some(1.0)));
        assert!(signal.most[1..59].iter().all(Option::is_none));
        assert_eq!(History::of(&samples, HistoryRange::Hour, grid, None).signals.len(), 2);
    }
}
