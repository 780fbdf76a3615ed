//! Managers of services that only show them: the pivot was begun by an agent that died, and nobody may begin it again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

#[cfg(test)]
use crate::clock::{Clock, VirtualClock};
use crate::execute::world::Pace;
use crate::model::plan::Restart;
use crate::ports::restarter::{Liveness, RestartError, Restarted, Restarter, Revival};

/// What a manager shows of its one service.
#[async_trait]
pub(crate) trait Shows: Send + Sync {
    async fn shows(&self) -> Result<Liveness, RestartError>;

    /// See [`Restarter::settles_within`].
    fn settles_within(&self) -> Duration {
        Duration::ZERO
    }
}

/// The restarter over it.
pub(crate) struct Observed<T>(pub T);

#[async_trait]
impl<T: Shows> Restarter for Observed<T> {
    async fn observe(&self, _target: &Restart) -> Result<Liveness, RestartError> {
        self.0.shows().await
    }

    async fn restart(&self, _target: &Restart, _deadline: Duration) -> Result<Restarted, RestartError> {
        panic!("a pivot is begun again");
    }

    async fn would(&self, _revival: Revival, _target: &Restart) -> Result<String, RestartError> {
        Ok(String::new())
    }

    async fn settles_within(&self, _target: &Restart) -> Result<Duration, RestartError> {
        Ok(self.0.settles_within())
    }

    async fn own_deadline(&self, _target: &Restart) -> Result<Duration, RestartError> {
        Ok(Duration::ZERO)
    }

    async fn dependents(&self, _target: &Restart) -> Result<Vec<String>, RestartError> {
        Ok(Vec::new())
    }
}

/// Answers no question, and takes a minute for each.
pub(crate) struct Hanging(pub Arc<dyn Pace>);

#[async_trait]
impl Shows for Hanging {
    async fn shows(&self) -> Result<Liveness, RestartError> {
        self.0.wait(Duration::from_secs(60)).await;
        Err(RestartError::Unreachable { service: "rpc-order.service".into(), detail: "no answer within 1m".into() })
    }
}

/// Tokio's own time.
#[cfg(test)]
#[async_trait]
impl Pace for VirtualClock {
    fn elapsed(&self) -> Duration {
        Clock::monotonic(self)
    }

    async fn wait(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
