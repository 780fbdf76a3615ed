//! Any receiver of JSON: the message as it is, signed as Standard Webhooks (standardwebhooks.com, version 1).
//!
//! Headers: `webhook-id` (the message's own, the same on each try: drop repeats by it), `webhook-timestamp` (seconds),
//! and, with a key, `webhook-signature`: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{DeliveryError, Destination, Letter, Notifier, Pace, ThreadKey};
use crate::clock::Clock;
use crate::ports::Via;

/// A shorter key is more likely a slip than a key; the standard asks for 24 to 64 bytes.
const MIN_KEY_BYTES: usize = 16;

pub struct Generic {
    to: Destination,
    key: Option<SecretSlice<u8>>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Generic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generic").field("to", &self.to).field("signed", &self.key.is_some()).finish_non_exhaustive()
    }
}

impl Generic {
    /// `key` is base64, with or without the standard's `whsec_` before it. Refused where url or key cannot be read.
    pub fn new(
        url: SecretString,
        via: &Via,
        key: Option<SecretString>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DeliveryError> {
        let key = key.map(|key| read_key(&key)).transpose()?;
        Ok(Self { to: Destination::new("webhook", url, via)?, key, clock })
    }
}

/// The decoder's own error would show a byte of the key.
fn read_key(text: &SecretString) -> Result<SecretSlice<u8>, DeliveryError> {
    let text = text.expose_secret().trim();
    match STANDARD.decode(text.strip_prefix("whsec_").unwrap_or(text)) {
        Ok(key) if key.len() >= MIN_KEY_BYTES => Ok(key.into()),
        _ => Err(DeliveryError::Refused {
            detail: format!("webhook: the signing key must be base64 of at least {MIN_KEY_BYTES} bytes"),
        }),
    }
}

fn signature(key: &[u8], id: &str, timestamp: i64, body: &[u8]) -> String {
    format!("v1,{}", super::signature(key, &[format!("{id}.{timestamp}.").as_bytes(), body]))
}

#[async_trait]
impl Notifier for Generic {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        let body = serde_json::to_vec(letter.message).expect("a message is strings, a time and enums");
        let timestamp = self.clock.now().as_second();
        let mut headers = vec![("webhook-id", letter.id.to_owned()), ("webhook-timestamp", timestamp.to_string())];
        if let Some(key) = &self.key {
            headers.push(("webhook-signature", signature(key.expose_secret(), letter.id, timestamp, &body)));
        }
        self.to.post(body, &headers).await.map(|_| None)
    }

    /// A machine reads each.
    fn pace(&self) -> Pace {
        Pace::UNLIMITED
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Server, message, via};
    use super::*;
    use crate::clock::ManualClock;
    use crate::model::Message;

    const KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::new("2021-02-25T15:02:10Z".parse().unwrap()))
    }

    #[test]
    fn the_standards_own_example_is_signed_as_it_says() {
        let key = read_key(&format!("whsec_{KEY}\n").into()).unwrap();
        let signed =
            signature(key.expose_secret(), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[tokio::test]
    async fn a_receiver_can_check_what_it_got() {
        let server = Server::answering("204 No Content\r\n\r\n").await;
        let to = Generic::new(server.url("/hook").into(), &via(), Some(KEY.to_owned().into()), clock()).unwrap();
        to.deliver(Letter::new("m-17", &message())).await.unwrap();
        let requests = server.requests.lock().unwrap();
        let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
        let header = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}: ")));
            line.unwrap_or_else(|| panic!("no {name} in {head}")).split_once(": ").unwrap().1.to_owned()
        };
        assert_eq!((header("webhook-id").as_str(), header("webhook-timestamp").as_str()), ("m-17", "1614265330"));
        let key = STANDARD.decode(KEY).unwrap();
        assert_eq!(header("webhook-signature"), signature(&key, "m-17", 1_614_265_330, body.as_bytes()));
        assert_eq!(serde_json::from_str::<Message>(body).unwrap(), message());
    }

    #[tokio::test]
    async fn without_a_key_nothing_claims_to_be_signed() {
        let server = Server::answering("200 OK\r\nContent-Length: 0\r\n\r\n").await;
        Generic::new(server.url("/").into(), &via(), None, clock())
            .unwrap()
            .deliver(Letter::new("m", &message()))
            .await
            .unwrap();
        assert!(!server.requests.lock().unwrap()[0].contains("signature"));
    }

    #[tokio::test]
    async fn what_a_receiver_refuses_is_refused_and_what_may_pass_is_tried_later() {
        for (answer, is_later) in [
            ("413 Long\r\nContent-Length: 0\r\n\r\n", false),
            ("401 No\r\nContent-Length: 0\r\n\r\n", true),
            ("429 Slow\r\nRetry-After: 99999999\r\nContent-Length: 0\r\n\r\n", true),
            ("500 Oops\r\nContent-Length: 0\r\n\r\n", true),
        ] {
            let server = Server::answering(answer).await;
            let to = Generic::new(server.url("/hush").into(), &via(), None, clock()).unwrap();
            let error = to.deliver(Letter::new("m", &message())).await.unwrap_err();
            assert_eq!(matches!(error, DeliveryError::Later { .. }), is_later, "{answer}");
            assert!(!format!("{error:?} {to:?}").contains("hush"));
        }
    }

    #[test]
    fn a_key_that_cannot_be_one_is_refused_without_being_shown() {
        for wrong in ["", "hush", "hush!hush!hush!hush!hush!hush!", "aHVzaA=="] {
            let error = read_key(&wrong.to_owned().into()).unwrap_err();
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
