//! The last configuration that could be read, kept beside the state: with it an agent that starts on a broken
//! configuration, or on one whose secrets cannot be read, still ends what a former one had begun. It begins nothing new.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::agent::Agent;
use crate::store::{AGENT, StateDir, Store};
use crate::wiring::{Host, Wiring};
use crate::{config, crash};

const PARTS: [&str; 2] = ["policies", "runbooks"];

fn place(state: &Path) -> PathBuf {
    state.join("last-good")
}

/// Copies the configuration that is in force; where that fails, recovery after a broken one would have to wait for
/// a person, which is said and does not stop the agent.
pub fn keep(config_dir: &Path, state: &Path) {
    if let Err(error) = copy(config_dir, state) {
        tracing::warn!(
            %error,
            "cannot copy the configuration to {}: {error}. An agent that starts on a broken configuration later can end \
             open incidents only by an older copy, or not at all",
            place(state).display(),
        );
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
    // The former one is never in the making: an agent that dies here leaves one of them whole, see `kept`.
    let former = state.join("last-good.old");
    if kept.symlink_metadata().is_ok() {
        if former.symlink_metadata().is_ok() {
            std::fs::remove_dir_all(&former)?;
        }
        std::fs::rename(&kept, &former)?;
    }
    crash::point("last_good", "set_aside");
    std::fs::rename(fresh, kept)?;
    if former.symlink_metadata().is_ok() {
        std::fs::remove_dir_all(former)?;
    }
    Ok(())
}

/// The configuration that was kept, also where the agent died while it replaced it by a newer one.
fn kept(state: &Path) -> Option<PathBuf> {
    [place(state), state.join("last-good.old")].into_iter().find(|kept| kept.is_dir())
}

/// Ends what was begun, with the last configuration that could be read: incidents, slots to give back, messages that
/// are still to be delivered.
pub async fn finish_open_incidents(config_dir: &Path, host: &Host, stop: watch::Receiver<bool>) {
    for state in states(config_dir) {
        if let Err(error) = finish(&state, host, stop.clone()).await {
            let (error, state) = (format!("{error:#}"), state.display());
            tracing::error!(
                error,
                %state,
                "cannot go on with the open incidents in {state}: {error}; they stay open until the agent starts with \
                 a valid configuration",
            );
        }
    }
}

/// Where the state lies, as a host's file says that cannot be read as a whole: its `state:` line, or the default where
/// it has none. `None` where there is no such file, or the line cannot be understood alone.
pub fn said_state(config_dir: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(config_dir.join("agent.yaml")).ok()?;
    let Some(said) = text.lines().find_map(|line| line.strip_prefix("state:")) else {
        return Some(PathBuf::from(config::DEFAULT_STATE));
    };
    let said = said.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
    let path = PathBuf::from(said);
    (path.is_absolute() && !said.contains('$')).then_some(path)
}

/// Where the state may lie: as a line of the broken file says, and the default.
fn states(config_dir: &Path) -> Vec<PathBuf> {
    let mut states: Vec<PathBuf> = said_state(config_dir).into_iter().collect();
    states.push(PathBuf::from(config::DEFAULT_STATE));
    states.dedup();
    states.retain(|state| StateDir::database_of(state).exists() && kept(state).is_some());
    states
}

async fn finish(state: &Path, host: &Host, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let kept = kept(state).ok_or_else(|| anyhow::anyhow!("no configuration was kept"))?;
    let config = config::load(&kept).map_err(|diagnostics| anyhow::anyhow!("{diagnostics}"))?;
    let taken = StateDir::take(state)?;
    let store = Arc::new(Store::open_or_set_aside(&taken.database(), Arc::clone(&host.clock))?);
    let now = host.clock.now();
    let forgot = store.paused(now)?.is_some_and(|pause| pause.who == AGENT);
    if !forgot
        && store.open_plans()?.is_empty()
        && store.destinations_due(now)?.is_empty()
        && store.slots_to_release()?.is_empty()
    {
        return Ok(());
    }
    tracing::warn!(
        "the configuration is not valid, and no new incident begins. The agent ends open incidents, gives fleet slots back and \
         delivers messages by the last valid copy ({}). `unwait check` shows what is wrong",
        kept.display(),
    );
    let wiring = Wiring::degraded(config, host.clone())?;
    let agent = Agent::start(&kept, wiring, store, stop).await?;
    agent.finish().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_killed_while_it_keeps_a_newer_configuration_still_finds_the_former_one() {
        let dir = tempfile::tempdir().unwrap();
        let (etc, state) = (dir.path().join("etc"), dir.path().join("state"));
        std::fs::create_dir(&etc).unwrap();
        std::fs::create_dir(&state).unwrap();
        std::fs::write(etc.join("agent.yaml"), "state: /srv/unwait\n").unwrap();
        for _ in 0..2 {
            copy(&etc, &state).unwrap();
            assert_eq!(kept(&state), Some(place(&state)));
        }
        // As it is left between the two renames, and the next start keeps it as ever.
        std::fs::rename(place(&state), state.join("last-good.old")).unwrap();
        assert!(kept(&state).is_some_and(|kept| kept.join("agent.yaml").is_file()));
        copy(&etc, &state).unwrap();
        assert_eq!(kept(&state), Some(place(&state)));
        assert!(!state.join("last-good.old").exists());
    }

    #[test]
    fn the_state_is_found_in_a_file_that_is_broken_elsewhere_and_never_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let said = |text: &str| {
            std::fs::write(dir.path().join("agent.yaml"), text).unwrap();
            said_state(dir.path())
        };
        for (text, state) in [
            ("interval: 15s\nstate: /srv/unwait\nbogus: [\n", Some("/srv/unwait")),
            ("state: \"/srv/unwait\"   # here\n", Some("/srv/unwait")),
            ("bogus: [\n", Some(config::DEFAULT_STATE)),
            ("state: ${HOME}/unwait\n", None),
            ("state: somewhere\n", None),
        ] {
            assert_eq!(said(text), state.map(PathBuf::from), "{text:?}");
        }
        assert_eq!(said_state(&dir.path().join("absent")), None);
    }
}
