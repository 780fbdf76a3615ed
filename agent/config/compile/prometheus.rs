//! `prometheus:` of `agent.yaml`: who is asked which alerts fire.

use super::fields::{file, login, urls};
use super::{Compiling, tls};
use crate::config::expand::Environment;
use crate::config::host::PrometheusConfig;
use crate::config::place::Place;
use crate::config::spec::host::PrometheusSpec;
use crate::config::spec::scalar::Typed;
use crate::model::alerts::AlertSelector;

/// The alert that always fires, as kube-prometheus and others have it.
const WATCHDOG: &str = r#"alertname="Watchdog""#;

pub fn compile(spec: PrometheusSpec, place: &Place, to: &mut Compiling, environment: Environment) -> PrometheusConfig {
    let urls = urls(spec.url, "http://127.0.0.1:9090", place, to);
    let tls = tls::beside(&urls, spec.tls, place, to, environment);
    let token_file = file(place, "token_file", spec.token_file, to, environment);
    let login = login(spec.user, spec.password_file, place, to, environment);
    if login.as_ref().is_some_and(|login| login.user.is_empty()) {
        to.wrong_key(&place.key("password_file"), "a password needs a user: add `user`");
    }
    if token_file.is_some() && login.is_some() {
        to.wrong_key(&place.key("token_file"), "expected a token, or a user with a password: remove one of them");
    }
    let watchdog = spec.watchdog.map_or_else(|| WATCHDOG.to_owned(), |Typed(text)| text);
    let watchdog = (watchdog != "none").then(|| selector(&place.key("watchdog"), &watchdog, to)).flatten();
    PrometheusConfig { urls, tls, token_file, login, watchdog }
}

/// Matchers of alerts.
pub fn selector(place: &Place, text: &str, to: &mut Compiling) -> Option<AlertSelector> {
    match AlertSelector::parse(text) {
        Ok(selector) => Some(selector),
        Err(why) => {
            to.wrong(place, why);
            None
        }
    }
}
