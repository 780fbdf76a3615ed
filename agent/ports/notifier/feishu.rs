//! Custom bots of Feishu and Lark (open.feishu.cn/document/client-docs/bot-v3/add-custom-bot).
//!
//! Taken is `code` 0 (`StatusCode` of older tenants), by HTTP 200 as every refusal. A bot with a secret wants the time in seconds and
//! a signature in the body: the base64 of HMAC-SHA256 over nothing, by the key `TIME\nSECRET`. The body holds at most 20 KB. Sent is a
//! card of plain text, whose head has a colour.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::text::{Tone, cut};
use super::webhook::{Chat, Said};
use super::{Pace, signature, text};
use crate::model::Message;

// Bytes as JSON: 17,000 of 20,480 in all.
const TITLE_BYTES: usize = 1_000;
const LINES_BYTES: usize = 14_000;
const FACTS_BYTES: usize = 2_000;

/// The window of the limit.
const A_MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Feishu {
    /// Where the bot's setting is 签名校验 (Set signature verification).
    pub secret: Option<SecretString>,
}

fn sign(secret: &str, second: i64) -> String {
    signature(format!("{second}\n{secret}").as_bytes(), &[])
}

impl Chat for Feishu {
    const KIND: &'static str = "feishu";

    /// 100 a minute and 5 a second are taken.
    fn pace(&self) -> Pace {
        Pace { every: Duration::from_secs(1), joined_bytes: Some(7_000) }
    }

    fn request(&self, url: Url, message: &Message, now: Timestamp) -> Option<(Url, Value)> {
        let plain = |text: &str, limit| json!({ "tag": "plain_text", "content": cut(text, limit, text::json) });
        let template = match Tone::of(message) {
            Tone::Bad => "red",
            Tone::Warning => "orange",
            Tone::Good => "green",
            Tone::Neutral => "blue",
        };
        let mut elements = Vec::new();
        if !message.lines.is_empty() {
            elements.push(json!({ "tag": "div", "text": plain(&message.lines.join("\n"), LINES_BYTES) }));
        }
        elements.push(json!({ "tag": "note", "elements": [plain(&text::facts(message), FACTS_BYTES)] }));
        let title = plain(&text::title(message), TITLE_BYTES);
        let card = json!({ "header": { "template": template, "title": title }, "elements": elements });
        let mut body = json!({ "msg_type": "interactive", "card": card });
        if let Some(secret) = &self.secret {
            let at = now.as_second();
            body["timestamp"] = at.to_string().into();
            body["sign"] = sign(secret.expose_secret(), at).into();
        }
        Some((url, body))
    }

    fn said(&self, body: &str) -> Option<Said> {
        let body: Value = serde_json::from_str(body).ok()?;
        // An answer may have both names, which then say the same.
        let code = body.get("code").or_else(|| body.get("StatusCode"))?.as_i64()?;
        let msg = body.get("msg").or_else(|| body.get("StatusMessage")).and_then(Value::as_str).unwrap_or_default();
        let words = format!("{code}: {msg}");
        Some(match code {
            0 => Said::Taken,
            11_232 => Said::Later { after: Some(A_MINUTE), words },
            _ => Said::Refused { words },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_nothing_by_the_time_and_the_secret() {
        assert_eq!(sign("abc123", 1_599_360_473), "HlCPO79Q9DEV0vueksRdi4YcZ8Z6keFaxRnxlpGYwWo=");
    }
}
