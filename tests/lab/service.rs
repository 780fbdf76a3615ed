//! The story's service, `rpc-order.service`: 96 pre-forked PHP workers with three idle connections each to
//! the Redis server behind them. `rpc-order.php` is the service; this lays down how it is to behave.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::closewait::close_wait_of;
use super::deadline::wait_until_seen;
use super::net::loopback;
use super::{Consul, Lab, Redis};

pub const UNIT: &str = "rpc-order.service";
pub const PORT: u16 = 7801;
const TWIN_PORT: u16 = 7802;
pub const WORKERS: usize = 96;
/// 96 workers with three connections each.
pub const LEAKED: usize = WORKERS * 3;
/// Of [`Behaviour::SomeWorkersLeak`].
pub const WORKERS_THAT_LEAK: usize = 12;

/// What the service does at its starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Never leaks.
    Sound,
    /// Leaks until it has been restarted once.
    LeakUntilRestarted,
    /// Leaks again after every start.
    LeakAlways,
    /// Leaks; once restarted it runs but does not listen, for ever.
    LeakThenSick,
    /// Some of the workers that it starts with leak; those that take their place do not.
    SomeWorkersLeak,
}

/// The service in its lab.
pub struct RpcOrder<'lab> {
    lab: &'lab Lab,
    directory: PathBuf,
}

/// Where [`RpcOrder::start_twin`] answers.
pub fn twin_address() -> SocketAddr {
    loopback(TWIN_PORT)
}

impl<'lab> RpcOrder<'lab> {
    /// Starts it and returns when it answers PING.
    pub fn start(lab: &'lab Lab, redis: &Redis, behaviour: Behaviour) -> Self {
        let service = Self { lab, directory: lab.dir().join("rpc-order") };
        fs::create_dir(&service.directory).expect("the lab's directory is writable");
        service.behave(behaviour);
        service.start_as(UNIT, PORT, redis.port());
        service.wait_for_pong();
        service
    }

    /// Starts the same program a second time, beside the first, under another unit's name and on a port of its own.
    pub fn start_twin(&self, unit: &str, redis_port: u16, behaviour: Behaviour) {
        let twin = Self { lab: self.lab, directory: self.lab.dir().join("twin") };
        fs::create_dir(&twin.directory).expect("the lab's directory is writable");
        twin.behave(behaviour);
        twin.start_as(unit, TWIN_PORT, redis_port);
    }

    fn start_as(&self, unit: &str, port: u16, redis_port: u16) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/rpc-order.php");
        let directory = self.directory.display();
        self.lab.add_unit(
            unit,
            &format!(
                "[Service]\n\
                 ExecStart=/usr/bin/php {script} {directory} {port} {WORKERS} {redis_port}\n\
                 KillMode=control-group\n\
                 TimeoutStopSec=10\n"
            ),
        );
        self.lab.start_unit(unit);
    }

    /// Decides how the next starts behave, instead of what was decided before.
    pub fn behave(&self, behaviour: Behaviour) {
        let markers: &[&str] = match behaviour {
            Behaviour::Sound => &[],
            Behaviour::LeakUntilRestarted => &["leak"],
            Behaviour::LeakAlways => &["leak-always"],
            Behaviour::LeakThenSick => &["leak", "sick"],
            Behaviour::SomeWorkersLeak => &["leak-some"],
        };
        for marker in ["leak", "leak-always", "leak-some", "sick"] {
            let path = self.directory.join(marker);
            if markers.contains(&marker) {
                fs::write(&path, WORKERS_THAT_LEAK.to_string()).expect("the lab's directory is writable");
            } else if path.exists() {
                fs::remove_file(&path).expect("the lab's directory is writable");
            }
        }
    }

    /// Makes it register itself with Consul at each start from now on.
    pub fn register_at_start(&self, consul: &Consul, registration: &Value) {
        let order = format!("{}/v1/agent/service/register\n{registration}", consul.url());
        fs::write(self.directory.join("register"), order).expect("the lab's directory is writable");
    }

    pub fn address(&self) -> SocketAddr {
        loopback(PORT)
    }

    /// Whether it answers PING now.
    pub fn answers(&self) -> bool {
        self.lab.network().redis_ping(self.address()).unwrap_or(false)
    }

    /// One lifetime of the service: systemd gives each its own id.
    pub fn invocation_id(&self) -> String {
        self.lab.show(UNIT, "InvocationID")
    }

    pub fn close_wait(&self) -> usize {
        close_wait_of(self.lab, UNIT)
    }

    /// Waits until every connection that it will leak is in CLOSE_WAIT.
    pub fn wait_for_leak(&self) {
        wait_until_seen("the leak", Duration::from_secs(30), || match self.close_wait() {
            LEAKED => Ok(()),
            count => Err(format!("{count} of {LEAKED} in CLOSE_WAIT")),
        });
    }

    pub fn wait_for_pong(&self) {
        wait_until_seen("rpc-order to answer PING", Duration::from_secs(10), || {
            if self.answers() { Ok(()) } else { Err(self.lab.journal(UNIT)) }
        });
    }
}
