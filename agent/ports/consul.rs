//! Consul's HTTP API, as the registry and the fleet's slots use it: one call, one deadline, one honest answer.
//!
//! Consul 1.8.7 answers 403 with text where a token may not ask, 500 where a server behind the agent refused or no
//! leader is known, and 404 for what is not there. The token travels in `X-Consul-Token` alone and is taken out of
//! any text that comes back. One that is refused is read again from its file ([`Secret`]).
//!
//! The KV store takes a list of agents or servers of one datacenter: a read goes to whichever can answer it, a write to
//! the first that can be reached. Maintenance is the local agent's alone.

use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Secret;
use super::api_error::ApiError;
use super::http::{self, Client, FailureKind, Members, Servers};

/// For one call. The local agent answers within milliseconds; `consistent` reads wait for the leader, which may be
/// elected anew meanwhile (some seconds).
const CALL_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Api {
    members: Members,
    token: Option<Secret>,
}

/// Why a question to one member has no answer.
#[derive(Debug)]
enum Failed {
    /// Nothing arrived there.
    NotReached(String),
    /// May pass; a write may have been done.
    Passing(String),
    /// By TLS; nothing was done.
    Distrusted(String),
    /// The token may not, or is none.
    Denied(String),
    Refused(String),
}

impl From<Failed> for ApiError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NotReached(detail) | Failed::Passing(detail) => Self::Unreachable(detail),
            Failed::Distrusted(detail) => Self::Distrusted(detail),
            Failed::Denied(detail) | Failed::Refused(detail) => Self::Refused(detail),
        }
    }
}

/// What is asked of any member.
#[derive(Clone, Copy)]
struct Question<'a> {
    method: &'a Method,
    path: &'a [&'a str],
    query: &'a [(&'a str, &'a str)],
    body: &'a [u8],
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
            return Err(ApiError::Refused(format!("{}: 404 Not Found; the url may not be Consul's", self.asked)));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| ApiError::Refused(format!("{}: the answer is not Consul's: {error}", self.asked)))
    }
}

impl Api {
    pub fn new(servers: Servers, token: Option<Secret>) -> Result<Self, String> {
        if token.as_ref().is_some_and(|token| header(&token.now()).is_err()) {
            return Err(UNUSABLE.into());
        }
        Ok(Self { members: Members::new(servers, CALL_DEADLINE)?, token })
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

    /// A call for people.
    pub fn shown(&self, method: &Method, path: &[&str], query: &[(&str, &str)]) -> String {
        self.members.shown(method, |base| at(base, path, query))
    }

    /// What answers there, by the right agent:read.
    pub async fn version(&self) -> Result<String, ApiError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Agent {
            config: Config,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Config {
            version: String,
        }
        let agent: Agent = self.get(&["agent", "self"], &[]).await?.json()?;
        Ok(format!("Consul {}", agent.config.version))
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, ApiError> {
        let question = Question { method: &method, path, query, body: &body };
        Ok(match &self.token {
            None => self.ask(question, None).await?,
            Some(token) => {
                let ask = |token| async move { self.ask(question, Some(&token)).await };
                token.with(ask, |error| matches!(error, Failed::Denied(_))).await?
            }
        })
    }

    async fn ask(&self, question: Question<'_>, token: Option<&SecretString>) -> Result<Answer, Failed> {
        let is_read = *question.method == Method::GET;
        let next = |failed: &Failed| match failed {
            Failed::NotReached(_) | Failed::Distrusted(_) => true,
            Failed::Passing(_) => is_read,
            Failed::Denied(_) | Failed::Refused(_) => false,
        };
        self.members.ask(|client, base| ask_one(client, base, question, token), next).await
    }
}

fn at(base: Url, path: &[&str], query: &[(&str, &str)]) -> Url {
    let mut url = base;
    url.path_segments_mut().expect("an http url has a path").pop_if_empty().push("v1").extend(path);
    for (key, value) in query {
        url.query_pairs_mut().append_pair(key, value);
    }
    url
}

async fn ask_one(
    client: Client,
    base: Url,
    question: Question<'_>,
    token: Option<&SecretString>,
) -> Result<Answer, Failed> {
    let Question { method, path, query, body } = question;
    let asked = format!("{method} /v1/{}", path.join("/"));
    let mut request = client.request(method.clone(), at(base, path, query)).body(body.to_vec());
    if let Some(token) = token {
        let value = header(token).map_err(|why| Failed::Refused(format!("{asked}: {why}")))?;
        request = request.header("X-Consul-Token", value);
    }
    let response = client.send(request).await.map_err(|failure| {
        let why = format!("{asked}: {}", failure.words);
        match failure.kind {
            FailureKind::NotReached | FailureKind::NoSuchName => Failed::NotReached(why),
            FailureKind::Distrusted => Failed::Distrusted(why),
            FailureKind::Silent | FailureKind::Broken => Failed::Passing(why),
        }
    })?;
    let status = response.status();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let cut = header("X-Consul-Results-Filtered-By-ACLs") == Some("true");
    let indexed = header("X-Consul-Index").is_some();
    let body = http::body(response, http::MAX_ANSWER_BYTES).await;
    let body = body.map_err(|why| Failed::Passing(format!("{asked}: {why}")))?;
    if status.is_success() || status == StatusCode::NOT_FOUND {
        return Ok(Answer { found: status.is_success(), cut, indexed, body, asked });
    }
    let says = excerpt(&body, token);
    // A server behind the agent passes its refusal on as a 500.
    let denied = status == StatusCode::FORBIDDEN
        || status == StatusCode::UNAUTHORIZED
        || says.contains("Permission denied")
        || says.contains("ACL not found");
    Err(if denied {
        Failed::Denied(format!("{asked}: {status}: {says}; the token lacks a permission for that"))
    } else if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        Failed::Passing(format!("{asked}: {status}: {says}"))
    } else {
        Failed::Refused(format!("{asked}: {status}: {says}; the url may not be Consul's"))
    })
}

const UNUSABLE: &str = "the token has characters that a header cannot hold";

fn header(token: &SecretString) -> Result<HeaderValue, &'static str> {
    let mut value = HeaderValue::from_str(token.expose_secret().trim()).map_err(|_| UNUSABLE)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The first line of an error, short, and without the token, should something have echoed it.
fn excerpt(body: &[u8], token: Option<&SecretString>) -> String {
    let text = String::from_utf8_lossy(body);
    let line: String = text.lines().next().unwrap_or_default().chars().take(160).collect();
    match token {
        Some(token) if text.contains(token.expose_secret().trim()) => "(not shown: it repeats the token)".into(),
        _ => line,
    }
}
