//! The files that pages name. Each has a part of its hash in its name, so a browser may keep it for ever.

use std::sync::LazyLock;

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use sha2::{Digest, Sha256};

use super::answer::{Answer, made};
use crate::report::html::STYLE;

/// Their addresses.
#[derive(Debug)]
pub struct Names {
    pub style: String,
    pub script: String,
    pub icon: String,
}

static PAGE_CSS: LazyLock<String> = LazyLock::new(|| format!("{STYLE}{}", include_str!("page.css")));
const PAGE_JS: &str = include_str!("page.js");
const ICON: &str = include_str!("icon.svg");

pub fn names() -> &'static Names {
    static NAMES: LazyLock<Names> = LazyLock::new(|| Names {
        style: named("css", &PAGE_CSS),
        script: named("js", PAGE_JS),
        icon: named("svg", ICON),
    });
    &NAMES
}

/// `/page.0123456789abcdef.css`.
fn named(kind: &str, text: &str) -> String {
    let hash: String = Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("/page.{hash}.{kind}")
}

/// `None`: no file of this version has that name.
pub fn answer(path: &str) -> Option<Answer> {
    let names = names();
    let (kind, text) = match path {
        _ if path == names.style => ("text/css; charset=utf-8", PAGE_CSS.as_str()),
        _ if path == names.script => ("text/javascript; charset=utf-8", PAGE_JS),
        _ if path == names.icon => ("image/svg+xml", ICON),
        _ => return None,
    };
    let mut answer = made(StatusCode::OK, kind, text);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=31536000, immutable"));
    Some(answer)
}
