//! `unwait scan`: one look, a table. Works without a configuration and without root, and says what it could not see.

use std::sync::Arc;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Failure, Outcome, Place, render};
use crate::app;
use crate::app::sensor::{Look, Sensor};
use crate::clock::SystemClock;
use crate::config;
use crate::model::socket::Quality;
use crate::model::{Reading, ServiceName, Signal};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    place: Place,
}

pub fn scan(arguments: Arguments) -> Outcome {
    // Services that only the configuration names are known where there is one; a broken one is `check`'s affair.
    let matches = config::load(&arguments.place.config).map(|config| app::matches(&config)).unwrap_or_default();
    let asked = vec![Signal::Established, Signal::FdUsed, Signal::FdRatio];
    let unreachable = |error: crate::collect::CollectError| Failure::Unreachable(error.to_string());
    let mut sensor = Sensor::new(matches, asked, Arc::new(SystemClock)).map_err(unreachable)?;
    let look = sensor.look().map_err(unreachable)?;
    if arguments.place.json {
        print_json(&look)?
    } else {
        print_table(&look)
    }
    match &look.census.quality {
        Quality::Complete => Ok(()),
        Quality::Partial { why } => Err(Failure::Unreachable(format!("the snapshot is partial: {why}"))),
    }
}

/// Worst first.
fn ranked(look: &Look) -> Vec<&ServiceName> {
    let mut services: Vec<_> = look.census.services.iter().filter(|(_, held)| !held.sockets.is_empty()).collect();
    services.sort_by_key(|(name, held)| (std::cmp::Reverse(held.sockets.len()), (*name).clone()));
    services.into_iter().map(|(name, _)| name).collect()
}

fn print_json(look: &Look) -> Outcome {
    let host = app::host_name().map_err(|error| Failure::Unreachable(error.to_string()))?;
    let services: Vec<Value> = ranked(look)
        .into_iter()
        .map(|name| {
            let mut object = Map::new();
            object.insert("service".into(), json!(name));
            if let Ok(Value::Object(signals)) = serde_json::to_value(look.measurements.of(name)) {
                object.extend(signals.into_iter().filter(|(signal, _)| signal != "host.close_wait"));
            }
            Value::Object(object)
        })
        .collect();
    render::json(&json!({
        "at": look.census.at,
        "host": host,
        "host.close_wait": look.census.host_close_wait(),
        "services": services,
        "unattributed": look.census.unattributed.len(),
        "unattributed_reasons": reasons(look),
        "source": look.snapshot.source,
        "complete": look.census.quality == Quality::Complete,
    }));
    Ok(())
}

/// Why sockets have no owner, counted.
fn reasons(look: &Look) -> std::collections::BTreeMap<&'static str, usize> {
    let mut reasons = std::collections::BTreeMap::new();
    for unattributed in &look.census.unattributed {
        *reasons.entry(unattributed.why.into()).or_default() += 1;
    }
    reasons
}

fn print_table(look: &Look) {
    let columns = [
        Signal::CloseWait,
        Signal::CloseWaitInbound,
        Signal::CloseWaitOutbound,
        Signal::CloseWaitOldest,
        Signal::CloseWaitUnaccepted,
        Signal::CloseWaitUnread,
        Signal::Established,
        Signal::FdUsed,
        Signal::FdRatio,
    ];
    let rows: Vec<Vec<String>> = ranked(look)
        .into_iter()
        .map(|name| {
            let readings = look.measurements.of(name);
            let cell = |signal: &Signal| match readings.get(*signal) {
                Reading::Unknown => "-".to_string(),
                known => known.show(*signal),
            };
            std::iter::once(name.to_string()).chain(columns.iter().map(cell)).collect()
        })
        .collect();
    if rows.is_empty() {
        println!("No service holds a socket in CLOSE_WAIT.");
    } else {
        let headings = [
            "SERVICE",
            ">CLOSE_WAIT",
            ">INBOUND",
            ">OUTBOUND",
            ">OLDEST",
            ">UNACCEPTED",
            ">UNREAD",
            ">ESTABLISHED",
            ">FDS",
            ">FD RATIO",
        ];
        render::table(&headings, &rows);
    }
    let unattributed = look.census.unattributed.len();
    if unattributed > 0 {
        let reasons: Vec<String> = reasons(look).iter().map(|(why, count)| format!("{count} {why}")).collect();
        println!(
            "\n{unattributed} of the host's {} have no owner: {}",
            look.census.host_close_wait(),
            reasons.join(", ")
        );
    }
    if !nix::unistd::geteuid().is_root() {
        println!(
            "\nNot root: descriptors of other users' processes are not seen (CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH show them)."
        );
    }
    if look.snapshot.source == "procfs" {
        println!("\nThe kernel's socket diagnostics are not to be had here; /proc tells neither owners nor ages.");
    }
}
