//! `registries:` of `agent.yaml`: a kind each, whose name is the one that `register` uses.

mod named;

use std::collections::BTreeMap;

use super::fields::{consul_url, file};
use super::tls;
use super::{Compiling, hooks, hours, items, millis, redis as named_redis, secs};
use crate::config::expand::Environment;
use crate::config::host::{RedisConfig, RegistryConfig};
use crate::config::place::Place;
use crate::config::spec::address::HostPort;
use crate::config::spec::host::{
    ConsulRegistrySpec, ConsulScopeSpec, FileSpec, HaProxySpec, HealthFileSpec, RedisProfileSpec, RedisSpec,
    RegistriesSpec,
};
use crate::config::spec::scalar::{FromText, Typed};
use crate::model::{ConsulScope, RedisLayout, RedisProfile};

pub fn compile(
    spec: RegistriesSpec,
    place: &Place,
    to: &mut Compiling,
    environment: Environment,
) -> BTreeMap<String, RegistryConfig> {
    let RegistriesSpec {
        consul: consul_spec,
        exec: exec_spec,
        file: file_spec,
        haproxy: haproxy_spec,
        health_file: health_file_spec,
        http: http_spec,
        redis: redis_spec,
        etcd,
        zookeeper,
        nacos,
        eureka,
    } = spec;
    let at = |key: &str| place.key(key);
    let mut registries = BTreeMap::new();
    let mut add = |name: &str, registry| registries.insert(name.to_owned(), registry);
    if let Some(spec) = consul_spec {
        add("consul", consul(spec, &at("consul"), to, environment));
    }
    if let Some(FileSpec { path }) = file_spec {
        let place = at("file");
        let path = to.required(&place, "path", path, "/var/lib/unwait/registry.json");
        let path = path.map(|Typed(text)| to.path(&place.key("path"), text)).unwrap_or_default();
        add("file", RegistryConfig::File { path });
    }
    if let Some(spec) = haproxy_spec {
        add("haproxy", haproxy(spec, &at("haproxy"), to));
    }
    if let Some(spec) = redis_spec {
        add("redis", redis(spec, &at("redis"), to, environment));
    }
    if let Some(spec) = health_file_spec {
        add("health_file", health_file(spec, &at("health_file"), to));
    }
    if let Some(spec) = etcd {
        add("etcd", named::etcd(spec, &at("etcd"), to, environment));
    }
    if let Some(spec) = zookeeper {
        add("zookeeper", named::zookeeper(spec, &at("zookeeper"), to, environment));
    }
    if let Some(spec) = nacos {
        add("nacos", named::nacos(spec, &at("nacos"), to, environment));
    }
    if let Some(spec) = eureka {
        add("eureka", named::eureka(spec, &at("eureka"), to, environment));
    }
    hooks::compile(exec_spec, http_spec, place, to, environment, &mut registries);
    registries
}

fn health_file(spec: HealthFileSpec, place: &Place, to: &mut Compiling) -> RegistryConfig {
    let directory = to.required(place, "directory", spec.directory, "/run/health");
    RegistryConfig::HealthFile {
        directory: directory.map(|Typed(text)| to.path(&place.key("directory"), text)).unwrap_or_default(),
        hold_every: to.duration(&place.key("hold_every"), spec.hold_every, millis(500), millis(100)..=secs(10)),
    }
}

fn consul(spec: ConsulRegistrySpec, place: &Place, to: &mut Compiling, environment: Environment) -> RegistryConfig {
    let address = to.required(place, "url", spec.url, "\"http://127.0.0.1:8500\"");
    let url = address.map(|Typed(text)| consul_url(&place.key("url"), text, to)).unwrap_or_default();
    let tls = tls::beside(std::slice::from_ref(&url), spec.tls, place, to, environment);
    let scope = match spec.scope {
        None | Some(ConsulScopeSpec::Service) => ConsulScope::Service,
        Some(ConsulScopeSpec::Node) => ConsulScope::Node,
    };
    RegistryConfig::Consul { url, tls, token_file: file(place, "token_file", spec.token_file, to, environment), scope }
}

/// Every balancer that sends traffic: what is not listed here goes on sending it.
fn haproxy(spec: HaProxySpec, place: &Place, to: &mut Compiling) -> RegistryConfig {
    if spec.sockets.is_empty() && !to.said(&place.key("sockets")) {
        to.wrong_key(place, "`sockets` is missing: add `sockets: [/run/haproxy/admin.sock]`, of every balancer");
    }
    let mut sockets: Vec<String> = Vec::new();
    for (place, Typed(socket)) in items(&place.key("sockets"), spec.sockets) {
        let address = if socket.starts_with('/') { Ok(()) } else { HostPort::from_text(&socket).map(drop) };
        if let Err(why) = address {
            to.wrong(&place, format!("{why}; or a full path such as /run/haproxy/admin.sock"));
        } else if sockets.contains(&socket) {
            to.wrong(&place, "this balancer is listed twice");
        }
        sockets.push(socket);
    }
    RegistryConfig::HaProxy { sockets }
}

const DUBBO_KEY: &str = "/dubbo/{service}/providers";

fn redis(spec: RedisSpec, place: &Place, to: &mut Compiling, environment: Environment) -> RegistryConfig {
    let named = named_redis::Named {
        url: spec.url,
        sentinels: spec.sentinels,
        master: spec.master,
        sentinel: spec.sentinel,
        nodes: spec.nodes,
        tls: spec.tls,
        database: spec.database,
        user: spec.user,
        password_file: spec.password_file,
    };
    let access = named_redis::compile(named, place, to, environment).unwrap_or_else(RedisConfig::nowhere);
    let hold_every = to.duration(&place.key("hold_every"), spec.hold_every, millis(500), millis(100)..=secs(10));
    let profile = to.required(place, "profile", spec.profile, "sorted_set").map(|profile| match profile {
        RedisProfileSpec::Set => RedisProfile::Set,
        RedisProfileSpec::SortedSet => {
            let stale_after = to.required(place, "stale_after", spec.stale_after.clone(), "30s");
            let range = secs(1)..=hours(24);
            let stale_after = to.duration(&place.key("stale_after"), stale_after, secs(30), range);
            RedisProfile::SortedSet { stale_after }
        }
        RedisProfileSpec::Hash => RedisProfile::Hash,
        RedisProfileSpec::TtlKey => RedisProfile::TtlKey,
        RedisProfileSpec::Dubbo => RedisProfile::Dubbo,
    });
    // What is missing has been said; a registry that has errors of its own is there all the same for its services.
    let Some(profile) = profile else {
        let layout = RedisLayout { profile: RedisProfile::Set, key: String::new(), hold_every };
        return RegistryConfig::Redis { access, layout };
    };
    if spec.stale_after.is_some() && !matches!(profile, RedisProfile::SortedSet { .. }) {
        to.wrong_key(&place.key("stale_after"), "only a `sorted_set` has the time of a heartbeat: remove the line");
    }
    let key = match (profile, spec.key) {
        (RedisProfile::Dubbo, None) => Some(Typed(DUBBO_KEY.to_owned())),
        (_, key) => to.required(place, "key", key, "\"rpc:providers:{service}\""),
    };
    let key = key.map(|Typed(key)| key).unwrap_or_default();
    if let Some(wrong) = wrong_key(profile, &key).filter(|_| !key.is_empty()) {
        to.wrong(&place.key("key"), wrong);
    }
    RegistryConfig::Redis { access, layout: RedisLayout { profile, key, hold_every } }
}

fn wrong_key(profile: RedisProfile, key: &str) -> Option<&'static str> {
    let services = key.matches("{service}").count();
    let instances = key.split_once("{service}").map_or(0, |(_, behind)| behind.matches("{instance}").count());
    let anywhere = key.matches("{instance}").count();
    match profile {
        RedisProfile::TtlKey if (services, instances, anywhere) != (1, 1, 1) || key.contains("{service}{instance}") => {
            Some("expected `{service}` once and `{instance}` once behind it, as in \"rpc:{service}:{instance}\"")
        }
        RedisProfile::Dubbo if services != 1 || !key.ends_with("/providers") => {
            Some("expected `{service}` once and `/providers` at the end, as in \"/dubbo/{service}/providers\"")
        }
        RedisProfile::TtlKey | RedisProfile::Dubbo => None,
        _ if (services, anywhere) != (1, 0) => {
            Some("expected `{service}` once and no `{instance}`, as in \"rpc:providers:{service}\"")
        }
        _ => None,
    }
}
