//! The saga: the only stage that changes anything on the host or in a registry.
//!
//! ```text
//!            Begin(i)              Act(i)
//!   Ready(i) --------> Acting(i) --------> Ready(i+1) ... --------> Rests(completed)
//!      |    intent        |       done                                  recovered | not_helped
//!      |  (committed)     |
//!      |   failed, interrupted                 failed past the pivot
//!      |   before the pivot                          |
//!      +--------+---------+                          v
//!               v                              Rests(stuck) <---------+
//!          Unwinding --- undo refused ------------->  ^               |
//!               |  each intent undone, newest first   |               |
//!               v                                     |               |
//!         Rests(unwound)             Withdraw --------+   (unhealthy after it was put back:
//!                                       ^                   drained again, then stuck)
//!                                       +---- verify: unhealthy
//! ```
//!
//! - [`saga`] is that drawing as one pure function; [`journal`] commits its events: the intent before the
//!   effect, the outcome after it; [`driver`] does what is to be done next; [`recovery`] goes on from the journal
//!   alone; [`steps`] hold one step each.
//! - Before the pivot any failure unwinds. After the pivot nothing is put into traffic without a passing health
//!   check. Undo and restore never wait for the journal.
//! - Dry-run is another [`world::World`]; no step asks about it.

pub mod crash;
pub mod driver;
pub mod journal;
pub mod recovery;
pub mod resolve;
pub mod saga;
pub mod steps;
pub mod tell;
pub mod world;

#[cfg(test)]
pub mod fakes;
#[cfg(test)]
mod tests;
