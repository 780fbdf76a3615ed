//! Which instance of a registry a service of this host is: where it listens, against where the registries say that
//! instances stand. Changes nothing; what is ambiguous is a person's to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use super::{Wiring, servers};
use crate::collect::CollectError;
use crate::model::ServiceName;
use crate::model::Tls;
use crate::model::plan::{Binding, Health, HttpHealth};
use crate::model::socket::{accepts, canonical};

/// What a port that is open does not tell.
const TCP_PASSES: &str =
    "a tcp probe passes on a service that answers 503: where it speaks HTTP, write health: { http: URL }";

/// For a PING, where probing was asked for.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// One service that listens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    pub service: ServiceName,
    pub listening: Vec<SocketAddr>,
    /// Certain: the only instance of its registry that stands where the service listens, and no other service does.
    pub register: Vec<Binding>,
    /// By registry: several may be meant, or another service listens there too.
    pub ambiguous: BTreeMap<String, BTreeSet<String>>,
    /// How its health could be asked; `None` where it listens on several ports and none is registered.
    pub health: Option<Health>,
    /// Of `register`: what will name nobody once the service has restarted, and what to write in its place.
    pub random_ids: Vec<String>,
    /// What frees the sockets that this server leaks, where it is a known one.
    pub advice: Option<&'static str>,
    /// It stands in the host's file already: with its bindings, or without any.
    pub configured: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Discovery {
    /// Those that some registry knows.
    pub services: Vec<Found>,
    /// Those that none does, with where they listen.
    pub unmatched: BTreeMap<ServiceName, Vec<SocketAddr>>,
    /// Registries that could not be asked, and why.
    pub not_asked: BTreeMap<String, String>,
}

/// Looks at this host and asks every registry. With `probe` each port that is bound is asked whether it speaks Redis.
pub async fn discover(wiring: &Wiring, probe: bool) -> Result<Discovery, CollectError> {
    let listening = wiring.sensor.acquire().await.listening()?;
    let mut known = BTreeMap::new();
    let mut not_asked = BTreeMap::new();
    for (name, registry) in &wiring.ports.registries {
        match registry.instances().await {
            Ok(instances) => drop(known.insert(name.clone(), instances)),
            Err(error) => drop(not_asked.insert(name.clone(), error.to_string())),
        }
    }
    let own = own_addresses();
    let (mut services, mut unmatched) = (Vec::new(), BTreeMap::new());
    for mut found in matched(&listening, &known, &own) {
        if found.register.is_empty() && found.ambiguous.is_empty() {
            unmatched.insert(found.service, found.listening);
            continue;
        }
        found.random_ids = found.register.iter().filter_map(|binding| wiring.config.random_id(binding)).collect();
        found.advice = advice(wiring, &found.service).await;
        found.configured = wiring.config.service_config(&found.service).map(|service| !service.bindings.is_empty());
        if let Some(url) = health_url(wiring, &found.register).await {
            found.health = Some(Health::Http(HttpHealth { url, tls: Tls::default() }));
        }
        if let (Some(Health::Tcp(address)), true) = (&found.health, probe) {
            let ping = Health::RedisPing(*address);
            if wiring.ports.probe.ask(&ping, PROBE_DEADLINE).await.is_ok() {
                found.health = Some(ping);
            }
        }
        services.push(found);
    }
    Ok(Discovery { services, unmatched, not_asked })
}

/// As the first registry has it that knows one; one that does not answer this is no reason to propose nothing.
async fn health_url(wiring: &Wiring, register: &[Binding]) -> Option<String> {
    for Binding { registry, id, .. } in register {
        let known = wiring.ports.registries.get(registry)?.health_url(id).await;
        if let Ok(Some(url)) = known {
            return Some(url);
        }
    }
    None
}

/// By its main process, where its restarter tells one that may be looked at.
async fn advice(wiring: &Wiring, service: &ServiceName) -> Option<&'static str> {
    let restart = wiring.config.target_for(service).restart?;
    let main = wiring.ports.restarter(&restart).observe(&restart).await.ok()?.main_pid?;
    servers::advice(&String::from_utf8_lossy(&std::fs::read(format!("/proc/{main}/cmdline")).ok()?))
}

/// The addresses of this host's interfaces, its loopback among them.
fn own_addresses() -> BTreeSet<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    interfaces.filter_map(address).collect()
}

/// Does who listens here answer at that address?
fn answers(listener: SocketAddr, instance: SocketAddr, own: &BTreeSet<IpAddr>) -> bool {
    if instance.ip().is_unspecified() {
        return listener.port() == instance.port();
    }
    own.contains(&instance.ip().to_canonical()) && accepts(listener, instance)
}

fn matched(
    listening: &BTreeMap<ServiceName, Vec<SocketAddr>>,
    known: &BTreeMap<String, Vec<(String, SocketAddr)>>,
    own: &BTreeSet<IpAddr>,
) -> Vec<Found> {
    let stands = |listeners: &[SocketAddr], instance: SocketAddr| {
        listeners.iter().copied().find(|listener| answers(*listener, instance, own))
    };
    let claimed_by = |instance: SocketAddr| listening.values().filter(|all| stands(all, instance).is_some()).count();
    let of = |(service, listeners): (&ServiceName, &Vec<SocketAddr>)| {
        // Java binds IPv4 addresses as IPv6 ones.
        let listeners: BTreeSet<SocketAddr> = listeners.iter().copied().map(canonical).collect();
        let listeners = Vec::from_iter(listeners);
        let (mut register, mut ambiguous, mut bound) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        for (registry, instances) in known {
            let here: Vec<&(String, SocketAddr)> =
                instances.iter().filter(|(_, instance)| stands(&listeners, *instance).is_some()).collect();
            bound.extend(here.iter().filter_map(|(_, instance)| stands(&listeners, *instance)));
            match here.as_slice() {
                [] => {}
                [(id, instance)] if claimed_by(*instance) == 1 => {
                    register.push(Binding::new(registry, id));
                }
                several => {
                    ambiguous.insert(registry.clone(), several.iter().map(|(id, _)| id.clone()).collect());
                }
            }
        }
        // The port that is registered; or the only one.
        let ports: BTreeSet<u16> = listeners.iter().map(SocketAddr::port).collect();
        let at = match (bound.iter().next(), ports.len()) {
            (Some(listener), _) if bound.iter().all(|other| other.port() == listener.port()) => Some(*listener),
            (None, 1) => listeners.first().copied(),
            _ => None,
        };
        Found {
            service: service.clone(),
            listening: listeners,
            register,
            ambiguous,
            health: at.map(|listener| Health::Tcp(reached_at(listener))),
            random_ids: Vec::new(),
            advice: None,
            configured: None,
        }
    };
    listening.iter().map(of).collect()
}

/// Who listens everywhere is asked on the loopback.
fn reached_at(listener: SocketAddr) -> SocketAddr {
    match listener.ip().is_unspecified() {
        true => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.port()),
        false => listener,
    }
}

/// The section `services:` of the host's file, to be reviewed and pasted. What is certain stands there as keys, and all
/// else in comments.
pub fn yaml(discovery: &Discovery) -> String {
    let mut text = String::from("services:\n");
    let mut nothing = true;
    for found in &discovery.services {
        let wanted = (found.configured.is_none() && !found.register.is_empty()) as usize;
        nothing &= wanted == 0;
        let begin = ["#", ""][wanted];
        match found.configured {
            Some(true) => {
                text += &format!("  # {} stands in the file with its registrations already\n", found.service);
                continue;
            }
            Some(false) => text += &format!("  # {} stands in the file already; add to it there:\n", found.service),
            None if wanted == 0 => text += &format!("  # {}: choose, and uncomment:\n", found.service),
            None => {}
        }
        text += &format!("{begin}  - service: {}\n", quoted(found.service.as_str()));
        if !found.register.is_empty() {
            let entry = |binding: &Binding| entry(&binding.registry, &binding.id);
            let entries: Vec<String> = found.register.iter().map(entry).collect();
            text += &format!("{begin}    register: [{}]\n", entries.join(", "));
        }
        for random in &found.random_ids {
            text += &format!("    # {random}\n");
        }
        if let Some(advice) = found.advice {
            text += &format!("    # {advice} (runbooks/README.md)\n");
        }
        for (registry, ids) in &found.ambiguous {
            text += &format!("    # in {registry} it may be any of these, or several, or another service is:\n");
            for id in ids {
                text += &format!("    #   {}\n", entry(registry, id));
            }
        }
        match &found.health {
            Some(Health::Http(http)) => text += &format!("{begin}    health: {{ http: {} }}\n", quoted(&http.url)),
            Some(Health::RedisPing(at)) => text += &format!("{begin}    health: {{ redis_ping: \"{at}\" }}\n"),
            Some(Health::Tcp(at)) => {
                text += &format!("{begin}    health: {{ tcp: \"{at}\" }}\n    # {TCP_PASSES}\n");
            }
            _ => text += &format!("    # health: it listens on {}\n", addresses(&found.listening)),
        }
    }
    if nothing {
        text = text.replacen("services:\n", "services: []\n", 1);
    }
    for (service, listening) in &discovery.unmatched {
        text += &format!("# in no registry: {service}, which listens on {}\n", addresses(listening));
    }
    for why in discovery.not_asked.values() {
        text += &format!("# without an answer: {}\n", why.clone().replace(char::is_control, " "));
    }
    text
}

fn entry(registry: &str, id: &str) -> String {
    format!("{{ registry: {registry}, id: {} }}", quoted(id))
}

/// A JSON string is one of YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn addresses(all: &[SocketAddr]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery(listening: &[(&str, &[&str])], known: &[(&str, &[(&str, &str)])]) -> Discovery {
        let listening = listening.iter().map(|(service, at)| {
            (ServiceName::parse(service).unwrap(), at.iter().map(|address| address.parse().unwrap()).collect())
        });
        let known = known.iter().map(|(registry, instances)| {
            let instance = |(id, at): &(&str, &str)| ((*id).to_owned(), at.parse().unwrap());
            ((*registry).to_owned(), instances.iter().map(instance).collect())
        });
        let own = ["127.0.0.1", "10.0.0.1"].map(|ip| ip.parse().unwrap()).into();
        let services = matched(&listening.collect(), &known.collect(), &own);
        Discovery { services, unmatched: BTreeMap::new(), not_asked: BTreeMap::new() }
    }

    #[test]
    fn a_service_is_the_one_instance_that_stands_where_it_listens() {
        let redis = [("rpc-order/10.0.0.1:7801", "10.0.0.1:7801"), ("rpc-order/10.0.0.2:7801", "10.0.0.2:7801")];
        for (listener, instance, is) in [
            ("0.0.0.0:7801", "10.0.0.1:7801", true),
            ("[::]:7801", "10.0.0.1:7801", true),
            ("10.0.0.1:7801", "10.0.0.1:7801", true),
            ("127.0.0.1:7801", "10.0.0.1:7801", false),
            ("127.0.0.1:7801", "0.0.0.0:7801", true),
            ("[::ffff:10.0.0.1]:7801", "10.0.0.1:7801", true),
            ("[::ffff:0.0.0.0]:7801", "10.0.0.1:7801", true),
            ("10.0.0.1:7801", "[::ffff:10.0.0.1]:7801", true),
            ("[::ffff:10.0.0.1]:7801", "10.0.0.2:7801", false),
            ("[::ffff:127.0.0.1]:7801", "10.0.0.1:7801", false),
            ("0.0.0.0:7801", "10.0.0.2:7801", false),
            ("0.0.0.0:7802", "10.0.0.1:7801", false),
        ] {
            let found = discovery(&[("a.service", &[listener])], &[("consul", &[("a-1", instance)])]).services;
            assert_eq!(found[0].register.len(), usize::from(is), "{listener}, {instance}");
        }
        let both = discovery(
            &[("rpc-order.service", &["0.0.0.0:7801", "0.0.0.0:9100"])],
            &[("consul", &[("rpc-order-1", "10.0.0.1:7801")]), ("redis", &redis)],
        );
        let found = &both.services[0];
        assert_eq!(found.register.len(), 2, "{found:?}");
        assert!(found.ambiguous.is_empty());
        assert_eq!(found.health, Some(Health::Tcp("127.0.0.1:7801".parse().unwrap())));
    }

    #[test]
    fn an_address_that_java_has_bound_is_shown_as_ipv4() {
        let java = discovery(&[("a.service", &["[::ffff:10.0.0.1]:7801"])], &[("eureka", &[("a/1", "10.0.0.1:7801")])]);
        let found = &java.services[0];
        assert_eq!(found.listening, ["10.0.0.1:7801".parse().unwrap()]);
        assert_eq!(found.health, Some(Health::Tcp("10.0.0.1:7801".parse().unwrap())));
    }

    #[test]
    fn what_may_be_meant_in_two_ways_is_left_to_a_person() {
        let two = discovery(
            &[("a.service", &["0.0.0.0:1", "0.0.0.0:2"])],
            &[("consul", &[("a-1", "10.0.0.1:1"), ("a-admin", "10.0.0.1:2")])],
        );
        assert!(two.services[0].register.is_empty());
        assert_eq!(two.services[0].ambiguous["consul"].len(), 2);
        assert_eq!(two.services[0].health, None);
        let shared = discovery(
            &[("a.service", &["0.0.0.0:1"]), ("b.service", &["127.0.0.1:1"])],
            &[("consul", &[("a-1", "127.0.0.1:1")])],
        );
        for found in &shared.services {
            assert!(found.register.is_empty() && found.ambiguous["consul"].contains("a-1"), "{found:?}");
        }
        let text = yaml(&shared);
        assert!(text.starts_with("services: []\n") && text.contains("{ registry: consul, id: \"a-1\" }"), "{text}");
    }

    #[test]
    fn a_health_check_that_the_registry_has_is_written_and_a_tcp_probe_says_what_it_does_not_tell() {
        let mut found = discovery(&[("a.service", &["0.0.0.0:1"])], &[("consul", &[("a-1", "10.0.0.1:1")])]);
        let text = yaml(&found);
        assert!(
            text.contains(
                "    health: { tcp: \"127.0.0.1:1\" }\n    # a tcp probe passes on a service that answers 503"
            ),
            "{text}"
        );
        let url = "http://10.0.0.1:1/health".to_owned();
        found.services[0].health = Some(Health::Http(HttpHealth { url, tls: Tls::default() }));
        let text = yaml(&found);
        assert!(
            text.contains("    health: { http: \"http://10.0.0.1:1/health\" }\n") && !text.contains("503"),
            "{text}"
        );
    }
}
