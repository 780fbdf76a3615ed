//! Stories: what happens on a host, played with real components in a lab. One file a story.

#![allow(clippy::disallowed_methods, reason = "stories take place in real time")]

#[path = "../lab/mod.rs"]
mod lab;

mod asking;
mod changes;
mod closed;
mod config;
mod containers;
mod crash;
mod crash_sweep;
mod demo;
mod diagnosis;
mod discover;
mod disk;
mod disk_hangs;
mod double_starts;
mod gentle;
mod guards;
mod half_closed;
mod held;
mod hung;
mod idle;
mod lab_selfcheck;
mod leak;
mod metrics;
mod namespaces;
mod not_helped;
mod operator;
mod orphans;
mod outcomes;
mod page;
mod per_connection;
mod quadlet;
mod readme;
mod redis_py;
mod restarters;
mod review;
mod scan;
mod signals;
mod silent;
mod stopped;
mod traffic;
mod unbelieved;
mod unowned;
