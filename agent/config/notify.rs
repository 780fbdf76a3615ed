//! `notify` of the host's file, checked and compiled.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::model::Tls;
use crate::model::message::EventKind;

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// `slack`, `generic`, and from the second of a kind on `slack-2`: what the outbox and logs call it, because
    /// the address is a secret.
    pub name: String,
    pub to: To,
    pub tls: Tls,
    /// `http://HOST:PORT`.
    pub proxy: Option<String>,
    /// Default: breach, held, approval, start, end, stuck, review.
    pub events: BTreeSet<EventKind>,
}

/// The addresses are credentials, so only the files that hold them stand in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    Slack {
        url_file: PathBuf,
    },
    /// JSON, signed as Standard Webhooks say.
    Generic {
        url_file: PathBuf,
        key_file: PathBuf,
    },
}
