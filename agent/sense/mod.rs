#![doc = include_str!("README.md")]

pub mod arrivals;
pub mod attention;
pub mod pacing;
pub mod sensor;
pub mod unowned;
