#![doc = include_str!("README.md")]
#![warn(missing_debug_implementations)]

pub mod attribute;
pub mod cli;
pub mod clock;
pub mod collect;
pub mod command;
pub mod config;
pub mod crash;
pub mod daemon;
pub mod decide;
pub mod evidence;
pub mod execute;
pub mod measure;
pub mod model;
pub mod ports;
pub mod report;
pub mod sense;
pub mod serve;
pub mod store;
pub mod trust;
pub mod view;
pub mod wiring;
