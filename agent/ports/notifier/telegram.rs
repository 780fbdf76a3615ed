//! Telegram's bots (core.telegram.org/bots/api#sendmessage).
//!
//! Taken is `"ok": true`. A text holds 4,096 characters, counted in units of UTF-16 behind its entities; sent without a parse mode, so that
//! nothing needs an escape, and the title is bold by an entity. 429 says `parameters.retry_after`, in seconds. The token in the address is
//! the credential.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};

use super::webhook::{Chat, Said};
use super::{Pace, text};
use crate::model::Message;

const TEXT_UNITS: usize = 4_096;

#[derive(Debug)]
pub struct Telegram {
    /// A number, that of a group is negative; or `@channel`.
    pub chat: String,
    /// `message_thread_id`: a topic of a group.
    pub topic: Option<i64>,
}

#[derive(Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    description: String,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
struct Parameters {
    retry_after: Option<u64>,
    migrate_to_chat_id: Option<i64>,
}

impl Chat for Telegram {
    const KIND: &'static str = "telegram";

    /// A group takes 20 a minute, a person one a second (core.telegram.org/bots/faq).
    fn pace(&self) -> Pace {
        let group = self.chat.starts_with(['-', '@']);
        Pace { every: Duration::from_secs(if group { 4 } else { 1 }), joined_bytes: Some(3_000) }
    }

    fn request(&self, url: Url, message: &Message, _now: Timestamp) -> Option<(Url, Value)> {
        let text = text::plain(message, TEXT_UNITS, text::utf16);
        let title: usize = text.lines().next().unwrap_or_default().chars().map(text::utf16).sum();
        let mut body = json!({
            "chat_id": self.chat,
            "text": text,
            "entities": [{ "type": "bold", "offset": 0, "length": title }],
            "link_preview_options": { "is_disabled": true },
        });
        if let Some(topic) = self.topic {
            body["message_thread_id"] = topic.into();
        }
        Some((url, body))
    }

    fn said(&self, body: &str) -> Option<Said> {
        let Answer { ok, description, parameters } = serde_json::from_str(body).ok()?;
        Some(match parameters {
            _ if ok => Said::Taken,
            Parameters { retry_after: Some(seconds), .. } => {
                Said::Later { after: Some(Duration::from_secs(seconds)), words: description }
            }
            Parameters { migrate_to_chat_id: Some(chat), .. } => {
                Said::Refused { words: format!("{description}: write `chat: \"{chat}\"`") }
            }
            _ => Said::Refused { words: description },
        })
    }
}
