//! A veto as a test wants it.

use std::sync::Mutex;

use async_trait::async_trait;

use super::Vetoes;
use crate::model::policy::VetoCommand;

/// Says the same at each question, and keeps the questions.
#[derive(Debug)]
pub struct FakeVetoes {
    pub says: Mutex<Result<Option<String>, String>>,
    pub asked: Mutex<Vec<serde_json::Value>>,
}

impl Default for FakeVetoes {
    fn default() -> Self {
        Self { says: Mutex::new(Ok(None)), asked: Mutex::default() }
    }
}

#[async_trait]
impl Vetoes for FakeVetoes {
    async fn ask(&self, _command: &VetoCommand, question: &str) -> Result<Option<String>, String> {
        self.asked.lock().unwrap().push(serde_json::from_str(question).unwrap());
        self.says.lock().unwrap().clone()
    }
}
