//! A destination that takes each message by one POST of JSON, and whose answer's body says if it took it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::{StatusCode, Url};
use secrecy::SecretString;
use serde_json::Value;

use super::{DeliveryError, Destination, Letter, Notifier, Pace, ThreadKey};
use crate::clock::Clock;
use crate::model::Message;
use crate::ports::Via;

/// What is particular to one kind of destination.
pub trait Chat: Debug + Send + Sync {
    const KIND: &'static str;

    fn pace(&self) -> Pace;

    /// Where a message goes, and as what. Some sign the address with the time. `None` where it says nothing there.
    fn request(&self, url: Url, message: &Message, now: Timestamp) -> Option<(Url, Value)>;

    /// What is sent beside the address and must not be shown.
    fn hidden(&self) -> Option<&SecretString> {
        None
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// What the body of an answer says, whatever its status; `None` where it is not in the destination's form.
    fn said(&self, body: &str) -> Option<Said>;
}

/// What a destination says about a message, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Taken,
    /// Not now, and perhaps for how long not.
    Later {
        after: Option<Duration>,
        words: String,
    },
    Refused {
        words: String,
    },
}

pub struct Webhook<C> {
    to: Destination,
    chat: C,
    clock: Arc<dyn Clock>,
}

impl<C: Debug> Debug for Webhook<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("to", &self.to).field("chat", &self.chat).finish_non_exhaustive()
    }
}

impl<C: Chat> Webhook<C> {
    /// `url` holds the credential, or `chat` does. Refused where `url` is no address.
    pub fn new(chat: C, url: SecretString, via: &Via, clock: Arc<dyn Clock>) -> Result<Self, DeliveryError> {
        let to = Destination::new(C::KIND, url, via)?;
        let to = match chat.hidden() {
            Some(secret) => to.hiding(secret.clone()),
            None => to,
        };
        Ok(Self { to, chat, clock })
    }
}

#[async_trait]
impl<C: Chat> Notifier for Webhook<C> {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        let asked = self.chat.request(self.to.address(), letter.message, self.clock.now());
        let Some((url, body)) = asked else { return Ok(None) };
        let body = serde_json::to_vec(&body).expect("JSON is JSON");
        let answer = self.to.ask(url, body, &self.chat.headers()).await?;
        let (status, said) = (answer.status, self.chat.said(&answer.body));
        let may_pass = status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT
            || status.is_server_error();
        match said {
            Some(Said::Taken) if status.is_success() => Ok(None),
            Some(Said::Later { after, words }) => Err(self.to.later(answer.after.max(after), &words)),
            Some(Said::Refused { words }) if may_pass => Err(self.to.later(answer.after, &words)),
            Some(Said::Refused { words }) => Err(self.to.refused(&words)),
            // A proxy's page, say: nobody has said that the message was taken.
            None if status.is_success() => {
                let words = format!("answered {status}, but not as {} does: {}", C::KIND, answer.body.trim());
                Err(self.to.later(None, &words))
            }
            _ => Err(self.to.judged(answer)),
        }
    }

    fn pace(&self) -> Pace {
        self.chat.pace()
    }
}
