//! What Consul is told to take a service, or its node, out of traffic.

use super::OF;
use crate::model::{ConsulScope, Marker};

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
