//! A destination whose title and lines a template of the host's file makes. A message that the template fails on is told as it is.

use std::sync::Arc;

use async_trait::async_trait;

use super::{DeliveryError, Letter, Notifier, Pace, ThreadKey};
use crate::model::template::Template;

pub struct Templated {
    pub to: Arc<dyn Notifier>,
    pub template: Template,
}

impl std::fmt::Debug for Templated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Templated").field("template", &self.template).finish_non_exhaustive()
    }
}

#[async_trait]
impl Notifier for Templated {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        match self.template.apply(letter.message) {
            Ok(message) => self.to.deliver(Letter { message: &message, ..letter }).await,
            Err(error) => {
                let event = letter.message.event;
                tracing::warn!(
                    "the template of a destination fails on a message of event {event}: {error}; sending it without"
                );
                self.to.deliver(letter).await
            }
        }
    }

    fn pace(&self) -> Pace {
        self.to.pace()
    }
}
