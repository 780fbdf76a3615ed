#![doc = include_str!("README.md")]
#![warn(missing_debug_implementations)]

pub mod clock;
pub mod command;
pub mod evidence;
pub mod model;
pub mod ports;
