//! From a request to its answer: who may ask, what is asked for, and the headers that each answer has.

use std::net::SocketAddr;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::address::{self, Query};
use super::desk::Desk;
use super::exposition::Exposition;
use super::{api, assets, door, health, metrics, pages};

const PLAIN: &str = "text/plain; charset=utf-8";
pub const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// What each answer says to a browser: nothing of another place is loaded or run, nobody puts it into a frame, reads it from
/// another site, or keeps it.
const ALWAYS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub type Answer = Response<Full<Bytes>>;

/// Why there is nothing else to show.
#[derive(Debug)]
pub struct Refused {
    pub status: StatusCode,
    pub says: String,
}

impl Refused {
    pub fn not_found(says: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, says: says.into() }
    }

    pub fn bad(says: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, says: says.into() }
    }

    /// The store does not answer.
    pub fn unread(why: String) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, says: why }
    }
}

/// The answer to one request, which arrived at `local`.
pub async fn to<B>(desk: &Desk, request: &Request<B>, local: SocketAddr) -> Answer {
    dressed(answered(desk, request, local).await)
}

/// With what each answer says to a browser.
pub fn dressed(mut answer: Answer) -> Answer {
    for (name, value) in ALWAYS {
        answer.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    answer
}

async fn answered<B>(desk: &Desk, request: &Request<B>, local: SocketAddr) -> Answer {
    let Some(parts) = address::parts(request.uri().path()) else {
        return made(StatusCode::BAD_REQUEST, PLAIN, "the path is no text\n");
    };
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let says = "GET and HEAD only".into();
        let mut answer = refused(desk, &parts, Refused { status: StatusCode::METHOD_NOT_ALLOWED, says });
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let for_machines = matches!(parts[..], ["metrics" | "healthz" | "readyz"]);
    // Who collects metrics from another host calls it by whatever name it has there.
    let any_name_will_do = for_machines && !local.ip().to_canonical().is_loopback();
    if !any_name_will_do && let Err(says) = door::admit(request, local, desk.hosts()) {
        // Nothing of this host's is shown.
        return plainly(&parts, Refused { status: StatusCode::MISDIRECTED_REQUEST, says });
    }
    let query = Query::of(request.uri().query().unwrap_or_default());
    let bulletin = desk.bulletin();
    let verdict = |verdict: Result<(), String>| match verdict {
        Ok(()) => made(StatusCode::OK, PLAIN, "ok\n"),
        Err(why) => made(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
    };
    match &parts[..] {
        ["metrics"] => made(StatusCode::OK, Exposition::CONTENT_TYPE, metrics::text(&bulletin)),
        ["healthz"] => verdict(health::alive(&bulletin, desk.since_boot())),
        ["readyz"] => verdict(health::ready(&bulletin, desk.since_boot())),
        ["api", "v1", asked @ ..] => match api::answer(desk, asked, &query).await {
            Ok(body) => made(StatusCode::OK, JSON, body),
            Err(why) => refused(desk, &parts, why),
        },
        _ => match assets::answer(request.uri().path()) {
            Some(file) => file,
            None => match pages::answer(desk, &parts, &query).await {
                Ok(page) => made(StatusCode::OK, HTML, page),
                Err(why) => refused(desk, &parts, why),
            },
        },
    }
}

/// In the form that whoever asked can read.
fn refused(desk: &Desk, parts: &[&str], why: Refused) -> Answer {
    match parts.first() {
        Some(&("api" | "metrics" | "healthz" | "readyz")) => plainly(parts, why),
        _ => made(why.status, HTML, pages::refused(desk, why.status, &why.says)),
    }
}

fn plainly(parts: &[&str], Refused { status, says }: Refused) -> Answer {
    match parts.first() {
        Some(&"api") => made(status, JSON, api::error(status, &says)),
        _ => made(status, PLAIN, format!("{says}\n")),
    }
}

/// For a HEAD, hyper sends the same headers and no body.
pub fn made(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
