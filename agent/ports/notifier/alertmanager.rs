//! Prometheus' Alertmanager, 0.16 and later (github.com/prometheus/alertmanager, api/v2/openapi.yaml: POST /alerts).
//!
//! Taken is 200 with nothing in the body; 400 says what is wrong. The labels are the alert: it is over once the same come with an `endsAt`
//! that has passed. Without one Alertmanager ends it after its `resolve_timeout` (5 min), so an open alert has one beyond the
//! longest `remind`. Alertmanager keeps no alert over its own restart: the next reminder opens it again.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::alerts::{Alert, Change, Subject};
use super::text::{cut, json as json_bytes};
use super::webhook::{Chat, Said};
use super::{Pace, text};
use crate::model::Message;

/// The longest `remind` is 30 days.
const OPEN_FOR: SignedDuration = SignedDuration::from_hours(31 * 24);
const TEST_FOR: SignedDuration = SignedDuration::from_mins(5);
const ANNOTATION_BYTES: usize = 100_000;

#[derive(Debug)]
pub struct Alertmanager {
    /// Of HTTP Basic.
    pub login: Option<(String, SecretString)>,
}

impl Chat for Alertmanager {
    const KIND: &'static str = "alertmanager";

    /// It groups alerts and paces notifications itself.
    fn pace(&self) -> Pace {
        Pace::UNLIMITED
    }

    fn hidden(&self) -> Option<&SecretString> {
        self.login.as_ref().map(|(_, password)| password)
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let basic = |(user, password): &(String, SecretString)| {
            ("authorization", format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose_secret()))))
        };
        self.login.iter().map(basic).collect()
    }

    fn request(&self, url: Url, message: &Message, _now: Timestamp) -> Option<(Url, Value)> {
        let Alert { of, change } = Alert::of(message)?;
        let (name, severity) = match of {
            Subject::Breach { .. } => ("UnwaitBreach", "warning"),
            Subject::Incident { .. } => ("UnwaitNeedsPerson", "critical"),
            Subject::Host => ("UnwaitHost", "critical"),
            Subject::Test => ("UnwaitTest", "info"),
        };
        let mut labels = Map::new();
        // Those of the host come first, so that none of them takes the place of one of the alert's own.
        for (key, value) in message.labels.iter().filter_map(|label| label.split_once('=')) {
            labels.insert(label_name(key), value.into());
        }
        let own = [("alertname", name), ("severity", severity), ("host", message.host.as_str())];
        let of_subject = match of {
            Subject::Breach { service, policy } => vec![("service", service), ("policy", policy)],
            Subject::Incident { id, service } => vec![("service", service), ("incident", id)],
            Subject::Host | Subject::Test => vec![],
        };
        labels.extend(own.into_iter().chain(of_subject).map(|(key, value)| (key.to_owned(), value.into())));
        // An empty label is none.
        labels.retain(|_, value| value.as_str() != Some(""));
        let ends = match (change, of) {
            (Change::Ends, _) => message.at,
            (_, Subject::Test) => message.at + TEST_FOR,
            _ => message.at + OPEN_FOR,
        };
        let alert = json!({
            "labels": labels,
            "annotations": {
                "summary": cut(&text::title(message), ANNOTATION_BYTES, json_bytes),
                "description": cut(&message.lines.join("\n"), ANNOTATION_BYTES, json_bytes),
            },
            "startsAt": message.at.to_string(),
            "endsAt": ends.to_string(),
        });
        Some((url, json!([alert])))
    }

    fn said(&self, body: &str) -> Option<Said> {
        if body.trim().is_empty() {
            return Some(Said::Taken);
        }
        // A text, or an object with a `message`.
        let body: Value = serde_json::from_str(body).ok()?;
        let words = body.as_str().or_else(|| body.get("message").and_then(Value::as_str))?;
        Some(Said::Refused { words: words.into() })
    }
}

/// `[a-zA-Z_][a-zA-Z0-9_]*`
fn label_name(key: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = key.chars().map(plain).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}
