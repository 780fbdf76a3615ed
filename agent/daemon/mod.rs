#![doc = include_str!("README.md")]

pub mod agent;
mod beside;
mod board;
pub mod control;
mod deciding;
pub mod duties;
mod event;
pub mod explain;
mod history;
pub mod last_good;
pub mod opening;
mod posting;
mod recover;
mod reload;
mod requests;
pub mod run;

#[cfg(test)]
mod damage_tests;
