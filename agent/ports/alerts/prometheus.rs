//! Prometheus' HTTP API (prometheus.io/docs/prometheus/latest/querying/api): `GET /api/v1/query` for the series `ALERTS`, which
//! Prometheus writes for each alert at each evaluation of its rule. So Prometheus matches the labels itself, and whatever speaks
//! the same API (Thanos, Mimir, VictoriaMetrics) can be asked.
//!
//! An empty answer proves nothing by itself: a server without rules, or one that evaluates none any more, gives the same. So
//! the same server must show an alert that always fires, the watchdog. An answer with `warnings` is partial and does not count.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Alerts;
use crate::model::alerts::{AlertSelector, FiringAlert};
use crate::ports::http::{self, Client, Members, Servers};
use crate::ports::silence::patient;
use crate::ports::{Secret, User, said};

/// For one question; a query of `ALERTS` takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// Some 2,000 alerts that fire.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Who we are there.
#[derive(Debug)]
pub enum Credentials {
    Bearer(Secret),
    Basic(User),
}

#[derive(Debug)]
pub struct Prometheus {
    members: Members,
    credentials: Option<Credentials>,
    /// Which alert always fires; `None` where a person has said that none does.
    watchdog: Option<AlertSelector>,
}

#[derive(Deserialize)]
struct Answer<T> {
    status: String,
    data: Option<T>,
    #[serde(default)]
    error: String,
    #[serde(default)]
    warnings: Vec<String>,
    /// VictoriaMetrics' word, where a part of its storage did not answer.
    #[serde(default, rename = "isPartial")]
    is_partial: bool,
}

#[derive(Deserialize)]
struct Queried {
    #[serde(rename = "resultType")]
    result_type: String,
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct BuildInfo {
    version: String,
}

/// Why one member gave no answer.
#[derive(Debug)]
enum Failed {
    /// Another member may answer.
    Passing(String),
    Denied(String),
    Refused(String),
}

impl Prometheus {
    /// # Errors
    /// In words, where an address cannot be used.
    pub fn new(
        servers: Servers,
        credentials: Option<Credentials>,
        watchdog: Option<AlertSelector>,
    ) -> Result<Self, String> {
        Ok(Self { members: Members::new(servers, DEADLINE)?, credentials, watchdog })
    }

    async fn query(&self, selectors: &[AlertSelector]) -> Result<Vec<FiringAlert>, String> {
        if selectors.is_empty() {
            return Ok(Vec::new());
        }
        let each: Vec<String> =
            selectors.iter().map(|selector| format!(r#"ALERTS{{alertstate="firing",{selector}}}"#)).collect();
        let queried: Queried = self.get("query", Some(&each.join(" or "))).await?;
        match queried.result_type.as_str() {
            "vector" => Ok(queried.result.into_iter().map(|series| FiringAlert(series.metric)).collect()),
            other => Err(format!("GET query: the answer is a `{other}`, not a vector; the url may not be Prometheus'")),
        }
    }

    async fn get<T: DeserializeOwned + Send>(&self, what: &str, query: Option<&str>) -> Result<T, String> {
        let asked = match &self.credentials {
            None => self.ask(what, query, None).await,
            Some(Credentials::Bearer(secret) | Credentials::Basic(User { password: secret, .. })) => {
                let ask = |secret| async move { self.ask(what, query, Some(secret)).await };
                secret.with(ask, |failed| matches!(failed, Failed::Denied(_))).await
            }
        };
        let body = asked.map_err(|(Failed::Passing(why) | Failed::Denied(why) | Failed::Refused(why))| why)?;
        let answer: Answer<T> = serde_json::from_slice(&body)
            .map_err(|error| format!("GET {what}: the answer is not Prometheus' ({error})"))?;
        match answer {
            Answer { warnings, .. } if !warnings.is_empty() => {
                let first = said::first_line(&warnings[0], []);
                Err(format!("GET {what}: the answer is partial: {first}"))
            }
            Answer { is_partial: true, .. } => {
                Err(format!("GET {what}: the answer is partial: a part of the storage is away"))
            }
            Answer { status, data: Some(data), .. } if status == "success" => Ok(data),
            Answer { error, .. } => Err(format!("GET {what}: refused{}", said::behind(&said::first_line(&error, [])))),
        }
    }

    async fn ask(&self, what: &str, query: Option<&str>, secret: Option<SecretString>) -> Result<Vec<u8>, Failed> {
        let authorization = match (&self.credentials, &secret) {
            (Some(credentials), Some(secret)) => Some(credentials.header(secret).map_err(Failed::Refused)?),
            _ => None,
        };
        let authorization = authorization.as_ref();
        let secret = secret.as_ref().map(|secret| secret.expose_secret());
        let ask = |client: Client, base: Url| async move {
            let mut url = base;
            url.path_segments_mut()
                .expect("an http url has a path")
                .pop_if_empty()
                .extend(["api", "v1"])
                .extend(what.split('/'));
            if let Some(query) = query {
                url.query_pairs_mut().append_pair("query", query);
            }
            let mut request = client.get(url);
            if let Some(authorization) = authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let response = client.send(request).await;
            let response = response.map_err(|failure| Failed::Passing(format!("GET {what}: {}", failure.words)))?;
            let status = response.status();
            let body = http::body(response, MAX_ANSWER_BYTES).await;
            let body = body.map_err(|why| Failed::Passing(format!("GET {what}: {why}")))?;
            if status.is_success() {
                return Ok(body);
            }
            let why = format!("GET {what}: {status}{}", said::behind(&said::in_body(&body, secret)));
            Err(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failed::Denied(why),
                _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Failed::Passing(why),
                _ => Failed::Refused(why),
            })
        };
        self.members.ask(ask, |failed| matches!(failed, Failed::Passing(_))).await
    }
}

impl Credentials {
    fn header(&self, secret: &SecretString) -> Result<HeaderValue, String> {
        let secret = secret.expose_secret();
        let text = match self {
            Self::Bearer(_) => format!("Bearer {secret}"),
            Self::Basic(User { name, .. }) => {
                format!("Basic {}", STANDARD.encode(format!("{name}:{secret}")))
            }
        };
        let value = HeaderValue::from_str(&text);
        let mut value = value.map_err(|_| "the token has characters that a header cannot hold".to_owned())?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[async_trait]
impl Alerts for Prometheus {
    async fn firing(&self, selectors: &[AlertSelector]) -> Result<Vec<FiringAlert>, String> {
        let deadline = patient(DEADLINE);
        let asked = tokio::time::timeout(deadline, async {
            if let Some(watchdog) = &self.watchdog
                && self.query(std::slice::from_ref(watchdog)).await?.is_empty()
            {
                return Err(format!(
                    "the alert that always fires ({watchdog}) does not: nobody knows if the rules are evaluated; add it to \
                     Prometheus' rules, or name another by `prometheus: {{ watchdog: ... }}` in agent.yaml"
                ));
            }
            self.query(selectors).await
        });
        let answer = asked.await.unwrap_or_else(|_| Err("no answer within the deadline".into()));
        answer.map_err(|why| format!("prometheus: {why}"))
    }

    async fn server(&self) -> Result<String, String> {
        let info: BuildInfo = self.get("status/buildinfo", None).await?;
        Ok(format!("Prometheus {}", info.version))
    }
}
