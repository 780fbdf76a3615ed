//! Who watches from outside: the registry's content and the services themselves, never an agent's word. Told of each
//! effect as it takes place; the first promise that does not hold ends the run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::scenario::Scenario;
use crate::model::Marker;

/// What an agent did not know when it decided is not its doing: the registry's checks lag behind, and from the last
/// question to the effect the fleet's store alone may take two deadlines.
const NOBODY_KNEW: Duration = Duration::from_secs(45);
/// From the last passing probe to the restore that lands.
const PROBED_JUST_NOW: Duration = Duration::from_secs(10);

/// One host, as anybody can see it.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    pub drained: Option<Marker>,
    pub restarting: bool,
    /// Since when it is unhealthy.
    pub ill: Option<Duration>,
    ill_when_drained: bool,
    /// Of the illness that lasts now.
    fell_ill_in_traffic: bool,
}

/// How much was seen, over all runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub events: u64,
    pub drains: u64,
    pub restarts: u64,
    pub restores: u64,
    pub ends: u64,
    pub stuck: u64,
    pub vanished: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.drains += other.drains;
        self.restarts += other.restarts;
        self.restores += other.restores;
        self.ends += other.ends;
        self.stuck += other.stuck;
        self.vanished += other.vanished;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, drains, restarts, restores, ends, stuck, vanished } = self;
        write!(f, "{events} events: {drains} drains, {restarts} restarts, {restores} restores; ")?;
        write!(f, "agents ended {ends} times, {stuck} hosts stuck, {vanished} gone")
    }
}

#[derive(Debug)]
pub struct Observer {
    scenario: Scenario,
    pub hosts: Vec<Outside>,
    restarts_of: BTreeMap<String, u32>,
    restarts_on: Vec<u32>,
    pub counts: Counts,
    pub trace: Vec<String>,
    /// The first promise that was broken.
    pub broken: Option<String>,
}

impl Observer {
    pub fn new(scenario: &Scenario) -> Self {
        let hosts = scenario.fates.len();
        Self {
            scenario: scenario.clone(),
            hosts: vec![Outside::default(); hosts],
            restarts_of: BTreeMap::new(),
            restarts_on: vec![0; hosts],
            counts: Counts::default(),
            trace: Vec::new(),
            broken: None,
        }
    }

    pub fn note(&mut self, at: Duration, host: usize, what: impl fmt::Display) {
        self.counts.events += 1;
        self.trace.push(format!("{:>9.3}s host {host:>3}: {what}", at.as_secs_f64()));
    }

    fn promise(&mut self, holds: bool, host: usize, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(format!("host {host}: {}", what()));
        }
    }

    fn slots_hold(&mut self, host: usize) {
        let at_work = |outside: &Outside| outside.drained.is_some() || outside.restarting;
        let out: Vec<usize> = (0..self.hosts.len()).filter(|host| at_work(&self.hosts[*host])).collect();
        let slots = self.scenario.slots;
        self.promise(out.len() <= slots as usize, host, || format!("{out:?} are out, and there are {slots} slots"));
    }

    /// The registry took a drain: `before` is whose stood there.
    pub fn drained(&mut self, at: Duration, host: usize, marker: &Marker) {
        self.counts.drains += 1;
        self.note(at, host, format_args!("drained for {}", marker.incident));
        let before = self.hosts[host].drained.replace(marker.clone());
        self.promise(before.as_ref().is_none_or(|before| before == marker), host, || {
            format!("drained by two sagas at once, {before:?} and {marker:?}")
        });
        let healthy = self.hosts[host].ill.is_none();
        if before.is_none() {
            self.hosts[host].ill_when_drained = !healthy;
        }
        if before.is_none() && healthy {
            // One that falls ill in traffic is lost by its illness, also where it is taken out of traffic again for that.
            let counts = |other: &Outside| match other.ill {
                Some(since) => {
                    at.saturating_sub(since) < NOBODY_KNEW && (other.drained.is_none() || other.fell_ill_in_traffic)
                }
                None => other.drained.is_none(),
            };
            let others = self.hosts.iter().enumerate().filter(|(index, other)| *index != host && counts(other)).count();
            let (rule, registered) = (self.scenario.min_healthy, self.hosts.len());
            self.promise(rule.allows(others as u32, registered as u32), host, || {
                format!("drained with {others} others of {registered} healthy, and min_healthy is {rule}")
            });
        }
        self.slots_hold(host);
    }

    pub fn restored(&mut self, at: Duration, host: usize) {
        self.counts.restores += 1;
        self.note(at, host, "restored");
        let outside = &mut self.hosts[host];
        outside.drained = None;
        let fine =
            outside.ill.is_none_or(|since| at.saturating_sub(since) < PROBED_JUST_NOW) || outside.ill_when_drained;
        let ill = outside.ill;
        self.promise(fine, host, || format!("put into traffic, and ill since {ill:?}"));
    }

    pub fn restart_begins(&mut self, at: Duration, host: usize) {
        self.counts.restarts += 1;
        self.note(at, host, "restart begins");
        let already = std::mem::replace(&mut self.hosts[host].restarting, true);
        self.promise(!already, host, || "two restarts at once".into());
        match self.hosts[host].drained.clone() {
            Some(marker) => {
                let times = self.restarts_of.entry(marker.incident.0.clone()).or_default();
                *times += 1;
                let times = *times;
                self.promise(times <= 1, host, || format!("{} restarts it {times} times", marker.incident));
            }
            None => self.promise(false, host, || "restarted in traffic, though its runbook drains".into()),
        }
        self.restarts_on[host] += 1;
        let times = self.restarts_on[host];
        self.promise(times <= super::agent::PER_SERVICE, host, || {
            format!("restarted {times} times, beyond its budget")
        });
        self.slots_hold(host);
    }

    pub fn restart_ends(&mut self, at: Duration, host: usize, healthy: bool) {
        self.hosts[host].restarting = false;
        self.note(at, host, if healthy { "comes up" } else { "comes up ill, or not at all" });
    }

    pub fn health(&mut self, at: Duration, host: usize, healthy: bool) {
        let outside = &mut self.hosts[host];
        if !healthy && outside.ill.is_none() {
            outside.fell_ill_in_traffic = outside.drained.is_none();
        }
        outside.ill = if healthy { None } else { outside.ill.or(Some(at)) };
    }
}
