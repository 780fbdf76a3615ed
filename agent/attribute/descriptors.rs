//! How many descriptors services have open, and how many of them they never closed. Called by the attributor and the sensor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Attributor;
use super::closed::{self, Listed};
use super::processes::{Budget, Unseen};
use crate::model::census::Descriptors;
use crate::model::{Owner, ServiceCensus, ServiceName};

impl Attributor {
    /// Counts the descriptors of those that leak, going on where the last count ran out of its
    /// budget: each gets its turn, whatever its name.
    pub(super) fn count_descriptors(
        &mut self,
        services: &mut BTreeMap<ServiceName, ServiceCensus>,
        budget: &mut Budget,
    ) {
        let mut names: Vec<ServiceName> =
            services.iter().filter(|(_, held)| held.leaks()).map(|(name, _)| name.clone()).collect();
        let first = self.uncounted.take().map_or(0, |from| names.partition_point(|name| *name < from));
        names.rotate_left(first);
        for (at, name) in names.iter().enumerate() {
            let Some(held) = services.get_mut(name) else { continue };
            held.descriptors = self.descriptors(name, held, budget);
            if budget.is_spent() && self.uncounted.is_none() {
                // One that takes a whole budget for itself is not waited for.
                self.uncounted = names.get(at.max(1)).cloned();
            }
        }
    }

    /// Counts the descriptors of this one, also where it leaks nothing any more.
    pub fn count_descriptors_of(&mut self, service: &ServiceName, held: &mut ServiceCensus) {
        held.descriptors = self.descriptors(service, held, &mut Budget::of_a_tick());
    }

    /// Counts the descriptors of one service that it never closed, of the sockets that are not `listed`. False where the
    /// kernel or a sandbox does not let us know.
    pub fn count_closed(&mut self, service: &ServiceName, held: &mut ServiceCensus, listed: &Listed) -> bool {
        let (mut sum, mut holders, mut all_read) = (None, BTreeSet::new(), true);
        let mut budget = Budget::of_a_tick();
        let complete = self.each_process(service, held, &mut budget, &mut |process, budget| {
            let counted = closed::count(process, listed, budget).and_then(|closed| Ok((closed, process.seen()?)));
            match counted {
                Ok((closed, process)) => {
                    *sum.get_or_insert(0) += closed;
                    holders.extend((closed > 0).then_some(process));
                }
                Err(Unseen::Ended) => {}
                Err(Unseen::Hidden) => all_read = false,
            }
        });
        let is_known = complete && all_read;
        held.closed = sum.filter(|_| is_known);
        self.closed.note(service, held, holders);
        if held.leaks() && held.descriptors.is_none() {
            held.descriptors = self.descriptors(service, held, &mut budget);
        }
        is_known
    }

    /// The services whose cgroups are there and that are not among these: they hold nothing in CLOSE_WAIT, and listen nowhere.
    pub fn quiet(&self, known: &BTreeMap<ServiceName, ServiceCensus>) -> BTreeMap<ServiceName, ServiceCensus> {
        let mut quiet: BTreeMap<ServiceName, ServiceCensus> = BTreeMap::new();
        for (id, path) in self.cgroups.ids() {
            if let (Owner::Service(name), Some(root)) = self.owner(&path)
                && root == path
                && !known.contains_key(&name)
            {
                quiet.entry(name).or_default().cgroups.insert(id);
            }
        }
        quiet
    }

    /// Counts the descriptors; `None` where a process of the service could not be read, since a part of a count is
    /// not the count.
    pub(super) fn descriptors(
        &mut self,
        name: &ServiceName,
        held: &ServiceCensus,
        budget: &mut Budget,
    ) -> Option<Descriptors> {
        let mut sum = None;
        let mut all_read = true;
        let complete = self.each_process(name, held, budget, &mut |process, _| {
            let read = || -> Result<(u64, f64, Duration), Unseen> {
                let used = process.open_descriptors()?;
                let ratio = process.descriptor_limit()?.map_or(0.0, |limit| used as f64 / limit.max(1) as f64);
                Ok((used, ratio.min(1.0), process.started()?))
            };
            match read() {
                Ok((used, ratio, began)) => {
                    let so_far = sum.get_or_insert(Descriptors { used: 0, worst_ratio: 0.0, oldest: began });
                    so_far.used += used;
                    so_far.worst_ratio = so_far.worst_ratio.max(ratio);
                    so_far.oldest = so_far.oldest.min(began);
                }
                Err(Unseen::Ended) => {}
                Err(Unseen::Hidden) => all_read = false,
            }
        });
        sum.filter(|_| complete && all_read)
    }
}
