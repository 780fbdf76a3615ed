//! The page of an incident that has ended, beside its evidence.

use crate::model::IncidentId;
use crate::report::incident::{self, Material};
use crate::store::{StateDir, Store};
use crate::wiring::Wiring;

/// Writes it; an incident without evidence has none. Blocks on the disk.
pub fn put_beside_the_evidence(wiring: &Wiring, store: &Store, incident: &IncidentId) {
    // The last measurements belong to it.
    store.write_samples();
    let put = match Material::of(store, &StateDir::evidence_of(&wiring.config.host.state), incident) {
        Ok(Some(material)) if material.evidence.is_ok() => {
            wiring.vault.put_report(incident, &incident::page(&material)).map_err(|error| error.to_string())
        }
        Ok(_) => return,
        Err(error) => Err(error.to_string()),
    };
    match put {
        Ok(path) => {
            tracing::info!(%incident, path = %path.display(), "wrote the report of incident {incident} to {}", path.display())
        }
        Err(error) => tracing::warn!(
            %incident,
            error,
            "cannot write the report of incident {incident} beside its evidence: {error}; `unwait show {incident} --html` \
             prints it",
        ),
    }
}
