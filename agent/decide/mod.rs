#![doc = include_str!("README.md")]

pub mod detector;
pub mod escalation;
pub mod guards;
pub mod inaction;
pub mod possible;
pub mod rehearse;
pub mod replay;

#[cfg(test)]
mod tests;
