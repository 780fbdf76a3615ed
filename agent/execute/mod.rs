#![doc = include_str!("README.md")]

pub mod driver;
pub mod journal;
mod judge;
pub mod recovery;
pub mod resolve;
pub mod saga;
pub mod seen;
pub mod steps;
pub mod tell;
pub mod world;
pub mod would;

#[cfg(test)]
pub mod fakes;
#[cfg(test)]
pub(crate) mod tests;
