//! Notifiers: telling people. Called by the outbox alone; an incident never waits for one.

use std::time::Duration;

use async_trait::async_trait;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};

pub use crate::model::message::{Letter, ThreadKey};
use crate::ports::http::{self, Client, Via};

pub mod generic;
pub mod slack;

/// For one delivery; the outbox tries again, so a slow destination need not be waited for.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Chat services answer with a word or a small object.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// What a destination may ask us to wait at most; beyond that the outbox's own backoff is better.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// Why a message was not taken. Never holds the destination's address: it is a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// Try again, not before this long where the destination said so.
    #[error("{detail}")]
    Later { after: Option<Duration>, detail: String },
    /// The destination will never take it: a wrong address, a message that it refuses.
    #[error("{detail}")]
    Refused { detail: String },
}

/// How fast a destination takes messages, by its own documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From one message to the next, at least.
    pub every: Duration,
    /// Where more messages wait than go out in 10 s, they are joined into messages of at most so many bytes of text (title
    /// and lines), all of which the destination shows. `None`: never, since a machine reads each.
    pub joined_bytes: Option<usize>,
}

impl Pace {
    pub const UNLIMITED: Self = Self { every: Duration::ZERO, joined_bytes: None };
}

#[async_trait]
pub trait Notifier: Send + Sync {
    /// Returns once the destination has said that it took the message. `Some` takes the place of the letter's `thread`,
    /// `None` leaves it; a destination that cannot thread ignores the one and answers the other.
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError>;

    fn pace(&self) -> Pace;
}

/// A webhook. Its address is a credential: it is in no error and in no Debug output.
#[derive(Debug)]
struct Destination {
    kind: &'static str,
    url: SecretString,
    client: Client,
}

impl Destination {
    fn new(kind: &'static str, url: SecretString, via: &Via) -> Result<Self, DeliveryError> {
        let refused = |detail| DeliveryError::Refused { detail: format!("{kind}: {detail}") };
        http::address(url.expose_secret()).map_err(refused)?;
        Ok(Self { kind, client: Client::new(via, CALL_DEADLINE).map_err(refused)?, url })
    }

    /// Posts JSON; the body of a 2xx answer. 429 and what may pass by itself is `Later`; any other answer `Refused`.
    async fn post(&self, body: Vec<u8>, headers: &[(&'static str, String)]) -> Result<String, DeliveryError> {
        let kind = self.kind;
        let later = |after, detail| DeliveryError::Later { after, detail: format!("{kind}: {detail}") };
        let url = Url::parse(self.url.expose_secret().trim()).expect("it was read when it was taken in");
        let mut all = HeaderMap::new();
        all.insert("content-type", HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|_| DeliveryError::Refused {
                detail: format!("{kind}: the header {name} would hold characters that none may"),
            })?;
            all.insert(HeaderName::from_static(name), value);
        }
        let request = self.client.post(url).headers(all).body(body);
        let response = self.client.send(request).await.map_err(|failure| later(None, failure.words))?;
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let after = after.map(Duration::from_secs).map(|after| after.min(MAX_RETRY_AFTER));
        let answer = http::body(response, MAX_ANSWER_BYTES).await.map_err(|error| later(None, error))?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        match status {
            _ if status.is_success() => Ok(answer),
            StatusCode::TOO_MANY_REQUESTS => Err(later(after, "429: too many messages".into())),
            StatusCode::REQUEST_TIMEOUT => Err(later(after, status.to_string())),
            _ if status.is_server_error() => Err(later(after, status.to_string())),
            _ => Err(DeliveryError::Refused { detail: format!("{kind}: {status}{}", code(&answer)) }),
        }
    }
}

/// An error code such as `channel_is_archived`; anything longer or freer may repeat what we sent.
fn code(answer: &str) -> String {
    let answer = answer.trim();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !answer.is_empty() && answer.len() <= 40 && answer.bytes().all(plain) {
        format!(": {answer}")
    } else {
        String::new()
    }
}

#[cfg(test)]
pub mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::model::{EventKind, IncidentId, Message, Outcome, Reason, ServiceName};
    use crate::ports::tls::TlsContext;

    /// Directly.
    pub fn via() -> Via {
        TlsContext::plain("a test").into()
    }

    pub fn message() -> Message {
        Message {
            labels: vec!["dc=bj1".into()],
            service: Some(ServiceName::parse("rpc-order.service").unwrap()),
            policy: Some("close-wait-leak".into()),
            incident: Some(IncidentId("20261122T184329Z-rpc-order-1f3a".into())),
            outcome: Some(Outcome::Completed),
            reason: Some(Reason::Recovered),
            lines: vec!["288 sockets in CLOSE_WAIT > 200".into()],
            ..Message::new(
                EventKind::End,
                "bj1-03",
                "2026-11-22T18:43:29Z".parse().unwrap(),
                "rpc-order.service: restarted & back in traffic",
            )
        }
    }

    /// A web server that gives one answer to all, and keeps what it was sent.
    #[derive(Debug)]
    pub struct Server {
        address: std::net::SocketAddr,
        pub requests: Arc<Mutex<Vec<String>>>,
    }

    impl Server {
        pub async fn answering(answer: &'static str) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
            let requests = server.requests.clone();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut request = Vec::new();
                    while !is_whole(&request) && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
                    requests.lock().unwrap().push(String::from_utf8(request).unwrap());
                    let _ = stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await;
                }
            });
            server
        }

        pub fn url(&self, path: &str) -> String {
            format!("http://{}{path}", self.address)
        }
    }

    fn is_whole(request: &[u8]) -> bool {
        let text = String::from_utf8_lossy(request).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        body.len() >= length.parse::<usize>().unwrap()
    }

    #[test]
    fn an_error_is_shown_only_where_it_is_a_code() {
        assert_eq!(code("channel_is_archived\n"), ": channel_is_archived");
        for free in ["", "<html>", "No such hook: T0/B0/secret", "a".repeat(50).as_str()] {
            assert_eq!(code(free), "");
        }
    }
}
