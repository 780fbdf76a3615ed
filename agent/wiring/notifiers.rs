//! The destinations that the host's file asks for, made with their secrets.

use std::path::PathBuf;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::WiringError;
use super::adapters::{Shared, secret};
use super::asking::of_notifier;
use crate::clock::Clock;
use crate::config::{Destination, Login, To};
use crate::model::message::{MailServer, MailTls};
use crate::model::words::Language;
use crate::ports::Via;
use crate::ports::notifier::alertmanager::Alertmanager;
use crate::ports::notifier::dingtalk::DingTalk;
use crate::ports::notifier::discord::Discord;
use crate::ports::notifier::email::Email;
use crate::ports::notifier::feishu::Feishu;
use crate::ports::notifier::generic::Generic;
use crate::ports::notifier::pagerduty::PagerDuty;
use crate::ports::notifier::slack::Slack;
use crate::ports::notifier::spoken::Spoken;
use crate::ports::notifier::teams::Teams;
use crate::ports::notifier::telegram::Telegram;
use crate::ports::notifier::webhook::{Chat, Webhook};
use crate::ports::notifier::wecom::WeCom;
use crate::ports::notifier::{DeliveryError, Notifier};

/// How a destination is reached.
pub fn via_of(destination: &Destination, shared: &Shared) -> Result<Via, WiringError> {
    let tls = shared.tls(&of_notifier(destination), &destination.tls)?;
    Ok(Via { tls, proxy: destination.proxy.clone() })
}

/// Where a destination is. The address may be a credential.
pub fn address(to: &To) -> Result<SecretString, WiringError> {
    match to {
        To::Slack { url_file }
        | To::Generic { url_file, .. }
        | To::DingTalk { url_file, .. }
        | To::Discord { url_file }
        | To::Feishu { url_file, .. }
        | To::Teams { url_file, .. }
        | To::WeCom { url_file } => secret(url_file, "the webhook's address"),
        // As it is greeted.
        To::Email { server: MailServer { host, port, tls }, .. } => {
            let scheme = if *tls == MailTls::Implicit { "https" } else { "http" };
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            Ok(format!("{scheme}://{host}:{port}").into())
        }
        To::PagerDuty { url, .. } => Ok(url.clone().into()),
        To::Alertmanager { url, .. } => Ok(format!("{url}/api/v2/alerts").into()),
        To::Telegram { url, token_file, .. } => {
            let token = secret(token_file, "the bot's token")?;
            Ok(format!("{url}/bot{}/sendMessage", token.expose_secret()).into())
        }
    }
}

/// `language` is that of the host's messages.
pub fn notifier(
    destination: &Destination,
    language: Language,
    host: &str,
    clock: &Arc<dyn Clock>,
    shared: &Shared,
) -> Result<Arc<dyn Notifier>, WiringError> {
    let made = Making { via: via_of(destination, shared)?, url: address(&destination.to)?, clock: Arc::clone(clock) };
    let signing = |file: &Option<PathBuf>| -> Result<Option<SecretString>, WiringError> {
        file.as_ref().map(|file| secret(file, "the webhook's secret")).transpose()
    };
    let notifier = match &destination.to {
        To::Slack { .. } => Slack::new(made.url, &made.via).map(arc),
        To::Generic { key_file, .. } => {
            let key = secret(key_file, "the webhook's signing key")?;
            Generic::new(made.url, &made.via, Some(key), made.clock).map(arc)
        }
        To::DingTalk { secret_file, .. } => made.webhook(DingTalk { secret: signing(secret_file)? }),
        To::Alertmanager { login, .. } => made.webhook(Alertmanager { login: user(login, "Alertmanager's password")? }),
        To::Email { server, from, to, login } => {
            Email::new(server.clone(), from, to, user(login, "the mail server's password")?, made.via, host).map(arc)
        }
        To::PagerDuty { routing_key_file, .. } => {
            made.webhook(PagerDuty { routing_key: secret(routing_key_file, "PagerDuty's routing key")? })
        }
        To::Discord { .. } => made.webhook(Discord),
        To::Feishu { secret_file, .. } => made.webhook(Feishu { secret: signing(secret_file)? }),
        To::Teams { bare_card, .. } => made.webhook(Teams { bare_card: *bare_card }),
        To::Telegram { chat, topic, .. } => made.webhook(Telegram { chat: chat.clone(), topic: *topic }),
        To::WeCom { .. } => made.webhook(WeCom),
    };
    let notifier = notifier.map_err(|error| refused(destination, &error))?;
    Ok(match language {
        Language::En => notifier,
        language => arc(Spoken { to: notifier, language }),
    })
}

fn user(login: &Option<Login>, what: &'static str) -> Result<Option<(String, SecretString)>, WiringError> {
    let of = |login: &Login| Ok((login.user.clone(), secret(&login.password_file, what)?));
    login.as_ref().map(of).transpose()
}

struct Making {
    via: Via,
    url: SecretString,
    clock: Arc<dyn Clock>,
}

impl Making {
    fn webhook(self, chat: impl Chat + 'static) -> Result<Arc<dyn Notifier>, DeliveryError> {
        Webhook::new(chat, self.url, &self.via, self.clock).map(arc)
    }
}

fn arc(notifier: impl Notifier + 'static) -> Arc<dyn Notifier> {
    Arc::new(notifier)
}

/// Says where what it was made from stands.
fn refused(destination: &Destination, error: &DeliveryError) -> WiringError {
    let files: Vec<String> = destination.to.files().iter().map(|file| file.display().to_string()).collect();
    let detail = format!("{error}; it is read from {}", files.join(" and "));
    WiringError::Notifier { destination: destination.name.clone(), detail }
}
