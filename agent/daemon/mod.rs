#![doc = include_str!("README.md")]

pub mod agent;
mod beside;
mod board;
pub mod check;
pub mod control;
mod deciding;
pub mod duties;
mod ending;
mod event;
pub mod explain;
mod history;
pub mod last_good;
pub mod opening;
mod posting;
mod recover;
mod reload;
mod reloads;
mod requests;
pub mod route;
pub mod run;
mod scribe;
pub mod service_manager;
mod services;
mod slots;

#[cfg(test)]
pub(crate) mod damage_tests;
#[cfg(test)]
mod deciding_tests;
