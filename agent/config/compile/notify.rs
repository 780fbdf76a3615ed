//! `notify`: whom messages go to, and which.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lettre::message::Mailbox;
use reqwest::Url;

use super::fields::{file, login, url};
use super::{Compiling, items, tls};
use crate::config::expand::Environment;
use crate::config::notify::{Destination, To};
use crate::config::place::Place;
use crate::config::spec::Items;
use crate::config::spec::host::TlsSpec;
use crate::config::spec::notify::{DestinationSpec, EmailSpec, ToSpec};
use crate::config::spec::scalar::{OneOrMany, Typed};
use crate::model::message::{EventKind, MailServer, MailTls};

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

/// Where PagerDuty takes events; `url` names that of the EU, say.
const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";

/// Where Telegram's bots are spoken to; `url` names a server of one's own.
const TELEGRAM: &str = "https://api.telegram.org";

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
        let name: &'static str = (&kind).into();
        let within = place.key("to").key(name);
        let (kind, tls_spec, proxy) = destination(kind, &within, to, environment);
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

/// Whom one entry names, and how it is reached.
fn destination(
    spec: ToSpec,
    within: &Place,
    to: &mut Compiling,
    environment: Environment,
) -> (To, Option<TlsSpec>, Option<Typed<String>>) {
    let needed = |key: &str, value, to: &mut Compiling| {
        let value = to.required(within, key, value, "${CREDENTIALS_DIRECTORY}/NAME");
        file(within, key, value, to, environment).unwrap_or_default()
    };
    match spec {
        ToSpec::Slack(spec) => (To::Slack { url_file: needed("url_file", spec.url_file, to) }, spec.tls, spec.proxy),
        ToSpec::Generic(spec) => {
            let url_file = needed("url_file", spec.url_file, to);
            (To::Generic { url_file, key_file: needed("key_file", spec.key_file, to) }, spec.tls, spec.proxy)
        }
        ToSpec::Dingtalk(spec) => {
            let url_file = needed("url_file", spec.url_file, to);
            let secret_file = file(within, "secret_file", spec.secret_file, to, environment);
            (To::DingTalk { url_file, secret_file }, spec.tls, spec.proxy)
        }
        ToSpec::Feishu(spec) => {
            let url_file = needed("url_file", spec.url_file, to);
            let secret_file = file(within, "secret_file", spec.secret_file, to, environment);
            (To::Feishu { url_file, secret_file }, spec.tls, spec.proxy)
        }
        ToSpec::Wecom(spec) => (To::WeCom { url_file: needed("url_file", spec.url_file, to) }, spec.tls, spec.proxy),
        ToSpec::Discord(spec) => {
            (To::Discord { url_file: needed("url_file", spec.url_file, to) }, spec.tls, spec.proxy)
        }
        ToSpec::Teams(spec) => {
            let url_file = needed("url_file", spec.url_file, to);
            (To::Teams { url_file, bare_card: spec.bare_card }, spec.tls, spec.proxy)
        }
        ToSpec::Pagerduty(spec) => {
            let routing_key_file = needed("routing_key_file", spec.routing_key_file, to);
            let url = spec.url.map_or_else(|| PAGERDUTY.into(), |Typed(text)| url(&within.key("url"), text, to));
            (To::PagerDuty { url, routing_key_file }, spec.tls, spec.proxy)
        }
        ToSpec::Email(spec) => (email(&spec, within, to, environment), spec.tls, None),
        ToSpec::Alertmanager(spec) => {
            let text = to.required(within, "url", spec.url, "http://127.0.0.1:9093");
            let url = text.map(|Typed(text)| url(&within.key("url"), text, to)).unwrap_or_default();
            let login = login(spec.user, spec.password_file, within, to, environment);
            (To::Alertmanager { url, login }, spec.tls, spec.proxy)
        }
        ToSpec::Telegram(spec) => {
            let token_file = needed("token_file", spec.token_file, to);
            let chat = to.required(within, "chat", spec.chat, "\"-1001234567890\"").map(|Typed(chat)| chat);
            let is_a_name = |chat: &str| chat.strip_prefix('@').is_some_and(|name| !name.is_empty());
            if let Some(chat) = chat.as_deref().filter(|chat| chat.parse::<i64>().is_err() && !is_a_name(chat)) {
                let hint = format!("expected a chat's number, such as -1001234567890, or @channel; found {chat:?}");
                to.wrong(&within.key("chat"), hint);
            }
            let url = spec.url.map_or_else(|| TELEGRAM.into(), |Typed(text)| url(&within.key("url"), text, to));
            let to_telegram = To::Telegram { url, token_file, chat: chat.unwrap_or_default(), topic: spec.topic };
            (to_telegram, spec.tls, spec.proxy)
        }
    }
}

fn email(spec: &EmailSpec, within: &Place, to: &mut Compiling, environment: Environment) -> To {
    let url = to.required(within, "url", spec.url.clone(), "\"smtps://mail.corp:465\"");
    let server = url.and_then(|Typed(text)| mail_server(&text, spec.tls.is_some(), &within.key("url"), to));
    let address = |place: &Place, text: String, to: &mut Compiling| {
        if text.parse::<Mailbox>().is_err() {
            to.wrong(place, format!("expected an address such as \"unwait <unwait@corp.test>\", found {text:?}"));
        }
        text
    };
    let from = to.required(within, "from", spec.from.clone(), "unwait@corp.test");
    let from = from.map(|Typed(text)| address(&within.key("from"), text, to)).unwrap_or_default();
    let place = within.key("to");
    let people = match to.required(within, "to", spec.to.clone(), "[sre@corp.test]") {
        None => Vec::new(),
        Some(OneOrMany::One(text)) => vec![address(&place, text, to)],
        Some(OneOrMany::Many(list)) => {
            if list.is_empty() {
                to.wrong(&place, "the list is empty: add sre@corp.test");
            }
            items(&place, list).map(|(at, Typed(text))| address(&at, text, to)).collect()
        }
    };
    let login = login(spec.user.clone(), spec.password_file.clone(), within, to, environment);
    To::Email { server: server.unwrap_or_else(MailServer::nowhere), from, to: people, login }
}

/// `smtps://HOST:PORT`, or `smtp://HOST:PORT`, which is plain to this host alone.
fn mail_server(text: &str, says_tls: bool, place: &Place, to: &mut Compiling) -> Option<MailServer> {
    let found = Url::parse(text).ok().filter(|url| url.has_host() && matches!(url.path(), "" | "/"));
    let Some(url) = found.filter(|url| matches!(url.scheme(), "smtp" | "smtps")) else {
        to.wrong(place, "expected \"smtps://HOST:465\" (TLS), or \"smtp://HOST:587\" (STARTTLS)");
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        to.wrong(place, "a URL with credentials would appear in logs: write `user` and `password_file`");
    }
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let (tls, port) = match url.scheme() {
        "smtps" => (MailTls::Implicit, 465),
        _ if is_here && !says_tls => (MailTls::None, 25),
        _ => (MailTls::StartTls, 587),
    };
    Some(MailServer { host, port: url.port().unwrap_or(port), tls })
}
