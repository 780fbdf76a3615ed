//! What verbs open: the configuration, the store, the stages; each with the error that a person needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Failure, Place};
use crate::app::{self, Host, Wiring};
use crate::clock::SystemClock;
use crate::config::{self, Config};
use crate::store::{StateDir, Store};

/// The configuration, or every error of it.
pub fn config(place: &Place) -> Result<Config, Failure> {
    config::load(&place.config).map_err(|diagnostics| Failure::Usage(diagnostics.to_string()))
}

/// Where the state lies: as the configuration says; with one that cannot be read, where it lies by default.
pub fn state(place: &Place) -> PathBuf {
    config::load(&place.config).map_or_else(|_| PathBuf::from(config::DEFAULT_STATE), |config| config.host.state)
}

/// The store of an agent that has run here before.
pub fn store(state: &Path) -> Result<Arc<Store>, Failure> {
    let path = StateDir::database_of(state);
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) => {
            return Err(Failure::Unreachable(format!(
                "{}: no agent has run here yet (see `unwait run`)",
                path.display()
            )));
        }
        Err(error) => {
            return Err(Failure::Unreachable(format!(
                "{}: {error}; run as the agent's user, mostly root",
                path.display()
            )));
        }
    }
    Store::open(&path).map(Arc::new).map_err(|error| Failure::Unreachable(error.to_string()))
}

/// The configuration with its adapters, for one look.
pub fn wiring(config: Config) -> Result<Wiring, Failure> {
    let name = app::host_name().map_err(|error| Failure::Unreachable(error.to_string()))?;
    let host = Host { name, clock: Arc::new(SystemClock), on_message: Arc::new(|_| {}) };
    Wiring::new(config, host, None).map_err(|error| Failure::Unreachable(error.to_string()))
}
