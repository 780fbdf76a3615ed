//! From signals to decisions: conditions over time, and the guards before action.
//!
//! [`detector`] is pure and sees every tick. [`guards`] may ask the outside world, through ports, and change
//! nothing. [`rehearse`] runs the policies' own tests.

pub mod detector;
pub mod guards;
pub mod rehearse;

#[cfg(test)]
mod tests;
