//! Stories: what happens on a host, played with real components in a lab. One file a story.

#![allow(clippy::disallowed_methods, reason = "stories take place in real time")]

#[path = "../lab/mod.rs"]
mod lab;

mod asking;
mod config;
mod containers;
mod crash;
mod demo;
mod disk;
mod guards;
mod idle;
mod lab_selfcheck;
mod leak;
mod namespaces;
mod orphans;
mod scan;
mod signals;
