//! `notify`: whom messages go to, and which.

use std::collections::{BTreeMap, BTreeSet};

use super::fields::file;
use super::{Compiling, items, tls};
use crate::config::expand::Environment;
use crate::config::notify::{Destination, To};
use crate::config::place::Place;
use crate::config::spec::Items;
use crate::config::spec::notify::{DestinationSpec, ToSpec};
use crate::config::spec::scalar::Typed;
use crate::model::message::EventKind;

/// Events that a destination gets that asks for none in particular.
const EVENTS: [EventKind; 7] = [
    EventKind::Breach,
    EventKind::Held,
    EventKind::Approval,
    EventKind::Start,
    EventKind::End,
    EventKind::Stuck,
    EventKind::Review,
];

pub fn destinations(
    spec: Items<DestinationSpec>,
    place: &Place,
    to: &mut Compiling,
    environment: Environment,
) -> Vec<Destination> {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut destinations = Vec::new();
    for (place, spec) in items(place, spec) {
        let Some(kind) = to.required(&place, "to", spec.to, "{ slack: { url_file: PATH } }") else { continue };
        let mut secret = |within: &Place, key: &str, value| {
            let value = to.required(within, key, value, "${CREDENTIALS_DIRECTORY}/NAME");
            file(within, key, value, to, environment).unwrap_or_default()
        };
        let (name, kind, within, tls_spec, proxy) = match kind {
            ToSpec::Slack(spec) => {
                let within = place.key("to").key("slack");
                let to_slack = To::Slack { url_file: secret(&within, "url_file", spec.url_file) };
                ("slack", to_slack, within, spec.tls, spec.proxy)
            }
            ToSpec::Generic(spec) => {
                let within = place.key("to").key("generic");
                let url_file = secret(&within, "url_file", spec.url_file);
                let to_generic = To::Generic { url_file, key_file: secret(&within, "key_file", spec.key_file) };
                ("generic", to_generic, within, spec.tls, spec.proxy)
            }
        };
        // Its address stands in a file, so whether it is https:// is not known here.
        let tls = tls::compile(tls_spec, &within, to, environment);
        let proxy = tls::proxy(proxy, &tls, &within, to);
        let events: BTreeSet<EventKind> = match spec.events {
            None => EVENTS.into(),
            Some(events) => events.into_iter().flatten().map(|Typed(event)| event).collect(),
        };
        if events.is_empty() && !to.said(&place.key("events")) {
            to.wrong(
                &place.key("events"),
                "the list is empty, so no message would be sent: name events, or remove the line",
            );
        }
        let count = counts.entry(name).or_default();
        *count += 1;
        let name = if *count == 1 { name.to_owned() } else { format!("{name}-{count}") };
        destinations.push(Destination { name, to: kind, tls, proxy, events });
    }
    destinations
}
