//! Probes: asking a service whether it is healthy. Called by the steps health_check and verify, by undo and recovery,
//! and by `resolve --restore`; never changes anything.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;

use crate::model::plan::Health;

pub mod dry;
pub mod real;

/// Why a probe did not pass: what was asked, what came back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked}: {answer}")]
pub struct ProbeFailure {
    pub asked: String,
    pub answer: String,
    /// Of the service's own: also that it does not answer. Otherwise the question could not be asked at all.
    pub is_an_answer: bool,
}

#[async_trait]
pub trait Probe: Send + Sync {
    /// Asks once. An answer that does not come within `deadline` is a failure.
    async fn ask(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure>;

    /// Can it be asked at all? An answer is an answer, good or bad, and so is none.
    async fn can_be_asked(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure> {
        match self.ask(health, deadline).await {
            Err(failure) if !failure.is_an_answer => Err(failure),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// The question, for a person. A command's arguments and a url's user and query may be secrets and are left out.
pub fn asked(health: &Health) -> String {
    match health {
        Health::Tcp(address) => format!("tcp {address}"),
        Health::RedisPing(address) => format!("redis PING {address}"),
        Health::Exec(argv) => format!("exec {}", argv.first().map_or("", String::as_str)),
        Health::Http(health) => {
            let path = Url::parse(&health.url).map(|url| url.path().to_owned()).unwrap_or_default();
            format!("GET {}{path}", shown(&health.url))
        }
    }
}

/// Of a url what is no secret: its scheme, host and port.
fn shown(url: &str) -> String {
    let Ok(url) = Url::parse(url) else { return String::new() };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}
