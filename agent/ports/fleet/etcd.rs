//! The fleet in etcd, by its JSON gateway (`/v3/kv/…`, etcd 3.4 and later): keys below `unwait/`, changed by a
//! transaction that compares `mod_revision`, read linearizably. Keys and values travel in base64, int64 as strings, and
//! what is zero or false is left out.
//!
//! With access control the user needs read and write on the prefix `unwait/`. A token is asked for by name and password
//! and kept until etcd does not take it any more.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::documents::{Documents, Key, Text, folder_path};
use super::shared::SharedFleet;
use super::{CALL_DEADLINE, Fleet, FleetError, User};
use crate::clock::Clock;
use crate::ports::http;

/// `host` is the name that this host holds slots under.
pub fn etcd(url: &str, user: Option<User>, host: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Fleet>, FleetError> {
    let base = http::address(url).map_err(FleetError::Refused)?;
    let client = http::client(&base, CALL_DEADLINE).map_err(FleetError::Refused)?;
    Ok(Arc::new(SharedFleet::new(Etcd { base, client, user, token: Mutex::new(None) }, host, clock)))
}

#[derive(Debug)]
struct Etcd {
    base: Url,
    client: Client,
    user: Option<User>,
    /// The last that was given; held while a new one is asked for.
    token: Mutex<Option<SecretString>>,
}

/// Every answer has a header; what has none is not etcd's.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "header")]
    _header: Value,
    #[serde(default)]
    kvs: Vec<Pair>,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    token: Option<String>,
}

#[derive(Deserialize)]
struct Pair {
    key: String,
    #[serde(default)]
    value: String,
    mod_revision: String,
}

impl Pair {
    fn read(&self) -> Result<(String, Text), FleetError> {
        let wrong = |what: &str| FleetError::Refused(format!("etcd's {what} cannot be read"));
        let key = STANDARD.decode(&self.key).ok().and_then(|key| String::from_utf8(key).ok());
        let text = STANDARD.decode(&self.value).map_err(|_| wrong("value"))?;
        let revision = self.mod_revision.parse().map_err(|_| wrong("mod_revision"))?;
        Ok((key.ok_or_else(|| wrong("key"))?, Text { text, revision }))
    }
}

/// Why a call has no answer.
enum Failed {
    /// The token is not, or no longer, taken.
    Unauthenticated(String),
    Otherwise(FleetError),
}

impl From<Failed> for FleetError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unauthenticated(detail) => Self::Refused(detail),
            Failed::Otherwise(error) => error,
        }
    }
}

impl Etcd {
    async fn call(&self, method: &str, body: &Value) -> Result<Answer, FleetError> {
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
    async fn token(&self, spent: Option<&SecretString>) -> Result<Option<SecretString>, FleetError> {
        let Some(user) = &self.user else { return Ok(None) };
        let mut kept = self.token.lock().await;
        let is_spent = |token: &SecretString| spent.is_some_and(|it| it.expose_secret() == token.expose_secret());
        if kept.as_ref().is_none_or(is_spent) {
            let body = json!({ "name": user.name, "password": user.password.expose_secret() });
            let answer = self.post("auth/authenticate", &body, None).await?;
            let none = || FleetError::Refused("etcd gave no token; is its access control on?".into());
            *kept = Some(answer.token.ok_or_else(none)?.into());
        }
        Ok(kept.clone())
    }

    async fn post(&self, method: &str, body: &Value, token: Option<&SecretString>) -> Result<Answer, Failed> {
        let asked = format!("POST /v3/{method}");
        let otherwise = |detail: String| Failed::Otherwise(FleetError::Refused(format!("etcd: {asked}: {detail}")));
        let unreachable =
            |detail: String| Failed::Otherwise(FleetError::Unreachable(format!("etcd: {asked}: {detail}")));
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

#[async_trait]
impl Documents for Etcd {
    async fn read(&self, key: Key<'_>) -> Result<Option<Text>, FleetError> {
        let answer = self.call("kv/range", &json!({ "key": STANDARD.encode(key.path()) })).await?;
        answer.kvs.first().map(|pair| Ok(pair.read()?.1)).transpose()
    }

    async fn swap(&self, key: Key<'_>, revision: u64, text: Option<&[u8]>) -> Result<bool, FleetError> {
        let path = STANDARD.encode(key.path());
        let done = match text {
            Some(text) => json!({ "request_put": { "key": path, "value": STANDARD.encode(text) } }),
            None => json!({ "request_delete_range": { "key": path } }),
        };
        let stands = json!({ "key": path, "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string() });
        Ok(self.call("kv/txn", &json!({ "compare": [stands], "success": [done] })).await?.succeeded)
    }

    async fn list(&self, folder: &[&str]) -> Result<Vec<(String, Text)>, FleetError> {
        let first = format!("{}/", folder_path(folder));
        // The first key that does not begin with that: `0` comes after `/`.
        let end = format!("{}0", folder_path(folder));
        let body = json!({ "key": STANDARD.encode(&first), "range_end": STANDARD.encode(end) });
        let pairs = self.call("kv/range", &body).await?.kvs;
        let named = |pair: &Pair| {
            let (key, text) = pair.read()?;
            Ok((key.strip_prefix(&first).unwrap_or(&key).to_owned(), text))
        };
        pairs.iter().map(named).collect()
    }
}
