#![doc = include_str!("README.md")]
#![warn(missing_debug_implementations)]

pub mod clock;
pub mod decide;
pub mod execute;
pub mod measure;
pub mod model;
pub mod ports;
pub mod store;
