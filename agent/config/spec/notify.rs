//! `notify` of `agent.yaml` as it is written.

use serde::Deserialize;

use super::Items;
use super::host::TlsSpec;
use super::scalar::{OneOrMany, Typed};
use crate::model::message::EventKind;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct DestinationSpec {
    pub to: Option<ToSpec>,
    pub events: Option<Items<Typed<EventKind>>>,
}

#[derive(Debug, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ToSpec {
    Slack(SlackSpec),
    Generic(GenericSpec),
    Alertmanager(AlertmanagerSpec),
    Dingtalk(SignedHookSpec),
    Discord(HookSpec),
    Email(EmailSpec),
    Feishu(SignedHookSpec),
    Pagerduty(PagerDutySpec),
    Teams(TeamsSpec),
    Telegram(TelegramSpec),
    Wecom(HookSpec),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct EmailSpec {
    pub url: Option<Typed<String>>,
    pub from: Option<Typed<String>>,
    pub to: Option<OneOrMany<String>>,
    pub user: Option<Typed<String>>,
    pub password_file: Option<Typed<String>>,
    pub tls: Option<TlsSpec>,
}

/// A web address that is its own credential.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HookSpec {
    pub url_file: Option<Typed<String>>,
    pub tls: Option<TlsSpec>,
    pub proxy: Option<Typed<String>>,
}

/// The same, with a secret by which each message is signed.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct SignedHookSpec {
    pub url_file: Option<Typed<String>>,
    pub secret_file: Option<Typed<String>>,
    pub tls: Option<TlsSpec>,
    pub proxy: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct TeamsSpec {
    pub url_file: Option<Typed<String>>,
    pub bare_card: bool,
    pub tls: Option<TlsSpec>,
    pub proxy: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct PagerDutySpec {
    pub routing_key_file: Option<Typed<String>>,
    pub url: Option<Typed<String>>,
    pub tls: Option<TlsSpec>,
    pub proxy: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct AlertmanagerSpec {
    pub url: Option<Typed<String>>,
    pub user: Option<Typed<String>>,
    pub password_file: Option<Typed<String>>,
    pub tls: Option<TlsSpec>,
    pub proxy: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct TelegramSpec {
    pub token_file: Option<Typed<String>>,
    pub chat: Option<Typed<String>>,
    pub topic: Option<i64>,
    pub url: Option<Typed<String>>,
    pub tls: Option<TlsSpec>,
    pub proxy: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct SlackSpec {
    pub url_file: Option<Typed<String>>,
    pub tls: Option<TlsSpec>,
    pub proxy: Option<Typed<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct GenericSpec {
    pub url_file: Option<Typed<String>>,
    pub tls: Option<TlsSpec>,
    pub proxy: Option<Typed<String>>,
    pub key_file: Option<Typed<String>>,
}

as_mapping!(
    DestinationSpec,
    SlackSpec,
    GenericSpec,
    AlertmanagerSpec,
    EmailSpec,
    HookSpec,
    PagerDutySpec,
    SignedHookSpec,
    TeamsSpec,
    TelegramSpec,
);
