//! Hooks that are HTTP requests. An address and a header may be secrets, so no error shows one.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{Counted, Failure, Hooks, Seen, State, Words};
use crate::model::{HttpCall, HttpHook, IncludesUs};
use crate::ports::http;

#[derive(Debug)]
pub struct HttpHooks {
    hook: HttpHook,
    headers: HeaderMap,
    client: Client,
}

impl HttpHooks {
    /// `headers` holds a `Name: value` a line.
    pub fn new(hook: HttpHook, headers: Option<&SecretString>) -> Result<Self, String> {
        let mut parsed = HeaderMap::new();
        for line in headers.map(ExposeSecret::expose_secret).unwrap_or_default().lines() {
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
        let client = http::client(&http::address(&hook.observe.url)?, hook.deadline)?;
        Ok(Self { hook, headers: parsed, client })
    }

    async fn call(&self, what: &str, call: &HttpCall, words: &Words) -> Result<(StatusCode, Vec<u8>), Failure> {
        let refused = |why: String| Failure::Refused(format!("`{what}`: {why}"));
        let passing = |why: String| Failure::Passing(format!("`{what}`: {why}"));
        let url = http::address(&words.fill(&call.url, in_address)).map_err(refused)?;
        let method = Method::from_bytes(call.method.as_bytes()).map_err(|error| refused(error.to_string()))?;
        let mut request = self.client.request(method, url).headers(self.headers.clone());
        if let Some(body) = &call.body {
            request = request.body(words.fill(body, in_json));
        }
        let response = request.send().await.map_err(|error| passing(http::failure(error)))?;
        let status = response.status();
        let body = http::body(response, http::MAX_ANSWER_BYTES).await.map_err(passing)?;
        if call.expect.contains(&status.as_u16()) || call.expect.is_empty() && status.is_success() {
            return Ok((status, body));
        }
        match status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            true => Err(passing(status.to_string())),
            false => Err(refused(status.to_string())),
        }
    }
}

fn json(what: &str, body: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::Refused(format!("`{what}`: the answer is no JSON: {error}")))
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

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A number, or how many stand in a list.
fn number(answer: &Value, pointer: &str) -> Result<u32, Failure> {
    let found = answer.pointer(pointer);
    let number = match found {
        Some(Value::Array(list)) => Some(list.len() as u64),
        Some(value) => value.as_u64(),
        None => None,
    };
    number
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| Failure::Refused(format!("`count`: no number and no list at {pointer}")))
}

#[async_trait]
impl Hooks for HttpHooks {
    async fn isolate(&self, words: &Words) -> Result<(), Failure> {
        self.call("isolate", &self.hook.isolate, words).await.map(drop)
    }

    async fn restore(&self, words: &Words) -> Result<(), Failure> {
        self.call("restore", &self.hook.restore, words).await.map(drop)
    }

    async fn observe(&self, words: &Words) -> Result<Option<Seen>, Failure> {
        let hook = &self.hook;
        let call = HttpCall { expect: [&[200], &hook.absent[..]].concat(), ..hook.observe.clone() };
        let (status, body) = self.call("observe", &call, words).await?;
        if hook.absent.contains(&status.as_u16()) {
            return Ok(None);
        }
        let answer = json("observe", &body)?;
        let said = answer.pointer(&hook.traffic).and_then(text);
        let says = |words: &Vec<String>| said.as_ref().is_some_and(|said| words.contains(said));
        let states = [
            (State::Passing, &hook.passing),
            (State::Failing, &hook.failing),
            (State::Drained, &hook.drained),
            (State::Isolated, &hook.isolated),
        ];
        let Some((traffic, _)) = states.into_iter().find(|(_, words)| says(words)) else {
            let what = format!("`observe`: what stands at {} is none of the words that are given", hook.traffic);
            return Err(Failure::Refused(what));
        };
        let marker = hook.marker.as_ref().and_then(|pointer| answer.pointer(pointer).and_then(text));
        Ok(Some(Seen { traffic, marker: marker.filter(|marker| !marker.is_empty()), name: None }))
    }

    fn counts(&self) -> bool {
        self.hook.count.is_some()
    }

    async fn count(&self, words: &Words) -> Result<Counted, Failure> {
        let Some(count) = &self.hook.count else { return Err(Failure::Refused("no `count` is given".into())) };
        let ourselves = match count.includes_us {
            IncludesUs::Never => false,
            IncludesUs::Always => true,
            IncludesUs::InTraffic => self.observe(words).await?.is_some_and(|seen| seen.traffic == State::Passing),
        };
        let answer = json("count", &self.call("count", &count.call, words).await?.1)?;
        let (healthy, registered) = (number(&answer, &count.healthy)?, number(&answer, &count.registered)?);
        Ok(Counted { healthy: healthy.saturating_sub(u32::from(ourselves)), registered })
    }

    fn may_arrive_late(&self) -> bool {
        true
    }

    fn deadline(&self) -> Duration {
        self.hook.deadline
    }
}
