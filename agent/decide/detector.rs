//! When a condition has held for its whole `for`, and when it is over.
//!
//! ```text
//!            when true                 true for the whole `for`
//!   Quiet -------------> Holding(since) ------------------------> Breached
//!     ^                     |                                         |
//!     +---- false, unknown, or a gap of two intervals                 |
//!     +---- cleared: `clear` holds (without one: `when` is false) ----+
//! ```
//!
//! A breach stands from then until it is over, also over an incident, after which the condition must hold for its whole `for`
//! again before anything more is done: people hear of it once.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{Policy, Readings, ServiceName, Truth};

/// A change of a breach at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The condition has held for its whole `for`.
    Breach,
    /// The condition has held for its whole `for` again since an incident ended; the breach was never over.
    StillBreached,
    /// The breach is over.
    Cleared,
}

/// Where one policy stands for one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch {
    #[default]
    Quiet,
    Holding {
        since: Duration,
        last: Duration,
    },
    Breached {
        since: Duration,
    },
}

/// One policy and one service.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Course {
    watch: Watch,
    /// A breach that is not over; since when its condition has held, at least.
    standing: Option<Duration>,
}

impl Course {
    pub fn judge(&mut self, judged: Judged, now: Duration, interval: Duration) -> Option<Change> {
        let (watch, breached) = step(self.watch, judged, now, interval);
        self.watch = watch;
        match (breached, self.standing) {
            (true, Some(_)) => Some(Change::StillBreached),
            (true, None) => {
                self.standing = Some(now.saturating_sub(judged.hold));
                Some(Change::Breach)
            }
            (false, Some(_)) if judged.is_over => {
                self.standing = None;
                Some(Change::Cleared)
            }
            (false, _) => None,
        }
    }
}

/// Every policy's standing for every service.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    watches: BTreeMap<(String, ServiceName), Watch>,
    /// Breaches that are not over; since when the condition of each has held, at least.
    standing: BTreeMap<(String, ServiceName), Duration>,
}

impl Detector {
    /// One tick of one policy and one service, at `now` since boot; ticks are `interval` apart.
    pub fn tick(
        &mut self,
        policy: &Policy,
        service: &ServiceName,
        readings: &Readings,
        now: Duration,
        interval: Duration,
    ) -> Option<Change> {
        self.judge((&policy.name, service), Judged::of(policy, readings), now, interval)
    }

    /// The same, of a condition that is judged already.
    pub fn judge(
        &mut self,
        (policy, service): (&str, &ServiceName),
        judged: Judged,
        now: Duration,
        interval: Duration,
    ) -> Option<Change> {
        let key = (policy.to_owned(), service.clone());
        let watch = self.watches.get(&key).copied().unwrap_or_default();
        let mut course = Course { watch, standing: self.standing.get(&key).copied() };
        let change = course.judge(judged, now, interval);
        match course.standing {
            None => self.standing.remove(&key),
            Some(since) => self.standing.insert(key.clone(), since),
        };
        match course.watch {
            Watch::Quiet => self.watches.remove(&key),
            watch => self.watches.insert(key, watch),
        };
        change
    }

    /// Since when, since boot, the condition has held, or that of a breach that is not over; an incident does not end it.
    pub fn held_since(&self, policy: &str, service: &ServiceName) -> Option<Duration> {
        let standing = self.standing.get(&(policy.to_string(), service.clone())).copied();
        standing.or(match self.watch(policy, service) {
            Watch::Holding { since, .. } | Watch::Breached { since } => Some(since),
            Watch::Quiet => None,
        })
    }

    pub fn watch(&self, policy: &str, service: &ServiceName) -> Watch {
        self.watches.get(&(policy.to_string(), service.clone())).copied().unwrap_or_default()
    }

    /// Nothing is held, or breached, by any policy.
    pub fn is_quiet(&self) -> bool {
        self.watches.is_empty() && self.standing.is_empty()
    }

    /// Since when, since boot, the policy's condition counts as breached for the service.
    pub fn breached_since(&self, policy: &str, service: &ServiceName) -> Option<Duration> {
        match self.watch(policy, service) {
            Watch::Breached { since } => Some(since),
            Watch::Quiet | Watch::Holding { .. } => None,
        }
    }

    /// The services of which this policy's condition counts as breached.
    pub fn breached(&self, policy: &str) -> impl Iterator<Item = &ServiceName> {
        let breached = move |(key, watch): &(&(String, ServiceName), &Watch)| {
            key.0 == policy && matches!(watch, Watch::Breached { .. })
        };
        self.watches.iter().filter(breached).map(|((_, service), _)| service)
    }

    /// The services of which this policy's condition holds now, for long or not.
    pub fn held_or_breached(&self, policy: &str) -> impl Iterator<Item = &ServiceName> {
        self.watches.keys().filter(move |(name, _)| name == policy).map(|(_, service)| service)
    }

    /// The services that a policy watches now, also where they hold nothing any more.
    pub fn watched(&self) -> impl Iterator<Item = &ServiceName> {
        let standing = self.standing.keys().filter(|key| !self.watches.contains_key(key));
        self.watches.keys().chain(standing).map(|(_, service)| service)
    }

    /// After an incident on a service: every policy wants fresh samples and its whole `for` again.
    pub fn rearm(&mut self, service: &ServiceName) {
        self.watches.retain(|(_, watched), _| watched != service);
    }

    /// A new configuration: a policy that is gone, or that asks for something else, begins anew. What was seen of another
    /// condition says nothing of this one.
    pub fn keep_unchanged(
        &mut self,
        before: &[Policy],
        after: &[Policy],
        selects: impl Fn(&Policy, &ServiceName) -> bool,
    ) {
        let asks = |policy: &Policy| (policy.when.clone(), policy.clear.clone(), policy.hold);
        let named = |policies: &[Policy], name: &str| policies.iter().find(|policy| policy.name == *name).map(asks);
        let is_kept = |name: &str, service: &ServiceName| {
            let now = named(after, name);
            let is_selected = after.iter().any(|policy| policy.name == name && selects(policy, service));
            is_selected && now == named(before, name)
        };
        self.watches.retain(|(name, service), _| is_kept(name, service));
        self.standing.retain(|(name, service), _| is_kept(name, service));
    }
}

/// Is a breach of it over?
pub fn is_over(policy: &Policy, readings: &Readings) -> bool {
    match &policy.clear {
        Some(clear) => clear.truth(readings) == Truth::True,
        None => policy.when.truth(readings) == Truth::False,
    }
}

/// What a policy makes of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Does the condition hold?
    pub when: Truth,
    /// Would a breach be over?
    pub is_over: bool,
    /// The policy's `for`.
    pub hold: Duration,
}

impl Judged {
    fn of(policy: &Policy, readings: &Readings) -> Self {
        Self { when: policy.when.truth(readings), is_over: is_over(policy, readings), hold: policy.hold }
    }
}

/// Where it stands after a tick, and whether it came to be breached by it.
fn step(before: Watch, judged: Judged, now: Duration, interval: Duration) -> (Watch, bool) {
    match before {
        Watch::Breached { .. } if judged.is_over => (Watch::Quiet, false),
        Watch::Breached { since } => (Watch::Breached { since }, false),
        Watch::Quiet | Watch::Holding { .. } if judged.when != Truth::True => (Watch::Quiet, false),
        Watch::Quiet => held(now, now, judged.hold),
        // "Without a break": a gap of two intervals is one.
        Watch::Holding { last, .. } if now.saturating_sub(last) >= interval * 2 => held(now, now, judged.hold),
        Watch::Holding { since, .. } => held(since, now, judged.hold),
    }
}

fn held(since: Duration, now: Duration, hold: Duration) -> (Watch, bool) {
    match now.saturating_sub(since) >= hold {
        true => (Watch::Breached { since: now }, true),
        false => (Watch::Holding { since, last: now }, false),
    }
}
