//! What Consul is told to take a service, or its node, out of traffic; and what its checks then tell.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::Check;
use crate::model::{ConsulScope, Marker};
use crate::ports::registry::FoundMarker;

/// Between a marker and what is bound: a node was drained for it, or it is found by where it stands.
const OF: &str = " id=";

pub(super) const NODE_MAINTENANCE: &str = "_node_maintenance";
pub(super) const SCOPES: [ConsulScope; 2] = [ConsulScope::Service, ConsulScope::Node];

/// The path and the query that switch it off, or on: with a marker, and the id that the binding has.
pub(super) fn maintenance<'a>(
    scope: ConsulScope,
    id: &'a str,
    on: Option<(&Marker, &str)>,
) -> (Vec<&'a str>, Vec<(&'static str, String)>) {
    let path = match scope {
        ConsulScope::Service => vec!["agent", "service", "maintenance", id],
        ConsulScope::Node => vec!["agent", "maintenance"],
    };
    let Some((marker, bound)) = on else { return (path, vec![("enable", "false".into())]) };
    // Where the check does not tell what is bound, the reason does.
    let tells = scope == ConsulScope::Service && bound == id;
    let behind = if tells { String::new() } else { format!("{OF}{bound}") };
    (path, vec![("enable", "true".into()), ("reason", format!("{marker}{behind}"))])
}

pub(super) fn maintenance_check(scope: ConsulScope, id: &str) -> String {
    match scope {
        ConsulScope::Service => format!("_service_maintenance:{id}"),
        ConsulScope::Node => NODE_MAINTENANCE.into(),
    }
}

pub(super) fn reason_in(checks: &BTreeMap<String, Value>, check: &str) -> Option<String> {
    checks.get(check).map(|check| check["Notes"].as_str().unwrap_or_default().to_owned())
}

pub(super) fn marker_in(check: &Value) -> Option<FoundMarker> {
    let check = Check::deserialize(check).ok()?;
    let marker = Marker::parse(&check.notes)?;
    let bound = check.notes.split_once(OF).map(|(_, id)| id.to_owned());
    if check.id == NODE_MAINTENANCE {
        return Some(FoundMarker { id: bound.unwrap_or_default(), marker });
    }
    let own = maintenance_check(ConsulScope::Service, &check.service_id);
    (check.id == own).then_some(FoundMarker { id: bound.unwrap_or(check.service_id), marker })
}
