//! What stands in the journal of a service as it was before its drain.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::execute::world::ByBinding;
use crate::model::Incarnation;
use crate::ports::registry::{Registration, Traffic};

/// What was there before the drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Preimage {
    pub registrations: ByBinding<Registration>,
    /// The lifetime that is drained; putting back needs it still there.
    pub incarnation: Option<Incarnation>,
    /// Did the probe pass? Putting back needs it no less healthy.
    pub healthy: bool,
}

/// Did it fail its check in one of its registries when it was drained?
pub fn failed_its_check(preimage: &Value) -> bool {
    let preimage: Result<Preimage, _> = serde_json::from_value(preimage.clone());
    let registrations = preimage.map(|preimage| preimage.registrations).unwrap_or_default();
    registrations.values().any(|registration| registration.traffic == Traffic::Failing)
}
