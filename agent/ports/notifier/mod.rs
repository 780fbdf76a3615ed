//! Notifiers: telling people. Called by the outbox alone; an incident never waits for one.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub use crate::model::message::{Letter, ThreadKey};

pub mod alertmanager;
#[cfg(test)]
mod alertmanager_tests;
mod alerts;
#[cfg(test)]
mod conformance;
mod destination;
pub mod dingtalk;
pub mod discord;
pub mod email;
#[cfg(test)]
mod email_tests;
pub mod feishu;
pub mod generic;
pub mod pagerduty;
#[cfg(test)]
mod receivers;
pub mod slack;
pub mod spoken;
pub mod teams;
pub mod telegram;
mod text;
pub mod webhook;
pub mod wecom;

use destination::Destination;

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

/// The base64 of HMAC-SHA256 over what stands in `parts`, one behind the other.
fn signature(key: &[u8], parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    STANDARD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
pub mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use crate::model::{EventKind, IncidentId, Message, Outcome, Reason, ServiceName};
    use crate::ports::Via;
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
}
