//! Alerts: what others watch, asked before anything is changed. Never changes anything.

use async_trait::async_trait;

use crate::model::alerts::{AlertSelector, FiringAlert};

#[cfg(test)]
pub mod fake;
pub mod prometheus;
#[cfg(test)]
mod prometheus_tests;

#[async_trait]
pub trait Alerts: Send + Sync {
    /// The alerts that fire now and that one of these selects.
    ///
    /// # Errors
    /// In words, where the answer is missing or may be incomplete: then nobody knows what fires.
    async fn firing(&self, selectors: &[AlertSelector]) -> Result<Vec<FiringAlert>, String>;

    /// What answers there, with its version.
    ///
    /// # Errors
    /// In words, where nothing does.
    async fn server(&self) -> Result<String, String>;
}
