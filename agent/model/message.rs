//! One message to people, rendered by each notifier in its own form.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::incident::{IncidentId, Outcome};
use super::reason::Reason;
use super::service::ServiceName;
use super::words::Language;

/// The kinds of events that a destination may ask for, as the config spells them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::Display, strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum EventKind {
    /// A policy's condition held for its whole `for`.
    Breach,
    /// Nothing is done about a breach, and why.
    Held,
    /// A plan waits for a person's word.
    Approval,
    /// A saga begins.
    Start,
    Step,
    /// A saga ended, whichever way.
    End,
    /// Somebody must look: a service is latched, or the agent cannot trust itself.
    Stuck,
    /// A breach is over.
    Recovered,
    /// A person told the agent to do something: it did, or refused.
    Operator,
    /// A policy has run dry for two weeks: what it would have done.
    Review,
    /// `unwait notify test`.
    Test,
}

/// A step, and how it went: `done`, `failed`, `undone`, `not_helped`, `said`, …
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTold {
    pub name: String,
    pub outcome: String,
}

/// A message. Holds no secret by construction: only values of the model go into it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub at: Timestamp,
    pub event: EventKind,
    pub host: String,
    /// The host's labels, as `key=value`.
    pub labels: Vec<String>,
    pub service: Option<ServiceName>,
    pub policy: Option<String>,
    pub incident: Option<IncidentId>,
    /// The policy only says what it would do.
    pub dry_run: bool,
    pub outcome: Option<Outcome>,
    pub reason: Option<Reason>,
    /// The step that a `step` event speaks of.
    pub step: Option<StepTold>,
    /// A person has decided: what the incident asked for needs nobody any more.
    #[serde(default)]
    pub settled: bool,
    /// That of its title and lines.
    #[serde(default)]
    pub language: Language,
    /// One line for the head.
    pub title: String,
    /// A few lines for the body, plain text.
    pub lines: Vec<String>,
}

impl Message {
    /// One that says this alone so far; `title` is the line for its head.
    pub fn new(event: EventKind, host: impl Into<String>, at: Timestamp, title: impl Into<String>) -> Self {
        Self {
            at,
            event,
            host: host.into(),
            labels: Vec::new(),
            service: None,
            policy: None,
            incident: None,
            dry_run: false,
            outcome: None,
            reason: None,
            step: None,
            settled: false,
            language: Language::En,
            title: title.into(),
            lines: Vec::new(),
        }
    }
}

/// Where e-mail is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailServer {
    pub host: String,
    pub port: u16,
    pub tls: MailTls,
}

impl MailServer {
    /// In place of one that the host's file does not name, which is an error there.
    pub fn nowhere() -> Self {
        Self { host: String::new(), port: 0, tls: MailTls::Implicit }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// From the first byte.
    Implicit,
    /// The server must offer it.
    StartTls,
    /// To a relay on this host alone.
    None,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.title)?;
        for line in &self.lines {
            write!(f, "\n{line}")?;
        }
        Ok(())
    }
}

/// A message as it is handed over.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// The message's own, the same on each try, so that a destination may drop repeats.
    pub id: &'a str,
    pub message: &'a Message,
    /// What the destination last answered to a message of the same incident.
    pub thread: Option<&'a ThreadKey>,
}

impl<'a> Letter<'a> {
    /// One of no thread.
    pub fn new(id: &'a str, message: &'a Message) -> Self {
        Self { id, message, thread: None }
    }
}

/// What a destination must be told to go on with an incident's message: Slack's channel and time, say. Its adapter alone
/// reads it; the store keeps it over restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadKey(pub String);
