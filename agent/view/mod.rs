#![doc = include_str!("README.md")]

pub mod bulletin;
pub mod explanation;
pub mod findings;
pub mod incident;
pub mod request;
pub mod status;
