//! What the counts do not say by themselves, asked apart from any look.

use std::time::Duration;

use super::Sensor;
use crate::collect::Ask;
use crate::model::Caution;
use crate::model::socket::canonical;

/// How often a running agent looks for the host's network namespaces.
pub const DISCOVER_EVERY: Duration = Duration::from_secs(60);

impl Sensor {
    /// What whoever looks once should know, and what is so of a running agent besides.
    pub fn cautions_of_an_agent(&mut self) -> Vec<Caution> {
        let beside = self.collector.namespaces_beside();
        let new = (beside > 0).then_some(Caution::NewNamespaces { beside, within: DISCOVER_EVERY });
        self.cautions().into_iter().chain(new).collect()
    }

    /// Goes once through all processes, and where a service is found by its ports once through the table.
    pub fn cautions(&mut self) -> Vec<Caution> {
        let own = self.collector.own_namespace();
        let listeners = match self.attributor.has_ports() {
            true => self.collector.snapshot(self.clock.as_ref(), Ask::default()).map(|snapshot| snapshot.listeners),
            false => Ok(Vec::new()),
        };
        self.attributor.cautions(&listeners.unwrap_or_default(), own)
    }

    /// Containers whose userland proxy waits for them to close: one more walk of the table, where there is a proxy.
    pub fn behind_proxies(&mut self) -> Vec<Caution> {
        let proxies = self.attributor.proxies();
        let waiting = if proxies.is_empty() { Ok(Vec::new()) } else { self.collector.waiting_for_the_peer() };
        let waiting = waiting.unwrap_or_default();
        let of = |proxy: &crate::attribute::Proxy| {
            waiting.iter().filter(|row| canonical(row.remote) == canonical(proxy.container)).count()
        };
        let counted = proxies.into_iter().map(|proxy| (of(&proxy), proxy)).filter(|(count, _)| *count > 0);
        let caution = |(connections, proxy): (usize, crate::attribute::Proxy)| Caution::BehindAProxy {
            container: proxy.container,
            host_port: proxy.host_port,
            connections,
        };
        // A port that is published by IPv4 and by IPv6 has two proxies to one container.
        let mut cautions: Vec<Caution> = counted.map(caution).collect();
        cautions.sort();
        cautions.dedup();
        cautions
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use super::*;
    use crate::clock::{Clock, SystemClock};

    /// The container's side does not close: what the proxy has half-closed, and what it has closed, both wait for it.
    #[test]
    fn a_leak_behind_a_userland_proxy_is_seen_from_the_hosts_side() {
        let directory = tempfile::tempdir().unwrap();
        let proxy = directory.path().join("docker-proxy");
        std::fs::write(&proxy, "#!/bin/sh\nread line\n").unwrap();
        std::fs::set_permissions(&proxy, std::fs::Permissions::from_mode(0o755)).unwrap();
        let container = TcpListener::bind("127.0.0.1:0").unwrap();
        let at: SocketAddr = container.local_addr().unwrap();
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        let words =
            ["-proto", "tcp", "-host-ip", "::", "-host-port", "8080", "-container-ip", &ip, "-container-port", &port];
        let mut runs = Command::new(&proxy).args(words).stdin(Stdio::piped()).spawn().unwrap();
        let connected = [(); 3].map(|()| (TcpStream::connect(at).unwrap(), container.accept().unwrap().0));
        let [(half, _leaked), (closed, _too), (open, _works)] = connected;
        half.shutdown(Shutdown::Write).unwrap();
        drop(closed);
        let mut sensor = Sensor::new(Vec::new(), Vec::new(), Arc::new(SystemClock)).unwrap();
        let expected = Caution::BehindAProxy { container: at, host_port: "8080".into(), connections: 2 };
        let deadline = SystemClock.monotonic() + Duration::from_secs(10);
        // Others may have proxies too.
        let mut ours = || {
            let of_ours =
                |caution: &Caution| matches!(caution, Caution::BehindAProxy { container, .. } if *container == at);
            sensor.behind_proxies().into_iter().filter(of_ours).collect::<Vec<_>>()
        };
        let mut seen = ours();
        while seen != std::slice::from_ref(&expected) && SystemClock.monotonic() < deadline {
            seen = ours();
        }
        drop((open, runs.stdin.take()));
        runs.wait().unwrap();
        assert_eq!(seen, [expected]);
        assert_eq!(ours(), [], "there is no proxy any more");
    }
}
