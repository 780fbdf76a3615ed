//! `/healthz` and `/readyz`: is the loop alive, and could it act?

use std::time::Duration;

use crate::model::duration;
use crate::view::bulletin::Bulletin;

/// So many intervals without a tick, and the loop hangs.
const MISSED: u32 = 4;
/// A tick may wait for a registry and for the fleet's store, each up to its deadline.
const AT_LEAST: Duration = Duration::from_secs(60);

/// Why the loop counts as hanging at `now` (since boot).
pub fn alive(bulletin: &Bulletin, now: Duration) -> Result<(), String> {
    let since = now.saturating_sub(bulletin.ticked.unwrap_or(bulletin.started.1));
    let most = AT_LEAST.max(bulletin.period * MISSED);
    if since <= most {
        return Ok(());
    }
    let whole = |duration: Duration| duration::format(Duration::from_secs(duration.as_secs()));
    Err(format!("no tick for {}, expected every {}", whole(since), duration::format(bulletin.period)))
}

/// Why a breach could not be acted on at `now`.
pub fn ready(bulletin: &Bulletin, now: Duration) -> Result<(), String> {
    alive(bulletin, now)?;
    if let Some(why) = &bulletin.not_measuring {
        return Err(format!("not measuring: {why}"));
    }
    if bulletin.looked.is_none() {
        return Err("it has not looked at everything yet".into());
    }
    match &bulletin.observe_only {
        Some(why) => Err(format!("observe-only: {why}")),
        None => Ok(()),
    }
}
