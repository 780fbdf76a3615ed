//! Discord's webhooks (discord.com/developers/docs/resources/webhook#execute-webhook).
//!
//! Asked to wait, Discord answers with the message that it made, which has an `id`. An embed holds a title of 256 and a description of
//! 4,096 characters, and 6,000 in all. Markdown is escaped by a backslash, and nobody is mentioned. 429 has `retry_after` in the body, in
//! seconds, as a fraction.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use serde_json::{Value, json};

use super::text::{Tone, cut, escaped, utf16};
use super::webhook::{Chat, Said};
use super::{Pace, text};
use crate::model::Message;

const TITLE_CHARS: usize = 256;
const DESCRIPTION_CHARS: usize = 4_096;
// Those above and this: 6,000 at most.
const FOOTER_CHARS: usize = 1_600;

#[derive(Debug)]
pub struct Discord;

impl Chat for Discord {
    const KIND: &'static str = "discord";

    /// 30 a minute are taken in a channel, by all its webhooks together.
    fn pace(&self) -> Pace {
        Pace { every: Duration::from_secs(2), joined_bytes: Some(2_000) }
    }

    fn request(&self, mut url: Url, message: &Message, _now: Timestamp) -> Option<(Url, Value)> {
        url.query_pairs_mut().append_pair("wait", "true");
        let color = match Tone::of(message) {
            Tone::Bad => 0xd32f2f,
            Tone::Warning => 0xf57c00,
            Tone::Good => 0x388e3c,
            Tone::Neutral => 0x607d8b,
        };
        let embed = json!({
            "title": escaped(&text::title(message), TITLE_CHARS, utf16, escape),
            "description": escaped(&message.lines.join("\n"), DESCRIPTION_CHARS, utf16, escape),
            // A footer takes no Markdown.
            "footer": { "text": cut(&text::facts(message), FOOTER_CHARS, utf16) },
            "timestamp": message.at.to_string(),
            "color": color,
        });
        Some((url, json!({ "embeds": [embed], "allowed_mentions": { "parse": [] } })))
    }

    fn said(&self, body: &str) -> Option<Said> {
        let body: Value = serde_json::from_str(body).ok()?;
        if body.get("id").is_some_and(Value::is_string) {
            return Some(Said::Taken);
        }
        let words = body.get("message").and_then(Value::as_str).map_or_else(|| body.to_string(), String::from);
        let after = body.get("retry_after").and_then(Value::as_f64);
        Some(match after.map(Duration::try_from_secs_f64) {
            Some(after) => Said::Later { after: after.ok(), words },
            None => Said::Refused { words },
        })
    }
}

fn escape(character: char, out: &mut String) {
    if "\\*_~`|<>#[]-".contains(character) {
        out.push('\\');
    }
    out.push(character);
}
