//! What has to be so in the end: each service in service and healthy, or latched and told, and no slot held by nobody.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::agent::{PER_SERVICE, service};
use super::doors::Door;
use super::host::{Host, NAME, Shared};
use super::scenario::{CHAOS_ENDS, Release};
use crate::clock::Clock;
use crate::model::policy::MinHealthy;
use crate::model::{EventKind, IncidentId, Marker};
use crate::ports::fleet::Slot;
use crate::ports::registry::Traffic;

/// From the end of all trouble until everything rests: a saga of thirty seconds, its turn at the next look, its retries
/// after a cooldown, for as many in a row as the slots and `min_healthy` leave no room for beside each other.
pub fn bound(shared: &Shared) -> Duration {
    let hosts = shared.scenario.fates.len() as u32;
    let may_be_out = match shared.scenario.min_healthy {
        MinHealthy::AllOthers => 1,
        MinHealthy::Count(healthy) => hosts.saturating_sub(healthy),
        MinHealthy::Share(healthy) => ((1.0 - healthy) * f64::from(hosts)) as u32,
    };
    // Each slot may be kept by a host that ended stuck, which is out for good.
    let (slots, may_be_out) = (shared.scenario.slots, may_be_out.saturating_sub(shared.scenario.slots));
    let in_a_row = hosts.div_ceil(slots.min(may_be_out).max(1)) + 1;
    // For so long a host that ended stuck may still count twice in min_healthy.
    let counted_twice = if shared.scenario.slots > 1 { 15 * 60 } else { 0 };
    CHAOS_ENDS + Duration::from_secs(300 + counted_twice) + Duration::from_secs(180) * in_a_row
}

/// The slots' document, as it stands.
fn slots(shared: &Shared) -> Vec<Slot> {
    let Some(text) = shared.fleet.get(NAME) else { return Vec::new() };
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(document["slots"].clone()).unwrap()
}

fn traffic(host: &Host) -> Traffic {
    host.shared.registry.traffic(&host.id).expect("nobody deregisters")
}

/// What is not at rest yet, if anything.
pub fn unrest(shared: &Shared, hosts: &[std::sync::Arc<Host>]) -> Option<String> {
    if let Some(host) = hosts.iter().find(|host| !host.is_gone() && host.at_work.load(Ordering::Relaxed)) {
        return Some(format!("{}: a saga is under way", host.name));
    }
    let slots = slots(shared);
    let mut for_good = 0;
    for slot in &slots {
        let holder = hosts.iter().find(|host| host.name == slot.holder).expect("a host of ours");
        let latch = holder.store().latch(&service()).unwrap();
        if holder.is_gone() {
            // Its lease ends, or a person gives its slot back.
            for_good += u32::from(slot.phase.is_begun());
        } else if slot.phase.is_begun() && latch.is_some_and(|latch| latch.incident == slot.incident) {
            for_good += 1;
        } else {
            return Some(format!("{slot:?} is held by nobody"));
        }
    }
    let others = hosts.iter().filter(|host| traffic(host) == Traffic::Passing).count() as u32;
    hosts.iter().filter(|host| !host.is_gone()).find_map(|host| {
        let store = host.store();
        let unrest = |what: &str| Some(format!("{}: {what}", host.name));
        if !store.open_incidents().unwrap().is_empty() {
            return unrest("a saga is under way");
        }
        let leaking = host.service().leaking && store.latch(&service()).unwrap().is_none();
        let enough = shared.scenario.min_healthy.allows(others.saturating_sub(1), hosts.len() as u32);
        let in_traffic = traffic(host) == Traffic::Passing;
        let nobody = IncidentId(String::new());
        let spent = || {
            let (now, per) = (Door(std::sync::Arc::clone(host)).now(), Duration::from_secs(6 * 3_600));
            store.changes_since(Some(&service()), false, now, per, &nobody).unwrap().len() as u32 >= PER_SERVICE
        };
        if leaking && for_good < shared.scenario.slots && enough && in_traffic && !spent() {
            return unrest("it leaks, and nothing is against acting");
        }
        None
    })
}

/// What each host has to be like at rest.
pub fn promises(shared: &Shared, hosts: &[std::sync::Arc<Host>]) -> Result<(), String> {
    let slots = slots(shared);
    let is_stuck = |host: &&std::sync::Arc<Host>| host.store().latch(&service()).unwrap().is_some();
    let stuck = hosts.iter().filter(|host| !host.is_gone()).filter(is_stuck).count();
    if stuck > shared.scenario.slots as usize {
        return Err(format!("{stuck} hosts are stuck, and there are {} slots", shared.scenario.slots));
    }
    for host in hosts.iter().filter(|host| !host.is_gone()) {
        let store = host.store();
        let traffic = traffic(host);
        let real = host.service().clone();
        let seen = shared.observer().hosts[host.index].clone();
        let broken = |what: &str| Err(format!("{}: {what}: {real:?}, {traffic:?}", host.name));
        let drained = match &traffic {
            Traffic::DrainedBy(Marker { incident, .. }) => Some(incident.0.clone()),
            _ => None,
        };
        if drained.is_some() != seen.drained.is_some() {
            return broken("the registry's content is not what was seen of it");
        }
        match store.latch(&service()).unwrap() {
            Some(latch) => {
                shared.observer().counts.stuck += 1;
                let told = store.undelivered(1_000).unwrap();
                if !told.iter().any(|outgoing| outgoing.message.event == EventKind::Stuck) {
                    return broken("latched, and nobody was told");
                }
                if !slots.iter().any(|slot| slot.holder == host.name && slot.incident == latch.incident) {
                    return broken("stuck, and its slot is another's");
                }
            }
            None if drained.is_some() => return broken("a drain that nobody answers for"),
            // What falls ill long after its incident is no doing of ours.
            None if !real.healthy && host.fate.release != Release::Withers => return broken("ill, and not latched"),
            None => {}
        }
    }
    Ok(())
}
