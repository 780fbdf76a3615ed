//! PagerDuty's Events API v2 (developer.pagerduty.com/docs/events-api-v2-overview).
//!
//! Taken is 202 with the status `success`; 400 says what is wrong with the event, 429 that there are too many. An event opens, acknowledges or
//! resolves the alert of its `dedup_key` (255 characters at most): a breach, or an incident that asks for a person. A summary holds
//! 1,024 characters. The routing key in the body is the credential.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::alerts::{Alert, Change, Subject};
use super::text::{Tone, cut, json as json_bytes};
use super::webhook::{Chat, Said};
use super::{Pace, text};
use crate::model::Message;

const KEY_CHARS: usize = 255;
const SUMMARY_CHARS: usize = 1_024;
/// An event holds 512 KB.
const LINES_BYTES: usize = 100_000;

#[derive(Debug)]
pub struct PagerDuty {
    pub routing_key: SecretString,
}

#[derive(Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<String>,
}

fn key(of: Subject, host: &str) -> String {
    let key = match of {
        Subject::Incident { id, .. } => format!("unwait/{host}/{id}"),
        Subject::Breach { service, policy } => format!("unwait/{host}/{service}/{policy}"),
        Subject::Host => format!("unwait/{host}"),
        Subject::Test => format!("unwait/{host}/test"),
    };
    cut(&key, KEY_CHARS, |_| 1)
}

impl Chat for PagerDuty {
    const KIND: &'static str = "pagerduty";

    /// It groups alerts itself, and says 429 to an integration of more than some two events a second.
    fn pace(&self) -> Pace {
        Pace { every: Duration::from_millis(500), joined_bytes: None }
    }

    fn hidden(&self) -> Option<&SecretString> {
        Some(&self.routing_key)
    }

    fn request(&self, url: Url, message: &Message, _now: Timestamp) -> Option<(Url, Value)> {
        let Alert { of, change } = Alert::of(message)?;
        let action = match change {
            Change::Opens => "trigger",
            Change::Takes => "acknowledge",
            Change::Ends => "resolve",
        };
        let severity = match Tone::of(message) {
            Tone::Bad => "critical",
            Tone::Warning => "warning",
            Tone::Good | Tone::Neutral => "info",
        };
        let mut event = json!({
            "routing_key": self.routing_key.expose_secret(),
            "event_action": action,
            "dedup_key": key(of, &message.host),
        });
        if change == Change::Opens {
            event["client"] = "unwait".into();
            event["payload"] = json!({
                "summary": cut(&text::title(message), SUMMARY_CHARS, |_| 1),
                "source": message.host,
                "severity": severity,
                "timestamp": message.at.to_string(),
                "component": message.service,
                "class": message.event,
                "custom_details": {
                    "text": cut(&message.lines.join("\n"), LINES_BYTES, json_bytes),
                    "facts": cut(&text::facts(message), LINES_BYTES, json_bytes),
                },
            });
        }
        Some((url, event))
    }

    fn said(&self, body: &str) -> Option<Said> {
        let Answer { status, message, errors } = serde_json::from_str(body).ok()?;
        let words = [vec![status.clone(), message], errors].concat().join(": ");
        Some(if status == "success" { Said::Taken } else { Said::Refused { words } })
    }
}
