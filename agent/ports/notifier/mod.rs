//! Notifiers: telling people. Called by the outbox alone; an incident never waits for one.

use std::time::Duration;

use async_trait::async_trait;

use crate::model::Message;

/// Why a message was not taken. Never holds the destination's address: it is a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// Try again, not before this long where the destination said so.
    #[error("{detail}")]
    Later { after: Option<Duration>, detail: String },
    /// The destination will never take it: a wrong address, a message that it refuses.
    #[error("{detail}")]
    Refused { detail: String },
}

#[async_trait]
pub trait Notifier: Send + Sync {
    /// Returns once the destination has said that it took the message. `id` is the message's own, the same on
    /// each try, so that a destination may drop repeats.
    async fn deliver(&self, id: &str, message: &Message) -> Result<(), DeliveryError>;
}
