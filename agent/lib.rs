#![doc = include_str!("README.md")]
#![warn(missing_debug_implementations)]

pub mod attribute;
pub mod clock;
pub mod collect;
pub mod model;
pub mod ports;
