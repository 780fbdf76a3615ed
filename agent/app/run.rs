//! What `unwait run` and the demo call: everything is opened, and the agent runs until it is asked to stop.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::agent::{Agent, Inbox};
use super::{Host, Wiring, WiringError, control, last_good};
use crate::config::{self, Diagnostics};
use crate::store::{Store, StoreError};

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Config(Diagnostics),
    #[error(transparent)]
    Wiring(#[from] WiringError),
    #[error(transparent)]
    StateDir(#[from] crate::store::StateDirError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the control socket: {0}")]
    Control(std::io::Error),
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

/// Opens everything and runs until `stop`; what `unwait run` and the demo call.
pub async fn run(
    config_dir: &Path,
    host: Host,
    reload: mpsc::Receiver<()>,
    stop: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let config = match config::load(config_dir) {
        Ok(config) => config,
        Err(diagnostics) => {
            last_good::finish_open_incidents(config_dir, &host, stop).await;
            return Err(RunError::Config(diagnostics));
        }
    };
    let state = config.host.state.clone();
    let taken = crate::store::StateDir::take(&state)?;
    let store = Arc::new(Store::open_or_set_aside(&taken.database(), Arc::clone(&host.clock))?);
    let wiring = Wiring::new(config, host, None)?;
    last_good::keep(config_dir, &state);
    let (requests, listener) = control::listen(&state).map_err(RunError::Control)?;
    let agent = Agent::start(config_dir, wiring, store, stop.clone()).await?;
    tracing::info!(
        host = %agent.wiring.host.name,
        policies = agent.wiring.config.policies.len(),
        interval = %crate::model::duration::format(agent.wiring.config.host.interval),
        "watching"
    );
    let result = agent.run(Inbox { requests, reload, stop }).await;
    drop(listener);
    result
}
