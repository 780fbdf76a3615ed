//! Stories: what happens on a host, played with real components in a lab. One file a story.

#[path = "../lab/mod.rs"]
mod lab;

mod lab_selfcheck;
