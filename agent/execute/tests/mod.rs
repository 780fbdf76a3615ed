//! The saga under test: its transitions by tables, its runs by sweeps over every fault and every moment.

mod clients;
mod disks;
mod failovers;
mod failures;
mod gentle;
mod parties;
mod registers;
mod registries;
mod resolving;
pub(crate) mod run;
pub(crate) mod runbooks;
mod simulation;
mod slots;
mod sweeps;
mod transitions;
mod words;
