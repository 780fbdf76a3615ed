//! The saga under test: its transitions by tables, its runs by sweeps over every fault and every moment.

mod disks;
mod parties;
mod registers;
mod registries;
pub(crate) mod runbooks;
mod simulation;
mod slots;
mod sweeps;
mod transitions;
