//! What `unwait run` and the demo call: everything is opened, and the agent runs until it is asked to stop.

use std::path::Path;

use tokio::sync::{mpsc, watch};

use super::agent::{Agent, Inbox};
use super::last_good;
use super::opening::{self, Opened, RunError};
use super::service_manager::ServiceManager;
use crate::config;
use crate::model::duration;
use crate::wiring::{Host, Wiring};

/// Opens everything and runs until `stop`; what `unwait run` and the demo call.
pub async fn run(
    config_dir: &Path,
    host: Host,
    reload: mpsc::Receiver<()>,
    stop: watch::Receiver<bool>,
    manager: ServiceManager,
) -> Result<(), RunError> {
    let config = match config::load(config_dir) {
        Ok(config) => config,
        Err(diagnostics) => {
            manager.while_starting(last_good::finish_open_incidents(config_dir, &host, stop)).await;
            return Err(RunError::Config(diagnostics));
        }
    };
    let wiring = match Wiring::new(config, host.clone(), None) {
        Ok(wiring) => wiring,
        Err(error) => {
            manager.while_starting(last_good::finish_open_incidents(config_dir, &host, stop)).await;
            return Err(error.into());
        }
    };
    // Held until the agent has ended.
    let Some(Opened { directory: _taken, store, control: (requests, _listener) }) =
        manager.while_starting(opening::open(&wiring, stop.clone())).await?
    else {
        return Ok(());
    };
    last_good::keep(config_dir, &wiring.config.host.state);
    let agent = Agent::start(config_dir, wiring, store, stop.clone()).await?;
    let (host, config) = (&agent.wiring.host.name, &agent.wiring.config);
    let (policies, interval) = (config.policies.len(), duration::format(config.host.interval));
    tracing::info!(%host, policies, interval, "watching {host} every {interval}; policies: {policies}");
    agent.run(Inbox { requests, reload, stop, manager }).await
}
