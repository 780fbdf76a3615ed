//! Another configuration, put in force while the agent runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::agent::Agent;
use super::beside::Kind;
use super::deciding::ANOTHER;
use super::duties::{approvals, delivery};
use super::event::Event;
use super::last_good;
use crate::config;
use crate::sense::attention::Attention;
use crate::sense::sensor::on_blocking_thread;
use crate::wiring::Wiring;

impl Agent {
    /// Loads the configuration anew, whole or not at all.
    pub(super) fn reload(&mut self) {
        let (dir, former) = (self.config_dir.clone(), self.wiring.clone());
        let reloaded = on_blocking_thread(move || reloaded(&dir, &former));
        self.beside.start(Kind::Reload, async { Event::Reloaded(Box::new(reloaded.await)) });
    }

    /// Not while something is being begun: it takes its slot by the configuration that it was considered by.
    pub(super) fn put_in_force_what_waits(&mut self) {
        if !self.beside.is_under_way(&Kind::Beginning)
            && let Some(wiring) = self.waits.take()
        {
            self.put_in_force(wiring);
        }
    }

    fn put_in_force(&mut self, mut wiring: Wiring) {
        wiring.tally = Arc::clone(&self.wiring.tally);
        self.detector.keep_unchanged(&self.wiring.config.policies, &wiring.config.policies);
        self.attention = Attention::new(&wiring.config);
        self.wiring = wiring;
        self.configuration += 1;
        self.wiring.follow_fleet(&self.store, self.sagas.is_empty());
        self.delivery = delivery::Delivery::start(delivery::of(&self.wiring, &self.store));
        self.open_board();
        approvals::withdraw(&self.wiring, &self.store);
        // New adapters hold the drains that they find.
        self.sweep_due = Duration::ZERO;
        self.held.clear();
        // What the former one asked for is considered anew at the next look.
        self.to_begin.drain(..).for_each(|waiting| waiting.put_off(ANOTHER));
        self.keep_last_good();
        tracing::info!(policies = self.wiring.config.policies.len(), "a new configuration is in force");
    }

    /// Where one is being kept, its end begins the next.
    pub(super) fn keep_last_good(&mut self) {
        let (dir, state) = (self.config_dir.clone(), self.wiring.config.host.state.clone());
        let (configuration, kept) = (self.configuration, on_blocking_thread(move || last_good::keep(&dir, &state)));
        self.beside.start(Kind::LastGood, async move {
            kept.await;
            Event::Kept(configuration)
        });
    }
}

/// The configuration as its files have it now, with its adapters.
///
/// # Errors
/// In words for the log; the one in force stays.
fn reloaded(dir: &Path, former: &Wiring) -> Result<Wiring, String> {
    let config = config::load(dir)
        .map_err(|diagnostics| format!("the configuration cannot be read; the one in force stays:\n{diagnostics}"))?;
    if config.host.state != former.config.host.state {
        return Err("`state` cannot be changed while the agent runs; the configuration in force stays".into());
    }
    Wiring::new(config, former.host.clone(), Some(former))
        .map_err(|error| format!("the configuration cannot be put in force; the one before stays: {error}"))
}
