//! What of the looks goes into the signals' history.

use crate::model::Reading;
use crate::sense::sensor::Look;
use crate::store::Store;

/// The signals' history takes every look at everything; one that could not be trusted as unknown.
pub fn record(store: &Store, look: &Look) {
    if look.passed_over.namespaces > 0 {
        return;
    }
    let measured = &look.measurements;
    let host = match measured.untrusted {
        Some(_) => Reading::Unknown,
        None => Reading::Known(look.host_close_wait as f64),
    };
    let services: Vec<_> = measured.services().collect();
    store.record(measured.at, measured.monotonic, host, services.into_iter());
}
