//! `notify` of `agent.yaml` as it is written.

use serde::Deserialize;

use super::Items;
use super::host::TlsSpec;
use super::scalar::Typed;
use crate::model::message::EventKind;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct DestinationSpec {
    pub to: Option<ToSpec>,
    pub events: Option<Items<Typed<EventKind>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSpec {
    Slack(SlackSpec),
    Generic(GenericSpec),
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

as_mapping!(DestinationSpec, SlackSpec, GenericSpec);
