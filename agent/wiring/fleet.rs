//! Which store of the fleet's is asked.
//!
//! A slot is given back where it was taken: under another address, group or id nobody knows of it, and where it was taken it
//! would keep all other hosts from the service for good. So where the host's file names another store, or the same one
//! otherwise, the former is asked for everything until it has back what this host holds, or may. It is noted in the agent's own
//! store, since the file may change while no agent runs.

use std::sync::Arc;

use super::{Wiring, adapters};
use crate::config::FleetConfig;
use crate::ports::around_fleet;
use crate::store::{Store, StoreError};

/// The one that is asked for now. `idle`: no saga is under way that asks the former.
pub fn in_force(named: Option<&FleetConfig>, store: &Store, idle: bool) -> Result<Option<FleetConfig>, StoreError> {
    let may_change = idle && !store.notes_a_slot()?;
    let taken_in = store.fleet_of_slots()?.and_then(|text| serde_json::from_str(&text).ok());
    Ok(match taken_in {
        Some(taken_in) if !may_change => taken_in,
        _ => named.cloned(),
    })
}

impl Wiring {
    /// Asks the store that the host's file names, or the former for as long as that holds something of ours; and notes which.
    /// True where another one is asked from now on than before.
    pub(crate) fn follow_fleet(&mut self, store: &Store, idle: bool) -> bool {
        if self.fleet_is_settled {
            return false;
        }
        let followed = in_force(self.named_fleet.as_ref(), store, idle).and_then(|fleet| {
            let text = serde_json::to_string(&fleet).expect("a configuration is plain data");
            if store.fleet_of_slots()?.as_ref() != Some(&text) {
                store.note_fleet(&text)?;
            }
            Ok(fleet)
        });
        self.fleet_is_settled = followed.as_ref().is_ok_and(|fleet| *fleet == self.named_fleet);
        match followed {
            Ok(fleet) if fleet == self.config.host.fleet => return false,
            Ok(fleet) => {
                if fleet == self.named_fleet {
                    tracing::info!(
                        "the change of `fleet` is complete: this host holds no slot in the former store any more, and uses the new one \
                         from now on",
                    );
                } else {
                    tracing::warn!(
                        "`fleet` was changed while this host holds a slot, or may hold one: the former fleet store is \
                         used until that slot is given back",
                    );
                }
                self.ask_fleet(fleet);
                return true;
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cannot read or store which fleet store this host's slots are in: {error}; the present fleet store \
                     stays in use",
                )
            }
        }
        false
    }

    /// The same store is named as before.
    pub(crate) fn keep_fleet_of(&mut self, former: &Self) {
        self.fleet_is_settled = former.fleet_is_settled && former.named_fleet == self.named_fleet;
    }

    /// From now on everything is asked of this store. One that cannot be made is not asked, and says so where a slot waits for it.
    pub fn ask_fleet(&mut self, fleet: Option<FleetConfig>) {
        let made = fleet.as_ref().map(|config| adapters::fleet(config, &self.host, &self.shared)).transpose();
        let adapter = made.unwrap_or_else(|error| {
            tracing::error!(
                %error,
                "the fleet store is unavailable: {error}; policies with `fleet_slots` or `common_cause` are held",
            );
            None
        });
        self.ports.fleet = adapter.map(around_fleet);
        Arc::make_mut(&mut self.config).host.fleet = fleet;
    }
}
