//! Probes: asking a service whether it is healthy. Called by the steps health_check and verify, by undo and recovery,
//! and by `resolve --restore`; never changes anything.

use std::time::Duration;

use async_trait::async_trait;

use crate::model::plan::Health;

pub mod dry;
pub mod real;

/// Why a probe did not pass: what was asked, what came back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked}: {answer}")]
pub struct ProbeFailure {
    pub asked: String,
    pub answer: String,
    /// Of the service's own: also that it does not answer. Otherwise the question could not be asked at all.
    pub is_an_answer: bool,
}

#[async_trait]
pub trait Probe: Send + Sync {
    /// Asks once. An answer that does not come within `deadline` is a failure.
    async fn ask(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure>;

    /// Can it be asked at all? An answer is an answer, good or bad, and so is none.
    async fn can_be_asked(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure> {
        match self.ask(health, deadline).await {
            Err(failure) if !failure.is_an_answer => Err(failure),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
