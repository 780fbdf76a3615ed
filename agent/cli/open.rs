//! What verbs open: the configuration, the store, the stages; each with the error that a person needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{ConfigArguments, Failure, order};
use crate::clock::SystemClock;
use crate::config::{self, Config};
use crate::daemon::last_good;
use crate::store::{StateDir, Store};
use crate::view::request::Request;
use crate::view::status::Status;
use crate::wiring;
use crate::wiring::{Host, Wiring, WiringError};

/// For an agent to say whether its disk hangs: it answers at once, or not at all.
const AGENT_WITHIN: Duration = Duration::from_secs(2);

/// The configuration, or every error of it.
pub fn config(place: &ConfigArguments) -> Result<Config, Failure> {
    config::load(&place.config).map_err(|diagnostics| Failure::Usage(diagnostics.to_string()))
}

/// Where the state lies, as the configuration says. One that is broken elsewhere is said to be, and does not keep a verb
/// from the agent that runs; one that does not even tell where the state lies is an error, never a guess: a kill switch
/// that is thrown somewhere else would be believed.
pub fn state(place: &ConfigArguments) -> Result<PathBuf, Failure> {
    let diagnostics = match config::load(&place.config) {
        Ok(config) => return Ok(config.host.state),
        Err(diagnostics) => diagnostics,
    };
    match last_good::said_state(&place.config) {
        Some(state) => {
            eprintln!(
                "{diagnostics}\nthe configuration has errors; using the state directory {}, which `state:` names",
                state.display()
            );
            Ok(state)
        }
        None => Err(Failure::Usage(diagnostics.to_string())),
    }
}

/// The same, where nobody is to be told what is wrong: who judges the files says so.
pub fn state_unchecked(directory: &Path) -> Option<PathBuf> {
    config::load(directory).map(|config| config.host.state).ok().or_else(|| last_good::said_state(directory))
}

/// The store of an agent that has run here before.
pub async fn store(state: &Path) -> Result<Arc<Store>, Failure> {
    let path = database(state)?;
    disk_answers(state).await?;
    Store::open_with(&path, Arc::new(SystemClock))
        .map(Arc::new)
        .map_err(|error| Failure::Unreachable(error.to_string()))
}

/// Refuses to touch the state while the running agent says that its disk hangs: who waits for such a disk cannot be ended.
async fn disk_answers(state: &Path) -> Result<(), Failure> {
    let asked = tokio::time::timeout(AGENT_WITHIN, order::call(state, Request::Status, None)).await;
    let agent = asked.ok().and_then(Result::ok).flatten().and_then(|reply| reply.carries::<Status>().ok());
    match agent.and_then(|status| status.agent?.disk_hangs) {
        Some(why) => Err(Failure::Unreachable(format!("{why}; `unwait status` shows what the agent knows"))),
        None => Ok(()),
    }
}

/// The same, to read it alone.
pub async fn store_to_read(state: &Path) -> Result<Store, Failure> {
    let path = database(state)?;
    disk_answers(state).await?;
    Store::open_to_read(&path, Arc::new(SystemClock)).map_err(|error| Failure::Unreachable(error.to_string()))
}

/// The same; where no agent has run yet, nothing is latched, paused or spent.
pub async fn store_or_empty(state: &Path) -> Result<Arc<Store>, Failure> {
    if has_run(state)? {
        return store(state).await;
    }
    Store::open_with(Path::new(":memory:"), Arc::new(SystemClock))
        .map(Arc::new)
        .map_err(|error| Failure::Unreachable(error.to_string()))
}

/// The same, made where there is none: a host can be paused before the agent has run there for the first time.
pub async fn store_or_new(state: &Path) -> Result<Store, Failure> {
    let unreachable = |error: &dyn std::fmt::Display| Failure::Unreachable(error.to_string());
    match has_run(state)? {
        true => disk_answers(state).await?,
        false => drop(StateDir::make(state).map_err(|error| unreachable(&error))?),
    }
    Store::open_with(&StateDir::database_of(state), Arc::new(SystemClock)).map_err(|error| unreachable(&error))
}

fn database(state: &Path) -> Result<PathBuf, Failure> {
    let path = StateDir::database_of(state);
    match has_run(state)? {
        true => Ok(path),
        false => Err(Failure::Unreachable(format!(
            "{} does not exist: no agent has run on this host yet (see `unwait run`)",
            path.display()
        ))),
    }
}

/// Whether an agent has left its state here. Who may not look is told so, not that there is none.
pub fn has_run(state: &Path) -> Result<bool, Failure> {
    let path = StateDir::database_of(state);
    path.try_exists().map_err(|error| {
        Failure::Unreachable(format!(
            "cannot read {}: {error}; run this command as the agent's user, mostly root",
            path.display()
        ))
    })
}

/// Asks the fleet's store in which this host's slots were taken, where that still holds some.
pub fn former_fleet(wiring: &mut Wiring, store: &Store) -> Result<(), Failure> {
    let named = wiring.config.host.fleet.as_ref();
    let fleet = wiring::fleet::in_force(named, store, true).map_err(|error| Failure::Unreachable(error.to_string()))?;
    if fleet != wiring.config.host.fleet {
        eprintln!("`fleet` was changed while this host holds a slot: the former fleet store is used");
        wiring.ask_fleet(fleet);
    }
    Ok(())
}

/// This host, as a verb sees it.
pub fn host() -> Result<Host, Failure> {
    let name = wiring::host_name().map_err(failed)?;
    Ok(Host { name, clock: Arc::new(SystemClock), on_message: Arc::new(|_| {}) })
}

/// The configuration with its adapters, for one look.
pub fn wiring(config: Config) -> Result<Wiring, Failure> {
    Wiring::new(config, host()?, None).map_err(failed)
}

pub fn failed(error: WiringError) -> Failure {
    match error.is_of_the_configuration() {
        true => Failure::Usage(error.to_string()),
        false => Failure::Unreachable(error.to_string()),
    }
}
