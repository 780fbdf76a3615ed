//! Fields that several sections have alike: files, URLs, and the name and password of a login.

use std::path::PathBuf;

use super::{Compiling, items};
use crate::config::expand::{Environment, expand};
use crate::config::host::Login;
use crate::config::place::Place;
use crate::config::spec::address::url_lacks_brackets;
use crate::config::spec::scalar::{OneOrMany, Typed};

/// A path that may name variables of the environment.
pub fn expanded(place: &Place, text: String, to: &mut Compiling, environment: Environment) -> PathBuf {
    match expand(&text, environment) {
        Ok(path) => to.path(place, path),
        Err(why) => {
            to.wrong(place, why);
            PathBuf::new()
        }
    }
}

/// The path of a file that holds a secret.
pub fn file(
    within: &Place,
    key: &str,
    spec: Option<Typed<String>>,
    to: &mut Compiling,
    environment: Environment,
) -> Option<PathBuf> {
    let place = within.key(key);
    let path = spec.map(|Typed(text)| expanded(&place, text, to, environment))?;
    to.secret(&place, &path);
    Some(path)
}

/// An http(s) URL without credentials; the URL itself is never repeated in an error.
pub fn url(place: &Place, text: String, to: &mut Compiling) -> String {
    address(place, text, &["http", "https"], "http://127.0.0.1:8500", to)
}

/// The addresses of one cluster's servers, of which there is at least one: a URL, or a list of them.
pub fn urls(spec: Option<OneOrMany<String>>, example: &str, within: &Place, to: &mut Compiling) -> Vec<String> {
    let place = within.key("url");
    let schemes = ["http", "https"];
    match to.required(within, "url", spec, &format!("\"{example}\"")) {
        None => Vec::new(),
        Some(OneOrMany::One(text)) => vec![address(&place, text, &schemes, example, to)],
        Some(OneOrMany::Many(list)) => {
            if list.is_empty() {
                to.wrong(&place, format!("the list is empty: add \"{example}\""));
            }
            items(&place, list).map(|(place, Typed(text))| address(&place, text, &schemes, example, to)).collect()
        }
    }
}

/// A URL of one of these schemes.
pub fn address(place: &Place, text: String, schemes: &[&str], example: &str, to: &mut Compiling) -> String {
    match reqwest::Url::parse(&text) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            to.wrong(place, "a URL with credentials would appear in logs: put the token into a file of its own");
        }
        Ok(url) if schemes.contains(&url.scheme()) && url.has_host() => {}
        Ok(_) | Err(_) => {
            let hint = url_lacks_brackets(&text).unwrap_or_else(|| format!("expected a URL such as {example}"));
            to.wrong(place, hint);
        }
    }
    text.trim_end_matches('/').to_owned()
}

/// The local agent: by HTTP, or by its unix socket.
pub fn consul_url(place: &Place, text: String, to: &mut Compiling) -> String {
    match text.strip_prefix("unix://") {
        Some(path) if path.len() > 1 && path.starts_with('/') => text,
        Some(_) => {
            to.wrong(place, "expected a socket by its full path, such as unix:///run/consul/http.sock");
            text
        }
        None => url(place, text, to),
    }
}

/// A name wants a password; a password without a name is left to the caller.
pub fn login(
    user: Option<Typed<String>>,
    password_file: Option<Typed<String>>,
    place: &Place,
    to: &mut Compiling,
    environment: Environment,
) -> Option<Login> {
    let user = user.map(|Typed(user)| user);
    if user.is_some() && password_file.is_none() && !to.said(&place.key("password_file")) {
        to.wrong_key(&place.key("user"), "a user needs a password: add `password_file: PATH`");
    }
    let password_file = file(place, "password_file", password_file, to, environment)?;
    Some(Login { user: user.unwrap_or_default(), password_file })
}
