//! A destination that is told in another language than English.

use std::sync::Arc;

use async_trait::async_trait;

use super::{DeliveryError, Letter, Notifier, Pace, ThreadKey};
use crate::model::words::{Language, spoken};

pub struct Spoken {
    pub to: Arc<dyn Notifier>,
    pub language: Language,
}

impl std::fmt::Debug for Spoken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spoken").field("language", &self.language).finish_non_exhaustive()
    }
}

#[async_trait]
impl Notifier for Spoken {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        let message = spoken(letter.message.clone(), self.language);
        self.to.deliver(Letter { message: &message, ..letter }).await
    }

    fn pace(&self) -> Pace {
        self.to.pace()
    }
}
