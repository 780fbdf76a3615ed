//! A probe for dry-run: the question is real, and its answer is only noted. How healthy a service is before a restart
//! that does not take place says nothing of how it would be after it. Commands are not run.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::unistd::{AccessFlags, access};

use super::{Probe, ProbeFailure};
use crate::model::plan::Health;

pub struct DryProbe {
    real: Arc<dyn Probe>,
}

impl DryProbe {
    pub fn new(real: Arc<dyn Probe>) -> Self {
        Self { real }
    }
}

impl std::fmt::Debug for DryProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DryProbe").finish_non_exhaustive()
    }
}

#[async_trait]
impl Probe for DryProbe {
    async fn ask(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure> {
        if !matches!(health, Health::Exec(_))
            && let Err(failure) = self.real.ask(health, deadline).await
        {
            tracing::warn!(%failure, "dry-run: the probe does not pass now");
        }
        Ok(())
    }

    /// Of a command only whether it is there.
    async fn can_be_asked(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure> {
        let Health::Exec(argv) = health else { return self.real.can_be_asked(health, deadline).await };
        let program = argv.first().map_or("", String::as_str);
        access(program, AccessFlags::X_OK).map_err(|error| ProbeFailure {
            asked: format!("exec {program}"),
            answer: format!("cannot be started: {error}"),
            is_an_answer: false,
        })
    }
}
