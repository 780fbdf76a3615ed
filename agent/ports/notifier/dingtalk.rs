//! DingTalk's custom robots (open.dingtalk.com/document/orgapp/custom-robot-access).
//!
//! Taken is `errcode` 0, by HTTP 200 as every refusal. A robot with a secret wants the time in milliseconds and a signature
//! in the address: the base64 of HMAC-SHA256 over `TIME\nSECRET`, by the secret. The body holds at most 20,000 bytes. Sent is
//! plain text: Markdown there has no escape, and would eat what stands in names and commands.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::webhook::{Chat, Said};
use super::{Pace, signature, text};
use crate::model::Message;

/// Of the text as JSON, in bytes; the rest of the body is far below 1,000.
const TEXT_BYTES: usize = 19_000;
/// More than 20 messages in a minute close a robot for ten.
const CLOSED: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub struct DingTalk {
    /// `SEC…`, where the robot's setting is 加签.
    pub secret: Option<SecretString>,
}

/// What DingTalk and WeCom answer.
#[derive(Deserialize)]
pub(super) struct Coded {
    pub errcode: i64,
    #[serde(default)]
    pub errmsg: String,
}

impl Coded {
    pub fn words(&self) -> String {
        format!("{}: {}", self.errcode, self.errmsg)
    }
}

fn sign(secret: &str, millisecond: i64) -> String {
    signature(secret.as_bytes(), &[format!("{millisecond}\n{secret}").as_bytes()])
}

impl Chat for DingTalk {
    const KIND: &'static str = "dingtalk";

    /// 15 a minute: several hosts may share a robot.
    fn pace(&self) -> Pace {
        Pace { every: Duration::from_secs(4), joined_bytes: Some(8_000) }
    }

    fn request(&self, mut url: Url, message: &Message, now: Timestamp) -> Option<(Url, Value)> {
        if let Some(secret) = &self.secret {
            let at = now.as_millisecond();
            let sign = sign(secret.expose_secret(), at);
            url.query_pairs_mut().append_pair("timestamp", &at.to_string()).append_pair("sign", &sign);
        }
        let text = text::plain(message, TEXT_BYTES, text::json);
        Some((url, json!({ "msgtype": "text", "text": { "content": text } })))
    }

    fn said(&self, body: &str) -> Option<Said> {
        let coded: Coded = serde_json::from_str(body).ok()?;
        let words = coded.words();
        Some(match coded.errcode {
            0 => Said::Taken,
            130_101 | 410_100 => Said::Later { after: Some(CLOSED), words },
            -1 => Said::Later { after: None, words },
            _ => Said::Refused { words },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_time_and_the_secret() {
        assert_eq!(sign("SECabc123", 1_700_000_000_000), "N5P09a4+p1AMJIJWnIvQd2Yxw9+fu/oEBnPrjCcsLXk=");
    }
}
