//! The last configuration that could be read, kept beside the state: with it an agent that starts on a broken
//! configuration still ends what a former one had begun. It begins nothing new.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::agent::Agent;
use super::{Host, Wiring};
use crate::config;
use crate::store::{StateDir, Store};

const PARTS: [&str; 2] = ["policies", "runbooks"];

fn place(state: &Path) -> PathBuf {
    state.join("last-good")
}

/// Copies the configuration that is in force; where that fails, recovery after a broken one would have to wait for
/// a person, which is said and does not stop the agent.
pub fn keep(config_dir: &Path, state: &Path) {
    if let Err(error) = copy(config_dir, state) {
        tracing::warn!(%error, "the configuration could not be kept for recovery");
    }
}

fn copy(config_dir: &Path, state: &Path) -> std::io::Result<()> {
    let (kept, fresh) = (place(state), state.join("last-good.new"));
    if fresh.symlink_metadata().is_ok() {
        std::fs::remove_dir_all(&fresh)?;
    }
    std::fs::create_dir(&fresh)?;
    // Where the state is, in a form that can be found without reading the broken file.
    std::fs::copy(config_dir.join("agent.yaml"), fresh.join("agent.yaml"))?;
    for part in PARTS {
        let Ok(files) = std::fs::read_dir(config_dir.join(part)) else { continue };
        std::fs::create_dir(fresh.join(part))?;
        for file in files {
            let file = file?;
            if file.path().extension().is_some_and(|extension| extension == "yaml") {
                std::fs::copy(file.path(), fresh.join(part).join(file.file_name()))?;
            }
        }
    }
    if kept.symlink_metadata().is_ok() {
        std::fs::remove_dir_all(&kept)?;
    }
    std::fs::rename(fresh, kept)
}

/// Ends what was begun, with the last configuration that could be read: incidents, slots to give back, messages that
/// are still to be delivered.
pub async fn finish_open_incidents(config_dir: &Path, host: &Host, stop: watch::Receiver<bool>) {
    for state in states(config_dir) {
        if let Err(error) = finish(&state, host, stop.clone()).await {
            tracing::error!(error = %format!("{error:#}"), state = %state.display(), "open incidents could not be ended");
        }
    }
}

/// Where the state may lie: as a line of the broken file says, and the default.
fn states(config_dir: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(config_dir.join("agent.yaml")).unwrap_or_default();
    let said =
        text.lines().find_map(|line| line.strip_prefix("state:")).map(|path| path.trim().trim_matches(['"', '\'']));
    let mut states: Vec<PathBuf> = said.into_iter().map(PathBuf::from).collect();
    states.push(PathBuf::from(config::DEFAULT_STATE));
    states.dedup();
    states.retain(|state| StateDir::database_of(state).exists() && place(state).is_dir());
    states
}

async fn finish(state: &Path, host: &Host, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let config = config::load(&place(state)).map_err(|diagnostics| anyhow::anyhow!("{diagnostics}"))?;
    let taken = StateDir::take(state)?;
    let store = Arc::new(Store::open(&taken.database())?);
    let now = host.clock.now();
    if store.open_incidents()?.is_empty() && store.due(now, 1)?.is_empty() && store.slots_to_release()?.is_empty() {
        return Ok(());
    }
    tracing::warn!("the configuration is broken: ending what is open with the last one that could be read");
    let wiring = Wiring::new(config, host.clone(), None)?;
    let agent = Agent::start(&place(state), wiring, store, stop).await?;
    agent.finish().await;
    Ok(())
}
