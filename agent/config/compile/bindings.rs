//! `register:` of a service: which instance of which registry it is.

use std::collections::BTreeMap;

use super::{Compiling, hours, secs};
use crate::config::host::RegistryConfig;
use crate::config::place::Place;
use crate::config::spec::host::RegisterSpec;
use crate::config::spec::scalar::Typed;
use crate::config::words;
use crate::model::StandsAt;
use crate::model::plan::Binding;
use crate::model::socket::canonical;

pub fn compile(
    mut spec: RegisterSpec,
    place: &Place,
    to: &mut Compiling,
    registries: &BTreeMap<String, RegistryConfig>,
) -> Option<Binding> {
    let registry = to.required(place, "registry", spec.registry.take(), "consul");
    let by_address = spec.service.is_some() || spec.address.is_some();
    let config = registry.as_ref().and_then(|Typed(registry)| registries.get(registry));
    let id = if by_address { stands_at(&mut spec, place, to, config) } else { own_id(&mut spec, place, to, config) };
    let (Typed(registry), id) = (registry?, id?);
    let known: Vec<&str> = registries.keys().map(String::as_str).collect();
    if !known.contains(&registry.as_str()) && !to.said(&Place::root().key("registries")) {
        let offer = words::offer(&registry, &known, "registries");
        to.wrong(&place.key("registry"), format!("no registry `{registry}` under `registries:`; {offer}"));
    }
    let clients_follow = spec
        .clients_follow
        .map(|follow| to.duration(&place.key("clients_follow"), Some(follow), secs(0), secs(0)..=hours(1)));
    Some(Binding { clients_follow, clients_leave: spec.clients_leave, ..Binding::new(registry, id) })
}

fn own_id(
    spec: &mut RegisterSpec,
    place: &Place,
    to: &mut Compiling,
    registry: Option<&RegistryConfig>,
) -> Option<String> {
    let Typed(id) = to.required(place, "id", spec.id.take(), "INSTANCE-ID")?;
    if id.trim().is_empty() || id.chars().any(char::is_control) {
        to.wrong(&place.key("id"), "expected the instance's id in that registry");
    } else if let Some(form) = registry.and_then(RegistryConfig::id_form)
        && !id.split_once('/').is_some_and(|(service, instance)| !service.is_empty() && !instance.is_empty())
    {
        to.wrong(&place.key("id"), format!("an instance's id there is {form}"));
    } else if StandsAt::parse(&id).is_some() {
        to.wrong(&place.key("id"), "write it as `service: NAME, address: \"IP:PORT\"`, in place of `id`");
    }
    Some(id)
}

/// In place of an id, for what registers under another one at each start.
fn stands_at(
    spec: &mut RegisterSpec,
    place: &Place,
    to: &mut Compiling,
    registry: Option<&RegistryConfig>,
) -> Option<String> {
    if spec.id.is_some() {
        to.wrong_key(&place.key("id"), "an instance is named by its `id`, or by `service` and `address`: remove one");
    }
    let service = to.required(place, "service", spec.service.take(), "NAME");
    let address = to.required(place, "address", spec.address.take(), "\"IP:PORT\"");
    let (Typed(service), Typed(address)) = (service?, address?);
    if service.trim().is_empty() || service.chars().any(|c| c.is_control() || c == '/') {
        to.wrong(&place.key("service"), "expected the name that the service is registered under");
    }
    if address.port() == 0 || address.ip().is_unspecified() {
        to.wrong(
            &place.key("address"),
            "expected the address that the instance is registered with, such as 10.0.0.1:7801",
        );
    }
    if registry.is_some_and(|registry| !registry.finds_by_address()) {
        let why = "only in Consul and Eureka does an instance's id change at each start; in this registry, name the \
                   instance by `id`";
        to.wrong_key(&place.key("service"), why);
    }
    Some(StandsAt { service, address: canonical(address) }.to_string())
}
