//! A web address that takes messages. The address is a credential: it is in no error and in no Debug output.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};

use super::{DeliveryError, text};
use crate::ports::http::{self, Client, Via};

/// For one delivery; the outbox tries again, so a slow destination need not be waited for.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Chat services answer with a word or a small object.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// What a destination may ask us to wait at most; beyond that the outbox's own backoff is better.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);
/// Of what a destination says, in characters.
const MAX_WORDS: usize = 200;
/// Shorter parts of an address hide nothing.
const MIN_SECRET_BYTES: usize = 4;
/// Parts of the addresses that each user of a service has alike.
const COMMON: [&str; 14] = [
    "api",
    "bot",
    "cgi-bin",
    "hook",
    "invoke",
    "manual",
    "open-apis",
    "paths",
    "robot",
    "send",
    "services",
    "triggers",
    "webhook",
    "webhooks",
];

#[derive(Debug)]
pub(super) struct Destination {
    kind: &'static str,
    url: SecretString,
    /// What is sent beside the address, and may be repeated to us.
    hidden: Vec<SecretString>,
    client: Client,
}

/// What a destination answered, whatever it is.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    /// `Retry-After`, in seconds.
    pub after: Option<Duration>,
    pub body: String,
}

impl Destination {
    pub fn new(kind: &'static str, url: SecretString, via: &Via) -> Result<Self, DeliveryError> {
        let refused = |detail| DeliveryError::Refused { detail: format!("{kind}: {detail}") };
        http::address(url.expose_secret()).map_err(refused)?;
        Ok(Self { kind, client: Client::new(via, CALL_DEADLINE).map_err(refused)?, url, hidden: Vec::new() })
    }

    /// The same, with another secret that no error repeats.
    pub fn hiding(mut self, secret: SecretString) -> Self {
        self.hidden.push(secret);
        self
    }

    pub fn address(&self) -> Url {
        Url::parse(self.url.expose_secret().trim()).expect("it was read when it was taken in")
    }

    /// Posts JSON; the body of a 2xx answer. 429 and what may pass by itself is `Later`; any other answer `Refused`.
    pub async fn post(&self, body: Vec<u8>, headers: &[(&'static str, String)]) -> Result<String, DeliveryError> {
        let answer = self.ask(self.address(), body, headers).await?;
        if answer.status.is_success() { Ok(answer.body) } else { Err(self.judged(answer)) }
    }

    /// Posts JSON to `url`, which is made from the address. An error where no answer came.
    pub async fn ask(
        &self,
        url: Url,
        body: Vec<u8>,
        headers: &[(&'static str, String)],
    ) -> Result<Answer, DeliveryError> {
        let mut all = HeaderMap::new();
        all.insert("content-type", HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| self.refused(&format!("the header {name} would hold characters that none may")))?;
            value.set_sensitive(true);
            all.insert(HeaderName::from_static(name), value);
        }
        let request = self.client.post(url).headers(all).body(body);
        let response = self.client.send(request).await.map_err(|failure| self.later(None, &failure.words))?;
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = http::body(response, MAX_ANSWER_BYTES).await.map_err(|error| self.later(None, &error))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status, after: after.map(Duration::from_secs), body })
    }

    /// What an answer that is no yes means by its status.
    pub fn judged(&self, answer: Answer) -> DeliveryError {
        let Answer { status, after, body } = answer;
        let words = match body.trim() {
            "" => status.to_string(),
            body => format!("{status}: {body}"),
        };
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => self.later(after, &words),
            _ if status.is_server_error() => self.later(after, &words),
            _ => self.refused(&words),
        }
    }

    pub fn later(&self, after: Option<Duration>, words: &str) -> DeliveryError {
        let after = after.map(|after| after.min(MAX_RETRY_AFTER));
        DeliveryError::Later { after, detail: format!("{}: {}", self.kind, self.shown(words)) }
    }

    pub fn refused(&self, words: &str) -> DeliveryError {
        DeliveryError::Refused { detail: format!("{}: {}", self.kind, self.shown(words)) }
    }

    fn shown(&self, words: &str) -> String {
        let url = self.address();
        let parts = url.path_segments().into_iter().flatten().map(String::from);
        let mut secrets: Vec<String> = parts.chain(url.query_pairs().map(|(_, value)| value.into_owned())).collect();
        secrets.extend([url.username().to_owned(), url.password().unwrap_or_default().to_owned()]);
        secrets.extend(self.hidden.iter().map(|secret| secret.expose_secret().to_owned()));
        secrets.retain(|secret| !COMMON.contains(&secret.as_str()));
        first_line(words, secrets)
    }
}

/// The first line of what a server says, bounded, without what is secret.
pub(super) fn first_line(words: &str, mut secrets: Vec<String>) -> String {
    let line = words.lines().next().unwrap_or_default();
    let mut line: String = line.chars().filter(|character| !character.is_control()).collect();
    secrets.retain(|secret| secret.len() >= MIN_SECRET_BYTES);
    // One may be part of another.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    for secret in &secrets {
        line = line.replace(secret, "…");
    }
    text::cut(&line, MAX_WORDS, |_| 1)
}

#[cfg(test)]
mod tests {
    use super::super::tests::via;
    use super::*;

    #[test]
    fn what_a_destination_says_is_one_short_line_without_what_is_secret() {
        let to = |url: &str| Destination::new("chat", url.to_owned().into(), &via()).unwrap();
        let hook = to("https://hooks.test/services/T0/B0CAFE/hushhush?access_token=tok%20en&v=1").hiding("k3y9".into());
        for (words, shown) in [
            ("channel_is_archived\n", "channel_is_archived"),
            ("no such hook: T0/B0CAFE/hushhush", "no such hook: T0/…/…"),
            ("tok en is not k3y9 of services", "… is not … of services"),
            ("one\ntwo", "one"),
            ("a\u{1b}[31mb", "a[31mb"),
        ] {
            assert_eq!(hook.shown(words), shown);
        }
        assert_eq!(hook.shown(&"a".repeat(500)).chars().count(), MAX_WORDS);
        assert!(!format!("{hook:?}").contains("hushhush"));
    }
}
