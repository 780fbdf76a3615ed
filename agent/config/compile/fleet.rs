//! `fleet:` of `agent.yaml`: the one store that hosts agree in.

use std::collections::BTreeMap;

use super::fields::{consul_url, file, login, url, urls};
use super::{Compiling, items, redis, tls};
use crate::config::expand::Environment;
use crate::config::host::{FleetConfig, RegistryConfig};
use crate::config::place::Place;
use crate::config::spec::host::{ConsulSpec, FleetLockSpec, FleetSpec};
use crate::config::spec::scalar::{OneOrMany, Typed};

pub fn compile(
    spec: FleetSpec,
    place: &Place,
    to: &mut Compiling,
    environment: Environment,
    registries: &BTreeMap<String, RegistryConfig>,
) -> Option<FleetConfig> {
    match spec {
        FleetSpec::Consul(spec) => consul(spec, &place.key("consul"), to, environment, registries),
        FleetSpec::Etcd(spec) => {
            let place = place.key("etcd");
            let urls = urls(spec.url, "http://127.0.0.1:2379", &place, to);
            let login = login(spec.user, spec.password_file, &place, to, environment);
            if login.as_ref().is_some_and(|login| login.user.is_empty()) {
                to.wrong_key(&place.key("password_file"), "a password needs a user: add `user`");
            }
            let tls = tls::of_etcd(&urls, spec.tls, login.is_some(), &place, to, environment);
            Some(FleetConfig::Etcd { urls, tls, login })
        }
        FleetSpec::Redis(spec) => {
            let spec = *spec;
            let named = redis::Named {
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
            let access = redis::compile(named, &place.key("redis"), to, environment)?;
            Some(FleetConfig::Redis { access, may_lose_slots: spec.may_lose_slots })
        }
        FleetSpec::Fleetlock(FleetLockSpec { url: text, tls: tls_spec, group, id }) => {
            let place = place.key("fleetlock");
            let text = to.required(&place, "url", text, "\"http://airlock.internal:3333\"");
            let group = group.map(|Typed(group)| group);
            let word = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
            if group.as_ref().is_some_and(|group| group.is_empty() || !group.chars().all(word)) {
                to.wrong(&place.key("group"), "a FleetLock group is made of letters, digits, dots and dashes");
            }
            let id = id.map_or_else(|| "{host}/{service}".into(), |Typed(id)| id);
            if !id.contains("{host}") {
                let says = "all hosts would share this one id, and the server would give the lock to all of them at once: \
                            expected {host} in it, as in \"{host}/{service}\" or \"{host}\"";
                to.wrong(&place.key("id"), says);
            }
            let rest = id.replace("{host}", "").replace("{service}", "");
            if rest.contains(['{', '}']) || !rest.chars().all(|c| c.is_ascii_graphic()) {
                to.wrong(&place.key("id"), "expected {host} and {service}, and visible ASCII characters beside them");
            }
            let Typed(text) = text?;
            let url = url(&place.key("url"), text, to);
            let tls = tls::beside(std::slice::from_ref(&url), tls_spec, &place, to, environment);
            Some(FleetConfig::FleetLock { url, tls, group, id })
        }
    }
}

fn consul(
    spec: ConsulSpec,
    place: &Place,
    to: &mut Compiling,
    environment: Environment,
    registries: &BTreeMap<String, RegistryConfig>,
) -> Option<FleetConfig> {
    let ConsulSpec { url: own, tls: own_tls, token_file } = spec;
    let own_token = file(place, "token_file", token_file, to, environment);
    match (own, registries.get("consul")) {
        // An own URL is another Consul: the registry's token is not sent there.
        (Some(own), _) => {
            let urls = consul_urls(own, place, to);
            let tls = tls::beside(&urls, own_tls, place, to, environment);
            Some(FleetConfig::Consul { urls, tls, token_file: own_token })
        }
        (None, Some(RegistryConfig::Consul { url, tls, token_file, .. })) => {
            let urls = vec![url.clone()];
            let tls = match own_tls {
                own @ Some(_) => tls::beside(&urls, own, place, to, environment),
                None => tls.clone(),
            };
            Some(FleetConfig::Consul { urls, tls, token_file: own_token.or_else(|| token_file.clone()) })
        }
        (None, _) => {
            if !to.said(&Place::root().key("registries")) && !to.said(&place.key("url")) {
                to.wrong_key(
                    place,
                    "no Consul is named: add `url: \"http://127.0.0.1:8500\"` here, or `consul` to `registries`",
                );
            }
            None
        }
    }
}

fn consul_urls(spec: OneOrMany<String>, within: &Place, to: &mut Compiling) -> Vec<String> {
    let place = within.key("url");
    match spec {
        OneOrMany::One(text) => vec![consul_url(&place, text, to)],
        OneOrMany::Many(list) if list.is_empty() => {
            urls(Some(OneOrMany::Many(list)), "http://127.0.0.1:8500", within, to)
        }
        OneOrMany::Many(list) => items(&place, list).map(|(place, Typed(text))| consul_url(&place, text, to)).collect(),
    }
}
