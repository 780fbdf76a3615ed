//! A real redis-server that closes idle connections: the peer that the leaking service does not hear.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::Lab;
use super::deadline::wait_until_seen;
use super::installed::redis_server;
use super::net::loopback;

pub const UNIT: &str = "redis.service";

/// The running server. It lives as long as the lab.
pub struct Redis<'lab> {
    lab: &'lab Lab,
    port: u16,
}

impl<'lab> Redis<'lab> {
    /// Starts a server that closes a connection after `timeout_seconds` without a command, and returns when
    /// it answers. It keeps nothing.
    pub fn start(lab: &'lab Lab, port: u16, timeout_seconds: u32) -> Self {
        let program = lab.dir().join("redis-server");
        symlink(redis_server(), &program).expect("the lab's directory is writable");
        let program = program.display();
        let options = format!("--bind 127.0.0.1 --save '' --appendonly no --dir {}", lab.dir().display());
        lab.add_unit(
            UNIT,
            &format!(
                "[Service]\n\
                 ExecStart={program} --port {port} --timeout {timeout_seconds} {options}\n"
            ),
        );
        lab.start_unit(UNIT);
        let redis = Self { lab, port };
        wait_until_seen("redis-server to answer", Duration::from_secs(10), || {
            match lab.network().redis_ping(redis.address()) {
                Ok(true) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        redis
    }

    pub fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn stop(&self) {
        self.lab.stop_unit(UNIT);
    }
}
