#![doc = include_str!("README.md")]

pub mod caution;
pub mod census;
pub mod duration;
pub mod incident;
pub mod leaked;
pub mod message;
pub mod mode;
pub mod moment;
pub mod plan;
pub mod policy;
pub mod policy_test;
pub mod reason;
pub mod redis;
pub mod registry;
pub mod runbook;
pub mod sample;
pub mod service;
pub mod signal;
pub mod socket;
pub mod tls;
pub mod window;
pub mod words;

pub use caution::Caution;
pub use census::{Census, Owner, ServiceCensus};
pub use incident::{IncidentId, Marker, Outcome, Trigger};
pub use leaked::{Holder, Leaked, Remaining, SocketId};
pub use message::{EventKind, Message};
pub use mode::{HeldMode, Mode, ModeCeiling};
pub use plan::{Plan, PlannedStep, Target};
pub use policy::{Comparison, Condition, Policy, Truth};
pub use policy_test::{Expect, Expected, PolicyTest};
pub use reason::Reason;
pub use redis::{RedisAddress, RedisAt, RedisServers};
pub use registry::{
    ConsulScope, EtcdLayout, ExecHook, Having, HttpCall, HttpCount, HttpHook, IncludesUs, NacosApi, NacosLayout,
    Ourselves, RedisLayout, RedisProfile, StandsAt,
};
pub use runbook::{Effect, Runbook, Step};
pub use sample::{Sample, Spread};
pub use service::{Incarnation, ServiceName, Worker};
pub use signal::{Reading, Readings, Signal};
pub use socket::{Brief, Connection, Detail, Direction, Group, Listener, NetNs, Snapshot, Socket, TableRow};
pub use tls::Tls;
pub use window::Window;
