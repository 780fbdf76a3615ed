//! `notify` of the host's file, checked and compiled.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::host::Login;
use crate::model::Tls;
use crate::model::message::{EventKind, MailServer};

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
    DingTalk {
        url_file: PathBuf,
        secret_file: Option<PathBuf>,
    },
    Alertmanager {
        /// Up to where `/api/v2` begins.
        url: String,
        login: Option<Login>,
    },
    Email {
        server: MailServer,
        from: String,
        to: Vec<String>,
        login: Option<Login>,
    },
    PagerDuty {
        url: String,
        routing_key_file: PathBuf,
    },
    Discord {
        url_file: PathBuf,
    },
    Feishu {
        url_file: PathBuf,
        secret_file: Option<PathBuf>,
    },
    Teams {
        url_file: PathBuf,
        bare_card: bool,
    },
    Telegram {
        /// Of the server, without the token.
        url: String,
        token_file: PathBuf,
        chat: String,
        topic: Option<i64>,
    },
    WeCom {
        url_file: PathBuf,
    },
}

impl To {
    /// The files that hold its secrets.
    pub fn files(&self) -> Vec<&PathBuf> {
        match self {
            Self::Slack { url_file }
            | Self::Discord { url_file }
            | Self::Teams { url_file, .. }
            | Self::WeCom { url_file } => vec![url_file],
            Self::Generic { url_file, key_file } => vec![url_file, key_file],
            Self::DingTalk { url_file, secret_file } | Self::Feishu { url_file, secret_file } => {
                std::iter::once(url_file).chain(secret_file).collect()
            }
            Self::Telegram { token_file, .. } => vec![token_file],
            Self::PagerDuty { routing_key_file, .. } => vec![routing_key_file],
            Self::Alertmanager { login, .. } | Self::Email { login, .. } => {
                login.iter().map(|login| &login.password_file).collect()
            }
        }
    }
}
