//! What the agent looks after beside its sagas: a file each.

pub mod approvals;
pub mod breach_log;
pub mod breaches;
pub mod breaker;
pub mod delivery;
pub mod fleet_status;
pub mod gone;
pub mod held;
pub mod joining;
pub mod messages;
pub mod orders;
pub mod remind;
pub mod report;
pub mod resolve;
pub mod review;
pub mod slots;
pub mod sweep;
pub mod unowned;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::{Set, service, set};
