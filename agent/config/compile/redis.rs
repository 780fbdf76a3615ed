//! How a Redis is named: by one `url`, by its `sentinels`, or by `nodes` of a Cluster; the same for a registry and the fleet.

use super::Compiling;
use super::fields::{address, login};
use super::{items, tls};
use crate::config::expand::Environment;
use crate::config::host::RedisConfig;
use crate::config::place::Place;
use crate::config::spec::Items;
use crate::config::spec::address::{HostPort, url_lacks_brackets};
use crate::config::spec::host::{SentinelSpec, TlsSpec};
use crate::config::spec::scalar::Typed;
use crate::model::{RedisAddress, RedisAt, RedisServers, Tls};

const URL: &str = "redis://127.0.0.1:6379";

/// The keys that name it, as they are written.
pub struct Named {
    pub url: Option<Typed<String>>,
    pub sentinels: Option<Items<Typed<HostPort>>>,
    pub master: Option<Typed<String>>,
    pub sentinel: Option<SentinelSpec>,
    pub nodes: Option<Items<Typed<HostPort>>>,
    /// Beside a url it says by which files TLS is spoken; beside the others it says that it is as well.
    pub tls: Option<TlsSpec>,
    pub database: Option<u32>,
    pub user: Option<Typed<String>>,
    pub password_file: Option<Typed<String>>,
}

/// `None` where nothing names a server; that has been said.
pub fn compile(named: Named, place: &Place, to: &mut Compiling, environment: Environment) -> Option<RedisConfig> {
    let Named { url, sentinels, master, sentinel, nodes, tls: tls_spec, database, user, password_file } = named;
    let keys = [("url", url.is_some()), ("sentinels", sentinels.is_some()), ("nodes", nodes.is_some())];
    let mut written = keys.into_iter().filter_map(|(key, written)| written.then_some(key));
    if let Some(first) = written.next() {
        for other in written {
            let why = format!(
                "`{first}` names the Redis already: use `url` for a single server, `sentinels` with `master` for \
                 Sentinel, or `nodes` for a Cluster, and only one of them"
            );
            to.wrong_key(&place.key(other), why);
        }
    }
    if sentinels.is_none() && !to.said(&place.key("sentinels")) {
        for (key, _) in [("master", master.is_some()), ("sentinel", sentinel.is_some())].iter().filter(|(_, w)| *w) {
            to.wrong_key(&place.key(key), "this key needs `sentinels`, which are missing here");
        }
    }
    let login_there = login(user, password_file, place, to, environment);
    let SentinelSpec { user, password_file, tls: sentinel_tls } = sentinel.unwrap_or_default();
    let at_sentinels = place.key("sentinel");
    let sentinel_login = login(user, password_file, &at_sentinels, to, environment);
    let sentinel_tls = sentinel_tls.map(|spec| tls::compile(Some(spec), &at_sentinels, to, environment));
    let by_url =
        url.as_ref().filter(|_| sentinels.is_none() && nodes.is_none()).map(|Typed(url)| url.starts_with("rediss://"));
    if tls_spec.is_some() && by_url == Some(false) {
        let says = "the url does not begin with rediss://, so the connection has no TLS: write rediss://, or remove \
                    `tls`";
        to.wrong_key(&place.key("tls"), says);
    }
    let files = tls_spec.map(|spec| tls::compile(Some(spec), place, to, environment));
    let tls = files.or_else(|| (by_url == Some(true)).then(Tls::default));
    let servers = match (sentinels, nodes) {
        (Some(sentinels), _) => {
            let sentinels = addresses(sentinels, &place.key("sentinels"), to);
            if sentinels.len() < 3 && !to.said(&place.key("sentinels")) {
                let why = "name every sentinel, at least three: the master is the one that more than half of them \
                           report";
                to.wrong(&place.key("sentinels"), why);
            }
            let master = to.required(place, "master", master, "mymaster").map(|Typed(name)| name).unwrap_or_default();
            RedisServers { at: RedisAt::Sentinels { sentinels, master }, database: database.unwrap_or(0) }
        }
        (None, Some(nodes)) => {
            if database.is_some() {
                to.wrong_key(&place.key("database"), "a Redis Cluster has only the database 0: remove the line");
            }
            let nodes = addresses(nodes, &place.key("nodes"), to);
            if nodes.is_empty() && !to.said(&place.key("nodes")) {
                to.wrong(&place.key("nodes"), "the list is empty: add nodes of the Cluster, such as \"10.0.0.1:6379\"");
            }
            RedisServers { at: RedisAt::Cluster { nodes }, database: 0 }
        }
        (None, None) if to.said(&place.key("sentinels")) || to.said(&place.key("nodes")) => return None,
        (None, None) => {
            let Typed(text) = to.required(place, "url", url, &format!("\"{URL}\""))?;
            let of_url = server(&place.key("url"), text, to)?;
            let in_url = matches!(of_url.at, RedisAt::One(RedisAddress::Tcp { .. }));
            if database.is_some() && in_url {
                let why = format!("the database is part of the url, as in {URL}/0: remove the line");
                to.wrong_key(&place.key("database"), why);
            }
            RedisServers { database: database.unwrap_or(of_url.database), ..of_url }
        }
    };
    Some(RedisConfig { servers, login: login_there, tls, sentinel_login, sentinel_tls })
}

fn server(place: &Place, text: String, to: &mut Compiling) -> Option<RedisServers> {
    if text.contains('@') {
        // Says what is wrong with that, and repeats nothing of it.
        address(place, text, &["redis", "rediss"], URL, to);
        return None;
    }
    if let Some(hint) = url_lacks_brackets(&text) {
        to.wrong(place, hint);
        return None;
    }
    RedisServers::of_url(&text).map_err(|why| to.wrong(place, why)).ok()
}

/// Each `HOST:PORT`, and each once.
fn addresses(list: Items<Typed<HostPort>>, place: &Place, to: &mut Compiling) -> Vec<RedisAddress> {
    let mut all = Vec::new();
    for (place, Typed(HostPort(text))) in items(place, list) {
        match RedisAddress::parse(&text) {
            None => to.wrong(&place, "expected HOST:PORT, such as 10.0.0.1:6379"),
            Some(address) if all.contains(&address) => to.wrong(&place, "this one is listed twice"),
            Some(address) => all.push(address),
        }
    }
    all
}
