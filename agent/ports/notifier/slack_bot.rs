//! Slack by a bot's token: one message an incident, edited as the incident goes on, and each step in its thread
//! (docs.slack.dev/reference/methods/chat.postMessage, …/chat.update).
//!
//! Taken is `"ok": true` in the body; a refusal is 200 with `"ok": false` and a word. The head is edited before the thread is
//! written to, so that a try which fails between the two repeats the edit alone. An edit tells nobody, so what asks a person is
//! shown in the channel as well. The app needs the scope `chat:write`, and to be in the channel.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::destination::Destination;
use super::slack::{payload, section};
use super::{DeliveryError, Letter, Notifier, Pace, ThreadKey};
use crate::model::message::StepTold;
use crate::model::{EventKind, Message};
use crate::ports::Via;
use crate::ports::login::Secret;

/// Steps that the head shows, the newest last.
const STEPS_SHOWN: usize = 20;

#[derive(Debug)]
pub struct SlackBot {
    post: Destination,
    update: Destination,
    token: Secret,
    channel: String,
}

impl SlackBot {
    /// `api` is where the methods' names follow: `https://slack.com/api`. `channel`: its id, `C0123456789`.
    pub fn new(api: &str, channel: String, token: Secret, via: &Via) -> Result<Self, DeliveryError> {
        let method = |name: &str| {
            Ok::<_, DeliveryError>(Destination::new("slack", format!("{api}/{name}").into(), via)?.hiding(token.now()))
        };
        Ok(Self { post: method("chat.postMessage")?, update: method("chat.update")?, token, channel })
    }

    /// A message of its own, and the head of its incident's thread where it has one.
    async fn begin(&self, message: &Message) -> Result<Option<ThreadKey>, CallError> {
        let mut body = payload(message);
        body["channel"] = json!(self.channel);
        let posted = self.call(&self.post, body).await?;
        let key = |(channel, ts)| Head { channel, ts, message: message.clone(), steps: Vec::new() }.key();
        Ok(posted.channel.zip(posted.ts).map(key))
    }

    /// Edits the head, then adds to its thread.
    async fn go_on(&self, mut head: Head, message: &Message) -> Result<Option<ThreadKey>, CallError> {
        head.take(message);
        self.call(&self.update, head.body()).await?;
        let mut reply = payload(message);
        reply["channel"] = json!(head.channel);
        reply["thread_ts"] = json!(head.ts);
        reply["reply_broadcast"] = json!(matches!(message.event, EventKind::Stuck | EventKind::Approval));
        self.call(&self.post, reply).await?;
        Ok(Some(head.key()))
    }

    async fn call(&self, method: &Destination, body: Value) -> Result<Answer, CallError> {
        let body = serde_json::to_vec(&body).expect("JSON is JSON");
        let ask = |token: SecretString| {
            let headers = [
                ("content-type", "application/json; charset=utf-8".to_owned()),
                ("authorization", format!("Bearer {}", token.expose_secret())),
            ];
            let body = body.clone();
            async move { read(&method.post(body, &headers).await.map_err(CallError::Delivery)?) }
        };
        self.token.with(ask, |error| matches!(error, CallError::Token(_))).await
    }
}

/// The message that stands for an incident in the channel.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    channel: String,
    ts: String,
    /// What it shows.
    message: Message,
    steps: Vec<String>,
}

impl Head {
    fn key(&self) -> ThreadKey {
        ThreadKey(serde_json::to_string(self).expect("a head is plain data"))
    }

    fn take(&mut self, message: &Message) {
        match (message.event, &message.step) {
            (EventKind::Step, step) => {
                let shown = |step: &StepTold| format!("{}: {}", step.name, step.outcome.replace('_', " "));
                self.steps.extend(step.as_ref().map(shown));
                let beyond = self.steps.len().saturating_sub(STEPS_SHOWN);
                self.steps.drain(..beyond);
            }
            _ => self.message = message.clone(),
        }
    }

    fn body(&self) -> Value {
        let mut body = payload(&self.message);
        if let (false, Some(blocks)) = (self.steps.is_empty(), body["blocks"].as_array_mut()) {
            blocks.push(section(&self.steps.join("\n")));
        }
        body["channel"] = json!(self.channel);
        body["ts"] = json!(self.ts);
        body
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    ok: bool,
    error: Option<String>,
    channel: Option<String>,
    ts: Option<String>,
}

#[derive(Debug)]
enum CallError {
    /// The head is gone, or may not be edited any more.
    Head,
    /// Another token may be taken.
    Token(String),
    Delivery(DeliveryError),
}

/// Refused for good is what this message itself is at fault for. All else a person may mend while the message waits.
fn read(body: &str) -> Result<Answer, CallError> {
    let later = |detail: String| DeliveryError::Later { after: None, detail: format!("slack: {detail}") };
    let answer: Answer = serde_json::from_str(body)
        .map_err(|_| CallError::Delivery(later("answered 200, but not as Slack does: a proxy's page?".into())))?;
    if answer.ok {
        return Ok(answer);
    }
    // A free text might repeat what we sent.
    let is_word =
        |text: &&str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let word = answer.error.as_deref().filter(is_word).unwrap_or("refused without a word");
    let explained = |what: &str| format!("{word}: {what}");
    Err(match word {
        "message_not_found"
        | "cant_update_message"
        | "edit_window_closed"
        | "thread_not_found"
        | "cannot_reply_to_message"
        | "restricted_action_thread_locked" => CallError::Head,
        "invalid_auth" | "not_authed" | "account_inactive" | "token_revoked" | "token_expired" => {
            CallError::Token(explained("Slack does not take the token: put a valid one into `token_file`"))
        }
        "channel_not_found" => CallError::Delivery(later(explained(
            "no such channel, or the channel is private and the app is not in it: see `channel`, or invite the app",
        ))),
        "not_in_channel" => CallError::Delivery(later(explained("invite the app into the channel: /invite @APP"))),
        "is_archived" | "is_inactive" => CallError::Delivery(later(explained("name another `channel`"))),
        "missing_scope" | "no_permission" => CallError::Delivery(later(explained("give the app the scope chat:write"))),
        "msg_too_long"
        | "msg_blocks_too_long"
        | "no_text"
        | "invalid_blocks"
        | "invalid_blocks_format"
        | "invalid_arguments"
        | "invalid_arg_name"
        | "block_mismatch" => CallError::Delivery(DeliveryError::Refused { detail: format!("slack: {word}") }),
        _ => CallError::Delivery(later(word.into())),
    })
}

impl From<CallError> for DeliveryError {
    fn from(error: CallError) -> Self {
        let detail = match error {
            CallError::Delivery(error) => return error,
            CallError::Token(detail) => format!("slack: {detail}"),
            CallError::Head => "slack: the message that was to be edited is gone".into(),
        };
        Self::Later { after: None, detail }
    }
}

#[async_trait]
impl Notifier for SlackBot {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        let head = letter.thread.and_then(|key| serde_json::from_str::<Head>(&key.0).ok());
        let gone_on = match head {
            Some(head) => self.go_on(head, letter.message).await,
            None => Err(CallError::Head),
        };
        match gone_on {
            // Nothing stands there, or somebody deleted it: this message is the head.
            Err(CallError::Head) => Ok(self.begin(letter.message).await?),
            done => Ok(done?),
        }
    }

    /// chat.postMessage takes one a second for a channel, and more are hidden; chat.update 50 a minute (tier 3;
    /// docs.slack.dev/apis/web-api/rate-limits).
    fn pace(&self) -> Pace {
        Pace { every: Duration::from_millis(1_200), ..super::slack::PACE }
    }
}

#[cfg(test)]
#[path = "slack_bot_tests.rs"]
mod tests;
