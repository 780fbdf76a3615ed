//! Slack's incoming webhooks (docs.slack.dev/messaging/sending-messages-using-incoming-webhooks).
//!
//! Taken is 2xx with the body `ok`. A header block holds 150 characters of plain text, a section 3,000 of mrkdwn, in
//! which `&`, `<` and `>` are escaped; anything longer is cut. The webhook's address is the credential.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{DeliveryError, Destination, Letter, Notifier, Pace, ThreadKey};
use crate::model::Message;
use crate::ports::Via;

const HEADER_CHARS: usize = 150;
const SECTION_CHARS: usize = 3_000;
/// Above one message a second Slack hides messages, and answers `ok` (docs.slack.dev/apis/web-api/rate-limits). An escape
/// makes five characters of one.
pub(super) const PACE: Pace = Pace { every: Duration::from_secs(1), joined_bytes: Some(2_500) };

#[derive(Debug)]
pub struct Slack {
    to: Destination,
}

impl Slack {
    /// `url` as Slack gave it, `https://hooks.slack.com/services/…`. Refused where it is no address.
    pub fn new(url: SecretString, via: &Via) -> Result<Self, DeliveryError> {
        Ok(Self { to: Destination::new("slack", url, via)? })
    }
}

#[async_trait]
impl Notifier for Slack {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        let body = serde_json::to_vec(&payload(letter.message)).expect("JSON is JSON");
        let answer = self.to.post(body, &[]).await?;
        match answer.trim() {
            "ok" => Ok(None),
            // A proxy's page, say: nobody has said that the message was taken.
            _ => Err(DeliveryError::Later { after: None, detail: "slack: answered 2xx, but not `ok`".into() }),
        }
    }

    fn pace(&self) -> Pace {
        PACE
    }
}

/// `text` and `blocks`.
pub(super) fn payload(message: &Message) -> Value {
    let facts = [
        Some(format!("host {}", message.host)),
        message.service.as_ref().map(|service| format!("service {service}")),
        message.policy.as_ref().map(|policy| format!("policy {policy}")),
        message.incident.as_ref().map(|incident| format!("incident {incident}")),
        message.outcome.map(|outcome| format!("outcome {outcome}")),
        message.reason.map(|reason| format!("reason {reason}")),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().chain(message.labels.iter().cloned()).collect();
    let dry = if message.dry_run { "[dry-run] " } else { "" };
    let title = format!("{dry}{}", message.title);
    let mut blocks = vec![json!({
        "type": "header",
        "text": { "type": "plain_text", "text": cut(&title, HEADER_CHARS), "emoji": false },
    })];
    if !message.lines.is_empty() {
        blocks.push(section(&message.lines.join("\n")));
    }
    blocks.push(section(&facts.join(" · ")));
    // `text` is what notifications and screen readers show.
    json!({ "text": escape(&title, SECTION_CHARS), "blocks": blocks })
}

pub(super) fn section(text: &str) -> Value {
    json!({ "type": "section", "text": { "type": "mrkdwn", "text": escape(text, SECTION_CHARS) } })
}

fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.into();
    }
    text.chars().take(limit - 1).chain(['…']).collect()
}

/// Escaped, and at most `limit` characters as sent; an escape is never cut in half.
fn escape(text: &str, limit: usize) -> String {
    let escaped = |character: char| match character {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        other => other.to_string(),
    };
    let whole: String = text.chars().map(escaped).collect();
    if whole.chars().count() <= limit {
        return whole;
    }
    let mut left = limit - 1;
    let fits = |part: &String| {
        let fits = part.chars().count() <= left;
        left = left.saturating_sub(part.chars().count());
        fits
    };
    let mut short: String = text.chars().map(escaped).take_while(fits).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Server, message, via};
    use super::*;

    #[test]
    fn text_is_escaped_and_cut_to_slacks_limits() {
        for (text, limit, expected) in [
            ("a < b && c > d", 100, "a &lt; b &amp;&amp; c &gt; d"),
            ("abcdef", 6, "abcdef"),
            ("abcdefg", 6, "abcde…"),
            ("ab<cdef", 6, "ab…"),
            ("ab<", 6, "ab&lt;"),
            ("日本語の文字列", 4, "日本語…"),
        ] {
            assert_eq!(escape(text, limit), expected);
            assert!(escape(text, limit).chars().count() <= limit);
        }
        let mut long = message();
        long.title = "<".repeat(1_000);
        long.lines = vec!["&".repeat(9_000)];
        let payload = payload(&long);
        assert_eq!(payload["blocks"][0]["text"]["text"].as_str().unwrap().chars().count(), HEADER_CHARS);
        assert!(payload["blocks"][1]["text"]["text"].as_str().unwrap().chars().count() <= SECTION_CHARS);
        assert!(payload["text"].as_str().unwrap().chars().count() <= SECTION_CHARS);
    }

    #[tokio::test]
    async fn only_ok_is_taken_and_each_refusal_says_what_to_do_next() {
        let later = |after| Err((true, after));
        for (answer, expected) in [
            ("200 OK\r\nContent-Length: 2\r\n\r\nok", Ok(None)),
            ("200 OK\r\nContent-Length: 12\r\n\r\n<html></html", later(None)),
            ("429 Too Many\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n", later(Some(30))),
            ("503 Down\r\nContent-Length: 0\r\n\r\n", later(None)),
            ("400 Bad\r\nContent-Length: 15\r\n\r\ninvalid_payload", Err((false, None))),
            ("404 No\r\nContent-Length: 10\r\n\r\nno_service", later(None)),
            ("410 Gone\r\nContent-Length: 19\r\n\r\nchannel_is_archived", later(None)),
            ("302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", later(None)),
        ] {
            let server = Server::answering(answer).await;
            let slack = Slack::new(server.url("/services/T0/hush").into(), &via()).unwrap();
            let delivered = slack.deliver(Letter::new("m1", &message())).await;
            let short = delivered.clone().map_err(|error| match error {
                DeliveryError::Later { after, .. } => (true, after.map(|after| after.as_secs())),
                DeliveryError::Refused { .. } => (false, None),
            });
            assert_eq!(short, expected, "{answer}");
            assert!(!format!("{delivered:?} {slack:?}").contains("hush"), "{delivered:?}");
        }
        let refused = Server::answering("410 Gone\r\nContent-Length: 19\r\n\r\nchannel_is_archived").await;
        let error = Slack::new(refused.url("/x").into(), &via())
            .unwrap()
            .deliver(Letter::new("m1", &message()))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("channel_is_archived"), "{error}");
    }

    #[tokio::test]
    async fn a_destination_that_is_away_is_tried_later_and_not_named() {
        let slack = Slack::new("http://127.0.0.1:1/services/hush".to_owned().into(), &via()).unwrap();
        let error = slack.deliver(Letter::new("m1", &message())).await.unwrap_err();
        assert!(matches!(error, DeliveryError::Later { after: None, .. }), "{error:?}");
        assert!(!format!("{error:?}").contains("hush") && !format!("{error:?}").contains("127.0.0.1"), "{error:?}");
        assert!(
            Slack::new("hooks.slack.com/hush".to_owned().into(), &via())
                .is_err_and(|e| !e.to_string().contains("hush"))
        );
    }
}
