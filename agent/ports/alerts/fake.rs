//! Alerts as a test wants them.

use std::sync::Mutex;

use async_trait::async_trait;

use super::Alerts;
use crate::model::alerts::{AlertSelector, FiringAlert};

/// Says the same at each question.
#[derive(Debug)]
pub struct FakeAlerts(pub Mutex<Result<Vec<FiringAlert>, String>>);

impl Default for FakeAlerts {
    fn default() -> Self {
        Self(Mutex::new(Ok(Vec::new())))
    }
}

#[async_trait]
impl Alerts for FakeAlerts {
    async fn firing(&self, _selectors: &[AlertSelector]) -> Result<Vec<FiringAlert>, String> {
        self.0.lock().unwrap().clone()
    }

    async fn server(&self) -> Result<String, String> {
        Ok("a fake".into())
    }
}
