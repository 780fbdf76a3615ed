//! etcd's JSON gateway (`/v3/…`, etcd 3.4 and later), as the registry and the fleet's slots use it: one honest answer, of
//! whichever member can give it. Keys and values travel in base64, int64 as strings, and what is zero or false is left
//! out.
//!
//! A read that an election or a broken connection ended is asked again (503 "leader changed", seen on 3.6.16 and 3.7.3). A
//! write that may have arrived never is: it compares the revision that was read, so whoever asked reads again what
//! stands.
//!
//! With access control a token is asked for by name and password ([`Login`]), and a new one as soon as etcd does not take
//! it any more: after the server's restart (401), after any change of users or roles (400 "revision of auth store is
//! old", JWT). etcd never cuts an answer by permissions: whoever may not read the whole range is refused.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api_error::ApiError;
use super::http::{self, Client, Failure, FailureKind, Members, Servers};
use super::login::{LOGIN_DEADLINE, Login, LoginError};

#[derive(Debug)]
pub(super) struct Api {
    members: Arc<Members>,
    login: Option<Arc<Login>>,
    /// For each question to one member, and for waiting for a login.
    deadline: Duration,
}

/// Pauses before a read is asked again: a follower that lost its leader answers as soon as there is a new one.
const READ_AGAIN: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(500)];

/// Of etcd's own words.
const SHOWN_CHARS: usize = 160;

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
    responses: Vec<Part>,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    token: Option<String>,
}

/// Of a transaction: what one of its questions came to.
#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    response_range: Range,
}

#[derive(Default, Deserialize)]
struct Range {
    #[serde(default)]
    kvs: Vec<RawPair>,
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

/// Which keys.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keys<'a> {
    One(&'a str),
    /// Those that begin with it, and go on.
    Below(&'a str),
}

impl Keys<'_> {
    fn range(self) -> Value {
        match self {
            Self::One(key) => json!({ "key": STANDARD.encode(key) }),
            Self::Below(prefix) => {
                // The first key that does not begin with that.
                let mut end = prefix.as_bytes().to_vec();
                while end.last() == Some(&u8::MAX) {
                    end.pop();
                }
                if let Some(last) = end.last_mut() {
                    *last += 1;
                }
                json!({ "key": STANDARD.encode(prefix), "range_end": STANDARD.encode(end) })
            }
        }
    }
}

/// Why a question to one member has no answer.
#[derive(Debug)]
enum Failed {
    /// Nothing arrived there.
    NotReached(String),
    /// It ended before its deadline, and may be asked again at once; a write may have been done.
    Broken(String),
    /// No answer by the deadline; a write may have been done.
    Silent(String),
    /// By TLS; nothing was done.
    Distrusted(String),
    /// The token is not, or no longer, taken; nothing was done.
    LoggedOut(String),
    Refused(String),
}

impl From<Failed> for ApiError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NotReached(detail) | Failed::Broken(detail) | Failed::Silent(detail) => Self::Unreachable(detail),
            Failed::Distrusted(detail) => Self::Distrusted(detail),
            Failed::LoggedOut(detail) | Failed::Refused(detail) => Self::Refused(detail),
        }
    }
}

impl Failed {
    /// Another member may do better, where asking twice does no harm.
    fn may_pass(&self) -> bool {
        matches!(self, Self::NotReached(_) | Self::Broken(_) | Self::Silent(_) | Self::Distrusted(_))
    }

    fn is_not_reached(&self) -> bool {
        matches!(self, Self::NotReached(_) | Self::Distrusted(_))
    }
}

impl Api {
    /// `servers` are members of one cluster; `deadline` is for each question to one of them.
    pub fn new(servers: Servers, login: Option<Arc<Login>>, deadline: Duration) -> Result<Self, String> {
        Ok(Self { members: Arc::new(Members::new(servers, deadline)?), login, deadline })
    }

    /// As it stands now, and not as some follower remembers it.
    pub async fn get(&self, key: &str) -> Result<Option<Pair>, ApiError> {
        let answer = self.read("kv/range", &Keys::One(key).range()).await?;
        answer.kvs.first().map(RawPair::read).transpose()
    }

    /// Every key that begins with `prefix`, and goes on.
    pub async fn below(&self, prefix: &str) -> Result<Vec<Pair>, ApiError> {
        self.read("kv/range", &Keys::Below(prefix).range()).await?.kvs.iter().map(RawPair::read).collect()
    }

    /// All of these as they stand at one moment, by one question.
    pub async fn get_all<const N: usize>(&self, keys: [Keys<'_>; N]) -> Result<[Vec<Pair>; N], ApiError> {
        let asked: Vec<Value> = keys.iter().map(|keys| json!({ "request_range": keys.range() })).collect();
        let answer = self.read("kv/txn", &json!({ "success": asked })).await?;
        let parts: Vec<Vec<Pair>> = answer
            .responses
            .iter()
            .map(|part| part.response_range.kvs.iter().map(RawPair::read).collect())
            .collect::<Result<_, ApiError>>()?;
        parts.try_into().map_err(|_| ApiError::Refused("etcd: POST /v3/kv/txn: another number of answers".into()))
    }

    /// Puts `value` there, or removes what is there, where it still stands at `mod_revision` (0 where nothing is to be
    /// there). False where it does not. [`ApiError::Unreachable`] where it is not known what came of it.
    pub async fn swap(&self, key: &str, mod_revision: u64, value: Option<&[u8]>) -> Result<bool, ApiError> {
        let key = STANDARD.encode(key);
        let done = match value {
            Some(value) => json!({ "request_put": { "key": key, "value": STANDARD.encode(value) } }),
            None => json!({ "request_delete_range": { "key": key } }),
        };
        let revision = mod_revision.to_string();
        let stands = json!({ "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision });
        let body = json!({ "compare": [stands], "success": [done] });
        Ok(self.ask("kv/txn", &body, Failed::is_not_reached).await?.succeeded)
    }

    /// Puts `value` there where just that stands. As nothing changes it is asked again like a read. False where something
    /// else stands, or nothing.
    pub async fn put_again(&self, key: &str, value: &[u8]) -> Result<bool, ApiError> {
        let (key, value) = (STANDARD.encode(key), STANDARD.encode(value));
        let stands = json!({ "key": key, "target": "VALUE", "result": "EQUAL", "value": value });
        let put = json!({ "request_put": { "key": key, "value": value } });
        Ok(self.read("kv/txn", &json!({ "compare": [stands], "success": [put] })).await?.succeeded)
    }

    /// A call for people.
    pub fn shown(&self, method: &'static str) -> String {
        self.members.shown(&Method::POST, |base| at(base, method))
    }

    /// What the members run; of one that answers.
    pub async fn version(&self) -> Result<Option<String>, ApiError> {
        Ok(self.members.ask(version, Failed::may_pass).await?)
    }

    async fn read(&self, method: &'static str, body: &Value) -> Result<Answer, ApiError> {
        for pause in READ_AGAIN {
            match self.ask(method, body, Failed::may_pass).await {
                Err(Failed::Broken(_)) => tokio::time::sleep(pause).await,
                answer => return Ok(answer?),
            }
        }
        Ok(self.ask(method, body, Failed::may_pass).await?)
    }

    /// Of each member in turn for as long as `next` says so; with a new token where the one that was kept has ended.
    async fn ask(&self, method: &'static str, body: &Value, next: fn(&Failed) -> bool) -> Result<Answer, Failed> {
        let Some(login) = &self.login else { return self.send(method, body, None, next).await };
        let token = self.token(login, None).await?;
        match self.send(method, body, Some(&token), next).await {
            // Refused, so not done: asking again does nothing twice.
            Err(Failed::LoggedOut(_)) => {
                let token = self.token(login, Some(&token)).await?;
                self.send(method, body, Some(&token), next).await
            }
            answer => answer,
        }
    }

    async fn token(&self, login: &Login, spent: Option<&SecretString>) -> Result<SecretString, Failed> {
        let (members, name) = (Arc::clone(&self.members), login.name().to_owned());
        let ask = move |password: SecretString| {
            let (members, name) = (Arc::clone(&members), name.clone());
            async move { log_in(&members, &name, &password).await }
        };
        login.token(spent, self.deadline, ask).await.map_err(|error| match error {
            LoginError::NotReached(detail) => Failed::NotReached(detail),
            LoginError::Unanswered(detail) => Failed::Silent(detail),
            LoginError::Distrusted(detail) => Failed::Distrusted(detail),
            LoginError::Refused(detail) => Failed::Refused(detail),
        })
    }

    async fn send(
        &self,
        method: &'static str,
        body: &Value,
        token: Option<&SecretString>,
        next: fn(&Failed) -> bool,
    ) -> Result<Answer, Failed> {
        let post = |client, base| post(client, base, method, body, token, self.deadline);
        self.members.ask(post, next).await
    }
}

/// One login. It may take long, so it is asked of a member that answers a light question; and it is heavy, so no other is
/// asked for what one may still work on.
async fn log_in(members: &Members, name: &str, password: &SecretString) -> Result<SecretString, LoginError> {
    if let Err(failed) = members.ask(version, Failed::may_pass).await {
        return Err(match failed.into() {
            ApiError::Distrusted(detail) => LoginError::Distrusted(detail),
            ApiError::Unreachable(detail) | ApiError::Refused(detail) => LoginError::NotReached(detail),
        });
    }
    let body = &json!({ "name": name, "password": password.expose_secret() });
    let post = |client, base| post(client, base, "auth/authenticate", body, None, LOGIN_DEADLINE);
    match members.ask(post, |failed| matches!(failed, Failed::NotReached(_) | Failed::Broken(_))).await {
        Ok(Answer { token: Some(token), .. }) => Ok(token.into()),
        Ok(_) => {
            Err(LoginError::Refused("etcd gave no token; its access control may be off (`etcdctl auth enable`)".into()))
        }
        Err(Failed::NotReached(detail)) => Err(LoginError::NotReached(detail)),
        Err(Failed::Distrusted(detail)) => Err(LoginError::Distrusted(detail)),
        Err(Failed::Broken(detail) | Failed::Silent(detail)) => Err(LoginError::Unanswered(detail)),
        Err(Failed::LoggedOut(detail) | Failed::Refused(detail)) => Err(LoginError::Refused(detail)),
    }
}

/// `GET /version` is answered to everybody, whatever the state of the cluster.
async fn version(client: Client, base: Url) -> Result<Option<String>, Failed> {
    #[derive(Deserialize)]
    struct Version {
        etcdserver: String,
    }
    let told = |detail: String| format!("etcd: GET /version: {detail}");
    let mut url = base;
    url.path_segments_mut().expect("an http url has a path").pop_if_empty().push("version");
    let response = client.send(client.get(url)).await.map_err(|failure| lost(failure, told))?;
    let body = http::body(response, http::MAX_ANSWER_BYTES).await.map_err(|error| Failed::Broken(told(error)))?;
    Ok(serde_json::from_slice(&body).ok().map(|Version { etcdserver }| etcdserver))
}

/// How a question ended that has no answer.
fn lost(failure: Failure, told: impl Fn(String) -> String) -> Failed {
    let detail = told(failure.words);
    match failure.kind {
        FailureKind::NotReached | FailureKind::NoSuchName => Failed::NotReached(detail),
        FailureKind::Silent => Failed::Silent(detail),
        FailureKind::Broken => Failed::Broken(detail),
        FailureKind::Distrusted => Failed::Distrusted(detail),
    }
}

fn at(base: Url, method: &str) -> Url {
    let mut url = base;
    url.path_segments_mut().expect("an http url has a path").pop_if_empty().push("v3").extend(method.split('/'));
    url
}

async fn post(
    client: Client,
    base: Url,
    method: &'static str,
    body: &Value,
    token: Option<&SecretString>,
    deadline: Duration,
) -> Result<Answer, Failed> {
    let told = |detail: String| format!("etcd: POST /v3/{method}: {detail}");
    let mut request = client.post(at(base, method)).json(body).timeout(deadline);
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(token.expose_secret())
            .map_err(|_| Failed::Refused(told("the login's token has characters that a header cannot hold".into())))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let response = client.send(request).await.map_err(|failure| lost(failure, told))?;
    let status = response.status();
    let body = http::body(response, http::MAX_ANSWER_BYTES).await.map_err(|error| Failed::Broken(told(error)))?;
    if status.is_success() {
        return serde_json::from_slice(&body)
            .map_err(|error| Failed::Refused(told(format!("the answer is not etcd's: {error}"))));
    }
    let says = says(&body);
    let detail = told(format!("{status}: {says}"));
    Err(match status {
        _ if status == StatusCode::UNAUTHORIZED || says.contains(OLD_TOKEN) => Failed::LoggedOut(detail),
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Failed::Broken(detail),
        StatusCode::NOT_FOUND => Failed::Refused(told(format!("{status}; the url must be that of etcd 3.4 or later"))),
        _ => Failed::Refused(detail),
    })
}

/// A JWT holds the revision of the users that it was made for, and ends with any change of these: 400, code 3.
const OLD_TOKEN: &str = "revision of auth store is old";

/// etcd's own words of what is wrong: `{"code": 14, "message": "etcdserver: leader changed"}`; 3.4 has them in `error` as
/// well. They repeat nothing of ours.
fn says(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Says {
        message: Option<String>,
        error: Option<String>,
    }
    let says: Option<Says> = serde_json::from_slice(body).ok();
    let words = says.and_then(|says| says.message.or(says.error)).unwrap_or_else(|| "no words of etcd's".into());
    words.lines().next().unwrap_or_default().chars().take(SHOWN_CHARS).collect()
}
