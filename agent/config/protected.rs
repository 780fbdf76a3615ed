//! Services that no pattern selects: a policy must name one in full to act on it.
//!
//! The list is what a host is lost without, or what carries others: the way in, what starts and stops everything
//! else, and where clients find each other. A service that is not in it is not thereby safe to restart.

use crate::model::service::{ServiceKind, ServiceName};

/// Names (without `.service`, and without a template's instance) that begin so, and why.
const PREFIXES: [(&str, &str); 4] = [
    ("systemd-", "systemd itself needs the unit"),
    ("dbus", "systemd and most services of the host talk over this bus"),
    ("NetworkManager", "the network of the host depends on it"),
    ("consul", "this service is the local registry, or a proxy of it"),
];

const NAMES: [(&str, &[&str]); 7] = [
    ("the service is the agent itself", &["unwait"]),
    ("people log in through this service", &["ssh", "sshd", "dropbear", "getty", "serial-getty", "user"]),
    ("the unit belongs to the init system or the host", &["init", "polkit", "networking", "network", "firewalld"]),
    (
        "every container of the host runs below it",
        &["docker", "dockerd", "containerd", "podman", "crio", "kubelet", "k3s", "nomad"],
    ),
    ("the programs that it supervises run below it", &["supervisor", "supervisord", "runit", "monit"]),
    ("services are registered in it", &["etcd", "zookeeper", "nacos", "eureka", "vault"]),
    ("the traffic of other services goes through it", &["haproxy", "nginx", "envoy", "traefik", "keepalived"]),
];

/// Why the service is protected; `None` where it is not.
pub fn protected(service: &ServiceName) -> Option<&'static str> {
    let name = match service.kind() {
        ServiceKind::Unit => service.as_str().trim_end_matches(".service"),
        _ => service.as_str().split_once(':').map_or(service.as_str(), |(_, name)| name),
    };
    let name = name.split('@').next().unwrap_or(name);
    let by_prefix = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, why)| *why);
    by_prefix.or_else(|| NAMES.iter().find(|(_, names)| names.contains(&name)).map(|(why, _)| *why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_is_lost_without_is_protected() {
        for (name, is) in [
            ("unwait.service", true),
            ("sshd.service", true),
            ("ssh@1-10.0.0.1:22-10.0.0.2:9.service", true),
            ("systemd-resolved.service", true),
            ("dbus-broker.service", true),
            ("user@1000.service", true),
            ("consul-template.service", true),
            ("container:haproxy", true),
            ("process:consul", true),
            ("rpc-order.service", false),
            ("nginx-exporter.service", false),
            ("redis-server.service", false),
        ] {
            assert_eq!(protected(&ServiceName::parse(name).unwrap()).is_some(), is, "{name}");
        }
    }
}
