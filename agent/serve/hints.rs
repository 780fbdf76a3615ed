//! Hints of other watchers: `POST /api/v1/hint/alertmanager` and `/zabbix`. A hint makes the agent look at the sockets now, and is
//! answered with what that look found. It orders nothing: policies and guards decide as after any other look.
//!
//! This is the one place where a POST is taken, and only from who knows the token. Many hints at once share one look.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::answer::{self, Answer, JSON};
use super::api;
use super::desk::Desk;
use crate::model::ServiceName;
use crate::view::hint::Hinted;

/// Some 500 alerts in one message of Alertmanager.
const BODY_BYTES: usize = 1 << 20;
/// For the look: within the time that a connection has. An agent that looks less often answers 202.
const LOOKED_WITHIN: Duration = Duration::from_secs(8);
/// For the token's file.
const READ_WITHIN: Duration = Duration::from_secs(1);
/// Labels and fields in which watchers name a service.
const NAMES: [&str; 3] = ["service", "unit", "name"];

/// Who may give hints, and who hears of them.
#[derive(Clone)]
pub struct Hints {
    /// What the token is now.
    pub token: Arc<dyn Fn() -> SecretString + Send + Sync>,
    /// One that waits stands for all that come until it is heard.
    pub look_now: mpsc::Sender<()>,
}

impl std::fmt::Debug for Hints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hints").finish_non_exhaustive()
    }
}

/// Is this a hint's address?
pub fn is_hint(path: &str) -> bool {
    path.starts_with("/api/v1/hint/")
}

/// The answer to one hint.
pub(super) async fn answer(desk: &Desk, request: Request<Incoming>) -> Answer {
    answer::dressed(match hint(desk, request).await {
        Ok((status, hinted)) => answer::made(status, JSON, serde_json::to_vec(&hinted).expect("it is plain data")),
        Err((status, says)) => {
            let mut refused = answer::made(status, JSON, api::error(status, says));
            let (name, value) = match status {
                StatusCode::METHOD_NOT_ALLOWED => (header::ALLOW, "POST"),
                StatusCode::UNAUTHORIZED => (header::WWW_AUTHENTICATE, "Bearer"),
                _ => return answer::dressed(refused),
            };
            refused.headers_mut().insert(name, HeaderValue::from_static(value));
            refused
        }
    })
}

async fn hint(desk: &Desk, request: Request<Incoming>) -> Result<(StatusCode, Hinted), (StatusCode, &'static str)> {
    const OFF: &str = "no hints are taken here: `http: { hints: { token_file } }` of agent.yaml says who may give them";
    let hints = desk.hints().ok_or((StatusCode::NOT_FOUND, OFF))?;
    let form = match request.uri().path().trim_start_matches("/api/v1/hint/") {
        "alertmanager" => alertmanager,
        "zabbix" => zabbix,
        _ => {
            return Err((
                StatusCode::NOT_FOUND,
                "hints are taken at /api/v1/hint/alertmanager and /api/v1/hint/zabbix",
            ));
        }
    };
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "a hint is given by POST"));
    }
    // Its file may lie on a disk that hangs.
    let token = Arc::clone(&hints.token);
    let read = tokio::time::timeout(READ_WITHIN, tokio::task::spawn_blocking(move || token()));
    let token = read.await.ok().and_then(Result::ok);
    let token = token.ok_or((StatusCode::SERVICE_UNAVAILABLE, "the file with the token cannot be read now"))?;
    if !is_known(request.headers().get(header::AUTHORIZATION), &token) {
        return Err((
            StatusCode::UNAUTHORIZED,
            "expected `Authorization: Bearer TOKEN` with the token of `http: hints`",
        ));
    }
    let body = Limited::new(request.into_body(), BODY_BYTES).collect().await;
    let body = body.map_err(|_| (StatusCode::PAYLOAD_TOO_LARGE, "expected at most 1 MiB"))?.to_bytes();
    let said: Value = serde_json::from_slice(&body).map_err(|_| (StatusCode::BAD_REQUEST, "the body is no JSON"))?;
    let about = form(&said).ok_or((StatusCode::BAD_REQUEST, "expected a JSON object as the webhook sends it"))?;
    let arrived = desk.since_boot();
    // Where the place is taken, a look is asked for already, and has not begun.
    let _ = hints.look_now.try_send(());
    let mut bulletins = desk.bulletins();
    let looked = bulletins.wait_for(|bulletin| bulletin.ticked.is_some_and(|ticked| ticked > arrived));
    let (status, bulletin) = match tokio::time::timeout(LOOKED_WITHIN, looked).await {
        Ok(Ok(bulletin)) => (StatusCode::OK, Arc::clone(&bulletin)),
        Ok(Err(_)) => return Err((StatusCode::SERVICE_UNAVAILABLE, "the agent is ending")),
        Err(_) => (StatusCode::ACCEPTED, desk.bulletin()),
    };
    Ok((status, Hinted::of(&bulletin, &about, status == StatusCode::OK)))
}

/// Compares digests, so that how long it takes tells nothing of the token. A file that is empty, mostly for the moment in which
/// somebody writes it, lets nobody in.
fn is_known(authorization: Option<&HeaderValue>, token: &SecretString) -> bool {
    let given = authorization.and_then(|value| value.as_bytes().strip_prefix(b"Bearer ")).unwrap_or_default();
    let token = token.expose_secret();
    if token.is_empty() {
        return false;
    }
    let (given, token) = (Sha256::digest(given), Sha256::digest(token));
    let differs = given.iter().zip(token).fold(0, |differs, (one, other)| differs | (one ^ other));
    differs == 0
}

/// The webhook of Alertmanager (version 4): `alerts`, each with `labels`. The services that they name.
fn alertmanager(said: &Value) -> Option<BTreeSet<ServiceName>> {
    let alerts = said.get("alerts")?.as_array()?;
    Some(alerts.iter().flat_map(|alert| named(&alert["labels"])).collect())
}

/// What a media type of Zabbix sends is a person's own: an object that may name a service.
fn zabbix(said: &Value) -> Option<BTreeSet<ServiceName>> {
    said.is_object().then(|| named(said).collect())
}

fn named(fields: &Value) -> impl Iterator<Item = ServiceName> {
    NAMES.into_iter().filter_map(|key| ServiceName::parse(fields[key].as_str()?).ok())
}
