//! The findings of one look over the network namespaces, until they become a snapshot. Pure; called by the collector.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::Ask;
use super::gather::{ByCgroup, Leaks};
use super::namespaces::Discovery;
use super::reader::Source;
use crate::clock::Clock;
use crate::model::socket::{BlindSpot, PassedOver, Quality};
use crate::model::{Detail, Group, Listener, NetNs, Snapshot, Socket};

/// The findings so far of one look over the namespaces.
pub(super) struct Found<'a> {
    pub clock: &'a dyn Clock,
    pub at: Timestamp,
    pub monotonic: Duration,
    pub ask: Ask<'a>,
    pub in_full: bool,
    pub groups: Vec<Group>,
    pub listeners: Vec<Listener>,
    pub sockets: Vec<(usize, Socket)>,
    pub established: Option<BTreeMap<u64, u64>>,
    pub passed_over: PassedOver,
    pub quality: Quality,
    /// The worst source among the namespaces that could be entered.
    pub source: Source,
    /// Namespaces of which only the tables in /proc could be read.
    pub not_entered: usize,
    /// Namespaces of which not even these could be.
    pub not_read: usize,
    /// Namespaces whose sockets of Multipath TCP are counted and not shown.
    pub no_mptcp: usize,
}

impl<'a> Found<'a> {
    pub fn begin(clock: &'a dyn Clock, ask: Ask<'a>, in_full: bool) -> Self {
        Self {
            clock,
            at: clock.now(),
            monotonic: clock.monotonic(),
            ask,
            in_full,
            groups: Vec::new(),
            listeners: Vec::new(),
            sockets: Vec::new(),
            established: ask.established.then(BTreeMap::new),
            passed_over: PassedOver::default(),
            quality: Quality::Complete,
            source: Source::OneWalk,
            not_entered: 0,
            not_read: 0,
            no_mptcp: 0,
        }
    }

    pub fn partial(&mut self, why: String) {
        self.quality = Quality::Partial { why };
    }

    pub fn absorb(&mut self, leaks: Leaks) {
        let (groups, listeners) = (self.groups.len(), self.listeners.len());
        let Leaks { groups: found, listeners: found_listeners, sockets, .. } = leaks;
        self.groups.extend(found.into_iter().map(|group| Group { via: group.via.map(|via| via + listeners), ..group }));
        self.listeners.extend(found_listeners);
        self.sockets.extend(sockets.into_iter().flatten().map(|(group, socket)| (group + groups, socket)));
    }

    pub fn count(&mut self, counted: ByCgroup) {
        match &mut self.established {
            Some(counts) if !counted.some_untold => {
                counted.counts.into_iter().for_each(|(id, count)| *counts.entry(id).or_default() += count);
            }
            // A part of the count is not the count.
            _ => self.established = None,
        }
    }

    pub fn into_detail(self, namespaces: &Discovery) -> Detail {
        let mut blind_spots = Vec::new();
        if self.not_entered > 0 {
            blind_spots.push(BlindSpot::NotEntered(self.not_entered));
        }
        if self.not_read > 0 {
            blind_spots.push(BlindSpot::NotRead(self.not_read));
        }
        if namespaces.unreadable_processes > 0 {
            blind_spots.push(BlindSpot::HiddenProcesses(namespaces.unreadable_processes));
        }
        if !namespaces.unreadable_mounts.is_empty() {
            blind_spots.push(BlindSpot::HiddenMounts(namespaces.unreadable_mounts.len()));
        }
        if self.source == Source::Proc {
            blind_spots.push(BlindSpot::NoDiagnostics);
        }
        if self.no_mptcp > 0 {
            blind_spots.push(BlindSpot::NoMptcp(self.no_mptcp));
        }
        let snapshot = Snapshot {
            at: self.at,
            monotonic: self.monotonic,
            own: namespaces.namespaces.first().map_or(NetNs::default(), |own| NetNs(own.inode)),
            groups: self.groups,
            listeners: self.listeners,
            established: self.established,
            passed_over: self.passed_over,
            quality: self.quality,
            source: self.source.name(),
            blind_spots,
        };
        Detail { snapshot, sockets: self.sockets }
    }
}
