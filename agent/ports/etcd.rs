//! etcd's JSON gateway (`/v3/…`, etcd 3.4 and later), as the registry and the fleet's slots use it: one call, one
//! deadline, one honest answer. Keys and values travel in base64, int64 as strings, and what is zero or false is left
//! out.
//!
//! With access control a token is asked for by name and password, and kept until etcd does not take it any more. etcd
//! never cuts an answer by permissions: whoever may not read the whole range is refused.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{User, http};

/// What etcd says of itself may pass; what it says of us needs a person.
#[derive(Debug)]
pub(super) enum ApiError {
    Unreachable(String),
    Refused(String),
}

#[derive(Debug)]
pub(super) struct Api {
    base: Url,
    client: Client,
    user: Option<User>,
    /// The last that was given; held while a new one is asked for.
    token: Mutex<Option<SecretString>>,
}

/// One key as it stood at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub key: String,
    pub value: Vec<u8>,
    pub mod_revision: u64,
}

/// Every answer has a header; what has none is not etcd's.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "header")]
    _header: Value,
    #[serde(default)]
    kvs: Vec<RawPair>,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    token: Option<String>,
}

#[derive(Deserialize)]
struct RawPair {
    key: String,
    #[serde(default)]
    value: String,
    mod_revision: String,
}

impl RawPair {
    fn read(&self) -> Result<Pair, ApiError> {
        let wrong = |what: &str| ApiError::Refused(format!("etcd's {what} cannot be read"));
        let key = STANDARD.decode(&self.key).ok().and_then(|key| String::from_utf8(key).ok());
        let value = STANDARD.decode(&self.value).map_err(|_| wrong("value"))?;
        let mod_revision = self.mod_revision.parse().map_err(|_| wrong("mod_revision"))?;
        Ok(Pair { key: key.ok_or_else(|| wrong("key"))?, value, mod_revision })
    }
}

/// Why a call has no answer.
enum Failed {
    /// The token is not, or no longer, taken.
    Unauthenticated(String),
    Otherwise(ApiError),
}

impl From<Failed> for ApiError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unauthenticated(detail) => Self::Refused(detail),
            Failed::Otherwise(error) => error,
        }
    }
}

impl Api {
    /// `deadline` is for each call.
    pub fn new(url: &str, user: Option<User>, deadline: Duration) -> Result<Self, String> {
        let base = http::address(url)?;
        let client = http::client(&base, deadline)?;
        Ok(Self { base, client, user, token: Mutex::new(None) })
    }

    /// As it stands now, and not as some follower remembers it.
    pub async fn get(&self, key: &str) -> Result<Option<Pair>, ApiError> {
        let answer = self.call("kv/range", &json!({ "key": STANDARD.encode(key) })).await?;
        answer.kvs.first().map(RawPair::read).transpose()
    }

    /// Every key that begins with `prefix`, and goes on.
    pub async fn below(&self, prefix: &str) -> Result<Vec<Pair>, ApiError> {
        // The first key that does not begin with that.
        let mut end = prefix.as_bytes().to_vec();
        while end.last() == Some(&u8::MAX) {
            end.pop();
        }
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let body = json!({ "key": STANDARD.encode(prefix), "range_end": STANDARD.encode(end) });
        self.call("kv/range", &body).await?.kvs.iter().map(RawPair::read).collect()
    }

    /// Puts `value` there, or removes what is there, where it still stands at `mod_revision` (0 where nothing is to be
    /// there). False where it does not.
    pub async fn swap(&self, key: &str, mod_revision: u64, value: Option<&[u8]>) -> Result<bool, ApiError> {
        let key = STANDARD.encode(key);
        let done = match value {
            Some(value) => json!({ "request_put": { "key": key, "value": STANDARD.encode(value) } }),
            None => json!({ "request_delete_range": { "key": key } }),
        };
        let revision = mod_revision.to_string();
        let stands = json!({ "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision });
        Ok(self.call("kv/txn", &json!({ "compare": [stands], "success": [done] })).await?.succeeded)
    }

    async fn call(&self, method: &str, body: &Value) -> Result<Answer, ApiError> {
        let token = self.token(None).await?;
        match self.post(method, body, token.as_ref()).await {
            // Refused, so not done: asking again with a new token does nothing twice.
            Err(Failed::Unauthenticated(_)) if token.is_some() => {
                let token = self.token(token.as_ref()).await?;
                Ok(self.post(method, body, token.as_ref()).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// A token, where there is a user; another one than `spent`.
    async fn token(&self, spent: Option<&SecretString>) -> Result<Option<SecretString>, ApiError> {
        let Some(user) = &self.user else { return Ok(None) };
        let mut kept = self.token.lock().await;
        let is_spent = |token: &SecretString| spent.is_some_and(|it| it.expose_secret() == token.expose_secret());
        if kept.as_ref().is_none_or(is_spent) {
            let body = json!({ "name": user.name, "password": user.password.expose_secret() });
            let answer = self.post("auth/authenticate", &body, None).await?;
            let none = || ApiError::Refused("etcd gave no token; is its access control on?".into());
            *kept = Some(answer.token.ok_or_else(none)?.into());
        }
        Ok(kept.clone())
    }

    async fn post(&self, method: &str, body: &Value, token: Option<&SecretString>) -> Result<Answer, Failed> {
        let asked = format!("POST /v3/{method}");
        let otherwise = |detail: String| Failed::Otherwise(ApiError::Refused(format!("etcd: {asked}: {detail}")));
        let unreachable = |detail: String| Failed::Otherwise(ApiError::Unreachable(format!("etcd: {asked}: {detail}")));
        let mut url = self.base.clone();
        url.path_segments_mut().expect("an http url has a path").pop_if_empty().push("v3").extend(method.split('/'));
        let mut request = self.client.post(url).json(body);
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose_secret())
                .map_err(|_| otherwise("its token holds characters that no header may".into()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let response = request.send().await.map_err(|error| unreachable(http::failure(error)))?;
        let status = response.status();
        let body = http::body(response, http::MAX_ANSWER_BYTES).await.map_err(unreachable)?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| otherwise(format!("the answer is not etcd's: {error}")));
        }
        let says = says(&body);
        match status {
            StatusCode::UNAUTHORIZED => Err(Failed::Unauthenticated(format!("etcd: {asked}: {says}"))),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(unreachable(format!("{status}: {says}")))
            }
            StatusCode::NOT_FOUND => Err(otherwise(format!("{status}; is the url that of an etcd of 3.4 or later?"))),
            status => Err(otherwise(format!("{status}: {says}"))),
        }
    }
}

/// etcd's own words of what is wrong: `{"error": "etcdserver: permission denied", …}`. They repeat nothing of ours.
fn says(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Says {
        error: String,
    }
    match serde_json::from_slice(body) {
        Ok(Says { error }) => error.chars().take(160).collect(),
        Err(_) => "no words of etcd's".into(),
    }
}
