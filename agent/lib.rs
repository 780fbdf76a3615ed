#![doc = include_str!("README.md")]
#![warn(missing_debug_implementations)]

pub mod clock;
pub mod config;
pub mod model;
pub mod ports;
