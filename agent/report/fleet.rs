//! `unwait fleet` as a document.

use std::collections::BTreeMap;

use super::document::{Document, Section, Table, minute as time};
use crate::model::{IncidentUnderWay, StuckService};
use crate::view::fleet::{FleetShown, HostShown};
use crate::view::slots::HeldSlot;

/// Rows of each table that are listed.
const MOST_ROWS: usize = 1_000;

pub fn document(fleet: &FleetShown) -> Document {
    let FleetShown { at, hosts, unreadable, slots } = fleet;
    let breaches: usize = hosts.iter().map(|host| host.status.breaches.len()).sum();
    let stuck: usize = hosts.iter().map(|host| host.status.stuck.len()).sum();
    let silent = hosts.iter().filter(|host| host.silent).count();
    let mut lines = vec![
        format!("Read at {} from the fleet's store. Each host's words are as old as HEARD says.", time(*at)),
        format!(
            "{} in breach, {} locked until a person has looked, {} held.",
            count(breaches, "service"),
            count(stuck, "service"),
            count(slots.slots.len(), "slot"),
        ),
    ];
    if silent > 0 {
        lines.push(format!(
            "{} told nothing for too long: no agent runs there, or it cannot reach the store. Look there with `unwait status`.",
            count(silent, "host")
        ));
    }
    lines.extend(versions(hosts));
    let errors = unreadable.iter().map(|host| format!("{}: {}", host.host, host.error));
    lines.extend(errors.chain(slots.unreadable.iter().map(|slots| format!("{}: {}", slots.service, slots.error))));
    let tables = [stuck_services(hosts), breached(hosts), under_way(hosts), held_slots(&slots.slots), each_host(hosts)];
    let tables = tables.into_iter().map(|table| table.cut(MOST_ROWS)).filter(|table| !table.rows.is_empty());
    Document {
        title: format!("unwait on {}", count(hosts.len() + unreadable.len(), "host")),
        lines,
        sections: vec![Section { title: "At a glance".into(), tables: tables.collect(), ..Section::default() }],
    }
}

fn count(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Where hosts differ.
fn versions(hosts: &[HostShown]) -> Option<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    hosts.iter().for_each(|host| versions.entry(&host.status.version).or_default().push(&host.host));
    let named = |(version, hosts): (&&str, &Vec<&str>)| match hosts.as_slice() {
        [host] => format!("{version} on {host}"),
        hosts => format!("{version} on {} hosts", hosts.len()),
    };
    (versions.len() > 1).then(|| {
        let each: Vec<String> = versions.iter().map(named).collect();
        format!("The hosts run different versions of unwait: {}.", each.join(", "))
    })
}

fn stuck_services(hosts: &[HostShown]) -> Table {
    let rows = hosts.iter().flat_map(|host| host.status.stuck.iter().map(move |stuck| (host, stuck)));
    let row = |(host, stuck): (&HostShown, &StuckService)| {
        let traffic = if stuck.out_of_traffic { "out" } else { "" };
        vec![stuck.service.clone(), host.host.clone(), time(stuck.since), stuck.reason.clone(), traffic.into()]
    };
    Table {
        title: "Locked until a person has looked (on the host: `unwait status`, then `unwait resolve SERVICE`)",
        headings: vec!["SERVICE", "HOST", "SINCE", "REASON", "TRAFFIC"],
        rows: rows.map(row).collect(),
        left_out: 0,
    }
}

fn breached(hosts: &[HostShown]) -> Table {
    let rows = hosts.iter().flat_map(|host| host.status.breaches.iter().map(move |breach| (host, breach)));
    let mut rows: Vec<Vec<String>> = rows
        .map(|(host, breach)| {
            let held = breach.held.clone().unwrap_or_default();
            vec![breach.service.clone(), breach.policy.clone(), host.host.clone(), time(breach.since), held]
        })
        .collect();
    rows.sort();
    Table {
        title: "In breach",
        headings: vec!["SERVICE", "POLICY", "HOST", "SINCE", "HELD BY"],
        rows,
        left_out: hosts.iter().map(|host| host.status.left_out).sum(),
    }
}

fn under_way(hosts: &[HostShown]) -> Table {
    let rows = hosts.iter().flat_map(|host| host.status.under_way.iter().map(move |open| (host, open)));
    let row = |(host, open): (&HostShown, &IncidentUnderWay)| {
        let dry = if open.dry_run { "dry run" } else { "" };
        vec![open.service.clone(), host.host.clone(), open.step.clone(), dry.into()]
    };
    Table {
        title: "Under way",
        headings: vec!["SERVICE", "HOST", "STEP", ""],
        rows: rows.map(row).collect(),
        left_out: 0,
    }
}

fn held_slots(slots: &[HeldSlot]) -> Table {
    let row = |slot: &HeldSlot| {
        let phase = if slot.ended { "waited, and lost it".into() } else { slot.phase.to_string() };
        vec![slot.service.clone(), slot.holder.clone(), phase, time(slot.since), slot.incident.clone()]
    };
    Table {
        title: "Slots",
        headings: vec!["SERVICE", "HOLDER", "PHASE", "SINCE", "INCIDENT"],
        rows: slots.iter().map(row).collect(),
        left_out: 0,
    }
}

fn each_host(hosts: &[HostShown]) -> Table {
    let row = |host: &HostShown| {
        let state = if host.silent { "silent".to_owned() } else { host.status.state.to_string() };
        let (breaches, stuck) = (host.status.breaches.len().to_string(), host.status.stuck.len().to_string());
        vec![host.host.clone(), host.status.version.clone(), state, time(host.told), breaches, stuck]
    };
    Table {
        title: "Hosts",
        headings: vec!["HOST", "UNWAIT", "AGENT", "HEARD", ">BREACHES", ">LOCKED"],
        rows: hosts.iter().map(row).collect(),
        left_out: 0,
    }
}
