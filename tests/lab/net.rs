//! Sockets inside the lab's network namespace, opened from the test.
//!
//! A socket belongs to the namespace in which it was opened, whoever uses it later. So a short-lived thread
//! enters the namespace, opens it and hands it out; the test's own threads never change theirs.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// How long one answer of a component on loopback may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A lab's network namespace.
pub struct Network(File);

impl Network {
    /// The namespace of the process `pid`.
    pub fn of(pid: i32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/ns/net")).map(Self)
    }

    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.within(|| TcpStream::connect_timeout(&to, ANSWER_WITHIN))?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        Ok(stream)
    }

    pub fn listen(&self, on: SocketAddr) -> io::Result<TcpListener> {
        self.within(|| TcpListener::bind(on))
    }

    /// Sends the Redis protocol's inline PING and says whether PONG came back.
    pub fn redis_ping(&self, to: SocketAddr) -> io::Result<bool> {
        let mut stream = self.connect(to)?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"+PONG\r\n")
    }

    fn within<T: Send>(&self, open: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.0, CloneFlags::CLONE_NEWNET)?;
                    open()
                })
                .join()
                .expect("opening a socket does not panic")
        })
    }
}

/// A port on the lab's loopback.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
