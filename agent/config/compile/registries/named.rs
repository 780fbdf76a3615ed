//! The registries that know an instance by its service and its own name: etcd, ZooKeeper, Nacos, Eureka.

use super::super::Compiling;
use super::super::fields::{login, urls};
use super::super::items;
use super::super::tls;
use crate::config::expand::Environment;
use crate::config::host::{Login, RegistryConfig};
use crate::config::place::Place;
use crate::config::spec::address::HostPort;
use crate::config::spec::host::{ClusterSpec, EtcdRegistrySpec, NacosApiSpec, NacosSpec, ZooKeeperSpec};
use crate::config::spec::scalar::Typed;
use crate::model::{EtcdLayout, NacosApi, NacosLayout};

const OVERRIDE: &str = r#"{"disabled":true,"by":"{marker}"}"#;

pub fn etcd(spec: EtcdRegistrySpec, place: &Place, to: &mut Compiling, environment: Environment) -> RegistryConfig {
    let urls = urls(spec.url, "http://127.0.0.1:2379", place, to);
    let login = named_login(spec.user, spec.password_file, place, to, environment);
    let tls = tls::of_etcd(&urls, spec.tls, login.is_some(), place, to, environment);
    let key = template("key", spec.key, "/services/{service}/{instance}", place, to);
    let override_key = template("override", spec.override_key, "/overrides/{service}/{instance}", place, to);
    if !key.is_empty() && key == override_key {
        to.wrong(
            &place.key("override"),
            "this is the service's own key, which the service may overwrite at any time: name another key",
        );
    }
    let value = spec.value.map_or_else(|| OVERRIDE.into(), |Typed(value)| value);
    if value.matches("{marker}").count() != 1 {
        to.wrong(
            &place.key("value"),
            format!("expected `{{marker}}` once, which says whose drain it is, as in '{OVERRIDE}'"),
        );
    }
    RegistryConfig::Etcd { urls, tls, login, layout: EtcdLayout { key, override_key, value } }
}

fn template(name: &str, text: Option<Typed<String>>, example: &str, place: &Place, to: &mut Compiling) -> String {
    let Some(Typed(text)) = to.required(place, name, text, &format!("\"{example}\"")) else { return String::new() };
    // What stands before the service and behind it is what the keys of a service are found by.
    let fits = text.split_once("{service}").is_some_and(|(before, behind)| {
        let between = behind.find("{instance}").is_some_and(|at| at > 0);
        !before.is_empty() && between && !behind.contains("{service}")
    });
    if !fits || text.matches("{instance}").count() != 1 {
        let says = format!("expected `{{service}}` once and `{{instance}}` once behind it, as in \"{example}\"");
        to.wrong(&place.key(name), says);
    }
    text
}

pub fn zookeeper(spec: ZooKeeperSpec, place: &Place, to: &mut Compiling, environment: Environment) -> RegistryConfig {
    if spec.servers.is_empty() && !to.said(&place.key("servers")) {
        to.wrong_key(place, "`servers` is missing: add `servers: [\"10.0.0.1:2181\"]`");
    }
    let servers = items(&place.key("servers"), spec.servers).map(|(_, Typed(HostPort(server)))| server).collect();
    let root = spec.root.map_or_else(|| "/dubbo".into(), |Typed(root)| root);
    if !root.starts_with('/') || root.ends_with('/') || root.contains("//") {
        to.wrong(&place.key("root"), "expected the path of Dubbo's root node, such as /dubbo");
    }
    let login = named_login(spec.user, spec.password_file, place, to, environment);
    let tls = spec.tls.map(|spec| tls::compile(Some(spec), place, to, environment));
    RegistryConfig::ZooKeeper { servers, tls, root, merge: spec.merge, login }
}

pub fn nacos(spec: NacosSpec, place: &Place, to: &mut Compiling, environment: Environment) -> RegistryConfig {
    let urls = urls(spec.url, "http://127.0.0.1:8848/nacos", place, to);
    let tls = tls::beside(&urls, spec.tls, place, to, environment);
    let login = named_login(spec.user, spec.password_file, place, to, environment);
    let mut name = |key: &str, text: Option<Typed<String>>| {
        let text = text.map(|Typed(text)| text);
        if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
            to.wrong(&place.key(key), "this name is empty: write a name, or remove the line");
        }
        text
    };
    let layout = NacosLayout {
        namespace: name("namespace", spec.namespace),
        group: name("group", spec.group).unwrap_or_else(|| "DEFAULT_GROUP".into()),
        cluster: name("cluster", spec.cluster).unwrap_or_else(|| "DEFAULT".into()),
        api: match spec.api.unwrap_or(NacosApiSpec::Auto) {
            NacosApiSpec::Auto => NacosApi::Auto,
            NacosApiSpec::V1 => NacosApi::V1,
            NacosApiSpec::V2 => NacosApi::V2,
            NacosApiSpec::V3 => NacosApi::V3,
        },
    };
    RegistryConfig::Nacos { urls, tls, login, layout }
}

pub fn eureka(spec: ClusterSpec, place: &Place, to: &mut Compiling, environment: Environment) -> RegistryConfig {
    let urls = urls(spec.url, "http://127.0.0.1:8761/eureka", place, to);
    let tls = tls::beside(&urls, spec.tls, place, to, environment);
    RegistryConfig::Eureka { urls, tls, login: named_login(spec.user, spec.password_file, place, to, environment) }
}

/// Both or neither.
fn named_login(
    user: Option<Typed<String>>,
    password_file: Option<Typed<String>>,
    place: &Place,
    to: &mut Compiling,
    environment: Environment,
) -> Option<Login> {
    let login = login(user, password_file, place, to, environment);
    if login.as_ref().is_some_and(|login| login.user.is_empty()) {
        to.wrong_key(&place.key("password_file"), "a password needs a user: add `user`");
    }
    login
}
