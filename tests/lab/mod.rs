//! The lab: a machine for one test, with real components in it.
//!
//! A [`Lab`] is a systemd of its own in namespaces of its own; Consul, Redis and the story's service run
//! in it as units. The stories use it to play what happens on a production host. Only [`agent`], [`cast`], [`gate`], [`quick`]
//! and [`stage`] know the agent, and nothing here retries or skips: what does not come in time is a panic that says what was
//! awaited and what was seen last.

pub mod agent;
pub mod cast;
pub mod closewait;
pub mod consul;
pub mod deadline;
pub mod disk;
pub mod docker;
pub mod gate;
pub mod http;
pub mod installed;
mod keeper;
pub mod namespace;
pub mod net;
pub mod promtool;
pub mod quick;
pub mod redis;
pub mod service;
pub mod shop;
pub mod spawned;
pub mod stage;
pub mod systemd;
pub mod tmux;
pub mod webhook;

pub use consul::Consul;
pub use disk::{Disk, HangingDisk};
pub use docker::Docker;
pub use namespace::Room;
pub use redis::Redis;
pub use service::{Behaviour, RpcOrder};
pub use spawned::Spawned;
pub use stage::Stage;
pub use systemd::Lab;
pub use webhook::Webhook;
