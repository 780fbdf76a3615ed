#![doc = include_str!("README.md")]

pub mod detector;
pub mod guards;
pub mod rehearse;
mod windows;

#[cfg(test)]
mod tests;
