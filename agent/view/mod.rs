#![doc = include_str!("README.md")]

pub mod bulletin;
pub mod explanation;
pub mod findings;
pub mod fleet;
pub mod hint;
pub mod incident;
pub mod reckoning;
pub mod request;
pub mod review;
pub mod route;
pub mod service;
pub mod services;
pub mod slots;
pub mod sockets;
pub mod status;
pub mod wants;
