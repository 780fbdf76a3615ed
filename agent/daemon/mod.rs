#![doc = include_str!("README.md")]

pub mod agent;
mod board;
pub mod control;
pub mod duties;
pub mod explain;
mod history;
pub mod last_good;
mod opening;
mod recover;
pub mod run;

#[cfg(test)]
mod damage_tests;
