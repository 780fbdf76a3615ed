//! `tls:` beside an address, and `proxy:` before it.

use std::net::IpAddr;
use std::path::PathBuf;

use super::Compiling;
use super::fields::{address, expanded, file};
use crate::config::expand::Environment;
use crate::config::host::TlsFiles;
use crate::config::place::Place;
use crate::config::spec::host::TlsSpec;
use crate::config::spec::scalar::Typed;
use crate::model::Tls;

/// `tls:` within `within`, beside these addresses; one of them at least uses it.
pub fn beside(
    urls: &[String],
    spec: Option<TlsSpec>,
    within: &Place,
    to: &mut Compiling,
    environment: Environment,
) -> Tls {
    if spec.is_some() && !urls.is_empty() && !urls.iter().any(|url| url.starts_with("https:")) {
        let says = "no address here begins with https://, so the connection has no TLS: write https://, or remove \
                    `tls`";
        to.wrong_key(&within.key("tls"), says);
    }
    compile(spec, within, to, environment)
}

/// The same for etcd, which takes a client certificate with a CN for the login of that name, and then refuses every call of
/// its JSON gateway (seen with 3.4.23 and 3.7.3), with a good token as well.
pub fn of_etcd(
    urls: &[String],
    spec: Option<TlsSpec>,
    logs_in: bool,
    within: &Place,
    to: &mut Compiling,
    environment: Environment,
) -> Tls {
    let before = to.tls.len();
    let tls = beside(urls, spec, within, to, environment);
    if let Some(files) = to.tls.get_mut(before) {
        files.nameless = logs_in;
    }
    tls
}

pub fn compile(spec: Option<TlsSpec>, within: &Place, to: &mut Compiling, environment: Environment) -> Tls {
    let Some(TlsSpec { ca_file, cert_file, key_file, server_name }) = spec else { return Tls::default() };
    let place = within.key("tls");
    let believed = |key: &str, spec: Option<Typed<String>>, to: &mut Compiling| -> Option<PathBuf> {
        spec.map(|Typed(text)| expanded(&place.key(key), text, to, environment))
    };
    let (ca_file, cert_file) = (believed("ca_file", ca_file, to), believed("cert_file", cert_file, to));
    let key_file = file(&place, "key_file", key_file, to, environment);
    for (has, key, lacks, other) in [
        (cert_file.is_some(), "cert_file", key_file.is_none(), "key_file"),
        (key_file.is_some(), "key_file", cert_file.is_none(), "cert_file"),
    ] {
        if has && lacks && !to.said(&place.key(other)) {
            to.wrong_key(
                &place.key(key),
                format!("a certificate needs its key, and a key its certificate: add `{other}: PATH`"),
            );
        }
    }
    let server_name = server_name.map(|Typed(name)| name);
    if let Some(name) = &server_name {
        let word = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if name.is_empty() || !name.chars().all(word) || name.parse::<IpAddr>().is_ok() {
            to.wrong(&place.key("server_name"), "expected a DNS name of the server's certificate, such as consul.corp");
        }
    }
    let tls = Tls { ca_file, cert_file, key_file, server_name };
    if tls != Tls::default() {
        let at = to.at_key(&place);
        to.tls.push(TlsFiles { tls: tls.clone(), at, nameless: false });
    }
    tls
}

/// `proxy:` within `within`.
pub fn proxy(spec: Option<Typed<String>>, tls: &Tls, within: &Place, to: &mut Compiling) -> Option<String> {
    let place = within.key("proxy");
    let proxy = spec.map(|Typed(text)| address(&place, text, &["http"], "http://proxy.corp:3128", to))?;
    if tls.server_name.is_some() {
        to.wrong_key(
            &place,
            "`server_name` has no effect with a proxy, which resolves the server's name: remove one of them",
        );
    }
    Some(proxy)
}
