//! Microsoft Teams by a workflow that begins with "When a Teams webhook request is received"
//! (learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/add-incoming-webhook; the Office 365 connectors
//! are retired).
//!
//! Taken is 2xx with an empty body or JSON; 202 says that the workflow has begun, and nobody says how it ended. A message holds some
//! 28 KB. The card's rich text blocks take no Markdown, so nothing needs an escape. The address is the credential (`sig=`).

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use serde_json::{Value, json};

use super::text::{Tone, cut};
use super::webhook::{Chat, Said};
use super::{Pace, text};
use crate::model::Message;

// Bytes as JSON: 23,000 of some 28,000 in all.
const TITLE_BYTES: usize = 1_000;
const LINES_BYTES: usize = 20_000;
const FACTS_BYTES: usize = 2_000;
/// Of a line, beside its text.
const BLOCK_BYTES: usize = 80;

#[derive(Debug)]
pub struct Teams {
    /// The workflow wants the card itself, and not the message around it.
    pub bare_card: bool,
}

impl Chat for Teams {
    const KIND: &'static str = "teams";

    /// Above four requests a second it answers 429.
    fn pace(&self) -> Pace {
        Pace { every: Duration::from_secs(1), joined_bytes: Some(5_000) }
    }

    fn request(&self, url: Url, message: &Message, _now: Timestamp) -> Option<(Url, Value)> {
        let card = card(message);
        if self.bare_card {
            return Some((url, card));
        }
        let attachment = json!({ "contentType": "application/vnd.microsoft.card.adaptive", "content": card });
        Some((url, json!({ "type": "message", "attachments": [attachment] })))
    }

    fn said(&self, body: &str) -> Option<Said> {
        if body.trim().is_empty() {
            return Some(Said::Taken);
        }
        let body: Value = serde_json::from_str(body).ok()?;
        let Some(error) = body.get("error") else { return Some(Said::Taken) };
        let word = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
        Some(Said::Refused { words: format!("{}: {}", word("code"), word("message")) })
    }
}

fn card(message: &Message) -> Value {
    let color = match Tone::of(message) {
        Tone::Bad => "attention",
        Tone::Warning => "warning",
        Tone::Good => "good",
        Tone::Neutral => "default",
    };
    let block = |run: Value| json!({ "type": "RichTextBlock", "inlines": [run] });
    let title = cut(&text::title(message), TITLE_BYTES, text::json);
    let mut body =
        vec![block(json!({ "type": "TextRun", "text": title, "weight": "bolder", "size": "medium", "color": color }))];
    let lines = cut(&message.lines.join("\n"), LINES_BYTES, text::json);
    let mut left = LINES_BYTES;
    for line in lines.lines() {
        let bytes = line.chars().map(text::json).sum::<usize>() + BLOCK_BYTES;
        let Some(rest) = left.checked_sub(bytes) else {
            body.push(block(json!({ "type": "TextRun", "text": "…" })));
            break;
        };
        left = rest;
        body.push(block(json!({ "type": "TextRun", "text": line })));
    }
    let facts = cut(&text::facts(message), FACTS_BYTES, text::json);
    body.push(block(json!({ "type": "TextRun", "text": facts, "isSubtle": true })));
    json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": { "width": "Full" },
        "body": body,
    })
}
