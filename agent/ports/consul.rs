//! Consul's HTTP API, as the registry and the fleet's slots use it: one call, one deadline, one honest answer.
//!
//! Consul 1.8.7 answers 403 with text where a token may not ask, 500 where a server behind the agent refused or no
//! leader is known, and 404 for what is not there. The token travels in `X-Consul-Token` alone and is taken out of
//! any text that comes back.

use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Client, Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;

use super::http;

/// For one call. The local agent answers within milliseconds; `consistent` reads wait for the leader, which may be
/// elected anew meanwhile (some seconds).
const CALL_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Api {
    base: Url,
    token: Option<SecretString>,
    client: Client,
}

/// Why Consul gave no answer that counts.
#[derive(Debug, PartialEq)]
pub(super) enum ApiError {
    /// Worth trying again.
    Unreachable(String),
    /// A person must look: the token, the url, a shape that is not Consul's.
    Refused(String),
}

/// A 2xx or a 404.
#[derive(Debug)]
pub(super) struct Answer {
    pub found: bool,
    /// Consul says itself that a token has cut the list (`X-Consul-Results-Filtered-By-ACLs`, since 1.11).
    pub cut: bool,
    /// `X-Consul-Index` stands in every answer of the KV store, also in a 404; something else's 404 lacks it.
    pub indexed: bool,
    pub body: Vec<u8>,
    asked: String,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    /// Reads the body, where the thing asked for is there.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        if !self.found {
            return Err(ApiError::Refused(format!("{}: 404 Not Found; is the url Consul's?", self.asked)));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| ApiError::Refused(format!("{}: the answer is not Consul's: {error}", self.asked)))
    }
}

impl Api {
    pub fn new(url: &str, token: Option<SecretString>) -> Result<Self, String> {
        let base = http::address(url)?;
        if token.as_ref().is_some_and(|token| HeaderValue::from_str(token.expose_secret().trim()).is_err()) {
            return Err("the token holds characters that no header may".into());
        }
        Ok(Self { client: http::client(&base, CALL_DEADLINE)?, base, token })
    }

    /// `path` is given by its segments, each of which is escaped.
    pub async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Answer, ApiError> {
        self.call(Method::GET, path, query, Vec::new()).await
    }

    pub async fn put(&self, path: &[&str], query: &[(&str, &str)], body: Vec<u8>) -> Result<Answer, ApiError> {
        self.call(Method::PUT, path, query, body).await
    }

    pub async fn delete(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Answer, ApiError> {
        self.call(Method::DELETE, path, query, Vec::new()).await
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, ApiError> {
        let asked = format!("{method} /v1/{}", path.join("/"));
        let mut url = self.base.clone();
        url.path_segments_mut().expect("an http url has a path").pop_if_empty().push("v1").extend(path);
        for (key, value) in query {
            url.query_pairs_mut().append_pair(key, value);
        }
        let mut request = self.client.request(method, url).body(body);
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(token.expose_secret().trim()).expect("checked when it was taken in");
            value.set_sensitive(true);
            request = request.header("X-Consul-Token", value);
        }
        let unreachable = |why: String| ApiError::Unreachable(format!("{asked}: {why}"));
        let response = request.send().await.map_err(|error| unreachable(http::failure(error)))?;
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let cut = header("X-Consul-Results-Filtered-By-ACLs") == Some("true");
        let indexed = header("X-Consul-Index").is_some();
        let body = http::body(response, http::MAX_ANSWER_BYTES).await.map_err(unreachable)?;
        if status.is_success() || status == StatusCode::NOT_FOUND {
            return Ok(Answer { found: status.is_success(), cut, indexed, body, asked });
        }
        let says = self.excerpt(&body);
        // A server behind the agent passes its refusal on as a 500.
        let denied = status == StatusCode::FORBIDDEN
            || status == StatusCode::UNAUTHORIZED
            || says.contains("Permission denied")
            || says.contains("ACL not found");
        if denied {
            Err(ApiError::Refused(format!("{asked}: {status}: {says}; the token lacks a permission for that")))
        } else if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            Err(ApiError::Unreachable(format!("{asked}: {status}: {says}")))
        } else {
            Err(ApiError::Refused(format!("{asked}: {status}: {says}; is the url Consul's?")))
        }
    }

    /// The first line of an error, short, and without the token, should something have echoed it.
    fn excerpt(&self, body: &[u8]) -> String {
        let text = String::from_utf8_lossy(body);
        let line: String = text.lines().next().unwrap_or_default().chars().take(160).collect();
        match &self.token {
            Some(token) if text.contains(token.expose_secret().trim()) => "(not shown: it repeats the token)".into(),
            _ => line,
        }
    }
}
