//! The doors to the outside: a trait each, and its adapters beside it.
//!
//! The stages know the traits; the adapters are known to the wiring (`app`) alone. Every call ends by a
//! deadline, every error is free of secrets, and every write is read back by the adapter before it says yes.

mod consul;
pub mod fleet;
mod http;
pub mod notifier;
pub mod probe;
pub mod registry;
pub mod restarter;

#[cfg(test)]
mod testing_consul;
