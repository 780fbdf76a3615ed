//! Vetoes: an owner's command that says whether a plan may be carried out. It is a question: it changes nothing.

use async_trait::async_trait;

use crate::model::policy::VetoCommand;

pub mod exec;
#[cfg(test)]
pub mod fake;

#[async_trait]
pub trait Vetoes: Send + Sync {
    /// Asks with `question`, a JSON object, and gives back why not, where the command says no.
    ///
    /// # Errors
    /// In words, where it gave no answer: it could not be started, must not be believed, or did not end in time.
    async fn ask(&self, command: &VetoCommand, question: &str) -> Result<Option<String>, String>;
}
