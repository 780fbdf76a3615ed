//! Hooks that are HTTP requests. An address and a header may be secrets, so no error shows one.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::super::TrafficChange;
use super::counting::{self, Tally};
use super::{Counted, Failure, HookInstance, Hooks, State, Words};
use crate::model::{HttpCall, HttpHook, IncludesUs, Ourselves};
use crate::ports::http::{self, Client, FailureKind, Via};
use crate::ports::{Secret, said};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const FORM: &str = "application/x-www-form-urlencoded";

#[derive(Debug)]
pub struct HttpHooks {
    hook: HttpHook,
    headers: Option<Secret>,
    client: Client,
}

/// What came back, where the status was one that was expected.
struct Answer {
    status: StatusCode,
    version: Option<HeaderValue>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self, what: &str) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::Refused(format!("`{what}`: the answer is no JSON: {error}")))
    }
}

impl HttpHooks {
    /// `headers` holds a `Name: value` a line.
    pub fn new(hook: HttpHook, via: &Via, headers: Option<Secret>) -> Result<Self, String> {
        let client = Client::new(via, hook.deadline)?;
        let hooks = Self { hook, headers, client };
        hooks.headers()?;
        Ok(hooks)
    }

    /// As their file has them now.
    fn headers(&self) -> Result<HeaderMap, String> {
        let mut parsed = HeaderMap::new();
        let text = self.headers.as_ref().map(Secret::read_again);
        for line in text.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default().lines() {
            let header = line.split_once(':').and_then(|(name, value)| {
                let mut value = HeaderValue::from_str(value.trim()).ok()?;
                value.set_sensitive(true);
                Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
            });
            match header {
                Some((name, value)) => drop(parsed.append(name, value)),
                None if line.trim().is_empty() => {}
                None => return Err("headers_file: expected lines such as `Authorization: Bearer TOKEN`".into()),
            }
        }
        Ok(parsed)
    }

    async fn call(
        &self,
        what: &str,
        call: &HttpCall,
        words: &Words,
        seen: Option<&HookInstance>,
    ) -> Result<Answer, Failure> {
        let refused = |why: String| Failure::Refused(format!("`{what}`: {why}"));
        let passing = |why: String| Failure::Passing(format!("`{what}`: {why}"));
        let url = http::address(&words.fill(&call.url, in_address)).map_err(refused)?;
        let method = Method::from_bytes(call.method.as_bytes()).map_err(|error| refused(error.to_string()))?;
        let own = self.headers().map_err(refused)?;
        let mut headers = own.clone();
        if let Some(kind) = &call.content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(kind).map_err(|error| refused(error.to_string()))?);
        }
        if call.if_match {
            let version = seen.and_then(|seen| seen.version.as_deref()).and_then(|tag| HeaderValue::from_str(tag).ok());
            let version =
                version.ok_or_else(|| refused("the answer of `observe` has no ETag, which `if_match` needs".into()))?;
            headers.insert(IF_MATCH, version);
        }
        let mut request = self.client.request(method, url);
        if let Some(body) = &call.body {
            headers.entry(CONTENT_TYPE).or_insert(JSON);
            let is_form = headers[CONTENT_TYPE].as_bytes().starts_with(FORM.as_bytes());
            request = request.body(words.fill(body, if is_form { in_address } else { in_json }));
        }
        let response = self.client.send(request.headers(headers)).await.map_err(|failure| match failure.kind {
            FailureKind::Distrusted => Failure::Distrusted(format!("`{what}`: {}", failure.words)),
            _ => passing(failure.words),
        })?;
        let (status, version) = (response.status(), response.headers().get(ETAG).cloned());
        let body = http::body(response, http::MAX_ANSWER_BYTES).await.map_err(passing)?;
        if call.expect.contains(&status.as_u16()) || call.expect.is_empty() && status.is_success() {
            return Ok(Answer { status, version, body });
        }
        let why = format!("{status}{}", said::behind(&shown(&own, &body)));
        match status {
            StatusCode::PRECONDITION_FAILED if call.if_match => {
                Err(Failure::Stale(format!("`{what}`: changed by others since `observe` was asked: {why}")))
            }
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Err(passing(why)),
            _ => Err(refused(why)),
        }
    }
}

/// The server's own first line.
fn shown(headers: &HeaderMap, body: &[u8]) -> String {
    let words = headers.values().filter_map(|value| value.to_str().ok()).flat_map(str::split_whitespace);
    said::first_line(&String::from_utf8_lossy(body), words)
}

/// Each byte that means something in an address is escaped.
fn in_address(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    word.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// As it stands between the quotes of a JSON string.
fn in_json(word: &str) -> String {
    let quoted = Value::from(word).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[async_trait]
impl Hooks for HttpHooks {
    async fn isolate(&self, words: &Words, seen: &HookInstance) -> Result<(), Failure> {
        self.call("isolate", &self.hook.isolate, words, Some(seen)).await.map(drop)
    }

    async fn restore(&self, words: &Words, seen: &HookInstance) -> Result<(), Failure> {
        self.call("restore", &self.hook.restore, words, Some(seen)).await.map(drop)
    }

    /// What stands behind the host, or in the body, may be a secret.
    fn shown(&self, change: TrafficChange, words: &Words) -> Result<String, Failure> {
        let (hook, call) = match change {
            TrafficChange::Drain => ("isolate", &self.hook.isolate),
            TrafficChange::Restore => ("restore", &self.hook.restore),
        };
        let url = http::address(&words.fill(&call.url, in_address)).map_err(Failure::Refused)?;
        Ok(format!("{} {}, the hook `{hook}`", call.method, url.origin().ascii_serialization()))
    }

    async fn observe(&self, words: &Words) -> Result<Option<HookInstance>, Failure> {
        let hook = &self.hook;
        let expect = [&[200], &hook.absent[..], &hook.drained_status].concat();
        let answer = self.call("observe", &HttpCall { expect, ..hook.observe.clone() }, words, None).await?;
        let version = answer.version.as_ref().and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let seen = |traffic, marker| Ok(Some(HookInstance { traffic, marker, name: None, version }));
        match answer.status.as_u16() {
            status if hook.absent.contains(&status) => return Ok(None),
            status if hook.drained_status.contains(&status) => return seen(State::Drained, None),
            _ => {}
        }
        let json = answer.json("observe")?;
        let pointer = counting::filled(&hook.traffic, words);
        let said = json.pointer(&pointer).and_then(counting::text);
        let says = |words: &Vec<String>| said.as_ref().is_some_and(|said| words.contains(said));
        let states = [
            (State::Passing, &hook.passing),
            (State::Failing, &hook.failing),
            (State::Drained, &hook.drained),
            (State::Isolated, &hook.isolated),
        ];
        let Some((traffic, _)) = states.into_iter().find(|(_, words)| says(words)) else {
            let own = self.headers().unwrap_or_default();
            let found = shown(&own, said.as_deref().unwrap_or("nothing").as_bytes());
            let what = format!("`observe`: the value at `{pointer}` is none of the configured words: {found}");
            return Err(Failure::Refused(what));
        };
        let marker = hook.marker.as_ref().and_then(|at| json.pointer(&counting::filled(at, words)));
        seen(traffic, marker.and_then(counting::text).filter(|marker| !marker.is_empty()))
    }

    fn counts(&self) -> bool {
        self.hook.count.is_some()
    }

    async fn count(&self, words: &Words) -> Result<Counted, Failure> {
        let Some(count) = &self.hook.count else { return Err(Failure::Refused("no `count` is given".into())) };
        let answer = self.call("count", &count.call, words, None).await?.json("count")?;
        let Tally { healthy, registered, shows_us } = counting::tally(count, &answer, words)?;
        let ourselves = match &count.ourselves {
            Ourselves::Included(IncludesUs::Always) => true,
            Ourselves::Included(IncludesUs::InTraffic) => {
                self.observe(words).await?.is_some_and(|seen| seen.traffic == State::Passing)
            }
            // They are left out already.
            Ourselves::Included(IncludesUs::Never) | Ourselves::Having(_) => false,
        };
        Ok(Counted { healthy: healthy.saturating_sub(u32::from(ourselves)), registered, shows_us })
    }

    fn may_arrive_late(&self) -> bool {
        true
    }

    fn deadline(&self) -> Duration {
        self.hook.deadline
    }
}
